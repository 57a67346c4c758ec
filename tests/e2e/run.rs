use std::time::Duration;

use crate::suite::host;

pub(crate) fn streams_stay_apart() {
    let output = host()
        .inn(["run", "--rm", "mini", "--", "sh", "-c", "echo to stdout; echo to stderr >&2"])
        .output()
        .expect_code(0);
    assert_eq!(output.stdout, "to stdout\n");
    assert!(output.stderr.contains("to stderr\n"), "{output}");
    assert!(!output.stderr.contains("to stdout"), "{output}");
}

pub(crate) fn exit_code_is_the_command_s() {
    host().inn(["run", "--rm", "mini", "--", "sh", "-c", "exit 3"]).output().expect_code(3);
    host().inn(["run", "--rm", "mini", "--", "sh", "-c", "no-such"]).output().expect_code(127);
    let missing = host().inn(["run", "--rm", "mini", "--", "/no/such/program"]);
    missing.refused(127, &["/no/such/program"]);
}

pub(crate) fn a_signal_is_128_and_its_number() {
    host().inn(["run", "--rm", "mini", "--", "sh", "-c", "kill -9 $$"]).output().expect_code(137);
}

pub(crate) fn stdin_reaches_the_command() {
    let megabyte = vec![b'x'; 1_000_000];
    let counted = host().inn(["run", "--rm", "-i", "mini", "--", "wc", "-c"]).stdin(megabyte).ok();
    assert_eq!(counted.trim(), "1000000");
}

pub(crate) fn without_i_stdin_is_empty() {
    let out = host().inn(["run", "--rm", "mini", "--", "cat"]).stdin("not for the guest").ok();
    assert_eq!(out, "");
}

pub(crate) fn image_s_configuration_is_honoured() {
    let shown = host().inn(["run", "--rm", "configured"]).ok();
    for line in [
        "argc=2",
        "arg=one",
        "arg=two words",
        "pwd=/srv/work",
        "uid=1000 gid=1000 groups=1000 1001",
        "greeting=hello there",
        "home=/srv/work",
        "path=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    ] {
        assert!(shown.lines().any(|l| l == line), "no line {line:?} in {shown}");
    }
    let shown =
        host().inn(["run", "--rm", "-e", "GREETING=good bye", "configured", "--", "mine"]).ok();
    assert!(shown.contains("argc=1\narg=mine\n"), "the entrypoint stays, CMD goes: {shown}");
    assert!(shown.contains("greeting=good bye\n"), "-e comes before the image's: {shown}");
}

pub(crate) fn timeout_ends_the_command() {
    let output =
        host().inn(["run", "--rm", "--timeout", "1s", "mini", "--", "sleep", "1000"]).output();
    assert_eq!(output.code, Some(124), "{output}");
}

pub(crate) fn without_rm_the_vm_stays() {
    let host = host();
    host.inn(["run", "--name", "stays", "mini", "--", "sh", "-c", "echo kept > /root/file"]).ok();
    assert_eq!(host.inn(["vm", "start", "stays"]).output().code, Some(0));
    assert_eq!(host.inn(["vm", "exec", "stays", "--", "cat", "/root/file"]).ok(), "kept\n");
    host.inn(["vm", "delete", "--force", "stays"]).ok();
}

pub(crate) fn large_output_is_whole() {
    let output = host()
        .inn(["run", "--rm", "mini", "--", "sh", "-c", "seq 1 300000; seq 1 1000 >&2"])
        .limit(Duration::from_secs(240))
        .output()
        .expect_code(0);
    let expected: String = (1..=300_000).map(|n| format!("{n}\n")).collect();
    assert!(output.stdout == expected, "{} bytes of {}", output.stdout.len(), expected.len());
    assert!(output.stderr.contains("\n999\n1000\n"));
}

pub(crate) fn what_one_vm_writes_no_other_sees() {
    let host = host();
    let script = "echo changed > /etc/marker; rm /bin/show; cat /etc/marker; ls /bin/show";
    let output = host.inn(["run", "--rm", "mini", "--", "sh", "-c", script]).output();
    assert_eq!(output.stdout, "changed\n", "{output}");
    let script = "cat /etc/marker; ls /bin/show";
    let fresh = host.inn(["run", "--rm", "mini", "--", "sh", "-c", script]).ok();
    assert_eq!(fresh, "mini, as imported\n/bin/show\n");
}

pub(crate) fn machine_is_as_large_as_asked() {
    let script = "nproc; awk '/MemTotal/ {print $2}' /proc/meminfo; df -k / | tail -n 1";
    let out = host()
        .inn(["run", "--rm", "--cpus", "2", "--memory", "384MiB", "--disk", "3GiB", "mini", "--"])
        .args(["sh", "-c", script])
        .ok();
    let mut lines = out.lines();
    assert_eq!(lines.next(), Some("2"), "{out}");
    let memory: u64 = lines.next().unwrap().parse().unwrap();
    assert!((300 * 1024..384 * 1024).contains(&memory), "{memory} KiB of 384 MiB");
    let disk: u64 = lines.next().unwrap().split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!((2_700_000..3_200_000).contains(&disk), "{disk} KiB of 3 GiB");
}
