//! A VM that nobody uses, and who wakes it.
//!
//! ```text
//!   in use ──last use──▶ unused ──so long──▶ at rest: paused, or stopped
//!     ▲                    │                    │
//!     └──── a use ─────────┴──────── woken ◀────┘ by whoever needs it
//! ```
//!
//! A rest is part of what is desired, beside a pause that somebody asked for:
//! that one nobody ends who only wants to use the VM.

use std::time::Duration;

use crate::observed::{Guest, MachineView, Motion};
use crate::restart::Moment;
use crate::ttl::LONGEST_TTL;
use crate::{ChannelChoice, Desired, Observed, Power, RuntimeChoice, VmSpec};

/// What becomes of a VM that nobody has used for so long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnIdle {
    pub action: IdleAction,
    pub after: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdleAction {
    /// It stands still, with all of its memory.
    Pause,
    /// Its memory is saved and its machine ended; it goes on from there.
    Snapshot,
    /// Its guest is shut down, and boots when it is woken.
    Stop,
}

/// That it was put to rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rest {
    pub action: IdleAction,
    /// Since the epoch, by the host's clock.
    pub since: Duration,
}

/// How long nobody uses a VM before it is put to rest, where nothing is said.
pub const IDLE_AFTER: Duration = Duration::from_secs(600);

/// What an idle machine sends between two looks: an ARP or neighbour answer, a
/// renewed lease.
const MURMUR: u64 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdleDeniedReason {
    #[error("a VM is idle after a second at least")]
    TooShort,
    #[error("a VM is idle after ten years at most; leave it out for one that never rests")]
    TooLong,
    #[error(
        "its guest agent is reached by a vsock, which cannot be saved; have it paused or stopped"
    )]
    Vsock,
}

/// Whether this may become of such a VM.
pub fn admit_idle(on_idle: &OnIdle, spec: &VmSpec) -> Result<(), IdleDeniedReason> {
    let saves = on_idle.action == IdleAction::Snapshot;
    if saves && spec.channel == ChannelChoice::Vsock && spec.runtime != RuntimeChoice::Firecracker {
        Err(IdleDeniedReason::Vsock)
    } else if on_idle.after < Duration::from_secs(1) {
        Err(IdleDeniedReason::TooShort)
    } else if on_idle.after > LONGEST_TTL {
        Err(IdleDeniedReason::TooLong)
    } else {
        Ok(())
    }
}

/// Whether so many packets of a guest's, between two looks, are somebody's.
pub fn is_traffic(packets: u64) -> bool {
    packets > MURMUR
}

/// Whether it is up and nothing keeps it from being put to rest but its use. Of
/// one whose guest does not answer nobody can tell whether it is used.
pub fn may_rest(desired: &Desired, observed: &Observed) -> bool {
    let up = matches!(
        observed.machine,
        Some(MachineView { guest: Guest::Up | Guest::Absent, motion: Motion::Runs, .. })
    );
    up && desired.power == Power::Running && desired.paused.is_none() && desired.rest.is_none()
}

/// When one that was last used then is put to rest; `None` while it is used.
pub fn rests_at(on_idle: &OnIdle, users: usize, last: Moment) -> Option<Moment> {
    (users == 0).then(|| last.plus(on_idle.after))
}

#[cfg(test)]
mod tests {
    use inn_units::Generation;

    use super::*;
    use crate::plan::VmStep;
    use crate::{
        Change, Pause, RestartPolicy, Rules, StopKind, VmPhase, VmPlan, decide, phase, plan,
    };
    use crate::{ChangeDeniedReason, Request};

    const GRACE: StopKind = StopKind::Graceful { grace: Duration::from_secs(30) };
    const RULES: Rules =
        Rules { restart: RestartPolicy::No, full: false, cloud_init: false, saved: false };

