//! Disk images that boot by themselves: their life, one without an agent, and
//! those that are none.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use inn_tests::fixtures::Debian;
use inn_tests::netns::Netns;
use inn_tests::{Host, host, leftovers, wait};
use rustix::process::{Pid, Signal, kill_process};

use crate::guests::{BOOT_LIMIT, PATIENT, until_ready};
use crate::suite;

fn sh(host: &Host, vm: &str, script: &str) -> String {
    host.inn(["vm", "exec", vm, "--", "sh", "-c", script]).ok()
}

/// From a compressed qcow2: it boots, reboots within its machine, and is
/// stopped, once because it was asked to and once because it did not answer.
pub(crate) fn qcow2_reboots_and_stops() {
    let host = Host::bare();
    fs::write(host.config(), format!("{PATIENT}stop_timeout = \"40s\"\n")).unwrap();
    host.start_agent();
    let image = Debian::get(host::binary()).qcow2();
    let before = host.kept_files().len();
    host.inn([
        "vm", "create", "--name", "deb", "--cpus", "2", "--memory", "512MiB", "--disk", "2GiB",
    ])
    .args(["--disk-image".as_ref(), image.as_os_str()])
    .limit(BOOT_LIMIT)
    .ok();
    let first = host.show("deb");
    assert_eq!(first["diskImage"]["format"], "qcow2", "{first}");
    assert_eq!(first["guest"]["isInit"], false, "{first}");
    sh(&host, "deb", "echo mine > /root/note");

    // The answer may be cut off by the very thing that it asks for.
    host.inn(["vm", "exec", "deb", "--", "systemctl", "reboot"]).output();
    let second = wait::within(BOOT_LIMIT, || {
        let shown = host.show("deb");
        let anew = shown["guest"]["bootId"] != first["guest"]["bootId"];
        (anew && shown["guest"]["link"] == "ready").then_some(shown)
    });
    let second = second.expect("the guest answers after its reboot");
    assert_eq!(second["pid"], first["pid"], "it has rebooted within its machine");
    assert_eq!(sh(&host, "deb", "cat /root/note"), "mine\n");

    let stopped = host.inn(["vm", "stop", "deb"]).limit(BOOT_LIMIT).ok();
    assert!(stopped.contains("graceful"), "{stopped}");
    let shown = host.show("deb");
    assert_eq!(shown["lastEnd"]["how"], "graceful", "{shown}");
    assert_eq!(shown["phase"], "stopped", "{shown}");

    host.inn(["vm", "start", "deb"]).limit(BOOT_LIMIT).ok();
    assert_eq!(sh(&host, "deb", "cat /root/note"), "mine\n", "the disk stays");
    let stopped = host.inn(["vm", "stop", "--force", "deb"]).ok();
    assert!(stopped.contains("forced"), "{stopped}");
    assert_eq!(host.show("deb")["lastEnd"]["how"], "forced");

    host.inn(["vm", "delete", "deb"]).ok();
    assert_eq!(host.kept_files().len(), before, "{:?}", host.kept_files());
    host.finish();
}

/// Which of the two it was, and why, for a microVM too.
pub(crate) fn stops_say_whether_the_guest_took_part() {
    let host = Host::bare();
    fs::write(host.config(), "stop_timeout = \"4s\"\n").unwrap();
    host.start_agent();
    host.import("mini");
    host.inn(["vm", "create", "--image", "mini", "--name", "stopper"]).ok();
    let restarted = host.inn(["vm", "restart", "stopper"]).ok();
    assert!(restarted.contains("graceful"), "{restarted}");

    let pid = leftovers::machines_of(host.path()).first().map(|m| m.pid).unwrap();
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    let stopped = host.inn(["vm", "stop", "stopper"]).ok();
    assert!(stopped.contains("forced"), "{stopped}");
    let last = host.show("stopper")["lastEnd"].clone();
    assert_eq!(last["how"], "forced", "{last}");
    assert!(!last["reason"].as_str().unwrap_or_default().is_empty(), "{last}");
    assert!(last["tookMs"].as_u64().unwrap() >= 3_000, "{last}");

    host.inn(["vm", "start", "stopper"]).ok();
    host.inn(["vm", "exec", "stopper", "--", "poweroff", "-f"]).output();
    wait::until("its end by itself is known", || {
        (host.show("stopper")["lastEnd"]["how"] == "by-itself").then_some(())
    });
    host.finish();
}

