//! A thousand simulated VMs on one agent: what do they cost it?
//!
//! A simulated VM has no process and no guest of its own. It has all the rest:
//! a request over the API, rows in the database, files of its own on the disk
//! (a sparse ext4, logs, the machine's state, by which the agent's next life
//! finds it), a task, and a session by the real guest protocol over a socket
//! pair, whose other end, the simulated guest, runs in the agent and is
//! counted as the agent's.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use inn_api::{Network, Phase, Runtime, VmCreate};
use inn_client::{Client, VmRemoval};
use inn_units::{Bytes, Generation};
use tokio::task::JoinSet;

use crate::Bench;
use crate::agent::{Agent, pause};
use crate::memory::{mib, resident_kib};
use crate::report::{Figure, Row};
use crate::sample::Samples;

/// Simulated VMs use no memory and no CPU of what is reserved for them.
const CONFIG: &str = "\
[sim]
enabled = true

[admission]
memory_overcommit = 1000
cpu_overcommit = 1000
disk_overcommit = 1000
";

const VMS: usize = 1_000;
const QUICK_VMS: usize = 100;

/// Requests under way at once: more would measure this program's own queue.
const CLIENTS: usize = 32;

/// How long all of them have.
const PATIENCE: Duration = Duration::from_secs(120);

const IDLE: Duration = Duration::from_secs(30);
const QUICK_IDLE: Duration = Duration::from_secs(5);

/// For what a start leaves to be done in the background.
const SETTLE: Duration = Duration::from_secs(5);

const RESTARTS: usize = 5;

const TARGET_CPU: Duration = Duration::from_secs(3);
const TARGET_RESTART_MS: f64 = 300.0;
const TARGET_KIB: u64 = 120 * 1024;
const TARGET_SCRAPE_MS: f64 = 100.0;
const TARGET_SNAPSHOT_MS: f64 = 20.0;

const LOOKS: usize = 15;

/// Longer than what a look has measured is good for.
pub(crate) const FRESH: Duration = Duration::from_millis(1_100);

pub(crate) fn measure(bench: &mut Bench) -> anyhow::Result<()> {
    let quick = bench.options.quick;
    let vms = if quick { QUICK_VMS } else { VMS };
    let mut agent = Agent::start(bench, "fleet", CONFIG)?;
    agent.import(bench.base(), "base")?;

    let before = cpu_time(agent.pid())?;
    let begin = Instant::now();
    agent.runtime().block_on(desire(agent.client(), vms))?;
    let accepted = begin.elapsed();
    agent.runtime().block_on(until_all_run(agent.client(), vms))?;
    let wall = begin.elapsed();
    let cpu = cpu_time(agent.pid())? - before;
    bench.report.push(Row {
        what: "1,000 simulated VMs desired at once, until the last one runs",
        ours: Figure::other(
            format!(
                "{:.2} s of agent time, {:.2} s by the clock, all accepted after {:.2} s",
                cpu.as_secs_f64(),
                wall.as_secs_f64(),
                accepted.as_secs_f64(),
            ),
            1,
        ),
        raw: None,
        target: "at most 3 s of agent time",
        met: cpu <= TARGET_CPU,
    });

    pause(SETTLE);
    let resident = resident_kib(agent.pid())?;
    bench.report.push(Row {
        what: "resident memory with them",
        ours: Figure::other(format!("{} MiB", mib(resident)), 1),
        raw: None,
        target: "under 120 MiB",
        met: resident < TARGET_KIB,
    });

    let idle = if quick { QUICK_IDLE } else { IDLE };
    let (cpu, switches) = (cpu_time(agent.pid())?, switches(agent.pid())?);
    pause(idle);
    let cpu = cpu_time(agent.pid())? - cpu;
    let switches = self::switches(agent.pid())?.saturating_sub(switches);
    let share = cpu.as_secs_f64() / idle.as_secs_f64() * 100.0;
    bench.report.push(Row {
        what: "CPU time while they idle, of one CPU",
        ours: Figure::other(
            format!(
                "{share:.2} %, {} wakeups/s, over {} s",
                switches / idle.as_secs(),
                idle.as_secs()
            ),
            1,
        ),
        raw: None,
        target: "under 0.5 %",
        met: share < 0.5,
    });

    looks(bench, &agent, vms)?;
    restarts(bench, &mut agent, vms)
}

