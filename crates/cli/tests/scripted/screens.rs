//! Commands on a terminal of their own, which they must leave as it was.

use std::fs::File;

use axum::routing::get;
use axum::{Json, Router};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Termios, tcgetattr};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Child;

use crate::agent::{Agent, finish, vm};

/// Both ends of a terminal, and how it was.
struct Terminal {
    master: tokio::fs::File,
    slave: File,
    before: Termios,
}

impl Terminal {
    fn open() -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let path = ptsname(&master, Vec::new()).unwrap();
        let slave = File::options().read(true).write(true).open(path.to_str().unwrap()).unwrap();
        let before = tcgetattr(&slave).unwrap();
        Self { master: tokio::fs::File::from_std(File::from(master)), slave, before }
    }

    fn slave(&self) -> File {
        self.slave.try_clone().unwrap()
    }

    fn modes(&self) -> LocalModes {
        tcgetattr(&self.slave).unwrap().local_modes
    }

    /// What is shown up to `text`.
    async fn until(&mut self, text: &str) -> String {
        let mut shown = Vec::new();
        loop {
            let mut byte = [0];
            self.master.read_exact(&mut byte).await.unwrap();
            shown.push(byte[0]);
            if shown.ends_with(text.as_bytes()) {
                return String::from_utf8(shown).unwrap();
            }
        }
    }

    fn assert_as_before(&self) {
        let after = tcgetattr(&self.slave).unwrap();
        assert_eq!(after.local_modes, self.before.local_modes);
        assert_eq!(after.output_modes, self.before.output_modes);
    }
}

const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

fn list() -> Router {
    let list =
        || async { Json(json!({ "items": [vm(1, "web", "running"), vm(2, "db", "running")] })) };
    Router::new().route("/api/vms", get(list))
}

async fn top(agent: &Agent, terminal: &mut Terminal) -> Child {
    let child = agent
        .inn(&["vm", "top", "--interval", "1h"])
        .stdin(terminal.slave())
        .stdout(terminal.slave())
        .spawn()
        .unwrap();
    let shown = terminal.until("\x1b[J").await;
    assert!(shown.starts_with(ENTER), "{shown:?}");
    assert!(shown.contains("by CPU") && shown.contains("web"), "{shown:?}");
    assert!(!terminal.modes().intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG));
    child
}

#[tokio::test]
async fn top_takes_keys_and_leaves_no_trace() {
    let agent = Agent::start(list());
    let mut terminal = Terminal::open();
    let child = top(&agent, &mut terminal).await;
    terminal.master.write_all(b"n").await.unwrap();
    let sorted = terminal.until("\x1b[J").await;
    assert!(sorted.contains("by name"), "{sorted:?}");
    assert!(sorted.find("db ") < sorted.find("web "), "{sorted:?}");
    terminal.master.write_all(b"q").await.unwrap();
    terminal.until(LEAVE).await;
    assert_eq!(finish(child).await.code, Some(0));
    terminal.assert_as_before();
}

#[tokio::test]
async fn a_signal_ends_top_as_a_key_does() {
    let agent = Agent::start(list());
    for (signal, code) in [(Signal::TERM, 143), (Signal::HUP, 129), (Signal::QUIT, 131)] {
        let mut terminal = Terminal::open();
        let child = top(&agent, &mut terminal).await;
        let pid = i32::try_from(child.id().unwrap()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
        terminal.until(LEAVE).await;
        assert_eq!(finish(child).await.code, Some(code));
        terminal.assert_as_before();
    }
}

#[tokio::test]
async fn a_password_is_never_shown_and_an_interrupt_brings_the_echo_back() {
    let agent = Agent::start(Router::new());
    let mut terminal = Terminal::open();
    let mut child = agent
        .inn(&["vm", "guest", "password", "web"])
        .stdin(terminal.slave())
        .stderr(terminal.slave())
        .spawn()
        .unwrap();
    terminal.until("Password: ").await;
    assert!(!terminal.modes().contains(LocalModes::ECHO));
    terminal.master.write_all(b"one\n").await.unwrap();
    let shown = terminal.until("The same again: ").await;
    assert!(!shown.contains("one"), "{shown:?}");
    assert!(!terminal.modes().contains(LocalModes::ECHO));
    terminal.master.write_all(b"two\n").await.unwrap();
    terminal.until("the two passwords differ").await;
    assert_eq!(child.wait().await.unwrap().code(), Some(2));
    terminal.assert_as_before();

    let child = agent
        .inn(&["vm", "guest", "password", "web"])
        .stdin(terminal.slave())
        .stderr(terminal.slave())
        .spawn()
        .unwrap();
    terminal.until("Password: ").await;
    assert!(!terminal.modes().contains(LocalModes::ECHO));
    let pid = i32::try_from(child.id().unwrap()).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::INT).unwrap();
    assert_eq!(finish(child).await.code, Some(130));
    terminal.assert_as_before();
}
