//! VMs whose VMM is not QEMU, under the host's own KVM: with a kernel with all
//! built in in INN_TEST_GUEST_KERNEL, and the VMM's program in INN_TEST_KRUN or
//! INN_FIRECRACKER.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use inn_tests::netns::Netns;
use inn_tests::{Host, kernels, wait};

use crate::templates::until_waiting;

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

/// The first boots; the second is a clone of it that has waited, and another VM.
pub(crate) fn a_vm_under_firecracker_is_a_clone_that_has_waited() {
    let parts = match parts("INN_FIRECRACKER") {
        Ok(parts) => parts,
        Err(why) => return eprintln!("SKIPPED firecracker's templates: {why}"),
    };
    let host = Host::bare().with_bridges(&parts.netns).with_templates();
    let program = parts.program.display();
    let config = format!("firecracker = '{program}'\nstart_deadline = '10m'\n");
    fs::write(host.config(), config).unwrap();
    let kernel = kernels::unpacked(&parts.kernel, &host.home());
    host.start_agent();
    host.import("mini");
    let run = || {
        let run = host.inn(["run", "--rm", "--runtime", "firecracker", "--memory", "192MiB"]);
        let run = run.args(["--kernel"]).args([&kernel]).args(["--kernel-args", &parts.bootargs]);
        let asked = "cat /etc/machine-id; hostname; od -An -N16 -tx1 /dev/urandom";
        let run = run.args(["mini", "--", "sh", "-c", asked]);
        let begun = Instant::now();
        let told = run.limit(wait::PATIENCE * 4).ok();
        (told, begun.elapsed())
    };
    let (first, cold) = run();
    let before = until_waiting(&host, 1);
    assert_eq!(before["templates"][0]["hits"], 0, "{before}");
    let (second, warm) = run();
    eprintln!("under Firecracker: {cold:?} with a boot, {warm:?} from the pool");
    let words: BTreeSet<&str> = first.lines().chain(second.lines()).collect();
    assert_eq!(words.len(), 6, "two of them are the same: {words:?}");
    let after = host.inn(["node", "snapshot", "-o", "json"]).json();
    assert_eq!(after["templates"][0]["hits"], 1, "{after}");
    host.finish();
}

fn runs_is_reached_and_found_again(runtime: &str, host: Host, parts: &Parts) {
    // Such a host's KVM may be software-assisted, and busy besides.
    let config = fs::read_to_string(host.config()).unwrap_or_default();
    fs::write(host.config(), format!("{config}start_deadline = '10m'\n")).unwrap();
    let kernel = kernels::unpacked(&parts.kernel, &host.home());
    host.start_agent();
    host.import("mini");
    let create = ["vm", "create", "--image", "mini", "--name", "k", "--runtime", runtime];
    let create = create.into_iter().chain(["--persist", "-p", "8080:7002"]);
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
    is_served_by_the_node(&host, parts);

    match runtime {
        "firecracker" => {
            waits_above_its_rate(&host, parts, ip);
            is_saved_and_forked(&host);
        }
        // What it cannot do is said by its name.
        _ => {
            host.inn(["vm", "snapshot", "k", "--name", "s"]).refused(1, &[runtime]);
        }
    }

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

    // The map leads to it still, and what is at /persist is there after a boot.
    assert_eq!(by_the_map(parts).as_deref(), Some("k\n"));
    if runtime == "krun" {
        host.inn(["vm", "restart", "k"]).limit(wait::PATIENCE * 4).ok();
        assert_eq!(exec("cat /persist/note"), "kept\n");
    }

    host.inn(["vm", "stop", "k"]).ok();
    let console = host.inn(["vm", "logs", "k", "--source", "console"]).ok();
    assert!(console.contains("power off, by a reset"), "{console}");
    host.finish();
}

/// What it has of the node's whatever its VMM is: a disk at /persist, a port of the
/// host's, and a policy.
fn is_served_by_the_node(host: &Host, parts: &Parts) {
    let exec = |script: &str| host.inn(["vm", "exec", "k", "--", "sh", "-c", script]).ok();
    let mounted = exec("echo kept > /persist/note; sync; grep -c ' /persist ' /proc/mounts");
    assert_eq!(mounted, "1\n", "/persist is a disk of its own");
    let serve = "nc -ll -p 7002 -e /bin/hostname";
    host.inn(["vm", "exec", "-d", "k", "--", "sh", "-c", serve]).ok();
    let answers = || (by_the_map(parts)? == "k\n").then_some(());
    wait::until("the host's port leads to it", answers);
    // Of the host it reaches names, but for one with no policy at all.
    let resolves = || exec("nslookup k.default.inn.internal >/dev/null 2>&1; echo ended $?");
    assert_eq!(resolves(), "ended 0\n");
    host.inn(["vm", "policy", "k", "none"]).ok();
    assert_ne!(resolves(), "ended 0\n");
    host.inn(["vm", "policy", "k", "allow_all"]).ok();
    assert_eq!(resolves(), "ended 0\n");
}

