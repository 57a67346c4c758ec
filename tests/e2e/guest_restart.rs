//! The host's agent is killed at the worst of times: copies go on, detached
//! execs are found again, and guests take back what nobody confirms.
//!
//! One host for all, one test after the other: each kills its agent.

use std::fs;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use inn_tests::{Host, Running, wait};

use crate::guest_files::noise;
use crate::guests::{BOOT_LIMIT, PATIENT, create_debian, until_ready};

/// A VM whose agent is PID 1, and a Debian.
const VM: &str = "init";
const FULL: &str = "full";

static HOST: OnceLock<Mutex<Option<Host>>> = OnceLock::new();

/// The host, for one test at a time.
struct Turn(MutexGuard<'static, Option<Host>>);

impl std::ops::Deref for Turn {
    type Target = Host;

    fn deref(&self) -> &Host {
        self.0.as_ref().expect("the suite has not ended")
    }
}

fn host() -> Turn {
    let host = HOST.get_or_init(|| {
        let host = Host::bare();
        fs::write(host.config(), PATIENT).unwrap();
        host.start_agent();
        host.import("mini");
        let full = create_debian(&host, FULL).start();
        host.inn(["vm", "create", "--image", "mini", "--name", VM]).ok();
        full.wait(BOOT_LIMIT).expect_code(0);
        Mutex::new(Some(host))
    });
    // A test that failed has left the host to the next one, come what may.
    let turn = Turn(host.lock().unwrap_or_else(PoisonError::into_inner));
    if !turn.has_agent() {
        turn.start_agent();
    }
    turn
}

pub(crate) fn finish() {
    if let Some(host) = HOST.get() {
        let host = host.lock().unwrap_or_else(PoisonError::into_inner).take();
        host.into_iter().for_each(Host::finish);
    }
}

fn restart_agent(host: &Host) {
    host.kill_agent();
    host.start_agent();
}

fn sh(host: &Host, vm: &str, script: &str) -> String {
    host.inn(["vm", "exec", vm, "--", "sh", "-c", script]).ok()
}

/// As much as what the issue of a copy that breaks off is about.
const LARGE: usize = 256 << 20;
const COPY_LIMIT: Duration = Duration::from_secs(300);

pub(crate) fn a_copy_into_the_guest_resumes() {
    let host = host();
    let data = noise(LARGE);
    let here = host.home().join("large");
    fs::write(&here, &data).unwrap();
    let copy = host.inn(["vm", "cp", "large", "init:/srv/large"]).start();
    // Where the half lies is the agent's business, that it grows is not.
    let kib = || -> usize {
        let du = sh(&host, VM, "du -k /srv | tail -n 1");
        du.split_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or(0)
    };
    let before = wait::until("a part is there", || Some(kib()).filter(|kib| *kib >= 8 << 10));
    restart_agent(&host);
    let after = kib();
    assert!(after >= before, "{before} KiB had arrived, and {after} are left to go on from");
    let copied = copy.wait(COPY_LIMIT).expect_code(0);
    assert!(copied.stderr.contains("broke off"), "it was over before its agent was: {copied}");
    let sum = sh(&host, VM, "sha256sum < /srv/large; ls -A /srv | grep -v -e large -e work; true");
    assert_eq!(sum, format!("{}  -\n", sha256(&data)), "nothing else is left, either");
    sh(&host, VM, "rm /srv/large");
    fs::remove_file(here).unwrap();
}

pub(crate) fn a_copy_out_of_the_guest_resumes() {
    let host = host();
    sh(&host, VM, "dd if=/dev/urandom of=/srv/out bs=1M count=256 2>/dev/null");
    let expected = sh(&host, VM, "sha256sum < /srv/out");
    let dir = host.home().join("outbound");
    fs::create_dir(&dir).unwrap();
    let copy = host.inn(["vm", "cp", "init:/srv/out", "out"]).dir(&dir).start();
    wait::until("a part is here", || (allocated(&dir) >= 8 << 20).then_some(()));
    restart_agent(&host);
    let copied = copy.wait(COPY_LIMIT).expect_code(0);
    assert!(copied.stderr.contains("broke off"), "it was over before its agent was: {copied}");
    let data = fs::read(dir.join("out")).unwrap();
    assert_eq!(format!("{}  -\n", sha256(&data)), expected);
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "nothing but the file is left");
    sh(&host, VM, "rm /srv/out");
    fs::remove_dir_all(dir).unwrap();
}

