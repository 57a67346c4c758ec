//! From what is desired and what is observed to what to do.
//!
//! ```text
//!   Running:  MakeDisks ▶ Launch ▶ Handshake ▶ Configure ▶ CloudInit ▶ StartWorkload ▶ ∅
//!                 ▲                    │ a full VM: nobody     │ session lost
//!                 │                    └───────▶ Reconnect ◀───┘
//!                 │ policy, after WaitUntil
//!                 └── the machine ended by itself
//!   Paused:   …as for Running, until it is up ▶ Pause ▶ ∅   (and Resume ▶ Reconnect after it)
//!   Stopped:  Shutdown or Kill ▶ ∅      (one that is paused: Resume ▶ Shutdown)
//!   Asleep:   Suspend ▶ Kill ▶ ∅        (and Launch ▶ Handshake ▶ Configure … from there)
//!   Deleted:  Shutdown or Kill ▶ RemoveFiles ▶ Forget ▶ ∅
//! ```

use std::fmt;
use std::time::Duration;

use inn_units::{Generation, format_duration};

use crate::observed::{Guest, MachineView, Motion};
use crate::restart::{Moment, starts_again};
use crate::{Desired, IdleAction, Observed, Power, Removal, RestartPolicy, StopKind};

/// All that is left to do, in order. Empty: what is desired has been reached,
/// or only a new request will change anything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VmPlan {
    pub steps: Vec<VmStep>,
}

/// One thing to do on the host. [`Observed::after`] says what it brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VmStep {
    /// Makes the VM's own disks, whole, from nothing.
    MakeDisks,
    Launch {
        run: Generation,
        full: bool,
        /// From a saved machine, whose disks serve this start alone: they go
        /// together with its memory.
        saved: bool,
    },
    /// Waits for the guest agent's first answer in this boot.
    Handshake,
    Configure,
    /// Waits for cloud-init in a full VM that it sets up, once in the life of
    /// a machine; whatever comes of it, the VM runs on.
    CloudInit,
    StartWorkload,
    /// Gets a lost session back, or finds an agent that came late, and then
    /// what the guest should be doing. Its failure never ends the machine.
    Reconnect,
    /// Lets go of the guest's session, and stops the machine's CPUs.
    Pause,
    /// Lets a paused machine go on.
    Resume,
    /// Stops the machine's CPUs for good, and writes down its memory, for the
    /// VM to go on from there on the disks that it has.
    Suspend,
    /// Removes what was written down: nothing goes on from there.
    Discard,
    /// Asks the guest to end, and ends the machine once `grace` is over. The
    /// session with a guest that was adopted is got back before.
    Shutdown {
        grace: Duration,
    },
    Kill,
    WaitUntil(Moment),
    RemoveFiles {
        removal: Removal,
    },
    Forget,
}

/// What of a VM's spec decides its plans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    pub restart: RestartPolicy,
    /// It has an operating system of its own: see [`MachineView::full`].
    pub full: bool,
    /// Which cloud-init sets up.
    pub cloud_init: bool,
    /// It goes on from a saved machine until it has once been up.
    pub saved: bool,
}

/// Pure, and stable: the plan of a state that a plan's steps lead to is the
/// rest of that plan.
pub fn plan(desired: &Desired, observed: &Observed, rules: Rules, now: Moment) -> VmPlan {
    let mut steps = Vec::new();
    // Before the disks are another's than what was saved.
    let observed = &match is_stale(desired, observed) {
        true => {
            steps.push(VmStep::Discard);
            observed.clone().after(&VmStep::Discard)
        }
        false => observed.clone(),
    };
    steps.extend(match desired.power {
        _ if observed.forgotten => return VmPlan::default(),
        Power::Running => go_up(desired, observed, rules, now),
        Power::Stopped if saves(desired) => fall_asleep(desired, observed),
        Power::Stopped => end_machine(desired, observed),
        Power::Deleted => {
            let mut steps = end_machine(desired, observed);
            if !observed.removed {
                steps.push(VmStep::RemoveFiles { removal: desired.removal });
            }
            steps.push(VmStep::Forget);
            steps
        }
    });
    VmPlan { steps }
}

fn saves(desired: &Desired) -> bool {
    desired.rest.is_some_and(|rest| rest.action == IdleAction::Snapshot)
}

