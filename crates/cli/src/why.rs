use std::fmt::Write;
use std::time::Duration;

use inn_client::api::{Desired, NetworkStanding, NextAction, Verdict, VmWhy};
use inn_units::format_duration;
use jiff::Timestamp;

use crate::args::WhyArgs;
use crate::context::Context;
use crate::failure::{Failure, harmless};
use crate::timeline::{self, Look};
use crate::view::{age, end, link, phase_name};

/// `inn vm why`: one answer for each VM. JSON is one object for one VM.
pub(crate) async fn why(context: &Context, args: &WhyArgs) -> Result<u8, Failure> {
    let client = context.client().await?;
    let why = client.why_vm(args.vm.name()).await?;
    context.result(&why, || describe(&why, Timestamp::now(), Look::of_stdout()))?;
    Ok(0)
}

/// Writing to a String cannot fail.
fn put(text: &mut String, lines: Vec<(&str, String)>) {
    for (key, value) in lines {
        let _ = writeln!(text, "{key:<15} {}", harmless(&value));
    }
}

/// How each that came into question was judged.
fn runtimes(why: &VmWhy) -> Vec<(&'static str, String)> {
    let key = |n| if n == 0 { "runtime" } else { "" };
    why.runtimes.iter().enumerate().map(|(n, why)| (key(n), why.clone())).collect()
}

/// Writing to a String cannot fail.
fn describe(why: &VmWhy, now: Timestamp, look: Look) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{}: {}", why.name, harmless(&why.summary));
    if why.verdict == Verdict::Fine {
        let runtimes = runtimes(why);
        if !runtimes.is_empty() {
            text.push('\n');
            put(&mut text, runtimes);
        }
        if let Some(boot) = &why.boot {
            let _ = write!(text, "\n{}", timeline::draw(boot, "last start", now, look));
        }
        text.push_str(&receipt(why));
        return text;
    }
    let mut lines: Vec<(&str, String)> =
        vec![("desired", desired(why)), ("observed", observed(why))];
    if let Some(step) = &why.step {
        let state = match (step.failed, step.deadline) {
            (true, _) => format!("failed {} ago", age(step.since, now)),
            (false, None) => format!("for {}", age(step.since, now)),
            (false, Some(deadline)) => {
                format!("for {}, given up in {}", age(step.since, now), age(now, deadline))
            }
        };
        lines.push(("step", format!("{} ({state})", step.name)));
    }
    for (n, cause) in why.causes.iter().enumerate() {
        lines.push((if n == 0 { "because" } else { "" }, cause.clone()));
    }
    if let Some(at) = why.next_try {
        lines
            .push(("next attempt", format!("in {}, {} so far", age(now, at), times(why.failures))));
    }
    if !why.plan.is_empty() {
        lines.push(("left to do", why.plan.join(", ")));
    }
    let reason = why.guest.reason.as_ref().map(|reason| format!(": {reason}"));
    lines.push(("guest agent", format!("{}{}", link(why.guest.link), reason.unwrap_or_default())));
    lines.extend(runtimes(why));
    if let Some(network) = &why.network {
        lines.push(("network", standing(network)));
    }
    if let Some(last) = &why.last_end {
        lines.push(("last end", format!("{}, {} ago", end(last), age(last.at, now))));
    }
    text.push('\n');
    put(&mut text, lines);
    text.push_str(&receipt(why));
    for (boot, title) in [(&why.boot, "last start"), (&why.failed_boot, "last failed start")] {
        if let Some(boot) = boot {
            let _ = write!(text, "\n{}", timeline::draw(boot, title, now, look));
        }
    }
    if !why.console.is_empty() {
        text.push_str("\nconsole\n");
        for line in &why.console {
            let _ = writeln!(text, "  | {}", harmless(line));
        }
    }
    if let Some(next) = &why.next {
        let _ = write!(text, "\n{}", advice(next));
    }
    text
}

/// What its guest has confirmed, of one that began from a saved machine.
fn receipt(why: &VmWhy) -> String {
    let Some(receipt) = &why.receipt else { return String::new() };
    let took = shown_ms(Duration::from_micros(receipt.took_us).as_secs_f64() * 1_000.0);
    let (origin, at) = (harmless(&receipt.origin), receipt.confirmed_at);
    format!(
        "\nbegun from {origin}, confirmed {} in {took}\n{}",
        at.strftime("%FT%TZ"),
        crate::snapshot::steps(&receipt.steps)
    )
}

/// `attached, 10.213.0.2, 2 ports of which 1 holds, 1 chain of others in the way`.
fn standing(network: &NetworkStanding) -> String {
    let mut parts = Vec::new();
    if network.attached {
        parts.push("attached".to_owned());
    }
    parts.extend(network.addresses.iter().map(ToString::to_string));
    let holds = network.ports.iter().filter(|map| map.error.is_none()).count();
    match network.ports.len() {
        0 => {}
        all if all == holds => parts.push(format!("{} lead to it", counted(all, "port map"))),
        all => parts.push(format!("{} of which {holds} hold", counted(all, "port map"))),
    }
    if !network.blocked.is_empty() {
        parts.push(format!("{} in the way", counted(network.blocked.len(), "chain")));
    }
    match &network.error {
        Some(error) => parts.push(format!("not as declared: {error}")),
        None if parts.is_empty() => parts.push("the VMM's own".to_owned()),
        None => {}
    }
    parts.join(", ")
}

fn counted(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

fn advice(next: &NextAction) -> String {
    let mut text = format!("next            {}\n", harmless(&next.what));
    if let Some(command) = &next.command {
        let _ = writeln!(text, "                {}", harmless(command));
    }
    text
}

fn desired(why: &VmWhy) -> String {
    let power = match why.desired {
        Desired::Running => "running",
        Desired::Stopped => "stopped",
        Desired::Deleted => "deleted",
    };
    format!("{power} (generation {})", why.generation.0)
}

fn observed(why: &VmWhy) -> String {
    let seen = why.observed_generation.0;
    let phase = phase_name(why.phase);
    match why.observed_generation == why.generation {
        true => format!("{phase} (settled)"),
        false => format!("{phase} (settled last at generation {seen})"),
    }
}

fn times(n: u32) -> String {
    match n {
        1 => "1 failure".to_owned(),
        n => format!("{n} failures"),
    }
}

/// For people: to the tenth of a millisecond below 10 ms.
pub(crate) fn shown_ms(ms: f64) -> String {
    match ms {
        ms if ms < 10.0 => format!("{ms:.1} ms"),
        ms => format_duration(Duration::from_secs_f64((ms / 1_000.0).max(0.0))),
    }
}

#[cfg(test)]
#[path = "why_tests.rs"]
mod tests;
