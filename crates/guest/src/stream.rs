//! A request's stream, as the task that serves it sees it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use inn_guest_proto::wire::{Channel, Control, Data, Eof, Reply, control, end};
use inn_guest_proto::{MAX_DATA, data_cost};
use tokio::sync::Notify;

use crate::newcomers::Sent;
use crate::session::Wire;

/// Signals and resizes that wait for a task that has not run yet; more are
/// dropped.
const MAX_CONTROLS: usize = 64;

/// The host does not listen any more: it cancelled, or its session is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gone;

/// What the host sends on the stream.
#[derive(Debug)]
pub(crate) enum Input {
    Data {
        bytes: Bytes,
        /// Of a sparse transfer: where they lie.
        offset: u64,
    },
    /// With the checksum of what came before, where the request has one.
    Eof(Eof),
}

#[derive(Debug)]
pub(crate) struct Stream {
    wire: Rc<Wire>,
    number: u32,
    state: Rc<StreamState>,
}

/// The session's side of a stream.
#[derive(Debug, Default)]
pub(crate) struct StreamState {
    inputs: RefCell<VecDeque<Input>>,
    input: Notify,
    sent: Sent,
    controls: RefCell<VecDeque<Control>>,
    /// Only the latest counts, and it is never dropped: a process may wait for
    /// it.
    output_taken: Cell<Option<u64>>,
    control: Notify,
    credit: Notify,
    gone: Notify,
    /// The host cancelled.
    cancelled: Cell<bool>,
    /// The session is over, and the number may belong to another stream.
    detached: Cell<bool>,
    /// Either of the two, for other threads.
    over: Arc<AtomicBool>,
}

impl StreamState {
    pub(crate) fn push_input(&self, input: Input) {
        // Bounded by the credit that the host has.
        self.inputs.borrow_mut().push_back(input);
        self.input.notify_one();
    }

    pub(crate) fn push_control(&self, control: Control) {
        let mut controls = self.controls.borrow_mut();
        if let Some(control::Action::OutputTaken(offset)) = control.action {
            self.output_taken.set(Some(offset));
        } else if controls.len() < MAX_CONTROLS {
            controls.push_back(control);
        }
        self.control.notify_one();
    }

    pub(crate) fn credit_came(&self) {
        self.credit.notify_one();
    }

    pub(crate) fn cancel(&self) {
        self.cancelled.set(true);
        self.wake_all();
    }

    pub(crate) fn detach(&self) {
        self.detached.set(true);
        self.wake_all();
    }

    fn is_gone(&self) -> bool {
        self.cancelled.get() || self.detached.get()
    }

    fn wake_all(&self) {
        self.over.store(true, Ordering::Release);
        self.input.notify_one();
        self.control.notify_one();
        self.credit.notify_one();
        self.gone.notify_waiters();
    }
}

impl Stream {
    pub(crate) fn new(wire: Rc<Wire>, number: u32, state: Rc<StreamState>) -> Self {
        Self { wire, number, state }
    }

    pub(crate) fn reply(&self, kind: inn_guest_proto::wire::reply::Kind) {
        if !self.state.is_gone() {
            // Once per stream, and small.
            let _fits = self.wire.guest().reply(self.number, Reply { kind: Some(kind) });
            self.wire.poke();
        }
    }

    /// Sends at most [`MAX_DATA`] bytes, waiting for credit, and for newcomers
    /// where much was sent before.
    pub(crate) async fn send(
        &self,
        channel: Channel,
        bytes: Bytes,
        offset: u64,
    ) -> Result<(), Gone> {
        debug_assert!(bytes.len() <= MAX_DATA);
        let cost = data_cost(bytes.len());
        self.wire.newcomers.give_way(self.number, &self.state.sent, bytes.len()).await;
        loop {
            if self.state.is_gone() {
                return Err(Gone);
            }
            if self.wire.guest().credit(self.number) >= cost {
                break;
            }
            self.state.credit.notified().await;
            // stdout and stderr of one process share the credit: whoever does
            // not use all of it wakes the other.
        }
        let data = Data { channel: channel.into(), bytes, offset };
        let sent = self.wire.guest().send_data(self.number, data);
        self.wire.poke();
        if self.wire.guest().credit(self.number) > 0 {
            self.state.credit.notify_one();
        }
        sent.map_err(|_| Gone)
    }

    /// Ends the stream; what was sent before goes out first.
    pub(crate) fn end(&self, outcome: impl Into<end::Outcome>) {
        if self.state.detached.get() {
            return;
        }
        // Only a second end is refused.
        let _ended_already = self.wire.guest().end(self.number, outcome.into());
        self.wire.close_stream(self.number);
        self.wire.poke();
        // Whoever still waits on the stream waits for nothing.
        self.state.cancel();
    }

    /// Becomes true once the host does not listen, or the stream has ended.
    pub(crate) fn over(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.state.over)
    }

    /// The host does not listen, or the stream has ended.
    pub(crate) fn is_gone(&self) -> bool {
        self.state.is_gone()
    }

    /// The host has cancelled it, or it has ended.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.state.cancelled.get()
    }

    /// Its session is over.
    pub(crate) fn is_detached(&self) -> bool {
        self.state.detached.get() && !self.state.cancelled.get()
    }

    /// Waits until the host does not listen, or the stream has ended.
    pub(crate) async fn gone(&self) {
        while !self.state.is_gone() {
            self.state.gone.notified().await;
        }
    }

    /// The next piece of input; `Err` once the host does not listen. Cancel
    /// safe. The caller says [`consumed`](Self::consumed) when it is done.
    pub(crate) async fn input(&self) -> Result<Input, Gone> {
        loop {
            if self.state.is_gone() {
                return Err(Gone);
            }
            if let Some(input) = self.state.inputs.borrow_mut().pop_front() {
                return Ok(input);
            }
            self.state.input.notified().await;
        }
    }

    pub(crate) fn consumed(&self, bytes: usize) {
        if !self.state.detached.get() {
            self.wire.guest().consumed(self.number, data_cost(bytes));
            self.wire.poke();
        }
    }

    /// The next signal, resize or word of what was taken; `Err` once the host does not listen. Cancel
    /// safe.
    pub(crate) async fn control(&self) -> Result<Control, Gone> {
        loop {
            if self.state.is_gone() {
                return Err(Gone);
            }
            if let Some(offset) = self.state.output_taken.take() {
                return Ok(Control { action: Some(control::Action::OutputTaken(offset)) });
            }
            if let Some(control) = self.state.controls.borrow_mut().pop_front() {
                return Ok(control);
            }
            self.state.control.notified().await;
        }
    }
}

impl Drop for Stream {
    /// A task that stops without an end would leave the host waiting.
    fn drop(&mut self) {
        if !self.state.detached.get() && self.wire.has_stream(self.number, &self.state) {
            self.end(crate::refusal::Refusal::new(
                inn_guest_proto::wire::FailureKind::Failed,
                "finish the request",
            ));
        }
    }
}
