use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use inn_client::{Client, ExecEvent, ExecRequest};
use inn_guest_session::{ExecSpec, GuestSession};
use inn_units::ExecId;

use crate::Bench;
use crate::agent::Agent;
use crate::program::{build_guest_program, output, timed};
use crate::report::{Figure, Row};
use crate::sample::Samples;

/// How many of one kind before the other kind's turn.
const TURN: usize = 10;

/// `/bin/true` in a running VM, through the agent's API and inside the guest.
pub(crate) fn measure(bench: &mut Bench) -> anyhow::Result<()> {
    let agent = Agent::start(bench, "exec", "")?;
    agent.import(bench.base(), "base")?;
    let timer = build_guest_program("spawn_timer", bench.work.path())?;
    timed(&mut agent.inn(&["vm", "create", "--image", "base", "--name", "exec", "--cpus", "1"]))?;
    timed(&mut agent.inn(&["vm", "start", "exec"]))?;
    timed(agent.inn(&["vm", "cp"]).arg(&timer).arg("exec:/usr/local/bin/spawn_timer"))?;
    timed(&mut agent.inn(&[
        "vm",
        "exec",
        "exec",
        "--",
        "chmod",
        "0755",
        "/usr/local/bin/spawn_timer",
    ]))?;

    let count = TURN.to_string();
    let mut inside = Samples::default();
    let mut through = Samples::default();
    // The first turn translates code and fills caches on both sides.
    for round in 0..=bench.options.rounds {
        let printed = output(&mut agent.inn(&["vm", "exec", "exec", "--", "spawn_timer", &count]))?;
        let took = printed.lines().map(|line| line.trim().parse().map(Duration::from_micros));
        let took: Vec<Duration> = took
            .collect::<Result<_, _>>()
            .with_context(|| format!("the guest printed {printed:?}"))?;
        for _ in 0..TURN {
            let one = agent.runtime().block_on(exec_true(agent.client(), "exec"))?;
            if round > 0 {
                through.push(one);
            }
        }
        if round > 0 {
            took.into_iter().for_each(|one| inside.push(one));
        }
    }
    let above = through.median() - inside.median();
    let mut ours = Figure::spread(through);
    ours.text.push_str(&format!(" ({above:+.1} ms)"));
    bench.report.push(Row {
        what: "exec of `/bin/true` over the API, against spawn and wait inside the same guest",
        ours,
        raw: Some(Figure::spread(inside)),
        target: "p50 at most 2 ms above",
        met: above <= 2.0,
    });
    Ok(())
}

/// From the request to the exit status in the client's hands.
pub(crate) async fn exec_true(client: &Client, vm: &str) -> anyhow::Result<Duration> {
    let request = ExecRequest { command: vec!["/bin/true".into()], ..ExecRequest::default() };
    let begin = Instant::now();
    let (_sender, mut events) = client.exec(vm, &request).await?;
    while let Some(event) = events.next().await? {
        if let ExecEvent::Status(status) = event {
            let took = begin.elapsed();
            if status.exit_code() != Some(0) {
                bail!("/bin/true ended with {status:?}");
            }
            return Ok(took);
        }
    }
    bail!("the exec's channel closed without a status")
}

/// The same by the session with the guest, without the API.
pub(crate) async fn exec_true_on(
    channel: &GuestSession,
    id: ExecId,
    stable_addresses: bool,
) -> anyhow::Result<Duration> {
    let spec = ExecSpec { stable_addresses, ..ExecSpec::new(id, vec!["/bin/true".into()]) };
    let begin = Instant::now();
    let mut exec = channel.exec(spec).await?;
    while let Some(event) = exec.next().await? {
        if let inn_guest_session::ExecEvent::Exited(end) = event {
            let took = begin.elapsed();
            if end.exit_code() != 0 {
                bail!("/bin/true ended with {:?}", end.status);
            }
            return Ok(took);
        }
    }
    bail!("the exec has no end")
}
