//! What every runtime must do, as a suite: [`run_all`] panics with the name
//! of the check that fails.
//!
//! A runtime's tests give it a [`Subject`]: the runtime, and configurations
//! of guests that stay up or end themselves.

mod forwards;
mod kvm;
mod saved;
mod tap;
mod tiny;

use std::cell::RefCell;
use std::fs;
use std::future::Future;
use std::io::ErrorKind;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::Duration;

use inn_host::process::{Process, ProcessIdentity, Signal};
use inn_units::{Bytes, VmId};
use tokio::net::UnixStream;

use crate::{
    AdoptError, Launch, LaunchError, Lifetime, Machine, MachineConfig, MachineEnd, MachineIdentity,
    Runtime,
};

pub use kvm::{KvmGuest, kvm_config};
pub use tiny::{TinyEnd, tiny_initramfs};

/// Far beyond what any step takes: an emulated guest on a loaded host boots
/// in tens of seconds.
const PATIENCE: Duration = Duration::from_secs(180);

/// Between two attempts at a channel that is refused.
const RETRY: Duration = Duration::from_millis(20);

pub trait Subject {
    type Runtime: Runtime;

    fn runtime(&self) -> &Self::Runtime;

    /// Whether its guests listen on their channel, so that a vsock's is open to
    /// be connected to. A serial channel always is.
    fn channel_answers(&self) -> bool {
        true
    }

    /// The size that the machine shows its guest of the disk with this serial,
    /// where the test can ask it.
    fn disk_size(
        &self,
        _machine: &<Self::Runtime as Runtime>::Machine,
        _serial: &str,
    ) -> impl Future<Output = Option<Bytes>> {
        std::future::ready(None)
    }

    /// A guest that stays up. All that the machine needs is made below `dir`.
    fn staying(&self, dir: &Path) -> MachineConfig;

    /// Guests that end by themselves, within seconds or minutes, and how: one
    /// for each end that the runtime can tell.
    fn ending(&self, dir: &Path) -> Vec<(MachineConfig, MachineEnd)>;
}

/// Runs every check, each in a directory of its own.
pub async fn run_all(subject: &impl Subject) {
    check("a machine has channel and console", has_channel_and_console(subject)).await;
    check("a guest's end is seen", guest_end_is_seen(subject)).await;
    check("a guest's end is seen after adoption", end_is_seen_after_adoption(subject)).await;
    check("kill ends it, however often", kill_is_idempotent(subject)).await;
    check("a dropped machine is adopted", dropped_machine_is_adopted(subject)).await;
    check("what is not the machine is not adopted", strangers_are_refused(subject)).await;
    check("what is left is reaped", leftovers_are_reaped(subject)).await;
    check("what it can't do is refused", excess_is_refused(subject)).await;
    check("a disk grows under a running machine", disk_grows(subject)).await;
    check("the power button ends nothing by itself", power_button(subject)).await;
    check("a tap lives as its machine", tap::tap_lives_as_its_machine(subject)).await;
    check("forwards are as told", forwards::forwards_are_as_told(subject)).await;
    check("a saved machine goes on", saved::saved_machine_goes_on(subject)).await;
    check("machines do not disturb each other", machines_are_apart(subject)).await;
}

async fn check(name: &str, body: impl Future<Output = ()>) {
    eprintln!("conformance: {name}");
    patient(name, body).await;
}

/// Says of a check that it is not for such a runtime.
fn skipped(runtime: &impl Runtime, lacking: &str) {
    eprintln!("SKIPPED, {lacking}: {} declares none", runtime.capabilities().name);
}

async fn patient<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

/// A test's directory. Dropped, also by a panic, it takes the processes with
/// it that were launched here and live on.
#[derive(Debug)]
pub struct Place {
    dir: tempfile::TempDir,
    launched: RefCell<Vec<ProcessIdentity>>,
}

impl Place {
    #[expect(clippy::new_without_default, reason = "it makes a directory")]
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        Self { dir, launched: RefCell::default() }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Launches, and panics if that fails.
    pub async fn launch<R: Runtime>(&self, runtime: &R, config: &MachineConfig) -> R::Machine {
        let Launch { machine, steps } = runtime.launch(config).await.expect("the machine launches");
        assert!(!steps.is_empty(), "a launch tells how long its steps took");
        let MachineIdentity { pid, start_ticks, host_boot_id, .. } = machine.identity().clone();
        self.launched.borrow_mut().push(ProcessIdentity { pid, start_ticks, host_boot_id });
        machine
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for identity in self.launched.take() {
            // Mostly it is gone, as it should be.
            if let Ok(process) = Process::open(&identity) {
                let _ = process.kill(Signal::KILL);
            }
        }
    }
}

/// `run_dir` belongs to the owner; what the runtime made in it must be gone,
/// but for logs.
fn assert_no_sockets(config: &MachineConfig) {
    let Ok(entries) = fs::read_dir(&config.run_dir) else { return };
    for entry in entries {
        let entry = entry.expect("a readable run directory");
        let kind = entry.file_type().expect("a file type");
        assert!(!kind.is_socket() && !kind.is_fifo(), "left behind: {}", entry.path().display());
    }
}

