//! How a boot went: its phases, one after the other, against their budgets.
//!
//! ```text
//!   prepare-disk ▶ launch ▶ handshake ▶ configure ▶ cloud-init ▶ start-workload
//!
//!   of each:  open ──▶ done | failed | given up (something else was desired)
//!               └────▶ unanswered (of a full VM's handshake: it runs on)
//! ```
//!
//! The VM's task opens and closes phases as it does its steps. What stays open
//! when the agent dies is closed by the agent's next life, with the time
//! between counted in: that is how long the VM took.

use std::borrow::Cow;
use std::time::Duration;

use inn_units::Generation;

use crate::VmStep;

/// The most parts that one phase is told to have: a runtime has four or five.
const MAX_PARTS: usize = 12;

/// One way up, from its first step. Bounded: each phase is in it once at most.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BootTimeline {
    /// The run that it was a way up of.
    pub run: Generation,
    /// In their order.
    pub phases: Vec<PhaseTime>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BootPhase {
    PrepareDisk,
    Launch,
    /// From the kernel's start to the guest agent's first answer.
    Handshake,
    Configure,
    /// Of a full VM that it sets up.
    CloudInit,
    StartWorkload,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhaseTime {
    pub phase: BootPhase,
    /// From the timeline's beginning.
    pub start: Duration,
    /// `None`: it is at it.
    pub took: Option<Duration>,
    pub result: PhaseResult,
    /// What it consisted of, as far as that is known. They follow each other.
    pub parts: Vec<PhasePart>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhasePart {
    pub name: Cow<'static, str>,
    pub took: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PhaseResult {
    Open,
    Done,
    Failed,
    /// Something else was desired before it was done.
    GivenUp,
    /// Nobody answered in time, and the VM runs on without.
    Unanswered,
}

/// What of a VM decides how long its boot may take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pace {
    /// It runs on no CPU of its own.
    pub emulated: bool,
    /// It boots an operating system from a disk of its own.
    pub full: bool,
}

impl BootPhase {
    pub const ALL: [Self; 6] = [
        Self::PrepareDisk,
        Self::Launch,
        Self::Handshake,
        Self::Configure,
        Self::CloudInit,
        Self::StartWorkload,
    ];

    /// The phase that a step is, where it is one of a boot.
    pub fn of(step: &VmStep) -> Option<Self> {
        match step {
            VmStep::MakeDisks => Some(Self::PrepareDisk),
            VmStep::Launch { .. } => Some(Self::Launch),
            VmStep::Handshake => Some(Self::Handshake),
            VmStep::Configure => Some(Self::Configure),
            VmStep::CloudInit => Some(Self::CloudInit),
            VmStep::StartWorkload => Some(Self::StartWorkload),
            VmStep::Reconnect
            | VmStep::Pause
            | VmStep::Suspend
            | VmStep::Discard
            | VmStep::Resume
            | VmStep::Shutdown { .. }
            | VmStep::Kill
            | VmStep::WaitUntil(_)
            | VmStep::RemoveFiles { .. }
            | VmStep::Forget => None,
        }
    }

    /// As the step's.
    pub fn name(self) -> &'static str {
        match self {
            Self::PrepareDisk => "prepare-disk",
            Self::Launch => "launch",
            Self::Handshake => "handshake",
            Self::Configure => "configure",
            Self::CloudInit => "cloud-init",
            Self::StartWorkload => "start-workload",
        }
    }

    /// How long it should take on a host that is not overloaded: several times
    /// what was measured on two slow CPUs (docs/benchmarks.md, "What a boot
    /// consists of"). Longer is no failure, only worth a look.
    pub fn budget(self, pace: Pace) -> Duration {
        let (seconds, millis) = match (self, pace) {
            // An empty file system takes some 10 ms; a full VM's disk is
            // copied, some GiB at 100 MiB/s.
            (Self::PrepareDisk, Pace { full: false, .. }) => (0, 500),
            (Self::PrepareDisk, Pace { full: true, .. }) => (60, 0),
            // QEMU's sockets are there after 16 ms, an emulated machine's
            // first instruction after 130.
            (Self::Launch, _) => (0, 500),
            // A microVM's agent answers 1.1 s after an emulated start, some
            // 0.2 s after one under KVM; Debian's with systemd in 20 s and 5.
            (Self::Handshake, Pace { full: false, emulated: true }) => (4, 0),
            (Self::Handshake, Pace { full: false, emulated: false }) => (1, 0),
            (Self::Handshake, Pace { full: true, emulated: true }) => (60, 0),
            (Self::Handshake, Pace { full: true, emulated: false }) => (20, 0),
            // A question and an answer each, of some ms.
            (Self::Configure | Self::StartWorkload, _) => (0, 500),
            // Without packages: on an emulated CPU some 30 s after the agent.
            (Self::CloudInit, Pace { emulated: true, .. }) => (120, 0),
            (Self::CloudInit, Pace { emulated: false, .. }) => (60, 0),
        };
        Duration::new(seconds, millis * 1_000_000)
    }
}

impl BootTimeline {
    /// Whether `phase` of `run` goes on with this way up, or begins another.
    pub fn goes_on_with(&self, phase: BootPhase, run: Generation) -> bool {
        match phase {
            BootPhase::PrepareDisk => false,
            // Right after its disks were made.
            BootPhase::Launch => {
                self.run == run
                    && matches!(
                        self.phases.as_slice(),
                        [PhaseTime {
                            phase: BootPhase::PrepareDisk,
                            result: PhaseResult::Done,
                            ..
                        }]
                    )
            }
            BootPhase::Handshake
            | BootPhase::Configure
            | BootPhase::CloudInit
            | BootPhase::StartWorkload => true,
        }
    }

    /// `phase` begins, `at` after the timeline's beginning. One that is there
    /// already, of an agent's life that has ended, goes on.
    pub fn open(&mut self, phase: BootPhase, at: Duration) {
        let known = self.phases.iter().find(|p| p.phase == phase).map(|p| p.start);
        self.phases.retain(|p| p.phase < phase);
        let start = known.unwrap_or(at);
        let result = PhaseResult::Open;
        self.phases.push(PhaseTime { phase, start, took: None, result, parts: Vec::new() });
    }

    /// The phase that is open ends so.
    pub fn close(&mut self, result: PhaseResult, at: Duration) {
        if let Some(open) = self.phases.last_mut().filter(|p| p.result == PhaseResult::Open) {
            open.result = result;
            open.took = Some(at.saturating_sub(open.start));
        }
    }

    /// What the open phase consisted of.
    pub fn consists_of(&mut self, parts: impl IntoIterator<Item = PhasePart>) {
        if let Some(open) = self.phases.last_mut() {
            open.parts = parts.into_iter().take(MAX_PARTS).collect();
        }
    }

    /// Whether it came to nothing.
    pub fn has_failed(&self) -> bool {
        self.phases.last().is_some_and(|phase| phase.result == PhaseResult::Failed)
    }

    /// From its beginning to the end of its last phase, or to `now`.
    pub fn took(&self, now: Duration) -> Duration {
        self.phases.last().map_or(Duration::ZERO, |last| last.start + last.so_far(now))
    }

    /// The phases that took longer than they should, or do.
    pub fn over_budget(&self, pace: Pace, now: Duration) -> impl Iterator<Item = &PhaseTime> {
        self.phases.iter().filter(move |phase| phase.is_over(pace, now))
    }
}

impl PhaseTime {
    /// How long it took, or has taken at `now`.
    pub fn so_far(&self, now: Duration) -> Duration {
        self.took.unwrap_or_else(|| now.saturating_sub(self.start))
    }

    pub fn is_over(&self, pace: Pace, now: Duration) -> bool {
        self.so_far(now) > self.phase.budget(pace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use BootPhase::{Configure, Handshake, Launch, PrepareDisk, StartWorkload};

    const RUN: Generation = Generation(3);

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn after(phases: &[(BootPhase, PhaseResult)]) -> BootTimeline {
        let mut timeline = BootTimeline { run: RUN, phases: Vec::new() };
        for (n, (phase, result)) in (0..).zip(phases) {
            timeline.open(*phase, ms(n * 100));
            timeline.close(*result, ms(n * 100 + 90));
        }
        timeline
    }

    #[test]
    fn a_way_up_begins_with_its_disk_or_its_launch() {
        use PhaseResult::{Done, Failed, GivenUp};
        let made = after(&[(PrepareDisk, Done)]);
        assert!(made.goes_on_with(Launch, RUN));
        assert!(!made.goes_on_with(Launch, Generation(4)), "another run's");
        for other in [
            after(&[(PrepareDisk, Done), (Launch, Failed)]),
            after(&[(Launch, Done), (Handshake, GivenUp)]),
            after(&[(PrepareDisk, Failed)]),
            BootTimeline::default(),
        ] {
            assert!(!other.goes_on_with(Launch, RUN), "{other:?}");
            assert!(!other.goes_on_with(PrepareDisk, RUN), "{other:?}");
            assert!(other.goes_on_with(Configure, RUN), "{other:?}");
        }
    }

    #[test]
    fn what_an_agent_s_death_left_open_goes_on() {
        let mut timeline = after(&[(Launch, PhaseResult::Done)]);
        timeline.open(Handshake, ms(100));
        timeline.open(Handshake, ms(5_000));
        assert_eq!(timeline.took(ms(6_000)), ms(6_000));
        timeline.close(PhaseResult::Done, ms(6_000));
        timeline.open(Configure, ms(6_000));
        // The next life asks the guest all over again.
        timeline.open(Handshake, ms(9_000));
        timeline.close(PhaseResult::Done, ms(9_100));
        let names: Vec<_> = timeline.phases.iter().map(|p| p.phase.name()).collect();
        assert_eq!(names, ["launch", "handshake"]);
        assert_eq!(timeline.phases[1].start, ms(100));
        assert_eq!(timeline.phases[1].took, Some(ms(9_000)));
        // Nothing is open: nothing is closed.
        let before = timeline.clone();
        timeline.close(PhaseResult::Failed, ms(10_000));
        assert_eq!(timeline, before);
    }

    #[test]
    fn it_is_bounded() {
        let mut timeline = BootTimeline::default();
        for n in 0..100 {
            for phase in BootPhase::ALL {
                timeline.open(phase, ms(n));
                let part = || PhasePart { name: "part".into(), took: ms(1) };
                timeline.consists_of(std::iter::repeat_with(part).take(1_000));
            }
        }
        assert_eq!(timeline.phases.len(), BootPhase::ALL.len());
        assert!(timeline.phases.iter().all(|phase| phase.parts.len() == MAX_PARTS));
    }

    #[test]
    fn what_took_too_long_is_told_also_while_it_does() {
        let pace = Pace { emulated: true, full: false };
        let mut timeline = after(&[(Launch, PhaseResult::Done)]);
        timeline.open(Handshake, ms(100));
        let over = |now| timeline.over_budget(pace, now).map(|p| p.phase).collect::<Vec<_>>();
        assert_eq!(over(ms(4_100)), []);
        assert_eq!(over(ms(4_101)), [Handshake]);
        for phase in BootPhase::ALL {
            let slow = phase.budget(Pace { emulated: true, full: true });
            assert!(slow >= phase.budget(Pace::default()), "{phase:?}");
        }
    }

    #[test]
    fn phases_are_named_as_their_steps() {
        let launch = VmStep::Launch { run: RUN, full: false, saved: false };
        for (step, phase) in [
            (VmStep::MakeDisks, PrepareDisk),
            (launch, Launch),
            (VmStep::Handshake, Handshake),
            (VmStep::Configure, Configure),
            (VmStep::CloudInit, BootPhase::CloudInit),
            (VmStep::StartWorkload, StartWorkload),
        ] {
            assert_eq!(BootPhase::of(&step), Some(phase));
            assert_eq!(step.name(), phase.name());
            assert!(step.is_up());
        }
        assert_eq!(BootPhase::of(&VmStep::Kill), None);
    }
}