/// A boot sector that prints a line on the first serial port, some times, as
/// SeaBIOS may still be writing its own last words there, and then minds its
/// power button: loaded at 0x7c00 with the drive in DL, which nothing here
/// needs. SeaBIOS puts the ACPI registers of q35 at 0x600 (PM1 status, enable
/// and control; ACPI 6.5, 4.8.3).
fn talking_disk(dir: &Path) -> PathBuf {
    let text = format!("{}\0", "no agent lives here\r\n".repeat(5));
    let mut sector = vec![
        0x31, 0xc0, 0x8e, 0xd8, // xor ax,ax; mov ds,ax
        0xbe, 0x2b, 0x7c, // mov si,0x7c2b
        0xba, 0xf8, 0x03, // mov dx,0x3f8
        0xac, // lodsb
        0x84, 0xc0, // test al,al
        0x74, 0x03, // jz +3
        0xee, // out dx,al
        0xeb, 0xf8, // jmp -8
        0xba, 0x02, 0x06, // mov dx,0x602
        0xb8, 0x00, 0x01, // mov ax,0x100 (PWRBTN_EN)
        0xef, // out dx,ax
        0xba, 0x00, 0x06, // mov dx,0x600
        0xed, // in ax,dx
        0xf6, 0xc4, 0x01, // test ah,1 (PWRBTN_STS)
        0x74, 0xf7, // jz -9, to mov dx
        0xba, 0x04, 0x06, // mov dx,0x604
        0xb8, 0x00, 0x20, // mov ax,0x2000 (SLP_EN of S5)
        0xef, // out dx,ax
        0xeb, 0xfe, // jmp -2
    ];
    assert_eq!(sector.len(), 0x2b, "where the text is looked for");
    sector.extend(text.as_bytes());
    sector.resize(510, 0);
    sector.extend([0x55, 0xaa]);
    sector.resize(1 << 20, 0);
    let path = dir.join("talking.img");
    fs::write(&path, sector).unwrap();
    path
}

pub(crate) fn without_an_agent_there_is_a_console() {
    let host = Host::bare();
    fs::write(host.config(), "start_deadline = \"6s\"\n").unwrap();
    host.start_agent();
    let disk = talking_disk(&host.home());
    let create =
        host.inn(["vm", "create", "--name", "mute", "--disk-image"]).args([&disk]).output();
    assert_eq!(create.code, Some(0), "it runs, as far as anybody can tell: {create}");
    let shown = host.show("mute");
    assert_eq!(shown["phase"], "running", "{shown}");
    assert_eq!(shown["guest"]["link"], "absent", "{shown}");
    assert!(shown["guest"]["reason"].as_str().unwrap().contains("6.00 s"), "{shown}");
    let log = host.inn(["vm", "logs", "--source", "console", "mute"]).ok();
    assert!(log.contains("no agent lives here"), "{log}");
    let exec = host.inn(["vm", "exec", "mute", "--", "true"]).refused(1, &["mute", "agent"]);
    assert!(exec.stdout.is_empty(), "{exec}");
    host.inn(["vm", "stats", "mute"]).refused(1, &["mute"]);
    host.inn(["vm", "cp", "mute:/etc/hostname", "-"]).refused(1, &["agent"]);
    let stopped = host.inn(["vm", "stop", "mute"]).ok();
    assert!(stopped.contains("graceful"), "{stopped}");
    let end = host.show("mute")["lastEnd"].clone();
    assert_eq!(end["how"], "graceful", "{end}");
    assert!(end["reason"].as_str().unwrap().contains("power button"), "{end}");
    host.finish();
}

