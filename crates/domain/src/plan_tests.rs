use std::time::Duration;

use inn_units::Generation;
use proptest::prelude::*;

use super::*;
use crate::{Change, DownReason, Request, VmPhase, decide, phase};

const GRACE: StopKind = StopKind::Graceful { grace: Duration::from_secs(30) };

/// More steps than any plan has, twice over: ending one machine, and making
/// the next.
const MOST_STEPS: usize = 16;

/// The rules of a microVM.
fn micro(restart: RestartPolicy) -> Rules {
    Rules { restart, full: false, cloud_init: false, saved: false }
}

fn full(restart: RestartPolicy) -> Rules {
    Rules { restart, full: true, cloud_init: false, saved: false }
}

fn names(plan: &VmPlan) -> Vec<&'static str> {
    plan.steps.iter().map(VmStep::name).collect()
}

#[test]
fn a_new_vm_is_made_and_brought_up() {
    let plan = plan(
        &Desired::first(true, GRACE),
        &Observed::default(),
        micro(RestartPolicy::No),
        Moment::default(),
    );
    assert_eq!(
        plan.to_string(),
        "prepare-disk, launch for 1, handshake, configure, start-workload"
    );
}

#[test]
fn cloud_init_is_waited_for_once_in_a_machine_s_life() {
    let rules = Rules { cloud_init: true, ..full(RestartPolicy::No) };
    let desired = Desired::first(true, GRACE);
    let next = |observed: &Observed| plan(&desired, observed, rules, Moment::default());
    let launch = VmStep::Launch { run: desired.run, full: true, saved: false };
    let launched = Observed { disks: true, ..Observed::default() }.after(&launch);
    assert_eq!(names(&next(&launched)), ["handshake", "configure", "cloud-init", "start-workload"]);
    let configured = launched.clone().after(&VmStep::Handshake).after(&VmStep::Configure);
    assert_eq!(names(&next(&configured)), ["cloud-init", "start-workload"]);
    assert!(!next(&configured).next().is_some_and(VmStep::needs_start_turn), "it takes minutes");
    assert_eq!(phase(&desired, &configured, Some(&VmStep::CloudInit)), VmPhase::Running);

    // An agent that comes late, as one that is installed does, or again.
    let mut late = launched;
    late.unanswered();
    assert_eq!(names(&next(&late)), ["reconnect", "cloud-init"]);
    let found = late.after(&VmStep::Reconnect);
    assert_eq!(names(&next(&found)), ["cloud-init"]);
    let mut done = found.after(&VmStep::CloudInit);
    assert!(next(&done).is_empty());
    done.session_lost();
    assert_eq!(names(&next(&done)), ["reconnect"]);
    // The next machine boots anew.
    let again = Desired { run: Generation(2), ..desired.clone() };
    let steps = plan(&again, &done, rules, Moment::default());
    assert!(names(&steps).contains(&"cloud-init"), "{steps}");
}

#[test]
fn a_failed_start_ends_its_machine_and_waits_for_a_request() {
    let desired = Desired::first(true, GRACE);
    let observed = Observed { disks: true, ..Observed::default() }
        .after(&VmStep::Launch { run: desired.run, full: false, saved: false })
        .failed(&VmStep::Handshake, &desired);
    let first = plan(&desired, &observed, micro(RestartPolicy::Always), Moment::default());
    assert_eq!(names(&first), ["kill"]);
    let observed = observed.after(&VmStep::Kill);
    assert!(plan(&desired, &observed, micro(RestartPolicy::Always), Moment::default()).is_empty());
    assert_eq!(phase(&desired, &observed, None), VmPhase::Failed);

    let Ok(Change::To(desired)) = decide(&desired, &observed, Request::Start) else {
        panic!("a failed VM can be started");
    };
    let again = plan(&desired, &observed, micro(RestartPolicy::No), Moment::default());
    assert_eq!(names(&again), ["launch", "handshake", "configure", "start-workload"]);
}

#[test]
fn a_restart_replaces_the_machine_and_keeps_the_disks() {
    let desired = Desired::first(true, GRACE);
    let observed = up(&desired);
    let Ok(Change::To(desired)) = decide(&desired, &observed, Request::Restart(GRACE)) else {
        panic!("a running VM can be restarted");
    };
    let plan = plan(&desired, &observed, micro(RestartPolicy::No), Moment::default());
    assert_eq!(names(&plan), ["shutdown", "launch", "handshake", "configure", "start-workload"]);
}

#[test]
fn a_machine_that_ends_before_its_restart_does_not_take_that_along() {
    let desired = Desired::first(true, GRACE);
    let Ok(Change::To(again)) = decide(&desired, &up(&desired), Request::Restart(GRACE)) else {
        panic!("a VM that runs can be restarted");
    };
    let observed = up(&desired).ended(DownReason::PoweredOff, &again);
    let plan = plan(&again, &observed, micro(RestartPolicy::No), Moment::default());
    assert_eq!(names(&plan), ["launch", "handshake", "configure", "start-workload"]);
}

