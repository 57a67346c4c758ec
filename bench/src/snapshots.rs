//! What begins from a saved machine: `inn vm fork`, and what a cold start takes,
//! each beside raw QEMU driven by hand, one at a time and many at once.
//!
//! Whoever asks for the raw recipe alone gets it without inn.

use std::time::Duration;

use anyhow::bail;

use crate::Bench;
use crate::agent::{Agent, pause};
use crate::program::{output, timed};
use crate::raw::{DISK_MIB, MEMORY_MIB, Pooled, RawParent, RawQemu, RawTemplate};
use crate::report::{Figure, Row};
use crate::sample::Samples;

/// How many at once.
const CROWDS: [usize; 3] = [1, 8, 32];

/// For all of a crowd beside their parent.
const ROOM: &str = "[admission]\ncpu_overcommit = 1000\n";

/// Of each that is measured, before the clock counts.
const WARM_UP: usize = 2;

/// What was tried, and how often it failed.
#[derive(Default)]
struct Tried {
    took: Samples,
    failed: usize,
}

impl Tried {
    fn take(&mut self, results: Vec<anyhow::Result<Duration>>) {
        for result in results {
            match result {
                Ok(took) => self.took.push(took),
                Err(error) => {
                    self.failed += 1;
                    eprintln!("  failed: {error:#}");
                }
            }
        }
    }

    fn figure(self) -> Figure {
        let [p50, p95, p99] = [0.5, 0.95, 0.99].map(|q| self.took.quantile(q));
        let failed = self.failed;
        let text = format!("p50 {p50:.1}, p95 {p95:.1}, p99 {p99:.1} ms, {failed} failed");
        Figure { text, runs: self.took.len() + failed, milliseconds: self.took }
    }
}

pub(crate) fn measure_raw(bench: &mut Bench) -> anyhow::Result<()> {
    let raw = RawQemu::prepare(bench)?;
    let template = RawTemplate::make(&raw)?;
    for crowd in CROWDS {
        let figure = cold(bench, crowd, |name| Ok(raw.boot_and_exec_as(name)?.all)).figure();
        alone(bench, COLD, crowd, figure);
        let figure = cold(bench, crowd, |name| template.restore_and_exec(name)).figure();
        alone(bench, RESTORED, crowd, figure);
        let (mut tried, mut pss) = (Tried::default(), 0.0);
        for _ in 0..rounds(bench, crowd) {
            let (took, mib) = pooled(crowd, &template)?;
            tried.take(took);
            pss = mib;
        }
        alone(bench, POOLED, crowd, tried.figure());
        let text = format!("{:.1} MiB the mean of {crowd}", pss);
        alone(bench, MEMORY, crowd, Figure::other(text, 1));
        let (figure, stood) = forked(bench, crowd, &raw)?;
        alone(bench, FORKED, crowd, figure);
        alone(bench, STOOD, crowd, Figure::median(stood));
    }
    Ok(())
}

const COLD: &str = "raw QEMU, booted, to the end of an exec";
const RESTORED: &str = "raw QEMU, restored, to the end of its first exec";
const POOLED: &str = "raw QEMU, from a pool of warmed clones, to the end of an exec";
const MEMORY: &str = "memory (PSS) of a clone in that pool";
const FORKED: &str = "raw QEMU, a running VM saved and restored, to the end of an exec";
const STOOD: &str = "how long that VM stood still";

fn alone(bench: &mut Bench, what: &'static str, crowd: usize, mut figure: Figure) {
    figure.text = format!("{crowd} at once: {}", figure.text);
    bench.report.push(Row { what, ours: figure, raw: None, target: "", met: true });
}

/// Fewer where many are at work each time.
fn rounds(bench: &Bench, crowd: usize) -> usize {
    bench.options.rounds.div_ceil(crowd).max(1)
}

fn cold(
    bench: &Bench,
    crowd: usize,
    one: impl Fn(&str) -> anyhow::Result<Duration> + Sync,
) -> Tried {
    let mut tried = Tried::default();
    for round in 0..rounds(bench, crowd) + WARM_UP {
        let results = at_once(crowd, |n| one(&format!("c{n}")));
        if round >= WARM_UP {
            tried.take(results);
        }
    }
    tried
}

/// Who is measured next.
#[derive(Clone, Copy)]
enum Whose {
    Ours,
    Raw,
}

