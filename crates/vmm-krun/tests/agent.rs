//! The real guest agent as PID 1 under libkrun, by the vsock's socket. Needs
//! mkfs.ext4 and the static inn-guest that building the `inn` binary makes.

#![allow(clippy::unwrap_used, reason = "clippy takes a test's own functions for no tests")]

mod guests;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use inn_guest_session::{GuestSession, ShutdownKind};
use inn_host::process::{Program, run_blocking};
use inn_image::initramfs::ModuleSet;
use inn_image::kernel::{GuestBinary, KernelStore};
use inn_units::Bytes;
use inn_vmm::conformance::Place;
use inn_vmm::{Machine, MachineConfig, MachineEnd, Runtime};
use inn_vmm_krun::KrunMachine;
use tokio::time::{sleep, timeout};

use self::guests::Krun;

/// Far beyond a boot on a loaded host.
const PATIENCE: Duration = Duration::from_secs(300);

#[tokio::test]
async fn the_agent_is_met_by_one_life_after_the_other_and_switches_off() {
    let name = "the guest agent under libkrun";
    let Some(krun) = Krun::for_test(name) else { return };
    let Some(guest) = guest_binary() else {
        return println!("SKIPPED {name}: INN_TEST_GUEST names no static inn-guest");
    };
    let dir = Place::new();
    for serial in ["inn-root", "inn-rw"] {
        file_system(&dir.path().join(serial));
    }
    let kernels = KernelStore::open(&dir.path().join("kernels")).unwrap();
    let kernel = kernels.resolve(Some(krun.guest.kernel()), dir.path()).unwrap();
    let guest = std::fs::read(guest).unwrap();
    let initramfs = kernels.initramfs(&kernel, GuestBinary::new(&guest), ModuleSet::Mmio).unwrap();
    let config =
        MachineConfig { memory: Bytes::mib(192), ..krun.guest.config(dir.path(), Some(initramfs)) };

    let from = Instant::now();
    let machine = dir.launch(&krun.runtime, &config).await;
    let first = meet(&machine).await;
    println!("libkrun: {} answers after {:?}", first.hello().version, from.elapsed());
    assert!(first.hello().is_init, "{:?}", first.hello());
    let round_trip = first.ping().await.unwrap();
    println!("libkrun: a round trip takes {round_trip:?}");
    let boot = first.hello().boot_id.clone();

    // Another life of the host's agent takes over from one that never said
    // goodbye.
    let identity = machine.identity().clone();
    drop((machine, first));
    let machine = krun.runtime.adopt(config.id, &identity, &config.run_dir).await.unwrap();
    let second = meet(&machine).await;
    assert_eq!(second.hello().boot_id, boot);
    second.shutdown(ShutdownKind::PowerOff, Duration::from_secs(1)).await.unwrap();
    assert_eq!(timeout(PATIENCE, machine.wait()).await.unwrap(), MachineEnd::PoweredOff);
}

/// As often as it takes: libkrun hangs up where nobody listens in the guest yet.
async fn meet(machine: &KrunMachine) -> GuestSession {
    let meeting = async {
        loop {
            let met = async {
                let stream = machine.connect_channel().await.map_err(|e| e.to_string())?;
                GuestSession::establish(stream).await.map_err(|e| e.to_string())
            };
            match met.await {
                Ok(session) => return session,
                Err(_not_yet) => sleep(Duration::from_millis(50)).await,
            }
        }
    };
    timeout(PATIENCE, meeting).await.expect("the guest greets")
}

fn file_system(path: &Path) {
    File::create(path).unwrap().set_len(16 << 20).unwrap();
    let args = ["-q", "-F", "-O", "^has_journal", path.to_str().unwrap()];
    run_blocking(Program::MKFS_EXT4, args, PATIENCE).unwrap();
}

/// INN_TEST_GUEST, or where the build script of the package inn makes it.
fn guest_binary() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("INN_TEST_GUEST") {
        return Some(path.into());
    }
    let own = std::env::current_exe().unwrap();
    own.ancestors()
        .map(|dir| dir.join("guest-build/x86_64-unknown-linux-gnu/guest/inn-guest"))
        .find(|path| path.exists())
}
