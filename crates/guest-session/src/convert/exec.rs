use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use inn_guest_proto::wire::{self, exec_note};
use inn_units::ExecId;

use super::{clip, millis, misdirected, undecodable};
use crate::{
    ExecEnd, ExecEvent, ExecSpec, ExecStatus, ExecSummary, GuestError, InputTaken, RestartPolicy,
    Supervision, TtySize,
};

/// Execs in one answer: each takes more memory here than on the wire.
const MAX_EXECS: usize = 4096;

pub(crate) fn exec_id(id: ExecId) -> Bytes {
    Bytes::copy_from_slice(id.as_bytes())
}

pub(crate) fn exec(spec: ExecSpec) -> wire::Exec {
    wire::Exec {
        id: exec_id(spec.id),
        argv: spec.argv,
        env: spec.env,
        cwd: spec.cwd.unwrap_or_default(),
        make_cwd: spec.make_cwd,
        user: spec.user.unwrap_or_default(),
        tty: spec.tty.map(tty),
        stdin: spec.stdin,
        timeout_ms: spec.timeout.map_or(0, |limit| {
            // 0 is no timeout: the shortest one there is, is a millisecond.
            u64::try_from(limit.as_millis()).unwrap_or(u64::MAX).max(1)
        }),
        output_limit: spec.output_limit,
        retain_bytes: spec.retain,
        lasting: spec.lasting.map(|grace| wire::Lasting { grace_ms: millis(grace) }),
        command_line: spec.command_line.unwrap_or_default(),
        supervision: spec.supervision.map(supervision),
        notes: spec.supervision.is_some(),
        stable_addresses: spec.stable_addresses,
    }
}

fn supervision(supervision: Supervision) -> wire::Supervision {
    let policy = match supervision.policy {
        RestartPolicy::No => wire::RestartPolicy::No,
        RestartPolicy::OnFailure => wire::RestartPolicy::OnFailure,
        RestartPolicy::Always => wire::RestartPolicy::Always,
    };
    wire::Supervision {
        policy: policy.into(),
        min_delay_ms: millis(supervision.min_delay),
        max_delay_ms: millis(supervision.max_delay),
    }
}

pub(crate) fn tty(size: TtySize) -> wire::TtySize {
    wire::TtySize { rows: size.rows.into(), cols: size.cols.into() }
}

pub(crate) fn input_taken(taken: wire::InputTaken) -> InputTaken {
    InputTaken { bytes: taken.bytes, ended: taken.ended }
}

pub(crate) fn exec_end(end: wire::ExecEnd) -> Result<ExecEnd, GuestError> {
    let status = match end.status {
        Some(wire::exec_end::Status::Code(code)) => ExecStatus::Code(code & 0xff),
        // Linux has 64 signals (signal(7)).
        Some(wire::exec_end::Status::Signal(number @ 1..=64)) => ExecStatus::Signal(number),
        _ => return Err(misdirected("an exec's end without a status")),
    };
    Ok(ExecEnd {
        status,
        timed_out: end.timed_out,
        truncated: end.truncated,
        output: end.output,
        took: Duration::from_nanos(end.took_ns),
    })
}

pub(crate) fn exec_list(list: wire::ExecList) -> Result<Vec<ExecSummary>, GuestError> {
    if list.execs.len() > MAX_EXECS {
        return Err(misdirected("an endless list of execs"));
    }
    list.execs.into_iter().map(exec_summary).collect()
}

/// `None` is a note that only a newer node understands.
pub(crate) fn note(bytes: Bytes) -> Result<Option<ExecEvent>, GuestError> {
    let note = wire::ExecNote::from_bytes(bytes).map_err(undecodable)?;
    let restarts = note.restarts;
    Ok(match note.kind {
        None => None,
        Some(exec_note::Kind::RunStarted(started)) => {
            Some(ExecEvent::RunStarted { pid: started.pid, restarts })
        }
        Some(exec_note::Kind::RunEnded(end)) => Some(ExecEvent::RunEnded {
            end: exec_end(end)?,
            restarts,
            next_in: Duration::from_millis(note.next_in_ms.into()),
        }),
    })
}

fn exec_summary(summary: wire::ExecSummary) -> Result<ExecSummary, GuestError> {
    let id = <[u8; ExecId::BYTES]>::try_from(summary.id.as_ref())
        .map_err(|_| misdirected("an exec's id of another length"))?;
    Ok(ExecSummary {
        id: ExecId::from_bytes(id),
        pid: summary.pid,
        argv: summary.argv,
        retained: summary.retained,
        output_start: summary.output_start,
        output_end: summary.output_end,
        ended: summary.ended.map(exec_end).transpose()?,
        started: (summary.started_unix_ms != 0)
            .then(|| UNIX_EPOCH.checked_add(Duration::from_millis(summary.started_unix_ms)))
            .flatten(),
        user: clip(&summary.user),
        tty: summary.tty,
        stdin_open: summary.stdin_open,
        restarts: summary.restarts,
        last_run: summary.last_run.map(exec_end).transpose()?,
    })
}
