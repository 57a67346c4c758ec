//! One exec and what is known of it.

use std::cell::{Cell, RefCell};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use inn_guest_proto::wire::{
    Exec, ExecEnd, ExecNote, ExecStarted, ExecSummary, TtySize, exec_note,
};
use tokio::sync::Notify;

use super::input::Stdin;
use super::lasting::Lasting;
use super::notes::Notes;
use super::ring::Ring;
use super::supervise::{Delivery, Supervisor};
use super::{Id, MAX_RETAIN};
use crate::os::pipes::Terminal;
use crate::os::process;
use crate::refusal::Refusal;

/// Bytes of the arguments that a listing shows: one of 256 execs must fit a
/// frame, and the rest of each takes some 170.
const SHOWN_ARGUMENTS: usize = 200;

/// What an argument takes besides its bytes.
const ARGUMENT_COST: usize = 2;

/// Likewise of the user.
const SHOWN_USER: usize = 32;

#[derive(Debug)]
pub(super) struct ExecState {
    pub(super) id: Id,
    /// Of the latest run.
    pub(super) pid: Cell<i32>,
    /// As far as a listing shows them.
    argv: Vec<String>,
    user: String,
    pub(super) tty: bool,
    started_unix_ms: u64,
    /// Present where it outlives its session.
    pub(super) lasting: Option<Lasting>,
    /// Present where the output is retained.
    pub(super) ring: Option<RefCell<Ring>>,
    pub(super) ended: Cell<Option<ExecEnd>>,
    last_run: Cell<Option<ExecEnd>>,
    /// The ring or the notes have more, or the exec has ended.
    pub(super) news: Notify,
    /// Bytes of output passed on or kept so far.
    pub(super) output: Cell<u64>,
    pub(super) truncated: Cell<u64>,
    pub(super) limit: Option<u64>,
    pub(super) stdin: Stdin,
    pub(super) terminal: RefCell<Option<Terminal>>,
    pub(super) size: Cell<Option<TtySize>>,
    pub(super) notes: RefCell<Notes>,
    pub(super) supervisor: RefCell<Supervisor>,
    /// The driver has to look at `supervisor` and `ending` again.
    pub(super) poked: Notify,
    /// The current run is to be ended, and no other to follow.
    pub(super) ending: Cell<bool>,
    /// Not to be kept when it has ended.
    pub(super) forgotten: Cell<bool>,
}

