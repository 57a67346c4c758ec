use std::fmt;

use inn_units::Generation;

use crate::plan::{Rules, VmStep};
use crate::restart::Backoff;
use crate::{Desired, Power};

/// What there is of a VM on the host, as far as plans need to know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// Whether its disks are there, whole, for a machine that boots: not while
    /// one goes on from a saved one with them.
    pub disks: bool,
    pub machine: Option<MachineView>,
    /// The run whose machine was saved, for it to go on from there on the VM's
    /// own disks.
    pub asleep: Option<Generation>,
    /// How it last went down by itself, unless it is up again.
    pub down: Option<Down>,
    /// The run that it was last up in: one that never was is not tried again.
    pub up_run: Option<Generation>,
    pub backoff: Backoff,
    /// Whether its files are gone for good.
    pub removed: bool,
    /// Whether the record of it is gone, and with it the VM.
    pub forgotten: bool,
}

/// A machine that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MachineView {
    /// The generation that it was launched for.
    pub run: Generation,
    pub guest: Guest,
    /// A full VM's: it is up once it runs, whether its guest agent comes
    /// late or never, and nothing that its guest does not do ends it.
    pub full: bool,
    /// Cloud-init in it has come to an end, good or bad, or was given up.
    pub set_up: bool,
    pub motion: Motion,
    /// It went on from a saved one, the VM's own or another's, and its guest has
    /// not confirmed that yet.
    pub unconfirmed: bool,
}

/// Whether a machine's CPUs run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Motion {
    #[default]
    Runs,
    Paused,
    /// It runs on after a pause of which its guest knows nothing: its clock
    /// is behind until its session is back.
    Behind,
}

impl MachineView {
    pub(crate) fn waits_for_cloud_init(&self, rules: Rules) -> bool {
        self.full && rules.cloud_init && !self.set_up
    }

    /// A full VM, unless it goes on from saved memory: that has to be confirmed.
    pub fn is_up_as_it_runs(&self) -> bool {
        self.full && !self.unconfirmed
    }

    /// Whether its end is the end of a VM that was up, and not of a start.
    pub fn counts_as_up(&self) -> bool {
        self.is_up_as_it_runs() || matches!(self.guest, Guest::Up | Guest::Adopted | Guest::Lost)
    }
}

/// How far the guest of a running machine has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guest {
    /// It boots: no answer yet.
    Booting,
    /// It has answered in this boot.
    Answered,
    /// It knows who it is: name, network, mounts.
    Configured,
    /// Its workload, if it has one, was started: the VM is up.
    Up,
    /// It was up, and another life of the agent has found its machine, or it
    /// was paused: nobody has tried yet, to the end, to get the session back.
    Adopted,
    /// It was up, and the session with it is gone.
    Lost,
    /// Of a full VM: it has not answered within the start's time. It is
    /// looked for on.
    Absent,
}

/// An end that nobody asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Down {
    /// What was desired at the time. A later request starts afresh.
    pub generation: Generation,
    pub reason: DownReason,
}

/// How a machine came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndKind {
    /// The guest was asked and shut down within its time.
    Graceful,
    /// The machine was ended, with or without asking the guest before.
    Forced,
    ByItself,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DownReason {
    /// The guest powered itself off.
    PoweredOff,
    /// The guest asked for a reset.
    Reset,
    /// The guest's kernel panicked, or its VMM died.
    Crashed,
    /// A step on the way up failed.
    StartFailed,
    /// The same of one that went on from what it was saved as: what it has on
    /// its disks is there, and it boots.
    NotWoken,
}

/// Where a VM is in its life, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VmPhase {
    Pending,
    Preparing,
    Starting,
    Running,
    Paused,
    Stopping,
    Stopped,
    Failed,
    Deleting,
}