/// Connects; a guest that has just got its vsock's driver refuses until its
/// agent listens.
async fn channel(machine: &impl Machine) -> UnixStream {
    loop {
        match machine.connect_channel().await {
            Ok(channel) => return channel,
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                tokio::time::sleep(RETRY).await;
            }
            Err(error) => panic!("its channel: {error}"),
        }
    }
}

async fn has_channel_and_console(subject: &impl Subject) {
    let dir = Place::new();
    let config = subject.staying(dir.path());
    let machine = dir.launch(subject.runtime(), &config).await;
    assert_eq!(machine.identity().runtime, subject.runtime().capabilities().name);
    if subject.channel_answers() {
        for _ in 0..3 {
            drop(channel(&machine).await);
        }
    }
    for attempt in 0..2 {
        drop(machine.connect_console().await.unwrap_or_else(|e| panic!("console {attempt}: {e}")));
    }
    machine.kill().await.expect("kill");
    assert_no_sockets(&config);
}

async fn guest_end_is_seen(subject: &impl Subject) {
    let dir = Place::new();
    for (config, expected) in subject.ending(dir.path()) {
        let machine = dir.launch(subject.runtime(), &config).await;
        let (first, second) = tokio::join!(machine.wait(), machine.wait());
        assert_eq!(first, expected);
        assert_eq!(second, expected, "every waiter learns it");
        assert_eq!(machine.wait().await, expected, "and so does a late one");
        machine.kill().await.expect("kill after the end");
        assert_eq!(machine.wait().await, expected, "a kill after the end does not rewrite it");
        assert_no_sockets(&config);
    }
}

async fn end_is_seen_after_adoption(subject: &impl Subject) {
    let dir = Place::new();
    for (config, expected) in subject.ending(dir.path()) {
        let machine = dir.launch(subject.runtime(), &config).await;
        let identity = machine.identity().clone();
        drop(machine);
        let adopted = subject
            .runtime()
            .adopt(config.id, &identity, &config.run_dir)
            .await
            .expect("it is adopted");
        assert_eq!(adopted.wait().await, expected);
        assert_no_sockets(&config);
        let again = subject.runtime().adopt(config.id, &identity, &config.run_dir).await;
        assert!(matches!(again, Err(AdoptError::Gone { .. })), "an ended machine is gone");
    }
}

async fn kill_is_idempotent(subject: &impl Subject) {
    for lifetime in [Lifetime::Detached, Lifetime::Leased] {
        let dir = Place::new();
        let config = MachineConfig { lifetime, ..subject.staying(dir.path()) };
        let machine = dir.launch(subject.runtime(), &config).await;
        let (first, second, end) = tokio::join!(machine.kill(), machine.kill(), machine.wait());
        first.expect("kill");
        second.expect("kill at the same time");
        assert_eq!(end, MachineEnd::Killed);
        machine.kill().await.expect("kill again");
        assert_eq!(machine.wait().await, MachineEnd::Killed);
        assert!(machine.connect_channel().await.is_err(), "a dead machine has no channel");
        assert_no_sockets(&config);
    }
}

async fn dropped_machine_is_adopted(subject: &impl Subject) {
    let dir = Place::new();
    let config = subject.staying(dir.path());
    let machine = dir.launch(subject.runtime(), &config).await;
    let identity = machine.identity().clone();
    drop(machine);
    for _ in 0..2 {
        let adopted = subject
            .runtime()
            .adopt(config.id, &identity, &config.run_dir)
            .await
            .expect("it is adopted");
        assert_eq!(adopted.identity(), &identity);
        if subject.channel_answers() {
            channel(&adopted).await;
        }
    }
    let adopted =
        subject.runtime().adopt(config.id, &identity, &config.run_dir).await.expect("adopted");
    adopted.kill().await.expect("kill");
    assert_eq!(adopted.wait().await, MachineEnd::Killed);
    assert_no_sockets(&config);
    let again = subject.runtime().adopt(config.id, &identity, &config.run_dir).await;
    assert!(matches!(again, Err(AdoptError::Gone { .. })), "a killed machine is gone");
}

async fn strangers_are_refused(subject: &impl Subject) {
    let dir = Place::new();
    let config = subject.staying(dir.path());
    let machine = dir.launch(subject.runtime(), &config).await;
    let identity = machine.identity().clone();
    drop(machine);

    let refused = |id: VmId, identity: MachineIdentity| {
        let run_dir = config.run_dir.clone();
        async move {
            let adopted = subject.runtime().adopt(id, &identity, &run_dir).await;
            assert!(adopted.is_err(), "adopted as {id} by {identity:?}");
        }
    };
    let real = || identity.clone();
    refused(config.id, MachineIdentity { start_ticks: identity.start_ticks ^ 1, ..real() }).await;
    refused(config.id, MachineIdentity { host_boot_id: "another".to_owned(), ..real() }).await;
    refused(config.id, MachineIdentity { runtime: "another".to_owned(), ..real() }).await;
    refused(VmId::from_bytes([0xee; 5]), real()).await;
    let own = MachineIdentity { pid: std::process::id(), ..real() };
    refused(config.id, own).await;

    let adopted =
        subject.runtime().adopt(config.id, &identity, &config.run_dir).await.expect("adopted");
    adopted.kill().await.expect("kill");
}

