use std::time::Duration;

use inn_units::Generation;
use proptest::prelude::*;

use super::*;
use crate::{Change, DownReason, Request, VmPhase, decide, phase};

const GRACE: StopKind = StopKind::Graceful { grace: Duration::from_secs(30) };

/// More steps than any plan has, twice over: ending one machine, and making
/// the next.
const MOST_STEPS: usize = 16;

fn names(plan: &VmPlan) -> Vec<&'static str> {
    plan.steps.iter().map(VmStep::name).collect()
}

#[test]
fn a_new_vm_is_made_and_brought_up() {
    let plan = plan(
        &Desired::first(true, GRACE),
        &Observed::default(),
        RestartPolicy::No,
        Moment::default(),
    );
    assert_eq!(
        plan.to_string(),
        "prepare-disk, launch for 1, handshake, configure, start-workload"
    );
}

#[test]
fn a_failed_start_ends_its_machine_and_waits_for_a_request() {
    let desired = Desired::first(true, GRACE);
    let observed = Observed { disks: true, ..Observed::default() }
        .after(&VmStep::Launch { run: desired.run })
        .failed(&VmStep::Handshake, &desired);
    let first = plan(&desired, &observed, RestartPolicy::Always, Moment::default());
    assert_eq!(names(&first), ["kill"]);
    let observed = observed.after(&VmStep::Kill);
    assert!(plan(&desired, &observed, RestartPolicy::Always, Moment::default()).is_empty());
    assert_eq!(phase(&desired, &observed, None), VmPhase::Failed);

    let Ok(Change::To(desired)) = decide(&desired, &observed, Request::Start) else {
        panic!("a failed VM can be started");
    };
    let again = plan(&desired, &observed, RestartPolicy::No, Moment::default());
    assert_eq!(names(&again), ["launch", "handshake", "configure", "start-workload"]);
}

#[test]
fn a_restart_replaces_the_machine_and_keeps_the_disks() {
    let desired = Desired::first(true, GRACE);
    let observed = up(&desired);
    let Ok(Change::To(desired)) = decide(&desired, &observed, Request::Restart(GRACE)) else {
        panic!("a running VM can be restarted");
    };
    let plan = plan(&desired, &observed, RestartPolicy::No, Moment::default());
    assert_eq!(names(&plan), ["shutdown", "launch", "handshake", "configure", "start-workload"]);
}

#[test]
fn a_crash_waits_its_backoff_where_the_policy_restarts() {
    let desired = Desired::first(true, GRACE);
    let mut observed = up(&desired).ended(DownReason::Crashed, &desired);
    observed.backoff = observed.backoff.failed(Moment::default(), Duration::ZERO);
    let waits = plan(&desired, &observed, RestartPolicy::OnFailure, Moment::default());
    assert_eq!(names(&waits), ["wait", "launch", "handshake", "configure", "start-workload"]);
    let due = plan(&desired, &observed, RestartPolicy::OnFailure, observed.backoff.not_before());
    assert_eq!(names(&due), ["launch", "handshake", "configure", "start-workload"]);
    assert!(plan(&desired, &observed, RestartPolicy::No, Moment::default()).is_empty());
    assert_eq!(phase(&desired, &observed, None), VmPhase::Failed);
    let off = up(&desired).ended(DownReason::PoweredOff, &desired);
    assert_eq!(phase(&desired, &off, None), VmPhase::Stopped);

    // The machine that the policy brings is not taken for the one that failed.
    let booting = observed.after(&VmStep::Launch { run: desired.run });
    let goes_on = plan(&desired, &booting, RestartPolicy::OnFailure, Moment::default());
    assert_eq!(names(&goes_on), ["handshake", "configure", "start-workload"]);
    // And when it fails in turn, the policy still holds.
    let failed = booting.failed(&VmStep::Handshake, &desired);
    let again = plan(&desired, &failed, RestartPolicy::OnFailure, Moment::default());
    assert_eq!(names(&again)[..2], ["kill", "wait"]);
}

#[test]
fn a_guest_that_cannot_hear_is_not_asked() {
    let desired = Desired::first(true, GRACE);
    let mut observed = up(&desired);
    observed.set_guest(Guest::Lost);
    let Ok(Change::To(desired)) = decide(&desired, &observed, Request::Stop(GRACE)) else {
        panic!("a running VM can be stopped");
    };
    let plan = plan(&desired, &observed, RestartPolicy::No, Moment::default());
    assert_eq!(names(&plan), ["kill"]);
}

fn up(desired: &Desired) -> Observed {
    let mut observed = Observed::default();
    for step in plan(desired, &observed, RestartPolicy::No, Moment::default()).steps {
        observed = observed.after(&step);
    }
    assert!(observed.is_up());
    observed
}

/// Whatever can happen to a VM, by request or by itself.
#[derive(Debug, Clone)]
enum Happening {
    Request(Request),
    /// The next step of the plan succeeds.
    Step,
    /// The next step of the plan fails.
    Fail,
    /// The machine ends by itself.
    End(DownReason),
    /// The guest's session is lost.
    Lose,
    /// Another life of the agent finds the machine, or does not.
    NewLife {
        found: bool,
    },
    Wait(Duration),
}

