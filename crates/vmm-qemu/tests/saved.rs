//! What a machine that begins from a saved one has of it, with real machines
//! under TCG. Needs QEMU and, in INN_TEST_KERNEL, a vmlinux or vmlinuz.

#![allow(clippy::unwrap_used, reason = "clippy takes a test's own functions for no tests")]

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

use inn_units::{Bytes, Vcpus, VmId};
use inn_vmm::conformance::{Place, TinyEnd, tiny_initramfs};
use inn_vmm::{
    Accel, Boot, ChannelKind, Console, Isolation, KernelBoot, LaunchError, Lifetime, Machine,
    MachineConfig, Nic, NicBackend, Runtime, Saved, VmmUser,
};
use inn_vmm_qemu::{QemuMachine, QemuRuntime};

/// Far beyond an emulated boot on a loaded host.
const PATIENCE: Duration = Duration::from_secs(180);

/// Between two looks at a console.
const LOOK: Duration = Duration::from_millis(20);

const BOOTED: &str = "this guest has booted";

/// Says aloud why a test cannot run here.
fn runtime(test: &str) -> Option<(QemuRuntime, std::path::PathBuf)> {
    let Some(kernel) = std::env::var_os("INN_TEST_KERNEL") else {
        println!("SKIPPED {test}: INN_TEST_KERNEL names no kernel");
        return None;
    };
    match QemuRuntime::discover() {
        Ok(runtime) => {
            let writer = env!("CARGO_BIN_EXE_inn-log-writer");
            Some((runtime.with_log_writer(writer.into()), kernel.into()))
        }
        Err(error @ LaunchError::MissingProgram { .. }) => {
            println!("SKIPPED {test}: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Prints a line once it has booted, and then dots for ever.
fn ticking(
    (runtime, kernel): &(QemuRuntime, std::path::PathBuf),
    dir: &Path,
    id: u8,
    from: Option<Saved>,
) -> MachineConfig {
    let initramfs = dir.join("tiny.cpio");
    std::fs::write(&initramfs, tiny_initramfs(BOOTED, TinyEnd::Never)).unwrap();
    let root = rustix::process::geteuid().is_root();
    MachineConfig {
        id: VmId::from_bytes([id; 5]),
        vcpus: Vcpus::ONE,
        memory: Bytes::mib(128),
        accel: Accel::Tcg,
        boot: Boot::Kernel(KernelBoot {
            kernel: kernel.clone(),
            initramfs: Some(initramfs),
            cmdline: String::new(),
        }),
        from,
        disks: Vec::new(),
        nic: Some(Nic { mac: [0x52, 0x54, 0, 0, 0, 1], backend: NicBackend::Nothing }),
        screen: false,
        generation_id: false,
        reboots_within: true,
        console: Console { log: dir.join("console.log"), log_limit: Bytes::mib(1) },
        channel: ChannelKind::Serial,
        run_dir: dir.join("run"),
        lifetime: Lifetime::Detached,
        // As an agent that is root has them: nothing by name, no right to
        // anybody's files.
        isolation: Isolation {
            user: root.then_some(VmmUser { uid: 1_879_000_001, groups: Vec::new() }),
            log_uid: root.then_some(1_879_000_002),
            jailed: root && runtime.can_jail().is_ok(),
            groups: Vec::new(),
        },
    }
}

fn console(dir: &Path) -> String {
    let mut text = Vec::new();
    if let Ok(mut file) = std::fs::File::open(dir.join("console.log")) {
        file.read_to_end(&mut text).unwrap();
    }
    String::from_utf8_lossy(&text).into_owned()
}

fn ticks(dir: &Path) -> usize {
    let text = console(dir);
    text.rsplit(BOOTED).next().unwrap().bytes().filter(|byte| *byte == b'.').count()
}

/// Until it has printed so many more dots.
async fn goes_on(dir: &Path, more: usize) {
    let from = ticks(dir);
    let waits = async {
        while ticks(dir) < from + more {
            tokio::time::sleep(LOOK).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waits).await;
    waited.unwrap_or_else(|_| panic!("it stands still: {}", console(dir)));
}

async fn booted(dir: &Path) {
    let waits = async {
        while !console(dir).contains(BOOTED) {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(PATIENCE, waits).await.unwrap_or_else(|_| panic!("{}", console(dir)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clones_go_on_where_their_parent_stood() {
    let Some(qemu) = runtime("clones go on where their parent stood") else { return };
    let parent_dir = Place::new();
    let parent = parent_dir.launch(&qemu.0, &ticking(&qemu, parent_dir.path(), 1, None)).await;
    booted(parent_dir.path()).await;
    goes_on(parent_dir.path(), 3).await;
    parent.pause().await.unwrap();
    let saved = parent.save().await.unwrap();
    let memory = saved.memory.clone().expect("a machine's memory is shared with its agent");
    assert_eq!(memory.metadata().unwrap().len(), 128 << 20);
    memory.write_all_at(b"x", 0).expect_err("nobody writes to it");

    let places: Vec<Place> = (0..2).map(|_| Place::new()).collect();
    let mut clones = Vec::new();
    for (place, id) in places.iter().zip(2..) {
        let config = ticking(&qemu, place.path(), id, Some(saved.clone()));
        clones.push(place.launch(&qemu.0, &config).await);
    }
    let stood = ticks(parent_dir.path());
    for (place, clone) in places.iter().zip(&clones) {
        assert_eq!(console(place.path()), "", "it waits to be resumed");
        clone.resume().await.unwrap();
    }
    for place in &places {
        goes_on(place.path(), 20).await;
        let text = console(place.path());
        assert!(text.bytes().all(|byte| byte == b'.'), "it has booted, or worse: {text}");
    }
    // What it had printed may still have been on its way to the file.
    assert!(ticks(parent_dir.path()) <= stood + 1, "the parent has gone on");
    parent.resume().await.unwrap();
    goes_on(parent_dir.path(), 3).await;
    assert_eq!(console(parent_dir.path()).matches(BOOTED).count(), 1);

    for machine in [&parent, &clones[0], &clones[1]] {
        machine.kill().await.unwrap();
    }
}

/// Whether a process has this very file in its memory.
fn maps(machine: &QemuMachine, file: &File) -> bool {
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", machine.identity().pid)).unwrap();
    let inode = file.metadata().unwrap().ino().to_string();
    maps.lines().any(|line| line.split_ascii_whitespace().nth(4) == Some(&inode))
}

fn same(one: &Saved, other: &Saved) -> bool {
    let pieces = |saved: &Saved, at: u64| {
        let mut piece = vec![0; 1 << 20];
        saved.memory.as_ref().unwrap().read_exact_at(&mut piece, at).unwrap();
        piece
    };
    (0..128).all(|mib| pieces(one, mib << 20) == pieces(other, mib << 20))
}

/// A clone is a machine like any other: its own clones share what it had, and only
/// what it has written since is looked for once it stands still.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clones_of_clones_share_their_memory_too() {
    let Some(qemu) = runtime("clones of clones share their memory too") else { return };
    let place = Place::new();
    let first = place.launch(&qemu.0, &ticking(&qemu, place.path(), 1, None)).await;
    booted(place.path()).await;
    first.pause().await.unwrap();
    let mut saved = first.save().await.unwrap();
    first.kill().await.unwrap();

    for generation in 0..3_u8 {
        let places = [Place::new(), Place::new()];
        let mut clones = Vec::new();
        for (place, id) in places.iter().zip(10 * generation + 2..) {
            let config = ticking(&qemu, place.path(), id, Some(saved.clone()));
            clones.push(place.launch(&qemu.0, &config).await);
        }
        let memory = saved.memory.as_ref().expect("it is no part of the state");
        for (clone, place) in clones.iter().zip(&places) {
            assert!(maps(clone, memory), "clone of generation {generation}");
            clone.resume().await.unwrap();
            goes_on(place.path(), 10).await;
            let text = console(place.path());
            assert!(text.bytes().all(|byte| byte == b'.'), "it has booted, or worse: {text}");
        }
        let (parent, place) = (clones.remove(0), &places[0]);
        let ahead = parent.save_ahead().await.unwrap();
        assert!(ahead.is_some(), "most of it is copied while it runs");
        goes_on(place.path(), 3).await;
        let stands = std::time::Instant::now();
        parent.pause().await.unwrap();
        let next = parent.save_after(ahead).await.unwrap();
        println!("a clone of generation {generation} stood for {:?}", stands.elapsed());
        assert!(same(&next, &parent.save().await.unwrap()), "a copy at once is the same");
        assert!(!same(&next, &saved), "its guest has written to it");
        // It is none the worse.
        parent.resume().await.unwrap();
        goes_on(place.path(), 3).await;
        for machine in [&parent, &clones[0]] {
            machine.kill().await.unwrap();
        }
        saved = next;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_is_refused_and_leaves_nothing() {
    let Some(qemu) = runtime("what does not fit is refused") else { return };
    let parent_dir = Place::new();
    let parent = parent_dir.launch(&qemu.0, &ticking(&qemu, parent_dir.path(), 1, None)).await;
    parent.pause().await.unwrap();
    let saved = parent.save().await.unwrap();
    parent.kill().await.unwrap();

    let place = Place::new();
    let smaller =
        MachineConfig { nic: None, ..ticking(&qemu, place.path(), 2, Some(saved.clone())) };
    let cut = {
        let state = std::fs::File::from(
            rustix::fs::memfd_create("cut", rustix::fs::MemfdFlags::CLOEXEC).unwrap(),
        );
        let mut half = vec![0; usize::try_from(saved.state.metadata().unwrap().len()).unwrap() / 2];
        saved.state.read_exact_at(&mut half, 0).unwrap();
        state.write_all_at(&half, 0).unwrap();
        Saved { state: std::sync::Arc::new(state), ..saved.clone() }
    };
    for config in [smaller, ticking(&qemu, place.path(), 2, Some(cut))] {
        let error = qemu.0.launch(&config).await.unwrap_err();
        assert!(error.to_string().contains("what was saved does not load"), "{error}");
        assert!(!config.run_dir.join("qmp.sock").exists());
    }
}
