//! Clones of one saved machine become machines of their own: the resume
//! protocol with real guests. Needs what `guests` names.

#![allow(clippy::unwrap_used, reason = "clippy takes a test's own functions for no tests")]

mod guests;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use guests::{Guests, PATIENCE};
use inn_guest_session::{
    GuestAddressing, GuestNetwork, GuestNetwork6, GuestResume, GuestSession, GuestSetup, Piece,
    ReadSpec, ResumeReport, ResumeStep, ResumeStepKind, StepResult,
};
use inn_units::VmId;
use inn_vmm::conformance::Place;
use inn_vmm::{ChannelKind, Machine, MachineConfig, Nic, NicBackend};
use inn_vmm_qemu::QemuMachine;

/// A guest's clock may lag behind by what its answer takes on a busy host.
const CLOCK: Duration = Duration::from_secs(2);

const CLONES: u8 = 4;

/// At once, each with its own.
const CLONES_ALIVE: u8 = 16;

fn config(guests: &Guests, place: &Place, id: u8) -> MachineConfig {
    let nic = Nic { mac: [2, 0, 0, 0, 0, 0xff], backend: NicBackend::Nothing };
    MachineConfig { id: VmId::from_bytes([id; 5]), nic: Some(nic), ..guests.agent(place.path()) }
}

/// Machines at once, and how many hosts each has, one after another.
const CROWD: u8 = 3;
const HOSTS: usize = 100;
const BETWEEN: Duration = Duration::from_millis(30);