fn happening() -> impl Strategy<Value = Happening> {
    let stop = prop_oneof![Just(GRACE), Just(StopKind::Force)];
    let removal = any::<(bool, bool)>()
        .prop_map(|(keep_disk, purge_persist)| Removal { keep_disk, purge_persist });
    prop_oneof![
        2 => Just(Happening::Request(Request::Start)),
        2 => stop.clone().prop_map(|s| Happening::Request(Request::Stop(s))),
        2 => stop.clone().prop_map(|s| Happening::Request(Request::Restart(s))),
        1 => (stop, removal).prop_map(|(s, r)| Happening::Request(Request::Delete(s, r))),
        12 => Just(Happening::Step),
        3 => Just(Happening::Fail),
        2 => prop::sample::select(vec![
            DownReason::PoweredOff,
            DownReason::Reset,
            DownReason::Crashed,
        ])
        .prop_map(Happening::End),
        1 => Just(Happening::Lose),
        1 => any::<bool>().prop_map(|found| Happening::NewLife { found }),
        1 => (0u64..400).prop_map(|s| Happening::Wait(Duration::from_secs(s))),
    ]
}

#[derive(Debug, Clone)]
struct Life {
    desired: Desired,
    observed: Observed,
    policy: RestartPolicy,
    now: Moment,
}

impl Life {
    fn plan(&self) -> VmPlan {
        plan(&self.desired, &self.observed, self.policy, self.now)
    }

    fn step(&mut self) {
        let Some(step) = self.plan().steps.into_iter().next() else { return };
        if let VmStep::WaitUntil(then) = step {
            self.now = self.now.max(then);
        }
        self.observed = self.observed.clone().after(&step);
    }

    fn happen(&mut self, happening: &Happening) {
        match happening {
            Happening::Request(request) => {
                if let Ok(Change::To(desired)) = decide(&self.desired, &self.observed, *request) {
                    assert_eq!(desired.generation, self.desired.generation.next());
                    self.desired = desired;
                }
            }
            Happening::Step => self.step(),
            Happening::Fail => {
                if let Some(step) = self.plan().next() {
                    self.observed = self.observed.clone().failed(step, &self.desired);
                    self.observed.backoff = self.observed.backoff.failed(self.now, Duration::ZERO);
                }
            }
            Happening::End(reason) => {
                if self.observed.machine.is_some() {
                    self.observed = self.observed.clone().ended(*reason, &self.desired);
                    self.observed.backoff = self.observed.backoff.failed(self.now, Duration::ZERO);
                }
            }
            Happening::Lose => {
                if self.observed.is_up() {
                    self.observed.set_guest(Guest::Lost);
                }
            }
            Happening::NewLife { found: false } => self.observed.machine = None,
            Happening::NewLife { found: true } => {
                let up = self.observed.is_up();
                self.observed.set_guest(if up { Guest::Lost } else { Guest::Booting });
                self.observed.backoff = crate::Backoff::default();
            }
            Happening::Wait(d) => self.now = self.now.plus(*d),
        }
    }

    /// Follows the plan where nothing goes wrong any more.
    fn settle(&mut self) {
        for _ in 0..MOST_STEPS {
            if self.plan().is_empty() {
                return;
            }
            self.step();
        }
        panic!("never settles: {self:?} still wants {}", self.plan());
    }
}

fn life() -> impl Strategy<Value = Life> {
    let policy = prop::sample::select(vec![
        RestartPolicy::No,
        RestartPolicy::OnFailure,
        RestartPolicy::Always,
    ]);
    (any::<bool>(), policy, prop::collection::vec(happening(), 0..40)).prop_map(
        |(start, policy, happenings)| {
            let mut life = Life {
                desired: Desired::first(start, GRACE),
                observed: Observed::default(),
                policy,
                now: Moment::default(),
            };
            for happening in &happenings {
                life.happen(happening);
            }
            life
        },
    )
}

proptest! {
    #[test]
    fn every_reachable_state_settles(mut life in life()) {
        life.settle();
        let phase = phase(&life.desired, &life.observed, None);
        match life.desired.power {
            Power::Stopped => {
                prop_assert!(life.observed.machine.is_none());
                prop_assert_eq!(phase, VmPhase::Stopped);
            }
            Power::Deleted => prop_assert!(life.observed.forgotten),
            Power::Running => prop_assert!(
                life.observed.is_up() || life.observed.down.is_some(),
                "neither up nor explained: {:?}", life
            ),
        }
    }

    #[test]
    fn a_plan_is_the_rest_of_the_plan_before(life in life()) {
        let whole = life.plan();
        let mut follower = life;
        for i in 0..whole.steps.len() {
            prop_assert_eq!(&follower.plan().steps[..], &whole.steps[i..]);
            follower.step();
        }
        prop_assert!(follower.plan().is_empty());
    }

    #[test]
    fn a_start_of_a_settled_vm_ends_with_it_up(mut life in life()) {
        life.settle();
        let started = decide(&life.desired, &life.observed, Request::Start);
        prop_assert_eq!(started.is_err(), life.desired.power == Power::Deleted);
        life.happen(&Happening::Request(Request::Start));
        life.settle();
        prop_assert!(life.observed.is_up() || life.observed.forgotten);
    }

    #[test]
    fn a_delete_leaves_nothing_whatever_was_before(mut life in life()) {
        life.happen(&Happening::Request(Request::Delete(StopKind::Force, Removal::default())));
        life.settle();
        prop_assert!(life.observed.forgotten && life.observed.machine.is_none());
        prop_assert!(life.observed.removed && !life.observed.disks);
    }

    #[test]
    fn asking_twice_changes_nothing_more(mut life in life(), force in any::<bool>()) {
        let stop = if force { StopKind::Force } else { GRACE };
        for request in [Request::Stop(stop), Request::Delete(stop, Removal::default())] {
            life.happen(&Happening::Request(request));
            if let Ok(change) = decide(&life.desired, &life.observed, request) {
                prop_assert_eq!(change, Change::Nothing);
            }
        }
    }

    #[test]
    fn generations_only_go_up(life in life()) {
        prop_assert!(life.desired.generation >= Generation::FIRST);
        prop_assert!(life.desired.run <= life.desired.generation);
    }
}
