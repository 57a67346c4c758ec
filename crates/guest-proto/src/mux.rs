//! Streams over one byte stream, for both ends.
//!
//! ```text
//!  host:  Request ─▶ open ──(Data, Eof, Control)──▶ … ──End received──▶ gone
//!                      └──Cancel──▶ cancelled (its data are dropped) ──End received──▶ gone
//!  guest: Request received ─▶ open ──(Data, Eof)──▶ End queued ──End written──▶ gone
//! ```
//!
//! Order of sending: what belongs to the session and opens or steers a stream
//! goes first; data go round robin, one message of each stream in turn, so a
//! flood on one never starves another. What is queued is bounded: data by the
//! peer's credit, everything else by the number of streams.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Buf, BytesMut};

use crate::frame::{self, LENGTH_BYTES, Nonce, RESYNC_ZEROS};
use crate::wire::envelope::Body;
use crate::wire::{Channel, Credit, Data, End, Envelope, Eof, Pong};
use crate::{MAX_DATA, MAX_FRAME, MAX_WINDOW, MIN_DATA_COST, ProtocolError, SendError, WINDOW};

/// Encoded bytes that wait for the driver; past it nothing more is encoded, so
/// that a steering message never waits behind more than this.
const OUTPUT_TARGET: usize = MAX_DATA;

/// What a session opens with, piece by piece: a guest's binary, which is to be
/// small, holds them too and never sends them.
static ZEROS: [u8; 8 << 10] = [0; 8 << 10];

/// What sending or receiving `length` bytes takes of a stream's credit.
pub fn data_cost(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX).max(MIN_DATA_COST)
}

#[derive(Debug, Default)]
pub(crate) struct Mux {
    streams: BTreeMap<u32, Stream>,
    /// The highest stream that was ever opened.
    last: u32,
    first: VecDeque<Envelope>,
    /// Only the latest: a peer that sends many pings gets one answer.
    pong: Option<u64>,
    /// Streams with something queued, each once.
    ready: VecDeque<u32>,
    /// Streams with credit to return, each once.
    granting: VecDeque<u32>,
    /// Zeros that are written before `output`.
    zeros: usize,
    output: BytesMut,
}

#[derive(Debug)]
struct Stream {
    /// What may still be sent and is not queued.
    send_credit: u32,
    /// What the peer may send ahead of what was consumed.
    window: u32,
    /// What of that it may still send.
    receive_credit: u32,
    /// Consumed and not returned yet.
    grant: u32,
    queue: VecDeque<Item>,
    /// A bit for each channel that has ended.
    received_eof: u8,
    /// Nothing that arrives matters any more.
    deaf: bool,
    replied: bool,
    ending: bool,
}

#[derive(Debug)]
enum Item {
    Data(Data),
    Eof(Eof),
    End(End),
}

/// What arrived on a stream and passed the checks.
#[derive(Debug)]
pub(crate) enum Arrival {
    Data(Data),
    Eof(Eof),
    Credit(u32),
    Ignored,
}

impl Stream {
    fn new() -> Self {
        Self {
            send_credit: WINDOW,
            window: WINDOW,
            receive_credit: WINDOW,
            grant: 0,
            queue: VecDeque::new(),
            received_eof: 0,
            deaf: false,
            replied: false,
            ending: false,
        }
    }
}