/// Whether nothing may go on from what was saved: it is another run's, its
/// machine is there, or somebody wants it to be down.
fn is_stale(desired: &Desired, observed: &Observed) -> bool {
    let of_this_run = observed.asleep == Some(desired.run);
    let wanted = match desired.power {
        Power::Running => of_this_run && observed.machine.is_none(),
        Power::Stopped => of_this_run && saves(desired),
        // It goes with all others of its files.
        Power::Deleted => observed.machine.is_none(),
    };
    observed.asleep.is_some() && !wanted
}

/// Of one that is up its memory is kept. One that is not, or whose machine has
/// ended meanwhile, has none that is worth it. Where nobody answers in a full VM
/// that is found out by trying, and it runs on.
fn fall_asleep(desired: &Desired, observed: &Observed) -> Vec<VmStep> {
    let Some(machine) = observed.machine else { return Vec::new() };
    let is_up = matches!(machine.guest, Guest::Up | Guest::Adopted | Guest::Absent);
    if machine.run != desired.run || !is_up {
        return end_machine(desired, observed);
    }
    let suspend = observed.asleep.is_none().then_some(VmStep::Suspend);
    suspend.into_iter().chain([VmStep::Kill]).collect()
}

fn go_up(desired: &Desired, observed: &Observed, rules: Rules, now: Moment) -> Vec<VmStep> {
    let arrived = observed.machine.is_some_and(|machine| {
        let guest =
            matches!(machine.guest, Guest::Up | Guest::Adopted | Guest::Lost | Guest::Absent);
        guest && machine.run >= desired.run
    });
    match (arrived, desired.stands_still()) {
        (true, true) if observed.is_paused() => Vec::new(),
        (true, true) => vec![VmStep::Pause],
        (true, false) if observed.is_paused() => {
            let goes_on = observed.clone().after(&VmStep::Resume);
            let mut steps = vec![VmStep::Resume];
            steps.extend(way_up(desired, &goes_on, rules, now));
            steps
        }
        (false, true) => {
            let mut steps = way_up(desired, observed, rules, now);
            if steps.contains(&VmStep::StartWorkload) {
                steps.push(VmStep::Pause);
            }
            steps
        }
        // An agent died as it was about to let it go on.
        (false, false) if observed.is_paused() => {
            let goes_on = observed.clone().after(&VmStep::Resume);
            let mut steps = vec![VmStep::Resume];
            steps.extend(way_up(desired, &goes_on, rules, now));
            steps
        }
        (_, false) => way_up(desired, observed, rules, now),
    }
}

fn way_up(desired: &Desired, observed: &Observed, rules: Rules, now: Moment) -> Vec<VmStep> {
    let down = observed.down.filter(|down| down.generation == desired.generation);
    match (observed.machine, down) {
        (Some(machine), _) if machine.run < desired.run => {
            let mut steps = end_machine(desired, observed);
            steps.extend(from_launch(desired, observed, rules));
            steps
        }
        (Some(machine @ MachineView { guest: Guest::Up, .. }), _) => {
            from_guest(machine.guest, machine.waits_for_cloud_init(rules))
        }
        (
            Some(
                machine @ MachineView {
                    guest: Guest::Adopted | Guest::Lost | Guest::Absent, ..
                },
            ),
            _,
        ) => {
            let mut steps = vec![VmStep::Reconnect];
            steps.extend(from_guest(Guest::Up, machine.waits_for_cloud_init(rules)));
            steps
        }
        // It failed on its way up since it was last asked for.
        (Some(_), Some(_)) => {
            let mut steps = vec![VmStep::Kill];
            steps.extend(again(desired, observed, rules, now));
            steps
        }
        (Some(machine), None) => from_guest(machine.guest, machine.waits_for_cloud_init(rules)),
        (None, Some(_)) => again(desired, observed, rules, now),
        (None, None) => from_launch(desired, observed, rules),
    }
}

fn again(desired: &Desired, observed: &Observed, rules: Rules, now: Moment) -> Vec<VmStep> {
    let Some(down) = observed.down else { return from_launch(desired, observed, rules) };
    if !starts_again(rules.restart, down.reason, observed.was_up(desired)) {
        return Vec::new();
    }
    let mut steps = Vec::new();
    if now < observed.backoff.not_before() {
        steps.push(VmStep::WaitUntil(observed.backoff.not_before()));
    }
    steps.extend(from_launch(desired, observed, rules));
    steps
}

/// Whether its next machine goes on from a saved one.
pub fn begins_from_saved(observed: &Observed, rules: Rules) -> bool {
    rules.saved && observed.up_run.is_none()
}