#[expect(
    clippy::disallowed_methods,
    reason = "the images are made by the program that they are of"
)]
fn qemu_img(args: &[&str], dir: &Path) {
    let output = Command::new("qemu-img").args(args).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

pub(crate) fn what_is_no_disk_image_is_refused() {
    let host = suite::host();
    let dir = host.home().join("disks");
    fs::create_dir(&dir).unwrap();
    let disk = talking_disk(&dir);
    qemu_img(
        &["create", "-q", "-f", "qcow2", "-F", "raw", "-b", "talking.img", "backed.qcow2"],
        &dir,
    );
    qemu_img(&["convert", "-O", "qcow2", "talking.img", "whole.qcow2"], &dir);
    let whole = fs::read(dir.join("whole.qcow2")).unwrap();
    fs::write(dir.join("header.qcow2"), &whole[..60]).unwrap();
    fs::write(dir.join("half.qcow2"), &whole[..whole.len() / 2]).unwrap();
    fs::write(dir.join("text.img"), "this is no disk\n").unwrap();
    fs::write(dir.join("empty.img"), "").unwrap();
    fs::create_dir(dir.join("directory")).unwrap();
    qemu_img(&["convert", "-O", "vmdk", "talking.img", "other.vmdk"], &dir);

    let create = |image: &str, more: &[&str]| {
        let create = host.inn(["vm", "create", "--name", "refused", "--disk-image", image]);
        create.args(more).dir(&dir)
    };
    for (image, word) in [
        ("backed.qcow2", "backing"),
        ("header.qcow2", "header.qcow2"),
        ("half.qcow2", "half.qcow2"),
        ("text.img", "text.img"),
        ("empty.img", "empty.img"),
        ("directory", "directory"),
        ("other.vmdk", "other.vmdk"),
        ("not-there.img", "not-there.img"),
    ] {
        create(image, &[]).refused(1, &[word]);
        let left = host.list().iter().any(|vm| vm["name"] == "refused");
        assert!(!left, "{image} has left a VM");
    }
    let wrong = "0".repeat(64);
    create("talking.img", &["--sha256", &wrong]).refused(1, &["sha256"]);
    host.inn(["vm", "delete", "--force", "refused"]).output();
    create("talking.img", &["--disk", "512KiB"]).refused(1, &["disk"]);
    create("ftp://example.org/disk.img", &[]).refused(2, &["ftp"]);
    create("talking.img", &["--image", "mini"]).output().expect_code(2);
    assert_eq!(fs::metadata(&disk).unwrap().len(), 1 << 20, "what is given is never written to");
    assert!(!host.list().iter().any(|vm| vm["name"] == "refused"));
}

/// A command that ends is started again, as its policy says, and what it says
/// is kept on the host, as much as is configured.
pub(crate) fn workloads_are_supervised_and_their_logs_rotated() {
    let host = Host::bare();
    fs::write(host.config(), "logs.limit = \"256KiB\"\n").unwrap();
    host.start_agent();
    host.import("mini");
    let create = |name: &str, policy: &str, script: &str| {
        let args = ["vm", "create", "--image", "mini", "--name", name, "--restart-policy", policy];
        host.inn(args).args(["--", "sh", "-c", script]).ok();
    };
    let script =
        "n=$(cat /root/n 2>/dev/null || echo 0); n=$((n+1)); echo $n > /root/n; echo run $n; ";
    create("failing", "on-failure", &format!("{script} [ $n -ge 3 ] || exit 7"));
    create("always", "always", &format!("{script} [ $n -lt 3 ] || sleep 100000"));
    create("never", "no", &format!("{script} exit 7"));
    let workload = |vm: &str| host.show(vm)["workload"].clone();
    wait::until("the failing one has been started again until it succeeded", || {
        let workload = workload("failing");
        (workload["restarts"] == 2 && workload["running"] == false).then_some(workload)
    });
    assert_eq!(workload("failing")["exitCode"], 0);
    assert_eq!(host.inn(["vm", "logs", "failing"]).ok(), "run 1\nrun 2\nrun 3\n");
    wait::until("the one that always runs runs for the third time", || {
        let workload = workload("always");
        (workload["restarts"] == 2 && workload["running"] == true).then_some(())
    });
    let ended = wait::until("the one that is not started again has ended", || {
        let workload = workload("never");
        (workload["exitCode"] == 7).then_some(workload)
    });
    assert_eq!((&ended["running"], &ended["restarts"]), (&false.into(), &0.into()), "{ended}");
    host.inn(["vm", "delete", "--force", "failing", "never"]).ok();

    let line = "0123456789".repeat(10);
    let script =
        format!("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo {line} $i; done; sleep 100000");
    create("talker", "no", &script);
    wait::until("all of it has been said", || {
        let tail = host.inn(["vm", "logs", "--tail", "1", "talker"]).ok();
        tail.ends_with(" 20000\n").then_some(())
    });
    let log = host.inn(["vm", "logs", "talker"]).ok();
    assert!((64 << 10..512 << 10).contains(&log.len()), "{} bytes", log.len());
    let numbers: Vec<u32> =
        log.lines().filter_map(|l| l.rsplit(' ').next()?.parse().ok()).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "lines are missing in between");
    // Two mebibytes were said; what is kept of it is in the VM's own files.
    let kept: u64 = fs_size(&host.data().join("vms"), "log");
    assert!(kept <= 600 << 10, "{kept} bytes of logs");
    host.finish();
}

