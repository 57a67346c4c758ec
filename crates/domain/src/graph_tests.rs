//! Every state that a VM can be in, explored to the end.
//!
//! ```text
//!   World = what is desired ╳ what the task believes ╳ what is stored ╳ what is true
//!   edges: each request; the next step done, failed, or done with the agent
//!          dead before it could say so; the machine's end; the session's; the
//!          agent's restart; the host's
//! ```
//!
//! Generations only count relative to each other, so worlds that differ by
//! nothing else are one ([`World::canonical`]), and there are finitely many.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use inn_units::Generation;

use super::*;
use crate::plan::will_run;
use crate::{
    Backoff, Change, ChangeDeniedReason, DownReason, IdleAction, Pause, Request, Rest, VmPhase,
    decide, phase,
};

const GRACE: StopKind = StopKind::Graceful { grace: Duration::from_secs(30) };

/// Resume, shutdown, wait, prepare-disk, launch, handshake, configure,
/// cloud-init, start-workload, pause.
const LONGEST_PLAN: usize = 10;

#[derive(Debug, Clone, PartialEq, Eq)]
struct World {
    desired: Desired,
    observed: Observed,
    /// What the next life of the agent finds in the store.
    stored: Observed,
    /// Whether a machine of this VM runs on the host, known or not.
    machine: bool,
    /// Whether its whole disks lie on the host, known or not.
    disks: bool,
}

impl World {
    fn new(start: bool) -> Self {
        Self {
            desired: Desired::first(start, GRACE),
            observed: Observed::default(),
            stored: Observed::default(),
            machine: false,
            disks: false,
        }
    }

    fn plan(&self, rules: Rules) -> VmPlan {
        plan(&self.desired, &self.observed, rules, Moment::default())
    }

    fn persist(&mut self) {
        self.stored = Observed { backoff: Backoff::default(), ..self.observed.clone() };
        // Neither column is stored: the first is done again, the second is the
        // record's end.
        self.stored.removed = false;
    }

    /// What a step does to the host, held against what is true there.
    fn effect(&mut self, step: &VmStep) {
        assert!(!self.observed.forgotten, "{step} of a forgotten VM: {self:?}");
        match step {
            VmStep::MakeDisks => self.disks = true,
            VmStep::Launch { .. } => {
                assert!(!self.machine, "a second machine: {self:?}");
                assert!(self.disks, "a machine without disks: {self:?}");
                self.machine = true;
            }
            VmStep::Shutdown { .. } | VmStep::Kill => self.machine = false,
            VmStep::RemoveFiles { .. } => {
                assert!(!self.machine, "a machine whose files go: {self:?}");
                self.disks = false;
            }
            VmStep::Forget => {
                assert!(!self.machine && !self.disks, "forgotten and still there: {self:?}");
            }
            VmStep::Handshake
            | VmStep::Configure
            | VmStep::CloudInit
            | VmStep::StartWorkload
            | VmStep::Pause
            | VmStep::Resume
            | VmStep::Suspend
            | VmStep::Reconnect => assert!(self.machine, "{step} of no machine: {self:?}"),
            VmStep::WaitUntil(_) | VmStep::Discard => {}
        }
    }

    fn done(self, step: &VmStep) -> Self {
        let mut next = self.done_untold(step);
        let kept = matches!(
            step,
            VmStep::Launch { .. }
                | VmStep::CloudInit
                | VmStep::StartWorkload
                | VmStep::Reconnect
                | VmStep::Pause
                | VmStep::Resume
                | VmStep::Suspend
                | VmStep::Discard
                | VmStep::Shutdown { .. }
                | VmStep::Kill
        );
        if kept {
            next.persist();
        }
        next
    }

    /// Done, and the store could not be told.
    fn done_untold(mut self, step: &VmStep) -> Self {
        self.effect(step);
        self.observed = self.observed.after(step);
        if matches!(step, VmStep::WaitUntil(_)) {
            self.observed.backoff = Backoff::default();
        }
        self
    }

