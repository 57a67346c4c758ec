//! Logs that a guest fills, while no agent is there to look after them.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use inn_tests::{Host, host, leftovers, wait};
use jiff::Timestamp;
use serde_json::Value;

const LIMIT: u64 = 64 << 10;

fn with_small_logs() -> Host {
    let host = Host::bare();
    fs::write(host.config(), "[logs]\nlimit = \"64KiB\"\n").unwrap();
    host.start_agent();
    host.import("mini");
    host
}

/// Of a log, both its parts.
fn sizes(log: &Path) -> [u64; 2] {
    let older = PathBuf::from(format!("{}.1", log.display()));
    [log, &older].map(|part| fs::metadata(part).map_or(0, |metadata| metadata.len()))
}

fn assert_bounded(log: &Path) {
    let sizes = sizes(log);
    assert!(sizes.iter().all(|size| *size <= LIMIT), "{}: {sizes:?}", log.display());
}

/// The numbers that the guest counts to, as the log has them.
fn counted(log: &Path) -> Vec<u64> {
    let older = fs::read_to_string(format!("{}.1", log.display())).unwrap_or_default();
    let text = older + &fs::read_to_string(log).unwrap();
    text.lines().filter_map(|line| line.trim().strip_prefix("count ")?.parse().ok()).collect()
}

fn console_of(host: &Host, vm: &Value) -> PathBuf {
    host.data().join("vms").join(vm["id"].as_str().unwrap()).join("logs/console.log")
}

fn log_writers(host: &Host) -> usize {
    let mut all = leftovers::processes_of(host.path());
    all.retain(|process| process.cmdline.split(' ').nth(1) == Some("log-writer"));
    all.len()
}

pub(crate) fn console_stays_bounded_and_whole_while_no_agent_runs() {
    let host = with_small_logs();
    let babble = "i=0; while :; do i=$((i+1)); echo count $i; done > /dev/console";
    host.inn(["vm", "create", "--image", "mini", "--name", "loud", "--", "sh", "-c", babble]).ok();
    let vm = host.show("loud");
    let log = console_of(&host, &vm);
    wait::until("the guest counts", || counted(&log).last().copied());
    host.kill_agent();
    let from = counted(&log).last().copied().unwrap();
    // More than both parts hold: a line has eight bytes at least.
    let last = wait::until("it counts on past what is kept", || {
        assert_bounded(&log);
        counted(&log).last().copied().filter(|last| *last > from + 2 * LIMIT / 8)
    });
    // The agent comes back in the middle of it: no line is lost to that.
    host.start_agent();
    wait::until("it counts on", || {
        assert_bounded(&log);
        counted(&log).last().copied().filter(|now| *now > last)
    });
    host.inn(["vm", "stop", "loud", "--force"]).ok();
    assert_bounded(&log);
    let kept = counted(&log);
    let holes: Vec<_> = kept.windows(2).filter(|two| two[0] + 1 != two[1]).collect();
    // The first of them may be cut, and so no number.
    assert!(holes.len() <= 1 && kept.len() > 2000, "{} lines, {holes:?}", kept.len());
    let shown = host.inn(["vm", "logs", "loud", "--source", "console", "--tail", "2"]).ok();
    let last = kept.last().unwrap();
    assert!(shown.contains(&format!("count {last}")), "{shown} is not the end, {last}");
    host.inn(["vm", "delete", "loud"]).ok();
    host.finish();
}

