//! A screen of `inn vm top`, as pure functions of what was seen.

use std::cmp::Ordering;
use std::fmt::Write;

use inn_client::api::exec::TerminalSize;
use inn_client::api::{GuestSample, Vm};
use jiff::Timestamp;
use serde::Serialize;

use super::rates::Rate;
use crate::args::SortArg;
use crate::failure::harmless;
use crate::view::{bytes, link, phase_name, share, uptime};

/// One VM as it was last seen; what its guest does not tell is absent.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Row {
    id: String,
    name: String,
    status: &'static str,
    link: &'static str,
    /// How old the reading is.
    #[serde(skip_serializing_if = "Option::is_none")]
    age_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_percent: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_used_bytes: Option<u64>,
    memory_total_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_percent: Option<f64>,
    /// Of the file system at `/`.
    #[serde(skip_serializing_if = "Option::is_none")]
    disk_percent: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rx_bytes_per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tx_bytes_per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    load: Option<[f64; 3]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    processes: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uptime_seconds: Option<u64>,
}

impl Row {
    pub(crate) fn new(vm: &Vm, rate: Option<Rate>, now: Timestamp) -> Self {
        let stats = vm.stats.as_ref();
        let of = |read: fn(&GuestSample) -> u64| stats.map(read);
        let total = of(|s| s.memory_total_bytes).unwrap_or(vm.memory_bytes.get());
        let used = of(|s| s.memory_used_bytes);
        Self {
            id: vm.id.to_string(),
            name: vm.name.to_string(),
            status: phase_name(vm.phase),
            link: link(vm.guest.link),
            age_seconds: stats
                .map(|s| u64::try_from(now.duration_since(s.at).as_secs()).unwrap_or(0)),
            cpu_percent: stats.map(|s| s.cpu_percent),
            memory_used_bytes: used,
            memory_total_bytes: total,
            memory_percent: used.and_then(|used| share(used, total)),
            disk_percent: stats.and_then(root_disk),
            rx_bytes_per_second: rate.map(|rate| rate.rx),
            tx_bytes_per_second: rate.map(|rate| rate.tx),
            load: stats.map(|s| s.load),
            processes: stats.map(|s| s.processes),
            uptime_seconds: of(|s| s.uptime_seconds),
        }
    }
}

/// How full the file system at `/` is.
pub(crate) fn root_disk(sample: &GuestSample) -> Option<f64> {
    let root = sample.mounts.iter().find(|mount| mount.target == "/")?;
    share(root.used_bytes, root.total_bytes)
}

/// What stands above the rows.
#[derive(Debug)]
pub(crate) struct Status<'a> {
    pub sort: SortArg,
    pub trouble: Option<&'a str>,
}

/// Those of most use first, those without a reading last, equals by name.
pub(crate) fn sort(rows: &mut [Row], by: SortArg) {
    let most = |a: Option<f64>, b: Option<f64>| match (a, b) {
        (Some(a), Some(b)) => b.total_cmp(&a),
        (a, b) => b.is_some().cmp(&a.is_some()),
    };
    rows.sort_by(|a, b| {
        let order = match by {
            SortArg::Cpu => most(a.cpu_percent, b.cpu_percent),
            SortArg::Memory => b.memory_used_bytes.cmp(&a.memory_used_bytes),
            SortArg::Name => Ordering::Equal,
        };
        order.then_with(|| a.name.cmp(&b.name))
    });
}

struct Column {
    title: &'static str,
    /// Numbers stand to the right.
    right: bool,
    /// On a narrow screen those with the highest go first; 0 never goes.
    spare: u8,
    cell: fn(&Row) -> String,
}

const COLUMNS: [Column; 12] = [
    Column { title: "NAME", right: false, spare: 0, cell: |row| row.name.clone() },
    Column { title: "STATUS", right: false, spare: 2, cell: |row| row.status.to_owned() },
    Column { title: "GUEST", right: false, spare: 5, cell: |row| row.link.to_owned() },
    Column { title: "CPU%", right: true, spare: 0, cell: |row| tenths(row.cpu_percent) },
    Column { title: "MEM", right: true, spare: 3, cell: memory },
    Column { title: "MEM%", right: true, spare: 1, cell: |row| whole(row.memory_percent) },
    Column { title: "DISK%", right: true, spare: 4, cell: |row| whole(row.disk_percent) },
    Column { title: "RX/S", right: true, spare: 6, cell: |row| rate(row.rx_bytes_per_second) },
    Column { title: "TX/S", right: true, spare: 6, cell: |row| rate(row.tx_bytes_per_second) },
    Column { title: "LOAD", right: true, spare: 7, cell: load },
    Column { title: "PROCS", right: true, spare: 9, cell: |row| or_dash(row.processes) },
    Column {
        title: "UPTIME",
        right: true,
        spare: 8,
        cell: |row| row.uptime_seconds.map_or_else(dash, uptime),
    },
];

