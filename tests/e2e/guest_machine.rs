//! What a guest tells of its machine and what can be changed in it, by every
//! kind of guest.

use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use inn_tests::wait;
use serde_json::Value;

use crate::guests::Guest;

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// Against what the guest's own files say.
pub(crate) fn telemetry_is_what_the_guest_has(guest: &Guest) {
    let sample = guest.sample();
    let total: u64 = guest.sh("awk '/^MemTotal/ {print $2}' /proc/meminfo").trim().parse().unwrap();
    assert_eq!(number(&sample["memoryTotalBytes"]), total * 1024, "{sample}");
    let (used, available) =
        (number(&sample["memoryUsedBytes"]), number(&sample["memoryAvailableBytes"]));
    assert!(used > 0 && available > 0 && used + available <= total * 1024 * 11 / 10, "{sample}");
    let cpus: u64 = guest.sh("grep -c ^processor /proc/cpuinfo").trim().parse().unwrap();
    assert_eq!(number(&sample["cpus"]), cpus, "{sample}");
    assert!(sample["cpuPercent"].is_number() && sample["load"][2].is_number(), "{sample}");
    assert!(number(&sample["processes"]) > 1 && number(&sample["uptimeSeconds"]) > 0, "{sample}");
    assert_eq!(sample["frozen"], false, "{sample}");

    // A reading has those that have answered in time.
    let root = wait::until("the root is among the mounts", || {
        let sample = guest.sample();
        let mounts = sample["mounts"].as_array()?;
        mounts.iter().find(|mount| mount["target"] == "/").cloned()
    });
    let df = guest.sh("df -k / | tail -n 1");
    let size: u64 = df.split_whitespace().nth(1).unwrap().parse().unwrap();
    let told = number(&root["totalBytes"]) / 1024;
    assert!(told.abs_diff(size) * 10 <= size, "{told} KiB, and df says {df}");
    let card = wait::until("the card has an address of the network's", || {
        let sample = guest.sample();
        let interfaces = sample["interfaces"].as_array()?;
        let addressed = |card: &&Value| card["addresses"].to_string().contains("\"10.0.2.");
        interfaces.iter().find(addressed).cloned()
    });
    assert!(card["up"] == true && card["mac"].as_str().unwrap().len() == 17, "{card}");
}

pub(crate) fn telemetry_is_kept_and_shown(guest: &Guest) {
    let last = wait::until("some readings are kept", || {
        let asked = guest.inn(&["stats", "-o", "json", "--last", "10m", guest.vm()]).output();
        // One that is only just up has told nothing yet.
        let last: Value = serde_json::from_str(&asked.stdout).ok()?;
        (last["samples"].as_array()?.len() >= 3).then_some(last)
    });
    let times: Vec<&str> =
        last["samples"].as_array().unwrap().iter().map(|s| s["at"].as_str().unwrap()).collect();
    assert!(times.is_sorted(), "{times:?}");
    let shown = guest.show();
    assert!(number(&shown["stats"]["memoryTotalBytes"]) > 0, "{shown}");
    assert_eq!(shown["guest"]["isInit"], guest.kind.is_init(), "{shown}");
    assert_eq!(shown["guest"]["protocol"], "1.4", "{shown}");
    let os = shown["guest"]["os"].as_str().unwrap_or_default();
    assert!(guest.kind.is_init() || os.contains("Debian") || os.contains("Ubuntu"), "{shown}");
    let top = guest.inn(&["top", "--once"]).ok();
    assert!(top.contains("CPU") && top.lines().any(|l| l.starts_with(guest.vm())), "{top}");
}

