//! VMs that nobody uses are paused or saved, and woken by who needs them: on a
//! bridge, and on QEMU's own network.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use inn_tests::netns::Netns;
use inn_tests::{Host, wait};
use serde_json::Value;

use crate::bridges::{SERVERS, ground};

/// Only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) fn a_connection_or_an_exec_wakes_a_paused_vm() {
    let Some((host, _here, outside)) = ground("a_connection_or_an_exec_wakes_a_paused_vm", "")
    else {
        return;
    };
    rests_and_wakes(host, &outside, SocketAddr::from(([192, 0, 2, 1], 8080)));
}

pub(crate) fn without_bridges_too() {
    let here = match Netns::make() {
        Ok(here) => here,
        Err(why) => return println!("SKIPPED without_bridges_too: no network namespace: {why}"),
    };
    let host = Host::bare().with_user_network(&here);
    host.start_agent();
    rests_and_wakes(host, &here, SocketAddr::from(([127, 0, 0, 1], 8080)));
}

fn rests_and_wakes(host: Host, from: &Netns, to: SocketAddr) {
    host.import("base");
    let create = ["vm", "create", "--image", "base", "--name", "web", "-p", "8080:80"];
    let idle = ["--on-idle", "pause", "--idle-after", "3s", "--", "python3", "-c", SERVERS];
    host.inn(create.into_iter().chain(idle)).ok();
    // Its workload has to come up, and is no use of it.
    wait::until("it answers", || fetch(from, to).is_some().then_some(()));
    let boot = until_rests(&host)["guest"]["bootId"].clone();
    let why = host.inn(["vm", "why", "web"]).ok();
    assert!(why.contains("it is paused, as nobody used it"), "{why}");

    assert_eq!(fetch(from, to).as_deref(), Some("hello"), "the connection that wakes it is served");
    // Events are kept a moment after what they tell.
    wait::until("it is told", || {
        let told = host.inn(["events", "--vm", "web", "-o", "json"]).ok();
        told.contains("woken by a connection to it").then_some(())
    });
    until_rests(&host);
    assert_eq!(host.inn(["vm", "exec", "web", "--", "echo", "awake"]).ok(), "awake\n");
    assert_eq!(vm(&host)["guest"]["bootId"], boot, "it never booted again");

    // What rests is found resting by the next agent, and woken by it.
    until_rests(&host);
    host.kill_agent();
    host.start_agent();
    until_rests(&host);
    assert_eq!(fetch(from, to).as_deref(), Some("hello"), "under the next agent");
    host.inn(["vm", "delete", "web", "--force"]).ok();
    host.stop_agent();
    host.finish();
}

/// Appends to a file that it has open, and says how far it is.
const COUNTS: &str = "exec 3>/srv/counts; echo $$ >/srv/pid; i=0; \
    while true; do i=$((i+1)); echo $i >&3; sleep 0.1; done";

/// No process of it is left, and what it was doing it goes on with, under whichever
/// agent.
pub(crate) fn one_whose_memory_is_saved_goes_on_where_it_was() {
    let host = Host::up();
    let create = ["vm", "create", "--image", "mini", "--name", "web", "--memory", "128MiB"];
    let idle = ["--on-idle", "snapshot", "--idle-after", "2s", "--", "sh", "-c", COUNTS];
    host.inn(create.into_iter().chain(idle)).limit(PATIENCE).ok();
    let boot = host.show("web")["guest"]["bootId"].clone();
    let count = || {
        let lines = "wc -l < /srv/counts || echo 0";
        let said = host.inn(["vm", "exec", "web", "--", "sh", "-c", lines]).limit(PATIENCE).ok();
        said.trim().parse::<u64>().expect("a number")
    };
    wait::until("its program writes", || (count() > 0).then_some(()));
    let pid = || host.inn(["vm", "exec", "web", "--", "cat", "/srv/pid"]).limit(PATIENCE).ok();
    let (mut counted, program) = (count(), pid());
    for round in 0..3 {
        let machine = host.show("web")["pid"].clone();
        let resting = wait::until("it is asleep", || {
            let vm = vm(&host);
            (vm["phase"] == "stopped" && vm["rest"]["action"] == "snapshot").then_some(vm)
        });
        assert!(resting["pid"].is_null(), "{resting}");
        assert!(!Path::new(&format!("/proc/{machine}")).exists(), "its machine has ended");
        let reserved = host.node()["resources"]["memoryBytes"]["reserved"].clone();
        assert_eq!(reserved, 0, "its memory is free for others: {}", host.node());
        let listed = host.inn(["vm", "list"]).ok();
        assert!(listed.contains("asleep"), "{listed}");
        let why = host.inn(["vm", "why", "web"]).ok();
        assert!(why.contains("it is asleep, its memory saved, as nobody used it"), "{why}");
        if round == 1 {
            host.kill_agent();
            host.start_agent();
        }
        let now = count();
        assert!(now >= counted, "{now} lines after {counted}");
        assert_eq!(pid(), program);
        wait::until("its program writes on", || (count() > now).then_some(()));
        counted = now;
        let woken = vm(&host);
        assert_eq!(woken["guest"]["bootId"], boot, "it never booted again: {woken}");
        assert_eq!(woken["receipt"]["origin"], "web", "{woken}");
        host.inn(["vm", "receipt", "web", "--verify"]).ok();
    }
    // Whoever stops all wants nobody to wake it, and has it anew.
    wait::until("it is asleep again", || (vm(&host)["phase"] == "stopped").then_some(()));
    assert!(host.inn(["vm", "stop", "--all"]).ok().contains("web stopped"));
    assert_eq!(vm(&host).get("rest"), None, "{}", vm(&host));
    host.inn(["vm", "start", "web"]).limit(PATIENCE).ok();
    assert_ne!(vm(&host)["guest"]["bootId"], boot);
    host.inn(["vm", "delete", "web", "--force"]).ok();
    host.finish();
}

