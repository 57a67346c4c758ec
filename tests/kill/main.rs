//! The kill matrix: an agent dies at every fail point, and the next one has to
//! put things in order. Then a soak: agents die at random instants.
//!
//! `cargo test --workspace --test kill [-- [FILTER] [--all] [--write] [--seed N]]`,
//! as root. Without `--all` real machines are only started where processes and
//! disks are at stake; `--write` renews docs/kill-matrix.md; `--seed` repeats a
//! soak.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

mod audit;
mod case;
mod deed;
mod ground;
mod of_node;
mod operations;
mod scenarios;
mod soak;
mod table;
mod tally;

use std::path::Path;
use std::sync::{Arc, Mutex};

use inn_fail_point::Operation;
use inn_tests::host;
use inn_tests::libvirtd::Libvirtd;
use libtest_mimic::{Arguments, Trial};

use case::Verdict;
use deed::Deed;
use ground::Runtime;
use scenarios::Case;

/// Cases at a time: most of each is waiting.
const AT_A_TIME: usize = 4;

#[derive(Default)]
struct Options {
    all: bool,
    write: bool,
    seed: Option<u64>,
}

fn main() {
    let mut options = Options::default();
    let mut rest = Vec::new();
    let mut args = std::env::args();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--all" => options.all = true,
            "--write" => options.write = true,
            "--seed" => {
                let seed = args.next().and_then(|seed| seed.parse().ok());
                options.seed = Some(seed.expect("--seed takes a number"));
            }
            _ => rest.push(arg),
        }
    }
    let mut arguments = Arguments::from_iter(rest);
    let all = scenarios::all();
    let verdicts: Arc<Mutex<Vec<(Case, Verdict)>>> = Arc::default();
    let mut trials: Vec<Trial> = all
        .iter()
        .filter(|case| case.always || options.all)
        .map(|&case| {
            let verdicts = Arc::clone(&verdicts);
            Trial::test(case.name(), move || {
                if let Some(why) = lacking(&case) {
                    println!("SKIPPED {}: {why}", case.name());
                    return Ok(());
                }
                let libvirtd = match case.runtime {
                    Runtime::Libvirt => match Libvirtd::start() {
                        Ok(libvirtd) => Some(libvirtd),
                        Err(why) => {
                            println!("SKIPPED {}: {why}", case.name());
                            return Ok(());
                        }
                    },
                    _ => None,
                };
                let verdict = case::run(&case, libvirtd);
                verdicts.lock().unwrap().push((case, verdict));
                Ok(())
            })
        })
        .collect();
    let seed = options.seed;
    trials.push(Trial::test("soak", move || {
        soak::run(seed);
        Ok(())
    }));
    let shown = all.iter().map(|case| case.deed).collect();
    trials.push(Trial::test("operations", move || Ok(operations::check(&shown)?)));
    if !options.write {
        let all = all.clone();
        trials.push(Trial::test("table", move || Ok(table::check(&all)?)));
    }
    arguments.test_threads.get_or_insert(AT_A_TIME);
    if arguments.list {
        libtest_mimic::run(&arguments, trials).exit();
    }
    assert!(rustix::process::geteuid().is_root(), "the fixtures are made as root: run it as root");
    host::build_binary();
    if let Some(why) = &*tally::UNREADABLE {
        println!("SKIPPED the packet filter, in every case: {why}");
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    ground::finish();
    // A row says what was seen: after a failure none is written.
    if options.write && !conclusion.has_failed() {
        let written = table::write(&all, &verdicts.lock().unwrap());
        written.unwrap_or_else(|why| panic!("{why}"));
    }
    conclusion.exit();
}

/// Why this host cannot run it.
fn lacking(case: &Case) -> Option<&'static str> {
    let bridged = case.deed == Deed::CreateOnVsock;
    if bridged && !host::finds_program(deed::BRIDGE) {
        return Some("vhost-device-vsock is not there: scripts/test tools brings it");
    }
    let of_groups = case.point.operation() == Operation::Cgroup;
    if of_groups && !has_cgroups() {
        return Some("no control groups can be made here");
    }
    if case.runtime == Runtime::Qemu && !host::finds_program("qemu-system-x86_64") {
        return Some("qemu-system-x86_64 is not there: apt-get install qemu-system-x86");
    }
    if case.runtime.has_kvm_guests() {
        let has = |name: &str| std::env::var_os(name).is_some_and(|path| Path::new(&path).exists());
        let (program, why) = match case.runtime {
            Runtime::Krun => {
                (ground::KRUN, "INN_TEST_KRUN and INN_TEST_GUEST_KERNEL name no such files")
            }
            _ => (
                ground::FIRECRACKER,
                "INN_FIRECRACKER and INN_TEST_GUEST_KERNEL name no such files",
            ),
        };
        if !has(program) || !has(ground::GUEST_KERNEL) {
            return Some(why);
        }
        if !Path::new("/dev/kvm").exists() {
            return Some("there is no /dev/kvm");
        }
    }
    None
}

/// Whether root may make a group anywhere: some containers have none, or have
/// them mounted read-only.
fn has_cgroups() -> bool {
    // proc_pid_mountinfo(5): the sixth field has the mount's options, and what
    // follows the dash the file system's type.
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts.lines().any(|line| {
        let Some((left, right)) = line.split_once(" - ") else { return false };
        let mut options = left.split(' ').nth(5).unwrap_or_default().split(',');
        right.starts_with("cgroup") && options.any(|option| option == "rw")
    })
}
