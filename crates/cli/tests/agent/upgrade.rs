//! The agent's upgrade in place.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};
use serde_json::Value;

use crate::host::Host;

/// Far beyond what anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

fn node(host: &Host) -> Value {
    serde_json::from_str(&host.ok(&["--no-autostart", "node", "show", "-o", "json"])).unwrap()
}

fn health(socket: &std::path::Path) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

#[test]
fn the_process_and_the_vms_stay_and_nobody_is_refused() {
    let host = Host::new();
    host.import();
    host.ok(&["vm", "create", "--runtime", "sim", "--image", "tiny", "--name", "web"]);
    let vm = |host: &Host| -> Value {
        let shown: Value =
            serde_json::from_str(&host.ok(&["vm", "show", "web", "-o", "json"])).unwrap();
        shown.get(0).cloned().unwrap_or(shown)
    };
    let (before, vm_before) = (node(&host), vm(&host));

    let over = Arc::new(AtomicBool::new(false));
    let asking = {
        let (over, socket) = (Arc::clone(&over), host.path().join("run/api.sock"));
        std::thread::spawn(move || {
            let mut answers = 0;
            while !over.load(Ordering::SeqCst) {
                let text = health(&socket).expect("the socket takes everyone");
                // One that was cut off at its beginning waited too long.
                assert!(text.starts_with("HTTP/1.1 200"), "{text}");
                answers += 1;
            }
            answers
        })
    };
    for _ in 0..3 {
        let said = host.output(&["--no-autostart", "agent", "upgrade"]);
        let log = std::fs::read_to_string(host.data().join("agent.log")).unwrap();
        assert_eq!(said.code, Some(0), "{said:?}\n{log}");
        let said = said.stdout;
        assert!(said.starts_with(&format!("the agent (pid {}) is ", before["pid"])), "{said}");
    }
    over.store(true, Ordering::SeqCst);
    assert!(asking.join().unwrap() > 0);

    let after = node(&host);
    assert_eq!(before["pid"], after["pid"]);
    assert_ne!(before["startedAt"], after["startedAt"]);
    assert_eq!(vm_before["pid"], vm(&host)["pid"]);
    assert_eq!(vm(&host)["phase"], "running");
    let events = host.ok(&["events", "-o", "json"]);
    assert_eq!(events.matches("\"agent-upgrading\"").count(), 3, "{events}");

    // The socket that it made itself is still its own to remove.
    let agent = host.agent().unwrap();
    kill_process(agent, Signal::TERM).unwrap();
    let begun = Instant::now();
    while host.path().join("run/api.sock").exists() {
        assert!(begun.elapsed() < PATIENCE, "the socket stays behind");
        std::thread::yield_now();
    }
}

#[test]
fn a_program_that_cannot_take_over_is_refused_and_the_agent_goes_on() {
    let host = Host::new();
    host.ok(&["vm", "list"]);
    let before = node(&host);
    let script = |name: &str, text: &str| {
        let path = host.path().join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let version = "[ \"$1\" != --version ] || { echo inn 9.9.9; exit; }";
    let config = "case \"$*\" in *--check-config) exit;; esac";
    for (program, words) in [
        ("/nonexistent/inn".to_owned(), "does not run"),
        (script("fails", "echo no such luck >&2; exit 3"), "no such luck"),
        (script("other", "echo other 1.0"), "names itself `other 1.0`"),
        (
            script("picky", &format!("{version}\necho unknown key x >&2; exit 1")),
            "does not take the configuration: unknown key x",
        ),
        (script("old", &format!("{version}\n{config}\necho 1")), "too old for the state"),
        (script("dumb", &format!("{version}\n{config}\nexit 2")), "none that it tells"),
    ] {
        let said = host.output(&["--no-autostart", "agent", "upgrade", "--program", &program]);
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.stderr.contains(words), "{words}: {said:?}");
    }
    let after = node(&host);
    assert_eq!(before["startedAt"], after["startedAt"]);

    // One that cannot be executed after all ends the agent with a sentence.
    let schema = "case \"$*\" in *schema) echo 99; exit;; esac";
    let vanishing = script("vanishing", &format!("{version}\n{config}\n{schema}"));
    let path = std::path::PathBuf::from(&vanishing);
    std::fs::write(
        &path,
        format!("#!/bin/sh\n{version}\n{config}\ncase \"$*\" in *schema) echo 99; rm \"$0\"; exit;; esac\n"),
    )
    .unwrap();
    let said = host.output(&["--no-autostart", "agent", "upgrade", "--program", &vanishing]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stderr.contains("ended in its upgrade"), "{said:?}");
    let log = std::fs::read_to_string(host.data().join("agent.log")).unwrap();
    assert!(log.contains("cannot go on as"), "{log}");
    host.ok(&["vm", "list"]);
}

/// A leased VM's machine ends with the thread that started it: see ADR 0002.
#[test]
fn leased_vms_are_not_taken_by_surprise() {
    let host = Host::new();
    host.import();
    let words = ["run", "--rm", "--runtime", "sim", "tiny", "--", "sleep", "infinity"];
    let mut leased = host.start(&words);
    let begun = Instant::now();
    while !host.ok(&["vm", "list", "-o", "json"]).contains("\"running\"") {
        assert!(begun.elapsed() < PATIENCE, "it never runs");
    }
    let said = host.output(&["agent", "upgrade"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stderr.contains("--end-leased"), "{said:?}");
    host.ok(&["agent", "upgrade", "--end-leased"]);
    assert_ne!(leased.wait().unwrap().code(), Some(0));
    assert_eq!(host.ok(&["vm", "list", "-o", "json"]).trim(), "[]");
}
