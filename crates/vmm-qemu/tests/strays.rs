//! A machine whose run directory was removed under it is found and ended, and
//! another agent's is let be. Needs QEMU, and no kernel.

#![allow(clippy::unwrap_used, reason = "clippy takes a test's own functions for no tests")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use inn_units::{Bytes, Vcpus, VmId};
use inn_vmm::{
    Accel, Boot, ChannelKind, Console, Disk, DiskSource, LaunchError, Lifetime, Machine,
    MachineConfig, MachineEnd, Runtime,
};
use inn_vmm_qemu::{QemuRuntime, end_stray, strays};

/// Far beyond what a loaded host needs.
const PATIENCE: Duration = Duration::from_secs(180);

/// The directories of one agent.
fn dirs(agent: &Path) -> [PathBuf; 2] {
    [agent.join("vms"), agent.join("runs")]
}

/// A disk without anything to boot: that its QEMU runs is enough.
fn config(agent: &Path, id: VmId) -> MachineConfig {
    let [vms, runs] = dirs(agent).map(|dir| dir.join(id.to_string()));
    fs::create_dir_all(&vms).unwrap();
    let path = vms.join("rw.img");
    File::create(&path).unwrap().set_len(1 << 20).unwrap();
    MachineConfig {
        id,
        vcpus: Vcpus::ONE,
        memory: Bytes::mib(64),
        accel: Accel::Tcg,
        boot: Boot::Firmware,
        from: None,
        disks: vec![Disk {
            source: DiskSource::Raw(path),
            read_only: false,
            serial: "inn-disk".to_owned(),
        }],
        nic: None,
        screen: false,
        generation_id: false,
        reboots_within: true,
        console: Console { log: vms.join("console.log"), log_limit: Bytes::mib(1) },
        channel: ChannelKind::Serial,
        run_dir: runs,
        lifetime: Lifetime::Detached,
        isolation: inn_vmm::Isolation::default(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_without_its_run_directory_is_found_and_ended_and_another_agent_s_is_not() {
    let runtime = match QemuRuntime::discover() {
        // A test's own program is none.
        Ok(runtime) => runtime.with_log_writer(env!("CARGO_BIN_EXE_inn-log-writer").into()),
        Err(error @ LaunchError::MissingProgram { .. }) => {
            return println!("SKIPPED a_machine_without_its_run_directory_is_found: {error}");
        }
        Err(error) => panic!("{error}"),
    };
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (dir.path().join("ours"), dir.path().join("theirs"));
    // Two agents may well have given the same id.
    let id = VmId::from_bytes([7; 5]);
    let (one, other) = (config(&ours, id), config(&theirs, id));
    let machine = runtime.launch(&one).await.unwrap().machine;
    let neighbour = runtime.launch(&other).await.unwrap().machine;

    fs::remove_dir_all(&one.run_dir).unwrap();
    let found = strays(&dirs(&ours)).unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((found[0].vm, &found[0].identity), (id, machine.identity()));
    assert!(!found[0].is_bridge);
    end_stray(&found[0], &one.run_dir).await.unwrap();
    let end = tokio::time::timeout(PATIENCE, machine.wait()).await.expect("it ends");
    assert!(matches!(end, MachineEnd::Died(_) | MachineEnd::Killed), "{end:?}");
    assert_eq!(strays(&dirs(&ours)).unwrap(), []);
    // Ended twice is ended.
    end_stray(&found[0], &one.run_dir).await.unwrap();

    let found = strays(&dirs(&theirs)).unwrap();
    assert_eq!(
        found.iter().map(|stray| &stray.identity).collect::<Vec<_>>(),
        [neighbour.identity()]
    );
    neighbour.kill().await.unwrap();
}
