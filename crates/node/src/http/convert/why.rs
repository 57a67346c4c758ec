use std::time::Duration;

use inn_api as api;
use inn_domain::{Pace, PhaseResult, PhaseTime};
use inn_store::BootRecord;
use jiff::Timestamp;

use super::network::port_map;
use super::snapshot::receipt;
use super::{desired_power, guest_state, last_end, phase, workload};
use crate::network::Standing;
use crate::node::Node;
use crate::vm::{NextAction, StepState, Verdict, VmHandle, Why, WhyFacts};

same_variants!(
    _verdict_in,
    verdict,
    Verdict,
    Verdict { Fine, Underway, Waiting, Stopped, Impaired, Failed }
);
same_variants!(
    _result_in,
    result,
    PhaseResult,
    PhaseResult { Open, Done, Failed, GivenUp, Unanswered }
);

pub(in super::super) fn why(
    handle: &VmHandle,
    facts: &WhyFacts<'_>,
    why: Why,
    console: Vec<String>,
) -> api::VmWhy {
    let view = facts.view;
    let pace = facts.pace();
    let drawn = |record: &BootRecord| boot(record, pace, facts.now);
    api::VmWhy {
        id: handle.id(),
        name: handle.spec().name.clone(),
        verdict: verdict(why.verdict),
        summary: why.summary,
        desired: desired_power(view.desired.power),
        phase: phase(view.phase),
        generation: view.desired.generation,
        observed_generation: view.observed_generation,
        step: why.step.map(|step| {
            let StepState { name, since, deadline, failed } = step;
            api::WhyStep { name, failed, since, deadline }
        }),
        causes: why.causes,
        plan: why.plan.steps.iter().map(ToString::to_string).collect(),
        failures: why.failures,
        next_try: why.next_try,
        guest: guest_state(view),
        runtimes: Vec::new(),
        network: None,
        receipt: view.receipt.as_deref().and_then(receipt),
        workload: view.workload.as_deref().map(workload),
        last_end: view.last_end.as_deref().map(last_end),
        boot: view.boots.last.as_ref().map(drawn),
        failed_boot: view.boots.failed.as_ref().map(drawn),
        console,
        next: why.next.map(|next| {
            let NextAction { what, command } = next;
            api::NextAction { what, command }
        }),
    }
}

pub(in super::super) fn network(node: &Node, standing: Standing) -> api::NetworkStanding {
    let Standing { attached, addresses, ports, error, blocked } = standing;
    api::NetworkStanding {
        attached,
        addresses,
        ports: ports.iter().map(|(map, _)| port_map(node, map)).collect(),
        error,
        blocked,
    }
}

fn boot(record: &BootRecord, pace: Pace, now: Timestamp) -> api::Boot {
    let now = Duration::try_from(now.duration_since(record.at)).unwrap_or_default();
    let pace = Pace { emulated: record.emulated, ..pace };
    let phases = record.timeline.phases.iter().map(|time| boot_phase(time, pace, now)).collect();
    api::Boot { at: record.at, took_ms: millis(record.timeline.took(now)), phases }
}

fn boot_phase(time: &PhaseTime, pace: Pace, now: Duration) -> api::BootPhase {
    api::BootPhase {
        name: time.phase.name().to_owned(),
        result: result(time.result),
        start_ms: millis(time.start),
        took_ms: millis(time.so_far(now)),
        budget_ms: millis(time.phase.budget(pace)),
        over_budget: time.is_over(pace, now),
        parts: time
            .parts
            .iter()
            .map(|part| api::BootPart { name: part.name.to_string(), took_ms: millis(part.took) })
            .collect(),
    }
}

/// To the microsecond, as it is stored: what a runtime does takes fractions of
/// a millisecond.
fn millis(d: Duration) -> f64 {
    (d.as_secs_f64() * 1_000_000.0).round() / 1_000.0
}
