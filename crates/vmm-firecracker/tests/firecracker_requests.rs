//! A VMM that ends in the middle of its configuration, by a stand-in for it.

#![allow(clippy::unwrap_used, reason = "clippy takes a test's own functions for no tests")]

mod guests;

use std::fs;
use std::time::Duration;

use inn_units::VmId;
use inn_vmm::conformance::{Place, kvm_config as config};
use inn_vmm::{KernelBoot, LaunchError, Machine, MachineEnd, Runtime};
use inn_vmm_firecracker::{FirecrackerRuntime, end_stray, strays};
use tokio::time::{Instant, timeout};

use self::guests::OWN;

/// Far beyond what a loaded host takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Machine, kernel, two disks, channel, balloon, entropy, start.
const REQUESTS: usize = 8;

async fn stand_in(dir: &Place, ends_at: usize) -> FirecrackerRuntime {
    let program = dir.path().join(format!("firecracker-{ends_at}"));
    fs::copy(OWN, &program).unwrap();
    FirecrackerRuntime::discover(Some(program)).await.unwrap().with_own_program(OWN.into())
}

fn boot() -> KernelBoot {
    KernelBoot { kernel: "/none".into(), initramfs: None, cmdline: String::new() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_ends_at_any_request_fails_by_name_and_leaves_nothing() {
    for ends_at in 1..=REQUESTS {
        let dir = Place::new();
        let runtime = stand_in(&dir, ends_at).await;
        let config = config(dir.path(), boot());
        let error = runtime.launch(&config).await.unwrap_err();
        let LaunchError::Failed { reason, log, .. } = &error else { panic!("{error}") };
        // Whichever is noticed first: the answer that does not come, or the end.
        let is_named = reason.starts_with("PUT /") || reason.contains("status 7");
        assert!(is_named, "{ends_at}: {reason}");
        let last = format!("the stand-in ends at request {ends_at}");
        assert!(log.iter().any(|line| line.contains(&last)), "{ends_at}: {log:?}");
        let left = fs::read_dir(&config.run_dir).unwrap().flatten();
        let left: Vec<_> =
            left.filter(|entry| !entry.file_name().to_string_lossy().contains(".log")).collect();
        assert!(left.is_empty(), "{ends_at}: {left:?}");
        runtime.reap(config.id, None, &config.run_dir).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_answers_all_of_them_runs() {
    let dir = Place::new();
    let runtime = stand_in(&dir, REQUESTS + 1).await;
    let machine = dir.launch(&runtime, &config(dir.path(), boot())).await;
    machine.kill().await.unwrap();
    assert_eq!(machine.wait().await, MachineEnd::Killed);
}

/// A machine whose run directory was removed is found by its keeper's working
/// directory, and ended with its VMM.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_no_run_directory_leads_to_is_found_and_ended() {
    let dir = Place::new();
    let id = VmId::from_bytes([0x31; 5]);
    let run_dir = dir.path().join("runs").join(id.to_string());
    let runtime = stand_in(&dir, REQUESTS + 1).await;
    let mut config = config(dir.path(), boot());
    (config.id, config.run_dir) = (id, run_dir.clone());
    let machine = dir.launch(&runtime, &config).await;
    fs::remove_dir_all(&run_dir).unwrap();

    let found = strays(&[dir.path().join("runs")]).unwrap();
    let keepers: Vec<_> = found.iter().filter(|stray| !stray.is_bridge).collect();
    assert_eq!(keepers.len(), 1, "{found:?}");
    assert_eq!((keepers[0].vm, &keepers[0].identity), (id, machine.identity()));
    assert_eq!(strays(&[dir.path().join("others")]).unwrap(), []);
    for _ in 0..2 {
        end_stray(keepers[0], &run_dir).await.unwrap();
    }
    let end = timeout(PATIENCE, machine.wait()).await.expect("it ends");
    assert!(matches!(end, MachineEnd::Died(_)), "{end:?}");
    let deadline = Instant::now() + PATIENCE;
    while !strays(&[dir.path().join("runs")]).unwrap().is_empty() {
        assert!(Instant::now() < deadline, "its VMM lives on");
        tokio::task::yield_now().await;
    }
}
