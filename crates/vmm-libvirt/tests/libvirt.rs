//! The runtime suite, and what only libvirt can show, with real machines under
//! TCG. Needs QEMU, libvirt's packages unpacked below INN_TEST_LIBVIRT and, in
//! INN_TEST_KERNEL, a vmlinux or vmlinuz.

#![allow(clippy::unwrap_used, reason = "clippy takes a test's own functions for no tests")]

mod libvirtd;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use inn_host::process::Signal;
use inn_units::{Bytes, Vcpus, VmId};
use inn_vmm::conformance::{Place, Subject, TinyEnd, run_all, tiny_initramfs};
use inn_vmm::{
    Accel, AdoptError, Boot, ChannelKind, Console, Disk, DiskSource, Isolation, KernelBoot,
    LaunchError, Lifetime, Machine, MachineConfig, MachineEnd, Nic, NicBackend, Runtime,
};
use inn_vmm_libvirt::{LibvirtMachine, LibvirtRuntime, Settings};
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, sleep, timeout};

use self::libvirtd::{Libvirtd, PATIENCE};

const RETRY: Duration = Duration::from_millis(20);

struct Libvirt {
    libvirtd: Libvirtd,
    runtime: LibvirtRuntime,
    kernel: PathBuf,
}

impl Libvirt {
    async fn for_test(name: &str) -> Option<Self> {
        let Some(kernel) = std::env::var_os("INN_TEST_KERNEL") else {
            println!("SKIPPED {name}: INN_TEST_KERNEL names no kernel");
            return None;
        };
        let libvirtd = Libvirtd::for_test(name).await?;
        let runtime = libvirtd.runtime();
        runtime.probe().await.unwrap();
        Some(Self { libvirtd, runtime, kernel: kernel.into() })
    }

    fn tiny(&self, dir: &Path, end: TinyEnd) -> MachineConfig {
        let initramfs = dir.join(format!("{end:?}.cpio"));
        fs::write(&initramfs, tiny_initramfs("bye\n", end)).unwrap();
        self.config(dir, Some(initramfs), "")
    }

    fn config(&self, dir: &Path, initramfs: Option<PathBuf>, cmdline: &str) -> MachineConfig {
        let disk = |name: &str, read_only| {
            let path = dir.join(name);
            if !path.exists() {
                fs::File::create(&path).unwrap().set_len(1 << 20).unwrap();
            }
            Disk { source: DiskSource::Raw(path), read_only, serial: name.to_owned() }
        };
        let kernel = self.kernel.clone();
        MachineConfig {
            id: VmId::from_bytes([1; 5]),
            vcpus: Vcpus::ONE,
            memory: Bytes::mib(128),
            accel: Accel::Tcg,
            boot: Boot::Kernel(KernelBoot { kernel, initramfs, cmdline: cmdline.to_owned() }),
            from: None,
            disks: vec![disk("inn-root", true), disk("inn-rw", false)],
            nic: Some(Nic { mac: [0x52, 0x54, 0, 0, 0, 1], backend: NicBackend::User }),
            screen: false,
            generation_id: false,
            reboots_within: true,
            console: Console { log: dir.join("console.log"), log_limit: Bytes::mib(1) },
            channel: ChannelKind::Serial,
            run_dir: dir.join("run"),
            lifetime: Lifetime::Detached,
            isolation: Isolation::default(),
        }
    }

    async fn domains(&self) -> String {
        self.libvirtd.virsh(&["list", "--all", "--name"]).await.unwrap().trim().to_owned()
    }
}

impl Subject for Libvirt {
    type Runtime = LibvirtRuntime;

    fn runtime(&self) -> &LibvirtRuntime {
        &self.runtime
    }

    async fn disk_size(&self, machine: &LibvirtMachine, serial: &str) -> Option<Bytes> {
        Some(machine.disk_size(serial).await.unwrap())
    }

