//! VMs whose VMM is not QEMU, under the host's own KVM: with a kernel with all
//! built in in INN_TEST_GUEST_KERNEL, and the VMM's program in INN_TEST_KRUN or
//! INN_FIRECRACKER.

use std::fs::{self, OpenOptions};
use std::io::Read;
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use inn_tests::netns::Netns;
use inn_tests::{Host, wait};

/// What this host has of what is needed.
struct Parts {
    program: PathBuf,
    kernel: PathBuf,
    bootargs: String,
    netns: Netns,
}

fn parts(program: &str) -> Result<Parts, String> {
    let named = |name: &str| {
        let path = std::env::var_os(name).ok_or_else(|| format!("{name} names nothing"))?;
        Ok::<_, String>(PathBuf::from(path))
    };
    let (program, kernel) = (named(program)?, named("INN_TEST_GUEST_KERNEL")?);
    if !program.exists() {
        return Err(format!("there is no {}", program.display()));
    }
    OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .map_err(|error| format!("/dev/kvm cannot be opened: {error}"))?;
    let bootargs = fs::read_to_string(kernel.with_file_name("bootargs")).unwrap_or_default();
    let bootargs = bootargs.trim().to_owned();
    let netns = Netns::make().map_err(|error| format!("no network namespace: {error}"))?;
    Ok(Parts { program, kernel, bootargs, netns })
}

pub(crate) fn a_vm_under_libkrun_runs_is_reached_and_found_again() {
    let parts = match parts("INN_TEST_KRUN") {
        Ok(parts) => parts,
        Err(why) => return eprintln!("SKIPPED krun: {why}"),
    };
    let host = Host::bare().with_bridges(&parts.netns);
    let host = host.with_programs(parts.program.parent().unwrap());
    runs_is_reached_and_found_again("krun", host, &parts);
}

pub(crate) fn a_vm_under_firecracker_runs_is_reached_and_found_again() {
    let parts = match parts("INN_FIRECRACKER") {
        Ok(parts) => parts,
        Err(why) => return eprintln!("SKIPPED firecracker: {why}"),
    };
    let host = Host::bare().with_bridges(&parts.netns);
    let program = format!("firecracker = '{}'\n", parts.program.display());
    fs::write(host.config(), program).unwrap();
    runs_is_reached_and_found_again("firecracker", host, &parts);
}

fn runs_is_reached_and_found_again(runtime: &str, host: Host, parts: &Parts) {
    // Such a host's KVM may be software-assisted, and busy besides.
    let config = fs::read_to_string(host.config()).unwrap_or_default();
    fs::write(host.config(), format!("{config}start_deadline = '10m'\n")).unwrap();
    let kernel = unpacked(&parts.kernel, &host.home());
    host.start_agent();
    host.import("mini");
    let create = ["vm", "create", "--image", "mini", "--name", "k", "--runtime", runtime];
    let create = host.inn(create).args(["--memory", "192MiB", "--kernel"]).args([&kernel]);
    create.args(["--kernel-args", &parts.bootargs]).limit(wait::PATIENCE * 4).ok();

    let exec = |script: &str| host.inn(["vm", "exec", "k", "--", "sh", "-c", script]).ok();
    assert_eq!(exec("echo from the guest; test -e /sys/class/net/eth0"), "from the guest\n");
    let before = host.show("k");
    assert_eq!((&before["runtime"], &before["phase"]), (&runtime.into(), &"running".into()));
    let why = host.inn(["vm", "why", "k"]).ok();
    assert!(why.contains(&format!("{runtime}: it was asked for")), "{why}");

    // Its card is a tap on the node's bridge.
    let ip: Ipv4Addr = host.inn(["vm", "ip", "k"]).ok().lines().next().unwrap().parse().unwrap();
    host.inn(["vm", "exec", "-d", "k", "--", "sh", "-c", "echo by the card | nc -l -p 7000"]).ok();
    let heard = wait::until("its port answers", || {
        let mut heard = String::new();
        let stream = parts.netns.run(|| TcpStream::connect((ip, 7000)));
        stream.ok()?.read_to_string(&mut heard).ok()?;
        Some(heard)
    });
    assert_eq!(heard, "by the card\n");

    // What it cannot do is said by its name.
    host.inn(["vm", "snapshot", "k", "--name", "s"]).refused(1, &[runtime]);

    host.kill_agent();
    host.start_agent();
    wait::until("the VM is found again", || {
        let vm = host.show("k");
        (vm["phase"] == "running" && vm["guest"]["link"] == "ready").then_some(())
    });
    let after = host.show("k");
    assert_eq!(before["pid"], after["pid"]);
    assert_eq!(before["guest"]["bootId"], after["guest"]["bootId"]);
    assert_eq!(exec("echo still here"), "still here\n");

    host.inn(["vm", "stop", "k"]).ok();
    let console = host.inn(["vm", "logs", "k", "--source", "console"]).ok();
    assert!(console.contains("power off, by a reset"), "{console}");
    host.finish();
}

fn unpacked(packed: &Path, dir: &Path) -> PathBuf {
    if packed.extension().is_none_or(|extension| extension != "xz") {
        return packed.to_owned();
    }
    let kernel = dir.join("vmlinux");
    let to = fs::File::create(&kernel).unwrap();
    #[expect(clippy::disallowed_methods, reason = "a program of others, in a test")]
    let mut xz = Command::new("/usr/bin/xz");
    let status = xz.arg("-dc").arg(packed).stdin(Stdio::null()).stdout(to).status();
    assert!(status.unwrap().success(), "xz could not unpack {}", packed.display());
    kernel
}