#[test]
fn a_crash_waits_its_backoff_where_the_policy_restarts() {
    let desired = Desired::first(true, GRACE);
    let mut observed = up(&desired).ended(DownReason::Crashed, &desired);
    observed.backoff = observed.backoff.failed(Moment::default(), Duration::ZERO);
    let waits = plan(&desired, &observed, micro(RestartPolicy::OnFailure), Moment::default());
    assert_eq!(names(&waits), ["wait", "launch", "handshake", "configure", "start-workload"]);
    let due =
        plan(&desired, &observed, micro(RestartPolicy::OnFailure), observed.backoff.not_before());
    assert_eq!(names(&due), ["launch", "handshake", "configure", "start-workload"]);
    assert!(plan(&desired, &observed, micro(RestartPolicy::No), Moment::default()).is_empty());
    assert_eq!(phase(&desired, &observed, None), VmPhase::Failed);
    let off = up(&desired).ended(DownReason::PoweredOff, &desired);
    assert_eq!(phase(&desired, &off, None), VmPhase::Stopped);

    // The machine that the policy brings is not taken for the one that failed.
    let booting = observed.after(&VmStep::Launch { run: desired.run, full: false, saved: false });
    let goes_on = plan(&desired, &booting, micro(RestartPolicy::OnFailure), Moment::default());
    assert_eq!(names(&goes_on), ["handshake", "configure", "start-workload"]);
    // And when it fails in turn, the policy still holds.
    let failed = booting.failed(&VmStep::Handshake, &desired);
    let again = plan(&desired, &failed, micro(RestartPolicy::OnFailure), Moment::default());
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
    let plan = plan(&desired, &observed, micro(RestartPolicy::No), Moment::default());
    assert_eq!(names(&plan), ["kill"]);
}

#[test]
fn a_guest_that_was_adopted_is_asked_until_it_is_known_not_to_answer() {
    let desired = Desired::first(true, GRACE);
    let at = Moment::default();
    let rules = micro(RestartPolicy::No);
    let mut observed = up(&desired);
    observed.adopted();
    assert_eq!(phase(&desired, &observed, None), VmPhase::Running);
    assert_eq!(names(&plan(&desired, &observed, rules, at)), ["reconnect"]);
    let asked =
        |observed: &Observed, request: Request| match decide(&desired, observed, request.clone()) {
            Ok(Change::To(desired)) => names(&plan(&desired, observed, rules, at)),
            refused => panic!("{request:?}: {refused:?}"),
        };
    let removal = Removal::default();
    assert_eq!(asked(&observed, Request::Stop(GRACE)), ["shutdown"]);
    assert_eq!(asked(&observed, Request::Restart(GRACE))[..2], ["shutdown", "launch"]);
    assert_eq!(asked(&observed, Request::Delete(GRACE, removal))[0], "shutdown");
    assert_eq!(asked(&observed, Request::Stop(StopKind::Force)), ["kill"]);

    let silent = observed.failed(&VmStep::Reconnect, &desired);
    assert_eq!(asked(&silent, Request::Stop(GRACE)), ["kill"]);
    assert_eq!(names(&plan(&desired, &silent, rules, at)), ["reconnect"]);
    // Yet another life tries again.
    let mut next_life = silent;
    next_life.adopted();
    assert_eq!(asked(&next_life, Request::Stop(GRACE)), ["shutdown"]);
}

#[test]
fn a_full_vm_is_up_without_an_agent_and_takes_one_that_comes_late() {
    let desired = Desired::first(true, GRACE);
    let rules = full(RestartPolicy::OnFailure);
    let at = Moment::default();
    let made = Observed::default().after(&VmStep::MakeDisks);
    let first = plan(&desired, &made, rules, at);
    assert_eq!(names(&first), ["launch", "handshake", "configure", "start-workload"]);
    let mut observed = made.after(first.next().unwrap());
    assert_eq!(phase(&desired, &observed, Some(&VmStep::Handshake)), VmPhase::Running);

    observed.unanswered();
    assert_eq!(phase(&desired, &observed, None), VmPhase::Running);
    let looks = plan(&desired, &observed, rules, at);
    assert_eq!(names(&looks), ["reconnect"]);
    assert_eq!(observed.clone().failed(&VmStep::Reconnect, &desired), observed, "it runs on");
    let found = observed.clone().after(&VmStep::Reconnect);
    assert!(found.is_up() && plan(&desired, &found, rules, at).is_empty());

    // Its power button is left to end it by.
    let Ok(Change::To(stopped)) = decide(&desired, &observed, Request::Stop(GRACE)) else {
        panic!("a running VM can be stopped");
    };
    assert_eq!(names(&plan(&stopped, &observed, rules, at)), ["shutdown"]);
    // Its end is that of a VM that was up.
    let ended = observed.ended(DownReason::PoweredOff, &desired);
    assert_eq!(phase(&desired, &ended, None), VmPhase::Stopped);
}

