use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use inn_guest_session::{GuestSession, Piece, ReadSpec, WriteSpec};

use super::machine::{GuestMachine, VM};
use super::port::RawPort;
use super::qga::Qga;
use crate::Bench;
use crate::program::timed;
use crate::report::{Figure, Row};
use crate::sample::Samples;

const MIB: usize = 1 << 20;

/// Of qemu-ga's files: it takes too long for one of ours.
const QGA_MIB: usize = 16;

const CHUNK: usize = 64 * 1024;

const PATH: &str = "/var/tmp/bench";

/// `inn vm cp`, the whole process, each way.
pub(super) fn by_the_command(bench: &mut Bench, machine: &GuestMachine) -> anyhow::Result<()> {
    let mib = bench.options.file_mib;
    let (here, back) = (bench.work.path().join("file"), bench.work.path().join("back"));
    let data = noise(mib * MIB);
    fs::write(&here, &data)?;
    let there = format!("{VM}:{PATH}");
    let (mut into, mut out) = (Samples::default(), Samples::default());
    let mut inside = Samples::default();
    for round in 0..=bench.options.file_rounds() {
        let own = written_inside(machine, mib)?;
        let one = timed(machine.agent.inn(&["vm", "cp"]).arg(&here).arg(&there))?;
        let other = timed(machine.agent.inn(&["vm", "cp"]).arg(&there).arg(&back))?;
        if fs::read(&back)? != data {
            bail!("the file came back another");
        }
        if round > 0 {
            inside.push(own);
            into.push(one);
            out.push(other);
        }
    }
    for (what, samples) in [
        ("what the guest itself writes to such a file, by dd from /dev/zero", inside),
        ("`inn vm cp` of a file into the guest, the whole process", into),
        ("`inn vm cp` of a file out of the guest, the whole process", out),
    ] {
        bench.report.push(Row {
            what,
            ours: throughput(samples, mib),
            raw: None,
            target: "",
            met: true,
        });
    }
    fs::remove_file(here)?;
    fs::remove_file(back)?;
    Ok(())
}

/// What no way into that file can be faster than, as dd tells it.
fn written_inside(machine: &GuestMachine, mib: usize) -> anyhow::Result<Duration> {
    let script = format!("dd if=/dev/zero of={PATH}-dd bs=1M count={mib} 2>&1; rm {PATH}-dd");
    let printed = machine.inside(&script)?;
    let seconds = printed.lines().last().and_then(|line| line.split(", ").nth(2));
    let seconds = seconds.and_then(|text| text.strip_suffix(" s")?.parse().ok());
    let seconds = seconds.with_context(|| format!("dd printed {printed:?}"))?;
    Ok(Duration::from_secs_f64(seconds))
}

/// By the session with the guest, against qemu-ga's calls and the bare port.
pub(super) fn below_the_api(
    bench: &mut Bench,
    machine: &GuestMachine,
    channel: &GuestSession,
) -> anyhow::Result<()> {
    let mib = bench.options.file_mib;
    let data = Bytes::from(noise(mib * MIB));
    let runtime = machine.agent.runtime();
    let mut port = RawPort::open(machine)?;
    let mut qga = Qga::connect(&machine.qga_socket())?;
    let other = format!("{PATH}-qga");
    let mut samples: [Samples; 6] = Default::default();
    for round in 0..=bench.options.file_rounds() {
        let took = [
            runtime.block_on(write(channel, data.clone()))?,
            port.sink(data.len())?,
            qga.write_file(&other, &data[..QGA_MIB * MIB])?,
            runtime.block_on(read(channel, data.len()))?,
            port.flood(data.len())?,
            qga.read_file(&other, QGA_MIB * MIB)?,
        ];
        if round > 0 {
            samples.iter_mut().zip(took).for_each(|(samples, took)| samples.push(took));
        }
    }
    let [into, sink, qga_in, out, flood, qga_out] = samples;
    push(
        bench,
        ["a file into the guest, against the bare port", "the same, against qemu-ga (16 MiB)"],
        [into, sink, qga_in],
    );
    push(
        bench,
        ["a file out of the guest, against the bare port", "the same, against qemu-ga (16 MiB)"],
        [out, flood, qga_out],
    );
    Ok(())
}

fn push(bench: &mut Bench, what: [&'static str; 2], samples: [Samples; 3]) {
    let mib = bench.options.file_mib;
    let [ours, raw, qga] = samples;
    let rate = |samples: &Samples, mib: usize| mib_per_second(mib, samples.median());
    let share = rate(&ours, mib) / rate(&raw, mib);
    let times = rate(&ours, mib) / rate(&qga, QGA_MIB);
    let mut first = throughput(ours.clone(), mib);
    first.text.push_str(&format!(" ({:.0} %)", share * 100.0));
    let mut second = throughput(ours, mib);
    second.text.push_str(&format!(" ({times:.1} times faster)"));
    bench.report.push(Row {
        what: what[0],
        ours: first,
        raw: Some(throughput(raw, mib)),
        target: "at least 60 %",
        met: share >= 0.6,
    });
    bench.report.push(Row {
        what: what[1],
        ours: second,
        raw: Some(throughput(qga, QGA_MIB)),
        target: "at least 5 times faster",
        met: times >= 5.0,
    });
}

fn throughput(samples: Samples, mib: usize) -> Figure {
    let rate = mib_per_second(mib, samples.median());
    let mut figure = Figure::median(samples);
    figure.text = format!("{rate:.1} MiB/s, {mib} MiB");
    figure
}

#[expect(clippy::cast_precision_loss, reason = "some hundred MiB")]
fn mib_per_second(mib: usize, milliseconds: f64) -> f64 {
    mib as f64 * 1e3 / milliseconds
}

async fn write(channel: &GuestSession, mut data: Bytes) -> anyhow::Result<Duration> {
    let begin = Instant::now();
    let mut writer = channel.write_file(PATH, WriteSpec::default()).await?;
    while !data.is_empty() {
        writer.write(data.split_to(data.len().min(CHUNK))).await?;
    }
    writer.finish().await?;
    Ok(begin.elapsed())
}

async fn read(channel: &GuestSession, expected: usize) -> anyhow::Result<Duration> {
    let begin = Instant::now();
    let mut reader = channel.read_file(PATH, ReadSpec::default()).await?;
    let mut read = 0;
    while let Some(piece) = reader.next().await? {
        match piece {
            Piece::Data(bytes) => read += bytes.len(),
            Piece::Hole(_) => bail!("a hole where there is none"),
        }
    }
    if read != expected {
        bail!("{read} bytes of {expected}");
    }
    Ok(begin.elapsed())
}

/// Bytes that no block is like another of: xorshift64 (Marsaglia, 2003).
fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for word in bytes.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes()[..word.len()]);
    }
    bytes
}
