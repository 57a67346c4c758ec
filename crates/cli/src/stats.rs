//! `inn vm stats`: what one guest tells of itself, now and over a time.

use std::fmt::Write;

use inn_client::StatsQuery;
use inn_client::api::{GuestSample, Interface, MountUse, Pressure, Stats};
use jiff::Timestamp;

use crate::args::StatsArgs;
use crate::context::Context;
use crate::failure::{Failure, harmless};
use crate::table::Table;
use crate::top::{between, rate, root_disk};
use crate::view::{age, bytes, percent, share, uptime};

pub(crate) async fn stats(context: &Context, args: &StatsArgs) -> Result<u8, Failure> {
    let vm = args.vm.name();
    let client = context.client().await?;
    let query = StatsQuery { last: args.last, fresh: args.fresh };
    let stats = client.stats(vm, query).await?;
    if stats.now.is_none() && stats.samples.is_empty() {
        return Err(Failure::new(format!(
            "the guest of {vm} has told nothing yet; `inn vm show {vm}` says how its agent is"
        )));
    }
    context.result(&stats, || text(&stats, args.last.is_some(), Timestamp::now()))?;
    Ok(0)
}

fn text(stats: &Stats, with_table: bool, now: Timestamp) -> String {
    let mut text = String::new();
    if let Some(sample) = &stats.now {
        text.push_str(&block(sample, now));
    }
    if with_table {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&table(&stats.samples));
    }
    text
}

/// One reading in full.
fn block(sample: &GuestSample, now: Timestamp) -> String {
    let [one, five, fifteen] = sample.load;
    let swap = match sample.swap_total_bytes {
        0 => "none".to_owned(),
        total => of(sample.swap_used_bytes, total),
    };
    let mut lines: Vec<(&str, String)> = vec![
        ("read", format!("{} ago", age(sample.at, now))),
        ("uptime", uptime(sample.uptime_seconds)),
        ("cpu", format!("{:.1} % of {}", sample.cpu_percent, sample.cpus)),
        ("load", format!("{one:.2} {five:.2} {fifteen:.2}")),
        ("processes", sample.processes.to_string()),
        ("memory", of(sample.memory_used_bytes, sample.memory_total_bytes)),
        ("available", bytes(sample.memory_available_bytes)),
        ("swap", swap),
    ];
    if let Some(pressure) = &sample.pressure {
        lines.push(("cpu pressure", waiting(&pressure.cpu)));
        lines.push(("memory pressure", waiting(&pressure.memory)));
        lines.push(("io pressure", waiting(&pressure.io)));
    }
    if sample.frozen {
        lines.push(("file systems", "frozen; `inn vm guest thaw` ends it".to_owned()));
    }
    let mut text = String::new();
    for (key, value) in lines {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{key:<15} {value}");
    }
    if !sample.mounts.is_empty() {
        text.push('\n');
        text.push_str(&mounts(&sample.mounts));
    }
    if !sample.interfaces.is_empty() {
        text.push('\n');
        text.push_str(&interfaces(&sample.interfaces));
    }
    text
}

fn of(used: u64, total: u64) -> String {
    format!("{} of {} ({})", bytes(used), bytes(total), percent(used, total))
}

/// How much of the time some tasks, and all of them, had to wait.
fn waiting(pressure: &Pressure) -> String {
    let Pressure { some10, some60, full10, full60 } = pressure;
    format!("some {some10:.1} % {some60:.1} %, all {full10:.1} % {full60:.1} % (10 s, 60 s)")
}

fn mounts(mounts: &[MountUse]) -> String {
    let mut table =
        Table::new(["MOUNT", "SOURCE", "TYPE", "SIZE", "USED", "FREE", "USE", "INODES"])
            .right(3..8);
    for mount in mounts {
        let inodes = mount.inodes_total.saturating_sub(mount.inodes_free);
        table.push([
            harmless(&mount.target),
            harmless(&mount.source),
            harmless(&mount.kind),
            bytes(mount.total_bytes),
            bytes(mount.used_bytes),
            bytes(mount.available_bytes),
            percent(mount.used_bytes, mount.total_bytes),
            percent(inodes, mount.inodes_total),
        ]);
    }
    table.render()
}

fn interfaces(interfaces: &[Interface]) -> String {
    let mut table =
        Table::new(["INTERFACE", "STATE", "MAC", "RX", "TX", "ERRORS", "DROPPED", "ADDRESSES"])
            .right(3..7);
    for interface in interfaces {
        let addresses: Vec<_> = interface.addresses.iter().map(|a| harmless(a)).collect();
        table.push([
            harmless(&interface.name),
            if interface.up { "up" } else { "down" }.to_owned(),
            harmless(&interface.mac),
            bytes(interface.rx_bytes),
            bytes(interface.tx_bytes),
            interface.rx_errors.saturating_add(interface.tx_errors).to_string(),
            interface.rx_dropped.saturating_add(interface.tx_dropped).to_string(),
            addresses.join(" "),
        ]);
    }
    table.render()
}

/// The readings of a time, oldest first, the rates each since the one before.
fn table(samples: &[GuestSample]) -> String {
    let mut table =
        Table::new(["TIME", "CPU%", "MEM", "MEM%", "DISK%", "RX/S", "TX/S", "LOAD", "PROCS"])
            .right(1..9);
    let mut before: Option<&GuestSample> = None;
    for sample in samples {
        let whole = |share: Option<f64>| {
            share.map_or_else(|| "-".to_owned(), |share| format!("{share:.0}"))
        };
        let rates = before.and_then(|before| between(before, sample));
        let (used, total) = (sample.memory_used_bytes, sample.memory_total_bytes);
        table.push([
            sample.at.strftime("%H:%M:%SZ").to_string(),
            format!("{:.1}", sample.cpu_percent),
            bytes(used),
            whole(share(used, total)),
            whole(root_disk(sample)),
            rate(rates.map(|rates| rates.rx)),
            rate(rates.map(|rates| rates.tx)),
            format!("{:.2}", sample.load[0]),
            sample.processes.to_string(),
        ]);
        before = Some(sample);
    }
    table.render()
}

#[cfg(test)]
#[path = "stats_tests.rs"]
mod tests;
