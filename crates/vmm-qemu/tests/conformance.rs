//! The runtime suite, and what only QEMU can show, with real machines under
//! TCG. Needs QEMU and, in INN_TEST_KERNEL, a vmlinux or vmlinuz.

#![allow(clippy::unwrap_used, reason = "clippy takes a test's own functions for no tests")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use inn_host::process::{Process, ProcessIdentity, Signal};
use inn_units::{Bytes, Vcpus, VmId};
use inn_vmm::conformance::{Place, Subject, TinyEnd, run_all, tiny_initramfs};
use inn_vmm::{
    Accel, AdoptError, Boot, ChannelKind, Console, Disk, DiskSource, Isolation, KernelBoot,
    LaunchError, Lifetime, Machine, MachineConfig, MachineEnd, MachineIdentity, Nic, NicBackend,
    Runtime, VmmUser,
};
use inn_vmm_qemu::{QemuMachine, QemuRuntime};
use tokio::io::AsyncReadExt;

/// Far beyond an emulated boot on a loaded host.
const PATIENCE: Duration = Duration::from_secs(180);

/// QEMU, with a log writer of its own program: a test's own is none.
fn discover() -> Result<QemuRuntime, LaunchError> {
    let writer = env!("CARGO_BIN_EXE_inn-log-writer");
    Ok(QemuRuntime::discover()?.with_log_writer(writer.into()))
}

struct Qemu {
    runtime: QemuRuntime,
    kernel: PathBuf,
    isolation: Isolation,
}

/// As an agent that is root has them: a user each, a root directory without
/// the host's files. Not the uids of any agent's range.
fn nobodies(runtime: &QemuRuntime) -> Option<Isolation> {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED, as nobody: only root may become nobody");
        return None;
    }
    let jailed =
        runtime.can_jail().inspect_err(|why| println!("SKIPPED, the root directory: {why}"));
    Some(Isolation {
        user: Some(VmmUser { uid: 1_879_000_001, groups: Vec::new() }),
        log_uid: Some(1_879_000_002),
        jailed: jailed.is_ok(),
        groups: Vec::new(),
    })
}

