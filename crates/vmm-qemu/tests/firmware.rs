//! The runtime suite with machines that boot a disk by firmware: a boot sector
//! of a few instructions each. Needs QEMU, and no kernel.

#![allow(clippy::unwrap_used, reason = "clippy takes a test's own functions for no tests")]

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use inn_units::{Bytes, Vcpus, VmId};
use inn_vmm::conformance::{Place, Subject, run_all};
use inn_vmm::{
    Accel, Boot, ChannelKind, Console, Disk, DiskSource, LaunchError, Lifetime, Machine,
    MachineConfig, MachineEnd, Nic, NicBackend, Runtime,
};
use inn_vmm_qemu::{QemuMachine, QemuRuntime};
use tokio::io::AsyncReadExt;

/// Far beyond an emulated boot on a loaded host.
const PATIENCE: Duration = Duration::from_secs(180);

/// What a boot sector does, in 16-bit code.
#[derive(Clone, Copy)]
enum Sector {
    Stays,
    PowersOff,
    /// Prints a letter on the serial port first.
    Reboots,
}

impl Sector {
    fn bytes(self) -> Vec<u8> {
        let mut code: Vec<u8> = match self {
            // cli; hlt; jmp back to the hlt
            Self::Stays => vec![0xfa, 0xf4, 0xeb, 0xfd],
            // mov dx, 0x604; mov ax, 0x2000; out dx, ax: ACPI's PM1a control,
            // where SeaBIOS puts it on q35, "soft off".
            Self::PowersOff => vec![0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef, 0xf4],
            // mov dx, 0x3f8; mov al, '@'; out dx, al: the first serial port.
            // mov dx, 0xcf9; mov al, 6; out dx, al: the chipset's reset.
            Self::Reboots => {
                vec![0xba, 0xf8, 0x03, 0xb0, b'@', 0xee, 0xba, 0xf9, 0x0c, 0xb0, 6, 0xee, 0xf4]
            }
        };
        code.resize(510, 0);
        code.extend_from_slice(&[0x55, 0xaa]);
        code
    }
}

/// QEMU, with a log writer of its own program: a test's own is none.
fn discover() -> Result<QemuRuntime, LaunchError> {
    let writer = env!("CARGO_BIN_EXE_inn-log-writer");
    Ok(QemuRuntime::discover()?.with_log_writer(writer.into()))
}

struct Firmware(QemuRuntime);

impl Firmware {
    /// Says aloud why a test cannot run here.
    fn for_test(name: &str) -> Option<Self> {
        match discover() {
            Ok(runtime) => Some(Self(runtime)),
            Err(error @ LaunchError::MissingProgram { .. }) => {
                println!("SKIPPED {name}: {error}");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn config(&self, dir: &Path, sector: Sector) -> MachineConfig {
        let disk = |name: &str, bytes: &[u8]| {
            let path = dir.join(name);
            let mut file = File::create(&path).unwrap();
            file.write_all(bytes).unwrap();
            file.set_len(1 << 20).unwrap();
            Disk { source: DiskSource::Raw(path), read_only: false, serial: name.to_owned() }
        };
        MachineConfig {
            id: VmId::from_bytes([2; 5]),
            vcpus: Vcpus::new(2).unwrap(),
            memory: Bytes::mib(128),
            accel: Accel::Tcg,
            boot: Boot::Firmware,
            // The second would end the machine, were it ever booted.
            disks: vec![
                disk("inn-disk", &sector.bytes()),
                disk("inn-more", &Sector::PowersOff.bytes()),
            ],
            nic: Some(Nic { mac: [0x52, 0x54, 0, 0, 0, 1], backend: NicBackend::User }),
            console: Console { log: dir.join("console.log"), log_limit: Bytes::mib(1) },
            channel: ChannelKind::Serial,
            run_dir: dir.join("run"),
            lifetime: Lifetime::Detached,
            isolation: inn_vmm::Isolation::default(),
        }
    }
}

impl Subject for Firmware {
    type Runtime = QemuRuntime;

    fn runtime(&self) -> &QemuRuntime {
        &self.0
    }

    async fn disk_size(&self, machine: &QemuMachine, serial: &str) -> Option<Bytes> {
        Some(machine.disk_size(serial).await.unwrap())
    }

    fn staying(&self, dir: &Path) -> MachineConfig {
        self.config(dir, Sector::Stays)
    }

    fn ending(&self, dir: &Path) -> Vec<(MachineConfig, MachineEnd)> {
        vec![(self.config(dir, Sector::PowersOff), MachineEnd::PoweredOff)]
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms_by_firmware() {
    let Some(firmware) = Firmware::for_test("conforms by firmware") else { return };
    assert!(firmware.0.capabilities().firmware);
    run_all(&firmware).await;
}

#[tokio::test]
async fn a_reboot_stays_within_the_machine() {
    let Some(firmware) = Firmware::for_test("reboot by firmware") else { return };
    let dir = Place::new();
    let config = firmware.config(dir.path(), Sector::Reboots);
    let machine = dir.launch(&firmware.0, &config).await;
    let mut console = machine.connect_console().await.unwrap();
    let rebooted = async {
        let mut seen = 0;
        while seen < 3 {
            let mut text = [0; 256];
            let count = console.read(&mut text).await.unwrap();
            assert_ne!(count, 0, "the console closed");
            seen += text[..count].iter().filter(|byte| **byte == b'@').count();
        }
    };
    tokio::select! {
        done = tokio::time::timeout(PATIENCE, rebooted) => done.unwrap(),
        end = machine.wait() => panic!("the machine ended: {end:?}"),
    }
    machine.kill().await.unwrap();
    assert_eq!(machine.wait().await, MachineEnd::Killed);
    let log = fs::read(&config.console.log).unwrap();
    assert!(String::from_utf8_lossy(&log).contains("SeaBIOS"), "the firmware is seen at work");
}
