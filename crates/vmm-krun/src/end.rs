//! How a machine ended, from what its VMM ended with and its console's last
//! words. Pure.
//!
//! libkrun ends with 0 for a guest's reset and for its triple fault alike, and
//! has no ACPI by which a guest could switch off: whoever wants to, resets. So
//! what the console says tells the one from the other. A guest that says what
//! it doesn't do misleads only its owner.

use inn_vmm::MachineEnd;

use crate::protocol::{NOT_STARTED, REFUSED, VmmEnd};

/// What Linux prints before it resets for `panic=-1`.
const PANIC: &[u8] = b"Kernel panic - not syncing";

/// What our agent says where it switches off by a reset.
const POWER_OFF: &[u8] = b"inn-guest: power off, by a reset";

/// `words` are the VMM's own last ones.
pub(crate) fn of(end: VmmEnd, console_tail: &[u8], words: Option<&str>) -> MachineEnd {
    let says = |text: &[u8]| console_tail.windows(text.len()).any(|window| window == text);
    let died = |how: String| {
        MachineEnd::Died(match words {
            Some(line) => format!("{how}; its last words: {line}"),
            None => how,
        })
    };
    match end {
        VmmEnd::Exited(0) if says(PANIC) => MachineEnd::Panicked,
        VmmEnd::Exited(0) if says(POWER_OFF) => MachineEnd::PoweredOff,
        VmmEnd::Exited(0) => MachineEnd::Reset,
        VmmEnd::Exited(REFUSED) => died("inn-krun refused its orders".to_owned()),
        VmmEnd::Exited(NOT_STARTED) => died("libkrun started no machine".to_owned()),
        VmmEnd::Exited(code) => died(format!("libkrun ended by itself (exit status {code})")),
        VmmEnd::Signaled(signal) => died(format!("signal {signal} ended libkrun")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_console_tells_apart_what_libkrun_ends_alike() {
        let zero = |tail: &[u8]| of(VmmEnd::Exited(0), tail, None);
        assert_eq!(zero(b"[ 0.5] Kernel panic - not syncing: no init\r\n"), MachineEnd::Panicked);
        assert_eq!(zero(b"inn-guest: power off, by a reset\r\n"), MachineEnd::PoweredOff);
        assert_eq!(zero(b"reboot: Restarting system\r\n"), MachineEnd::Reset);
        assert_eq!(zero(b""), MachineEnd::Reset);
    }

    #[test]
    fn a_vmm_that_fails_is_explained_whatever_its_guest_said() {
        let text = |end| match of(end, b"Kernel panic - not syncing", Some("no /dev/kvm")) {
            MachineEnd::Died(text) => text,
            other => panic!("{other:?}"),
        };
        assert!(text(VmmEnd::Exited(1)).contains("exit status 1"));
        assert!(text(VmmEnd::Exited(NOT_STARTED)).ends_with("its last words: no /dev/kvm"));
        assert!(text(VmmEnd::Exited(REFUSED)).contains("refused"));
        assert!(text(VmmEnd::Signaled(9)).starts_with("signal 9"));
    }
}