    fn failed(mut self, step: &VmStep) -> Self {
        self.observed = self.observed.failed(step, &self.desired);
        if self.observed.down.is_some() {
            self.went_down();
        }
        self
    }

    fn went_down(&mut self) {
        self.observed.backoff = Backoff::default().failed(Moment::default(), Duration::ZERO);
    }

    /// The agent's next life, and all that it can find.
    fn next_lives(&self) -> Vec<Self> {
        let mut next = self.clone();
        next.observed = self.stored.clone();
        if self.stored.machine.is_none() {
            // Whatever runs in its directory is reaped.
            next.machine = false;
            return vec![next];
        }
        let mut lives = Vec::new();
        if self.machine {
            let mut found = next.clone();
            found.observed.adopted();
            lives.push(found);
            // It does not answer, or is not the one that was stored, since a
            // write has failed: it is reaped.
            next.machine = false;
        }
        let mut host_was_down = next.clone();
        host_was_down.observed.machine = None;
        host_was_down.persist();
        if self.desired.power == Power::Running {
            next.observed = next.observed.ended(DownReason::Crashed, &self.desired);
            next.went_down();
        }
        next.observed.machine = None;
        next.persist();
        lives.extend([host_was_down, next]);
        lives
    }

    fn asked(&self, request: Request) -> Option<Self> {
        match decide(&self.desired, &self.observed, request.clone()) {
            Ok(Change::To(desired)) => Some(Self { desired, ..self.clone() }),
            Ok(Change::Nothing) => None,
            Err(ChangeDeniedReason::NotRunning) => {
                assert!(matches!(request, Request::Pause(_) | Request::Resume));
                None
            }
            Err(denied) => {
                assert_eq!(self.desired.power, Power::Deleted, "{denied}: {self:?}");
                assert!(!matches!(request, Request::Delete(..)), "a delete is never refused");
                None
            }
        }
    }

    /// All that can happen next.
    fn successors(&self, rules: Rules) -> Vec<Self> {
        let mut next = Vec::new();
        let removal = Removal::default();
        for request in [
            Request::Start,
            Request::Stop(GRACE),
            Request::Stop(StopKind::Force),
            Request::Restart(GRACE),
            Request::Restart(StopKind::Force),
            Request::Pause(Pause { by: "somebody".to_owned(), since: Duration::ZERO }),
            Request::Resume,
            Request::Rest(rest(IdleAction::Pause), GRACE),
            Request::Rest(rest(IdleAction::Snapshot), GRACE),
            Request::Rest(rest(IdleAction::Stop), GRACE),
            Request::Wake,
            Request::Delete(GRACE, removal),
            Request::Delete(StopKind::Force, removal),
        ] {
            next.extend(self.asked(request));
        }
        let plan = self.plan(rules);
        if let Some(step) = plan.next() {
            next.push(self.clone().done(step));
            next.push(self.clone().done_untold(step));
            if !matches!(step, VmStep::WaitUntil(_)) {
                next.push(self.clone().failed(step));
                let mut untold = self.clone();
                untold.effect(step);
                // Its record goes with a forgotten VM: there is no next life.
                if *step != VmStep::Forget {
                    next.extend(untold.next_lives());
                }
            }
            // One that goes on from its memory has to answer.
            let runs_alone = self.observed.machine.is_some_and(|m| m.is_up_as_it_runs());
            if *step == VmStep::Handshake && runs_alone {
                let mut silent = self.clone();
                silent.observed.unanswered();
                next.push(silent);
            }
        }
        if plan.next().is_none_or(|step| matches!(step, VmStep::WaitUntil(_))) {
            let mut settled = self.clone();
            settled.persist();
            next.push(settled);
        }
        if self.observed.machine.is_some() {
            for reason in [DownReason::PoweredOff, DownReason::Reset, DownReason::Crashed] {
                let mut ended = self.clone();
                ended.machine = false;
                ended.observed = ended.observed.ended(reason, &self.desired);
                ended.went_down();
                next.push(ended.clone());
                ended.persist();
                next.push(ended);
            }
            let mut lost = self.clone();
            lost.observed.session_lost();
            next.push(lost);
        }
        next.extend(self.next_lives());
        let mut host_is_down = self.clone();
        host_is_down.machine = false;
        next.extend(host_is_down.next_lives());
        next
    }

