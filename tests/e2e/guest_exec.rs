//! Execs, by every kind of guest.

use std::time::Duration;

use inn_tests::{Running, wait};
use serde_json::Value;

use crate::guests::Guest;

pub(crate) fn what_is_run_and_how(guest: &Guest) {
    for code in ["0", "3", "255"] {
        let output = guest.exec(&["sh", "-c", &format!("echo out; echo err >&2; exit {code}")]);
        let output = output.output().expect_code(code.parse().unwrap());
        assert_eq!((&*output.stdout, &*output.stderr), ("out\n", "err\n"));
    }
    guest.exec(&["sh", "-c", "kill -KILL $$"]).output().expect_code(137);
    guest.exec(&["/no/such/program"]).refused(127, &["/no/such/program"]);
    guest.exec(&["/etc/passwd"]).refused(126, &["/etc/passwd"]);

    let line = guest.inn(&["exec", "--cmd", "echo $((6 * 7)) | tr 4 X", guest.vm()]).ok();
    assert_eq!(line, "X2\n");
    let argv = guest.exec(&["printf", "%s|", "a b", "", "*", "$HOME", "'"]).ok();
    assert_eq!(argv, "a b||*|$HOME|'|", "no shell comes between");
    let env = guest.inn(&["exec", "-e", "A=one two", "-e", "B=", "--workdir", "/srv", guest.vm()]);
    let env = env.args(["--", "sh", "-c", "echo \"$A|$B|${C-unset}\"; pwd"]).ok();
    assert_eq!(env, "one two||unset\n/srv\n");
}

pub(crate) fn user_has_its_groups_and_home(guest: &Guest) {
    let as_user = |user: &str, script: &str| {
        guest.inn(&["exec", "--user", user, guest.vm(), "--", "sh", "-c", script]).output()
    };
    let seen = as_user(
        "app",
        "id -un; id -u; id -gn; id -Gn; echo $HOME; touch ~/mine && stat -c %U ~/mine",
    );
    let home = if guest.kind.is_init() { "/srv/work" } else { "/home/app" };
    assert_eq!(seen.stdout, format!("app\n1000\napp\napp extra\n{home}\napp\n"), "{seen}");
    let seen = as_user("app:extra", "id -gn").expect_code(0);
    assert_eq!(seen.stdout, "extra\n");
    let seen = as_user("7:8", "id -u; id -g; id -G").expect_code(0);
    assert_eq!(seen.stdout, "7\n8\n8\n", "root's groups are not left: {seen}");
    let unknown = guest.inn(&["exec", "--user", "nobody-here", guest.vm(), "--", "id"]);
    unknown.refused(1, &["nobody-here"]);
}

/// A process that the command has put behind itself goes, too.
pub(crate) fn timeout_ends_the_whole_group(guest: &Guest) {
    let script = "sleep 1009 & sleep 1009; echo not reached";
    let exec = guest.inn(&["exec", "--timeout", "1s", guest.vm(), "--", "sh", "-c", script]);
    let output = exec.output().expect_code(124);
    assert_eq!(output.stdout, "");
    assert!(output.stderr.contains("1 s") || output.stderr.contains("1s"), "no reason: {output}");
    wait::until("the group is gone", || {
        let running = guest.sh("cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '; true");
        (!running.contains("sleep 1009")).then_some(())
    });
}

pub(crate) fn output_limit_says_how_much_was_cut(guest: &Guest) {
    let exec = guest.inn(&["exec", "--output-limit", "64KiB", guest.vm(), "--"]);
    let output = exec.args(["head", "-c", "1000000", "/dev/zero"]).output().expect_code(0);
    assert_eq!(output.stdout.len(), 65536, "{}", output.stderr);
    // 1,000,000 less 65,536, in bytes or rounded in KiB.
    let said = output.stderr.replace([',', ' '], "");
    assert!(said.contains("934464") || said.contains("912"), "{}", output.stderr);
}

pub(crate) fn stdin_streams_and_half_closes(guest: &Guest) {
    let text: String = (0..300_000).map(|n| format!("line {n}\n")).collect();
    let script = "cat; echo and after the end";
    let exec = guest.inn(&["exec", "-i", guest.vm(), "--", "sh", "-c", script]).stdin(text.clone());
    let out = exec.ok();
    assert!(out == format!("{text}and after the end\n"), "{} of {}", out.len(), text.len());
    // What ends without reading everything is no failure.
    let exec = guest.inn(&["exec", "-i", guest.vm(), "--", "head", "-n", "1"]).stdin(text);
    assert_eq!(exec.ok(), "line 0\n");
    // Without -i there is nothing to read.
    assert_eq!(guest.exec(&["cat"]).stdin("not for the guest").ok(), "");
}