    fn up() -> (Desired, Observed) {
        let desired = Desired::first(true, GRACE);
        let mut observed = Observed::default();
        loop {
            let plan = plan(&desired, &observed, RULES, Moment::default());
            let Some(step) = plan.next() else { return (desired, observed) };
            observed = observed.after(step);
        }
    }

    fn rest(action: IdleAction) -> Request {
        Request::Rest(Rest { action, since: Duration::from_secs(7) }, GRACE)
    }

    fn asked(desired: &Desired, observed: &Observed, request: Request) -> Desired {
        match decide(desired, observed, request) {
            Ok(Change::To(desired)) => desired,
            other => panic!("{other:?}"),
        }
    }

    fn steps(desired: &Desired, observed: &Observed) -> VmPlan {
        plan(desired, observed, RULES, Moment::default())
    }

    #[test]
    fn it_is_idle_so_long_after_the_last_use_and_never_while_it_is_used() {
        let on_idle = OnIdle { action: IdleAction::Pause, after: Duration::from_secs(60) };
        let last = Moment(Duration::from_secs(5));
        assert_eq!(rests_at(&on_idle, 0, last), Some(Moment(Duration::from_secs(65))));
        assert_eq!(rests_at(&on_idle, 1, last), None);
        assert!(!is_traffic(0) && !is_traffic(2) && is_traffic(3));
        let spec = crate::admission::tests::spec();
        let after = |after| admit_idle(&OnIdle { after, ..on_idle }, &spec);
        assert_eq!(after(Duration::from_millis(999)), Err(IdleDeniedReason::TooShort));
        assert_eq!(after(LONGEST_TTL * 2), Err(IdleDeniedReason::TooLong));
        assert_eq!(after(IDLE_AFTER), Ok(()));
    }

    #[test]
    fn a_rest_by_a_pause_stands_still_and_is_woken_on_the_same_machine() {
        let (desired, observed) = up();
        assert!(may_rest(&desired, &observed));
        let resting = asked(&desired, &observed, rest(IdleAction::Pause));
        assert_eq!((resting.power, resting.run), (Power::Running, desired.run));
        assert_eq!(steps(&resting, &observed).to_string(), "pause");
        let still = observed.after(&VmStep::Pause);
        assert!(steps(&resting, &still).is_empty());
        assert_eq!(phase(&resting, &still, None), VmPhase::Paused);
        assert!(!may_rest(&resting, &still));
        assert_eq!(decide(&resting, &still, rest(IdleAction::Pause)), Ok(Change::Nothing));

        for wakes in [Request::Wake, Request::Start, Request::Resume] {
            let woken = asked(&resting, &still, wakes);
            assert_eq!((woken.run, woken.rest), (desired.run, None));
            assert_eq!(steps(&woken, &still).to_string(), "resume, reconnect");
        }
    }

    #[test]
    fn a_rest_by_a_stop_ends_the_machine_and_is_woken_by_a_boot() {
        let (desired, observed) = up();
        let resting = asked(&desired, &observed, rest(IdleAction::Stop));
        assert_eq!(steps(&resting, &observed).to_string(), "shutdown within 30.00 s");
        // Woken before its machine has ended, it keeps it.
        assert_eq!(asked(&resting, &observed, Request::Wake).run, desired.run);
        let down = observed.after(&VmStep::Kill);
        let woken = asked(&resting, &down, Request::Wake);
        assert!(woken.run > desired.run);
        assert!(steps(&woken, &down).to_string().starts_with("launch for"));
    }