/// Bytes that files in the directory take.
fn allocated(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = fs::read_dir(dir).unwrap().flatten();
    entries.filter_map(|e| e.metadata().ok()).map(|m| m.blocks() * 512).sum()
}

fn sha256(data: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(data).iter().map(|b| format!("{b:02x}")).collect()
}

pub(crate) fn a_detached_exec_is_found_again() {
    let host = host();
    for vm in [VM, FULL] {
        let script = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); echo tick $i; sleep 0.1; done";
        let id = host.inn(["vm", "exec", "-d", vm, "--", "sh", "-c", script]).ok();
        let id = id.trim();
        let attach = |offset: &str| -> Running {
            host.inn(["vm", "attach", vm, id, "--offset", offset]).start()
        };
        let mut attached = attach("0");
        attached.until_stdout("tick 3\n");
        restart_agent(&host);
        let exec = until_listed(&host, vm, id);
        assert_eq!(exec["running"], true, "{exec}");
        // The one that was attached goes on by itself, where it was.
        attached.until_stdout("tick 30\n");
        let mut again = attach("7");
        again.until_stdout("tick 31\n");
        host.inn(["vm", "kill", vm, id, "--signal", "KILL"]).ok();
        let whole = attached.wait(wait::PATIENCE).expect_code(137).stdout;
        let expected: String = (1..=whole.lines().count()).map(|n| format!("tick {n}\n")).collect();
        assert_eq!(whole, expected, "each line once and in order");
        let rest = again.wait(wait::PATIENCE).expect_code(137).stdout;
        assert_eq!(rest, whole[7..], "from the seventh byte on");
    }
}

#[track_caller]
fn until_listed(host: &Host, vm: &str, id: &str) -> serde_json::Value {
    wait::until("the exec is listed again", || {
        let list = host.inn(["vm", "execs", "-o", "json", vm]).output();
        let list: serde_json::Value = serde_json::from_str(&list.stdout).ok()?;
        list.as_array()?.iter().find(|e| e["id"] == id).cloned()
    })
}

/// A host that is gone thaws nothing: the guest's own timer does.
pub(crate) fn a_frozen_guest_thaws_by_itself() {
    let host = host();
    for vm in [FULL, VM] {
        let script = "while :; do date +%s >> /var/tmp/ticks; sleep 0.2; done";
        sh(&host, vm, "mkdir -p /var/tmp");
        let id = host.inn(["vm", "exec", "-d", vm, "--", "sh", "-c", script]).ok();
        host.inn(["vm", "guest", "freeze", vm, "--timeout", "4s"]).ok();
        host.kill_agent();
        host.start_agent();
        until_ready(&host, vm);
        let ticks = wait::until("the guest writes again", || {
            let ticks = sh(&host, vm, "cat /var/tmp/ticks");
            let ticks: Vec<u64> = ticks.lines().map(|l| l.parse().unwrap()).collect();
            longest_pause(&ticks).is_some_and(|pause| pause >= 3).then_some(ticks)
        });
        assert!(longest_pause(&ticks).unwrap() < 60, "{ticks:?}");
        host.inn(["vm", "kill", vm, id.trim(), "-s", "KILL"]).ok();
        let stats = host.inn(["vm", "stats", "-o", "json", "--fresh", vm]).json();
        assert_eq!(stats["now"]["frozen"], false, "{stats}");
    }
}

fn longest_pause(seconds: &[u64]) -> Option<u64> {
    seconds.windows(2).map(|pair| pair[1] - pair[0]).max()
}

