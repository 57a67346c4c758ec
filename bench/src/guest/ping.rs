use inn_guest_session::GuestSession;

use super::machine::GuestMachine;
use super::port::RawPort;
use super::qga::Qga;
use crate::Bench;
use crate::report::{Figure, Row};
use crate::sample::Samples;

/// Of one kind before the others' turn.
const TURN: usize = 20;

/// As many bytes as a ping of ours takes on the channel, about.
const MESSAGE: usize = 24;

pub(super) fn measure(
    bench: &mut Bench,
    machine: &GuestMachine,
    channel: &GuestSession,
) -> anyhow::Result<()> {
    let mut port = RawPort::open(machine)?;
    let mut qga = Qga::connect(&machine.qga_socket())?;
    let (mut ours, mut raw, mut others) =
        (Samples::default(), Samples::default(), Samples::default());
    for round in 0..=bench.options.rounds {
        for _ in 0..TURN {
            let one = machine.agent.runtime().block_on(channel.ping())?;
            let (echo, ping) = (port.echo(&[1; MESSAGE])?, qga.ping()?);
            if round > 0 {
                ours.push(one);
                raw.push(echo);
                others.push(ping);
            }
        }
    }
    let times = ours.median() / raw.median();
    let mut figure = Figure::spread_finely(ours);
    figure.text.push_str(&format!(" ({times:.2} ×)"));
    bench.report.push(Row {
        what: "ping of the guest agent, against an echo on a port of the same kind",
        ours: figure,
        raw: Some(Figure::spread_finely(raw)),
        target: "p50 at most 1.5 ×",
        met: times <= 1.5,
    });
    bench.report.push(Row {
        what: "the same, of qemu-ga (for comparison)",
        ours: Figure::spread_finely(others),
        raw: None,
        target: "",
        met: true,
    });
    Ok(())
}
