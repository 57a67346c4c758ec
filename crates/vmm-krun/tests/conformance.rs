//! The runtime suite, and what only libkrun can show, with real machines.

#![allow(clippy::unwrap_used, reason = "clippy takes a test's own functions for no tests")]

mod guests;

use std::fs;
use std::time::{Duration, Instant};

use inn_host::process::{Process, ProcessIdentity, Signal};
use inn_vmm::conformance::{Place, Subject, run_all};
use inn_vmm::{
    AdoptError, Isolation, LaunchError, Machine, MachineConfig, MachineEnd, MachineIdentity,
    Runtime, VmmUser,
};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use self::guests::Krun;

/// Far beyond a boot on a loaded host.
const PATIENCE: Duration = Duration::from_secs(180);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms() {
    let Some(krun) = Krun::for_test("libkrun conforms") else { return };
    run_all(&krun).await;
}

/// As an agent that is root has them: a user each, a root directory without the
/// host's files. Not the uids of any agent's range.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms_as_nobody() {
    let name = "libkrun conforms as nobody";
    let Some(krun) = Krun::for_test(name) else { return };
    if !rustix::process::geteuid().is_root() {
        return println!("SKIPPED {name}: only root may become nobody");
    }
    let user = match kvm_group() {
        Ok(group) => Some(VmmUser { uid: 1_879_000_011, groups: vec![group] }),
        // As the node does: it keeps the agent's user and says so.
        Err(why) => {
            println!("SKIPPED {name}, the user: {why}");
            None
        }
    };
    let jailed = krun.runtime.can_jail();
    let jailed = jailed.inspect_err(|why| println!("SKIPPED {name}, the root directory: {why}"));
    let isolation = Isolation {
        log_uid: user.as_ref().map(|_| 1_879_000_012),
        user,
        jailed: jailed.is_ok(),
        groups: Vec::new(),
    };
    run_all(&Krun { isolation, ..krun }).await;
}

/// Whose members may open /dev/kvm.
fn kvm_group() -> Result<u32, String> {
    use std::os::unix::fs::MetadataExt;
    let kvm = fs::metadata("/dev/kvm").unwrap();
    match kvm.mode() & 0o060 {
        0o060 => Ok(kvm.gid()),
        _ => Err(format!("/dev/kvm has the mode {:o}: it is one user's alone", kvm.mode() & 0o777)),
    }
}

#[tokio::test]
async fn what_its_guest_prints_is_seen_live_and_in_its_log() {
    let Some(krun) = Krun::for_test("libkrun's console") else { return };
    let dir = Place::new();
    let config = krun.staying(dir.path());
    let from = Instant::now();
    let machine = dir.launch(&krun.runtime, &config).await;
    let launched = from.elapsed();
    let mut console = machine.connect_console().await.unwrap();
    let mut seen = Vec::new();
    while !seen.windows(3).any(|window| window == b"bye") {
        let read = timeout(PATIENCE, console.read_buf(&mut seen)).await.unwrap().unwrap();
        assert!(read > 0, "the console closes");
    }
    println!("libkrun: launched in {launched:?}, init after {:?}", from.elapsed());
    machine.kill().await.unwrap();
    assert_eq!(machine.wait().await, MachineEnd::Killed);
    let log = fs::read(&config.console.log).unwrap();
    assert!(log.windows(3).any(|window| window == b"bye"), "the log has it");
}

fn process(identity: &MachineIdentity) -> Process {
    Process::open(&ProcessIdentity {
        pid: identity.pid,
        start_ticks: identity.start_ticks,
        host_boot_id: identity.host_boot_id.clone(),
    })
    .unwrap()
}

/// The VMM of a helper: its only child.
fn vmm_of(helper: &Process) -> Process {
    let pid = helper.identity().pid;
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let child: u32 = children.split_whitespace().next().unwrap().parse().unwrap();
    Process::open(&ProcessIdentity::of_pid(child).unwrap()).unwrap()
}

/// A keeper that is killed takes its VMM along; one that does not answer is
/// ended by force; a VMM that is killed is explained.
#[tokio::test]
async fn a_helper_that_is_ill_ends_in_a_named_way() {
    let Some(krun) = Krun::for_test("libkrun's helper is ill") else { return };
    let runtime = &krun.runtime;

    let dir = Place::new();
    let machine = dir.launch(runtime, &krun.staying(dir.path())).await;
    let helper = process(machine.identity());
    let vmm = vmm_of(&helper);
    helper.kill(Signal::KILL).unwrap();
    let end = timeout(PATIENCE, machine.wait()).await.unwrap();
    assert!(matches!(&end, MachineEnd::Died(how) if how.contains("inn-krun ended")), "{end:?}");
    timeout(PATIENCE, vmm.wait()).await.unwrap().unwrap();

    let dir = Place::new();
    let machine = dir.launch(runtime, &krun.staying(dir.path())).await;
    vmm_of(&process(machine.identity())).kill(Signal::KILL).unwrap();
    let end = timeout(PATIENCE, machine.wait()).await.unwrap();
    assert!(matches!(&end, MachineEnd::Died(how) if how.starts_with("signal 9")), "{end:?}");

    let dir = Place::new();
    let config = krun.staying(dir.path());
    let machine = dir.launch(runtime, &config).await;
    let (identity, helper) = (machine.identity().clone(), process(machine.identity()));
    let vmm = vmm_of(&helper);
    drop(machine);
    helper.kill(Signal::STOP).unwrap();
    let hung = runtime.adopt(config.id, &identity, &config.run_dir).await;
    assert!(matches!(hung, Err(AdoptError::Unresponsive { .. })), "{hung:?}");
    runtime.reap(config.id, Some(&identity), &config.run_dir).await.unwrap();
    assert!(!helper.is_alive() && !vmm.is_alive());
}

#[tokio::test]
async fn what_libkrun_does_not_start_is_told_with_its_last_words() {
    let Some(krun) = Krun::for_test("libkrun starts nothing") else { return };
    let dir = Place::new();
    let good = krun.staying(dir.path());
    let no_kernel = dir.path().join("no-kernel");
    fs::write(&no_kernel, "this is none").unwrap();
    let mut bad = good.clone();
    if let inn_vmm::Boot::Kernel(boot) = &mut bad.boot {
        boot.kernel = no_kernel;
    }
    let error = krun.runtime.launch(&bad).await.unwrap_err();
    let LaunchError::Failed { reason, log, .. } = &error else { panic!("{error}") };
    assert!(reason.contains("65"), "{reason}");
    assert!(log.iter().any(|line| line.contains("Elf")), "{log:?}");
    assert!(!bad.run_dir.join("control.sock").exists());

    // A socket of an earlier life is in nobody's way.
    let stale = std::os::unix::net::UnixListener::bind(bad.run_dir.join("vsock.sock")).unwrap();
    drop(stale);
    let machine = dir.launch(&krun.runtime, &good).await;
    machine.kill().await.unwrap();

    let serial = MachineConfig { channel: inn_vmm::ChannelKind::Serial, ..good };
    let refused = krun.runtime.launch(&serial).await;
    assert!(matches!(refused, Err(LaunchError::Refused { .. })), "{:?}", refused.err());
}
