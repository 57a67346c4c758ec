//! Whether and when a program is started again. No processes and no clock:
//! `run` says what happened and how long it took.
//!
//! ```text
//!            ended, and the policy wants it again
//!  running ───────────────────────────────────────▶ waiting (delay doubles)
//!   │   ▲                                            │   │
//!   │   └───────────────── started ──────────────────┘   │ stop
//!   └── ended, and nobody wants it again ──▶ done ◀──────┘
//! ```
//!
//! A stop is for good: whatever comes after it, the program is not started
//! again. A start that fails is a run of no length that ended badly.

use std::time::Duration;

use inn_guest_proto::wire::{RestartPolicy, Supervision};

/// SIGKILL and SIGTERM (signal(7)): sent by a host, they are meant for the
/// exec and not only for its current run.
const ENDING_SIGNALS: [i32; 2] = [9, 15];

/// The shortest delay: less would be a loop that starves the machine.
const SHORTEST: Duration = Duration::from_millis(10);

/// After a run of so many times the longest delay the next one is the shortest
/// again.
const LONG_RUN: u32 = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    Waiting,
    Done,
}

/// What follows the end of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Again { after: Duration },
    Done,
}

/// What becomes of a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivery {
    /// It goes to the current run.
    ToRun,
    /// There is no run, and there will be none any more.
    EndsWait,
    /// There is nobody to take it.
    Nobody,
}

#[derive(Debug)]
pub(super) struct Supervisor {
    policy: RestartPolicy,
    shortest: Duration,
    longest: Duration,
    delay: Duration,
    phase: Phase,
    stopping: bool,
    restarts: u32,
}

impl Supervisor {
    /// Of a program that was just started. Without a supervision it runs once.
    pub(super) fn new(wanted: Option<&Supervision>) -> Self {
        let policy = wanted.map_or(RestartPolicy::No, Supervision::policy);
        let millis = |value: Option<u32>| Duration::from_millis(value.unwrap_or(0).into());
        let shortest = millis(wanted.map(|wanted| wanted.min_delay_ms)).max(SHORTEST);
        let longest = millis(wanted.map(|wanted| wanted.max_delay_ms)).max(shortest);
        Self {
            policy,
            shortest,
            longest,
            delay: shortest,
            phase: Phase::Running,
            stopping: false,
            restarts: 0,
        }
    }

    /// How often it was started again.
    pub(super) fn restarts(&self) -> u32 {
        self.restarts
    }

    /// Whether it may ever be started again.
    pub(super) fn restarts_at_all(&self) -> bool {
        self.policy != RestartPolicy::No
    }

    /// Whether there is neither a run nor one to come.
    pub(super) fn is_done(&self) -> bool {
        self.phase == Phase::Done
    }

    /// The current run ended after `ran`; or it could not be started.
    pub(super) fn ended(&mut self, success: bool, ran: Duration) -> Next {
        let wanted = match self.policy {
            RestartPolicy::No => false,
            RestartPolicy::OnFailure => !success,
            RestartPolicy::Always => true,
        };
        if !wanted || self.stopping || self.phase == Phase::Done {
            self.phase = Phase::Done;
            return Next::Done;
        }
        if ran >= self.longest.saturating_mul(LONG_RUN) {
            self.delay = self.shortest;
        }
        let after = self.delay;
        self.delay = self.delay.saturating_mul(2).min(self.longest);
        self.phase = Phase::Waiting;
        Next::Again { after }
    }

    /// The delay is over. False where there is to be no further run.
    pub(super) fn start_again(&mut self) -> bool {
        if self.phase != Phase::Waiting {
            return false;
        }
        self.phase = Phase::Running;
        self.restarts = self.restarts.saturating_add(1);
        true
    }

    /// Nobody wants it again.
    pub(super) fn stop(&mut self) {
        self.stopping = true;
        if self.phase == Phase::Waiting {
            self.phase = Phase::Done;
        }
    }