/// Nobody waits so long but for an answer that never comes.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// Connects as often as it takes for the guest to greet.
async fn session(machine: &QemuMachine) -> GuestSession {
    let meeting = async {
        loop {
            let met = async {
                let stream = machine.connect_channel().await.map_err(|error| error.to_string())?;
                GuestSession::establish(stream).await.map_err(|error| error.to_string())
            };
            match met.await {
                Ok(session) => return session,
                Err(error) => {
                    println!("not yet: {error}");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    };
    tokio::time::timeout(PATIENCE, meeting).await.expect("the guest greets")
}

async fn read(session: &GuestSession, path: &str) -> String {
    let mut reader = session.read_file(path, ReadSpec::default()).await.unwrap();
    let mut text = Vec::new();
    while let Some(piece) = reader.next().await.unwrap() {
        match piece {
            Piece::Data(data) => text.extend_from_slice(&data),
            Piece::Hole(_) => panic!("nobody asked for holes"),
        }
    }
    String::from_utf8(text).unwrap().trim().to_owned()
}

/// What each step took, in microseconds.
fn times(report: &ResumeReport) -> String {
    let step = |step: &ResumeStep| format!("{:?} {}", step.kind, step.took.as_micros());
    let steps: Vec<String> = report.steps.iter().map(step).collect();
    let all: Duration = report.steps.iter().map(|step| step.took).sum();
    format!("{} us: {}", all.as_micros(), steps.join(", "))
}

fn ipv6(id: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, id.into())
}

fn own(id: u8, clock: SystemTime) -> GuestResume {
    GuestResume {
        entropy: vec![id; 64],
        mac: Some([2, 0, 0, 0, 0, id]),
        setup: GuestSetup {
            hostname: format!("clone-{id}"),
            machine_id: format!("{id:032x}"),
            network: Some(GuestAddressing::Static(GuestNetwork {
                address: Ipv4Addr::new(10, 9, 0, id),
                prefix: 24,
                gateway: Some(Ipv4Addr::new(10, 9, 0, 254)),
                dns: vec![Ipv4Addr::new(10, 9, 0, 254)],
                ipv6: Some(GuestNetwork6 {
                    address: ipv6(id),
                    prefix: 64,
                    gateway: Some(ipv6(254)),
                }),
            })),
            clock: Some(clock),
            ..GuestSetup::default()
        },
        hooks: Duration::from_secs(10),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clones_become_machines_of_their_own() {
    let name = "clones become machines of their own";
    let Some(guests) = Guests::for_test(name, ChannelKind::Serial) else { return };
    let parent_place = Place::new();
    let parent = parent_place.launch(&guests.runtime, &config(&guests, &parent_place, 100)).await;
    let met = session(&parent).await;
    met.resume(own(100, SystemTime::now())).await.unwrap();
    let has_local = async {
        // The kernel makes it once its card has a carrier.
        while !read(&met, "/proc/net/if_inet6").await.contains("fe80") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, has_local).await.expect("a link has an address of its own");
    drop(met);
    parent.pause().await.unwrap();
    let saved = parent.save().await.unwrap();

    let places: Vec<Place> = (0..CLONES).map(|_| Place::new()).collect();
    let (mut clones, mut seen) = (Vec::new(), BTreeSet::new());
    for (place, id) in places.iter().zip(1..) {
        let config = MachineConfig { from: Some(saved.clone()), ..config(&guests, place, id) };
        let clone = place.launch(&guests.runtime, &config).await;
        clone.resume().await.unwrap();
        let session = session(&clone).await;
        let report = session.resume(own(id, SystemTime::now())).await.unwrap();
        println!("clone {id}, cold: {}", times(&report));
        assert_eq!(report.failure(), None);
        // As from a pool, whose machines have done it before: an emulated CPU
        // has to translate everything once.
        let mut report = report;
        for as_whom in [id + 10, id + 20, id] {
            report = session.resume(own(as_whom, SystemTime::now())).await.unwrap();
            assert_eq!(report.failure(), None);
            println!("clone {id}, warm: {}", times(&report));
        }
        let secrets = report.steps.iter().find(|step| step.kind == ResumeStepKind::Secrets);
        assert!(matches!(secrets.unwrap().result, StepResult::Skipped(_)));
        let hooks = report.steps.last().unwrap();
        assert_eq!(hooks.kind, ResumeStepKind::Hooks);
        assert!(matches!(&hooks.result, StepResult::Skipped(why) if why.contains("resume.d")));

        let asked = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let told = session.telemetry().await.unwrap();
        assert!(told.clock + CLOCK > asked && told.clock < asked + PATIENCE, "{told:?}");
        assert_eq!(told.hostname, format!("clone-{id}"));
        assert_eq!(read(&session, "/etc/machine-id").await, format!("{id:032x}"));
        let card = told.interfaces.iter().find(|card| card.name != "lo").unwrap();
        assert_eq!(card.mac, Some([2, 0, 0, 0, 0, id]));
        let ip4: Vec<_> = card.addresses.iter().filter(|(ip, _)| ip.is_ipv4()).collect();
        assert_eq!(ip4, [&(IpAddr::V4(Ipv4Addr::new(10, 9, 0, id)), 24)], "its parent's is gone");
        let own6 = |ip: &IpAddr| matches!(ip, IpAddr::V6(ip) if ip.segments()[0] == 0xfd00);
        let ip6: Vec<_> = card.addresses.iter().filter(|(ip, _)| own6(ip)).collect();
        assert_eq!(ip6, [&(IpAddr::V6(ipv6(id)), 64)], "its parent's is gone");
        // Of its MAC (RFC 4291, appendix A), and no other.
        let all = read(&session, "/proc/net/if_inet6").await;
        let locals: Vec<&str> = all
            .lines()
            .filter_map(|line| line.get(..32)?.strip_prefix("fe80000000000000"))
            .collect();
        assert_eq!(locals, [format!("000000fffe0000{id:02x}")], "its parent's is gone: {all}");
        // A random UUID, by the generator that serves getrandom(2).
        assert!(seen.insert(read(&session, "/proc/sys/kernel/random/uuid").await), "{seen:?}");
        clones.push(clone);
    }

    // The parent goes on as what it is, and hears its agent.
    parent.resume().await.unwrap();
    let met = session(&parent).await;
    assert_eq!(met.telemetry().await.unwrap().hostname, "clone-100");
    drop(met);

    // Nothing is done after what could not be.
    let met = session(&clones[0]).await;
    let little = GuestResume { entropy: vec![1; 8], ..own(101, SystemTime::now()) };
    let report = met.resume(little).await.unwrap();
    assert_eq!(report.steps.len(), 1);
    assert_eq!(report.failure().unwrap().0, ResumeStepKind::Entropy);
    assert_eq!(met.telemetry().await.unwrap().hostname, "clone-1");
    for machine in clones.iter().chain([&parent]) {
        machine.kill().await.unwrap();
    }
}

/// How long a parent stands still for its clones and what each of them takes,
/// said for whoever looks: how fast is no test's to judge.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_of_clones_shares_its_parents_memory() {
    let name = "a crowd of clones shares its parent's memory";
    let Some(guests) = Guests::for_test(name, ChannelKind::Serial) else { return };
    let parent_place = Place::new();
    let parent = parent_place.launch(&guests.runtime, &config(&guests, &parent_place, 100)).await;
    drop(session(&parent).await);
    let mut times = Vec::new();
    let mut time = |what: &'static str, from: Instant| times.push((what, from.elapsed()));
    for _ in 0..5 {
        let at = Instant::now();
        parent.pause().await.unwrap();
        time("pause", at);
        let at = Instant::now();
        parent.resume().await.unwrap();
        time("resume", at);
    }
    let at = Instant::now();
    let ahead = parent.save_ahead().await.unwrap();
    time("what is saved ahead", at);
    let at = Instant::now();
    parent.pause().await.unwrap();
    let saving = Instant::now();
    let saved = parent.save_after(ahead).await.unwrap();
    time("save", saving);
    parent.resume().await.unwrap();
    time("all of the time that it stood still", at);
    println!("parent: {times:?}");
    let used = saved.memory.as_ref().unwrap().metadata().unwrap().blocks() / 2048;
    println!("{used} MiB of its memory are in use, {} KiB of state", kib(&saved.state));

    let places: Vec<Place> = (0..CLONES_ALIVE).map(|_| Place::new()).collect();
    let mut clones = Vec::new();
    for (place, id) in places.iter().zip(1..) {
        let config = MachineConfig { from: Some(saved.clone()), ..config(&guests, place, id) };
        let clone = place.launch(&guests.runtime, &config).await;
        clone.resume().await.unwrap();
        let met = session(&clone).await;
        assert_eq!(met.resume(own(id, SystemTime::now())).await.unwrap().failure(), None);
        clones.push(clone);
    }
    let alive: Vec<u64> = clones.iter().map(|clone| pss_kib(clone.identity().pid)).collect();
    let mean = alive.iter().sum::<u64>() / alive.len() as u64;
    println!("{} clones alive: {mean} KiB (PSS) each", alive.len());
    // As much as each of them has in use is there once, and not for each.
    assert!(mean < used * 1024, "{mean} KiB each, and {used} MiB are in use: {alive:?}");
    for machine in clones.iter().chain([&parent]) {
        machine.kill().await.unwrap();
    }
}

fn kib(file: &std::fs::File) -> u64 {
    file.metadata().unwrap().len() / 1024
}

/// proc(5), smaps_rollup.
fn pss_kib(pid: u32) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// The port's driver learns late of hosts that come and go: none of them may be
/// forgotten for it. A busy host makes it worse, so this one is kept busy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_host_is_answered_however_soon_after_another() {
    let name = "every host is answered however soon after another";
    let Some(guests) = Guests::for_test(name, ChannelKind::Serial) else { return };
    let places: Vec<Place> = (0..CROWD).map(|_| Place::new()).collect();
    let mut machines = Vec::new();
    for (place, id) in places.iter().zip(1..) {
        machines.push(place.launch(&guests.runtime, &config(&guests, place, id)).await);
    }
    for machine in &machines {
        drop(session(machine).await);
    }
    let busy = Busy::start();
    let mut served = tokio::task::JoinSet::new();
    for machine in machines {
        served.spawn(async move {
            serve_hosts(&machine).await;
            machine.kill().await.unwrap();
        });
    }
    while let Some(served) = served.join_next().await {
        served.unwrap();
    }
    drop(busy);
}

async fn serve_hosts(machine: &QemuMachine) {
    for host in 0..HOSTS {
        // Long enough for most guests to know that the last one has gone.
        tokio::time::sleep(BETWEEN).await;
        let met = tokio::time::timeout(FORGOTTEN, session(machine)).await;
        let met = met.unwrap_or_else(|_| panic!("host {host} was forgotten"));
        let told = tokio::time::timeout(FORGOTTEN, met.telemetry()).await;
        let told = told.unwrap_or_else(|_| panic!("host {host} was forgotten"));
        told.unwrap_or_else(|error| panic!("host {host} was dropped: {error}"));
    }
}

/// As many threads that compute as there are CPUs.
struct Busy {
    over: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Busy {
    fn start() -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = (0..count)
            .map(|_| {
                let over = Arc::clone(&over);
                std::thread::spawn(move || {
                    while !over.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                })
            })
            .collect();
        Self { over, threads }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // It cannot panic.
            let _ = thread.join();
        }
    }
}
