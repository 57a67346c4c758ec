//! `inn vm why`, with boots of real machines that fail in real ways.

use inn_tests::{Host, wait};
use rustix::process::{Pid, Signal, kill_process};

/// A machine that stands still never answers; a kernel without an init panics
/// and stays. Both say where, why, with what on the console, and what to type;
/// both are known to the agent's next life.
pub(crate) fn boots_that_fail_are_explained() {
    let host = Host::bare();
    std::fs::write(host.config(), "start_deadline = \"8s\"\n").unwrap();
    host.start_agent();
    host.import("mini");
    let mute = host.inn(["vm", "create", "--image", "mini", "--name", "mute"]).start();
    let pid = wait::until("the guest boots", || {
        let asked = host.inn(["vm", "why", "mute", "-o", "json"]).output();
        let why: serde_json::Value = serde_json::from_str(&asked.stdout).ok()?;
        (why["step"]["name"] == "handshake").then(|| host.show("mute")["pid"].as_i64())?
    });
    let pid = Pid::from_raw(pid.try_into().unwrap()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    mute.wait(wait::PATIENCE).expect_code(1);
    let args = "rdinit=/no/such/init panic=0";
    let panics = ["vm", "create", "--image", "mini", "--name", "panics", "--kernel-args", args];
    host.inn(panics).output().expect_code(1);
    host.kill_agent();
    // The next agent's VMs have the time that they need on a busy host.
    std::fs::remove_file(host.config()).unwrap();
    host.start_agent();

    let mute = host.inn(["vm", "why", "mute", "-o", "json"]).json();
    assert_eq!(
        (mute["verdict"].as_str(), &mute["step"]["name"]),
        (Some("failed"), &"handshake".into())
    );
    assert!(mute["causes"][0].as_str().unwrap().contains("did not answer within 8.00 s"), "{mute}");
    let phases = mute["boot"]["phases"].as_array().unwrap();
    let seen: Vec<_> = phases.iter().map(|p| (p["name"].as_str(), p["result"].as_str())).collect();
    let told = |name, result| (Some(name), Some(result));
    assert_eq!(
        seen,
        [told("prepare-disk", "done"), told("launch", "done"), told("handshake", "failed")],
        "{mute}"
    );
    assert_eq!(phases[2]["overBudget"], true, "{mute}");
    let parts = phases[1]["parts"].as_array().unwrap();
    assert!(parts.iter().any(|part| part["name"] == "spawn"), "{mute}");

    let text = host.inn(["vm", "why", "panics"]).ok();
    println!("{text}\n{}", host.inn(["vm", "why", "mute"]).ok());
    for part in [
        "panics: it failed at handshake: the guest agent did not answer within 8.00 s: its kernel \
         panicked: ",
        "desired         running (generation 1)",
        "last end        forced, ",
        "  handshake ",
        "  | ",
        "Kernel panic - not syncing",
        "inn vm logs panics --source console",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // The bars; the console's lines are as long as they are.
    let bars = |line: &&str| line.contains('#') && !line.starts_with("  | ");
    assert!(text.lines().filter(bars).all(|line| line.len() <= 80), "{text}");
    assert!(!text.contains('\u{1b}'), "colours into a pipe: {text}");
    // What is pasted does what it says.
    let console = host.inn(["vm", "logs", "panics", "--source", "console"]).ok();
    assert!(console.contains("Kernel panic"), "{console}");

    host.inn(["vm", "create", "--image", "mini", "--name", "well"]).ok();
    let well = host.inn(["vm", "why", "well"]).ok();
    assert!(well.starts_with("well: it is fine: it has been running for"), "{well}");
    assert!(well.contains("start-workload") && !well.contains("failed"), "{well}");
    let shown = host.inn(["vm", "show", "well"]).ok();
    assert!(shown.contains("\nlast start ") && shown.contains("  handshake "), "{shown}");
    host.finish();
}