impl ExecState {
    /// Of a program that was just started.
    pub(super) fn new(id: Id, pid: i32, spec: &Exec, lasting: Option<Lasting>) -> Self {
        let retain = spec.retain_bytes.map(|bytes| bytes.min(MAX_RETAIN) as usize);
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            id,
            pid: Cell::new(pid),
            argv: shown(spec),
            user: clip(&spec.user, SHOWN_USER).to_owned(),
            tty: spec.tty.is_some(),
            started_unix_ms: u64::try_from(since_epoch.as_millis()).unwrap_or(0),
            lasting,
            ring: retain.map(|bytes| RefCell::new(Ring::new(bytes))),
            ended: Cell::new(None),
            last_run: Cell::new(None),
            news: Notify::new(),
            output: Cell::new(0),
            truncated: Cell::new(0),
            limit: spec.output_limit,
            stdin: Stdin::default(),
            terminal: RefCell::new(None),
            size: Cell::new(spec.tty),
            notes: RefCell::new(Notes::default()),
            supervisor: RefCell::new(Supervisor::new(spec.supervision.as_ref())),
            poked: Notify::new(),
            ending: Cell::new(false),
            forgotten: Cell::new(false),
        }
    }

    pub(super) fn started(&self) -> ExecStarted {
        ExecStarted {
            pid: self.pid.get().unsigned_abs(),
            input_taken: self.lasting.as_ref().map(|_| self.stdin.taken()),
        }
    }

    pub(super) fn signal(&self, signal: i32) -> Result<(), Refusal> {
        // 64 signals (signal(7)); 0 would only ask whether it is there.
        if !(1..=64).contains(&signal) {
            return Err(Refusal::invalid(format!("send the signal {signal}")));
        }
        if self.ended.get().is_some() {
            return Err(Refusal::not_found("signal an exec that has ended"));
        }
        let delivery = self.supervisor.borrow_mut().signalled(signal);
        match delivery {
            // The pid is ours until it is reaped, and the group may outlive it.
            Delivery::ToRun => process::signal_group(self.pid.get(), signal)
                .map_err(|error| Refusal::io(format!("send the signal {signal}"), &error)),
            Delivery::EndsWait => {
                self.poked.notify_one();
                Ok(())
            }
            Delivery::Nobody => Err(Refusal::not_found("signal an exec between two of its runs")),
        }
    }

    pub(super) fn resize(&self, size: &TtySize) {
        if let Some(terminal) = &*self.terminal.borrow() {
            self.size.set(Some(*size));
            let _gone = terminal.resize(size);
        }
    }

    /// No further run; the current one goes on.
    pub(super) fn run_no_more(&self) {
        self.supervisor.borrow_mut().stop();
        self.poked.notify_one();
    }

    /// No further run, and the current one is ended.
    pub(super) fn end_all(&self) {
        self.ending.set(true);
        self.run_no_more();
    }

    /// Books what befell it, behind all output so far.
    pub(super) fn note(&self, kind: exec_note::Kind, next_in_ms: u32) -> ExecNote {
        if let exec_note::Kind::RunEnded(end) = &kind {
            self.last_run.set(Some(*end));
        }
        let restarts = self.supervisor.borrow().restarts();
        let note = ExecNote { kind: Some(kind), restarts, next_in_ms };
        self.notes.borrow_mut().push(self.output.get(), note);
        self.news.notify_waiters();
        note
    }

    /// Its owner has gone, and it is not to be kept.
    pub(super) fn is_hung_up(&self) -> bool {
        self.lasting.as_ref().is_some_and(Lasting::is_hung_up)
    }

    /// Of the output that is kept.
    pub(super) fn cost(&self) -> usize {
        let ring = self.ring.as_ref().map_or(0, |ring| ring.borrow().cost());
        self.lasting.as_ref().map_or(ring, |lasting| lasting.outbox.borrow().cost())
    }

    pub(super) fn summary(&self) -> ExecSummary {
        let (start, end) = match (&self.ring, &self.lasting) {
            (Some(ring), _) => (ring.borrow().start(), ring.borrow().end()),
            (None, Some(lasting)) => (lasting.outbox.borrow().start(), self.output.get()),
            (None, None) => (self.output.get(), self.output.get()),
        };
        let supervisor = self.supervisor.borrow();
        ExecSummary {
            id: Bytes::copy_from_slice(&self.id),
            pid: self.pid.get().unsigned_abs(),
            argv: self.argv.clone(),
            retained: self.ring.is_some(),
            output_start: start,
            output_end: end,
            ended: self.ended.get(),
            started_unix_ms: self.started_unix_ms,
            user: self.user.clone(),
            tty: self.tty,
            stdin_open: self.stdin.is_open(),
            restarts: supervisor.restarts(),
            last_run: match supervisor.restarts_at_all() {
                true => self.ended.get().or(self.last_run.get()),
                false => None,
            },
        }
    }
}

fn shown(spec: &Exec) -> Vec<String> {
    let line = Some(&spec.command_line).filter(|_| spec.argv.is_empty());
    let mut room = SHOWN_ARGUMENTS;
    let pieces = spec.argv.iter().chain(line).map_while(|argument| {
        room = room.checked_sub(ARGUMENT_COST)?;
        let piece = clip(argument, room);
        room -= piece.len();
        Some(piece.to_owned())
    });
    pieces.collect()
}

/// At most so many bytes, and no half letter.
fn clip(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_shows_the_beginning_of_the_arguments() {
        let argv = vec!["echo".to_owned(), "é".repeat(300), "never".to_owned()];
        let shown = shown(&Exec { argv, ..Exec::default() });
        assert_eq!(shown[0], "echo");
        assert_eq!(shown[1], "é".repeat(96));
        assert!(shown.get(2).is_none_or(String::is_empty));
        let many = Exec { argv: vec![String::new(); 100_000], ..Exec::default() };
        assert_eq!(super::shown(&many).len(), SHOWN_ARGUMENTS / ARGUMENT_COST);
        let line = Exec { command_line: "ls | wc".into(), ..Exec::default() };
        assert_eq!(super::shown(&line), ["ls | wc"]);
    }
}
