use inn_tests::{Host, leftovers, wait};

pub(crate) fn agent_killed_during_an_exec() {
    let host = Host::up();
    host.inn(["vm", "create", "--image", "mini", "--name", "survivor"]).ok();
    let before = host.show("survivor");
    host.inn(["vm", "exec", "survivor", "--", "sh", "-c", "echo alive > /tmp/state"]).ok();
    let script = "i=0; until [ -e /tmp/go ]; do j=0; while [ $j -lt 300 ]; do \
                  i=$((i+1)); j=$((j+1)); echo $i; done; sleep 1; done; exit 9";
    let mut exec = host.inn(["vm", "exec", "survivor", "--", "sh", "-c", script]).start();
    exec.until_stdout("300\n");
    let echo = ["vm", "exec", "-i", "survivor", "--", "sh", "-c", "cat; exit 4"];
    let mut echo = host.inn(echo).start();
    echo.write(b"before\n");
    echo.until_stdout("before\n");

    host.kill_agent();
    echo.write(b"meanwhile\n");
    assert_eq!(leftovers::machines_of(host.path()).len(), 1, "the machine runs on");

    host.start_agent();
    wait::until("the VM is found again", || {
        let vm = host.show("survivor");
        (vm["phase"] == "running" && vm["guest"]["link"] == "ready").then_some(())
    });
    let after = host.show("survivor");
    assert_eq!(before["pid"], after["pid"]);
    assert_eq!(before["guest"]["bootId"], after["guest"]["bootId"]);
    assert_eq!(host.inn(["vm", "exec", "survivor", "--", "cat", "/tmp/state"]).ok(), "alive\n");

    // What was running goes on: every line once, in order, and its exit code.
    echo.until_stdout("meanwhile\n");
    echo.write(b"after\n");
    echo.close_stdin();
    let echo = echo.wait(wait::PATIENCE).expect_code(4);
    assert_eq!(echo.stdout, "before\nmeanwhile\nafter\n");
    host.inn(["vm", "exec", "survivor", "--", "touch", "/tmp/go"]).ok();
    let exec = exec.wait(wait::PATIENCE).expect_code(9);
    let lines = exec.stdout.lines().count();
    let expected: String = (1..=lines).map(|n| format!("{n}\n")).collect();
    assert!(lines >= 300 && exec.stdout == expected, "lines are lost or doubled: {exec}");
    assert_eq!(exec.stderr.lines().count(), 1, "one quiet note: {exec}");
    host.finish();
}

/// On a terminal, over two upgrades in place.
pub(crate) fn agent_upgraded_during_an_exec() {
    let host = Host::up();
    host.inn(["vm", "create", "--image", "mini", "--name", "survivor"]).ok();
    let before = host.show("survivor");
    let pid = host.agent_pid();
    let driver = concat!(env!("CARGO_MANIFEST_DIR"), "/src/terminal.py");
    let script = "echo waiting; : >/tmp/up; i=0; until [ -e /tmp/go ]; do j=0; \
                  while [ $j -lt 100 ]; do i=$((i+1)); j=$((j+1)); echo line $i.; done; \
                  sleep 1; done; exit 9";
    let exec = host.inn(["vm", "exec", "-it", "survivor", "--", "sh", "-c", script]);
    let exec = exec.under("python3", &[driver]).start();
    let has = |file: &str| {
        host.inn(["vm", "exec", "survivor", "--", "test", "-e", file]).output().code == Some(0)
    };
    wait::until("it runs", || has("/tmp/up").then_some(()));
    for _ in 0..2 {
        let upgraded = host.inn(["agent", "upgrade", "-o", "json"]).json();
        assert_eq!(upgraded["pid"], pid, "{upgraded}");
        assert!(has("/tmp/up"), "the VM is found again");
    }
    assert_eq!(before["pid"], host.show("survivor")["pid"]);
    host.inn(["vm", "exec", "survivor", "--", "touch", "/tmp/go"]).ok();
    let exec = exec.wait(wait::PATIENCE).expect_code(0);
    let seen: serde_json::Value = serde_json::from_str(&exec.stdout).unwrap();
    let printed = seen["printed"].as_str().unwrap();
    let numbers: Vec<usize> = printed
        .split("line ")
        .skip(1)
        .map(|rest| rest.split('.').next().unwrap().parse().unwrap())
        .collect();
    let expected: Vec<usize> = (1..=numbers.len()).collect();
    assert!(numbers.len() >= 100 && numbers == expected, "lines are lost or doubled: {seen}");
    assert_eq!(seen["exitCode"], 9, "{seen}");
    assert_eq!((&seen["raw"], &seen["restored"]), (&true.into(), &true.into()), "{seen}");
    host.finish();
}

pub(crate) fn stopped_agent_leaves_vms_running() {
    let host = Host::up();
    let args = ["vm", "create", "--image", "mini", "--name", "steady", "--"];
    host.inn(args)
        .args(["sh", "-c", "i=0; while true; do i=$((i+1)); echo tick $i; sleep 1; done"])
        .ok();
    let before = host.show("steady");
    let stopped = host.stop_agent();
    assert_eq!(stopped.code, Some(0), "{stopped}");
    assert_eq!(leftovers::machines_of(host.path()).len(), 1);
    host.start_agent();
    wait::until("the VM is found again", || {
        (host.show("steady")["guest"]["link"] == "ready").then_some(())
    });
    let after = host.show("steady");
    assert_eq!(before["pid"], after["pid"]);
    // The workload's output goes on where it was, each line once.
    let so_far = host.inn(["vm", "logs", "steady"]).ok().lines().count();
    let log = wait::until("the log grows again", || {
        let log = host.inn(["vm", "logs", "steady"]).ok();
        (log.lines().count() > so_far + 1).then_some(log)
    });
    let expected: String = (1..=log.lines().count()).map(|n| format!("tick {n}\n")).collect();
    assert_eq!(log, expected);
    host.finish();
}

pub(crate) fn vm_that_ended_meanwhile_is_seen() {
    let host = Host::up();
    host.inn(["vm", "create", "--image", "mini", "--name", "lost"]).ok();
    let pid = host.show("lost")["pid"].as_i64().unwrap();
    host.kill_agent();
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    wait::until("the machine is gone", || {
        leftovers::machines_of(host.path()).is_empty().then_some(())
    });
    host.start_agent();
    let vm = wait::until("the VM's end is known", || {
        let vm = host.show("lost");
        matches!(vm["phase"].as_str(), Some("stopped" | "failed")).then_some(vm)
    });
    assert!(vm["pid"].is_null(), "{vm}");
    host.inn(["vm", "start", "lost"]).ok();
    host.inn(["vm", "exec", "lost", "--", "true"]).ok();
    host.finish();
}
