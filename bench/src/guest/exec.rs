use std::time::{Duration, Instant};

use anyhow::Context;
use inn_guest_session::GuestSession;
use inn_units::ExecId;

use super::machine::{GuestMachine, VM};
use super::qga::Qga;
use crate::Bench;
use crate::exec::{exec_true, exec_true_on};
use crate::program::timed;
use crate::report::{Figure, Row};
use crate::sample::Samples;

/// How many of one kind before the others' turn.
const TURN: usize = 5;

/// As the node does it in an emulated guest.
const STABLE: bool = true;

/// Execs that begin together.
const AT_ONCE: usize = 100;

/// `/bin/true` four ways: by our API, by qemu-ga, by ssh, and inside.
pub(super) fn by_turns(bench: &mut Bench, machine: &GuestMachine) -> anyhow::Result<()> {
    let mut qga = Qga::connect(&machine.qga_socket())?;
    let [mut ours, mut others, mut ssh, mut inside]: [Samples; 4] = Default::default();
    // The first turn translates code and fills caches on both sides.
    for round in 0..=bench.options.rounds {
        let spawned = spawned_inside(machine)?;
        if round > 0 {
            spawned.into_iter().for_each(|one| inside.push(one));
        }
        // One kind after the other, as inside: each leaves the emulator's cache
        // of translated code as the next of its kind needs it.
        for _ in 0..TURN {
            let agent = &machine.agent;
            let one = agent.runtime().block_on(exec_true(agent.client(), VM))?;
            if round > 0 {
                ours.push(one);
            }
        }
        for _ in 0..TURN {
            let other = qga.exec("/bin/true")?;
            if round > 0 {
                others.push(other);
            }
        }
        let login = timed(&mut machine.ssh("/bin/true"))?;
        if round > 0 {
            ssh.push(login);
        }
    }
    let above = ours.median() - inside.median();
    let (by_qga, by_ssh) = (others.median() / ours.median(), ssh.median() / ours.median());
    let with = |samples: &Samples, text: String| {
        let mut figure = Figure::spread(samples.clone());
        figure.text.push_str(&text);
        figure
    };
    let rows = [
        (
            "exec of `/bin/true` in a Debian over the API, against spawn and wait inside it",
            with(&ours, format!(" ({above:+.1} ms)")),
            Figure::spread(inside),
            "p50 at most 2 ms above",
            above <= 2.0,
        ),
        (
            "the same, against qemu-ga's guest-exec with its status polled each 2 ms",
            with(&ours, format!(" ({by_qga:.1} times faster)")),
            Figure::spread(others),
            "well below it",
            by_qga > 1.5,
        ),
        (
            "the same, against a fresh ssh command",
            with(&ours, format!(" ({by_ssh:.1} times faster)")),
            Figure::spread(ssh),
            "at least 5 times faster",
            by_ssh >= 5.0,
        ),
    ];
    for (what, ours, raw, target, met) in rows {
        bench.report.push(Row { what, ours, raw: Some(raw), target, met });
    }
    Ok(())
}

fn spawned_inside(machine: &GuestMachine) -> anyhow::Result<Vec<Duration>> {
    let printed = machine.inside(&format!("spawn_timer {TURN}"))?;
    let took = printed.lines().map(|line| line.trim().parse().map(Duration::from_micros));
    took.collect::<Result<_, _>>().with_context(|| format!("the guest printed {printed:?}"))
}

/// None of a hundred may fail.
pub(super) fn at_once(bench: &mut Bench, machine: &GuestMachine) -> anyhow::Result<()> {
    let agent = &machine.agent;
    let begin = Instant::now();
    let took = agent.runtime().block_on(async {
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..AT_ONCE {
            let client = agent.client().clone();
            all.spawn(async move { exec_true(&client, VM).await });
        }
        let mut took = Samples::default();
        while let Some(one) = all.join_next().await {
            took.push(one??);
        }
        anyhow::Ok(took)
    })?;
    let all = begin.elapsed();
    let mut figure = Figure::spread(took);
    figure.text =
        format!("none failed, all after {:.0} ms, {}", all.as_secs_f64() * 1e3, figure.text);
    bench.report.push(Row {
        what: "100 execs of `/bin/true` at once over the API",
        ours: figure,
        raw: None,
        target: "none fails",
        met: true,
    });
    Ok(())
}

/// What the API adds to the session with the guest.
pub(super) fn below_the_api(
    bench: &mut Bench,
    machine: &GuestMachine,
    channel: &GuestSession,
) -> anyhow::Result<()> {
    let mut took = Samples::default();
    let mut ids = 0_u64..;
    for round in 0..=bench.options.rounds {
        for id in ids.by_ref().take(TURN) {
            let id = ExecId::from_bytes(id.to_be_bytes());
            let one = machine.agent.runtime().block_on(exec_true_on(channel, id, STABLE))?;
            if round > 0 {
                took.push(one);
            }
        }
    }
    bench.report.push(Row {
        what: "exec of `/bin/true` in it by the session with the guest, without the API",
        ours: Figure::spread(took),
        raw: None,
        target: "",
        met: true,
    });
    Ok(())
}
