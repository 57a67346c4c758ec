use std::time::Duration;

use crate::Bench;
use crate::agent::Agent;
use crate::program::timed;
use crate::raw::{DISK_MIB, MEMORY_MIB, RawQemu};
use crate::report::{Figure, Row};
use crate::sample::Samples;

/// Runs before the clock counts: page cache, the agent's caches.
const WARM_UP: usize = 2;

/// `inn run --rm base -- true`, the whole process, cold.
pub(crate) fn measure(bench: &mut Bench) -> anyhow::Result<()> {
    let raw = RawQemu::prepare(bench)?;
    let agent = Agent::start(bench, "boot", "")?;
    agent.import(bench.base(), "base")?;
    let (memory, disk) = (format!("{MEMORY_MIB}MiB"), format!("{DISK_MIB}MiB"));
    let run =
        ["run", "--rm", "--cpus", "1", "--memory", &memory, "--disk", &disk, "base", "--", "true"];

    let (mut ours, mut theirs, mut ready) =
        (Samples::default(), Samples::default(), Samples::default());
    for round in 0..bench.options.rounds + WARM_UP {
        let (took, raw): (Duration, _) = (timed(&mut agent.inn(&run))?, raw.boot_and_exec()?);
        if round >= WARM_UP {
            ours.push(took);
            theirs.push(raw.all);
            ready.push(raw.ready);
        }
    }
    let (ours_median, theirs_median) = (ours.median(), theirs.median());
    let mut raw = Figure::median(theirs);
    raw.text.push_str(&format!(" (guest ready after {:.1})", ready.median()));
    let mut figure = Figure::median(ours);
    figure.text.push_str(&format!(" ({:.2} ×)", ours_median / theirs_median));
    bench.report.push(Row {
        what: "`inn run --rm base -- true`, cold, against raw QEMU and a raw exec",
        ours: figure,
        raw: Some(raw),
        target: "at most 1.2 ×",
        met: ours_median <= 1.2 * theirs_median,
    });
    Ok(())
}

/// What the comparison above begins from, without inn.
pub(crate) fn measure_raw(bench: &mut Bench) -> anyhow::Result<()> {
    let raw = RawQemu::prepare(bench)?;
    let mut all = Samples::default();
    for round in 0..bench.options.rounds + WARM_UP {
        let times = raw.boot_and_exec()?;
        if round >= WARM_UP {
            all.push(times.all);
        }
    }
    bench.report.push(Row {
        what: "raw QEMU to the end of a raw exec",
        ours: Figure::median(all),
        raw: None,
        target: "as low as can be",
        met: true,
    });
    Ok(())
}