/// What answers at the host's port that was mapped to it.
fn by_the_map(parts: &Parts) -> Option<String> {
    const PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
    // As long as such a guest may take for an answer on a busy host.
    const LIMIT: Duration = Duration::from_secs(10);
    let mut stream = parts.netns.run(|| TcpStream::connect_timeout(&PORT, LIMIT)).ok()?;
    let mut heard = String::new();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.read_to_string(&mut heard).ok()?;
    Some(heard)
}

/// What it sends the host's own network stack, of which the tables limit nothing,
/// its VMM holds to its policy: all of it arrives, and not at once.
fn waits_above_its_rate(host: &Host, parts: &Parts, ip: Ipv4Addr) {
    // Below what a guest whose kernel is emulated in part gets out at all.
    const RATE: usize = 2 << 10;
    const SENT: usize = 128 << 10;
    // 96 KiB of it at once, and the rest takes 16 s at least.
    const LEAST: Duration = Duration::from_secs(15);
    let send = || {
        let script = format!("head -c {SENT} /dev/zero | nc -l -p 7001");
        host.inn(["vm", "exec", "-d", "k", "--", "sh", "-c", &script]).ok();
        let (sent, took) = wait::until("its port answers", || {
            let mut heard = Vec::new();
            let mut stream = parts.netns.run(|| TcpStream::connect((ip, 7001))).ok()?;
            let begun = Instant::now();
            stream.read_to_end(&mut heard).ok()?;
            Some((heard.len(), begun.elapsed()))
        });
        assert_eq!(sent, SENT);
        took
    };
    let unlimited = send();
    let file = host.home().join("policy.json");
    let rules = r#"{}, { "direction": "ingress" }"#;
    let rates = format!(r#"{{ "egressBps": {RATE} }}"#);
    let policy = format!(r#"{{ "mode": "rules", "rules": [{rules}], "rates": {rates} }}"#);
    fs::write(&file, policy).unwrap();
    host.inn(["vm", "policy", "k", "--file"]).args([file.as_os_str()]).ok();
    let api = host.run_dir().join("vms").join(host.show("k")["id"].as_str().unwrap());
    wait::until("Firecracker has the rate", || {
        let mut api = UnixStream::connect(api.join("api.sock")).ok()?;
        api.write_all(b"GET /vm/config HTTP/1.1\r\nHost: localhost\r\n\r\n").ok()?;
        let mut answer = [0; 16 << 10];
        // A few hundred bytes, which come at once.
        let read = api.read(&mut answer).ok()?;
        let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
        answer.contains(r#""tx_rate_limiter":{"bandwidth":{"size":"#).then_some(())
    });
    let limited = send();
    eprintln!(
        "under Firecracker: {SENT} bytes took {unlimited:?}, and {limited:?} at {RATE} a second"
    );
    assert!(limited > LEAST, "faster than its rate: {limited:?}");
    let policy = host.inn(["vm", "policy", "k", "-o", "json"]).json();
    let denied = policy["denied"].as_array().into_iter().flatten();
    let dropped: Vec<_> = denied.filter(|denied| denied["by"] == "rates").collect();
    assert!(dropped.is_empty(), "{policy}");
    host.inn(["vm", "policy", "k", "allow_all"]).ok();
}

/// What begins from it has its memory and its disk, and is a VM of its own.
fn is_saved_and_forked(host: &Host) {
    let slow = wait::PATIENCE * 4;
    let exec = |vm: &str, script: &str| {
        host.inn(["vm", "exec", vm, "--", "sh", "-c", script]).limit(slow).ok()
    };
    exec("k", "echo kept > /kept; echo in memory > /dev/shm/note");
    host.inn(["vm", "snapshot", "k", "--name", "golden"]).limit(slow).ok();
    assert_eq!(exec("k", "cat /kept"), "kept\n", "it runs on");
    host.inn(["snapshot", "restore", "golden", "--name", "r"]).limit(slow).ok();
    host.inn(["vm", "fork", "k", "--count", "2"]).limit(slow).ok();
    let all = ["k", "r", "k-1", "k-2"];
    let mut told = BTreeSet::new();
    for vm in all {
        assert_eq!(exec(vm, "cat /kept /dev/shm/note"), "kept\nin memory\n", "{vm}");
        let own = exec(vm, "cat /etc/machine-id; hostname; od -An -N16 -tx1 /dev/urandom");
        told.extend(own.lines().map(str::to_owned));
        told.insert(host.inn(["vm", "ip", vm]).ok());
    }
    assert_eq!(told.len(), 4 * all.len(), "two of them are the same: {told:?}");
    host.inn(["vm", "receipt", "r", "--verify"]).ok();
    eprintln!("{}", host.inn(["vm", "why", "r"]).ok());
    // One that began from a saved one is saved like any other.
    exec("k-1", "echo more > /more");
    host.inn(["vm", "fork", "k-1", "--count", "1"]).limit(slow).ok();
    assert_eq!(exec("k-1-1", "cat /kept /more /dev/shm/note"), "kept\nmore\nin memory\n");
    for vm in ["r", "k-1", "k-2", "k-1-1"] {
        // With its copy of what is at /persist.
        host.inn(["vm", "clean", "--vm", vm]).limit(slow).ok();
    }
}