#[test]
fn a_full_vm_whose_agent_misbehaves_runs_on() {
    let desired = Desired::first(true, GRACE);
    let rules = full(RestartPolicy::No);
    let observed = Observed { disks: true, ..Observed::default() }
        .after(&VmStep::Launch { run: desired.run, full: true, saved: false })
        .after(&VmStep::Handshake)
        .failed(&VmStep::StartWorkload, &desired);
    assert!(observed.down.is_none());
    assert_eq!(names(&plan(&desired, &observed, rules, Moment::default())), ["reconnect"]);
}

/// What others were is not handed out before it is itself, nor set up by cloud-init
/// before it boots.
#[test]
fn a_full_vm_that_goes_on_from_a_saved_one_is_up_once_it_has_confirmed() {
    let desired = Desired::first(true, GRACE);
    let rules = Rules { saved: true, cloud_init: true, ..full(RestartPolicy::No) };
    let now = Moment::default();
    let steps = plan(&desired, &Observed::default(), rules, now);
    let way = ["prepare-disk", "launch", "handshake", "configure", "start-workload"];
    assert_eq!(names(&steps), way);
    let mut observed = Observed::default();
    for step in &steps.steps[..3] {
        observed = observed.after(step);
        assert_ne!(phase(&desired, &observed, None), VmPhase::Running, "after {step}");
    }
    assert!(observed.goes_on_from_saved() && !observed.is_woken(), "{observed:?}");
    let failed = observed.clone().failed(&VmStep::Configure, &desired);
    assert_eq!(phase(&desired, &failed, None), VmPhase::Starting);
    assert_eq!(names(&plan(&desired, &failed, rules, now)), ["kill"]);
    for step in &steps.steps[3..] {
        observed = observed.after(step);
    }
    assert_eq!(phase(&desired, &observed, None), VmPhase::Running);
    // From then on it is like any other.
    let ended = observed.ended(DownReason::Reset, &desired);
    let again = ["launch", "handshake", "configure", "cloud-init", "start-workload"];
    assert_eq!(names(&plan(&desired, &ended, rules, now)), again);
}

fn up(desired: &Desired) -> Observed {
    let mut observed = Observed::default();
    for step in plan(desired, &observed, micro(RestartPolicy::No), Moment::default()).steps {
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
    /// Nobody answers the handshake.
    Silence,
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
        2 => Just(Happening::Silence),
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
    rules: Rules,
    now: Moment,
}

impl Life {
    fn plan(&self) -> VmPlan {
        plan(&self.desired, &self.observed, self.rules, self.now)
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
                if let Ok(Change::To(desired)) =
                    decide(&self.desired, &self.observed, request.clone())
                {
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
            Happening::Silence => {
                if self.plan().next() == Some(&VmStep::Handshake) {
                    if self.rules.full {
                        self.observed.unanswered();
                    } else {
                        self.happen(&Happening::Fail);
                    }
                }
            }
            Happening::Lose => {
                let heard = self.observed.machine.is_some_and(|machine| {
                    matches!(machine.guest, Guest::Answered | Guest::Configured | Guest::Up)
                });
                if heard {
                    self.observed.session_lost();
                }
            }
            Happening::NewLife { found: false } => self.observed.machine = None,
            Happening::NewLife { found: true } => {
                self.observed.adopted();
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
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    (flags, policy, prop::collection::vec(happening(), 0..40)).prop_map(
        |((start, full, cloud_init), restart, happenings)| {
            let mut life = Life {
                desired: Desired::first(start, GRACE),
                observed: Observed::default(),
                rules: Rules { restart, full, cloud_init, saved: false },
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
    fn nothing_that_its_guest_does_not_do_ends_a_full_vm(mut life in life()) {
        life.rules.full = true;
        life.happen(&Happening::Request(Request::Delete(StopKind::Force, Removal::default())));
        life.settle();
        life = Life {
            desired: Desired::first(true, GRACE),
            observed: Observed::default(),
            ..life
        };
        life.step();
        life.step();
        prop_assert!(life.observed.machine.is_some());
        for happening in [Happening::Fail, Happening::Step, Happening::Lose, Happening::Silence] {
            life.happen(&happening);
            prop_assert!(life.observed.machine.is_some() && life.observed.down.is_none());
            prop_assert_eq!(phase(&life.desired, &life.observed, None), VmPhase::Running);
        }
    }

    #[test]
    fn asking_twice_changes_nothing_more(mut life in life(), force in any::<bool>()) {
        let stop = if force { StopKind::Force } else { GRACE };
        for request in [Request::Stop(stop), Request::Delete(stop, Removal::default())] {
            life.happen(&Happening::Request(request.clone()));
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
