//! How a machine ended, from what QEMU says of it. Pure.
//!
//! Live, the SHUTDOWN event names the reason. After adoption the event is
//! gone and the status says only `shutdown`; then QEMU's trace tells, where
//! two trace points are on (softmmu/trace-events in QEMU):
//!
//! ```text
//!   runstate_set …                              always there if tracing works
//!   qemu_system_shutdown_request reason=6       power-off (a ShutdownCause)
//!   nothing of the second kind                  reset: -no-reboot turns one into a
//!                                               shutdown past that trace point
//! ```

use inn_vmm::MachineEnd;

/// What Linux prints before it resets for `panic=-1`. There is no panic
/// device on microvm, and none that every guest kernel has a driver for. A
/// guest that prints this without panicking misleads only its owner.
const PANIC: &[u8] = b"Kernel panic - not syncing";

/// From the SHUTDOWN event's reason: a ShutdownCause by name.
pub(crate) fn of_reason(reason: &str) -> MachineEnd {
    match reason {
        "guest-shutdown" => MachineEnd::PoweredOff,
        "guest-reset" => MachineEnd::Reset,
        "guest-panic" => MachineEnd::Panicked,
        "host-qmp-quit" => MachineEnd::Killed,
        "host-signal" => MachineEnd::Died("a signal from outside ended QEMU".to_owned()),
        other => MachineEnd::Died(format!("QEMU shut down by itself: {other}")),
    }
}

/// From the RunState of a machine that is adopted; `None` while it runs.
pub(crate) fn of_status(status: &str, trace: &[u8]) -> Option<MachineEnd> {
    match status {
        "shutdown" => Some(of_trace(&String::from_utf8_lossy(trace))),
        "guest-panicked" => Some(MachineEnd::Panicked),
        "internal-error" => Some(MachineEnd::Died("QEMU met an internal error".to_owned())),
        _ => None,
    }
}

/// Whether the trace has got as far as the state that QEMU tells: it traces
/// first, and says how it is after that.
pub(crate) fn is_told(status: &str, trace: &[u8]) -> bool {
    let trace = String::from_utf8_lossy(trace);
    let last = trace.lines().rev().find(|line| line.contains("runstate_set"));
    // Without a line of this kind there never was one.
    status != "shutdown" || last.is_none_or(|line| line.ends_with("(shutdown)"))
}

fn of_trace(trace: &str) -> MachineEnd {
    let request = trace
        .lines()
        .rev()
        .find_map(|line| line.split_once("qemu_system_shutdown_request reason=").map(|(_, r)| r));
    match request.map(str::trim) {
        // ShutdownCause by number, in the order of qapi/run-state.json.
        Some("6") => MachineEnd::PoweredOff,
        Some("7") => MachineEnd::Reset,
        Some("8") => MachineEnd::Panicked,
        Some(other) => MachineEnd::Died(format!("QEMU shut down by itself: cause {other}")),
        None if trace.contains("runstate_set") => MachineEnd::Reset,
        // A QEMU built without this kind of tracing.
        None => MachineEnd::PoweredOff,
    }
}

/// Tells a panic from an ordinary reset by the console's last words.
pub(crate) fn with_console(end: MachineEnd, console_tail: &[u8]) -> MachineEnd {
    let panicked = || console_tail.windows(PANIC.len()).any(|window| window == PANIC);
    match end {
        MachineEnd::Reset if panicked() => MachineEnd::Panicked,
        end => end,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trace_tells_what_the_status_does_not() {
        let of = |trace: &str| of_status("shutdown", trace.as_bytes()).unwrap();
        let started = "runstate_set current_run_state 9 (prelaunch) new_state 10 (running)\n";
        let off = format!("{started}123@1.2:qemu_system_shutdown_request reason=6\n{started}");
        assert_eq!(of(&off), MachineEnd::PoweredOff);
        assert_eq!(of(started), MachineEnd::Reset);
        assert_eq!(of(""), MachineEnd::PoweredOff);
        assert!(matches!(
            of("qemu_system_shutdown_request reason=1"),
            MachineEnd::Died(text) if text.ends_with("cause 1")
        ));
        assert_eq!(of_status("running", off.as_bytes()), None);
        assert_eq!(of_status("guest-panicked", b""), Some(MachineEnd::Panicked));
    }

    #[test]
    fn a_trace_that_is_on_its_way_is_waited_for() {
        let running = "runstate_set current_run_state 2 (prelaunch) new_state 9 (running)\n";
        let ended =
            format!("{running}runstate_set current_run_state 9 (running) new_state 8 (shutdown)\n");
        assert!(!is_told("shutdown", running.as_bytes()));
        assert!(is_told("shutdown", ended.as_bytes()));
        assert!(is_told("running", running.as_bytes()));
        assert!(is_told("shutdown", b""), "a QEMU that does not trace");
    }

    #[test]
    fn only_a_reset_is_looked_at_twice() {
        let tail = b"[ 0.5] Kernel panic - not syncing: no init\r\n";
        assert_eq!(with_console(MachineEnd::Reset, tail), MachineEnd::Panicked);
        assert_eq!(with_console(MachineEnd::PoweredOff, tail), MachineEnd::PoweredOff);
        assert_eq!(with_console(MachineEnd::Reset, b"bye"), MachineEnd::Reset);
        assert_eq!(of_reason("guest-reset"), MachineEnd::Reset);
    }
}