    #[test]
    fn a_rest_by_a_snapshot_goes_on_from_there_or_boots() {
        let (desired, observed) = up();
        let resting = asked(&desired, &observed, rest(IdleAction::Snapshot));
        assert_eq!(steps(&resting, &observed).to_string(), "suspend, kill");
        let saved = observed.clone().after(&VmStep::Suspend);
        // Woken before its machine has ended it keeps that, and nothing else
        // may go on from what was saved.
        let woken = asked(&resting, &saved, Request::Wake);
        assert_eq!(steps(&woken, &saved).to_string(), "discard-memory, resume, reconnect");

        let asleep = saved.after(&VmStep::Kill);
        assert!(steps(&resting, &asleep).is_empty());
        assert_eq!(phase(&resting, &asleep, None), VmPhase::Stopped);
        for wakes in [Request::Wake, Request::Start] {
            let woken = asked(&resting, &asleep, wakes);
            assert_eq!(woken.run, desired.run, "it is the same run");
            assert_eq!(
                steps(&woken, &asleep).to_string(),
                "launch for 1, handshake, configure, start-workload"
            );
            // Its guest does not confirm: it boots, whatever its policy.
            let launch = VmStep::Launch { run: woken.run, full: false, saved: false };
            let launched = asleep.clone().after(&launch);
            assert!(launched.asleep.is_none() && launched.machine.is_some_and(|m| m.unconfirmed));
            let failed = launched.failed(&VmStep::Configure, &woken);
            assert!(steps(&woken, &failed).to_string().starts_with("kill, launch for 1"));
        }
        // Somebody who wants it down, or anew, wants no memory of it.
        let stopped = asked(&resting, &asleep, Request::Stop(GRACE));
        assert_eq!(steps(&stopped, &asleep).to_string(), "discard-memory");
        let anew = asked(&resting, &asleep, Request::Restart(GRACE));
        assert!(steps(&anew, &asleep).to_string().starts_with("discard-memory, launch for"));
        // One whose machine ended before it was saved boots.
        let gone = observed.after(&VmStep::Kill);
        assert!(asked(&resting, &gone, Request::Wake).run > desired.run);
    }

    #[test]
    fn what_somebody_asks_for_is_no_rest_and_is_not_woken() {
        let (desired, observed) = up();
        let pause = Pause { by: "ada".to_owned(), since: Duration::ZERO };
        let paused = asked(&desired, &observed, Request::Pause(pause.clone()));
        let stopped = asked(&desired, &observed, Request::Stop(GRACE));
        for desired in [&paused, &stopped] {
            assert_eq!(decide(desired, &observed, Request::Wake), Ok(Change::Nothing));
            assert_eq!(decide(desired, &observed, rest(IdleAction::Stop)), Ok(Change::Nothing));
            assert!(!may_rest(desired, &observed));
        }
        // And takes the place of one.
        for action in [IdleAction::Pause, IdleAction::Stop] {
            let resting = asked(&desired, &observed, rest(action));
            let stopped = asked(&resting, &observed, Request::Stop(GRACE));
            assert_eq!((stopped.power, stopped.rest), (Power::Stopped, None));
            assert_eq!(asked(&resting, &observed, Request::Restart(GRACE)).rest, None);
        }
        let resting = asked(&desired, &observed, rest(IdleAction::Pause));
        let paused = asked(&resting, &observed, Request::Pause(pause.clone()));
        assert_eq!((paused.rest, paused.paused), (None, Some(pause)));
    }

    #[test]
    fn the_setting_changes_without_a_new_generation() {
        let (desired, observed) = up();
        let on_idle = Some(OnIdle { action: IdleAction::Pause, after: IDLE_AFTER });
        let changed = asked(&desired, &observed, Request::SetOnIdle(on_idle));
        assert_eq!((changed.on_idle, changed.generation), (on_idle, Generation::FIRST));
        assert_eq!(decide(&changed, &observed, Request::SetOnIdle(on_idle)), Ok(Change::Nothing));
        let restarted = asked(&changed, &observed, Request::Restart(GRACE));
        assert_eq!(restarted.on_idle, on_idle, "it outlives what is asked for");
        let gone = Desired { power: Power::Deleted, ..desired };
        let denied = decide(&gone, &observed, Request::SetOnIdle(None));
        assert_eq!(denied, Err(ChangeDeniedReason::BeingDeleted));
    }
}