    fn staying(&self, dir: &Path) -> MachineConfig {
        self.tiny(dir, TinyEnd::Never)
    }

    fn ending(&self, dir: &Path) -> Vec<(MachineConfig, MachineEnd)> {
        let panicking = dir.join("panicking");
        fs::create_dir_all(&panicking).unwrap();
        vec![
            (self.tiny(dir, TinyEnd::PowerOff), MachineEnd::PoweredOff),
            (self.tiny(dir, TinyEnd::Reset), MachineEnd::Reset),
            (self.config(&panicking, None, "root=/dev/none"), MachineEnd::Panicked),
        ]
    }
}

async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        sleep(RETRY).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms() {
    let Some(libvirt) = Libvirt::for_test("libvirt conforms").await else { return };
    run_all(&libvirt).await;
    assert_eq!(libvirt.domains().await, "", "a definition is left");
    println!(
        "SKIPPED libvirt's guests of other CPUs than the host's: the suite's boot by a kernel and \
         speak to us, and such a one does neither; tests/e2e/libvirt/arm64.rs has one from its \
         disk to its end"
    );
}

/// A screen is nobody's who does not know its password, and a console's output
/// is seen live and in its log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_console_and_a_screen_are_seen() {
    let Some(libvirt) = Libvirt::for_test("libvirt's console").await else { return };
    let place = Place::new();
    let config = MachineConfig { screen: true, ..libvirt.staying(place.path()) };
    let machine = place.launch(&libvirt.runtime, &config).await;
    let mut console = machine.connect_console().await.unwrap();
    let mut seen = Vec::new();
    while !seen.windows(3).any(|window| window == b"bye") {
        let read = timeout(PATIENCE, console.read_buf(&mut seen)).await.unwrap().unwrap();
        assert!(read > 0, "the console closes");
    }
    machine.set_vnc_password("secret").await.unwrap();
    let mut screen = machine.connect_vnc().await.unwrap();
    let mut version = [0; 12];
    timeout(PATIENCE, screen.read_exact(&mut version)).await.unwrap().unwrap();
    assert_eq!(&version[..4], b"RFB ", "RFC 6143, 7.1.1");
    for _ in 0..2 {
        machine.pause().await.unwrap();
        machine.resume().await.unwrap();
    }
    machine.kill().await.unwrap();
    let log = fs::read(&config.console.log).unwrap();
    assert!(log.windows(3).any(|window| window == b"bye"), "the log has it");

    // What boots by firmware has its console there, too.
    let place = Place::new();
    let config = MachineConfig { boot: Boot::Firmware, ..libvirt.staying(place.path()) };
    let machine = place.launch(&libvirt.runtime, &config).await;
    until("the firmware speaks", async || {
        let log = fs::read(&config.console.log).unwrap();
        log.windows(7).any(|window| window == b"SeaBIOS").then_some(())
    })
    .await;
    machine.kill().await.unwrap();
}

