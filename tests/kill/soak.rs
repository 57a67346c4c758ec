//! Agents die at random instants while much is asked of them.
//!
//! ```text
//!   clients ── create, start, stop, restart, delete, replace ──▶ agent ── killed ──▶ the next ─┐
//!      ▲                                                           sometimes at its start, too │
//!      └────── every VM is in a state that its answers allow; nothing is nobody's ◀────────────┘
//! ```
//!
//! A request that was answered has counted; one that was not may have.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use inn_tests::wait;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::audit;
use crate::case::{unsettled, until_clean};
use crate::ground::{Ground, Runtime};

const CLIENTS: u64 = 4;
const VMS_OF_EACH: u64 = 5;
const LIVES: u64 = 12;

/// From an agent's first answer to its death, at most.
const LIFE_MS: u64 = 600;

/// Of the lives, so many of ten also end once before they serve.
const STILLBORN: u64 = 4;
const BIRTH_MS: u64 = 250;

/// After each death.
const CONVERGES: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Is {
    Absent,
    Stopped,
    Running,
}

/// What a VM may be, by all that was answered.
type May = BTreeMap<String, BTreeSet<Is>>;

/// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number
/// generators, 2014).
#[derive(Clone)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// The seed is in every failure's message; what is asked is the same again,
/// when it arrives is not.
pub(crate) fn run(seed: Option<u64>) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seed = seed.unwrap_or_else(|| u64::from(now.subsec_nanos()));
    println!("soak: --seed {seed}");
    let soaked = std::panic::catch_unwind(|| soak(seed));
    if let Err(panic) = soaked {
        eprintln!("soak: repeat it with --seed {seed}");
        std::panic::resume_unwind(panic);
    }
}

fn soak(seed: u64) {
    let ground = Ground::new(Runtime::Sim, None);
    let mut random = Random(seed);
    let mut clients: Vec<(Random, May)> = (0..CLIENTS)
        .map(|client| {
            let names = (0..VMS_OF_EACH).map(|n| format!("vm-{client}-{n}"));
            let may = names.map(|name| (name, BTreeSet::from([Is::Absent]))).collect();
            (Random(random.next()), may)
        })
        .collect();
    let mut seen = BTreeSet::new();
    for life in 0..LIVES {
        ground.start();
        let dead = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for (random, may) in &mut clients {
                let (ground, dead) = (&ground, &dead);
                scope.spawn(move || ask_until(dead, ground, random, may));
            }
            pass(random.below(LIFE_MS));
            ground.host.kill_agent();
            dead.store(true, Ordering::Relaxed);
        });
        seen.extend(audit::ids_of_files(&ground));
        if random.below(10) < STILLBORN {
            let agent = ground.start_armed("");
            pass(random.below(BIRTH_MS));
            agent.signal(Signal::KILL);
            agent.wait(wait::PATIENCE);
        }
        ground.start();
        check(&ground, &mut clients, &seen, seed, life);
        ground.host.kill_agent();
    }
    ground.start();
    until_clean(&ground, &seen, "at last");
    ground.host.finish();
}

fn pass(ms: u64) {
    wait::within(Duration::from_millis(ms), || None::<()>);
}

fn ask_until(dead: &AtomicBool, ground: &Ground, random: &mut Random, may: &mut May) {
    let names: Vec<String> = may.keys().cloned().collect();
    while !dead.load(Ordering::Relaxed) {
        let name = &names[usize::try_from(random.below(VMS_OF_EACH)).unwrap_or(0)];
        let may = may.get_mut(name).unwrap();
        let vm = |rest: &str| format!("/api/vms/{name}{rest}");
        // Some wait for what comes of it, and some do not.
        let wait = if random.below(2) == 0 { "" } else { "?wait=5s" };
        // Without a key: the same is asked again, and to be carried out again.
        let create = |more: Value| {
            let body = ground.create_body(name, &more).to_string();
            ground.send("POST", &format!("/api/vms{wait}"), body.as_bytes())
        };
        let post = |verb: &str| ground.send("POST", &vm(&format!("/{verb}{wait}")), b"");
        let (answer, becomes) = match random.below(8) {
            0..=2 => (create(json!({})), Is::Running),
            // At no instant there is neither the old one nor the new one.
            3 => (create(json!({ "replace": true })), Is::Running),
            4 => (post("start"), Is::Running),
            5 => (post("stop"), Is::Stopped),
            6 => (post("restart"), Is::Running),
            _ => (ground.send("DELETE", &vm(wait), b""), Is::Absent),
        };
        match answer {
            Some(answer) if answer.is_success() => *may = BTreeSet::from([becomes]),
            // Refused: it was not there, is there already, or is on its way out.
            Some(answer) => assert!(answer.status < 500, "{}: {answer:?}", answer.status),
            None => {
                may.insert(becomes);
            }
        }
    }
}

fn check(
    ground: &Ground,
    clients: &mut [(Random, May)],
    seen: &BTreeSet<String>,
    seed: u64,
    life: u64,
) {
    let at = format!("seed {seed}, life {life}");
    let settled = wait::within(CONVERGES, || unsettled(&ground.vms()).is_empty().then_some(()));
    let vms = ground.vms();
    if settled.is_none() {
        panic!("{}\n{at}: {:?}", ground.last_words(), unsettled(&vms));
    }
    for (_, may) in clients.iter_mut() {
        for (name, may) in may {
            let vm = vms.iter().find(|vm| vm["name"] == name.as_str());
            let is = match vm.and_then(|vm| vm["phase"].as_str()) {
                None => Is::Absent,
                Some("running") => Is::Running,
                _ => Is::Stopped,
            };
            if !may.contains(&is) {
                panic!(
                    "{}\n{at}: {name} may be {may:?}, and is {is:?}: {vm:?}",
                    ground.last_words()
                );
            }
            *may = BTreeSet::from([is]);
        }
    }
    until_clean(ground, seen, &at);
}
