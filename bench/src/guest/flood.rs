//! What an exec that prints without end costs its neighbours in the guest, for
//! two of its kind: one whose output goes to a client, one that prints into
//! the guest's own /dev/null.

use std::time::{Duration, Instant};

use inn_client::{Client, ExecRequest, StatsQuery};
use tokio::task::JoinHandle;

use super::machine::{GuestMachine, VM};
use crate::Bench;
use crate::exec::exec_true;
use crate::report::{Figure, Row};
use crate::sample::Samples;

/// Of one kind before the other's turn.
const TURN: usize = 5;

/// For the flood to reach its height.
const RISES: Duration = Duration::from_millis(300);

/// What counts as the same: the medians of one flood differ by as much.
const NOISE: f64 = 1.1;

const FLOODS: [&str; 2] = ["exec cat /dev/zero", "exec cat /dev/zero >/dev/null"];

pub(super) fn measure(bench: &mut Bench, machine: &GuestMachine) -> anyhow::Result<()> {
    let client = machine.agent.client();
    let rounds = bench.options.rounds;
    let (mut execs, mut readings): ([Samples; 2], [Samples; 2]) = Default::default();
    machine.agent.runtime().block_on(async {
        for round in 0..=rounds {
            for (kind, script) in FLOODS.into_iter().enumerate() {
                let flood = flood(client, script);
                tokio::time::sleep(RISES).await;
                for _ in 0..TURN {
                    let (exec, reading) = (exec_true(client, VM).await?, read(client).await?);
                    if round > 0 {
                        execs[kind].push(exec);
                        readings[kind].push(reading);
                    }
                }
                // With its client the exec ends.
                flood.abort();
            }
        }
        anyhow::Ok(())
    })?;
    push(bench, "exec of `/bin/true` beside a flood of output to a client", execs);
    push(bench, "a reading of telemetry beside it", readings);
    Ok(())
}

fn push(bench: &mut Bench, what: &'static str, [told, silent]: [Samples; 2]) {
    let times = told.median() / silent.median();
    let mut ours = Figure::spread(told);
    ours.text.push_str(&format!(" ({times:.2} ×)"));
    bench.report.push(Row {
        what,
        ours,
        raw: Some(Figure::spread(silent)),
        target: "no more than beside one into /dev/null",
        met: times <= NOISE,
    });
}

fn flood(client: &Client, script: &str) -> JoinHandle<()> {
    let (client, shell) = (client.clone(), Some(script.to_owned()));
    tokio::spawn(async move {
        let request = ExecRequest { shell, ..ExecRequest::default() };
        let Ok((_sender, mut events)) = client.exec(VM, &request).await else { return };
        while let Ok(Some(_)) = events.next().await {}
    })
}

async fn read(client: &Client) -> anyhow::Result<Duration> {
    let begin = Instant::now();
    client.stats(VM, StatsQuery { fresh: true, ..StatsQuery::default() }).await?;
    Ok(begin.elapsed())
}
