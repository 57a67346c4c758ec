//! A guest of another architecture than the host's: its firmware boots its disk,
//! and nobody of ours is in it.

use std::fs;

use inn_tests::fixtures::Arm64;
use inn_tests::libvirtd::{Extra, Libvirtd};
use inn_tests::{Host, wait};

use crate::cloud::KEY;

/// Where libvirt has its firmware's variables.
const VARIABLES: &str = "/var/lib/libvirt/qemu/nvram";

pub(crate) fn a_disk_of_another_architecture_is_a_vm_without_an_agent() {
    let skip = |why: &str| eprintln!("SKIPPED a guest of another architecture: {why}");
    if std::env::consts::ARCH != "x86_64" {
        return skip("it is the host's own");
    }
    let arm64 = match Arm64::get() {
        Ok(arm64) => arm64,
        Err(why) => return skip(&why),
    };
    let packages = arm64.host();
    let libvirtd =
        match Libvirtd::start_with(Extra { packages: Some(&packages), ..Extra::default() }) {
            Ok(libvirtd) => libvirtd,
            Err(why) => return skip(&why),
        };
    let host = Host::bare();
    fs::write(host.config(), libvirtd.config() + "architecture = 'aarch64'\n").unwrap();
    host.start_agent();
    host.import("mini");

    // Whoever cannot run it says so, and nothing is made.
    let image = ["vm", "create", "--image", "mini", "--runtime", "libvirt"];
    host.inn(image).refused(1, &["libvirt has guests of aarch64", "make the VM from a disk image"]);
    let disk = arm64.disk();
    let create = || {
        let create = ["vm", "create", "--name", "far", "--memory", "256MiB"];
        host.inn(create).args(["--disk-image".as_ref(), disk.as_os_str()])
    };
    create().args(["--runtime", "qemu"]).refused(1, &["for aarch64", "qemu has guests of x86_64"]);
    let command = create().args(["--runtime", "libvirt", "--", "top"]);
    command.refused(1, &["no guest agent to run a command"]);
    assert!(host.list().is_empty());

    // It is up once it runs: nobody is waited for, and cloud-init's end neither.
    create().args(["--user", "ada", "--ssh-key", KEY]).ok();
    let shown = host.show("far");
    assert_eq!(shown["phase"], "running", "{shown}");
    assert_eq!(libvirtd.domains(), format!("inn-{}", shown["id"].as_str().unwrap()));
    assert_eq!(shown["guest"]["link"], "absent", "{shown}");
    let reason = shown["guest"]["reason"].as_str().unwrap();
    assert!(reason.contains("its CPUs are aarch64"), "{reason}");
    assert_eq!(shown["cloudInit"], serde_json::Value::Null, "{shown}");
    let why = host.inn(["vm", "why", "far"]).ok();
    assert!(why.contains("qemu: the disk image is of a system for aarch64"), "{why}");
    assert!(why.contains("libvirt: the first of runtimes.order that takes such a VM"), "{why}");
    let variables = || fs::read_dir(libvirtd.sees(VARIABLES)).unwrap().count();
    assert_eq!(variables(), 1);

    // Its console is its firmware's and its kernel's, from the beginning.
    let console = || host.inn(["vm", "logs", "--source", "console", "far"]).ok();
    let log = wait::until("it says who it is", || {
        let log = console();
        log.contains("a guest of aarch64").then_some(log)
    });
    assert!(log.contains("UEFI firmware"), "{log}");
    assert!(log.contains("vdb=inn-seed") && !log.contains("inn-agent"), "{log}");
    host.inn(["vm", "exec", "far", "--", "true"]).refused(1, &["far", "its CPUs are aarch64"]);

    // Another agent finds it as it is.
    host.kill_agent();
    libvirtd.restart();
    host.start_agent();
    let after = wait::until("it is found again", || {
        let vm = host.show("far");
        (vm["phase"] == "running" && vm["guest"]["link"] == "absent").then_some(vm)
    });
    assert_eq!(after["pid"], shown["pid"]);
    assert_eq!(after["guest"]["reason"], reason);

    let stopped = host.inn(["vm", "stop", "far"]).ok();
    assert!(stopped.contains("graceful"), "{stopped}");
    assert!(console().contains("my power button"), "{}", console());
    assert_eq!((libvirtd.domains(), variables()), (String::new(), 0));
    host.inn(["vm", "start", "far"]).ok();
    let stopped = host.inn(["vm", "stop", "--force", "far"]).ok();
    assert!(stopped.contains("forced"), "{stopped}");
    host.finish();
    assert_eq!((libvirtd.domains(), variables()), (String::new(), 0));
}
