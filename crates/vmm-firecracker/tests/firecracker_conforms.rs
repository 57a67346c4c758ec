//! The runtime suite, and what only Firecracker can show, with real machines.

#![allow(clippy::unwrap_used, reason = "clippy takes a test's own functions for no tests")]

mod guests;

use std::fs;
use std::time::{Duration, Instant};

use inn_host::netns::Netns;
use inn_host::process::{Process, Signal};
use inn_host::{socket, tap};
use inn_units::VmId;
use inn_vmm::conformance::{Place, Subject, run_all};
use inn_vmm::{
    AdoptError, Bucket, CardLimits, Flow, Isolation, Launch, LaunchError, Machine, MachineConfig,
    MachineEnd, MachineIdentity, Nic, NicBackend, Runtime, Saved, Tap, VmmUser,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use self::guests::Firecracker;

/// Far beyond a boot on a loaded host.
const PATIENCE: Duration = Duration::from_secs(180);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms() {
    let Some(firecracker) = Firecracker::for_test("Firecracker conforms").await else { return };
    run_all(&firecracker).await;
}

/// As an agent that is root has them. Not the uids of any agent's range.
fn jailed() -> Isolation {
    Isolation {
        user: Some(VmmUser { uid: 1_879_000_021, groups: Vec::new() }),
        jailed: true,
        groups: Vec::new(),
        log_uid: Some(1_879_000_022),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms_by_its_jailer() {
    let name = "Firecracker conforms by its jailer";
    let Some(firecracker) = Firecracker::for_test(name).await else { return };
    if let Err(why) = firecracker.runtime.can_jail() {
        return println!("SKIPPED {name}: {why}");
    }
    run_all(&Firecracker { isolation: jailed(), ..firecracker }).await;
}

/// What it costs, and what its guest prints.
#[tokio::test]
async fn its_console_is_seen_live_and_in_its_log() {
    let Some(plain) = Firecracker::for_test("Firecracker's console").await else { return };
    let can_jail = plain.runtime.can_jail().is_ok();
    for isolation in [Some(Isolation::default()), can_jail.then(jailed)].into_iter().flatten() {
        let name = if isolation.jailed { "jailed" } else { "plain" };
        let dir = Place::new();
        let mut config = plain.staying(dir.path());
        config.isolation = isolation;
        let from = Instant::now();
        let Launch { machine, steps } = plain.runtime.launch(&config).await.unwrap();
        println!("Firecracker, {name}: launched in {:?}: {steps:?}", from.elapsed());
        let mut console = machine.connect_console().await.unwrap();
        let mut seen = Vec::new();
        while !seen.windows(3).any(|window| window == b"bye") {
            let read = timeout(PATIENCE, console.read_buf(&mut seen)).await.unwrap().unwrap();
            assert!(read > 0, "the console closes");
        }
        println!("Firecracker, {name}: init after {:?}", from.elapsed());
        machine.pause().await.unwrap();
        machine.resume().await.unwrap();
        machine.kill().await.unwrap();
        assert_eq!(machine.wait().await, MachineEnd::Killed);
        let log = fs::read(&config.console.log).unwrap();
        assert!(log.windows(3).any(|window| window == b"bye"), "the log has it");
        let said = fs::read_to_string(config.run_dir.join("vmm.log")).unwrap();
        assert!(said.contains("Running Firecracker"), "{said}");
        let left: Vec<_> = fs::read_dir(&config.run_dir).unwrap().flatten().collect();
        let logs = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().contains(".log");
        assert!(left.iter().all(logs), "{left:?}");
    }
}

/// Its one card, as Firecracker itself has it: what it receives, what it sends.
async fn limiters(config: &MachineConfig) -> [Value; 2] {
    let mut api = socket::connect(&config.run_dir.join("api.sock")).await.unwrap();
    api.write_all(b"GET /vm/config HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let asked = async {
        loop {
            assert!(api.read_buf(&mut answer).await.unwrap() > 0, "it hangs up");
            let text = String::from_utf8_lossy(&answer);
            let body = text.split_once("\r\n\r\n").map(|(_, body)| serde_json::from_str(body));
            if let Some(Ok(body)) = body {
                return body;
            }
        }
    };
    let whole: Value = timeout(PATIENCE, asked).await.unwrap();
    let card = &whole["network-interfaces"][0];
    ["rx_rate_limiter", "tx_rate_limiter"].map(|which| card[which].clone())
}

/// By Firecracker's own account, over a change and in one that goes on from it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_card_is_held_to_what_was_said_last() {
    let name = "Firecracker's card is held to its limits";
    let Some(firecracker) = Firecracker::for_test(name).await else { return };
    let netns = match Netns::make() {
        Ok(netns) => netns,
        Err(why) => return println!("SKIPPED {name}: no network namespace: {why}"),
    };
    let runtime = &firecracker.runtime;
    let limited = |id: u8, dir: &Place, limits: CardLimits| {
        let device = netns.run(move || tap::open(&format!("inn-tcard{id}")));
        let tap = device.map(|device| Tap::new(device, 1500).limited(limits));
        let backend = tap.map(NicBackend::Tap);
        backend.map(|backend| MachineConfig {
            id: VmId::from_bytes([id; 5]),
            nic: Some(Nic { mac: [2, 0, 0, 0, 0, id], backend }),
            ..firecracker.staying(dir.path())
        })
    };
    let bucket = |per_second| Some(Bucket { per_second, burst: per_second / 2 });
    let dir = Place::new();
    let from_guest = Flow { bytes: bucket(1 << 20), packets: bucket(100) };
    let config = match limited(1, &dir, CardLimits { from_guest, to_guest: Flow::default() }) {
        Ok(config) => config,
        Err(why) => return println!("SKIPPED {name}: {why}"),
    };
    let machine = dir.launch(runtime, &config).await;
    let of = |size: u64| json!({ "size": size, "one_time_burst": null, "refill_time": 500 });
    let sends = json!({ "bandwidth": of(1 << 19), "ops": of(50) });
    assert_eq!(limiters(&config).await, [Value::Null, sends]);

    // What is not asked for any more goes.
    let from_guest = Flow { bytes: bucket(1 << 21), packets: None };
    let to_guest = Flow { bytes: None, packets: bucket(64) };
    machine.limit_card(&CardLimits { from_guest, to_guest }).await.unwrap();
    let sends = json!({ "bandwidth": of(1 << 20), "ops": null });
    let receives = json!({ "bandwidth": null, "ops": of(32) });
    assert_eq!(limiters(&config).await, [receives, sends]);

    if runtime.capabilities().snapshots {
        machine.pause().await.unwrap();
        let saved = Some(machine.save().await.unwrap());
        for (id, limits) in
            [(2, CardLimits::default()), (3, CardLimits { from_guest, to_guest: Flow::default() })]
        {
            let place = Place::new();
            let config = limited(id, &place, limits).unwrap();
            let config = MachineConfig { from: saved.clone(), ..config };
            let clone = place.launch(runtime, &config).await;
            let sends =
                limits.from_guest.bytes.map(|_| json!({ "bandwidth": of(1 << 20), "ops": null }));
            assert_eq!(limiters(&config).await, [Value::Null, sends.into()]);
            clone.kill().await.unwrap();
        }
    }
    machine.limit_card(&CardLimits::default()).await.unwrap();
    assert_eq!(limiters(&config).await, [Value::Null, Value::Null]);
    machine.kill().await.unwrap();
}

/// Prints what comes of a launch before Firecracker builds the machine, and of one
/// that goes on from a saved one.
#[tokio::test]
async fn what_a_launch_takes() {
    let Some(mut firecracker) = Firecracker::for_test("Firecracker's launches, timed").await else {
        return;
    };
    let can_jail = firecracker.runtime.can_jail().is_ok();
    for isolation in [Some(Isolation::default()), can_jail.then(jailed)].into_iter().flatten() {
        let name = if isolation.jailed { "jailed" } else { "plain" };
        firecracker.isolation = isolation;
        time_launches(&format!("{name}, booted"), "start", &firecracker, None).await;
        let dir = Place::new();
        let machine = dir.launch(&firecracker.runtime, &firecracker.staying(dir.path())).await;
        machine.pause().await.unwrap();
        let begun = Instant::now();
        let saved = machine.save().await.unwrap();
        println!("Firecracker, {name}: saved in {:?}", begun.elapsed());
        machine.kill().await.unwrap();
        time_launches(&format!("{name}, saved"), "load", &firecracker, Some(saved)).await;
    }
}

/// All but `theirs`, which is Firecracker's own.
async fn time_launches(name: &str, theirs: &str, of: &Firecracker, from: Option<Saved>) {
    const LAUNCHES: usize = 11;
    let mut seen = Vec::new();
    for _ in 0..LAUNCHES {
        let dir = Place::new();
        let config = MachineConfig { from: from.clone(), ..of.staying(dir.path()) };
        let Launch { machine, steps } = of.runtime.launch(&config).await.unwrap();
        machine.kill().await.unwrap();
        let step = steps.iter().find(|(step, _)| *step == theirs).unwrap().1;
        let whole: Duration = steps.iter().map(|(_, took)| *took).sum();
        seen.push((whole - step, step, steps));
    }
    seen.sort_by_key(|(ours, ..)| *ours);
    let least = seen[0].0;
    let (ours, step, steps) = &seen[LAUNCHES / 2];
    println!(
        "Firecracker, {name}, of {LAUNCHES}: {ours:?} in the middle and {least:?} at least, beside its {theirs}, which took {step:?}: {steps:?}"
    );
}

fn process(identity: &MachineIdentity) -> Process {
    identity.process().unwrap()
}

/// A keeper that is killed takes its VMM along, whatever user that has; one that
/// does not answer is ended by force; a VMM that is killed is explained.
#[tokio::test]
async fn a_keeper_that_is_ill_ends_in_a_named_way() {
    let Some(mut firecracker) = Firecracker::for_test("Firecracker's keeper is ill").await else {
        return;
    };
    let can_jail = firecracker.runtime.can_jail().is_ok();
    for isolation in [Some(Isolation::default()), can_jail.then(jailed)].into_iter().flatten() {
        firecracker.isolation = isolation;
        let runtime = &firecracker.runtime;

        let dir = Place::new();
        let machine = dir.launch(runtime, &firecracker.staying(dir.path())).await;
        let keeper = process(machine.identity());
        let vmm = vmm_of(&keeper);
        keeper.kill(Signal::KILL).unwrap();
        let end = timeout(PATIENCE, machine.wait()).await.unwrap();
        assert!(matches!(&end, MachineEnd::Died(how) if how.contains("keeper ended")), "{end:?}");
        timeout(PATIENCE, vmm.wait()).await.unwrap().unwrap();

        let dir = Place::new();
        let machine = dir.launch(runtime, &firecracker.staying(dir.path())).await;
        vmm_of(&process(machine.identity())).kill(Signal::KILL).unwrap();
        let end = timeout(PATIENCE, machine.wait()).await.unwrap();
        assert!(matches!(&end, MachineEnd::Died(how) if how.starts_with("signal 9")), "{end:?}");

        let dir = Place::new();
        let config = firecracker.staying(dir.path());
        let machine = dir.launch(runtime, &config).await;
        let (identity, keeper) = (machine.identity().clone(), process(machine.identity()));
        let vmm = vmm_of(&keeper);
        drop(machine);
        keeper.kill(Signal::STOP).unwrap();
        let hung = runtime.adopt(config.id, &identity, &config.run_dir).await;
        assert!(matches!(hung, Err(AdoptError::Unresponsive { .. })), "{hung:?}");
        runtime.reap(config.id, Some(&identity), &config.run_dir).await.unwrap();
        assert!(!keeper.is_alive() && !vmm.is_alive());
    }
}

/// The last of a keeper's only descendants.
fn vmm_of(keeper: &Process) -> Process {
    let mut pid = keeper.identity().pid;
    while let Ok(children) = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
        && let Some(child) = children.split_whitespace().next()
    {
        pid = child.parse().unwrap();
    }
    Process::open(&inn_host::process::ProcessIdentity::of_pid(pid).unwrap()).unwrap()
}

#[tokio::test]
async fn what_firecracker_does_not_start_is_told_with_its_request() {
    let Some(firecracker) = Firecracker::for_test("Firecracker starts nothing").await else {
        return;
    };
    let dir = Place::new();
    let good = firecracker.staying(dir.path());
    let no_kernel = dir.path().join("no-kernel");
    fs::write(&no_kernel, "this is none").unwrap();
    let mut bad = good.clone();
    if let inn_vmm::Boot::Kernel(boot) = &mut bad.boot {
        boot.kernel = no_kernel;
    }
    let error = firecracker.runtime.launch(&bad).await.unwrap_err();
    let LaunchError::Failed { reason, .. } = &error else { panic!("{error}") };
    assert!(reason.starts_with("PUT /"), "{reason}");
    assert!(!bad.run_dir.join("control.sock").exists());

    // Sockets of an earlier life are in nobody's way.
    for name in ["api.sock", "vsock.sock"] {
        drop(std::os::unix::net::UnixListener::bind(bad.run_dir.join(name)).unwrap());
    }
    let machine = dir.launch(&firecracker.runtime, &good).await;
    machine.kill().await.unwrap();
}