/// A scrape with all of them and with half, and a look at the node.
fn looks(bench: &mut Bench, agent: &Agent, vms: usize) -> anyhow::Result<()> {
    let client = agent.client();
    let scrape = |expected: usize| {
        let mut took = Samples::default();
        for _ in 0..LOOKS {
            let begin = Instant::now();
            let text = agent.runtime().block_on(client.metrics())?;
            took.push(begin.elapsed());
            let told = text.lines().filter(|line| line.starts_with("inn_vm_up{")).count();
            ensure!(told == expected, "{told} of {expected} VMs are told");
        }
        anyhow::Ok(took)
    };
    let all = scrape(vms)?;
    let mut snapshots = Samples::default();
    for _ in 0..LOOKS {
        let begin = Instant::now();
        agent.runtime().block_on(client.node_snapshot())?;
        snapshots.push(begin.elapsed());
        // What is measured is good for a second.
        pause(FRESH);
    }
    let half = vms / 2;
    agent.runtime().block_on(async {
        for n in half..vms {
            let force = VmRemoval { force: true, ..VmRemoval::default() };
            client.delete_vm(&format!("vm-{n}"), force, Duration::ZERO).await?;
        }
        while client.vms().await?.items.len() > half {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        anyhow::Ok(())
    })?;
    let of_half = scrape(half)?;
    agent.runtime().block_on(desire_from(client, half, vms))?;
    agent.runtime().block_on(until_all_run(client, vms))?;
    let worst = all.quantile(1.0);
    let mut figure = Figure::median(all);
    figure.text = format!(
        "{}, {worst:.1} ms at worst; with half of them {:.1} ms",
        figure.text,
        of_half.median()
    );
    bench.report.push(Row {
        what: "a scrape of /metrics with them",
        ours: figure,
        raw: None,
        target: "under 100 ms, and linear",
        met: worst < TARGET_SCRAPE_MS,
    });
    let worst = snapshots.quantile(1.0);
    let mut figure = Figure::median(snapshots);
    figure.text = format!("{}, {worst:.1} ms at worst", figure.text);
    bench.report.push(Row {
        what: "GET /api/node/snapshot with them, measured anew each time",
        ours: figure,
        raw: None,
        target: "under 20 ms with 100",
        met: worst < TARGET_SNAPSHOT_MS,
    });
    Ok(())
}

/// The agent is killed and started again: from the start of its process until
/// it answers, and until all guests are found again.
fn restarts(bench: &mut Bench, agent: &mut Agent, vms: usize) -> anyhow::Result<()> {
    let (mut serving, mut found) = (Samples::default(), Samples::default());
    for _ in 0..RESTARTS {
        agent.kill_agent()?;
        let begin = Instant::now();
        agent.resume_agent()?;
        serving.push(begin.elapsed());
        agent.runtime().block_on(until_all_run(agent.client(), vms))?;
        found.push(begin.elapsed());
    }
    let worst = serving.quantile(1.0);
    let mut figure = Figure::median(serving);
    figure.text = format!(
        "{} until it serves, {worst:.1} ms at worst; {:.1} ms until every guest is ready again",
        figure.text,
        found.median()
    );
    bench.report.push(Row {
        what: "an agent killed and started again with them: all adopted, and serving",
        ours: figure,
        raw: None,
        target: "at most 300 ms",
        met: worst <= TARGET_RESTART_MS,
    });
    Ok(())
}

async fn desire(client: &Client, vms: usize) -> anyhow::Result<()> {
    desire_from(client, 0, vms).await
}

async fn desire_from(client: &Client, first: usize, vms: usize) -> anyhow::Result<()> {
    let next = Arc::new(std::sync::atomic::AtomicUsize::new(first));
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let (client, next) = (client.clone(), Arc::clone(&next));
        clients.spawn(async move {
            loop {
                let n = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                if n >= vms {
                    return anyhow::Ok(());
                }
                let create = VmCreate {
                    name: Some(format!("vm-{n}").parse()?),
                    image: Some("base".into()),
                    runtime: Runtime::Sim,
                    network: Network::None,
                    memory_bytes: Some(Bytes::mib(64)),
                    disk_bytes: Some(Bytes::mib(16)),
                    command: Some(vec!["sleep".into(), "infinity".into()]),
                    start: true,
                    ..VmCreate::default()
                };
                client.create_vm(&create).await.with_context(|| format!("creating VM {n}"))?;
            }
        });
    }
    while let Some(done) = clients.join_next().await {
        done??;
    }
    Ok(())
}

/// Waits for one after the other, which the agent answers as each settles,
/// and looks at all of them in the end.
async fn until_all_run(client: &Client, vms: usize) -> anyhow::Result<()> {
    let begin = Instant::now();
    for n in (0..vms).step_by(vms / 10).chain([vms - 1]) {
        client.wait_vm(&format!("vm-{n}"), Generation::FIRST, PATIENCE).await?;
    }
    loop {
        let all = client.vms().await?.items;
        let ready = |vm: &&inn_api::Vm| {
            vm.phase == Phase::Running && vm.guest.link == inn_api::GuestLink::Ready
        };
        let running = all.iter().filter(ready).count();
        if running == vms {
            return Ok(());
        }
        let failed = all.iter().find(|vm| vm.phase == Phase::Failed);
        ensure!(failed.is_none(), "{:?}", failed.map(|vm| (&vm.name, &vm.failure)));
        ensure!(begin.elapsed() < PATIENCE, "{running} of {vms} run");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// User and system time: fields 14 and 15 of /proc/PID/stat (proc(5)).
pub(crate) fn cpu_time(pid: u32) -> anyhow::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("the agent is gone")?;
    let (_, after_name) = stat.rsplit_once(')').context("no name in stat")?;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    let ticks = ticks().zip(ticks()).map(|(user, system)| user + system).context("no times")?;
    // USER_HZ is 100 on every architecture that we run on.
    Ok(Duration::from_millis(ticks * 10))
}

/// How often its threads have slept, all together.
fn switches(pid: u32) -> anyhow::Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // One that has ended meanwhile counts no more.
        let Ok(status) = fs::read_to_string(task?.path().join("status")) else { continue };
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        sum += line.context("no switches")?.trim().parse::<u64>()?;
    }
    Ok(sum)
}
