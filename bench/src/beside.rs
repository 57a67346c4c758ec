//! What a VM that runs takes of memory beside its VMM: of the agent, and in the
//! processes of ours that belong to it.
//!
//! Real ones under QEMU, clones of one template as in `rest`: the difference
//! between two of them and some more is what each takes, so that what the agent has
//! read and made once is in neither. Of the agent that is what is resident, since
//! its program's pages belong to fewer the more processes map them; of the others,
//! which have little else, their share of those (PSS).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::ensure;

use crate::Bench;
use crate::agent::{Agent, pause};
use crate::memory::rollup_kib;
use crate::report::{Figure, Row};
use crate::rest;
use crate::snapshots::until_template;

const MORE: usize = 20;
const QUICK_MORE: usize = 4;

/// For what a start leaves to be done, a guest's first readings among it.
const SETTLE: Duration = Duration::from_secs(30);
const QUICK_SETTLE: Duration = Duration::from_secs(10);

const TARGET_KIB: i64 = 256;

/// In KiB.
#[derive(Debug, Clone, Copy, Default)]
struct Taken {
    agent: i64,
    /// Of that, what is no file's.
    anonymous: i64,
    helpers: i64,
    /// How many.
    processes: i64,
}

pub(crate) fn measure(bench: &mut Bench) -> anyhow::Result<()> {
    let quick = bench.options.quick;
    let (more, settle) = if quick { (QUICK_MORE, QUICK_SETTLE) } else { (MORE, SETTLE) };
    let agent = Agent::start(bench, "beside", rest::CONFIG)?;
    agent.import(bench.base(), "base")?;
    let start = |n| agent.runtime().block_on(rest::start(agent.client(), n));
    start(0)?;
    until_template(&agent, 0)?;
    // The first clone is where all of its code runs for the first time.
    start(1)?;
    pause(settle);
    let few = Taken::now(agent.pid(), &bench.options.inn)?;
    for n in 2..more + 2 {
        start(n)?;
    }
    pause(settle);
    let many = Taken::now(agent.pid(), &bench.options.inn)?;
    ensure!(rest::running(&agent)? == more + 2, "VMs have ended meanwhile");
    let count = i64::try_from(more)?;
    let each = |of: fn(&Taken) -> i64| (of(&many) - of(&few)) / count;
    let (of_agent, anonymous) = (each(|taken| taken.agent), each(|taken| taken.anonymous));
    let text = format!(
        "{of_agent} KiB, {anonymous} of them no file's; {} MiB with 2, {} with {}",
        few.agent / 1024,
        many.agent / 1024,
        more + 2
    );
    bench.report.push(Row {
        what: "resident memory of the agent for each running VM, VMM apart",
        ours: Figure::other(text, more),
        raw: None,
        target: "under 256 KiB",
        met: of_agent < TARGET_KIB,
    });
    let text = format!(
        "{} KiB, in {} processes for {more} more VMs",
        each(|taken| taken.helpers),
        many.processes - few.processes
    );
    bench.report.push(Row {
        what: "memory (PSS) of the processes that write its logs",
        ours: Figure::other(text, more),
        raw: None,
        target: "",
        met: true,
    });
    Ok(())
}

impl Taken {
    /// `inn` is the program of the agent and of its helpers.
    fn now(agent: u32, inn: &Path) -> anyhow::Result<Self> {
        let [agent_rss, anonymous] = ["Rss", "Anonymous"].map(|of| kib(agent, of));
        let mut taken = Self { agent: agent_rss?, anonymous: anonymous?, ..Self::default() };
        for (pid, program) in descendants(agent)? {
            if program == inn {
                taken.helpers += kib(pid, "Pss")?;
                taken.processes += 1;
            }
        }
        Ok(taken)
    }
}

fn kib(pid: u32, of: &str) -> anyhow::Result<i64> {
    Ok(rollup_kib(pid, of)?.try_into()?)
}

/// All below it, with the programs that they are. One that has ended meanwhile is
/// none.
fn descendants(of: u32) -> anyhow::Result<Vec<(u32, PathBuf)>> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let Ok(pid) = entry?.file_name().to_string_lossy().parse::<u32>() else { continue };
        let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else { continue };
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
        if let Some(parent) = parent.and_then(|parent| parent.trim().parse().ok()) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let (mut found, mut next) = (Vec::new(), vec![of]);
    while let Some(pid) = next.pop() {
        for child in children.remove(&pid).unwrap_or_default() {
            next.push(child);
            if let Ok(program) = fs::read_link(format!("/proc/{child}/exe")) {
                found.push((child, program));
            }
        }
    }
    Ok(found)
}