/// Its memory, its screen and its firmware are there again, under whichever agent,
/// and what it was doing it goes on with.
pub(crate) fn a_full_vm_sleeps(host: &Host, name: &str) {
    let sh = |script: &str| {
        host.inn(["vm", "exec", name, "--", "sh", "-c", script]).limit(PATIENCE).ok()
    };
    sh("systemd-run --unit counts sh -c '\
        exec 3>/root/counts; i=0; while true; do i=$((i+1)); echo $i >&3; sleep 0.1; done'");
    // systemd-run answers once it was begun, which is before it has opened its file.
    let count = || {
        let said = sh("if [ -e /root/counts ]; then wc -l < /root/counts; else echo 0; fi");
        said.trim().parse::<u64>().expect("a number")
    };
    wait::until("its program writes", || (count() > 0).then_some(()));
    let (boot, mut counted) = (host.show(name)["guest"]["bootId"].clone(), count());
    for round in 0..2 {
        host.inn(["vm", "idle", name, "snapshot", "--after", "2s"]).ok();
        let machine = host.show(name)["pid"].clone();
        wait::until("it is asleep", || {
            let vm = host.show(name);
            (vm["phase"] == "stopped" && vm["rest"]["action"] == "snapshot").then_some(())
        });
        assert!(!Path::new(&format!("/proc/{machine}")).exists(), "its machine has ended");
        if round == 1 {
            host.kill_agent();
            host.start_agent();
        }
        let now = count();
        assert!(now >= counted, "{now} lines after {counted}");
        host.inn(["vm", "idle", name, "never"]).ok();
        wait::until("its program writes on", || (count() > now).then_some(()));
        counted = count();
        let woken = host.show(name);
        assert_eq!(woken["guest"]["bootId"], boot, "it never booted again: {woken}");
        host.inn(["vm", "receipt", name, "--verify"]).ok();
        let clock: i64 = sh("date +%s").trim().parse().expect("a number");
        let here = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        assert!((clock - here.as_secs().cast_signed()).abs() < 60, "its clock is {clock}");
    }
    // It finds its firmware where it was.
    host.inn(["vm", "exec", name, "--", "systemctl", "reboot"]).limit(PATIENCE).output();
    let again = wait::within(crate::guests::BOOT_LIMIT, || {
        let now = host.show(name)["guest"]["bootId"].clone();
        (now.is_string() && now != boot).then_some(())
    });
    assert!(again.is_some(), "it did not boot again: {}", host.show(name));
}

fn vm(host: &Host) -> Value {
    let shown: Value = serde_json::from_str(&host.inn(["vm", "show", "web", "-o", "json"]).ok())
        .expect("it is JSON");
    shown[0].clone()
}

fn until_rests(host: &Host) -> Value {
    wait::until("it rests", || {
        let vm = vm(host);
        (vm["phase"] == "paused" && vm.get("rest").is_some()).then_some(vm)
    })
}

/// What it says, within a long time.
fn fetch(from: &Netns, to: SocketAddr) -> Option<String> {
    from.run(move || {
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
        let mut said = String::new();
        stream.read_to_string(&mut said).ok()?;
        said.split("\r\n\r\n").nth(1).map(str::to_owned)
    })
}