async fn leftovers_are_reaped(subject: &impl Subject) {
    let dir = Place::new();
    let config = subject.staying(dir.path());
    let (id, run_dir) = (config.id, config.run_dir.as_path());
    let runtime = subject.runtime();
    runtime.reap(id, None, run_dir).await.expect("nothing is reaped");
    for recorded in [false, true] {
        let machine = dir.launch(runtime, &config).await;
        let identity = machine.identity().clone();
        drop(machine);
        for _ in 0..2 {
            runtime.reap(id, recorded.then_some(&identity), run_dir).await.expect("reap");
        }
        let adopted = runtime.adopt(id, &identity, run_dir).await;
        assert!(matches!(adopted, Err(AdoptError::Gone { .. })), "recorded: {recorded}");
        assert_no_sockets(&config);
    }
}

async fn excess_is_refused(subject: &impl Subject) {
    let dir = Place::new();
    let capabilities = subject.runtime().capabilities();
    let base = subject.staying(dir.path());

    let mut small = base.clone();
    small.memory = Bytes(capabilities.min_memory.get().saturating_sub(1));
    let mut many = base.clone();
    let disk = crate::Disk {
        source: crate::DiskSource::Raw(dir.path().join("disk")),
        read_only: true,
        serial: "x".to_owned(),
    };
    many.disks = vec![disk.clone(); capabilities.max_disks + 1];
    let mut long = base.clone();
    long.disks = vec![crate::Disk { serial: "x".repeat(21), ..disk.clone() }];
    let mut odd = base;
    odd.disks = vec![crate::Disk { serial: "a,b".to_owned(), ..disk }];

    for config in [small, many, long, odd] {
        let launched = subject.runtime().launch(&config).await;
        assert!(matches!(launched, Err(LaunchError::Refused { .. })), "{:?}", launched.err());
        assert_no_sockets(&config);
    }
}

async fn disk_grows(subject: &impl Subject) {
    let dir = Place::new();
    let config = subject.staying(dir.path());
    let capabilities = subject.runtime().capabilities();
    let Some(disk) = config.disks.iter().find(|disk| !disk.read_only) else { return };
    if !capabilities.resize_disks {
        return skipped(subject.runtime(), "a disk that grows while its machine runs");
    }
    let crate::DiskSource::Raw(path) = &disk.source;
    let before = Bytes(fs::metadata(path).expect("the disk").len());
    let after = Bytes(before.get() * 2);
    let machine = dir.launch(subject.runtime(), &config).await;
    if let Some(size) = subject.disk_size(&machine, &disk.serial).await {
        assert_eq!(size, before);
    }
    fs::File::options()
        .write(true)
        .open(path)
        .and_then(|file| file.set_len(after.get()))
        .expect("the file grows");
    for _ in 0..2 {
        machine.resize_disk(&disk.serial, after).await.expect("the machine is told");
    }
    if let Some(size) = subject.disk_size(&machine, &disk.serial).await {
        assert_eq!(size, after, "the guest sees it");
    }
    assert_eq!(fs::metadata(path).expect("the disk").len(), after.get());
    let less = machine.resize_disk(&disk.serial, before).await;
    assert!(less.is_err(), "a disk never shrinks");
    assert_eq!(fs::metadata(path).expect("the disk").len(), after.get());
    machine.resize_disk("no-such-disk", after).await.expect_err("no such disk");
    machine.kill().await.expect("kill");
    machine.resize_disk(&disk.serial, after).await.expect_err("the machine has ended");
}

/// A guest whose PID 1 is our agent does not listen to it.
async fn power_button(subject: &impl Subject) {
    if !subject.runtime().capabilities().power_button {
        return skipped(subject.runtime(), "a power button");
    }
    let dir = Place::new();
    let config = subject.staying(dir.path());
    let machine = dir.launch(subject.runtime(), &config).await;
    machine.press_power_button().await.expect("it is pressed");
    machine.connect_console().await.expect("it lives on");
    machine.kill().await.expect("kill");
    assert_eq!(machine.wait().await, MachineEnd::Killed);
    machine.press_power_button().await.expect_err("the machine has ended");
}

async fn machines_are_apart(subject: &impl Subject) {
    let (dir_a, dir_b) = (Place::new(), Place::new());
    let a = subject.staying(dir_a.path());
    let b = MachineConfig { id: VmId::from_bytes([0xab; 5]), ..subject.staying(dir_b.path()) };
    let (machine_a, machine_b) =
        tokio::join!(dir_a.launch(subject.runtime(), &a), dir_b.launch(subject.runtime(), &b));
    machine_a.kill().await.expect("kill");
    machine_b.connect_console().await.expect("the other one lives on");
    machine_b.kill().await.expect("kill");
    assert_eq!(machine_a.wait().await, MachineEnd::Killed);
}