/// Ours and raw by turns, so that what else a host does is done to both.
fn in_turns(
    bench: &Bench,
    crowd: usize,
    mut turn: impl FnMut(Whose) -> anyhow::Result<Vec<anyhow::Result<Duration>>>,
) -> anyhow::Result<[Tried; 2]> {
    let mut both = [Tried::default(), Tried::default()];
    for round in 0..rounds(bench, crowd) + WARM_UP {
        for (tried, whose) in both.iter_mut().zip([Whose::Ours, Whose::Raw]) {
            let results = turn(whose)?;
            if round >= WARM_UP {
                tried.take(results);
            }
        }
    }
    Ok(both)
}

/// And the mean of their memory, in MiB, while all are alive.
fn pooled(
    crowd: usize,
    template: &RawTemplate<'_>,
) -> anyhow::Result<(Vec<anyhow::Result<Duration>>, f64)> {
    let made = at_once(crowd, |n| template.pooled(&format!("p{n}")));
    let pool: Vec<Pooled> = made.into_iter().collect::<anyhow::Result<_>>()?;
    let kib: u64 = pool.iter().map(Pooled::pss_kib).sum::<anyhow::Result<u64>>()?;
    #[expect(clippy::cast_precision_loss, reason = "some GiB in KiB, over a few")]
    let mean = kib as f64 / 1024.0 / crowd as f64;
    Ok((all_at_once(pool, Pooled::go_on_and_exec), mean))
}

fn forked(bench: &Bench, crowd: usize, raw: &RawQemu) -> anyhow::Result<(Figure, Samples)> {
    let mut parent = RawParent::boot(raw)?;
    let (mut tried, mut stood) = (Tried::default(), Samples::default());
    for round in 0..rounds(bench, crowd) + WARM_UP {
        let times = parent.fork_and_exec(crowd)?;
        if round < WARM_UP {
            continue;
        }
        if let Some(times) = times.first() {
            stood.push(times.stood);
        }
        tried.take(times.into_iter().map(|times| Ok(times.all)).collect());
    }
    Ok((tried.figure(), stood))
}

/// Ours beside raw, in turns.
pub(crate) fn measure(bench: &mut Bench) -> anyhow::Result<()> {
    let raw = RawQemu::prepare(bench)?;
    let agent = Agent::start(bench, "snapshots", ROOM)?;
    agent.import(bench.base(), "base")?;
    let (memory, disk) = (format!("{MEMORY_MIB}MiB"), format!("{DISK_MIB}MiB"));
    let sizes = ["--cpus", "1", "--memory", &memory, "--disk", &disk];
    // As in the raw one, whose programs are at fixed addresses, too.
    let parent =
        ["vm", "create", "--name", "parent", "--image", "base", "--stable-addresses", "on"];
    let create = [&parent, &sizes[..]].concat();
    timed(&mut agent.inn(&create))?;
    timed(&mut agent.inn(&["vm", "start", "parent"]))?;
    // It has run a program, as the raw one has.
    timed(&mut agent.inn(&["vm", "exec", "parent", "--", "true"]))?;
    let mut theirs = RawParent::boot(&raw)?;
    for crowd in CROWDS {
        let both = in_turns(bench, crowd, |whose| match whose {
            Whose::Ours => Ok(fork_ours(&agent, crowd)),
            Whose::Raw => {
                let times = theirs.fork_and_exec(crowd)?;
                Ok(times.into_iter().map(|times| Ok(times.all)).collect())
            }
        })?;
        let (times, target) =
            if crowd == 1 { (1.5, "at most 1.5 ×") } else { (1.25, "at most 1.25 ×") };
        beside(bench, (OUR_FORK, target), crowd, both, |ours, raw| ours <= times * raw);
    }
    drop(theirs);
    let stood = stood_still(&agent)?;
    let met = stood.median() <= 50.0;
    let ours = Figure::spread(stood);
    let target = "at most 50 ms";
    bench.report.push(Row { what: OUR_STOOD, ours, raw: None, target, met });
    timed(&mut agent.inn(&["vm", "delete", "parent", "--force"]))?;

    let args = [&["run", "--rm"], &sizes[..], &["base", "--", "true"]].concat();
    for crowd in CROWDS {
        let both = in_turns(bench, crowd, |whose| match whose {
            Whose::Ours => Ok(at_once(crowd, |_| timed(&mut agent.inn(&args)))),
            Whose::Raw => Ok(at_once(crowd, |n| Ok(raw.boot_and_exec_as(&format!("c{n}"))?.all))),
        })?;
        beside(bench, OUR_COLD, crowd, both, |ours, raw| ours <= 1.15 * raw);
    }
    Ok(())
}

