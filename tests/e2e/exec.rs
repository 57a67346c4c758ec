use inn_tests::host::Host;

use crate::suite::{SHARED_VM, host_with_vm};

fn sh(host: &Host, script: &str) -> inn_tests::Output {
    host.inn(["vm", "exec", SHARED_VM, "--", "sh", "-c", script]).output()
}

pub(crate) fn exit_codes_and_streams() {
    let host = host_with_vm();
    for code in [0, 1, 3, 42, 255] {
        sh(host, &format!("exit {code}")).expect_code(code);
    }
    sh(host, "kill -TERM $$").expect_code(143);
    sh(host, "kill -KILL $$").expect_code(137);
    let output = sh(host, "echo a; echo b >&2; exit 5").expect_code(5);
    assert_eq!((&*output.stdout, &*output.stderr), ("a\n", "b\n"));

    sh(host, "no-such-program").expect_code(127);
    host.inn(["vm", "exec", SHARED_VM, "--", "no-such-program"]).refused(127, &["no-such-program"]);
    host.inn(["vm", "exec", SHARED_VM, "--", "/etc/passwd"]).refused(126, &["/etc/passwd"]);
}

pub(crate) fn environment_directory_and_user() {
    let host = host_with_vm();
    let out = host
        .inn([
            "vm",
            "exec",
            "-e",
            "A=one two",
            "--workdir",
            "/srv/work",
            "--user",
            "app",
            SHARED_VM,
        ])
        .args(["--", "sh", "-c", "echo \"$A\"; pwd; id -un; id -Gn; touch mine; stat -c %U mine"])
        .ok();
    assert_eq!(out, "one two\n/srv/work\napp\napp extra\napp\n");
    let out = host.inn(["vm", "exec", "--user", "7:8", SHARED_VM, "--", "id"]).ok();
    assert!(out.starts_with("uid=7 gid=8"), "{out}");
    let out = host.inn(["vm", "exec", "--cmd", "echo $((6 * 7)) | tr 4 X", SHARED_VM]).ok();
    assert_eq!(out, "X2\n");
    let unknown = host.inn(["vm", "exec", "--user", "nobody-here", SHARED_VM, "--", "id"]);
    unknown.refused(1, &["user nobody-here"]);
}

pub(crate) fn stdin_to_eof() {
    let host = host_with_vm();
    let text: String = (0..50_000).map(|n| format!("line {n}\n")).collect();
    let out = host.inn(["vm", "exec", "-i", SHARED_VM, "--", "cat"]).stdin(text.clone()).ok();
    assert!(out == text, "{} bytes of {}", out.len(), text.len());
    // A command that ends before it has read everything is no failure.
    let out = host.inn(["vm", "exec", "-i", SHARED_VM, "--", "head", "-n", "1"]).stdin(text).ok();
    assert_eq!(out, "line 0\n");
}

pub(crate) fn timeout() {
    let host = host_with_vm();
    let output =
        host.inn(["vm", "exec", "--timeout", "1s", SHARED_VM, "--", "sleep", "1007"]).output();
    assert_eq!(output.code, Some(124), "{output}");
    let left = sh(host, "ps | grep -v grep | grep 'sleep 1007'");
    assert_eq!(left.code, Some(1), "the command goes on: {left}");
}

pub(crate) fn terminal() {
    let host = host_with_vm();
    let out = host.inn(["vm", "exec", "-t", SHARED_VM, "--", "sh", "-c", "tty; test -t 1"]).ok();
    assert!(out.contains("/dev/pts/"), "{out}");
    let out = host.inn(["vm", "exec", SHARED_VM, "--", "sh", "-c", "test -t 1 || echo none"]).ok();
    assert_eq!(out, "none\n");
}

pub(crate) fn many_at_once() {
    let host = host_with_vm();
    let running: Vec<_> = (0..12)
        .map(|n| {
            let script = format!("seq 1 2000; echo last {n}");
            host.inn(["vm", "exec", SHARED_VM, "--", "sh", "-c", &script]).start()
        })
        .collect();
    for (n, exec) in running.into_iter().enumerate() {
        let output = exec.wait(inn_tests::wait::PATIENCE).expect_code(0);
        assert!(output.stdout.ends_with(&format!("2000\nlast {n}\n")), "{output}");
        assert_eq!(output.stdout.lines().count(), 2001);
    }
}

pub(crate) fn fan_out_labels_lines_and_sums_failures_up() {
    let host = Host::up();
    for name in ["one", "two", "three"] {
        host.inn(["vm", "create", "--image", "mini", "--name", name]).ok();
    }
    let script = "hostname; test \"$(hostname)\" != two";
    let output =
        host.inn(["vm", "exec", "--all", "--", "sh", "-c", script]).output().expect_code(1);
    let mut lines: Vec<_> = output.stdout.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["one   | one", "three | three", "two   | two"], "{output}");
    assert!(output.stderr.contains("two"), "the summary names the failed one: {output}");
    assert!(!output.stderr.contains("three"), "and no other: {output}");

    let some = host.inn(["vm", "exec", "--vm", "one", "--vm", "three", "--", "hostname"]).ok();
    assert_eq!(some.lines().count(), 2, "{some}");
    let hello = host.inn(["vm", "exec", "--hello", "--all"]).ok();
    assert_eq!(hello.matches("Hello").count(), 3, "{hello}");
    host.finish();
}

pub(crate) fn identity_is_the_vm_s() {
    let host = host_with_vm();
    let out = sh(
        host,
        "hostname; cat /etc/hostname; wc -c < /etc/machine-id; cat /etc/resolv.conf; cat /etc/hosts; cat /proc/1/comm",
    )
    .expect_code(0)
    .stdout;
    assert!(out.starts_with("shared\nshared\n33\n"), "{out}");
    assert!(out.contains("nameserver 10.0.2.3"), "{out}");
    assert!(out.lines().any(|l| l.starts_with("127.0.0.1") && l.contains("localhost")), "{out}");
    assert!(out.contains("shared"), "{out}");
    let clock: i64 = sh(host, "date +%s").expect_code(0).stdout.trim().parse().unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let off = clock.abs_diff(i64::try_from(now).unwrap());
    assert!(off <= 5, "the guest's clock is {off} s off");
}

pub(crate) fn hello_without_a_language() {
    let out = host_with_vm().inn(["vm", "exec", "--hello", SHARED_VM]).ok();
    assert_eq!(out, "Hello from the shell!\n");
}

pub(crate) fn json_captures_both_outputs() {
    let host = host_with_vm();
    let script = "echo out; echo err >&2; exit 4";
    let output =
        host.inn(["vm", "exec", "-o", "json", SHARED_VM, "--", "sh", "-c", script]).output();
    assert_eq!(output.code, Some(4), "{output}");
    let json: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    let one = json.as_array().map_or(&json, |all| &all[0]);
    assert_eq!(one["stdout"], "out\n", "{json}");
    assert_eq!(one["stderr"], "err\n", "{json}");
    assert_eq!(one["exitCode"], 4, "{json}");
}
