//! A KVM under which a guest comes to nothing, as hosts whose KVM is emulated
//! have it: the VMM is well and its CPU never comes out of the kernel. Nobody
//! ends that but the agent, by its deadline.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use inn_tests::{Host, host, leftovers, wait};

/// Where the kernel lies in the guest's memory, and begins.
const ENTRY: u64 = 16 << 20;

/// Its code's offset in the file.
const CODE_AT: usize = 0x1000;

/// `cli; hlt`, and once more. The same in 32 bits, in which QEMU begins, and 64.
const STAND_STILL: [u8; 4] = [0xfa, 0xf4, 0xeb, 0xfc];

/// A vmlinux that stops the CPU for good: the System V ABI's header, a segment of
/// code, and a note of where PVH loaders enter (18, XEN_ELFNOTE_PHYS32_ENTRY).
fn kernel_that_hangs(dir: &Path) -> PathBuf {
    let note: Vec<u8> = [4u32, 8, 18].iter().flat_map(|word| word.to_le_bytes()).collect();
    let note = [note.as_slice(), b"Xen\0", &ENTRY.to_le_bytes()].concat();
    let (note_at, note_len) = (64 + 2 * 56, note.len() as u64);
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    let halves = |file: &mut Vec<u8>, all: &[u16]| {
        file.extend(all.iter().flat_map(|half| half.to_le_bytes()));
    };
    let longs = |file: &mut Vec<u8>, all: &[u64]| {
        file.extend(all.iter().flat_map(|long| long.to_le_bytes()));
    };
    // An executable for x86-64, of version 1, with two segments and no sections.
    halves(&mut file, &[2, 62, 1, 0]);
    longs(&mut file, &[ENTRY, 64, 0]);
    halves(&mut file, &[0, 0, 64, 56, 2, 0, 0, 0]);
    // Kind and flags in one; offset, addresses, sizes, alignment.
    let code = CODE_AT as u64;
    longs(&mut file, &[1 | 5 << 32, code, ENTRY, ENTRY, 4, 4096, 4096]);
    longs(&mut file, &[4 | 4 << 32, note_at, 0, 0, note_len, note_len, 4]);
    file.extend(note);
    file.resize(CODE_AT, 0);
    file.extend(STAND_STILL);
    let path = dir.join("vmlinux");
    fs::write(&path, file).unwrap();
    path
}

pub(crate) fn a_machine_that_hangs_under_kvm_is_a_named_failure() {
    let skip = |what: &str, why: &str| eprintln!("SKIPPED a KVM that hangs, {what}: {why}");
    if let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        return skip("all of it", &format!("/dev/kvm cannot be opened: {error}"));
    }
    let named =
        |variable: &str| std::env::var_os(variable).map(PathBuf::from).filter(|p| p.exists());
    let (firecracker, krun) = (named("INN_FIRECRACKER"), named("INN_TEST_KRUN"));
    let mut config = "start_deadline = '8s'\n".to_owned();
    let mut runtimes = Vec::new();
    let mut host = Host::bare().with_kvm();
    match host::finds_program("qemu-system-x86_64") {
        true => runtimes.push("qemu"),
        false => skip("QEMU", "it is not installed"),
    }
    match &firecracker {
        Some(program) => {
            config += &format!("firecracker = '{}'\n", program.display());
            runtimes.push("firecracker");
        }
        None => skip("Firecracker", "INN_FIRECRACKER names no program"),
    }
    match &krun {
        Some(program) => {
            host = host.with_programs(program.parent().unwrap());
            runtimes.push("krun");
        }
        None => skip("libkrun", "INN_TEST_KRUN names no program"),
    }
    fs::write(host.config(), config).unwrap();
    let kernel = kernel_that_hangs(&host.home());
    host.start_agent();
    host.import("mini");
    for runtime in runtimes {
        let create = ["vm", "create", "--image", "mini", "--name", runtime, "--runtime", runtime];
        let create = host.inn(create).args(["--network", "none", "--kernel"]).args([&kernel]);
        create.refused(1, &["the guest agent did not answer within 8.00 s", "start_deadline"]);
        let shown = host.show(runtime);
        assert_eq!(shown["phase"], "failed", "{shown}");
        let why = host.inn(["vm", "why", runtime, "-o", "json"]).json();
        assert_eq!(why["step"]["name"], "handshake", "{why}");
        let launched = why["boot"]["phases"]
            .as_array()
            .unwrap()
            .iter()
            .find(|phase| phase["name"] == "launch");
        assert_eq!(launched.unwrap()["result"], "done", "{why}");
        // The machine goes with that; the VM stays, to be asked about.
        let agent = host.agent_pid();
        let left = || {
            let mut all = leftovers::processes_of(host.path());
            all.retain(|process| process.pid != agent);
            all
        };
        if wait::within(wait::PATIENCE, || left().is_empty().then_some(())).is_none() {
            panic!("{runtime} leaves {:?}", left());
        }
        host.inn(["vm", "delete", runtime]).ok();
    }
    host.finish();
}