/// What begins from a template, and from clones that wait, beside the same by hand.
pub(crate) fn measure_templates(bench: &mut Bench) -> anyhow::Result<()> {
    let raw = RawQemu::prepare(bench)?;
    let template = RawTemplate::make(&raw)?;
    let (memory, disk) = (format!("{MEMORY_MIB}MiB"), format!("{DISK_MIB}MiB"));
    let sizes = ["--cpus", "1", "--memory", &memory, "--disk", &disk];
    let args = [&["run", "--rm"], &sizes[..], &["base", "--", "true"]].concat();
    for (pool, what) in [("0", OUR_RESTORED), ("8GiB", OUR_POOLED)] {
        let config =
            format!("{ROOM}\n[templates]\npool_memory = \"{pool}\"\npool_clones = {POOL}\n");
        let agent = Agent::start(bench, &format!("templates-{pool}"), &config)?;
        agent.import(bench.base(), "base")?;
        timed(&mut agent.inn(&args))?;
        until_template(&agent, 0)?;
        for crowd in CROWDS {
            if pool == "0" {
                let both = in_turns(bench, crowd, |whose| {
                    Ok(at_once(crowd, |n| match whose {
                        Whose::Ours => timed(&mut agent.inn(&args)),
                        Whose::Raw => template.restore_and_exec(&format!("c{n}")),
                    }))
                })?;
                beside(bench, what, crowd, both, |ours, raw| ours <= 1.25 * raw);
                continue;
            }
            let clones = crowd.min(POOL);
            until_template(&agent, 1)?;
            let (mut ours_mib, mut raw_mib) = (0.0, 0.0);
            let both = in_turns(bench, crowd, |whose| {
                // What makes them is not at work in either's turn.
                until_template(&agent, clones)?;
                ours_mib = memory_of_a_clone(&agent)?;
                Ok(match whose {
                    Whose::Ours => at_once(crowd, |_| timed(&mut agent.inn(&args))),
                    Whose::Raw => {
                        let (took, mib) = pooled(crowd, &template)?;
                        raw_mib = mib;
                        took
                    }
                })
            })?;
            if crowd == 1 {
                beside(bench, what, crowd, both, |ours, raw| ours <= raw + 25.0);
            } else {
                beside(bench, (what.0, ""), crowd, both, |_, _| true);
            }
            if crowd == POOL {
                let [ours, raw] =
                    [ours_mib, raw_mib].map(|mib| Figure::other(format!("{mib:.1} MiB"), crowd));
                let (target, met) = ("at most 40 MiB", ours_mib <= 40.0);
                bench.report.push(Row { what: OUR_MEMORY, ours, raw: Some(raw), target, met });
            }
        }
    }
    Ok(())
}

/// Waits for the template, and for so many clones of it and all that are to
/// come: what makes them takes a CPU.
pub(crate) fn until_template(agent: &Agent, clones: usize) -> anyhow::Result<()> {
    let begin = std::time::Instant::now();
    let deadline = begin + Duration::from_secs(120);
    let (mut waited, mut since) = (0, begin);
    loop {
        let text = output(&mut agent.inn(&["node", "snapshot", "-o", "json"]))?;
        let told: serde_json::Value = serde_json::from_str(&text)?;
        let ready = told["templates"][0]["state"] == "ready";
        let waiting = usize::try_from(told["pool"]["waiting"].as_u64().unwrap_or_default())?;
        if waiting != waited {
            (waited, since) = (waiting, std::time::Instant::now());
        }
        let rests = clones == 0 || since.elapsed() > RESTS;
        if ready && waiting >= clones && rests {
            return Ok(());
        }
        if std::time::Instant::now() > deadline {
            bail!("no {clones} clones wait: {text}");
        }
        pause(GLANCE);
    }
}

/// In MiB, of the one that was made last.
fn memory_of_a_clone(agent: &Agent) -> anyhow::Result<f64> {
    let text = output(&mut agent.inn(&["node", "snapshot", "-o", "json"]))?;
    let told: serde_json::Value = serde_json::from_str(&text)?;
    let bytes = told["templates"][0]["cloneBytes"].as_f64().unwrap_or(f64::NAN);
    Ok(bytes / f64::from(1 << 20))
}

