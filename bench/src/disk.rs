//! The disk's figures as `inn node benchmark` has them, beside fio's.
//!
//! Both measure the same file, which has no name and was written through once:
//! fio opens it by the descriptor of ours. They take turns, since a disk that
//! others use, too, is another one each second, and the ratio of each round is
//! what counts. A pass whose ratios lie further apart than what is to be shown
//! shows nothing.

use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use inn_measure::{Direction, Figures, Ground, Pass, Pattern, Room, Wish, plan};
use inn_units::Bytes;

use crate::Bench;
use crate::program::{command, output};
use crate::report::{Figure, Row};

const SIZE: Bytes = Bytes::gib(1);
const QUICK_SIZE: Bytes = Bytes::mib(64);
const TIME: Duration = Duration::from_secs(2);
/// fio counts whole seconds.
const QUICK_TIME: Duration = Duration::from_secs(1);

/// How far ours may be from fio's.
const AGREES: std::ops::RangeInclusive<f64> = 0.85..=1.15;

/// What one of the two has seen in one round.
#[derive(Debug, Clone, Copy)]
struct Seen {
    requests_per_second: f64,
    p50_micros: f64,
    p99_micros: f64,
}

pub(crate) fn measure(bench: &mut Bench) -> anyhow::Result<()> {
    let quick = bench.options.quick;
    let (size, time) = if quick { (QUICK_SIZE, QUICK_TIME) } else { (SIZE, TIME) };
    let room = rustix::fs::statvfs(bench.work.path())?;
    let bytes = |blocks: u64| Bytes(blocks.saturating_mul(room.f_frsize));
    let room = Room { total: bytes(room.f_blocks), available: bytes(room.f_bavail) };
    let plan = plan(Wish { size, time }, room)?;
    output(command("fio").arg("--version")).context("fio is needed: apt-get install fio")?;
    let ground = Ground::make(bench.work.path(), plan.size, &mut || true)?;
    for pass in &plan.passes {
        let (mut ours, mut fio) = (Vec::new(), Vec::new());
        for round in 0..bench.options.file_rounds() {
            // Neither is always the one that comes after the other.
            if round % 2 == 0 {
                ours.push(seen(&ground.measure(*pass, time, u64::MAX)?));
                fio.push(fio_s(&ground, *pass, plan.size, time)?);
            } else {
                fio.push(fio_s(&ground, *pass, plan.size, time)?);
                ours.push(seen(&ground.measure(*pass, time, u64::MAX)?));
            }
        }
        bench.report.push(row(pass, &ours, &fio));
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "requests a second, and microseconds")]
fn seen(figures: &Figures) -> Seen {
    let micros = |time: Duration| time.as_nanos() as f64 / 1e3;
    Seen {
        requests_per_second: figures.requests_per_second() as f64,
        p50_micros: micros(figures.latency.p50),
        p99_micros: micros(figures.latency.p99),
    }
}

fn fio_s(ground: &Ground, pass: Pass, size: Bytes, time: Duration) -> anyhow::Result<Seen> {
    let file = format!("/proc/{}/fd/{}", std::process::id(), ground.file().as_raw_fd());
    let (which, rw) = match (pass.pattern, pass.direction) {
        (Pattern::Sequential, Direction::Read) => ("read", "read"),
        (Pattern::Sequential, Direction::Write) => ("write", "write"),
        (Pattern::Random, Direction::Read) => ("read", "randread"),
        (Pattern::Random, Direction::Write) => ("write", "randwrite"),
    };
    let mut fio = command(Path::new("fio"));
    fio.args(["--name=disk", "--ioengine=io_uring", "--direct=1", "--output-format=json"])
        .args(["--time_based".to_owned(), format!("--runtime={}", time.as_secs())])
        .args([format!("--filename={file}"), format!("--size={}", size.get())])
        .args([format!("--rw={rw}"), format!("--bs={}", pass.block.get())])
        .arg(format!("--iodepth={}", pass.depth))
        // From the request on, as ours, and not from when the kernel has it.
        .args(["--clat_percentiles=0", "--lat_percentiles=1"]);
    let text = output(&mut fio)?;
    let told: serde_json::Value = serde_json::from_str(&text).context("fio told no JSON")?;
    let told = &told["jobs"][0][which];
    let number = |value: &serde_json::Value| {
        value.as_f64().with_context(|| format!("fio told no figure: {told}"))
    };
    let micros = |name: &str| number(&told["lat_ns"]["percentile"][name]).map(|ns| ns / 1e3);
    Ok(Seen {
        requests_per_second: number(&told["iops"])?,
        p50_micros: micros("50.000000")?,
        p99_micros: micros("99.000000")?,
    })
}

fn row(pass: &Pass, ours: &[Seen], fio: &[Seen]) -> Row {
    let pattern = match pass.pattern {
        Pattern::Sequential => "sequential",
        Pattern::Random => "random",
    };
    let direction = match pass.direction {
        Direction::Read => "read",
        Direction::Write => "write",
    };
    let what = format!("{pattern} {direction}, {}, depth {}", pass.block, pass.depth);
    let ratios = ours
        .iter()
        .zip(fio)
        .map(|(ours, fio)| ours.requests_per_second / fio.requests_per_second)
        .collect();
    let (ratio, least, most) = spread(ratios);
    let mut figure = figure(ours);
    figure.text = format!("{} ({ratio:.2} ×, {least:.2} to {most:.2})", figure.text);
    Row {
        // Ten of them, for a report that lives as long as the program.
        what: what.leak(),
        ours: figure,
        raw: Some(self::figure(fio)),
        target: "within 15 % of fio",
        met: AGREES.contains(&ratio),
    }
}

fn figure(seen: &[Seen]) -> Figure {
    let of = |value: fn(&Seen) -> f64| spread(seen.iter().map(value).collect()).0;
    let text = format!(
        "{:.0} a second, p50 {:.0} µs, p99 {:.0} µs",
        of(|seen| seen.requests_per_second),
        of(|seen| seen.p50_micros),
        of(|seen| seen.p99_micros)
    );
    Figure::other(text, seen.len())
}

/// The median, the least and the most.
fn spread(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
    (at(values.len() / 2), at(0), at(values.len().saturating_sub(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_s_ratio_counts_and_not_the_sums() {
        let seen =
            |requests_per_second| Seen { requests_per_second, p50_micros: 1.0, p99_micros: 2.0 };
        let pass = Pass {
            pattern: Pattern::Random,
            direction: Direction::Write,
            block: Bytes::kib(4),
            depth: 32,
        };
        // The disk became ten times slower between two rounds, for both.
        let (ours, fio) = ([100.0, 10.0, 9.0].map(seen), [100.0, 10.0, 10.0].map(seen));
        let row = row(&pass, &ours, &fio);
        assert!(row.met && row.ours.text.ends_with("(1.00 ×, 0.90 to 1.00)"), "{row:?}");
        assert_eq!(row.what, "random write, 4KiB, depth 32");
        assert!(!self::row(&pass, &ours, &[seen(200.0); 3]).met);
    }
}
