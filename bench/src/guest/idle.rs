use anyhow::Context;

use super::machine::GuestMachine;
use crate::Bench;
use crate::report::{Figure, Row};

const MAX_BINARY: u64 = 2_500_000;
const MAX_RESIDENT_KIB: u64 = 4 << 10;

/// A clock tick of a process's accounts is 10 ms, which is USER_HZ (proc(5)).
const TICK_MS: u64 = 10;

/// VmRSS of the agent after some calm, in KiB.
pub(super) fn resident_kib(machine: &GuestMachine) -> anyhow::Result<u64> {
    let printed = machine.inside(
        "sleep 10; awk '/^VmRSS/ { print $2 }' /proc/$(systemctl show -p MainPID --value inn-guest)/status",
    )?;
    printed.trim().parse().with_context(|| format!("the guest printed {printed:?}"))
}

/// What the agent takes while nothing is asked of it but telemetry, as long as
/// `seconds` in one exec of the guest's own shell.
pub(super) fn measure(bench: &mut Bench, machine: &GuestMachine, fresh: u64) -> anyhow::Result<()> {
    let seconds = if bench.options.quick { 5 } else { 30 };
    let script = format!(
        "p=$(systemctl show -p MainPID --value inn-guest); \
         ticks() {{ awk '{{ print $14 + $15 }}' /proc/$p/stat; }}; \
         a=$(ticks); sleep {seconds}; b=$(ticks); \
         echo $(stat -L -c %s /proc/$p/exe) $(awk '/^VmRSS/ {{ print $2 }}' /proc/$p/status) \
         $((b - a))"
    );
    let printed = machine.inside(&script)?;
    let numbers: Vec<u64> = printed
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()
        .with_context(|| format!("the guest printed {printed:?}"))?;
    let [size, resident, ticks] = numbers[..] else {
        anyhow::bail!("the guest printed {printed:?}");
    };
    let row = |what, text, target, met| Row {
        what,
        ours: Figure::other(text, 1),
        raw: None,
        target,
        met,
    };
    let share = ticks * TICK_MS * 100 / (seconds * 1000);
    for row in [
        row(
            "the guest agent's binary",
            format!("{} KB", size / 1000),
            "at most 2.5 MB",
            size <= MAX_BINARY,
        ),
        row(
            "its resident memory, idle",
            format!("{fresh} KiB after the boot, {resident} KiB after the execs and files above"),
            "at most 4 MiB",
            fresh.max(resident) <= MAX_RESIDENT_KIB,
        ),
        row(
            "its CPU time, idle but for telemetry every 5 s",
            format!("{} ms in {seconds} s", ticks * TICK_MS),
            "under 1 % of a CPU",
            share < 1,
        ),
    ] {
        bench.report.push(row);
    }
    Ok(())
}