/// One that restarts, one that hangs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_libvirtd_that_is_away_ends_no_machine_and_hides_no_end() {
    let Some(libvirt) = Libvirt::for_test("libvirtd is away").await else { return };
    let runtime = &libvirt.runtime;
    let place = Place::new();
    let config = libvirt.staying(place.path());
    let machine = place.launch(runtime, &config).await;
    libvirt.libvirtd.restart().await;
    // Nobody asks: the connection is made again for those who listen.
    until("it is reached again", async || machine.pause().await.ok()).await;
    machine.resume().await.unwrap();
    machine.connect_console().await.unwrap();
    // Adopted while libvirtd starts: the process says whose it is.
    let identity = machine.identity().clone();
    drop(machine);
    libvirt.libvirtd.restart().await;
    let machine = runtime.adopt(config.id, &identity, &config.run_dir).await.unwrap();

    let daemon = libvirt.libvirtd.daemon().await;
    daemon.kill(Signal::STOP).unwrap();
    machine.kill().await.unwrap();
    assert_eq!(machine.wait().await, MachineEnd::Killed);
    let hung = runtime.launch(&config).await.unwrap_err();
    assert!(hung.to_string().contains("does not answer"), "{hung}");
    daemon.kill(Signal::CONT).unwrap();
    until("it is reached again", async || {
        runtime.reap(config.id, None, &config.run_dir).await.ok()
    })
    .await;
    assert_eq!(libvirt.domains().await, "");

    // An end while it is away: the console tells what nobody heard.
    let place = Place::new();
    let config = libvirt.tiny(place.path(), TinyEnd::Reset);
    let machine = place.launch(runtime, &config).await;
    libvirt.libvirtd.restart().await;
    assert_eq!(timeout(PATIENCE, machine.wait()).await.unwrap(), MachineEnd::Reset);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_do_to_a_domain_is_seen_and_named() {
    let Some(libvirt) = Libvirt::for_test("libvirt's domains, by others").await else { return };
    let (runtime, virsh) = (&libvirt.runtime, &libvirt.libvirtd);
    let place = Place::new();
    let config = libvirt.staying(place.path());
    let name = format!("inn-{}", config.id);

    let machine = place.launch(runtime, &config).await;
    virsh.virsh(&["destroy", &name]).await.unwrap();
    let end = timeout(PATIENCE, machine.wait()).await.unwrap();
    assert!(matches!(&end, MachineEnd::Died(how) if how.contains("somebody else")), "{end:?}");
    assert_eq!(libvirt.domains().await, "");

    // Without its definition it goes on, and is ours still.
    let machine = place.launch(runtime, &config).await;
    virsh.virsh(&["undefine", &name]).await.unwrap();
    let identity = machine.identity().clone();
    drop(machine);
    let machine = runtime.adopt(config.id, &identity, &config.run_dir).await.unwrap();
    machine.kill().await.unwrap();
    assert_eq!(machine.wait().await, MachineEnd::Killed);
    assert_eq!(libvirt.domains().await, "");

    // An end that nobody watched is told by what libvirt has kept.
    let ending = libvirt.tiny(place.path(), TinyEnd::PowerOff);
    let machine = place.launch(runtime, &ending).await;
    let identity = machine.identity().clone();
    drop(machine);
    until("it has ended", async || {
        let state = virsh.virsh(&["domstate", &name]).await.unwrap();
        state.contains("shut off").then_some(())
    })
    .await;
    let machine = runtime.adopt(ending.id, &identity, &ending.run_dir).await.unwrap();
    assert_eq!(machine.wait().await, MachineEnd::PoweredOff);
    let again = runtime.adopt(ending.id, &identity, &ending.run_dir).await;
    assert!(matches!(again, Err(AdoptError::Gone { .. })), "{again:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_domain_of_somebody_elses_is_listed_and_left_alone() {
    let Some(libvirt) = Libvirt::for_test("libvirt's foreign domains").await else { return };
    let (runtime, virsh) = (&libvirt.runtime, &libvirt.libvirtd);
    let place = Place::new();
    let config = libvirt.staying(place.path());
    let name = format!("inn-{}", config.id);
    let foreign = place.path().join("foreign.xml");
    let xml = format!(
        "<domain type='qemu'><name>{name}</name><memory unit='MiB'>64</memory>\
         <os><type arch='x86_64' machine='q35'>hvm</type></os></domain>"
    );
    fs::write(&foreign, xml).unwrap();
    virsh.virsh(&["define", foreign.to_str().unwrap()]).await.unwrap();
    assert_eq!(runtime.foreign_domains().await.unwrap(), std::slice::from_ref(&name));

    let refused = runtime.launch(&config).await.unwrap_err();
    assert!(refused.to_string().contains("somebody else's"), "{refused}");
    fs::write(config.run_dir.join("domain.xml"), "").unwrap();
    runtime.reap(config.id, None, &config.run_dir).await.unwrap();
    assert_eq!(libvirt.domains().await, name, "it is left alone");

    let other = MachineConfig { id: VmId::from_bytes([2; 5]), ..config };
    let machine = place.launch(runtime, &other).await;
    assert_eq!(runtime.foreign_domains().await.unwrap(), [name], "ours is none of them");
    machine.kill().await.unwrap();
}

#[tokio::test]
async fn a_libvirt_that_is_not_there_is_told_as_that() {
    let empty = tempfile::tempdir().unwrap();
    let library_dir = Some(empty.path().to_owned());
    let missing = LibvirtRuntime::discover(Settings { library_dir, ..Settings::default() });
    let missing = missing.unwrap_err();
    assert!(matches!(missing, LaunchError::MissingProgram { .. }), "{missing}");
    assert!(missing.to_string().contains("install libvirt"), "{missing}");

    let Some(libvirt) = Libvirt::for_test("libvirt is not there").await else { return };
    let uri = format!("qemu+unix:///system?socket={}", empty.path().join("none").display());
    let settings = Settings { uri, ..libvirt.libvirtd.settings() };
    let writer = env!("CARGO_BIN_EXE_inn-libvirt-log-writer");
    let away = LibvirtRuntime::with_log_writer(settings, writer.into()).unwrap();
    let why = away.probe().await.unwrap_err();
    assert!(why.contains("is libvirtd running?"), "{why}");
    let place = Place::new();
    let config = libvirt.staying(place.path());
    let refused = away.launch(&config).await.unwrap_err();
    assert!(refused.to_string().contains("is libvirtd running?"), "{refused}");
    assert!(!config.run_dir.join("console.sock").exists());
}

/// By one connection, with descriptors in both directions of time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_start_at_once() {
    let Some(libvirt) = Libvirt::for_test("libvirt, many at once").await else { return };
    let places: Vec<Place> = (0..4).map(|_| Place::new()).collect();
    let launch = async |place: &Place, number: u8| {
        let id = VmId::from_bytes([number; 5]);
        let config = MachineConfig { id, ..libvirt.staying(place.path()) };
        place.launch(&libvirt.runtime, &config).await
    };
    let (a, b, c, d) = tokio::join!(
        launch(&places[0], 1),
        launch(&places[1], 2),
        launch(&places[2], 3),
        launch(&places[3], 4)
    );
    for machine in [a, b, c, d] {
        machine.kill().await.unwrap();
    }
    assert_eq!(libvirt.domains().await, "");
}

