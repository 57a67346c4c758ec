//! The agent as a service: what it says to its init system, what it takes from
//! it, and the unit files.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::host::Host;

/// Far beyond what anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

struct Init {
    socket: UnixDatagram,
}

impl Init {
    fn new(host: &Host) -> Self {
        let socket = UnixDatagram::bind(host.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket }
    }

    /// The next message that has the line.
    fn told(&self, wanted: &str) -> String {
        loop {
            let mut bytes = [0; 4096];
            let count = self.socket.recv(&mut bytes).expect("it is told in time");
            let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
            if text.lines().any(|line| line == wanted) {
                return text;
            }
        }
    }
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

fn ended(mut child: Child) -> (bool, String) {
    let status = child.wait().unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    (status.success(), said)
}

#[test]
fn its_init_system_hears_when_it_is_ready_reloads_lives_and_ends() {
    let host = Host::new();
    let init = Init::new(&host);
    let file = host.path().join("agent.toml");
    std::fs::write(&file, "log = 'info'\n").unwrap();
    let agent = host
        .inn(&["agent", "--config", "agent.toml"])
        .env("NOTIFY_SOCKET", host.path().join("notify"))
        .env("WATCHDOG_USEC", "600000")
        .spawn()
        .unwrap();
    assert!(init.told("READY=1").contains("STATUS=serving 0 VMs"));
    host.ok(&["--no-autostart", "vm", "list"]);
    init.told("WATCHDOG=1");
    init.told("WATCHDOG=1");

    std::fs::write(&file, "log = 'debug'\naccel = 'tcg'\n").unwrap();
    signal(&agent, Signal::HUP);
    assert!(init.told("RELOADING=1").contains("MONOTONIC_USEC="));
    let status = init.told("READY=1");
    assert!(status.contains("after a restart also with new accel"), "{status}");
    std::fs::write(&file, "accell = 'tcg'\n").unwrap();
    signal(&agent, Signal::HUP);
    init.told("RELOADING=1");
    let status = init.told("READY=1");
    assert!(status.contains("did you mean `accel`"), "{status}");

    std::fs::write(&file, "log = 'warn'\n").unwrap();
    assert_eq!(host.ok(&["agent", "reload"]), "changed: log\n");

    signal(&agent, Signal::TERM);
    init.told("STOPPING=1");
    let (success, said) = ended(agent);
    assert!(success, "{said}");
    assert!(said.contains("accell"), "the log has it, too: {said}");
}

/// systemd-notify's contract: a process that hangs says nothing.
#[test]
fn a_stopped_agent_gives_no_sign_of_life() {
    let host = Host::new();
    let init = Init::new(&host);
    let agent = host
        .inn(&["agent"])
        .env("NOTIFY_SOCKET", host.path().join("notify"))
        .env("WATCHDOG_USEC", "300000")
        .spawn()
        .unwrap();
    init.told("WATCHDOG=1");
    signal(&agent, Signal::STOP);
    let stat = format!("/proc/{}/stat", agent.id());
    // proc_pid_stat(5): the state follows the name.
    while !std::fs::read_to_string(&stat).unwrap().contains(") T ") {
        std::thread::yield_now();
    }
    init.socket.set_nonblocking(true).unwrap();
    // What it said before it was stopped.
    let mut bytes = [0; 4096];
    while init.socket.recv(&mut bytes).is_ok() {}
    init.socket.set_nonblocking(false).unwrap();
    init.socket.set_read_timeout(Some(Duration::from_millis(1500))).unwrap();
    assert!(init.socket.recv(&mut bytes).is_err(), "five intervals pass in silence");
    signal(&agent, Signal::CONT);
    init.socket.set_read_timeout(Some(PATIENCE)).unwrap();
    init.told("WATCHDOG=1");
    signal(&agent, Signal::TERM);
    assert!(ended(agent).0);
}

/// As systemd starts it: the socket is descriptor 3, and its name stays.
#[expect(clippy::disallowed_methods, reason = "tests start the program under test")]
fn activated(host: &Host, socket: &UnixListener) -> Child {
    let template = host.inn(&["agent"]);
    let mut command = Command::new("/bin/sh");
    // The shell's pid is the agent's after `exec`.
    let line = r#"exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" agent"#;
    command.args(["-c", line]).arg(template.get_program()).env_clear();
    for (name, value) in template.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    let socket: OwnedFd = socket.try_clone().unwrap().into();
    command.stdin(Stdio::from(socket)).stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

#[test]
fn requests_wait_at_a_passed_socket_while_the_agent_is_replaced() {
    let host = Host::new();
    let run = host.path().join("run");
    std::fs::create_dir(&run).unwrap();
    let path = run.join("api.sock");
    let socket = UnixListener::bind(&path).unwrap();

    // A request that comes before there is any agent.
    let ask = || {
        let mut stream = UnixStream::connect(&path).expect("somebody holds it open");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        stream
    };
    let answer = |mut stream: UnixStream| {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    };
    let early = ask();
    let first = activated(&host, &socket);
    answer(early);
    answer(ask());
    signal(&first, Signal::TERM);
    let (success, said) = ended(first);
    assert!(success, "{said}");
    assert!(path.exists(), "the name is not the agent's to remove");

    // While none runs, and one of a crash.
    let meanwhile = ask();
    let second = activated(&host, &socket);
    answer(meanwhile);
    signal(&second, Signal::KILL);
    ended(second);
    let after_a_crash = ask();
    let third = activated(&host, &socket);
    answer(after_a_crash);
    signal(&third, Signal::TERM);
    assert!(ended(third).0);
}

/// A terminal's close is told apart from the wish for a reload.
#[test]
fn without_a_terminal_a_hangup_ends_nothing() {
    let host = Host::new();
    host.ok(&["vm", "list"]);
    let agent = host.agent().expect("it was started in the background");
    kill_process(agent, Signal::HUP).unwrap();
    host.ok(&["--no-autostart", "vm", "list"]);
    assert_eq!(host.agent(), Some(agent));
}

#[expect(clippy::disallowed_methods, reason = "what checks unit files is systemd's")]
#[test]
fn the_unit_files_are_right() {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let units = here.join("../../packaging/systemd");
    let dir = tempfile::tempdir().unwrap();
    let mut copies = Vec::new();
    for name in ["innkeeper.service", "innkeeper.socket", "innkeeper-guests.service"] {
        let unit = std::fs::read_to_string(units.join(name)).unwrap();
        // Where it is on this machine.
        let unit = unit.replace("/usr/bin/inn", env!("CARGO_BIN_EXE_inn"));
        let copy = dir.path().join(name);
        std::fs::write(&copy, unit).unwrap();
        copies.push(copy);
    }
    let started = Instant::now();
    let verify = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "--recursive-errors=no"])
        .args(&copies)
        .env("SYSTEMD_UNIT_PATH", format!("{}:", dir.path().display()))
        .output();
    match verify {
        Err(error) => println!("SKIPPED the_unit_files_are_right: systemd-analyze: {error}"),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let ours: Vec<_> = said.lines().filter(|line| line.contains("innkeeper")).collect();
            assert!(ours.is_empty(), "after {:?}: {said}", started.elapsed());
        }
    }
}
