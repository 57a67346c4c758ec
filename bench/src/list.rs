use anyhow::Context;
use inn_api::{Runtime, VmCreate};

use crate::Bench;
use crate::agent::Agent;
use crate::program::{output, timed};
use crate::report::{Figure, Row};
use crate::sample::Samples;

const VMS: usize = 100;

/// A process of some milliseconds: more runs than of a boot.
const RUNS_PER_ROUND: usize = 10;

/// `inn vm list`, the whole process.
pub(crate) fn measure(bench: &mut Bench) -> anyhow::Result<()> {
    let agent = Agent::start(bench, "list", "[sim]\nenabled = true\n")?;
    agent.import(bench.base(), "base")?;
    for n in 0..VMS {
        let create = VmCreate {
            name: Some(format!("vm-{n}").parse()?),
            image: Some("base".into()),
            runtime: Runtime::Sim,
            start: true,
            ..VmCreate::default()
        };
        agent
            .runtime()
            .block_on(agent.client().create_vm(&create))
            .with_context(|| format!("creating VM {n}"))?;
    }
    let shown = output(&mut agent.inn(&["vm", "list", "--all"]))?;
    let rows = shown.lines().filter(|line| line.contains("vm-")).count();
    anyhow::ensure!(rows == VMS, "{rows} VMs are listed where {VMS} are there:\n{shown}");

    let mut samples = Samples::default();
    for _ in 0..bench.options.rounds * RUNS_PER_ROUND {
        samples.push(timed(&mut agent.inn(&["vm", "list", "--all"]))?);
    }
    bench.report.push(Row {
        what: "`inn vm list` with 100 simulated VMs, the whole process",
        met: samples.median() < 10.0,
        ours: Figure::spread(samples),
        raw: None,
        target: "under 10 ms",
    });
    Ok(())
}
