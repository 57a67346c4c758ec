//! Why a VM is as it is: one verdict from all that is known, as a value.
//!
//! ```text
//!   being deleted ─▶ underway, or failed while a step of it fails
//!   at a step ─────▶ underway        waits for its next attempt ─▶ waiting
//!   failed ────────▶ failed          stopped, paused ─▶ stopped
//!   running ─┬─▶ fine
//!            └─▶ impaired: its guest's link, its network, or its workload
//! ```
//!
//! Pure: [`why`] reads the published view and the time, and nothing else. What
//! is shown beside it (the timeline, the console, how the last machine ended)
//! needs no verdict and is converted as it is.

use std::time::Duration;

use inn_domain::{
    BootPhase, Guest, IdleAction, Moment, Pace, Pause, PhaseTime, Power, VmPhase, VmPlan, VmSpec,
    VmStep, plan,
};
use inn_store::{CloudInitRecord, CloudInitState, WorkloadRecord};
use inn_units::format_duration;
use jiff::Timestamp;
use tokio::time::Instant;

use super::activity::Activity;
use super::execute::Waits;
use super::idle::woken_by;
use super::link::Link;
use super::publish::VmView;
use crate::hold::Held;

/// All that [`why`] reads.
#[derive(Debug)]
pub(crate) struct WhyFacts<'a> {
    pub(crate) spec: &'a VmSpec,
    pub(crate) view: &'a VmView,
    /// What of its network does not hold, a sentence each.
    pub(crate) network: &'a [String],
    pub(crate) now: Timestamp,
    /// The same point in time, on the clock of plans.
    pub(crate) moment: Moment,
    /// And on the one of links.
    pub(crate) instant: Instant,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Why {
    pub(crate) verdict: Verdict,
    /// One sentence.
    pub(crate) summary: String,
    pub(crate) step: Option<StepState>,
    /// The outermost first.
    pub(crate) causes: Vec<String>,
    /// What is left to do.
    pub(crate) plan: VmPlan,
    /// How often it went down since it was last well.
    pub(crate) failures: u32,
    pub(crate) next_try: Option<Timestamp>,
    pub(crate) next: Option<NextAction>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Fine,
    Underway,
    Waiting,
    Stopped,
    /// It runs, and something about it is not as it should be.
    Impaired,
    Failed,
}

/// The step that the VM is at, waits for or failed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StepState {
    pub(crate) name: String,
    pub(crate) since: Timestamp,
    pub(crate) deadline: Option<Timestamp>,
    pub(crate) failed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NextAction {
    pub(crate) what: String,
    /// To be pasted. What only its reader knows stands in it in capitals.
    pub(crate) command: Option<String>,
}

pub(crate) fn why(facts: &WhyFacts<'_>) -> Why {
    let view = facts.view;
    let judged = if view.desired.power == Power::Deleted {
        facts.being_deleted()
    } else if let Some(waits) = &view.waits {
        held_up(waits)
    } else if view.held.is_some()
        && view.phase == VmPhase::Stopped
        && view.desired.power == Power::Running
    {
        Judged::new(Verdict::Waiting, Held.to_string())
            .next("start the guests of this host again", "inn node start-guests")
    } else {
        match &view.activity {
            Activity::AtWork { step, .. } if *step != VmStep::Reconnect => facts.at_work(step),
            Activity::Waits { step, until } if view.phase != VmPhase::Running => {
                facts.waits(step, *until)
            }
            _ => facts.at_rest(),
        }
    };
    let Judged { verdict, summary, next } = judged;
    let backoff = view.observed.backoff;
    Why {
        verdict,
        summary,
        step: facts.step(verdict),
        causes: facts.causes(verdict),
        plan: plan(&view.wanted(), &view.observed, facts.spec.rules(), facts.moment),
        failures: backoff.failures(),
        next_try: facts.next_try(),
        next,
    }
}

struct Judged {
    verdict: Verdict,
    summary: String,
    next: Option<NextAction>,
}

