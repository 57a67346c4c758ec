use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use inn_guest_proto::wire::{ExecEnd, ExecSummary, exec_end};
use tokio::time::Instant;

use crate::program::{Ends, Program};

const SIGKILL: i32 = 9;

/// What a guest remembers across sessions.
#[derive(Debug, Default)]
pub(crate) struct GuestState {
    pub(crate) configured: bool,
    /// By their ids. Those that are not retained go with their stream.
    pub(crate) execs: BTreeMap<Bytes, Exec>,
    last_pid: u32,
}

impl GuestState {
    pub(crate) fn new(configured: bool) -> Self {
        // 1 is the guest agent itself.
        Self { configured, execs: BTreeMap::new(), last_pid: 1 }
    }

    pub(crate) fn next_pid(&mut self) -> u32 {
        self.last_pid = self.last_pid.wrapping_add(1);
        self.last_pid
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Exec {
    pub(crate) pid: u32,
    pub(crate) argv: Vec<String>,
    pub(crate) program: Program,
    pub(crate) started: Instant,
    pub(crate) timeout: Option<Duration>,
    pub(crate) retained: bool,
    /// When its stdin ended; at once where it has none.
    pub(crate) stdin_ended: Option<Instant>,
    /// The bytes that it has copied from stdin.
    pub(crate) copied: u64,
    pub(crate) killed: Option<(Instant, i32)>,
}

impl Exec {
    pub(crate) fn kill(&mut self, now: Instant, signal: i32) {
        if self.end(now).is_none() {
            self.killed = Some((now, signal));
        }
    }

    /// When it ends of itself, as far as that is known.
    pub(crate) fn due(&self) -> Option<Instant> {
        let itself = match self.program.ends {
            Ends::After(time) => self.started.checked_add(time),
            Ends::WithStdin => self.stdin_ended,
            Ends::Never => None,
        };
        let timeout = self.timeout.and_then(|timeout| self.started.checked_add(timeout));
        [itself, timeout].into_iter().flatten().min()
    }

    /// How it has ended, if it has.
    pub(crate) fn end(&self, now: Instant) -> Option<ExecEnd> {
        let (at, status, timed_out) = match (self.killed, self.due()) {
            (Some((at, signal)), _) => (at, exec_end::Status::Signal(signal), false),
            (None, Some(due)) if due <= now => {
                let timeout = self.timeout.and_then(|timeout| self.started.checked_add(timeout));
                // What ends just at its timeout has ended in time.
                let in_time = match self.program.ends {
                    Ends::After(time) => self.started.checked_add(time) == Some(due),
                    Ends::WithStdin => self.stdin_ended == Some(due),
                    Ends::Never => false,
                };
                match timeout {
                    Some(timeout) if timeout == due && !in_time => {
                        (due, exec_end::Status::Signal(SIGKILL), true)
                    }
                    _ => (due, exec_end::Status::Code(self.program.code), false),
                }
            }
            _ => return None,
        };
        let took = at.saturating_duration_since(self.started);
        Some(ExecEnd {
            timed_out,
            truncated: 0,
            output: self.output(),
            took_ns: u64::try_from(took.as_nanos()).unwrap_or(u64::MAX),
            status: Some(status),
        })
    }

    /// How many bytes it has written so far.
    pub(crate) fn output(&self) -> u64 {
        self.program.stdout.len() as u64 + self.copied
    }

    pub(crate) fn summary(&self, id: &Bytes, now: Instant) -> ExecSummary {
        ExecSummary {
            id: id.clone(),
            pid: self.pid,
            argv: self.argv.clone(),
            retained: self.retained,
            output_start: 0,
            output_end: self.output(),
            ended: self.end(now),
            ..ExecSummary::default()
        }
    }
}