impl Mux {
    /// Forgets everything, what waits to be written included.
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }

    /// Forgets all streams. What is encoded stays: its first frame may be half
    /// written.
    pub(crate) fn drop_streams(&mut self) {
        let output = std::mem::take(&mut self.output);
        *self = Self { zeros: self.zeros, output, ..Self::default() };
    }

    pub(crate) fn push_opening(&mut self, nonce: &Nonce) {
        self.zeros = RESYNC_ZEROS;
        frame::encode_answer(nonce, &mut self.output);
    }

    /// To a guest that is between two frames.
    pub(crate) fn push_short_opening(&mut self, nonce: &Nonce) {
        self.zeros = LENGTH_BYTES;
        frame::encode_answer(nonce, &mut self.output);
    }

    pub(crate) fn push_answer(&mut self, nonce: &Nonce) {
        frame::encode_answer(nonce, &mut self.output);
    }

    /// Queues a message ahead of all data.
    pub(crate) fn push_first(&mut self, stream: u32, body: Body) -> Result<(), SendError> {
        let envelope = Envelope { stream, body: Some(body) };
        check_size(&envelope)?;
        self.first.push_back(envelope);
        Ok(())
    }

    pub(crate) fn queued_first(&self) -> usize {
        self.first.len()
    }

    pub(crate) fn push_pong(&mut self, token: u64) {
        self.pong = Some(token);
    }

    pub(crate) fn open_streams(&self) -> usize {
        self.streams.len()
    }

    pub(crate) fn is_open(&self, stream: u32) -> bool {
        self.streams.contains_key(&stream)
    }

    pub(crate) fn last_stream(&self) -> u32 {
        self.last
    }

    /// Whether a message on a stream that is not open comes late: the stream
    /// was open once.
    pub(crate) fn was_open(&self, stream: u32) -> bool {
        stream != 0 && stream <= self.last
    }

    pub(crate) fn open(&mut self, stream: u32) {
        self.last = stream;
        self.streams.insert(stream, Stream::new());
    }

    pub(crate) fn close(&mut self, stream: u32) {
        self.streams.remove(&stream);
    }

    /// Marks the only reply of a stream; false when there was one.
    pub(crate) fn reply(&mut self, stream: u32) -> bool {
        self.streams.get_mut(&stream).is_some_and(|s| !std::mem::replace(&mut s.replied, true))
    }

    /// Drops what is queued on the stream and ignores what still arrives.
    /// False when that was so already.
    pub(crate) fn give_up(&mut self, stream: u32) -> bool {
        let Some(state) = self.streams.get_mut(&stream) else { return false };
        state.queue.retain(|item| matches!(item, Item::End(_)));
        !std::mem::replace(&mut state.deaf, true)
    }

    pub(crate) fn is_deaf(&self, stream: u32) -> bool {
        self.streams.get(&stream).is_some_and(|s| s.deaf)
    }

    pub(crate) fn credit(&self, stream: u32) -> u32 {
        self.streams.get(&stream).map_or(0, |s| s.send_credit)
    }

    pub(crate) fn send_data(&mut self, stream: u32, data: Data) -> Result<(), SendError> {
        let size = data.bytes.len();
        if size > MAX_DATA {
            return Err(SendError::TooLarge { size, limit: MAX_DATA });
        }
        let state = self.sending(stream)?;
        if state.deaf {
            return Err(SendError::NoStream);
        }
        state.send_credit =
            state.send_credit.checked_sub(data_cost(size)).ok_or(SendError::NoCredit)?;
        self.enqueue(stream, Item::Data(data));
        Ok(())
    }

    pub(crate) fn send_eof(&mut self, stream: u32, eof: Eof) -> Result<(), SendError> {
        let state = self.sending(stream)?;
        if state.deaf {
            return Err(SendError::NoStream);
        }
        // One for each channel: more would be queued without credit.
        if state.queue.iter().filter(|item| matches!(item, Item::Eof(_))).count() >= CHANNELS {
            return Err(SendError::Busy);
        }
        self.enqueue(stream, Item::Eof(eof));
        Ok(())
    }

    pub(crate) fn send_end(&mut self, stream: u32, end: End) -> Result<(), SendError> {
        let envelope = Envelope { stream, body: Some(Body::End(end)) };
        check_size(&envelope)?;
        let Some(Body::End(end)) = envelope.body else { return Err(SendError::NoStream) };
        let state = self.sending(stream)?;
        state.ending = true;
        state.deaf = true;
        self.enqueue(stream, Item::End(end));
        Ok(())
    }

    /// Lets the peer send further ahead on a stream that has just been opened.
    pub(crate) fn widen(&mut self, stream: u32) {
        if let Some(state) = self.streams.get_mut(&stream) {
            state.grant = MAX_WINDOW - WINDOW;
            state.window = MAX_WINDOW;
            self.granting.push_back(stream);
        }
    }

    /// The consumer is done with so much of what it received (in terms of
    /// [`data_cost`]): the peer may send it again.
    pub(crate) fn consumed(&mut self, stream: u32, cost: u32) {
        let Some(state) = self.streams.get_mut(&stream) else { return };
        let before = state.grant;
        let outstanding = state.window.saturating_sub(state.receive_credit);
        state.grant = before.saturating_add(cost).min(outstanding);
        // A part of the window at a time.
        let from = state.window / 4;
        if before < from && state.grant >= from {
            self.granting.push_back(stream);
        }
    }

    /// Checks and books what arrived on an open stream.
    pub(crate) fn receive(&mut self, stream: u32, body: Body) -> Result<Arrival, ProtocolError> {
        let Some(state) = self.streams.get_mut(&stream) else {
            if self.was_open(stream) {
                return Ok(Arrival::Ignored);
            }
            return Err(ProtocolError::UnknownStream { message: body_name(&body), stream });
        };
        let arrival = match body {
            Body::Data(data) => {
                let size = data.bytes.len();
                if size > MAX_DATA {
                    return Err(ProtocolError::DataTooLarge { size });
                }
                if state.received_eof & channel_bit(stream, data.channel)? != 0 {
                    return Err(ProtocolError::DataAfterEof { stream });
                }
                state.receive_credit = state
                    .receive_credit
                    .checked_sub(data_cost(size))
                    .ok_or(ProtocolError::CreditExceeded { stream })?;
                Arrival::Data(data)
            }
            Body::Eof(eof) => {
                let bit = channel_bit(stream, eof.channel)?;
                if state.received_eof & bit != 0 {
                    return Err(ProtocolError::DataAfterEof { stream });
                }
                state.received_eof |= bit;
                Arrival::Eof(eof)
            }
            Body::Credit(Credit { bytes }) => {
                let total = state.send_credit.saturating_add(bytes);
                if total > MAX_WINDOW {
                    return Err(ProtocolError::CreditOverflow { stream });
                }
                state.send_credit = total;
                Arrival::Credit(bytes)
            }
            other => {
                return Err(ProtocolError::Misdirected { message: body_name(&other), stream });
            }
        };
        Ok(if state.deaf { Arrival::Ignored } else { arrival })
    }

    /// What is to be written next, encoded; empty when there is nothing.
    pub(crate) fn output(&mut self) -> &[u8] {
        if self.zeros > 0 {
            return ZEROS.get(..self.zeros).unwrap_or(&ZEROS);
        }
        while self.output.len() < OUTPUT_TARGET && self.encode_next() {}
        &self.output
    }

    pub(crate) fn wrote(&mut self, bytes: usize) {
        match self.zeros.checked_sub(bytes) {
            Some(left) if self.zeros > 0 => self.zeros = left,
            _ => self.output.advance(bytes),
        }
    }

    fn encode_next(&mut self) -> bool {
        let Some(envelope) = self.next_envelope() else { return false };
        frame::encode(&envelope, &mut self.output);
        true
    }

    fn next_envelope(&mut self) -> Option<Envelope> {
        if let Some(envelope) = self.first.pop_front() {
            return Some(envelope);
        }
        if let Some(token) = self.pong.take() {
            return Some(Envelope { stream: 0, body: Some(Body::Pong(Pong { token })) });
        }
        while let Some(stream) = self.granting.pop_front() {
            if let Some(state) = self.streams.get_mut(&stream) {
                let bytes = std::mem::take(&mut state.grant);
                state.receive_credit = state.receive_credit.saturating_add(bytes);
                return Some(Envelope { stream, body: Some(Body::Credit(Credit { bytes })) });
            }
        }
        while let Some(stream) = self.ready.pop_front() {
            let Some(state) = self.streams.get_mut(&stream) else { continue };
            let Some(item) = state.queue.pop_front() else { continue };
            if !state.queue.is_empty() {
                self.ready.push_back(stream);
            }
            let body = match item {
                Item::Data(data) => Body::Data(data),
                Item::Eof(eof) => Body::Eof(eof),
                Item::End(end) => {
                    self.close(stream);
                    Body::End(end)
                }
            };
            return Some(Envelope { stream, body: Some(body) });
        }
        None
    }

    /// The stream, where this end may still send on it.
    fn sending(&mut self, stream: u32) -> Result<&mut Stream, SendError> {
        match self.streams.get_mut(&stream) {
            Some(state) if !state.ending => Ok(state),
            _ => Err(SendError::NoStream),
        }
    }

    fn enqueue(&mut self, stream: u32, item: Item) {
        let Some(state) = self.streams.get_mut(&stream) else { return };
        state.queue.push_back(item);
        // Each stream is in `ready` once; `give_up` may have emptied a queue
        // whose entry is still there.
        if state.queue.len() == 1 && !self.ready.contains(&stream) {
            self.ready.push_back(stream);
        }
    }
}

