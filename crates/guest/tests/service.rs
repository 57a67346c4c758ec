//! `inn-guest serve` as an init sees it: ready at once, and ended in order.

#![allow(clippy::unwrap_used, reason = "clippy takes a test's own functions for no tests")]

use std::io::Read;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// Far beyond what a start or an end takes.
const PATIENCE: Duration = Duration::from_secs(60);

#[expect(clippy::disallowed_methods, reason = "the program under test")]
fn start(notify: &std::path::Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_inn-guest"))
        .arg("serve")
        .env("NOTIFY_SOCKET", notify)
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn a_service_is_ready_before_any_host_came_and_ends_when_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let init = UnixDatagram::bind(&path).unwrap();
    init.set_read_timeout(Some(PATIENCE)).unwrap();
    // What it serves, on a machine that has a channel, comes in between.
    let told = |wanted: &str| {
        loop {
            let mut bytes = [0; 512];
            let count = init.recv(&mut bytes).unwrap();
            let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
            if text.lines().any(|line| line == wanted) {
                return text;
            }
        }
    };
    let mut service = start(&path);
    assert!(told("READY=1").contains("STATUS="));
    let pid = Pid::from_child(&service);
    kill_process(pid, Signal::TERM).unwrap();
    told("STOPPING=1");
    assert!(service.wait().unwrap().success());
    let mut said = String::new();
    service.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    let prefixed = |line: &str| line.starts_with("<4>") || line.starts_with("<6>");
    assert!(said.lines().all(prefixed), "each line has its priority: {said}");
}
