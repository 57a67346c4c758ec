//! The runtime suite over a vsock, and the real guest agent met on both of its
//! channels. Needs QEMU, vhost-device-vsock (by INN_TEST_VHOST_DEVICE_VSOCK or
//! PATH), mkfs.ext4, a Debian kernel beside its modules in INN_TEST_KERNEL, and
//! the static inn-guest that building the `inn` binary makes.

#![allow(clippy::unwrap_used, reason = "clippy takes a test's own functions for no tests")]

mod guests;

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use guests::{Guests, PATIENCE};
use inn_guest_proto::{Host, HostEvent, wire::Hello};
use inn_host::process::{Process, ProcessIdentity, Signal};
use inn_units::Bytes;
use inn_vmm::conformance::{Place, Subject, TinyEnd, run_all, tiny_initramfs};
use inn_vmm::{
    ChannelKind, DiskSource, LaunchError, Lifetime, Machine, MachineConfig, MachineEnd, Runtime,
};
use inn_vmm_qemu::{QemuMachine, QemuRuntime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

impl Subject for Guests {
    type Runtime = QemuRuntime;

    fn runtime(&self) -> &QemuRuntime {
        &self.runtime
    }

    async fn disk_size(&self, machine: &QemuMachine, serial: &str) -> Option<Bytes> {
        Some(machine.disk_size(serial).await.unwrap())
    }

    /// The real agent as PID 1.
    fn staying(&self, dir: &Path) -> MachineConfig {
        self.agent(dir)
    }

    fn ending(&self, dir: &Path) -> Vec<(MachineConfig, MachineEnd)> {
        let tiny = |end| {
            let initramfs = dir.join(format!("{end:?}.cpio"));
            std::fs::write(&initramfs, tiny_initramfs("bye\n", end)).unwrap();
            self.config(dir, initramfs)
        };
        vec![
            (tiny(TinyEnd::PowerOff), MachineEnd::PoweredOff),
            (tiny(TinyEnd::Reset), MachineEnd::Reset),
        ]
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms_on_a_vsock() {
    let Some(guests) = Guests::for_test("conforms on a vsock", ChannelKind::Vsock) else { return };
    run_all(&guests).await;
}

/// The host's end of the protocol, as far as the greeting.
async fn greet(stream: &mut UnixStream) -> std::io::Result<Hello> {
    let mut host = Host::new([7; 16], "test");
    loop {
        while !host.output().is_empty() {
            let written = stream.write(host.output()).await?;
            host.wrote(written);
        }
        match host.next_event().unwrap() {
            Some(HostEvent::Hello { hello, .. }) => return Ok(hello),
            Some(_) => {}
            None => {
                if stream.read_buf(host.input()).await? == 0 {
                    return Err(std::io::ErrorKind::UnexpectedEof.into());
                }
            }
        }
    }
}

/// Connects as often as it takes for the guest to greet.
async fn meet(machine: &QemuMachine) -> (UnixStream, Hello) {
    let meeting = async {
        loop {
            let met = async {
                let mut stream = machine.connect_channel().await?;
                let hello = greet(&mut stream).await?;
                Ok::<_, std::io::Error>((stream, hello))
            };
            match met.await {
                Ok(met) => return met,
                Err(error) => {
                    println!("not yet: {error}");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    };
    tokio::time::timeout(PATIENCE, meeting).await.expect("the guest greets")
}

async fn is_met(guests: Guests) {
    let dir = Place::new();
    let config = guests.staying(dir.path());
    let start = std::time::Instant::now();
    let machine = dir.launch(&guests.runtime, &config).await;
    let (mut first, hello) = meet(&machine).await;
    println!(
        "{:?} on {:?}: {} after {:?}",
        guests.channel,
        guests.runtime.machine_type(),
        hello.agent,
        start.elapsed()
    );
    assert!(hello.is_init && hello.agent.starts_with("inn-guest "), "{hello:?}");

    // A new host takes over from one that never said goodbye.
    if guests.channel == ChannelKind::Vsock {
        let (_second, again) = meet(&machine).await;
        assert_eq!(again.boot_id, hello.boot_id);
        let mut rest = Vec::new();
        let closed = tokio::time::timeout(PATIENCE, first.read_to_end(&mut rest)).await;
        closed.expect("the first session is over").unwrap();
    }
    drop(first);

    // So does another life of the agent.
    let identity = machine.identity().clone();
    drop(machine);
    let machine = guests.runtime.adopt(config.id, &identity, &config.run_dir).await.unwrap();
    let (_third, again) = meet(&machine).await;
    assert_eq!(again.boot_id, hello.boot_id);

    // The guest's own kernel sees a disk grow.
    let mut console = machine.connect_console().await.unwrap();
    let DiskSource::Raw(path) = &config.disks[1].source;
    File::options().write(true).open(path).unwrap().set_len(32 << 20).unwrap();
    machine.resize_disk("inn-rw", Bytes::mib(32)).await.unwrap();
    let told = async {
        let mut text = Vec::new();
        while !String::from_utf8_lossy(&text).contains("[vdb] new size: 65536 512-byte") {
            assert_ne!(console.read_buf(&mut text).await.unwrap(), 0, "the console closed");
        }
    };
    tokio::time::timeout(PATIENCE, told).await.expect("the guest sees its disk grow");
    machine.kill().await.unwrap();
}

#[tokio::test]
async fn the_agent_is_met_on_a_vsock() {
    let name = "the agent on a vsock";
    let Some(guests) = Guests::for_test(name, ChannelKind::Vsock) else { return };
    is_met(guests).await;
}

#[tokio::test]
async fn the_agent_is_met_on_a_vsock_of_q35() {
    let name = "the agent on a vsock of q35";
    let Some(mut guests) = Guests::for_test(name, ChannelKind::Vsock) else { return };
    guests.runtime = guests.runtime.with_q35();
    is_met(guests).await;
}

#[tokio::test]
async fn the_agent_is_met_on_a_port() {
    let Some(guests) = Guests::for_test("the agent on a port", ChannelKind::Serial) else { return };
    is_met(guests).await;
}

/// The process behind a machine's vsock.
async fn bridge_of(config: &MachineConfig) -> Process {
    find_bridge(config).await.expect("it has a bridge")
}

/// Whoever listens at vsock.sock, as the kernel knows it: unix(7), SO_PEERCRED.
async fn find_bridge(config: &MachineConfig) -> Option<Process> {
    let mut connection = UnixStream::connect(config.run_dir.join("vsock.sock")).await.ok()?;
    let pid = connection.peer_cred().unwrap().pid().unwrap();
    let identity = ProcessIdentity::of_pid(u32::try_from(pid).unwrap()).unwrap();
    let process = Process::open(&identity).unwrap();
    // A request that is none is hung up on, where the guest's driver has not
    // come yet even before it is made.
    let _hung_up = connection.write_all(b"\n").await;
    let _hung_up = connection.read(&mut [0]).await;
    Some(process)
}

#[tokio::test]
async fn a_bridge_ends_with_its_machine_however_that_ends() {
    let Some(guests) = Guests::for_test("a bridge's end", ChannelKind::Vsock) else { return };
    let runtime = &guests.runtime;
    for lifetime in [Lifetime::Detached, Lifetime::Leased] {
        let dir = Place::new();
        let config = MachineConfig { lifetime, ..guests.staying(dir.path()) };
        let machine = dir.launch(runtime, &config).await;
        let bridge = bridge_of(&config).await;
        machine.kill().await.unwrap();
        assert!(!bridge.is_alive(), "{lifetime:?}: killed");
    }

    // QEMU has died while nobody watched.
    let dir = Place::new();
    let config = guests.staying(dir.path());
    let machine = dir.launch(runtime, &config).await;
    let identity = machine.identity().clone();
    drop(machine);
    let bridge = bridge_of(&config).await;
    let qemu = Process::open(&ProcessIdentity {
        pid: identity.pid,
        start_ticks: identity.start_ticks,
        host_boot_id: identity.host_boot_id.clone(),
    })
    .unwrap();
    qemu.kill(Signal::KILL).unwrap();
    qemu.wait().await.unwrap();
    assert!(bridge.is_alive(), "it waits for another QEMU");
    runtime.reap(config.id, Some(&identity), &config.run_dir).await.unwrap();
    assert!(!bridge.is_alive(), "reaped");
    assert!(!config.run_dir.join("vsock.sock").exists());

    // A launch that fails, and one that is given up.
    let mut bad = guests.staying(dir.path());
    bad.disks[1].source = DiskSource::Raw(dir.path().join("no-such-disk"));
    runtime.launch(&bad).await.unwrap_err();
    assert!(!bad.run_dir.join("vsock.sock").exists());
    // It is reaped where nobody has recorded anything.
    let machine = dir.launch(runtime, &config).await;
    let bridge = bridge_of(&config).await;
    drop(machine);
    runtime.reap(config.id, None, &config.run_dir).await.unwrap();
    assert!(!bridge.is_alive(), "reaped without a record");
}

#[tokio::test]
async fn a_bridge_that_has_died_is_named_and_leaves_the_machine() {
    let Some(guests) = Guests::for_test("a dead bridge", ChannelKind::Vsock) else { return };
    let dir = Place::new();
    let config = guests.staying(dir.path());
    let machine = dir.launch(&guests.runtime, &config).await;
    let bridge = bridge_of(&config).await;
    bridge.kill(Signal::KILL).unwrap();
    bridge.wait().await.unwrap();
    let error = machine.connect_channel().await.unwrap_err();
    assert!(error.to_string().contains("restart the VM"), "{error}");
    machine.connect_console().await.unwrap();
    machine.kill().await.unwrap();
    assert_eq!(machine.wait().await, MachineEnd::Killed);
}

#[tokio::test]
async fn a_vsock_without_its_program_is_refused_by_name() {
    let Some(guests) = Guests::for_test("no bridge", ChannelKind::Vsock) else { return };
    let dir = Place::new();
    let config = guests.staying(dir.path());
    let runtime = guests.runtime.clone().with_vsock_bridge(dir.path().join("nothing"));
    let error = runtime.launch(&config).await.unwrap_err();
    assert!(matches!(error, LaunchError::Io { .. }), "{error}");
    assert!(error.to_string().contains("nothing"), "{error}");
}
