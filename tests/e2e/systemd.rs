//! The units under a real systemd: that of a Debian, in which an agent with
//! simulated machines is installed as a package would do it. It has one tree of
//! control groups (version 2), by which a QEMU in there is limited.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use inn_tests::{Fixtures, Host, host, wait};

use crate::guests::{BOOT_LIMIT, PATIENT};

const HOST: &str = "host";
const UNITS: [&str; 3] = ["innkeeper.socket", "innkeeper.service", "innkeeper-guests.service"];

/// An agent that has to start, or to be started again, on an emulated CPU.
const PATIENCE: Duration = Duration::from_secs(120);

fn sh(host: &Host, script: &str) -> String {
    host.inn(["vm", "exec", HOST, "--", "sh", "-ec", script]).limit(BOOT_LIMIT).ok()
}

/// A property of the service.
fn property(host: &Host, name: &str) -> String {
    sh(host, &format!("systemctl show innkeeper -p {name} --value")).trim().to_owned()
}

/// Waits for the service to be up with another process.
fn until_another(host: &Host, before: &str) -> String {
    let another = wait::within(PATIENCE, || {
        let is_up = property(host, "ActiveState") == "active";
        Some(property(host, "MainPID")).filter(|pid| is_up && pid != before && pid != "0")
    });
    another.unwrap_or_else(|| panic!("no new agent: {}", journal(host)))
}

fn journal(host: &Host) -> String {
    sh(host, "journalctl -u 'innkeeper*' -o cat --no-pager | tail -n 60")
}

/// The phase of the VM `inner`, as the agent in there tells it.
fn phase(host: &Host) -> String {
    let shown = sh(host, "inn --no-autostart vm show inner -o json");
    let shown: serde_json::Value = serde_json::from_str(&shown).expect("VMs as JSON");
    shown[0]["phase"].as_str().unwrap_or_default().to_owned()
}

fn install(host: &Host) -> Result<(), String> {
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/systemd");
    let put = |from: &Path, to: &str| {
        let to = format!("{HOST}:{to}");
        host.inn(["vm", "cp"]).args([from.as_os_str(), to.as_ref()]).limit(BOOT_LIMIT).ok();
    };
    put(host::binary(), "/usr/bin/inn");
    let runs = host.inn(["vm", "exec", HOST, "--", "inn", "--version"]).output();
    if runs.code != Some(0) {
        return Err(format!("what is built here does not run there: {}", runs.stderr));
    }
    for unit in UNITS {
        put(&units.join(unit), &format!("/etc/systemd/system/{unit}"));
    }
    put(&Fixtures::get().oci_archive(), "/root/mini.tar");
    sh(
        host,
        "mkdir /etc/innkeeper
         printf 'sim.enabled = true\nnetwork.mode = \"user\"\nstart_deadline = \"10m\"\n' > /etc/innkeeper/agent.toml
         systemctl daemon-reload; systemctl enable --now innkeeper.socket innkeeper.service \
         innkeeper-guests.service
         inn --no-autostart image import /root/mini.tar --name mini
         inn --no-autostart vm create --runtime sim --image mini --name inner --network none \
         --persist -- sleep 1000000",
    );
    Ok(())
}

pub(crate) fn units_hold() {
    let host = Host::bare();
    fs::write(host.config(), PATIENT).unwrap();
    host.start_agent();
    let debian = inn_tests::fixtures::Debian::get(host::binary());
    host.inn([
        "vm", "create", "--name", HOST, "--cpus", "2", "--memory", "768MiB", "--disk", "3GiB",
    ])
    .args(["--disk-image".as_ref(), debian.raw.as_os_str()])
    .limit(BOOT_LIMIT)
    .ok();
    if let Err(why) = install(&host) {
        eprintln!("SKIPPED systemd::units_hold: {why}");
    } else {
        requests_wait_for_the_next_agent(&host);
        a_reload_is_no_restart(&host);
        an_upgrade_is_no_restart(&host);
        an_agent_that_stands_still_is_replaced(&host);
        one_tree_of_control_groups_limits_a_machine(&host);
        guests_go_down_and_come_up_with_the_host(&host);
    }
    host.inn(["vm", "delete", "--force", HOST]).ok();
    host.finish();
}

