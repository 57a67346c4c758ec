//! The units under a real systemd: that of a Debian, in which an agent with
//! simulated machines is installed as a package would do it.

use std::fs;
use std::path::Path;
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
        "mkdir /etc/innkeeper; echo 'sim.enabled = true' > /etc/innkeeper/agent.toml
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
        an_agent_that_stands_still_is_replaced(&host);
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
