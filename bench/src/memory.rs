use std::fs;

use anyhow::Context;

use crate::Bench;
use crate::agent::Agent;
use crate::program::timed;
use crate::report::{Figure, Row};

const RUNS: usize = 5;
const TARGET_KIB: u64 = 30 * 1024;

/// Resident memory of an agent without a VM: fresh, and after some came and went.
pub(crate) fn measure(bench: &mut Bench) -> anyhow::Result<()> {
    let agent = Agent::start(bench, "memory", "")?;
    timed(&mut agent.inn(&["vm", "list", "--all"]))?;
    let fresh = resident_kib(agent.pid())?;
    agent.import(bench.base(), "base")?;
    for _ in 0..RUNS {
        timed(&mut agent.inn(&["run", "--rm", "base", "--", "true"]))?;
    }
    let used = resident_kib(agent.pid())?;
    bench.report.push(Row {
        what: "resident memory of an agent without a VM",
        ours: Figure::other(
            format!("{} MiB fresh, {} MiB after an import and {RUNS} VMs", mib(fresh), mib(used)),
            1,
        ),
        raw: None,
        target: "under 30 MiB",
        met: fresh < TARGET_KIB && used < TARGET_KIB,
    });
    Ok(())
}

pub(crate) fn mib(kib: u64) -> String {
    format!("{}.{}", kib / 1024, kib % 1024 * 10 / 1024)
}

/// proc_pid_smaps_rollup(5); `of` is a line of it, such as `Pss`.
pub(crate) fn rollup_kib(pid: u32, of: &str) -> anyhow::Result<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).context("it is gone")?;
    let field = |line: &str| Some(line.strip_prefix(of)?.strip_prefix(':')?.trim().to_owned());
    let line = rollup.lines().find_map(field).with_context(|| format!("no {of}"))?;
    Ok(line.trim_end_matches(" kB").parse()?)
}

pub(crate) fn resident_kib(pid: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the agent is gone")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
