use anyhow::ensure;

use crate::Bench;
use crate::agent::Agent;
use crate::program::timed;
use crate::raw::{DISK_MIB, MEMORY_MIB, RawQemu};
use crate::report::{Figure, Row};
use crate::sample::Samples;

const VMS: usize = 8;

/// Eight `inn run --rm base -- true` at once, beside eight raw QEMUs at once.
pub(crate) fn measure(bench: &mut Bench) -> anyhow::Result<()> {
    let raw = RawQemu::prepare(bench)?;
    let agent = Agent::start(bench, "burst", "")?;
    agent.import(bench.base(), "base")?;
    let (memory, disk) = (format!("{MEMORY_MIB}MiB"), format!("{DISK_MIB}MiB"));
    let run =
        ["run", "--rm", "--cpus", "1", "--memory", &memory, "--disk", &disk, "base", "--", "true"];
    // Once for the caches.
    timed(&mut agent.inn(&run))?;
    raw.boot_and_exec()?;

    let (mut ours, mut theirs) = (Samples::default(), Samples::default());
    for _ in 0..bench.options.file_rounds() {
        for took in at_once(|_| timed(&mut agent.inn(&run)))? {
            ours.push(took);
        }
        for times in at_once(|n| raw.boot_and_exec_as(&format!("burst-{n}")))? {
            theirs.push(times.all);
        }
    }
    ensure!(ours.len() == bench.options.file_rounds() * VMS, "{} have ended", ours.len());
    let (ours_median, theirs_median) = (ours.median(), theirs.median());
    let (ours_worst, theirs_worst) = (ours.quantile(1.0), theirs.quantile(1.0));
    let mut raw = Figure::median(theirs);
    raw.text.push_str(&format!(", the last after {theirs_worst:.1} ms"));
    let mut figure = Figure::median(ours);
    figure.text.push_str(&format!(
        " ({:.2} ×), the last after {ours_worst:.1} ms, none failed",
        ours_median / theirs_median
    ));
    bench.report.push(Row {
        what: "8 of `inn run --rm base -- true` at once, against 8 raw QEMUs and raw execs at once",
        ours: figure,
        raw: Some(raw),
        target: "none fails",
        met: true,
    });
    Ok(())
}

/// Does the same in as many threads at once as VMs are wanted. The first
/// failure is everybody's.
fn at_once<T: Send>(start: impl Fn(usize) -> anyhow::Result<T> + Sync) -> anyhow::Result<Vec<T>> {
    let start = &start;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..VMS).map(|n| scope.spawn(move || start(n))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?)
            .collect()
    })
}