impl Observed {
    /// Once `step` has succeeded.
    #[must_use]
    pub fn after(mut self, step: &VmStep) -> Self {
        match step {
            VmStep::MakeDisks => self.disks = true,
            VmStep::Launch { run, full, saved } => {
                let guest = Guest::Booting;
                let motion = Motion::Runs;
                let unconfirmed = *saved || self.asleep == Some(*run);
                // None that cloud-init is at work in is saved.
                let set_up = unconfirmed;
                let (run, full) = (*run, *full);
                self.machine = Some(MachineView { run, guest, full, set_up, motion, unconfirmed });
                self.asleep = None;
                self.down = None;
                if *saved {
                    self.disks = false;
                } else if full {
                    self.up_run = Some(run);
                }
            }
            VmStep::Handshake => self.set_guest(Guest::Answered),
            VmStep::Configure => self.set_guest(Guest::Configured),
            VmStep::CloudInit => self.was_set_up(),
            VmStep::StartWorkload => {
                self.set_guest(Guest::Up);
                if let Some(machine) = &mut self.machine {
                    machine.unconfirmed = false;
                }
                self.disks = true;
                self.up_run = self.machine.map(|machine| machine.run);
            }
            VmStep::Reconnect => {
                self.set_guest(Guest::Up);
                self.set_motion(Motion::Runs);
            }
            VmStep::Pause => {
                if self.is_up() {
                    self.set_guest(Guest::Adopted);
                }
                self.set_motion(Motion::Paused);
            }
            VmStep::Suspend => {
                self.set_guest(Guest::Adopted);
                self.set_motion(Motion::Paused);
                self.asleep = self.machine.map(|machine| machine.run);
            }
            VmStep::Discard => self.asleep = None,
            VmStep::Resume => self.set_motion(Motion::Behind),
            VmStep::Shutdown { .. } | VmStep::Kill => self.machine = None,
            VmStep::WaitUntil(_) => {}
            VmStep::RemoveFiles { .. } => {
                self.disks = false;
                self.asleep = None;
                self.removed = true;
            }
            VmStep::Forget => self.forgotten = true,
        }
        self
    }

    /// Once `step` has failed. What failed on the way down is tried again, and
    /// a full VM runs on whatever its guest does not do.
    #[must_use]
    pub fn failed(mut self, step: &VmStep, desired: &Desired) -> Self {
        if step.is_up() && self.machine.is_some_and(|machine| machine.is_up_as_it_runs()) {
            self.set_guest(Guest::Lost);
        } else if step.is_up() {
            let reason = self.not_up();
            self.down = Some(Down { generation: desired.generation, reason });
        } else if *step == VmStep::Reconnect
            && self.machine.is_some_and(|machine| machine.guest == Guest::Adopted)
        {
            self.set_guest(Guest::Lost);
        }
        self
    }

    fn not_up(&self) -> DownReason {
        if self.is_woken() { DownReason::NotWoken } else { DownReason::StartFailed }
    }

    /// Once the machine has ended by itself.
    #[must_use]
    pub fn ended(mut self, reason: DownReason, desired: &Desired) -> Self {
        let up = self.machine.is_some_and(|machine| machine.counts_as_up());
        let reason = if up { reason } else { self.not_up() };
        // One that was to give way to another anyway: its end is no answer to
        // the request for that other one.
        let superseded = self.machine.is_some_and(|machine| machine.run < desired.run);
        self.machine = None;
        self.down = (!superseded).then_some(Down { generation: desired.generation, reason });
        self
    }

    /// Whether its machine goes on from a saved one and was not up yet: its guest
    /// has yet to become itself. That survives the agent.
    pub fn goes_on_from_saved(&self) -> bool {
        !self.disks && self.machine.is_some_and(|machine| !machine.counts_as_up())
    }

    /// Whether its machine goes on from what the VM was saved as when idle, and was
    /// not up yet.
    pub fn is_woken(&self) -> bool {
        self.disks && self.machine.is_some_and(|machine| machine.unconfirmed)
    }

    /// Once a machine that went on from a template is gone: the VM boots instead,
    /// as if nothing had been tried.
    pub fn boots_instead(&mut self) {
        self.machine = None;
        self.disks = false;
        self.down = None;
    }