    /// A host sends a signal.
    pub(super) fn signalled(&mut self, signal: i32) -> Delivery {
        let waiting = self.phase == Phase::Waiting;
        if ENDING_SIGNALS.contains(&signal) {
            self.stop();
        }
        match (self.phase, waiting) {
            (Phase::Running, _) => Delivery::ToRun,
            (Phase::Done, true) => Delivery::EndsWait,
            _ => Delivery::Nobody,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn supervisor(policy: RestartPolicy, min: u32, max: u32) -> Supervisor {
        let wanted = Supervision { policy: policy.into(), min_delay_ms: min, max_delay_ms: max };
        Supervisor::new(Some(&wanted))
    }

    fn delay(next: Next) -> Option<u64> {
        match next {
            Next::Again { after } => Some(u64::try_from(after.as_millis()).unwrap()),
            Next::Done => None,
        }
    }

    #[test]
    fn the_delay_doubles_up_to_its_bound_and_begins_afresh_after_a_long_run() {
        let mut it = supervisor(RestartPolicy::Always, 100, 500);
        let mut run = |ran: u64| {
            let after = delay(it.ended(true, Duration::from_millis(ran)));
            assert!(it.start_again());
            after
        };
        assert_eq!([run(0), run(4999), run(1), run(1)], [100, 200, 400, 500].map(Some));
        assert_eq!([run(1), run(5000), run(1)], [500, 100, 200].map(Some));
        assert_eq!(it.restarts(), 7);
    }

    #[test]
    fn each_policy_looks_at_the_end() {
        for (policy, after_success, after_failure) in [
            (RestartPolicy::No, false, false),
            (RestartPolicy::OnFailure, false, true),
            (RestartPolicy::Always, true, true),
        ] {
            for (success, again) in [(true, after_success), (false, after_failure)] {
                let next = supervisor(policy, 20, 20).ended(success, Duration::ZERO);
                assert_eq!(delay(next), again.then_some(20), "{policy:?} {success}");
            }
        }
        let mut once = Supervisor::new(None);
        assert!(!once.restarts_at_all());
        assert_eq!(once.ended(false, Duration::ZERO), Next::Done);
        assert!(!once.start_again());
    }

    #[test]
    fn a_hosts_sigterm_means_stop_and_sighup_does_not() {
        let mut it = supervisor(RestartPolicy::Always, 20, 20);
        assert_eq!(it.signalled(1), Delivery::ToRun);
        assert_eq!(delay(it.ended(false, Duration::ZERO)), Some(20));
        assert_eq!(it.signalled(1), Delivery::Nobody);
        assert_eq!(it.signalled(15), Delivery::EndsWait);
        assert_eq!(it.signalled(15), Delivery::Nobody);
        assert!(!it.start_again());

        let mut running = supervisor(RestartPolicy::Always, 20, 20);
        assert_eq!(running.signalled(9), Delivery::ToRun);
        assert_eq!(running.ended(false, Duration::ZERO), Next::Done);
    }

    #[derive(Debug, Clone, Copy)]
    enum Event {
        Ended(bool, u64),
        StartAgain,
        Stop,
        Signal(i32),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            (any::<bool>(), 0u64..100_000).prop_map(|(success, ran)| Event::Ended(success, ran)),
            Just(Event::StartAgain),
            Just(Event::Stop),
            (1i32..=64).prop_map(Event::Signal),
        ]
    }

    proptest! {
        #[test]
        fn delays_stay_within_bounds_and_a_stop_is_for_good(
            policy in 0i32..3,
            bounds in (0u32..2_000, 0u32..60_000),
            events in prop::collection::vec(event(), 0..60),
        ) {
            let policy = RestartPolicy::try_from(policy).unwrap();
            let mut it = supervisor(policy, bounds.0, bounds.1);
            let shortest = bounds.0.max(10);
            let longest = bounds.1.max(shortest);
            let mut stopped = false;
            for event in events {
                match event {
                    Event::Ended(success, ran) => {
                        if let Some(after) = delay(it.ended(success, Duration::from_millis(ran))) {
                            prop_assert!(!stopped && policy != RestartPolicy::No);
                            prop_assert!((shortest.into()..=longest.into()).contains(&after));
                        }
                    }
                    Event::StartAgain => {
                        let before = it.restarts();
                        let again = it.start_again();
                        prop_assert!(!(stopped && again));
                        prop_assert_eq!(it.restarts(), before + u32::from(again));
                    }
                    Event::Stop => {
                        it.stop();
                        stopped = true;
                    }
                    Event::Signal(signal) => {
                        it.signalled(signal);
                        stopped |= signal == 9 || signal == 15;
                    }
                }
            }
        }
    }
}