/// Whether it was killed or is restarted: systemd holds the socket.
fn requests_wait_for_the_next_agent(host: &Host) {
    assert!(property(host, "StatusText").contains("serving"), "{}", journal(host));
    let first = property(host, "MainPID");
    let listed = sh(host, &format!("kill -KILL {first}; inn --no-autostart vm list"));
    assert!(listed.contains("inner"), "{listed}");
    let second = until_another(host, &first);
    assert_eq!(property(host, "NRestarts"), "1");

    let answered = sh(
        host,
        "(for i in 1 2 3 4 5 6 7 8 9 10; do inn --no-autostart vm list > /dev/null && echo answered
         done) & systemctl restart innkeeper; wait",
    );
    assert_eq!(answered.lines().count(), 10, "{answered}");
    until_another(host, &second);
    assert_eq!(phase(host), "running", "{}", journal(host));
}

fn a_reload_is_no_restart(host: &Host) {
    let before = property(host, "MainPID");
    sh(host, "systemctl reload innkeeper");
    assert_eq!(property(host, "MainPID"), before);
    assert_eq!(property(host, "ActiveState"), "active");
}

/// A package has replaced the program; systemd knows the process on.
fn an_upgrade_is_no_restart(host: &Host) {
    let of_service = || ["MainPID", "NRestarts"].map(|name| property(host, name));
    let before = of_service();
    sh(host, "cp /usr/bin/inn /usr/bin/inn.new; mv /usr/bin/inn.new /usr/bin/inn");
    let program = || sh(host, &format!("readlink /proc/{}/exe", before[0]));
    assert_eq!(program().trim(), "/usr/bin/inn (deleted)");
    let said = sh(host, "inn --no-autostart agent upgrade 2>&1");
    assert_eq!(program().trim(), "/usr/bin/inn", "{said}");
    assert_eq!(of_service(), before, "{}", journal(host));
    assert_eq!(property(host, "ActiveState"), "active");
    assert!(property(host, "StatusText").contains("serving"), "{}", journal(host));
    assert_eq!(phase(host), "running", "{}", journal(host));
}

/// By the watchdog, whose time is made short for it.
fn an_agent_that_stands_still_is_replaced(host: &Host) {
    sh(
        host,
        "mkdir -p /run/systemd/system/innkeeper.service.d
         printf '[Service]\\nWatchdogSec=15\\n' > /run/systemd/system/innkeeper.service.d/t.conf
         systemctl daemon-reload; systemctl restart innkeeper",
    );
    let before = property(host, "MainPID");
    sh(host, &format!("kill -STOP {before}"));
    until_another(host, &before);
    let said = journal(host);
    assert!(said.contains("Watchdog timeout"), "{said}");
    assert_eq!(phase(host), "running", "{said}");
}

