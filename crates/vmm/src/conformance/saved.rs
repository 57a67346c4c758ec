//! A machine that stands still, and those that go on from it.

use std::io::ErrorKind;

use inn_units::{Bytes, VmId};

use super::{Place, Subject, skipped};
use crate::{Machine, MachineConfig, MachineEnd, Nic, NicBackend, Runtime};

pub(super) async fn saved_machine_goes_on(subject: &impl Subject) {
    let runtime = subject.runtime();
    if !runtime.capabilities().snapshots {
        return skipped(runtime, "machines that go on from a saved one");
    }
    let (dir, other_dir) = (Place::new(), Place::new());
    let config = apart(subject.staying(dir.path()));
    if !runtime.capabilities().snapshot_channels.contains(&config.channel) {
        let machine = dir.launch(runtime, &config).await;
        machine.pause().await.expect("it is paused");
        let error = machine.save().await.expect_err("it has no such channel");
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        machine.resume().await.expect("it goes on");
        machine.kill().await.expect("kill");
        return skipped(runtime, "a saved machine with this channel");
    }
    let machine = dir.launch(runtime, &config).await;
    machine.save().await.expect_err("it is not paused");
    machine.resume().await.expect("it runs");
    // What nobody comes for is of no consequence.
    drop(machine.save_ahead().await.expect("it is saved ahead"));
    for _ in 0..2 {
        machine.pause().await.expect("it is paused");
    }
    let identity = machine.identity().clone();
    drop(machine);
    let machine = runtime
        .adopt(config.id, &identity, &config.run_dir)
        .await
        .expect("a paused machine is adopted");
    let saved = machine.save().await.expect("it is saved");
    let made_by = runtime.fingerprint(&config).await;

    let other = MachineConfig {
        id: VmId::from_bytes([0xcd; 5]),
        from: Some(saved),
        ..apart(subject.staying(other_dir.path()))
    };
    let here = runtime.fingerprint(&other).await;
    assert_eq!(made_by.misfits(&here), [], "a machine of the same configuration fits");
    let larger = MachineConfig { memory: Bytes(other.memory.get() * 2), ..other.clone() };
    let misfits = made_by.misfits(&runtime.fingerprint(&larger).await);
    assert!(misfits.iter().any(|misfit| misfit.of == "the memory size"), "{misfits:?}");
    let second = other_dir.launch(runtime, &other).await;
    for _ in 0..2 {
        second.resume().await.expect("it goes on");
        machine.resume().await.expect("so does the first");
    }
    second.kill().await.expect("kill");
    assert_eq!(second.wait().await, MachineEnd::Killed);
    machine.pause().await.expect("the first one is well");
    machine.kill().await.expect("kill");
    assert_eq!(machine.wait().await, MachineEnd::Killed);
    for result in [machine.pause().await, machine.resume().await] {
        result.expect_err("it has ended");
    }
    machine.save().await.expect_err("it has ended");
}

/// With a card that has no state of its own outside the machine.
fn apart(config: MachineConfig) -> MachineConfig {
    let nic = config.nic.map(|nic| Nic { backend: NicBackend::Nothing, ..nic });
    MachineConfig { nic, ..config }
}