    /// The same world in the smallest generations.
    fn canonical(mut self) -> Self {
        let (now, run, before) = (Generation(3), Generation(2), Generation(1));
        let desired = self.desired.clone();
        for observed in [&mut self.observed, &mut self.stored] {
            if let Some(machine) = &mut observed.machine {
                assert!(machine.run <= desired.run, "a machine of the future: {desired:?}");
                machine.run = if machine.run == desired.run { run } else { before };
            }
            if let Some(down) = &mut observed.down {
                down.generation = if down.generation == desired.generation { now } else { before };
            }
            observed.asleep =
                observed.asleep.map(|of| if of == desired.run { run } else { before });
            observed.up_run = (observed.up_run == Some(desired.run)).then_some(run);
        }
        self.desired.generation = now;
        self.desired.run = run;
        self
    }

    /// One byte for each thing that tells worlds apart.
    fn key(&self) -> [u8; 14] {
        let of = |observed: &Observed| {
            let machine = observed.machine.map_or(0, |machine| {
                let guest = match machine.guest {
                    Guest::Booting => 1,
                    Guest::Answered => 2,
                    Guest::Configured => 3,
                    Guest::Up => 4,
                    Guest::Lost => 5,
                    Guest::Absent => 6,
                    Guest::Adopted => 7,
                };
                let motion = match machine.motion {
                    Motion::Runs => 0,
                    Motion::Paused => 16,
                    Motion::Behind => 32,
                };
                let unconfirmed = if machine.unconfirmed { 64 } else { 0 };
                let old = if machine.run < self.desired.run { 8 } else { 0 };
                guest + motion + unconfirmed + old
            });
            let down = observed.down.map_or(0, |down| {
                let reason = match down.reason {
                    DownReason::PoweredOff => 1,
                    DownReason::Reset => 2,
                    DownReason::Crashed => 3,
                    DownReason::StartFailed => 4,
                    DownReason::NotWoken => 5,
                };
                reason + if down.generation < self.desired.generation { 8 } else { 0 }
            });
            let waits = observed.backoff.not_before() > Moment::default();
            let (asleep, now) = (observed.asleep, observed.asleep == Some(self.desired.run));
            let asleep = asleep.is_some();
            let flags = [observed.disks, observed.removed, observed.forgotten, waits, asleep, now];
            let flags = flags.iter().fold(0, |bits, flag| bits << 1 | u8::from(*flag));
            [machine, down, u8::from(observed.up_run.is_some()), flags]
        };
        let mut key = [0; 14];
        key[..4].copy_from_slice(&of(&self.observed));
        key[4..8].copy_from_slice(&of(&self.stored));
        key[8] = match self.desired.power {
            Power::Running => 0,
            Power::Stopped => 1,
            Power::Deleted => 2,
        };
        key[9] = u8::from(self.desired.stop == StopKind::Force);
        key[10] = u8::from(self.machine);
        key[11] = u8::from(self.disks);
        key[12] = u8::from(self.desired.paused.is_some());
        key[13] = match self.desired.rest.map(|rest| rest.action) {
            None => 0,
            Some(IdleAction::Pause) => 1,
            Some(IdleAction::Stop) => 2,
            Some(IdleAction::Snapshot) => 3,
        };
        key
    }

    /// Follows the plan where every step succeeds, and counts them.
    fn settle(mut self, rules: Rules) -> (Self, usize) {
        for steps in 0.. {
            let plan = self.plan(rules);
            let Some(step) = plan.next() else { return (self, steps) };
            assert!(steps < LONGEST_PLAN, "never settles: {self:?} still wants {plan}");
            self = self.done(step);
        }
        unreachable!("the loop ends by its assertion");
    }
}