/// What its processes print themselves, as if a guest had brought them to it.
pub(crate) fn what_vmms_print_stays_bounded_while_no_agent_runs() {
    let name = "what_vmms_print_stays_bounded_while_no_agent_runs";
    let host = with_small_logs();
    let channel = if host::finds_program("vhost-device-vsock") { "vsock" } else { "serial" };
    host.inn(["vm", "create", "--image", "mini", "--name", "odd", "--channel", channel]).ok();
    let vm = host.show("odd");
    let run_dir = host.run_dir().join("vms").join(vm["id"].as_str().unwrap());
    host.kill_agent();
    let cmdline = |pid: &str| {
        let cmdline = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&cmdline).split('\0').map(str::to_owned).collect::<Vec<_>>()
    };
    let qemu = vm["pid"].to_string();
    let trace = cmdline(&qemu).into_iter().skip_while(|word| word != "-D").nth(1).unwrap();
    let trace = trace.strip_prefix("/proc/self/fd/").unwrap().to_owned();
    let mut pipes = vec![(qemu.clone(), "1".to_owned(), "vmm.log"), (qemu, trace, "trace.log")];
    let bridge = leftovers::entries_of(Path::new("/proc")).into_iter().find(|pid| {
        let words = cmdline(pid);
        words[0].ends_with("vhost-device-vsock")
            && fs::read_dir(format!("/proc/{pid}/fd")).is_ok_and(|fds| {
                // Another's may end while it is looked at.
                fds.flatten().any(|fd| fs::read_link(fd.path()).is_ok_and(|to| to == run_dir))
            })
    });
    match bridge {
        Some(pid) => pipes.push((pid, "2".to_owned(), "vsock.log")),
        None => println!("SKIPPED {name}, the bridge's: vhost-device-vsock is not there"),
    }
    for (pid, fd, log) in &pipes {
        let log = run_dir.join(log);
        let mut pipe = OpenOptions::new().write(true).open(format!("/proc/{pid}/fd/{fd}")).unwrap();
        for n in 0..20_000 {
            writeln!(pipe, "a line that a guest has had them print, number {n}").unwrap();
        }
        wait::until("the newest is there", || {
            assert_bounded(&log);
            let text = fs::read_to_string(&log).unwrap();
            // They may have something to say themselves since.
            text.contains("number 19999\n").then_some(())
        });
        // Where it was cut is where the pipe was read; both parts hold the limit at least.
        assert!(sizes(&log).iter().sum::<u64>() > LIMIT, "{}: {:?}", log.display(), sizes(&log));
    }
    assert_eq!(log_writers(&host), 1);
    host.start_agent();
    wait::until("the VM is found again", || {
        (host.show("odd")["guest"]["link"] == "ready").then_some(())
    });
    assert_eq!(log_writers(&host), 1, "it is the same one's");
    host.inn(["vm", "delete", "odd"]).ok();
    assert_eq!(log_writers(&host), 0, "it ends with its machine");
    host.finish();
}

pub(crate) fn the_agent_says_what_it_has_done_with_a_vm() {
    let host = Host::up();
    host.inn(["vm", "create", "--image", "mini", "--name", "web"]).ok();
    host.inn(["vm", "create", "--image", "mini", "--name", "other", "--no-start"]).ok();
    host.kill_agent();
    host.start_agent();
    // Lines are written behind the work that they are about.
    let said = wait::until("the agent's lives have said it", || {
        let said = host.inn(["vm", "logs", "--source", "agent", "web"]).ok();
        (said.contains(" INFO running boot_ms=") && said.contains(" INFO adopted pid="))
            .then_some(said)
    });
    assert!(!said.contains("other"), "{said}");
    host.finish();
}

pub(crate) fn logs_since_a_time_leave_out_what_was_before() {
    let host = Host::up();
    let says = "echo first; echo first > /dev/console; mkfifo /said; while :; do cat /said; done";
    host.inn(["vm", "create", "--image", "mini", "--name", "web", "--", "sh", "-c", says]).ok();
    let logs = |args: &[&str]| host.inn([&["vm", "logs", "web"], args].concat()).ok();
    let both = ["workload", "console"];
    for source in both {
        wait::until("it says the first", || {
            logs(&["--source", source]).contains("first").then_some(())
        });
    }
    // What is marked is told apart to a second.
    let begun = Timestamp::now();
    let later = wait::until("two seconds are over", || {
        let now = Timestamp::now();
        (now.duration_since(begun).as_secs() >= 2).then_some(now)
    });
    let since = later.to_string();
    for source in ["workload", "console", "vmm", "agent"] {
        let said = logs(&["--source", source, "--since", &since]);
        assert!(!said.contains("first") && !said.contains("running boot_ms"), "{source}: {said}");
    }
    let mut followed = host.inn(["vm", "logs", "web", "-f", "--since", &since]).start();
    let second = "echo second > /said; echo second > /dev/console";
    host.inn(["vm", "exec", "web", "--", "sh", "-c", second]).ok();
    followed.until_stdout("second");
    for source in both {
        let said = wait::until("it says the second", || {
            let said = logs(&["--source", source, "--since", &since]);
            said.contains("second").then_some(said)
        });
        assert!(!said.contains("first"), "{source}: {said}");
        let all = logs(&["--source", source, "--since", "1d"]);
        assert!(all.contains("first") && all.contains("second"), "{source}: {all}");
        let last = logs(&["--source", source, "--since", "1d", "--tail", "1"]);
        assert_eq!(last.lines().count(), 1, "{source}: {last}");
    }
    host.inn(["vm", "stop", "web", "--force"]).ok();
    let followed = followed.wait(wait::PATIENCE).expect_code(0).stdout;
    assert!(!followed.contains("first"), "{followed}");
    let said = wait::until("the agent has said it", || {
        let said = logs(&["--source", "agent", "--since", &since]);
        said.contains("changed what is desired").then_some(said)
    });
    assert!(!said.contains("running boot_ms"), "{said}");
    host.inn(["vm", "logs", "web", "--since", "yesterday"]).refused(2, &["neither a duration"]);
    host.inn(["vm", "delete", "web"]).ok();
    host.finish();
}
