//! A hundred VMs at rest, real ones: what does it take an agent to know how they
//! are?
//!
//! They are clones of one template, with one CPU, little memory and no network,
//! whose command sleeps. What is measured is the agent's CPU time, of one CPU: as
//! it is by default, with a scrape of `/metrics` each 15 s on top, and with
//! telemetry that is asked for once a day; usage is weighed each minute in all of
//! them. All that an agent does at rest is in it, so the first is what collection
//! takes at most.

use std::time::{Duration, Instant};

use anyhow::ensure;
use inn_api::{GuestLink, Network, Phase, Runtime, VmCreate};
use inn_client::Client;
use inn_units::{Bytes, Vcpus};

use crate::Bench;
use crate::agent::{Agent, pause};
use crate::fleet::{FRESH, cpu_time};
use crate::report::{Figure, Row};
use crate::sample::Samples;

pub(crate) const CONFIG: &str = "\
[admission]
memory_overcommit = 1000
cpu_overcommit = 1000
disk_overcommit = 1000

[templates]
pool_memory = \"0\"
";

const VMS: usize = 100;
const QUICK_VMS: usize = 8;
const MEMORY: Bytes = Bytes::mib(128);

/// Of which each has a pass of the ledger's.
const WATCHED: Duration = Duration::from_secs(60);
const QUICK_WATCHED: Duration = Duration::from_secs(10);

/// After the last start, and after a change: guests' first readings, the first
/// look at each machine, and what else a start leaves to be done.
const SETTLE: Duration = Duration::from_secs(30);
const QUICK_SETTLE: Duration = Duration::from_secs(5);

/// Prometheus' own default is a minute; packaging/prometheus has this.
const SCRAPE: Duration = Duration::from_secs(15);

/// One start after the other: a host of few CPUs does no better at once.
const PATIENCE: Duration = Duration::from_secs(180);

const LOOKS: usize = 15;
const TARGET_SHARE: f64 = 1.0;
const TARGET_LOOK_MS: f64 = 20.0;

pub(crate) fn measure(bench: &mut Bench) -> anyhow::Result<()> {
    let quick = bench.options.quick;
    let (vms, settle) = if quick { (QUICK_VMS, QUICK_SETTLE) } else { (VMS, SETTLE) };
    let watched = if quick { QUICK_WATCHED } else { WATCHED };
    let agent = Agent::start(bench, "rest", CONFIG)?;
    agent.import(bench.base(), "base")?;
    for n in 0..vms {
        agent.runtime().block_on(start(agent.client(), n))?;
    }
    let mut row = |what, took: Duration| {
        let share = took.as_secs_f64() / watched.as_secs_f64() * 100.0;
        let text = format!("{share:.2} %, {} ms in {} s", took.as_millis(), watched.as_secs());
        let ours = Figure::other(text, 1);
        let met = share < TARGET_SHARE;
        bench.report.push(Row { what, ours, raw: None, target: "under 1 %", met });
    };
    pause(settle);
    row(BY_DEFAULT, at_rest(&agent, watched, None)?);
    row(SCRAPED, at_rest(&agent, watched, Some(SCRAPE))?);
    let looks = looks(&agent)?;
    agent.reconfigure("telemetry.interval = \"24h\"")?;
    pause(settle);
    row(UNTOLD, at_rest(&agent, watched, None)?);
    let worst = looks.quantile(1.0);
    let mut figure = Figure::median(looks);
    figure.text = format!("{}, {worst:.1} ms at worst", figure.text);
    bench.report.push(Row {
        what: "GET /api/node/snapshot with them, measured anew each time",
        ours: figure,
        raw: None,
        target: "under 20 ms",
        met: worst < TARGET_LOOK_MS,
    });
    ensure!(running(&agent)? == vms, "VMs have ended meanwhile");
    Ok(())
}

const BY_DEFAULT: &str = "CPU time of the agent beside 100 VMs at rest, of one CPU";
const SCRAPED: &str = "the same with a scrape each 15 s";
const UNTOLD: &str = "the same without scrapes and with telemetry once a day";

pub(crate) async fn start(client: &Client, n: usize) -> anyhow::Result<()> {
    let create = VmCreate {
        name: Some(format!("vm-{n}").parse()?),
        image: Some("base".into()),
        runtime: Runtime::Qemu,
        network: Network::None,
        vcpus: Some(Vcpus::ONE),
        memory_bytes: Some(MEMORY),
        disk_bytes: Some(Bytes::mib(64)),
        command: Some(vec!["sleep".into(), "infinity".into()]),
        start: true,
        ..VmCreate::default()
    };
    client.create_vm(&create).await?;
    let begin = Instant::now();
    loop {
        let vm = client.vm(&format!("vm-{n}")).await?;
        if vm.phase == Phase::Running && vm.guest.link == GuestLink::Ready {
            return Ok(());
        }
        ensure!(vm.phase != Phase::Failed, "VM {n}: {:?}", vm.failure);
        ensure!(begin.elapsed() < PATIENCE, "VM {n} is not there yet: {:?}", vm.phase);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) fn running(agent: &Agent) -> anyhow::Result<usize> {
    let all = agent.runtime().block_on(agent.client().vms())?.items;
    Ok(all.iter().filter(|vm| vm.phase == Phase::Running).count())
}

/// CPU time of the agent meanwhile.
fn at_rest(agent: &Agent, watched: Duration, scrape: Option<Duration>) -> anyhow::Result<Duration> {
    let (begin, before) = (Instant::now(), cpu_time(agent.pid())?);
    while let Some(left) = watched.checked_sub(begin.elapsed()).filter(|left| !left.is_zero()) {
        let Some(every) = scrape else {
            pause(left);
            continue;
        };
        agent.runtime().block_on(agent.client().metrics())?;
        pause(every.min(watched.saturating_sub(begin.elapsed())));
    }
    Ok(cpu_time(agent.pid())? - before)
}

fn looks(agent: &Agent) -> anyhow::Result<Samples> {
    let mut took = Samples::default();
    for _ in 0..LOOKS {
        let begin = Instant::now();
        agent.runtime().block_on(agent.client().node_snapshot())?;
        took.push(begin.elapsed());
        // What is measured is good for a second.
        pause(FRESH);
    }
    Ok(took)
}
