//! What befalls VMMs, clocks and paths from outside.

use std::path::Path;
use std::time::{Duration, SystemTime};

use inn_tests::{Host, leftovers, wait};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// A guest is asked each 5 s and told to be silent after 10 s.
const SEEN: Duration = Duration::from_secs(40);

fn signal(vm: &Value, signal: Signal) {
    let pid = vm["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
    kill_process(pid.and_then(Pid::from_raw).expect("it has a pid"), signal).unwrap();
}

pub(crate) fn vmm_that_is_killed() {
    let host = Host::up();
    host.inn(["vm", "create", "--image", "mini", "--name", "victim"]).ok();
    signal(&host.show("victim"), Signal::KILL);
    let vm = wait::until("its end is seen", || {
        let vm = host.show("victim");
        (vm["phase"] == "failed").then_some(vm)
    });
    let cause = vm["failure"]["cause"].as_str().unwrap_or_default();
    assert!(cause.contains("SIGKILL") || cause.contains("signal 9"), "{vm}");
    assert!(vm["failure"]["next"].as_str().unwrap_or_default().contains("inn vm start"), "{vm}");
    host.inn(["vm", "start", "victim"]).ok();
    host.inn(["vm", "exec", "victim", "--", "true"]).ok();
    host.finish();
}

pub(crate) fn vmm_that_stands_still() {
    let host = Host::up();
    for name in ["still", "well"] {
        host.inn(["vm", "create", "--image", "mini", "--name", name]).ok();
    }
    signal(&host.show("still"), Signal::STOP);
    let seen = wait::within(SEEN, || {
        let vm = host.show("still");
        (vm["guest"]["link"] == "degraded").then_some(vm)
    });
    let vm = seen.unwrap_or_else(|| panic!("not seen: {}", host.show("still")));
    // Whichever is missed first: an answer to a ping, or a reading.
    assert!(vm["guest"]["reason"].as_str().unwrap_or_default().starts_with("no "), "{vm}");
    host.inn(["vm", "exec", "well", "--", "true"]).ok();
    host.inn(["vm", "stop", "still", "--force"]).limit(Duration::from_secs(60)).ok();
    assert_eq!(host.show("still")["phase"], "stopped");
    host.inn(["vm", "start", "still"]).ok();

    // Another life finds it so, and the others do not wait for it.
    signal(&host.show("still"), Signal::STOP);
    host.kill_agent();
    host.start_agent();
    let found = wait::within(Duration::from_secs(8), || {
        (host.show("well")["guest"]["link"] == "ready").then_some(())
    });
    assert!(found.is_some(), "the other VM waits: {}", host.show("well"));
    host.inn(["vm", "delete", "still", "--force"]).ok();
    host.finish();
}

/// The sockets' names alone are longer than an address may be.
pub(crate) fn runtime_directory_however_deep() {
    let host = Host::bare();
    let run = host.path().join("d".repeat(100)).join("e".repeat(100));
    std::fs::create_dir_all(&run).unwrap();
    let inn = |args: &[&str]| host.inn(args.iter().copied()).env("INN_RUNTIME_DIR", &run);
    let agent = inn(&["agent"]).start();
    wait::until("the agent answers", || {
        (inn(&["vm", "list"]).output().code == Some(0)).then_some(())
    });
    let layout = inn_tests::Fixtures::get().layout();
    let import = ["image", "import", "--reference", "mini", "--name", "mini"];
    inn(&[&import[..], &[layout.to_str().unwrap()]].concat()).ok();
    assert_eq!(inn(&["run", "--rm", "mini", "--", "echo", "deep"]).ok(), "deep\n");
    agent.signal(Signal::TERM);
    agent.wait(wait::PATIENCE).expect_code(0);
    assert_eq!(leftovers::files_below(&run), Vec::<std::path::PathBuf>::new());
    host.finish();
}

/// Debian's package `faketime`: its clock_gettime(2) goes by a file.
const FAKETIME: [&str; 2] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
];

/// User and system time of a process so far, in ticks: proc(5), stat, 14 and 15.
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after_name = stat.rsplit_once(')').unwrap().1;
    let fields: Vec<&str> = after_name.split_ascii_whitespace().collect();
    fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum()
}

pub(crate) fn clock_jumps() {
    let Some(library) = FAKETIME.into_iter().find(|path| Path::new(path).exists()) else {
        return eprintln!("SKIPPED mishaps::clock_jumps: the package faketime is not installed");
    };
    let host = Host::bare();
    let clock = host.home().join("clock");
    let set = |days: i64| std::fs::write(&clock, format!("{days:+}d\n")).unwrap();
    set(0);
    std::fs::write(host.config(), "[sim]\nenabled = true\n").unwrap();
    let agent = host
        .inn(["agent", "--config"])
        .args([host.config().as_os_str()])
        .env("LD_PRELOAD", library)
        .env("FAKETIME_TIMESTAMP_FILE", &clock)
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("DONT_FAKE_MONOTONIC", "1")
        .start();
    wait::until("the agent answers", || {
        (host.inn(["vm", "list"]).output().code == Some(0)).then_some(())
    });
    host.import("mini");
    let create = |name: &str| {
        let args = ["vm", "create", "--runtime", "sim", "--image", "mini", "--name", name];
        host.inn(args).args(["--", "sleep", "infinity"]).ok();
        host.show(name)
    };
    let first = create("before");
    for (days, name) in [(400, "ahead"), (-400, "back")] {
        set(days);
        let vm = create(name);
        // The agent believes that clock; else the test shows nothing.
        let created: jiff::Timestamp = vm["createdAt"].as_str().unwrap().parse().unwrap();
        let now = jiff::Timestamp::try_from(SystemTime::now()).unwrap();
        let jumped = created.duration_since(now).as_secs() / 86_400;
        assert!((jumped - days).abs() <= 1, "{jumped} days: {vm}");
        assert_eq!(host.inn(["vm", "exec", name, "--", "echo", "well"]).ok(), "well\n");
        assert_eq!(host.inn(["vm", "exec", "before", "--", "echo", "well"]).ok(), "well\n");
        let before = host.show("before");
        for same in ["id", "phase", "generation", "startedAt"] {
            assert_eq!(before[same], first[same], "{same}: {before}");
        }
        // Nothing spins: 3 s of idling are a few milliseconds of work.
        let spent = ticks(agent.pid());
        let _never = wait::within(Duration::from_secs(3), || None::<()>);
        let spent = ticks(agent.pid()) - spent;
        assert!(spent <= 60, "{spent} ticks of 10 ms in 3 s");
    }
    assert_eq!(host.list().len(), 3);
    // And the next life, with the clock far back.
    agent.signal(Signal::KILL);
    agent.wait(wait::PATIENCE);
    host.start_agent();
    wait::until("all are adopted", || {
        host.list().iter().all(|vm| vm["phase"] == "running").then_some(())
    });
    assert_eq!(host.list().len(), 3);
    host.finish();
}