/// By crypt(3) of the host, which has not seen how the guest hashes.
#[expect(clippy::disallowed_methods, reason = "Perl has crypt(3)")]
fn crypt(password: &str, hash: &str) -> String {
    let program = "my ($p, $h) = @ARGV; print crypt($p, $h);";
    let output = Command::new("perl")
        .args(["-e", program, password, hash])
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn password(guest: &Guest) {
    if guest.kind.is_init() {
        // The image has none, as small ones often have not.
        guest.sh("printf 'root:*:19000:0:99999:7:::\\napp:!:19000:0:99999:7:::\\n' > /etc/shadow && chmod 600 /etc/shadow");
    }
    let hash_of = |user: &str| {
        let line = guest.sh(&format!("grep ^{user}: /etc/shadow"));
        line.split(':').nth(1).unwrap().to_owned()
    };
    let before = hash_of("root");
    let secret = "correct horse, batterie agrafée";
    guest.change("password", &["--user", "app"]).stdin(format!("{secret}\n")).ok();
    let hash = hash_of("app");
    assert!(hash.starts_with("$6$") && crypt(secret, &hash) == hash, "{hash}");
    assert_ne!(crypt("another", &hash), hash);
    assert_eq!(hash_of("root"), before, "nobody else's");
    assert_eq!(guest.sh("stat -c %a /etc/shadow").trim().trim_start_matches('0').len(), 3);

    let given = "$6$saltsalt$qFmFH.bQmmtXzyBY0s9v7Oicd2z4XSIecDzlB5KiA2/jctKu9YterLp8wwnSq.qc.eoxqOmSuNp2xS0ktL3nh/";
    guest.change("password", &["--user", "app", "--hash"]).stdin(given).ok();
    assert_eq!(hash_of("app"), given);
    guest.change("password", &["--user", "nobody-here"]).stdin("x").refused(1, &["nobody-here"]);
    for bad in ["", "two\nlines:and:colons", "$6$no:colon"] {
        let output = guest.change("password", &["--user", "app", "--hash"]).stdin(bad).output();
        assert_ne!(output.code, Some(0), "{bad:?}: {output}");
    }
    assert_eq!(hash_of("app"), given);
}

pub(crate) fn hostname(guest: &Guest) {
    let before = guest.sh("cat /proc/sys/kernel/hostname").trim().to_owned();
    guest.change("hostname", &["renamed-1"]).ok();
    let seen = guest.sh("cat /proc/sys/kernel/hostname /etc/hostname");
    assert_eq!(seen, "renamed-1\nrenamed-1\n");
    for bad in ["", "has space", "under_score!", &"x".repeat(70)] {
        let output = guest.inn(&["guest", "hostname", guest.vm(), "--", bad]).output();
        assert!(matches!(output.code, Some(1 | 2)), "{bad:?}: {output}");
    }
    guest.change("hostname", &[&before]).ok();
    assert_eq!(guest.sh("cat /proc/sys/kernel/hostname").trim(), before);
}

pub(crate) fn clock(guest: &Guest) {
    guest.sh("date -s @1000000000");
    let set = guest.change("clock", &["-o", "json"]).json();
    let behind = set["behindMs"].as_i64().unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let expected = i64::try_from(now).unwrap() - 1_000_000_000;
    assert!((behind / 1000 - expected).abs() < 60, "{set}, and {expected} s were expected");
    let seen: u64 = guest.sh("date +%s").trim().parse().unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert!(seen.abs_diff(now) <= 5, "{seen} and {now}");
}

pub(crate) fn ssh_keys(guest: &Guest) {
    let key = |name: &str| {
        // 32 bytes of its own behind the type's name, as ssh-keygen writes it.
        let own = name.repeat(43);
        format!("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{} {name}", &own[..43])
    };
    let here = guest.host_dir("keys");
    std::fs::write(here.join("one.pub"), key("one") + "\n").unwrap();
    let keys = ["--user", "app"];
    guest.change("ssh-keys", &keys).args(["--add", "one.pub"]).dir(&here).ok();
    guest.change("ssh-keys", &keys).args(["--add", "one.pub"]).dir(&here).ok();
    let list = || guest.change("ssh-keys", &keys).args(["--list"]).ok();
    assert_eq!(list(), key("one") + "\n", "a key that is there is not put twice");
    let home = guest.sh("grep ^app: /etc/passwd | cut -d: -f6").trim().to_owned();
    let seen = guest
        .sh(&format!("cd {home}/.ssh && stat -c '%a %U' . authorized_keys && cat authorized_keys"));
    assert_eq!(seen, format!("700 app\n600 app\n{}\n", key("one")));
    let two = format!("# a comment\n{}\n\n{}\n", key("two"), key("three"));
    guest.change("ssh-keys", &keys).args(["--replace", "-"]).stdin(two).ok();
    assert!(!list().contains(" one") && list().contains(" two") && list().contains(" three"));
    let bad = guest.change("ssh-keys", &keys).args(["--add", "-"]).stdin("no key\n");
    bad.refused(1, &["key"]);
    std::fs::remove_dir_all(here).unwrap();
}

fn root_kib(guest: &Guest) -> u64 {
    guest.sh("df -k / | tail -n 1").split_whitespace().nth(1).unwrap().parse().unwrap()
}

pub(crate) fn disk_growth(guest: &Guest) {
    let before = root_kib(guest);
    let grown = guest.change("grow", &["--disk", "3GiB", "-o", "json"]).json();
    assert!(number(&grown["afterBytes"]) > number(&grown["beforeBytes"]), "{grown}");
    let after = root_kib(guest);
    assert!(after > before && (2_700_000..=3 << 20).contains(&after), "{before} to {after} KiB");
    assert_eq!(number(&guest.show()["diskBytes"]), 3 << 30);
    // There is nothing more to grow, and that is no failure; nor to shrink, and that is.
    guest.change("grow", &[]).ok();
    guest.change("grow", &["--disk", "2GiB"]).refused(1, &["GiB"]);
    guest.sh("dd if=/dev/zero of=/srv/grown bs=1M count=20 && rm /srv/grown");
}

/// On the disk of --persist, which the guest has mounted at /persist.
pub(crate) fn mounts(guest: &Guest) {
    guest.sh("echo kept > /persist/note");
    guest.inn(&["guest", "unmount", guest.vm(), "/persist"]).ok();
    assert_eq!(guest.sh("ls -A /persist"), "");
    let mount = ["guest", "mount", guest.vm(), "inn-persist", "/srv/elsewhere"];
    guest.inn(&mount).args(["--read-only"]).ok();
    assert_eq!(guest.sh("cat /srv/elsewhere/note"), "kept\n");
    let written = guest.exec(&["sh", "-c", "echo x > /srv/elsewhere/note"]).output();
    assert_ne!(written.code, Some(0), "{written}");
    guest.inn(&["guest", "unmount", guest.vm(), "/srv/elsewhere"]).ok();
    // What is not mounted is as it should be.
    guest.inn(&["guest", "unmount", guest.vm(), "/srv/elsewhere"]).ok();
    guest
        .inn(&["guest", "mount", guest.vm(), "no-such-disk", "/srv/x"])
        .refused(1, &["no-such-disk"]);
    guest.inn(&["guest", "mount", guest.vm(), "inn-persist", "/persist"]).ok();
    assert_eq!(guest.sh("cat /persist/note"), "kept\n");
}

pub(crate) fn freeze_and_thaw(guest: &Guest) {
    let frozen = guest.change("freeze", &["--timeout", "60s", "-o", "json"]).json();
    assert!(!frozen["mounts"].as_array().unwrap().is_empty(), "{frozen}");
    assert_eq!(guest.sample()["frozen"], true);
    // Memory is no disk: what keeps to it goes on.
    guest.change("freeze", &["--timeout", "60s"]).refused(1, &["frozen"]);
    let mut write = guest.exec(&["sh", "-c", "echo x > /srv/frozen && echo written"]).start();
    assert!(!write.stdout_has("written", Duration::from_secs(2)), "it is not frozen");
    let thawed = guest.change("thaw", &["-o", "json"]).json();
    assert_eq!(thawed["expired"], false, "{thawed}");
    write.until_stdout("written");
    write.wait(wait::PATIENCE).expect_code(0);
    assert_eq!(guest.sample()["frozen"], false);
    guest.change("thaw", &[]).ok();
}

/// Nobody thaws it: the guest does.
pub(crate) fn freeze_runs_out(guest: &Guest) {
    guest.change("freeze", &["--timeout", "2s"]).ok();
    wait::until("the guest has thawed", || (guest.sample()["frozen"] == false).then_some(()));
    guest.sh("echo x > /srv/thawed");
    let thawed = guest.change("thaw", &["-o", "json"]).json();
    assert_eq!(thawed["expired"], true, "{thawed}");
}

/// The card's name, and the addresses that it has.
pub(crate) fn card(guest: &Guest) -> (String, Vec<String>) {
    let sample = guest.sample();
    let interfaces = sample["interfaces"].as_array().unwrap();
    let card = interfaces.iter().find(|i| i["name"] != "lo").unwrap_or_else(|| panic!("{sample}"));
    let addresses = card["addresses"].as_array().unwrap();
    let addresses = addresses.iter().map(|a| a.as_str().unwrap().to_owned()).collect();
    (card["name"].as_str().unwrap().to_owned(), addresses)
}

pub(crate) fn network(guest: &Guest) {
    let (name, before) = card(guest);
    let set = |address: &str| {
        let setup = ["--interface", &name, "--address", address, "--gateway", "10.0.2.2"];
        guest.change("network", &setup).args([
            "--dns",
            "10.0.2.3",
            "--confirm",
            "20s",
            "-o",
            "json",
        ])
    };
    let applied = set("10.0.2.77/24").json();
    let by = if guest.kind.is_init() { "addresses" } else { "networkd" };
    assert_eq!(applied["by"], by, "{applied}");
    wait::until("the address is there", || {
        card(guest).1.iter().any(|a| a == "10.0.2.77/24").then_some(())
    });
    assert!(guest.sh("cat /etc/resolv.conf").contains("nameserver 10.0.2.3"));
    if guest.kind.is_init() {
        set("10.0.2.15/24").ok();
    } else {
        guest.change("network", &["--interface", &name, "--dhcp4"]).ok();
    }
    wait::until("the old address is back", || {
        let now = card(guest).1;
        let old = before.iter().any(|a| now.contains(a));
        (old && !now.iter().any(|a| a == "10.0.2.77/24")).then_some(())
    });
    let unknown = guest.change("network", &["--interface", "nothere0", "--address", "10.9.9.9/24"]);
    unknown.refused(1, &["nothere0"]);
    set("10.0.2.300/24").refused(2, &["10.0.2.300/24"]);
}
