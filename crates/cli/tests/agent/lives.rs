use std::io::Write;
use std::process::Stdio;

use serde_json::Value;

use crate::host::{Host, Said};

fn list(host: &Host) -> Vec<Value> {
    serde_json::from_str(&host.ok(&["vm", "list", "--all", "-o", "json"])).unwrap()
}

#[test]
fn a_vm_is_made_used_and_removed() {
    let host = Host::new();
    host.import();
    let create = ["vm", "create", "--image", "tiny", "--runtime", "sim", "--name", "web"];
    assert_eq!(host.ok(&create), "web\n");
    let twice = host.output(&create);
    assert_eq!(twice.code, Some(1));
    assert!(twice.stderr.contains("web"), "{twice:?}");

    assert_eq!(host.ok(&["vm", "exec", "web", "--", "echo", "a", "b"]), "a b\n");
    assert_eq!(host.output(&["vm", "exec", "web", "--", "exit", "9"]).code, Some(9));
    let late = host.output(&["vm", "exec", "web", "--timeout", "50ms", "--", "sleep", "infinity"]);
    assert_eq!(late.code, Some(124), "{late:?}");
    assert!(late.stderr.contains("limit"), "{late:?}");

    let shown: Value =
        serde_json::from_str(&host.ok(&["vm", "show", "web", "-o", "json"])).unwrap();
    assert_eq!(shown[0]["phase"], "running", "{shown}");
    assert!(host.ok(&["vm", "stop", "web"]).starts_with("web stopped"));
    assert!(host.ok(&["vm", "stop", "web"]).starts_with("web stopped"), "stopping twice succeeds");
    assert_eq!(host.ok(&["vm", "list"]).lines().count(), 1, "a stopped VM is not active");
    let down = host.output(&["vm", "exec", "web", "--", "true"]);
    assert_eq!(down.code, Some(1), "{down:?}");
    assert!(down.stderr.contains("web") && down.stderr.contains("start"), "{down:?}");
    assert!(host.ok(&["vm", "start", "web"]).starts_with("web started"));
    assert!(host.ok(&["vm", "restart", "web"]).starts_with("web restarted"));
    assert!(host.ok(&["vm", "delete", "web"]).starts_with("web deleted"));
    assert!(list(&host).is_empty());
    let gone = host.output(&["vm", "delete", "web"]);
    assert_eq!(gone.code, Some(1));
}

#[test]
fn run_ends_with_its_command_and_leaves_nothing() {
    let host = Host::new();
    host.import();
    let run = |words: &[&str]| {
        host.output(&[&["run", "--rm", "--runtime", "sim", "tiny"], words].concat())
    };
    let said = run(&["--", "echo", "hello"]);
    assert_eq!((said.code, said.stdout.as_str(), said.stderr.as_str()), (Some(0), "hello\n", ""));
    assert_eq!(run(&["--", "exit", "5"]).code, Some(5));
    assert_eq!(run(&[]).stdout, "from the image\n");
    assert!(list(&host).is_empty());

    let unknown = host.output(&["run", "--rm", "--runtime", "sim", "tini"]);
    assert_eq!(unknown.code, Some(1));
    assert!(unknown.stderr.contains("tini") && unknown.stderr.contains("tiny"), "{unknown:?}");

    let stays = host.output(&["run", "--runtime", "sim", "--name", "stays", "tiny", "--", "true"]);
    assert_eq!(stays.code, Some(0), "{stays:?}");
    assert!(stays.stderr.contains("stays"), "its name is printed: {stays:?}");
    assert_eq!(list(&host)[0]["name"], "stays");
}

#[test]
fn stdin_reaches_the_command_only_with_i() {
    let host = Host::new();
    host.import();
    let with = |flags: &[&str]| {
        let words = [&["run", "--rm", "--runtime", "sim"], flags, &["tiny", "--", "cat"]].concat();
        let mut child = host.inn(&words).stdin(Stdio::piped()).spawn().unwrap();
        // Without -i nobody reads it, and the pipe holds it.
        child.stdin.take().unwrap().write_all(b"typed").unwrap();
        Said::from(child.wait_with_output().unwrap())
    };
    let said = with(&["-i"]);
    assert_eq!((said.code, said.stdout.as_str()), (Some(0), "typed"), "{said:?}");
    let said = with(&[]);
    assert_eq!((said.code, said.stdout.as_str()), (Some(0), ""), "{said:?}");
}

#[test]
fn fan_out_reaches_every_running_vm() {
    let host = Host::new();
    host.import();
    for name in ["a", "bb", "c"] {
        host.ok(&["vm", "create", "--image", "tiny", "--runtime", "sim", "--name", name]);
    }
    host.ok(&["vm", "stop", "c", "--force"]);
    let said = host.ok(&["vm", "exec", "--all", "--", "echo", "here"]);
    let mut lines: Vec<_> = said.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["a  | here", "bb | here"]);
    let failed = host.output(&["vm", "exec", "a", "bb", "nobody", "--", "exit", "3"]);
    assert_eq!(failed.code, Some(1));
    assert!(failed.stderr.contains("3 of 3 VMs: a (exit code 3), bb (exit code 3), nobody ("));
    host.ok(&["vm", "clean", "--all"]);
    assert!(list(&host).is_empty());
}

#[test]
fn images_are_listed_and_deleted_unless_in_use() {
    let host = Host::new();
    host.import();
    let images: Value = serde_json::from_str(&host.ok(&["image", "list", "-o", "json"])).unwrap();
    assert!(images[0]["name"].as_str().unwrap().starts_with("tiny"), "{images}");
    host.ok(&["vm", "create", "--image", "tiny", "--runtime", "sim", "--name", "user"]);
    let used = host.output(&["image", "delete", "tiny"]);
    assert_eq!(used.code, Some(1));
    assert!(used.stderr.contains("user"), "{used:?}");
    host.ok(&["vm", "clean", "user"]);
    host.ok(&["image", "delete", "tiny"]);
    assert_eq!(host.ok(&["image", "list"]).lines().count(), 1);
}