/// The guest is told of a new address and then hears no more of its host: a
/// program that waits to be let go on is what makes sure of the order.
pub(crate) fn an_unconfirmed_network_is_taken_back() {
    let host = host();
    let slow = "#!/bin/sh\necho $1 >> /run/asked\n\
        [ $1 != reload ] || { echo applying > /dev/ttyS0; \
        until [ -e /run/goes-on ]; do sleep 0.1; done; }\n\
        exec /usr/bin/networkctl \"$@\"\n";
    host.inn(["vm", "cp", "-", "full:/usr/local/bin/networkctl"]).stdin(slow).ok();
    sh(&host, FULL, "chmod 755 /usr/local/bin/networkctl");
    let name = sh(&host, FULL, "ls /sys/class/net | grep -v lo").trim().to_owned();
    let files = || sh(&host, FULL, "cat /etc/systemd/network/* || true");
    let addresses = || sh(&host, FULL, &format!("ip -br -4 addr show {name}"));
    wait::until("it has an address", || addresses().contains("10.0.2.15").then_some(()));
    let files_before = files();

    let mut console = host.inn(["vm", "console", FULL]).start();
    let args = ["vm", "guest", "network", FULL, "--interface", &name];
    let args = host.inn(args).args(["--address", "10.0.2.99/24", "--confirm", "5s"]);
    let change = args.start();
    console.until_stdout("applying");
    host.kill_agent();
    change.wait(wait::PATIENCE).expect_code(1);
    console.wait(wait::PATIENCE);
    host.start_agent();
    until_ready(&host, FULL);
    sh(&host, FULL, "touch /run/goes-on");
    wait::until("the old network is back", || {
        (files() == files_before && !addresses().contains("10.0.2.99")).then_some(())
    });
    wait::until("and its address", || addresses().contains("10.0.2.15").then_some(()));
    let asked = sh(&host, FULL, "rm /usr/local/bin/networkctl; grep -c reload /run/asked");
    assert_eq!(asked, "2\n", "it was applied and taken back");
}

/// Where Netplan is, it sets the network up, and takes it back.
pub(crate) fn netplan_sets_the_network_up() {
    let host = host();
    let netplan = "/usr/sbin/netplan";
    sh(&host, FULL, &format!("mv /root/netplan {netplan}"));
    let name = sh(&host, FULL, "ls /sys/class/net | grep -v lo").trim().to_owned();
    let addresses = || sh(&host, FULL, &format!("ip -br -4 addr show {name}"));
    let set = |args: &[&str]| {
        let change = ["vm", "guest", "network", FULL, "--interface", &name, "-o", "json"];
        host.inn(change).args(args).limit(BOOT_LIMIT).json()
    };
    let applied = set(&["--address", "10.0.2.88/24", "--gateway", "10.0.2.2"]);
    assert_eq!(applied["by"], "netplan", "{applied}");
    wait::until("the address is there", || addresses().contains("10.0.2.88/24").then_some(()));
    let got = sh(&host, FULL, "netplan get ethernets");
    assert!(got.contains(&name) && got.contains("10.0.2.88/24"), "{got}");
    assert!(sh(&host, FULL, "ip route").contains("default via 10.0.2.2"));
    assert_eq!(sh(&host, FULL, "stat -c %a /etc/netplan/90-innkeeper.yaml"), "600\n");

    let refused = ["vm", "guest", "network", FULL, "--interface", "nothere0", "--dhcp4"];
    host.inn(refused).refused(1, &["nothere0"]);
    set(&["--dhcp4"]);
    wait::until("the old address is back", || {
        let now = addresses();
        (now.contains("10.0.2.15") && !now.contains("10.0.2.88")).then_some(())
    });
    let clean = "rm /etc/netplan/90-innkeeper.yaml; netplan apply; mv";
    sh(&host, FULL, &format!("{clean} {netplan} /root/netplan"));
    wait::until("networkd has it again", || addresses().contains("10.0.2.15").then_some(()));
}