/// Bytes of the files below whose names have `part` in them.
fn fs_size(dir: &Path, part: &str) -> u64 {
    let files = leftovers::files_below(dir);
    let logs =
        files.iter().filter(|f| f.file_name().is_some_and(|n| n.to_string_lossy().contains(part)));
    logs.map(|f| fs::metadata(dir.join(f)).unwrap().len()).sum()
}

/// A guest that is gone for a while is found again; its link says so meanwhile.
/// The same VM is then forked and sleeps, which spares two boots.
pub(crate) fn a_guest_agent_that_ends_is_started_again() {
    let here = Netns::make();
    let host = match &here {
        Ok(here) => Host::bare().with_bridges(here),
        Err(_) => Host::bare(),
    };
    fs::write(host.config(), PATIENT).unwrap();
    host.start_agent();
    crate::guests::create_debian(&host, "deb").ok();
    let first = host.show("deb");
    let unit = sh(
        &host,
        "deb",
        "systemctl show -p MainPID --value inn-guest; systemctl is-enabled inn-guest",
    );
    let (pid, enabled) = unit.trim().split_once('\n').unwrap();
    assert_eq!(enabled, "enabled");
    host.inn(["vm", "exec", "deb", "--", "kill", "-KILL", pid]).output();
    wait::until("systemd has started it again, and the host has found it", || {
        let output = host
            .inn([
                "vm",
                "exec",
                "deb",
                "--",
                "systemctl",
                "show",
                "-p",
                "MainPID,NRestarts",
                "inn-guest",
            ])
            .output();
        (output.code == Some(0) && output.stdout.contains("NRestarts=1")).then_some(())
    });
    let second = until_ready(&host, "deb");
    assert_eq!(second["guest"]["bootId"], first["guest"]["bootId"], "the same boot");
    let journal = sh(&host, "deb", "journalctl -u inn-guest -o cat --no-pager");
    assert!(!journal.trim().is_empty(), "nothing in the journal");
    match &here {
        Ok(here) => crate::full_forks::a_full_vm_is_forked(&host, here, "deb"),
        Err(why) => println!("SKIPPED forks of a full VM: no network namespace: {why}"),
    }
    crate::idle::a_full_vm_sleeps(&host, "deb");
    host.finish();
}