fn dash() -> String {
    "-".to_owned()
}

fn or_dash(value: Option<u32>) -> String {
    value.map_or_else(dash, |value| value.to_string())
}

fn tenths(value: Option<f64>) -> String {
    value.map_or_else(dash, |value| format!("{value:.1}"))
}

fn whole(value: Option<f64>) -> String {
    value.map_or_else(dash, |value| format!("{value:.0}"))
}

/// Bytes a second, as a size.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate is never negative, and `as` stops at the largest number"
)]
pub(crate) fn rate(value: Option<f64>) -> String {
    value.map_or_else(dash, |value| bytes(value as u64))
}

fn memory(row: &Row) -> String {
    match row.memory_used_bytes {
        Some(used) => format!("{}/{}", bytes(used), bytes(row.memory_total_bytes)),
        None => format!("-/{}", bytes(row.memory_total_bytes)),
    }
}

fn load(row: &Row) -> String {
    row.load.map_or_else(dash, |[one, ..]| format!("{one:.2}"))
}

/// The rows under their header, as many columns as fit `width`.
pub(crate) fn table(rows: &[Row], width: usize) -> String {
    let mut columns: Vec<(&Column, Vec<String>, usize)> = COLUMNS
        .iter()
        .map(|column| {
            let cells: Vec<String> = rows.iter().map(column.cell).collect();
            let widest = cells.iter().map(|cell| cell.chars().count()).max().unwrap_or(0);
            (column, cells, widest.max(column.title.len()))
        })
        .collect();
    let needed = |columns: &[(&Column, Vec<String>, usize)]| {
        columns.iter().map(|(.., width)| width + 2).sum::<usize>().saturating_sub(2)
    };
    while needed(&columns) > width {
        let most = columns.iter().map(|(column, ..)| column.spare).max().unwrap_or(0);
        if most == 0 {
            break;
        }
        columns.retain(|(column, ..)| column.spare != most);
    }
    let mut text = String::new();
    for index in 0..=rows.len() {
        let mut line = String::new();
        for (column, cells, width) in &columns {
            let cell = match index.checked_sub(1) {
                Some(row) => cells[row].as_str(),
                None => column.title,
            };
            let _ = match column.right {
                true => write!(line, "{cell:>width$}  "),
                false => write!(line, "{cell:<width$}  "),
            };
        }
        text.extend(line.trim_end().chars().take(width));
        text.push('\n');
    }
    text
}

/// A whole screen, drawn over the one before: the cursor home (CUP), each line
/// cleared to its end (EL), and what is below the last (ED). Lines end in CR
/// and LF, since raw mode adds nothing.
pub(crate) fn frame(rows: &[Row], status: &Status<'_>, size: TerminalSize) -> String {
    let (width, height) = (usize::from(size.cols), usize::from(size.rows));
    let mut lines = vec![headline(rows, status)];
    let table = table(rows, width);
    let mut of_table = table.lines();
    lines.push(format!("\x1b[7m{:<width$}\x1b[0m", of_table.next().unwrap_or_default()));
    let room = height.saturating_sub(2);
    if rows.len() > room {
        let shown = room.saturating_sub(1);
        lines.extend(of_table.take(shown).map(str::to_owned));
        lines.push(format!("{} more", rows.len() - shown));
    } else {
        lines.extend(of_table.map(str::to_owned));
    }
    lines.truncate(height);
    let mut text = String::from("\x1b[H");
    for (index, line) in lines.iter().enumerate() {
        if index > 0 {
            text.push_str("\r\n");
        }
        // The header line has sequences of its own, and is as wide as the screen.
        match index {
            1 => text.push_str(line),
            _ => text.extend(line.chars().take(width)),
        }
        text.push_str("\x1b[K");
    }
    text.push_str("\x1b[J");
    text
}

fn headline(rows: &[Row], status: &Status<'_>) -> String {
    if let Some(trouble) = status.trouble {
        return format!("as it was last seen: {}", harmless(trouble));
    }
    let by = match status.sort {
        SortArg::Cpu => "CPU",
        SortArg::Memory => "memory",
        SortArg::Name => "name",
    };
    let running = rows.iter().filter(|row| row.cpu_percent.is_some()).count();
    format!(
        "{} VMs, {running} with a reading, by {by}   c CPU  m memory  n name  q quit",
        rows.len()
    )
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