impl Qemu {
    /// Says aloud why a test cannot run here.
    fn for_test(name: &str) -> Option<Self> {
        let Some(kernel) = std::env::var_os("INN_TEST_KERNEL") else {
            println!("SKIPPED {name}: INN_TEST_KERNEL names no kernel");
            return None;
        };
        match discover() {
            Ok(runtime) => {
                Some(Self { runtime, kernel: kernel.into(), isolation: Isolation::default() })
            }
            Err(error @ LaunchError::MissingProgram { .. }) => {
                println!("SKIPPED {name}: {error}");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn tiny(&self, dir: &Path, line: &str, end: TinyEnd) -> MachineConfig {
        let initramfs = dir.join(format!("{end:?}.cpio"));
        std::fs::write(&initramfs, tiny_initramfs(line, end)).unwrap();
        let boot = KernelBoot { initramfs: Some(initramfs), ..self.kernel_boot("") };
        MachineConfig { boot: Boot::Kernel(boot), ..self.config(dir, "") }
    }

    fn kernel_boot(&self, cmdline: &str) -> KernelBoot {
        KernelBoot { kernel: self.kernel.clone(), initramfs: None, cmdline: cmdline.to_owned() }
    }

    fn config(&self, dir: &Path, cmdline: &str) -> MachineConfig {
        let disk = |name: &str, read_only| {
            let path = dir.join(name);
            std::fs::File::create(&path).unwrap().set_len(1 << 20).unwrap();
            Disk { source: DiskSource::Raw(path), read_only, serial: name.to_owned() }
        };
        MachineConfig {
            id: VmId::from_bytes([1; 5]),
            vcpus: Vcpus::ONE,
            memory: Bytes::mib(128),
            accel: Accel::Tcg,
            boot: Boot::Kernel(self.kernel_boot(cmdline)),
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
            isolation: self.isolation.clone(),
        }
    }
}

impl Subject for Qemu {
    type Runtime = QemuRuntime;

    fn runtime(&self) -> &QemuRuntime {
        &self.runtime
    }

    async fn disk_size(&self, machine: &QemuMachine, serial: &str) -> Option<Bytes> {
        Some(machine.disk_size(serial).await.unwrap())
    }

    /// A kernel that waits for ever for a root that never comes.
    fn staying(&self, dir: &Path) -> MachineConfig {
        self.config(dir, "root=/dev/none rootwait")
    }

    fn ending(&self, dir: &Path) -> Vec<(MachineConfig, MachineEnd)> {
        vec![
            (self.tiny(dir, "bye\n", TinyEnd::PowerOff), MachineEnd::PoweredOff),
            (self.tiny(dir, "bye\n", TinyEnd::Reset), MachineEnd::Reset),
            // A kernel without a root panics, and resets a moment later.
            (self.config(dir, ""), MachineEnd::Panicked),
        ]
    }
}

fn process_of(identity: &MachineIdentity) -> ProcessIdentity {
    ProcessIdentity {
        pid: identity.pid,
        start_ticks: identity.start_ticks,
        host_boot_id: identity.host_boot_id.clone(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms() {
    let Some(qemu) = Qemu::for_test("conforms") else { return };
    run_all(&qemu).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms_on_q35() {
    let Some(qemu) = Qemu::for_test("conforms on q35") else { return };
    run_all(&Qemu { runtime: qemu.runtime.clone().with_q35(), ..qemu }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms_as_nobody() {
    let Some(qemu) = Qemu::for_test("conforms as nobody") else { return };
    let Some(isolation) = nobodies(&qemu.runtime) else { return };
    run_all(&Qemu { isolation, ..qemu }).await;
}

#[tokio::test]
async fn a_vmm_and_its_log_writer_see_nothing_of_the_host() {
    let Some(qemu) = Qemu::for_test("root directory") else { return };
    let Some(isolation) = nobodies(&qemu.runtime).filter(|isolation| isolation.jailed) else {
        return;
    };
    let dir = Place::new();
    let qemu = Qemu { isolation, ..qemu };
    let config = qemu.staying(dir.path());
    let machine = dir.launch(&qemu.runtime, &config).await;
    let writer = inn_host::log_writer::find(&config.run_dir.join("vmm.log")).unwrap().unwrap();
    for pid in [machine.identity().pid, writer.identity().pid] {
        let inside = |path: &str| PathBuf::from(format!("/proc/{pid}/root{path}"));
        let mut seen = Vec::new();
        files_below(&inside("/"), Path::new("/"), &mut seen);
        seen.retain(|file| !needed(file));
        assert_eq!(seen, Vec::<PathBuf>::new());
        assert!(!inside("/usr/bin/sh").exists());
        assert!(!inside(dir.path().to_str().unwrap()).exists());
        assert!(inside("/usr/share").is_dir() && inside("/dev/null").exists());
        let denied = std::fs::File::create(inside("/x")).unwrap_err();
        assert_eq!(denied.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    }
    let uid = |pid: u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
        line.split_whitespace().next().unwrap().parse::<u32>().unwrap()
    };
    let uids = [uid(machine.identity().pid), uid(writer.identity().pid)];
    assert_eq!(uids, [1_879_000_001, 1_879_000_002]);
    machine.kill().await.unwrap();
    assert!(!writer.is_alive(), "it has ended with its machine");
    drop(qemu);
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains("size=64k,nr_inodes=256"), "seen outside: {mounts}");
}

/// Whether a machine's processes do need a file, wherever programs are
/// installed and a resolver keeps its configuration.
fn needed(file: &Path) -> bool {
    let programs = ["qemu-system-x86_64", "vhost-device-vsock", "inn-log-writer"];
    let resolver = std::fs::canonicalize("/etc/resolv.conf").unwrap_or_default();
    let few = ["/dev/null", "/dev/urandom", "/dev/kvm", "/etc/ld.so.cache", "/etc/resolv.conf"];
    few.iter().any(|one| file == Path::new(one))
        || programs.iter().any(|one| file.ends_with(one))
        || (resolver.parent() == file.parent() && file.parent() != Some(Path::new("/etc")))
}

/// But for what all of the distribution's programs share.
fn files_below(dir: &Path, name: &Path, found: &mut Vec<PathBuf>) {
    let shared = [
        "/lib",
        "/lib64",
        "/proc",
        "/usr/lib",
        "/usr/lib32",
        "/usr/lib64",
        "/usr/libexec",
        "/usr/libx32",
        "/usr/share",
    ];
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let name = name.join(entry.file_name());
        if shared.iter().any(|shared| name == Path::new(shared)) {
            continue;
        }
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => files_below(&entry.path(), &name, found),
            // Such as /lib: into what is shared.
            kind if kind.is_symlink() && name.parent() == Some(Path::new("/")) => {}
            _ => found.push(name),
        }
    }
}

#[tokio::test]
async fn the_console_is_live_and_logged() {
    let Some(qemu) = Qemu::for_test("console") else { return };
    let dir = Place::new();
    let config = qemu.tiny(dir.path(), "a word from init\n", TinyEnd::Never);
    let machine = dir.launch(&qemu.runtime, &config).await;
    let mut console = machine.connect_console().await.unwrap();
    let mut live = Vec::new();
    tokio::time::timeout(PATIENCE, async {
        while !String::from_utf8_lossy(&live).contains("a word from init") {
            assert_ne!(console.read_buf(&mut live).await.unwrap(), 0, "the console closed");
        }
    })
    .await
    .unwrap();
    // QEMU logs a byte after it has sent it: complete is the log at the end.
    machine.kill().await.unwrap();
    let logged = inn_vmm::read_tail(&config.console.log, 1 << 20).unwrap();
    assert!(String::from_utf8_lossy(&logged).contains("a word from init"));
}

#[tokio::test]
async fn a_killed_qemu_is_seen_and_its_sockets_go() {
    let Some(qemu) = Qemu::for_test("killed") else { return };
    let dir = Place::new();
    let config = qemu.staying(dir.path());
    let machine = dir.launch(&qemu.runtime, &config).await;
    let process = Process::open(&process_of(machine.identity())).unwrap();
    process.kill(Signal::KILL).unwrap();
    let MachineEnd::Died(how) = machine.wait().await else { panic!("not seen as died") };
    assert!(how.contains("SIGKILL"), "{how}");
    assert!(!config.run_dir.join("qmp.sock").exists());
}

#[tokio::test]
async fn a_stopped_qemu_is_unresponsive_and_can_still_be_killed() {
    let Some(qemu) = Qemu::for_test("stopped") else { return };
    let dir = Place::new();
    let config = qemu.staying(dir.path());
    let machine = dir.launch(&qemu.runtime, &config).await;
    let identity = machine.identity().clone();
    Process::open(&process_of(&identity)).unwrap().kill(Signal::STOP).unwrap();

    // The connection that is still open is seen as lost by nobody; a new life
    // begins where the old one's is closed.
    drop(machine);
    let adopted = qemu.runtime.adopt(config.id, &identity, &config.run_dir).await;
    assert!(matches!(adopted, Err(AdoptError::Unresponsive { .. })), "{:?}", adopted.err());

    let process = Process::open(&process_of(&identity)).unwrap();
    process.kill(Signal::CONT).unwrap();
    let adopted = qemu.runtime.adopt(config.id, &identity, &config.run_dir).await.unwrap();
    process.kill(Signal::STOP).unwrap();
    adopted.kill().await.unwrap();
    assert!(!process.is_alive());
}

#[tokio::test]
async fn a_qemu_that_refuses_says_why_and_leaves_nothing() {
    let Some(qemu) = Qemu::for_test("refuses") else { return };
    let dir = Place::new();
    let mut config = qemu.staying(dir.path());
    config.disks[1].source = DiskSource::Raw(dir.path().join("no-such-disk"));
    let error = qemu.runtime.launch(&config).await.unwrap_err();
    let LaunchError::Failed { reason, log, .. } = error else { panic!("{error}") };
    assert!(reason.contains("exit status: 1"), "{reason}");
    assert!(log.iter().any(|line| line.contains("no-such-disk")), "{log:?}");
    assert!(!config.run_dir.join("qmp.sock").exists());
}

#[tokio::test]
async fn one_root_disk_serves_many_and_a_written_one_only_one() {
    let Some(qemu) = Qemu::for_test("shared disks") else { return };
    let (dir_a, dir_b) = (Place::new(), Place::new());
    let a = qemu.staying(dir_a.path());
    let mut b = qemu.staying(dir_b.path());
    b.disks[0] = a.disks[0].clone();
    let machine_a = dir_a.launch(&qemu.runtime, &a).await;
    let machine_b = dir_b.launch(&qemu.runtime, &b).await;
    machine_b.kill().await.unwrap();

    b.disks[1] = a.disks[1].clone();
    let error = qemu.runtime.launch(&b).await.unwrap_err();
    let LaunchError::Failed { log, .. } = error else { panic!("{error}") };
    assert!(log.iter().any(|line| line.contains("lock")), "{log:?}");
    machine_a.kill().await.unwrap();
}

#[tokio::test]
async fn a_run_directory_may_have_a_long_path() {
    let Some(qemu) = Qemu::for_test("long path") else { return };
    let dir = Place::new();
    let mut config = qemu.staying(dir.path());
    config.run_dir = dir.path().join("x".repeat(200));
    let machine = dir.launch(&qemu.runtime, &config).await;
    machine.connect_channel().await.unwrap();
    let identity = machine.identity().clone();
    drop(machine);
    let adopted = qemu.runtime.adopt(config.id, &identity, &config.run_dir).await.unwrap();
    adopted.kill().await.unwrap();
    assert!(!config.run_dir.join("qmp.sock").exists());
}

#[tokio::test]
async fn a_cancelled_launch_leaves_no_machine() {
    let Some(qemu) = Qemu::for_test("cancelled launch") else { return };
    let dir = Place::new();
    let config = qemu.staying(dir.path());
    // At every stage that a launch has: a poll at a time.
    for polls in 1..8 {
        let mut launch = Box::pin(qemu.runtime.launch(&config));
        for _ in 0..polls {
            let poll = std::future::poll_fn(|cx| std::task::Poll::Ready(launch.as_mut().poll(cx)));
            if poll.await.is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(launch);
        assert!(!config.run_dir.join("qmp.sock").exists(), "after {polls} polls");
    }
    // The disk is locked by whoever lives on.
    dir.launch(&qemu.runtime, &config).await.kill().await.unwrap();
}

#[tokio::test]
async fn a_launch_tells_where_its_time_went() {
    let Some(qemu) = Qemu::for_test("launch time") else { return };
    let dir = Place::new();
    let config = MachineConfig { lifetime: Lifetime::Leased, ..qemu.staying(dir.path()) };
    for _ in 0..5 {
        let launch = qemu.runtime.launch(&config).await.unwrap();
        println!("launch: {:?}", launch.steps);
        let names: Vec<&str> = launch.steps.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["logs", "sockets", "spawn", "qmp"]);
        launch.machine.kill().await.unwrap();
    }
}

#[tokio::test]
async fn kvm_is_judged_within_the_deadline() {
    let Some(qemu) = Qemu::for_test("kvm probe") else { return };
    let dir = Place::new();
    let initramfs = dir.path().join("initramfs");
    std::fs::write(&initramfs, b"").unwrap();
    let work = dir.path().join("work");
    std::fs::create_dir(&work).unwrap();
    // There is no init to prove anything: whatever KVM does, the verdict is no.
    let deadline = Duration::from_secs(3);
    let verdict = qemu.runtime.probe_kvm(&qemu.kernel, &initramfs, &work, deadline).await;
    println!("{verdict:?}");
    assert!(!verdict.usable);
    assert!(!verdict.reason.is_empty());
    assert_eq!(std::fs::read_dir(&work).unwrap().count(), 0);
}