fn rest(action: IdleAction) -> Rest {
    Rest { action, since: Duration::ZERO }
}

fn explore(rules: Rules, mut look: impl FnMut(&World)) -> usize {
    let mut seen = HashSet::new();
    let mut queue = VecDeque::new();
    for start in [true, false] {
        let world = World::new(start).canonical();
        if seen.insert(world.key()) {
            queue.push_back(world);
        }
    }
    while let Some(world) = queue.pop_front() {
        look(&world);
        if world.observed.forgotten {
            continue;
        }
        for next in world.successors(rules) {
            let next = next.canonical();
            if seen.insert(next.key()) {
                queue.push_back(next);
            }
        }
    }
    seen.len()
}

fn check(world: &World, rules: Rules) {
    let whole = world.plan(rules);
    assert!(whole.steps.len() <= LONGEST_PLAN, "{whole}");
    let launches = whole.steps.iter().filter(|s| matches!(s, VmStep::Launch { .. })).count();
    assert!(launches <= 1, "{whole}");
    if world.observed.forgotten {
        assert!(whole.is_empty(), "a forgotten VM has the plan {whole}");
        return;
    }
    assert_eq!(
        will_run(&world.desired, &world.observed, rules),
        world.observed.machine.is_some() || launches > 0,
        "{world:?}: {whole}"
    );

    // The plan of what a plan's first step leads to is its rest.
    if let Some(first) = whole.next() {
        let rest = world.clone().done(first).plan(rules);
        assert_eq!(rest.steps[..], whole.steps[1..], "after {first}: {world:?}");
    }

    // It converges, and then has nothing more to do.
    let (settled, _) = world.clone().settle(rules);
    assert!(settled.plan(rules).is_empty());
    let at_rest = phase(&settled.desired, &settled.observed, None);
    match settled.desired.power {
        Power::Running => assert!(
            settled.observed.is_up()
                || settled.observed.down.is_some()
                || settled.desired.stands_still() && settled.observed.is_paused(),
            "neither up nor explained: {settled:?}"
        ),
        Power::Stopped => {
            assert!(!settled.machine, "{settled:?}");
            assert_eq!(at_rest, VmPhase::Stopped);
        }
        Power::Deleted => assert!(settled.observed.forgotten),
    }

    // Whatever it is, a delete ends it.
    for stop in [GRACE, StopKind::Force] {
        let deleted = world.asked(Request::Delete(stop, Removal::default()));
        let (gone, _) = deleted.unwrap_or_else(|| world.clone()).settle(rules);
        assert!(gone.observed.forgotten && !gone.machine && !gone.disks, "{gone:?}");
    }

    // And a start brings it up, unless it is being deleted.
    if world.desired.power != Power::Deleted {
        let started = world.asked(Request::Start).unwrap_or_else(|| world.clone());
        let (up, _) = started.settle(rules);
        assert!(up.observed.is_up(), "a start that leads to {up:?} from {world:?}");
    }
}

fn all_of(restart: RestartPolicy, full: bool, saved: bool) {
    // A microVM's rules do not ask for cloud-init.
    let rules = Rules { restart, full, cloud_init: full, saved };
    let states = explore(rules, |world| check(world, rules));
    println!("{restart:?}, full {full}, saved {saved}: {states} states");
    assert!(states > 1_000, "the graph has lost its edges: {states} states");
}

#[test]
fn every_state_of_a_micro_vm_has_its_way_out() {
    for restart in [RestartPolicy::No, RestartPolicy::OnFailure, RestartPolicy::Always] {
        all_of(restart, false, false);
        all_of(restart, false, true);
    }
}

#[test]
fn every_state_of_a_full_vm_has_its_way_out() {
    for restart in [RestartPolicy::No, RestartPolicy::OnFailure, RestartPolicy::Always] {
        all_of(restart, true, false);
        all_of(restart, true, true);
    }
}
