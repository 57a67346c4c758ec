use std::time::Duration;

use inn_tests::{Fixtures, Host, leftovers, wait};
use rustix::process::{Pid, Signal, kill_process};

use crate::suite::{SHARED_VM, host, host_with_vm};

pub(crate) fn unknown_image_suggests_the_nearest() {
    // Whether a registry would have one is another matter.
    let run = ["run", "--rm", "--pull", "never"];
    host().inn(run).args(["minni", "--", "true"]).refused(1, &["minni", "mini"]);
    host()
        .inn(run)
        .args(["quite-another", "--", "true"])
        .refused(1, &["quite-another", "inn image"]);
}

pub(crate) fn name_in_use() {
    let host = host_with_vm();
    let before = host.show(SHARED_VM);
    host.inn(["vm", "create", "--image", "mini", "--name", SHARED_VM])
        .refused(1, &[SHARED_VM, "replace"]);
    assert_eq!(before["id"], host.show(SHARED_VM)["id"]);
}

pub(crate) fn too_little_memory() {
    let host = Host::up();
    for memory in ["1MiB", "16MiB", "40MiB"] {
        let output = host
            .inn(["run", "--rm", "--memory", memory, "mini", "--", "true"])
            .limit(Duration::from_secs(240))
            .output();
        assert!(matches!(output.code, Some(1 | 2)), "{memory}: {output}");
        assert!(output.stderr.contains("memory"), "{memory}: {output}");
        host.until_empty();
    }
    host.inn(["run", "--rm", "--memory", "9999TiB", "mini", "--", "true"]).refused(1, &["memory"]);
    host.until_empty();
    host.finish();
}

pub(crate) fn disk_too_small_for_the_image() {
    let host = Host::up();
    for disk in ["4KiB", "1MiB"] {
        let output = host.inn(["run", "--rm", "--disk", disk, "mini", "--", "true"]).output();
        assert!(matches!(output.code, Some(1 | 2)), "{disk}: {output}");
        assert!(output.stderr.contains("disk"), "{disk}: {output}");
    }
    host.until_empty();
    host.finish();
}

/// Two ways to be silent: a guest whose agent has no channel, and a kernel that
/// never gets to it. The wait ends and the console's last lines say why.
pub(crate) fn guest_that_never_answers() {
    let host = Host::bare();
    std::fs::write(host.config(), "start_deadline = \"8s\"\n").unwrap();
    host.start_agent();
    host.import("mini");
    for args in ["module_blacklist=virtio_console", "rdinit=/no/such/init panic=0"] {
        let output =
            host.inn(["run", "--rm", "--kernel-args", args, "mini", "--", "true"]).output();
        assert_eq!(output.code, Some(1), "{output}");
        assert!(output.stderr.contains("console | "), "no console's tail: {output}");
        assert!(output.stderr.contains("guest"), "{output}");
        host.until_empty();
    }
    host.finish();
}

/// A machine that stands still before its guest has answered, and one that
/// does after: neither can be waited for, and both go.
pub(crate) fn machine_that_stands_still() {
    let host = Host::bare();
    std::fs::write(host.config(), "start_deadline = \"8s\"\nstop_timeout = \"3s\"\n").unwrap();
    host.start_agent();
    host.import("mini");
    let stop_machine = || {
        let pid = wait::until("a machine runs", || {
            leftovers::machines_of(host.path()).first().map(|m| m.pid)
        });
        let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        kill_process(pid, Signal::STOP).unwrap();
    };
    let run = host.inn(["run", "--rm", "mini", "--", "true"]).start();
    stop_machine();
    let output = run.wait(wait::PATIENCE);
    assert_eq!(output.code, Some(1), "{output}");
    host.until_empty();

    host.inn(["vm", "create", "--image", "mini", "--name", "still"]).ok();
    stop_machine();
    host.inn(["vm", "delete", "still"]).ok();
    host.until_empty();
    host.finish();
}

/// The data directory on a file system with room for the image and for no VM.
pub(crate) fn full_host_disk() {
    let host = Host::bare();
    // What is reserved is not what fills the disk here.
    std::fs::write(host.config(), "admission.disk_overcommit = 1000\n").unwrap();
    let small = host.on_small_disk("150m");
    host.start_agent();
    host.import("mini");
    small.fill();
    let output = host.inn(["run", "--rm", "mini", "--", "true"]).output();
    assert_eq!(output.code, Some(1), "{output}");
    assert!(output.stderr.contains("full"), "{output}");
    small.free();
    host.until_empty();

    // An import that does not fit.
    let args = ["image", "import", "--reference", "base", "--name", "base"];
    host.inn(args).args([Fixtures::get().layout().as_os_str()]).refused(1, &["full"]);
    assert_eq!(host.inn(["run", "--rm", "mini", "--", "echo", "fits"]).ok(), "fits\n");
    host.until_empty();
    host.stop_agent();
    drop(small);
    host.finish();
}

pub(crate) fn unknown_vm() {
    let host = host_with_vm();
    for verb in ["start", "stop", "restart", "delete", "show"] {
        host.inn(["vm", verb, "sharde"]).refused(1, &["sharde", SHARED_VM]);
    }
    host.inn(["vm", "exec", "nobody", "--", "true"]).refused(1, &["nobody"]);
    host.inn(["vm", "logs", "nobody"]).refused(1, &["nobody"]);
}

pub(crate) fn wrong_command_lines() {
    let host = host();
    for args in [
        &["run"][..],
        &["run", "--rm", "--memory", "lots", "mini"],
        &["run", "--rm", "--cpus", "0", "mini"],
        &["run", "--rm", "--network", "may be", "mini"],
        &["run", "--rm", "--timeout", "soon", "mini"],
        &["vm", "create", "--name", "NotALabel", "--image", "mini"],
        &["vm", "create", "--language", "cobol"],
        &["vm", "fly"],
        &["vm", "exec"],
        &["image", "import", "x", "--name", "UPPER"],
        &["image", "import", "x", "--name", "x", "--digest", "sha256:short"],
    ] {
        let output = host.inn(args.iter().copied()).output();
        assert_eq!(output.code, Some(2), "{output}");
        assert!(!output.stderr.is_empty() && output.stdout.is_empty(), "{output}");
    }
}