/// QEMU with its libraries, as the host has them, without firmware that nothing
/// here boots: it takes its time in a machine that is emulated itself, and is
/// looked at while it boots.
#[expect(clippy::disallowed_methods, reason = "tests pack the host's programs by its own")]
fn one_tree_of_control_groups_limits_a_machine(host: &Host) {
    let archive = host.home().join("qemu.tar");
    let pack = format!(
        "q=$(readlink -f \"$(command -v qemu-system-x86_64)\")
         {{ echo \"$q\"; ldd \"$q\" | awk '$3 ~ /^\\// {{ print $3 }}'
            ls -d /usr/lib/*/qemu
            find -L /usr/share/seabios /usr/share/qemu -name '*.bin' -o -name qboot.rom; }} |
         tar chf '{}' -T - 2> /dev/null",
        archive.display()
    );
    let packed = Command::new("sh").args(["-ec", &pack]).status().unwrap();
    assert!(packed.success(), "{pack}");
    host.inn(["vm", "cp", "qemu.tar", "host:/root/qemu.tar"]).limit(BOOT_LIMIT).ok();
    let unpack = "tar xf /root/qemu.tar -C / --skip-old-files; qemu-system-x86_64 --version";
    let runs = host.inn(["vm", "exec", HOST, "--", "sh", "-ec", unpack]).output();
    if runs.code != Some(0) {
        return eprintln!("SKIPPED systemd::units_hold, control groups: {}", runs.stderr);
    }
    sh(
        host,
        "systemctl restart innkeeper
         inn --no-autostart vm create --image mini --name limited --no-start --cold --network none \
         --memory 128MiB --cpu-quota 50 --memory-limit 300MiB --pids-limit 200 \
         --io-write-bps 10MiB -- sleep 1000000
         nohup inn --no-autostart vm start limited > /dev/null 2>&1 &",
    );
    // Its own is the only one: of a VM that boots no template is made.
    let group = "/sys/fs/cgroup/system.slice/innkeeper/vm-*";
    let read = |file: &str| sh(host, &format!("cat {group}/{file} 2> /dev/null || true"));
    let why = || sh(host, "inn --no-autostart vm why limited") + &journal(host);
    let runs = wait::within(PATIENCE, || (!read("cgroup.procs").is_empty()).then_some(()));
    assert!(runs.is_some(), "no machine: {}", why());
    let limits = ["cpu.max", "memory.max", "pids.max"].map(|file| read(file).trim().to_owned());
    assert_eq!(limits, ["50000 100000", "314572800", "200"]);
    assert!(read("io.max").contains("wbps=10485760"), "{}", read("io.max"));
    // QEMU and the process that writes its logs.
    let users = sh(
        host,
        &format!("for pid in $(cat {group}/cgroup.procs); do stat -c %u /proc/$pid; done"),
    );
    for user in users.lines() {
        assert!(user.parse::<u32>().unwrap() > 0xffff, "a process is {user}'s");
    }
    let shown = sh(host, "inn --no-autostart vm show limited");
    assert!(shown.contains("cgroups v2") && !shown.contains("not limited"), "{shown}");

    // Microseconds, of which it uses all that it gets.
    let cpu = "sed -n 's/^usage_usec //p'";
    let used = sh(
        host,
        &format!(
            "u() {{ {cpu} {group}/cpu.stat; }}; c() {{ date +%s%6N; }}
             a=$(u); t=$(c); sleep 10; echo $(( ($(u) - a) * 100 / ($(c) - t) )) || true"
        ),
    );
    let percent: u32 = used.trim().parse().unwrap_or_else(|_| panic!("{used}; {}", why()));
    assert!((20..=60).contains(&percent), "it took {percent} % of a CPU and may take 50");

    // What systemd does to its tree takes nothing away.
    sh(host, "systemctl daemon-reload");
    assert_eq!(read("cpu.max").trim(), "50000 100000");
    sh(host, "inn --no-autostart vm delete --force limited");
    assert_eq!(sh(host, &format!("ls -d {group} 2> /dev/null || true")), "");
}

/// Their unit stopped and started; then a reboot, after which those run that
/// are to run.
fn guests_go_down_and_come_up_with_the_host(host: &Host) {
    sh(host, "systemctl stop innkeeper-guests");
    assert_eq!(phase(host), "stopped");
    sh(host, "systemctl start innkeeper-guests");
    let up = |host: &Host| wait::within(PATIENCE, || (phase(host) == "running").then_some(()));
    assert!(up(host).is_some(), "{}", journal(host));

    let before = host.show(HOST)["guest"]["bootId"].clone();
    // The answer may be cut off by the very thing that it asks for.
    host.inn(["vm", "exec", HOST, "--", "systemctl", "reboot"]).output();
    let again = wait::within(BOOT_LIMIT, || {
        let guest = host.show(HOST)["guest"].clone();
        (guest["bootId"] != before && guest["link"] == "ready").then_some(())
    });
    assert!(again.is_some(), "it does not come back: {}", host.show(HOST));
    until_another(host, "");
    assert!(up(host).is_some(), "{}", journal(host));
    let events = sh(host, "inn --no-autostart events --vm inner");
    let downs = events.matches("the guest of VM inner has shut down").count();
    assert_eq!(downs, 2, "once by its unit and once by the reboot: {events}");
    let failed = sh(host, "systemctl list-units --failed --no-legend 'innkeeper*'");
    assert_eq!(failed, "", "{}", journal(host));
}