impl Judged {
    fn new(verdict: Verdict, summary: impl Into<String>) -> Self {
        Self { verdict, summary: summary.into(), next: None }
    }

    fn next(self, what: impl Into<String>, command: impl Into<String>) -> Self {
        Self { next: Some(NextAction { what: what.into(), command: Some(command.into()) }), ..self }
    }
}

/// By the node, and not by anything of the VM's.
fn held_up(waits: &Waits) -> Judged {
    let judged = Judged::new(Verdict::Waiting, waits.sentence());
    match waits {
        Waits::Drained => judged.next("let the node start VMs again", "inn node undrain"),
        Waits::InLine(_) => judged,
    }
}

impl WhyFacts<'_> {
    /// What this VM's boots are measured by.
    pub(crate) fn pace(&self) -> Pace {
        let emulated = self.view.boots.last.as_ref().is_some_and(|boot| boot.emulated);
        Pace { emulated, full: self.spec.is_full() }
    }

    fn being_deleted(&self) -> Judged {
        let name = &self.spec.name;
        let step = match &self.view.activity {
            Activity::AtWork { step, .. } | Activity::Waits { step, .. } => step.name(),
            Activity::Idle => "forget",
        };
        let failed = self.view.failure.as_ref().filter(|f| is_removal(&f.step));
        match failed {
            Some(failure) => {
                let sentence = format!("it cannot be deleted: {}: {}", failure.step, failure.cause);
                self.by_failure(Judged::new(Verdict::Failed, self.tried_again(sentence)))
            }
            None => Judged::new(
                Verdict::Underway,
                match self.view.replaced_by {
                    None => format!("it is being deleted: at {step}{}", self.time_at_step()),
                    Some(id) => format!(
                        "it gives way to a new VM of its name ({id}): at {step}{}",
                        self.time_at_step()
                    ),
                },
            )
            .next(
                "wait, or end its machine without asking the guest",
                format!("inn vm delete {name} --force"),
            ),
        }
    }

    fn at_work(&self, step: &VmStep) -> Judged {
        let name = &self.spec.name;
        let summary =
            format!("it is {}: at {}{}", self.view.phase, step.name(), self.time_at_step());
        let judged = Judged::new(Verdict::Underway, summary);
        match step {
            VmStep::CloudInit => {
                let judged = Judged::new(
                    Verdict::Underway,
                    format!("it is running: {}{}", self.cloud_init_so_far(), self.time_at_step()),
                );
                judged.next(
                    "wait for cloud-init, and watch what it does",
                    format!("inn vm exec {name} -- tail -f /var/log/cloud-init-output.log"),
                )
            }
            VmStep::Handshake => judged.next(
                "wait for its guest, and watch how far it comes",
                format!("inn vm logs {name} --source console --follow"),
            ),
            VmStep::Shutdown { .. } => judged.next(
                "wait for its guest, or end the machine at once",
                format!("inn vm stop {name} --force"),
            ),
            _ => judged.next("wait until it has settled", format!("inn vm why {name}")),
        }
    }

    fn waits(&self, step: &VmStep, until: Moment) -> Judged {
        let name = &self.spec.name;
        let wait = format_duration(until.0.saturating_sub(self.moment.0));
        let why = self.view.failure.as_ref().map(|f| format!(": {}: {}", f.step, f.cause));
        let why = why.or_else(|| {
            let reason = self.view.last_end.as_ref()?.reason.as_ref()?;
            Some(format!(": {reason}"))
        });
        let why = why.unwrap_or_default();
        match step {
            VmStep::WaitUntil(_) => {
                let ends = match self.view.observed.backoff.failures() {
                    0 | 1 => "it went down".to_owned(),
                    n => format!("it went down {n} times in a row"),
                };
                let policy = self.spec.restart;
                let policy = match policy {
                    inn_domain::RestartPolicy::No => "as its guest asked for",
                    inn_domain::RestartPolicy::OnFailure => "by its policy on-failure",
                    inn_domain::RestartPolicy::Always => "by its policy always",
                };
                Judged::new(
                    Verdict::Waiting,
                    format!("{ends} and starts again in {wait}, {policy}{why}"),
                )
                .next("wait, or start it now", format!("inn vm start {name}"))
            }
            step => self.by_failure(Judged::new(
                Verdict::Failed,
                format!("it is tried again in {wait} to {step}{why}"),
            )),
        }
    }

    fn at_rest(&self) -> Judged {
        let (view, name) = (self.view, &self.spec.name);
        match view.phase {
            VmPhase::Running => self.running(),
            VmPhase::Failed => {
                let summary = match &view.failure {
                    Some(failure) => format!("it failed at {}: {}", failure.step, failure.cause),
                    None => "it failed".to_owned(),
                };
                self.by_failure(Judged::new(Verdict::Failed, summary))
            }
            VmPhase::Paused | VmPhase::Stopped if view.desired.rest.is_some() => self.rests(),
            VmPhase::Paused => {
                let by = match &view.desired.paused {
                    Some(pause) => paused_by(pause, self.now),
                    None => "to be saved".to_owned(),
                };
                Judged::new(Verdict::Stopped, format!("it is paused {by}"))
                    .next("let it go on", format!("inn vm resume {name}"))
            }
            VmPhase::Stopped if view.desired.power == Power::Running => {
                let end = view.last_end.as_ref().and_then(|end| end.reason.as_deref());
                let end = end.unwrap_or("its machine has ended");
                Judged::new(
                    Verdict::Stopped,
                    format!("it is stopped: {end}, and its restart policy leaves it so"),
                )
                .next("start it", format!("inn vm start {name}"))
            }
            VmPhase::Stopped => Judged::new(Verdict::Stopped, "it is stopped, as it was asked to")
                .next("start it", format!("inn vm start {name}")),
            phase => Judged::new(Verdict::Underway, format!("it is {phase}"))
                .next("wait until it has settled", format!("inn vm why {name}")),
        }
    }

    /// Nobody used it.
    fn rests(&self) -> Judged {
        let Some(rest) = self.view.desired.rest else {
            return Judged::new(Verdict::Stopped, "it rests");
        };
        let what = match rest.action {
            IdleAction::Pause => "paused",
            IdleAction::Snapshot => "asleep, its memory saved",
            IdleAction::Stop => "stopped",
        };
        let since = since(rest.since, self.now);
        let by = woken_by(rest.action);
        let summary = format!("it is {what}, as nobody used it, {since}; {by} wakes it");
        Judged::new(Verdict::Stopped, summary)
            .next("wake it", format!("inn vm start {}", self.spec.name))
    }

    /// `waiting for cloud-init: modules-config`.
    fn cloud_init_so_far(&self) -> String {
        let stage = self.view.cloud_init.as_ref().and_then(|record| record.stage.as_deref());
        match stage {
            Some(stage) => format!("waiting for cloud-init: {stage}"),
            None => "waiting for cloud-init".to_owned(),
        }
    }

    fn running(&self) -> Judged {
        let (view, name) = (self.view, &self.spec.name);
        match view.cloud_init.as_deref() {
            Some(CloudInitRecord { state: CloudInitState::Failed, errors, .. }) => {
                let why = errors.first().map_or("", String::as_str);
                let summary = format!("it runs, and cloud-init has failed in it: {why}");
                let judged = Judged::new(Verdict::Impaired, summary);
                return match view.link {
                    Link::Ready | Link::Degraded => judged.next(
                        "read all that it says of itself, and make the VM again once that is mended",
                        format!("inn vm exec {name} -- cloud-init status --long"),
                    ),
                    _ => judged.next(
                        "log in on its console, and see how far its boot has come",
                        format!("inn vm console {name}"),
                    ),
                };
            }
            Some(CloudInitRecord { state: CloudInitState::Waiting, .. })
                if view.link != Link::Ready =>
            {
                let so_far = self.cloud_init_so_far();
                return Judged::new(
                    Verdict::Underway,
                    format!("it runs, {so_far}, which installs its guest agent, too"),
                )
                .next(
                    "watch how far its guest comes",
                    format!("inn vm logs {name} --source console --follow"),
                );
            }
            _ => {}
        }
        let reason = view.link_reason.as_ref().map(|r| r.sentence(self.instant).to_string());
        let reason = reason.unwrap_or_default();
        let restart = format!("inn vm restart {name} --force");
        match view.link {
            Link::Lost => Judged::new(
                Verdict::Impaired,
                format!("it runs, and its guest agent is lost: {reason}; it is looked for again"),
            )
            .next("see what its console says; a restart ends the machine", restart),
            Link::Degraded => Judged::new(
                Verdict::Impaired,
                format!("it runs, and its guest agent is degraded: {reason}"),
            )
            .next("see what uses its CPUs and memory", format!("inn vm stats {name}")),
            Link::Absent if view.observed.machine.is_some_and(|m| m.guest == Guest::Absent) => {
                Judged::new(Verdict::Impaired, reason).next(
                    "log in on its console, and install an agent where one is wanted",
                    format!("inn vm console {name}"),
                )
            }
            Link::Connecting | Link::Absent => Judged::new(
                Verdict::Underway,
                format!("it runs, and its guest agent has not answered yet: {reason}"),
            )
            .next(
                "watch how far its guest comes",
                format!("inn vm logs {name} --source console --follow"),
            ),
            Link::Ready if !self.network.is_empty() => Judged::new(
                Verdict::Impaired,
                format!("it runs, and not all of its network holds: {}", self.network[0]),
            )
            .next(
                "make that right, then have the node look again and say what is left",
                "inn port restore",
            ),
            Link::Ready => match view.workload.as_deref().and_then(trouble) {
                Some(trouble) => Judged::new(
                    Verdict::Impaired,
                    format!("it runs, and its workload does not: {trouble}"),
                )
                .next("read what it printed", format!("inn vm logs {name} --tail 20")),
                None => Judged::new(Verdict::Fine, self.fine()),
            },
        }
    }

    fn fine(&self) -> String {
        let since = self.view.started_at.map(|at| self.since(at));
        let mut text = match since {
            Some(since) => format!("it is fine: it has been running for {since}"),
            None => "it is fine: it runs".to_owned(),
        };
        let slow: Vec<&str> = self.slow_phases().map(BootPhase::name).collect();
        if !slow.is_empty() {
            text.push_str(&format!(
                "; its start took longer than it should at {}",
                slow.join(", ")
            ));
        }
        text
    }

    fn slow_phases(&self) -> impl Iterator<Item = BootPhase> {
        let boot = self.view.boots.last.as_ref();
        let pace = self.pace();
        let slow = boot.map(|boot| {
            let now = distance(boot.at, self.now);
            boot.timeline.over_budget(pace, now).map(|p: &PhaseTime| p.phase).collect::<Vec<_>>()
        });
        slow.unwrap_or_default().into_iter()
    }

    /// The way out is the failure's own.
    fn by_failure(&self, judged: Judged) -> Judged {
        let Some(failure) = &self.view.failure else {
            return judged.next("start it again", format!("inn vm start {}", self.spec.name));
        };
        let start = format!("inn vm start {}", self.spec.name);
        judged.next(failure.next.clone(), failure.command.clone().unwrap_or(start))
    }

    fn step(&self, verdict: Verdict) -> Option<StepState> {
        let failed = self.view.failure.as_ref().filter(|_| verdict == Verdict::Failed);
        if let Some(failure) = failed {
            return Some(StepState {
                name: failure.step.clone(),
                since: failure.at,
                deadline: None,
                failed: true,
            });
        }
        match &self.view.activity {
            Activity::AtWork { step, since, deadline } => Some(StepState {
                name: step.name().to_owned(),
                since: *since,
                deadline: *deadline,
                failed: false,
            }),
            Activity::Idle | Activity::Waits { .. } => None,
        }
    }

    fn causes(&self, verdict: Verdict) -> Vec<String> {
        let view = self.view;
        match verdict {
            Verdict::Fine => Vec::new(),
            Verdict::Impaired if self.cloud_init_failed().is_some() => {
                let record = self.cloud_init_failed();
                let lines = record.map(|it| it.errors.iter().chain(&it.output).cloned());
                lines.into_iter().flatten().collect()
            }
            Verdict::Impaired => {
                let link = view.link_reason.as_ref();
                let link = link.map(|reason| reason.sentence(self.instant).to_string());
                let workload = view.workload.as_deref().and_then(trouble);
                let network = self.network.iter().cloned();
                network.chain(link).chain(workload).collect()
            }
            _ => match &view.failure {
                // A record of an older agent has them in one only.
                Some(failure) if failure.causes.is_empty() => vec![failure.cause.clone()],
                Some(failure) => failure.causes.clone(),
                None if view.phase == VmPhase::Running => Vec::new(),
                None => view.last_end.iter().filter_map(|end| end.reason.clone()).collect(),
            },
        }
    }

    fn cloud_init_failed(&self) -> Option<&CloudInitRecord> {
        self.view.cloud_init.as_deref().filter(|it| it.state == CloudInitState::Failed)
    }

    fn next_try(&self) -> Option<Timestamp> {
        let Activity::Waits { until, .. } = self.view.activity else { return None };
        let left = until.0.checked_sub(self.moment.0)?;
        self.now.checked_add(left).ok()
    }

    fn tried_again(&self, sentence: String) -> String {
        match self.next_try() {
            Some(at) => {
                let wait = format_duration(distance(self.now, at));
                format!("{sentence}; it is tried again in {wait}")
            }
            None => sentence,
        }
    }

    /// ` for 12.00 s, of 1 min 0 s at most`, where it is at a step.
    fn time_at_step(&self) -> String {
        let Activity::AtWork { since, deadline, .. } = &self.view.activity else {
            return String::new();
        };
        let of = deadline.map(|deadline| {
            format!(", of {} at most", format_duration(distance(*since, deadline)))
        });
        format!(" for {}{}", self.since(*since), of.unwrap_or_default())
    }

    fn since(&self, at: Timestamp) -> String {
        format_duration(distance(at, self.now))
    }
}

