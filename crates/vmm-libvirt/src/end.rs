//! How a machine ended, from what QEMU said to libvirt, how libvirt has its
//! domain and the console's last words. Pure.
//!
//! QEMU's event SHUTDOWN tells all, if somebody heard it. After an end that
//! nobody watched, or that came while libvirtd was away, libvirt only says that
//! the guest shut down, for a reset too; then the console tells the two apart.
//! A guest that prints what it does not do misleads only its owner.

use inn_vmm::MachineEnd;

use crate::library::{DomainState, OffReason};

/// What Linux prints before it resets for `panic=-1`.
const PANIC: &[u8] = b"Kernel panic - not syncing";

/// What it prints as the last thing before a reset (kernel/reboot.c).
const RESTART: [&[u8]; 2] = [b"reboot: Restarting system", b"reboot: machine restart"];

/// `heard` is the event's reason; `state` is `None` where libvirt can't be asked
/// or has no such domain.
pub(crate) fn of(
    heard: Option<&str>,
    state: Option<DomainState>,
    console_tail: &[u8],
) -> MachineEnd {
    let says = |text: &[u8]| console_tail.windows(text.len()).any(|window| window == text);
    let died = |how: &str| MachineEnd::Died(how.to_owned());
    match (heard, state) {
        (Some("guest-shutdown"), _) => MachineEnd::PoweredOff,
        (Some("guest-reset"), _) if says(PANIC) => MachineEnd::Panicked,
        (Some("guest-reset"), _) => MachineEnd::Reset,
        (Some("guest-panic"), _) => MachineEnd::Panicked,
        (Some("host-signal" | "host-qmp-quit"), _)
        | (None, Some(DomainState::Off(OffReason::Destroyed))) => {
            died("somebody else ended its domain (virsh destroy does that)")
        }
        (Some(other), _) => died(&format!("QEMU shut down by itself: {other}")),
        (None, Some(DomainState::Off(OffReason::ShutDown))) => {
            if says(PANIC) {
                MachineEnd::Panicked
            } else if RESTART.iter().any(|text| says(text)) {
                MachineEnd::Reset
            } else {
                MachineEnd::PoweredOff
            }
        }
        (None, Some(DomainState::Off(OffReason::Crashed))) => {
            died("its QEMU ended by itself; libvirt has its last words in the domain's log")
        }
        (None, _) => died("its QEMU ended while neither libvirt nor the agent watched"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFF: Option<DomainState> = Some(DomainState::Off(OffReason::ShutDown));

    #[test]
    fn what_was_heard_comes_before_what_libvirt_says_later() {
        let heard = |reason| of(Some(reason), OFF, b"");
        assert_eq!(heard("guest-shutdown"), MachineEnd::PoweredOff);
        assert_eq!(heard("guest-reset"), MachineEnd::Reset);
        assert_eq!(heard("guest-panic"), MachineEnd::Panicked);
        assert!(matches!(heard("host-signal"), MachineEnd::Died(how) if how.contains("destroy")));
        let panic = b"[ 0.5] Kernel panic - not syncing: no init\r\n";
        assert_eq!(of(Some("guest-reset"), OFF, panic), MachineEnd::Panicked);
        assert_eq!(of(Some("guest-shutdown"), OFF, panic), MachineEnd::PoweredOff);
    }

    #[test]
    fn the_console_tells_what_nobody_heard() {
        assert_eq!(of(None, OFF, b"[ 1.2] reboot: Power down"), MachineEnd::PoweredOff);
        assert_eq!(of(None, OFF, b"[ 1.2] reboot: Restarting system"), MachineEnd::Reset);
        assert_eq!(of(None, OFF, b"Kernel panic - not syncing: x"), MachineEnd::Panicked);
    }

    #[test]
    fn what_was_done_to_it_is_named() {
        let off = |reason| match of(None, Some(DomainState::Off(reason)), b"") {
            MachineEnd::Died(how) => how,
            other => panic!("{other:?}"),
        };
        assert!(off(OffReason::Destroyed).contains("somebody else"));
        assert!(off(OffReason::Crashed).contains("by itself"));
        assert!(off(OffReason::Unknown).contains("neither"));
        assert!(matches!(of(None, None, b""), MachineEnd::Died(_)));
    }
}