/// `vm exec -it` on a terminal that a program holds the other end of.
pub(crate) fn terminal_has_its_size_and_is_restored(guest: &Guest) {
    let driver = concat!(env!("CARGO_MANIFEST_DIR"), "/src/terminal.py");
    let exec = guest.inn(&["exec", "-it", guest.vm(), "--", "sh", "-c"]).args(["tty; stty size; \
        trap 'stty size; exit 5' WINCH; echo waiting; while :; do sleep 0.05; done"]);
    let seen = exec.under("python3", &[driver]).json();
    let printed = seen["printed"].as_str().unwrap().replace('\r', "");
    assert!(printed.contains("/dev/pts/"), "{seen}");
    assert!(printed.contains("\n24 81\n"), "the size at the start: {seen}");
    assert!(printed.contains("\n50 132\n"), "the size after a change: {seen}");
    assert_eq!(seen["exitCode"], 5, "{seen}");
    assert_eq!(seen["raw"], true, "keys went to the guest as they were: {seen}");
    assert_eq!(seen["restored"], true, "{seen}");
}

fn detach(guest: &Guest, script: &str) -> String {
    let id = guest.inn(&["exec", "-d", guest.vm(), "--", "sh", "-c", script]).ok();
    let id = id.trim().to_owned();
    assert!(!id.is_empty() && !id.contains(char::is_whitespace), "{id:?} is no id");
    id
}

fn listed(guest: &Guest, id: &str) -> Value {
    let list = guest.inn(&["execs", "-o", "json", guest.vm()]).json();
    let found = list.as_array().unwrap().iter().find(|e| e["id"] == id);
    found.unwrap_or_else(|| panic!("no {id} in {list}")).clone()
}

fn attach(guest: &Guest, id: &str, offset: &str) -> Running {
    guest.inn(&["attach", guest.vm(), id, "--offset", offset]).start()
}

pub(crate) fn detached_execs_are_listed_attached_to_and_killed(guest: &Guest) {
    let id = detach(guest, "printf 0123456789; echo ready >&2; exec sleep 100000");
    let exec = listed(guest, &id);
    assert_eq!(exec["running"], true, "{exec}");
    assert_eq!(exec["detached"], true, "{exec}");
    assert_eq!(exec["user"], "root", "{exec}");
    assert!(exec["pid"].as_u64().unwrap() > 1, "{exec}");
    let mut whole = attach(guest, &id, "0");
    whole.until_stdout("0123456789");
    let mut rest = attach(guest, &id, "4");
    rest.until_stdout("456789");
    guest.inn(&["kill", guest.vm(), &id]).ok();
    for running in [whole, rest] {
        running.wait(wait::PATIENCE).expect_code(143);
    }
    let ended = listed(guest, &id);
    assert_eq!(ended["running"], false, "{ended}");
    assert_eq!(ended["ended"]["signal"], "SIGTERM", "{ended}");
    // Its output can still be had.
    let later = attach(guest, &id, "8").wait(wait::PATIENCE).expect_code(143);
    assert_eq!(later.stdout, "89", "{later}");
    guest.inn(&["attach", guest.vm(), "0123456789abcdef"]).refused(1, &["0123456789abcdef"]);
}

pub(crate) fn any_signal_reaches_the_command(guest: &Guest) {
    let script = "trap 'echo got usr1' USR1; trap 'echo got hup; exit 9' HUP; echo ready; \
        while :; do sleep 0.05 2>/dev/null; done";
    let id = detach(guest, script);
    let mut attached = attach(guest, &id, "0");
    attached.until_stdout("ready");
    guest.inn(&["kill", guest.vm(), &id, "--signal", "USR1"]).ok();
    attached.until_stdout("got usr1");
    guest.inn(&["kill", guest.vm(), &id, "-s", "SIGHUP"]).ok();
    attached.wait(wait::PATIENCE).expect_code(9);
    guest.inn(&["kill", guest.vm(), &id, "-s", "SIGNONE"]).refused(1, &["SIGNONE"]);
}

pub(crate) fn a_hundred_at_once(guest: &Guest) {
    let ids: Vec<Running> = (0..100)
        .map(|n| guest.exec(&["sh", "-c", &format!("echo {n}; exit {}", n % 7)]).start())
        .collect();
    for (n, running) in ids.into_iter().enumerate() {
        let output =
            running.wait(Duration::from_secs(180)).expect_code((n % 7).try_into().unwrap());
        assert_eq!(output.stdout, format!("{n}\n"));
    }
}