/// `by root (uid 0) since 2026-01-01T00:00:00Z, for 12 s`.
fn paused_by(pause: &Pause, now: Timestamp) -> String {
    format!("by {} {}", pause.by, since(pause.since, now))
}

/// `since 2026-01-01T00:00:00Z, for 12 s`.
fn since(since_epoch: Duration, now: Timestamp) -> String {
    let millis = i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX);
    let since = Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MAX);
    let took = format_duration(distance(since, now));
    format!("since {}, for {took}", since.strftime("%FT%TZ"))
}

/// What is wrong with a workload, if anything is.
fn trouble(workload: &WorkloadRecord) -> Option<String> {
    let code = workload.exit_code.map(|code| format!("it ended with {code}"));
    let reason = workload.reason.clone();
    let said = match (code, reason) {
        (Some(code), Some(reason)) => Some(format!("{code}: {reason}")),
        (said, None) | (None, said) => said,
    };
    match (workload.running, workload.exit_code) {
        // Between two runs of its policy's.
        (true, Some(_)) => said,
        (true, None) | (false, Some(0)) => None,
        (false, _) => said,
    }
}

fn is_removal(step: &str) -> bool {
    let removal = [
        VmStep::Kill.name(),
        VmStep::Shutdown { grace: Duration::ZERO }.name(),
        VmStep::RemoveFiles { removal: inn_domain::Removal::default() }.name(),
        VmStep::Forget.name(),
    ];
    removal.contains(&step)
}

/// Never negative: a clock may have been set back in between.
fn distance(from: Timestamp, to: Timestamp) -> Duration {
    to.duration_since(from).try_into().unwrap_or_default()
}

#[cfg(test)]
#[path = "why_tests.rs"]
mod tests;
