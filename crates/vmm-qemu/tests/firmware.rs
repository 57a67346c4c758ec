//! The runtime suite with machines that boot a disk by firmware: a boot sector
//! of a few instructions each. Needs QEMU, and no kernel.

#![allow(clippy::unwrap_used, reason = "clippy takes a test's own functions for no tests")]

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use des::Des;
use des::cipher::{BlockCipherEncrypt, KeyInit};
use inn_units::{Bytes, Vcpus, VmId};
use inn_vmm::conformance::{Place, Subject, run_all};
use inn_vmm::{
    Accel, Boot, ChannelKind, Console, Disk, DiskSource, LaunchError, Lifetime, Machine,
    MachineConfig, MachineEnd, Nic, NicBackend, Runtime,
};
use inn_vmm_qemu::{QemuMachine, QemuRuntime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

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
            from: None,
            disks: vec![
                disk("inn-disk", &sector.bytes()),
                disk("inn-more", &Sector::PowersOff.bytes()),
            ],
            nic: Some(Nic { mac: [0x52, 0x54, 0, 0, 0, 1], backend: NicBackend::User }),
            screen: true,
            generation_id: false,
            reboots_within: true,
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

/// RFC 6143, 7.1 and 7.2.2: as a viewer does it. What the server says in the
/// end: 0 is in, and then how wide and high the screen is.
async fn log_in(screen: &mut UnixStream, password: &str) -> (u32, Option<(u16, u16)>) {
    let mut version = [0; 12];
    screen.read_exact(&mut version).await.unwrap();
    assert_eq!(&version, b"RFB 003.008\n");
    screen.write_all(&version).await.unwrap();
    let kinds = usize::from(screen.read_u8().await.unwrap());
    let mut offered = vec![0; kinds];
    screen.read_exact(&mut offered).await.unwrap();
    assert_eq!(offered, [2], "nobody gets in but by a password");
    screen.write_u8(2).await.unwrap();
    let mut challenge = [0; 16];
    screen.read_exact(&mut challenge).await.unwrap();
    let mut key = [0; 8];
    for (slot, byte) in key.iter_mut().zip(password.bytes()) {
        // The lowest bit first, as all VNC programs have it.
        *slot = byte.reverse_bits();
    }
    let des = Des::new(&key.into());
    for half in challenge.chunks_exact_mut(8) {
        let mut block = <[u8; 8]>::try_from(&*half).unwrap().into();
        des.encrypt_block(&mut block);
        half.copy_from_slice(&block);
    }
    screen.write_all(&challenge).await.unwrap();
    let result = screen.read_u32().await.unwrap();
    if result != 0 {
        return (result, None);
    }
    screen.write_u8(1).await.unwrap();
    let size = (screen.read_u16().await.unwrap(), screen.read_u16().await.unwrap());
    (result, Some(size))
}

#[tokio::test]
async fn a_screen_is_shown_to_who_knows_its_password() {
    let Some(firmware) = Firmware::for_test("screen by firmware") else { return };
    let dir = Place::new();
    let config = firmware.config(dir.path(), Sector::Stays);
    let machine = dir.launch(&firmware.0, &config).await;
    let log_in_with = async |password: &str| {
        let mut screen = machine.connect_vnc().await.unwrap();
        tokio::time::timeout(PATIENCE, log_in(&mut screen, password)).await.unwrap()
    };
    assert_ne!(log_in_with("").await.0, 0, "no password is set");
    machine.set_vnc_password("k3vnT8xq").await.unwrap();
    assert_ne!(log_in_with("k3vnT8xz").await.0, 0, "another one");
    let (result, size) = log_in_with("k3vnT8xq").await;
    assert_eq!(result, 0);
    let (width, height) = size.unwrap();
    assert!(width >= 320 && height >= 200, "{width}x{height}");
    machine.set_vnc_password("another1").await.unwrap();
    assert_ne!(log_in_with("k3vnT8xq").await.0, 0, "it is another one by now");

    // Also by an agent that has not launched it.
    let identity = machine.identity().clone();
    drop(machine);
    let adopted = firmware.0.adopt(config.id, &identity, &config.run_dir).await.unwrap();
    adopted.set_vnc_password("adopted1").await.unwrap();
    let mut screen = adopted.connect_vnc().await.unwrap();
    let (result, _) =
        tokio::time::timeout(PATIENCE, log_in(&mut screen, "adopted1")).await.unwrap();
    assert_eq!(result, 0);
    let command = fs::read(format!("/proc/{}/cmdline", identity.pid)).unwrap();
    assert!(!String::from_utf8_lossy(&command).contains("adopted1"));
    adopted.kill().await.unwrap();
}
