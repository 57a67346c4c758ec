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
