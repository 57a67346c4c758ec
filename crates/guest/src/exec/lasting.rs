//! Execs that outlive the session in which they were asked for.
//!
//! ```text
//!            session lost                 attached in time
//!  followed ──────────────▶ left alone ─────────────────────▶ followed
//!   │ cancelled                │ grace over
//!   └──────────▶ hung up ◀─────┘          (SIGHUP, then SIGKILL; forgotten)
//!
//!  its End sent ──ForgetExec, or grace over──▶ forgotten
//! ```
//!
//! Output stays in the [`Outbox`] until the host says that it was taken, so
//! whoever attaches finds all that the host before could not pass on. While it
//! is full, the process's pipes are not read.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;

use inn_guest_proto::MAX_DATA;
use inn_guest_proto::wire::{Channel, Exec, FailureKind, InputTaken, end::Outcome};
use tokio::sync::Notify;
use tokio::time::sleep;

use super::outbox::Outbox;
use super::state::ExecState;
use super::{detach, input, output};
use crate::agent::Agent;
use crate::refusal::Refusal;
use crate::stream::{Gone, Stream};

/// How much of its output one may hold that has not been taken: twice what a
/// host has in flight, with its credit and what it has not told yet.
const MAX_OUTBOX: usize = 512 * 1024;

/// Where many run: twice of what a host must tell at the latest.
const MIN_OUTBOX: usize = 128 * 1024;

/// What all of them are to hold together, as far as the smallest allow.
const ALL_OUTBOXES: usize = 32 * 1024 * 1024;

/// Whatever a host asks for: a process that nobody wants goes at last.
const MAX_GRACE: Duration = Duration::from_secs(3600);

#[derive(Debug)]
pub(super) struct Lasting {
    pub(super) outbox: RefCell<Outbox>,
    /// The outbox has room, or nobody wants what would be put there.
    room: Notify,
    grace: Duration,
    follower: RefCell<Weak<Stream>>,
    /// Counts followers: a grace is that of the one it began with.
    followers: Cell<u64>,
    /// Its owner is gone.
    hung_up: Cell<bool>,
}

impl Lasting {
    /// Of one that is asked for beside so many others.
    pub(super) fn of(spec: &Exec, others: usize) -> Option<Self> {
        let wanted = spec.lasting.as_ref().filter(|wanted| wanted.grace_ms > 0)?;
        if spec.retain_bytes.is_some() || spec.supervision.is_some() {
            return None;
        }
        let share = ALL_OUTBOXES / (others + 1);
        Some(Self {
            outbox: RefCell::new(Outbox::new(share.clamp(MIN_OUTBOX, MAX_OUTBOX))),
            room: Notify::new(),
            grace: Duration::from_millis(wanted.grace_ms.into()).min(MAX_GRACE),
            follower: RefCell::default(),
            followers: Cell::new(0),
            hung_up: Cell::new(false),
        })
    }

    pub(super) fn is_hung_up(&self) -> bool {
        self.hung_up.get()
    }

    /// Waits until something more may be put into the outbox.
    pub(super) async fn room(&self) -> Result<(), Gone> {
        loop {
            if self.hung_up.get() {
                return Err(Gone);
            }
            if self.outbox.borrow().has_room() {
                return Ok(());
            }
            self.room.notified().await;
        }
    }

    pub(super) fn taken(&self, offset: u64) -> bool {
        let taken = self.outbox.borrow_mut().take(offset);
        self.room.notify_waiters();
        taken
    }

    fn hang_up(&self) {
        self.hung_up.set(true);
        self.room.notify_waiters();
    }

    /// Whether a stream may become the owner.
    pub(super) fn admit(&self, offset: u64) -> Result<(), Refusal> {
        let follower = self.follower.borrow().upgrade();
        let cancelled = follower.as_ref().is_some_and(|stream| stream.is_cancelled());
        if self.hung_up.get() || cancelled {
            return Err(Refusal::not_found("attach to an exec whose client has gone"));
        }
        if follower.is_some_and(|stream| !stream.is_gone()) {
            let what = "attach to an exec that another client has";
            return Err(Refusal::new(FailureKind::AlreadyExists, what));
        }
        if !self.taken(offset) {
            let outbox = self.outbox.borrow();
            let (start, end) = (outbox.start(), outbox.end());
            let what = format!("read output from {offset}: there is {start} to {end}");
            return Err(Refusal::invalid(what));
        }
        Ok(())
    }
}

/// Makes the stream the owner of the exec, which is lasting: everything from
/// `offset` on goes to it.
pub(super) fn follow(agent: &Rc<Agent>, exec: Rc<ExecState>, stream: Stream, offset: u64) {
    let Some(lasting) = &exec.lasting else { return };
    let stream = Rc::new(stream);
    let number = lasting.followers.get() + 1;
    lasting.followers.set(number);
    *lasting.follower.borrow_mut() = Rc::downgrade(&stream);
    input::feed(&exec, &stream);
    // The Reply has said it.
    let told = exec.stdin.taken();
    let agent = Rc::clone(agent);
    detach(async move {
        let steering = async {
            while let Ok(control) = stream.control().await {
                output::steer(&exec, &control);
            }
        };
        // Whichever ends first: cancelled while waiting, nothing is lost that
        // is not in the outbox.
        let told = tokio::select! {
            () = steering => false,
            sent = send_all(&exec, &stream, offset, told) => sent.is_ok(),
        };
        if told || stream.is_detached() {
            let grace = exec.lasting.as_ref().map_or(Duration::ZERO, |lasting| lasting.grace);
            drop(stream);
            sleep(grace).await;
            let current = exec.lasting.as_ref().is_some_and(|it| it.followers.get() == number);
            if !current {
                return;
            }
        }
        agent.execs.hang_up(&exec);
    });
}

impl super::ExecTable {
    /// Nobody wants the exec any more.
    fn hang_up(&self, exec: &ExecState) {
        if let Some(lasting) = &exec.lasting {
            lasting.hang_up();
        }
        if exec.ended.get().is_some() {
            self.remove(&exec.id);
        } else {
            // Its end is not to be kept: `settle` sees that it is hung up.
            exec.run_no_more();
        }
    }
}

/// What the process has said from `offset` on, how much of its input it has,
/// and its end.
async fn send_all(
    exec: &ExecState,
    stream: &Stream,
    mut offset: u64,
    mut told: InputTaken,
) -> Result<(), Gone> {
    loop {
        let taken = exec.stdin.taken();
        if taken != told {
            told = taken;
            stream.send(Channel::InputTaken, taken.to_bytes(), 0).await?;
        }
        let piece = exec.lasting.as_ref().and_then(|it| it.outbox.borrow().read(offset));
        match piece {
            Some((channel, mut bytes)) => {
                bytes.truncate(MAX_DATA);
                let at = offset;
                offset += bytes.len() as u64;
                stream.send(channel, bytes, at).await?;
            }
            None => {
                if let Some(end) = exec.ended.get() {
                    stream.end(Outcome::ExecEnd(end));
                    return Ok(());
                }
                if exec.stdin.taken() == told {
                    exec.news.notified().await;
                }
            }
        }
    }
}
