//! How a machine ended, from what its VMM ended with and its console's last
//! words. Pure.
//!
//! These VMMs end with 0 for a guest's reset, and have no ACPI by which a guest
//! could switch off: whoever wants to, resets. So what the console says tells the
//! one from the other. A guest that says what it doesn't do misleads only its
//! owner.

use super::{Kind, NOT_STARTED, REFUSED, Said, VmmEnd};
use crate::MachineEnd;

/// What Linux prints before it resets for `panic=-1`.
const PANIC: &[u8] = b"Kernel panic - not syncing";

/// What our agent says where it switches off by a reset.
const POWER_OFF: &[u8] = b"inn-guest: power off, by a reset";

/// What the end of a console tells, of this machine and no other: its keeper has
/// heard it.
pub(super) fn said(console_tail: &[u8]) -> Option<Said> {
    let says = |text: &[u8]| console_tail.windows(text.len()).any(|window| window == text);
    match () {
        () if says(PANIC) => Some(Said::Panic),
        () if says(POWER_OFF) => Some(Said::PowerOff),
        () => None,
    }
}

/// `words` are the VMM's own last ones.
pub(super) fn end_of(
    kind: &Kind,
    end: VmmEnd,
    said: Option<Said>,
    words: Option<&str>,
) -> MachineEnd {
    let Kind { keeper, vmm, .. } = kind;
    let died = |how: String| {
        MachineEnd::Died(match words {
            Some(line) => format!("{how}; its last words: {line}"),
            None => how,
        })
    };
    match end {
        VmmEnd::Exited(0) => match said {
            Some(Said::Panic) => MachineEnd::Panicked,
            Some(Said::PowerOff) => MachineEnd::PoweredOff,
            None => MachineEnd::Reset,
        },
        VmmEnd::Exited(REFUSED) => died(format!("{keeper} refused its orders")),
        VmmEnd::Exited(NOT_STARTED) => died(format!("{vmm} started no machine")),
        VmmEnd::Exited(code) => died(format!("{vmm} ended by itself (exit status {code})")),
        VmmEnd::Signaled(signal) => died(format!("signal {signal} ended {vmm}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kept::KRUN_LIKE;

    #[test]
    fn the_console_tells_apart_what_a_vmm_ends_alike() {
        let zero = |tail: &[u8]| end_of(&KRUN_LIKE, VmmEnd::Exited(0), said(tail), None);
        assert_eq!(zero(b"[ 0.5] Kernel panic - not syncing: no init\r\n"), MachineEnd::Panicked);
        assert_eq!(zero(b"inn-guest: power off, by a reset\r\n"), MachineEnd::PoweredOff);
        assert_eq!(zero(b"reboot: Restarting system\r\n"), MachineEnd::Reset);
        assert_eq!(zero(b""), MachineEnd::Reset);
    }

    #[test]
    fn a_vmm_that_fails_is_explained_whatever_its_guest_said() {
        let of = |end| end_of(&KRUN_LIKE, end, Some(Said::Panic), Some("no /dev/kvm"));
        let text = |end| match of(end) {
            MachineEnd::Died(text) => text,
            other => panic!("{other:?}"),
        };
        assert!(text(VmmEnd::Exited(1)).contains("exit status 1"));
        assert!(text(VmmEnd::Exited(NOT_STARTED)).ends_with("its last words: no /dev/kvm"));
        assert!(text(VmmEnd::Exited(REFUSED)).contains("refused"));
        assert!(text(VmmEnd::Signaled(9)).starts_with("signal 9"));
    }
}