/// A pool to which nothing has come in so long has all that it wants.
const RESTS: Duration = Duration::from_secs(2);

/// Between two looks.
const GLANCE: Duration = Duration::from_millis(50);

/// The most clones that wait.
const POOL: usize = 32;

const OUR_RESTORED: (&str, &str) =
    ("`inn run --rm base -- true`, from its template", "at most 1.25 ×");
const OUR_POOLED: (&str, &str) =
    ("`inn run --rm base -- true`, by a clone that waited", "at most 25 ms more");
const OUR_COLD: (&str, &str) = ("`inn run --rm base -- true`, booted", "at most 1.15 ×");
const OUR_STOOD: &str = "how long that running VM stands still for it, idle, 128 MiB";
const OUR_MEMORY: &str = "memory (PSS) of a clone that waits, 32 of them";
const OUR_FORK: &str = "`inn vm fork` and an exec in each, beside raw save and restore";

fn beside(
    bench: &mut Bench,
    (what, target): (&'static str, &'static str),
    crowd: usize,
    [ours, raw]: [Tried; 2],
    meets: impl FnOnce(f64, f64) -> bool,
) {
    let (failed, ours_p50, raw_p50) = (ours.failed, ours.took.median(), raw.took.median());
    let [mut ours, mut raw] = [ours, raw].map(Tried::figure);
    ours.text = format!("{crowd} at once: {} ({:.2} ×)", ours.text, ours_p50 / raw_p50);
    raw.text = format!("{crowd} at once: {}", raw.text);
    let met = failed == 0 && meets(ours_p50, raw_p50);
    bench.report.push(Row { what, ours, raw: Some(raw), target, met });
}

/// How long our parent stood still each time, as the agent has logged it.
fn stood_still(agent: &Agent) -> anyhow::Result<Samples> {
    let mut stood = Samples::default();
    for line in agent.log()? {
        if let Some(ms) = line["fields"]["stood_ms"].as_u64() {
            stood.push(Duration::from_millis(ms));
        }
    }
    Ok(stood)
}

/// From the fork's beginning to the end of each clone's first exec.
fn fork_ours(agent: &Agent, crowd: usize) -> Vec<anyhow::Result<Duration>> {
    let count = crowd.to_string();
    let begin = std::time::Instant::now();
    let forked = output(&mut agent.inn(&["vm", "fork", "parent", "--count", &count, "-o", "json"]));
    let names = match forked.and_then(|text| names(&text)) {
        Ok(names) => names,
        Err(error) => return vec![Err(error)],
    };
    let results = all_at_once(names.clone(), |name| {
        timed(&mut agent.inn(&["vm", "exec", &name, "--", "true"]))?;
        Ok(begin.elapsed())
    });
    let mut delete = agent.inn(&["vm", "delete", "--force"]);
    if let Err(error) = timed(delete.args(&names)) {
        eprintln!("  deleting clones: {error:#}");
    }
    results
}

fn names(text: &str) -> anyhow::Result<Vec<String>> {
    let told: serde_json::Value = serde_json::from_str(text)?;
    let name = |vm: &serde_json::Value| vm["name"].as_str().map(str::to_owned);
    match told.as_array().map(|vms| vms.iter().filter_map(name).collect::<Vec<_>>()) {
        Some(names) if !names.is_empty() => Ok(names),
        _ => bail!("inn named no clones: {text}"),
    }
}

fn at_once<T: Send>(
    crowd: usize,
    one: impl Fn(usize) -> anyhow::Result<T> + Sync,
) -> Vec<anyhow::Result<T>> {
    all_at_once((0..crowd).collect(), one)
}

/// Each in a thread of its own.
fn all_at_once<A: Send, T: Send>(
    all: Vec<A>,
    one: impl Fn(A) -> anyhow::Result<T> + Sync,
) -> Vec<anyhow::Result<T>> {
    let one = &one;
    std::thread::scope(|scope| {
        let threads: Vec<_> = all.into_iter().map(|a| scope.spawn(move || one(a))).collect();
        let joined = threads.into_iter().map(|thread| {
            thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread panicked")))
        });
        joined.collect()
    })
}