/// Tells what a start costs beside `virsh start` of the same domain; no verdict,
/// since a busy host is no slow libvirt.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_is_told_beside_virsh_s() {
    const TIMES: usize = 5;
    let Some(libvirt) = Libvirt::for_test("libvirt's start beside virsh's").await else { return };
    let virsh = &libvirt.libvirtd;
    let place = Place::new();
    let config = libvirt.staying(place.path());
    let name = format!("inn-{}", config.id);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let definition = place.path().join("same.xml");
    for _ in 0..TIMES {
        let from = Instant::now();
        let machine = place.launch(&libvirt.runtime, &config).await;
        ours.push(from.elapsed());
        fs::copy(config.run_dir.join("domain.xml"), &definition).unwrap();
        machine.kill().await.unwrap();

        virsh.virsh(&["define", definition.to_str().unwrap()]).await.unwrap();
        let from = Instant::now();
        virsh.virsh(&["start", &name]).await.unwrap();
        theirs.push(from.elapsed());
        virsh.virsh(&["destroy", &name]).await.unwrap();
        virsh.virsh(&["undefine", &name]).await.unwrap();
    }
    let median = |mut all: Vec<Duration>| {
        all.sort();
        all[TIMES / 2]
    };
    println!("libvirt: a start takes {:?}, virsh start {:?}", median(ours), median(theirs));
    let steps = libvirt.runtime.launch(&config).await.unwrap();
    println!("libvirt: {:?}", steps.steps);
    steps.machine.kill().await.unwrap();
}
