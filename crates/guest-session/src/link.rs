//! What a handle and the session's task share about one stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use bytes::Bytes;
use inn_guest_proto::wire::{Control, Data, End, Eof, Reply, Request, reply};
use inn_guest_proto::{MAX_DATA, MAX_WINDOW, MIN_DATA_COST, WINDOW, data_cost};
use tokio::sync::{Notify, Semaphore, mpsc, watch};

use super::session::unexpected;
use super::task::Command;
use super::{GuestError, convert};

/// Every `Data` within the widest window, and the few other events of a stream: what
/// the guest may send without our consuming it fits, so the task never waits.
pub(super) const STREAM_EVENTS: usize = (MAX_WINDOW / MIN_DATA_COST) as usize + 8;

/// Consumption is told to the task in pieces of this size: half of what the
/// protocol collects before it returns credit.
const TELL_FROM: u32 = WINDOW / 8;

#[derive(Debug)]
pub(super) enum StreamEvent {
    Reply(Box<Reply>),
    Data(Data),
    /// Boxed like a reply: there are many data and few of these.
    End(Box<End>),
    /// The request never reached the guest.
    Failed(GuestError),
}

/// One per stream. The atomics let a handle speak to the task without waiting,
/// also from `drop`.
#[derive(Debug)]
pub(super) struct Link {
    /// Ours, unlike the stream's number, which the task learns from the protocol.
    pub(super) key: u64,
    /// Credit to send, mirrored from the protocol; closed when the stream ends.
    pub(super) credit: Semaphore,
    pub(super) consumed: AtomicU32,
    pub(super) cancelled: AtomicBool,
    wake: Arc<Notify>,
}

impl Link {
    pub(super) fn new(key: u64, wake: Arc<Notify>) -> Self {
        Self {
            key,
            credit: Semaphore::new(WINDOW as usize),
            consumed: AtomicU32::new(0),
            cancelled: AtomicBool::new(false),
            wake,
        }
    }
}

/// A stream's receiving end. Dropping it cancels the stream.
#[derive(Debug)]
pub(super) struct StreamReader {
    pub(super) link: Arc<Link>,
    pub(super) events: mpsc::Receiver<StreamEvent>,
    pub(super) closed: watch::Receiver<Option<GuestError>>,
    pub(super) ended: bool,
    /// The session lasts as long as somebody reads from it.
    pub(super) _session: mpsc::Sender<Command>,
    pub(super) _held: Option<super::session::Held>,
}

impl StreamReader {
    /// The next event; the session's end is an error. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<StreamEvent, GuestError> {
        let event = self.arrived().await?;
        if let StreamEvent::Data(data) = &event {
            self.consumed(data);
        }
        Ok(event)
    }

    /// Gives the guest its credit back.
    pub(super) fn consumed(&self, data: &Data) {
        let cost = data_cost(data.bytes.len());
        let before = self.link.consumed.fetch_add(cost, Ordering::AcqRel);
        if before < TELL_FROM && before.saturating_add(cost) >= TELL_FROM {
            self.link.wake.notify_one();
        }
    }

    /// As [`next`](Self::next), but data are not consumed yet. Cancel safe.
    pub(super) async fn arrived(&mut self) -> Result<StreamEvent, GuestError> {
        match self.events.recv().await {
            Some(StreamEvent::End(end)) => {
                self.ended = true;
                Ok(StreamEvent::End(end))
            }
            Some(StreamEvent::Failed(error)) => {
                self.ended = true;
                Err(error)
            }
            Some(event) => Ok(event),
            None => {
                self.ended = true;
                Err(reason_of(&self.closed))
            }
        }
    }
}

impl StreamReader {
    /// The reply that comes ahead of all else; a refusal is an error.
    pub(super) async fn reply(&mut self) -> Result<reply::Kind, GuestError> {
        match self.next().await? {
            StreamEvent::Reply(reply) => {
                reply.kind.ok_or_else(|| convert::misdirected("a reply of an unknown kind"))
            }
            StreamEvent::End(end) => Err(unexpected(&convert::outcome(end)?)),
            StreamEvent::Data(_) | StreamEvent::Failed(_) => {
                Err(convert::misdirected("data before a reply"))
            }
        }
    }
}

impl StreamReader {
    /// As if the stream had ended: the guest is told nothing, and notices the
    /// session's end.
    pub(super) fn leave(&mut self) {
        self.ended = true;
    }
}

impl Drop for StreamReader {
    fn drop(&mut self) {
        if !self.ended {
            self.link.cancelled.store(true, Ordering::Release);
            self.link.wake.notify_one();
        }
    }
}

/// A stream's sending end.
#[derive(Debug)]
pub(super) struct StreamWriter {
    pub(super) link: Arc<Link>,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) closed: watch::Receiver<Option<GuestError>>,
}

/// The stream is over, and so is what is sent on it.
#[derive(Debug)]
pub(super) struct StreamOver;

impl StreamWriter {
    /// Sends as much of `bytes` as one message carries and leaves the rest.
    /// `offset` is 0 where it has no meaning. Cancel safe: either it is sent,
    /// or `bytes` is as it was.
    pub(super) async fn send_some(&self, bytes: &mut Bytes, offset: u64) -> Result<(), StreamOver> {
        let length = bytes.len().min(MAX_DATA);
        let permit =
            self.link.credit.acquire_many(data_cost(length)).await.map_err(|_| StreamOver)?;
        // A permit that is dropped while waiting here goes back.
        let slot = self.commands.reserve().await.map_err(|_| StreamOver)?;
        permit.forget();
        let data = Data { bytes: bytes.split_to(length), offset, ..Data::default() };
        slot.send(Command::Data { key: self.link.key, data });
        Ok(())
    }

    pub(super) async fn send_eof(&self, eof: Eof) -> Result<(), StreamOver> {
        let command = Command::Eof { key: self.link.key, eof };
        self.commands.send(command).await.map_err(|_| StreamOver)
    }
}

/// Steers a stream; see [`super::ExecControl`].
#[derive(Debug, Clone)]
pub(super) struct StreamControl {
    pub(super) key: u64,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) closed: watch::Receiver<Option<GuestError>>,
}

impl StreamControl {
    pub(super) async fn send(&self, control: Control) -> Result<(), GuestError> {
        let command = Command::Control { key: self.key, control };
        self.commands.send(command).await.map_err(|_| reason_of(&self.closed))
    }
}

/// Everything that opening a stream hands to the task.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) request: Request,
    pub(super) link: Arc<Link>,
    pub(super) events: mpsc::Sender<StreamEvent>,
}

/// Why the session is over; only asked once it is.
pub(super) fn reason_of(closed: &watch::Receiver<Option<GuestError>>) -> GuestError {
    closed.borrow().clone().unwrap_or_else(|| GuestError::closed("its task was stopped"))
}