/// Whether it has a machine, or gets one without being asked again.
pub fn will_run(desired: &Desired, observed: &Observed, rules: Rules) -> bool {
    if observed.machine.is_some() || observed.forgotten || desired.power != Power::Running {
        return observed.machine.is_some();
    }
    match observed.down {
        Some(down) if down.generation == desired.generation => {
            starts_again(rules.restart, down.reason, observed.was_up(desired))
        }
        _ => true,
    }
}

fn from_launch(desired: &Desired, observed: &Observed, rules: Rules) -> Vec<VmStep> {
    let mut steps = Vec::new();
    if !observed.disks {
        steps.push(VmStep::MakeDisks);
    }
    let saved = begins_from_saved(observed, rules);
    steps.push(VmStep::Launch { run: desired.run, full: rules.full, saved });
    let goes_on = saved || observed.asleep == Some(desired.run);
    steps.extend(from_guest(Guest::Booting, rules.full && rules.cloud_init && !goes_on));
    steps
}

fn from_guest(guest: Guest, cloud_init: bool) -> Vec<VmStep> {
    let cloud_init = cloud_init.then_some(VmStep::CloudInit);
    let before: &[VmStep] = match guest {
        Guest::Booting => &[VmStep::Handshake, VmStep::Configure],
        Guest::Answered => &[VmStep::Configure],
        Guest::Configured => &[],
        Guest::Up | Guest::Adopted | Guest::Lost | Guest::Absent => {
            return cloud_init.into_iter().collect();
        }
    };
    before.iter().cloned().chain(cloud_init).chain([VmStep::StartWorkload]).collect()
}

/// A guest that cannot be asked is not asked. One that was found after a
/// restart of the agent most likely can, once its session is back: to get it
/// is the shutdown's first act, within its grace. A full VM can always: it has
/// a power button.
fn end_machine(desired: &Desired, observed: &Observed) -> Vec<VmStep> {
    let Some(machine) = observed.machine else { return Vec::new() };
    let hears = match machine.guest {
        Guest::Answered | Guest::Configured | Guest::Up | Guest::Adopted => true,
        Guest::Booting | Guest::Lost | Guest::Absent => false,
    };
    match desired.stop {
        // Who stands still hears nothing.
        StopKind::Graceful { grace } if hears || machine.full => match machine.motion {
            Motion::Paused => vec![VmStep::Resume, VmStep::Shutdown { grace }],
            Motion::Runs | Motion::Behind => vec![VmStep::Shutdown { grace }],
        },
        _ => vec![VmStep::Kill],
    }
}

impl VmPlan {
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    pub fn next(&self) -> Option<&VmStep> {
        self.steps.first()
    }
}

impl VmStep {
    /// Whether it brings the VM up, so that its failure is the start's.
    pub fn is_up(&self) -> bool {
        matches!(
            self,
            Self::MakeDisks
                | Self::Launch { .. }
                | Self::Handshake
                | Self::Configure
                | Self::CloudInit
                | Self::StartWorkload
        )
    }

    /// Whether it belongs to a machine's start, of which only so many go on at
    /// the same time.
    pub fn needs_start_turn(&self) -> bool {
        self.is_up() && !matches!(self, Self::MakeDisks | Self::CloudInit)
    }

    /// Its name in the API: `prepare-disk`, `launch`, ….
    pub fn name(&self) -> &'static str {
        match self {
            Self::MakeDisks => "prepare-disk",
            Self::Launch { .. } => "launch",
            Self::Handshake => "handshake",
            Self::Configure => "configure",
            Self::CloudInit => "cloud-init",
            Self::StartWorkload => "start-workload",
            Self::Reconnect => "reconnect",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Suspend => "suspend",
            Self::Discard => "discard-memory",
            Self::Shutdown { .. } => "shutdown",
            Self::Kill => "kill",
            Self::WaitUntil(_) => "wait",
            Self::RemoveFiles { .. } => "remove-files",
            Self::Forget => "forget",
        }
    }
}

impl fmt::Display for VmStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Launch { run, .. } => write!(f, "launch for {run}"),
            Self::Shutdown { grace } => write!(f, "shutdown within {}", format_duration(*grace)),
            _ => f.write_str(self.name()),
        }
    }
}

impl fmt::Display for VmPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, step) in self.steps.iter().enumerate() {
            write!(f, "{}{step}", if i == 0 { "" } else { ", " })?;
        }
        if self.steps.is_empty() { f.write_str("nothing") } else { Ok(()) }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "graph_tests.rs"]
mod graph;