    pub fn is_paused(&self) -> bool {
        matches!(self.machine, Some(MachineView { motion: Motion::Paused, .. }))
    }

    pub fn is_up(&self) -> bool {
        matches!(self.machine, Some(MachineView { guest: Guest::Up, .. }))
    }

    /// Once the handshake of a full VM has found nobody.
    pub fn unanswered(&mut self) {
        self.set_guest(Guest::Absent);
    }

    /// Once nobody waits for cloud-init any more.
    pub fn was_set_up(&mut self) {
        if let Some(machine) = &mut self.machine {
            machine.set_up = true;
        }
    }

    /// Once the guest's session is over.
    pub fn session_lost(&mut self) {
        let up = self.machine.is_some_and(|machine| machine.counts_as_up());
        self.set_guest(if up { Guest::Lost } else { Guest::Booting });
    }

    /// Once another life of the agent has found the machine.
    pub fn adopted(&mut self) {
        match self.machine {
            // What never answered still has not, and has its time again.
            Some(MachineView { guest: Guest::Absent | Guest::Booting, .. }) | None => {}
            Some(machine) if machine.counts_as_up() => self.set_guest(Guest::Adopted),
            Some(_) => self.session_lost(),
        }
    }

    /// Whether it was up since it was last asked to run.
    pub(crate) fn was_up(&self, desired: &Desired) -> bool {
        self.up_run == Some(desired.run)
    }

    pub fn set_motion(&mut self, motion: Motion) {
        if let Some(machine) = &mut self.machine {
            machine.motion = motion;
        }
    }

    pub fn set_guest(&mut self, guest: Guest) {
        if let Some(machine) = &mut self.machine {
            machine.guest = guest;
        }
    }
}

/// The one word for a VM on which `step` is at work, or none.
pub fn phase(desired: &Desired, observed: &Observed, step: Option<&VmStep>) -> VmPhase {
    if desired.power == Power::Deleted {
        return VmPhase::Deleting;
    }
    match step {
        Some(VmStep::MakeDisks) => VmPhase::Preparing,
        Some(VmStep::CloudInit) => VmPhase::Running,
        Some(VmStep::Handshake | VmStep::Configure | VmStep::StartWorkload)
            if observed.machine.is_some_and(|machine| machine.is_up_as_it_runs()) =>
        {
            VmPhase::Running
        }
        Some(
            VmStep::Launch { .. } | VmStep::Handshake | VmStep::Configure | VmStep::StartWorkload,
        ) => VmPhase::Starting,
        Some(VmStep::Resume) if desired.power != Power::Running => VmPhase::Stopping,
        Some(VmStep::Reconnect | VmStep::Pause | VmStep::Resume) => VmPhase::Running,
        Some(VmStep::Discard) => at_rest(desired, observed),
        Some(VmStep::Suspend | VmStep::Shutdown { .. } | VmStep::Kill) => VmPhase::Stopping,
        Some(VmStep::RemoveFiles { .. } | VmStep::Forget) => VmPhase::Deleting,
        None | Some(VmStep::WaitUntil(_)) => at_rest(desired, observed),
    }
}

fn at_rest(desired: &Desired, observed: &Observed) -> VmPhase {
    match (observed.machine, observed.down, desired.power) {
        (Some(MachineView { motion: Motion::Paused, .. }), ..) => VmPhase::Paused,
        (Some(machine), ..) if machine.counts_as_up() => VmPhase::Running,
        (Some(_), ..) => VmPhase::Starting,
        (
            None,
            Some(Down { reason: DownReason::Crashed | DownReason::StartFailed, .. }),
            Power::Running,
        ) => VmPhase::Failed,
        (None, Some(_), _) | (None, None, Power::Stopped | Power::Deleted) => VmPhase::Stopped,
        (None, None, Power::Running) => VmPhase::Pending,
    }
}

impl fmt::Display for VmPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pending => "pending",
            Self::Preparing => "preparing",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::Deleting => "deleting",
        })
    }
}