/// Of [`Channel`].
const CHANNELS: usize = 5;

fn channel_bit(stream: u32, channel: i32) -> Result<u8, ProtocolError> {
    match Channel::try_from(channel) {
        Ok(Channel::Main) => Ok(1),
        Ok(Channel::Stdout) => Ok(2),
        Ok(Channel::Stderr) => Ok(4),
        Ok(Channel::Notes) => Ok(8),
        Ok(Channel::InputTaken) => Ok(16),
        Err(_) => Err(ProtocolError::UnknownChannel { stream, channel }),
    }
}

fn check_size(envelope: &Envelope) -> Result<(), SendError> {
    let size = frame::payload_size(envelope);
    if size > MAX_FRAME {
        return Err(SendError::TooLarge { size, limit: MAX_FRAME });
    }
    Ok(())
}

pub(crate) fn body_name(body: &Body) -> &'static str {
    match body {
        Body::Hello(_) => "hello",
        Body::Ping(_) => "ping",
        Body::Pong(_) => "pong",
        Body::Request(_) => "request",
        Body::Reply(_) => "reply",
        Body::Data(_) => "data",
        Body::Credit(_) => "credit",
        Body::Eof(_) => "eof",
        Body::Control(_) => "control",
        Body::End(_) => "end",
        Body::Cancel(_) => "cancel",
        Body::Goodbye(_) => "goodbye",
    }
}
