//! Frames, and how two ends find each other again on a byte stream that has no
//! connections.
//!
//! A frame is a length (u32, big endian) and so many bytes: a message and one
//! last byte, the [`SEAL`]. A length over [`MAX_FRAME`] is refused before
//! anything is allocated.
//!
//! ```text
//!            marker, nonce                      length 0, broken seal, any error
//!  hunting ────────────────▶ frames ──────────────────────────────────────▶ hunting
//! ```
//!
//! Whoever vanished may have left half a frame, and a receiver inside it would
//! swallow any marker as content. So the host opens with [`RESYNC_ZEROS`] zeros:
//! they complete a half length and a half frame (whose seal is then zero, and
//! which is dropped), and what is left of them is a length of zero, which no
//! frame has: the guest hunts for the marker, takes the nonce behind it and
//! sends both back. The host hunts for marker and its own nonce, and so throws
//! away whatever an earlier session left in the channel. On a connection of its
//! own, as a vsock's are, nobody has left anything, and the host sends no zeros.
//! A host that knows that the guest has read its last frame to the end sends the
//! four that are a length of zero.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;

use crate::wire::Envelope;
use crate::wire::envelope::Body;
use crate::{MAX_FRAME, ProtocolError, READ_SIZE};

/// The last byte of every payload. Anything but zero.
pub const SEAL: u8 = 0xA5;

/// 0xFF is no first byte of a length that is allowed, and occurs nowhere else
/// in the marker, so a search never has to step back.
pub const MARKER: [u8; 16] = *b"\xffINNKEEPER-SYNC\x01";

pub const NONCE_BYTES: usize = 16;

/// Fresh randomness that names one opening.
pub type Nonce = [u8; NONCE_BYTES];

/// Enough for the worst that can be left half: three bytes of a length, the
/// payload, and then four more that are a length of zero.
pub const RESYNC_ZEROS: usize = 3 + MAX_FRAME + 4;

pub(crate) const LENGTH_BYTES: usize = 4;

/// What one read gets room for, whatever has come before.
const LEAST_READ: usize = 4 * 1024;
const OPENING: usize = MARKER.len() + NONCE_BYTES;

/// Data at least this large stays a slice of the buffer it was read into;
/// smaller pieces are copied, so that a slow reader of many small messages
/// does not pin a large buffer with each.
const SHARE_FROM: usize = 32 * 1024;

/// Appends one frame. The caller has checked the size.
pub(crate) fn encode(envelope: &Envelope, out: &mut BytesMut) {
    let length = envelope.encoded_len() + 1;
    debug_assert!(length <= MAX_FRAME);
    out.reserve(LENGTH_BYTES + length);
    out.put_u32(u32::try_from(length).expect("checked against MAX_FRAME"));
    envelope.encode(out).expect("a BytesMut grows");
    out.put_u8(SEAL);
}

/// What an envelope takes of [`MAX_FRAME`].
pub(crate) fn payload_size(envelope: &Envelope) -> usize {
    envelope.encoded_len() + 1
}

/// Appends what the guest answers an opening with, and what the host ends its
/// own with.
pub(crate) fn encode_answer(nonce: &Nonce, out: &mut BytesMut) {
    out.put_slice(&MARKER);
    out.put_slice(nonce);
}

/// The receiving half of an end: bytes in, envelopes out.
#[derive(Debug)]
pub(crate) struct Inbound {
    buffer: BytesMut,
    /// What the host waits for; `None` in the guest, which takes any.
    expected: Option<Nonce>,
    hunting: bool,
    /// The room that the last read got.
    room: usize,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one at a time, and nearly all are messages")]
pub(crate) enum Unit {
    /// Marker and nonce: a session begins.
    Opened(Nonce),
    Message(Envelope),
    /// A length of zero: the peer opens anew. Only after [`Unit::Opened`].
    Reopening,
}

impl Inbound {
    pub(crate) fn new(expected: Option<Nonce>) -> Self {
        Self { buffer: BytesMut::new(), expected, hunting: true, room: 0 }
    }

    /// Where the driver puts what it reads. There is room for the rest of the
    /// frame that has begun, and for [`LEAST_READ`].
    ///
    /// Taking no more keeps the buffer from growing or moving while a frame
    /// arrives in pieces: a port gives 4 KiB at a time.
    ///
    /// Only who sends much gets room for much. An idle end keeps a few KiB: a
    /// node may have a thousand of them.
    pub(crate) fn buffer(&mut self) -> &mut BytesMut {
        let spare = self.buffer.capacity() - self.buffer.len();
        // What is taken out takes its room along, so the spare room has
        // shrunk by what was read.
        let busy = self.room.saturating_sub(spare) >= LEAST_READ;
        if !busy && self.buffer.is_empty() && spare > 2 * LEAST_READ {
            self.buffer = BytesMut::new();
        }
        let frame = match self.buffer.first_chunk::<LENGTH_BYTES>() {
            Some(header) if !self.hunting => {
                LENGTH_BYTES + (u32::from_be_bytes(*header) as usize).min(MAX_FRAME)
            }
            _ => 0,
        };
        let missing = frame.saturating_sub(self.buffer.len()).max(LEAST_READ);
        if self.buffer.capacity() - self.buffer.len() < missing {
            self.buffer.reserve(if busy { missing.max(READ_SIZE) } else { missing });
        }
        self.room = self.buffer.capacity() - self.buffer.len();
        &mut self.buffer
    }

    pub(crate) fn hunt(&mut self) {
        self.hunting = true;
    }

    pub(crate) fn forget(&mut self) {
        self.buffer.clear();
        self.hunting = true;
    }

    pub(crate) fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// The next unit, or `None` until more bytes come. After an error the
    /// stream is being hunted through again.
    pub(crate) fn next(&mut self) -> Result<Option<Unit>, ProtocolError> {
        if self.hunting {
            return Ok(self.next_opening().map(Unit::Opened));
        }
        let Some(header) = self.buffer.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = u32::from_be_bytes(*header);
        if length == 0 {
            self.hunting = true;
            return Ok(Some(Unit::Reopening));
        }
        let size = length as usize;
        if size > MAX_FRAME {
            self.hunting = true;
            return Err(ProtocolError::FrameTooLarge { length });
        }
        if self.buffer.len() < LENGTH_BYTES + size {
            return Ok(None);
        }
        self.buffer.advance(LENGTH_BYTES);
        let mut payload = self.buffer.split_to(size);
        if payload.last() != Some(&SEAL) {
            self.hunting = true;
            return Err(ProtocolError::BrokenSeal);
        }
        payload.truncate(size - 1);
        let payload =
            if size < SHARE_FROM { Bytes::copy_from_slice(&payload) } else { payload.freeze() };
        match Envelope::decode(payload) {
            Ok(mut envelope) => {
                if let Some(Body::Data(data)) = &mut envelope.body {
                    let kept = if size < SHARE_FROM { size / 2 } else { SHARE_FROM };
                    // What else is in the frame, such as a field that came
                    // twice, is not to be kept alive by a few bytes.
                    if data.bytes.len() < kept {
                        data.bytes = Bytes::copy_from_slice(&data.bytes);
                    }
                }
                Ok(Some(Unit::Message(envelope)))
            }
            Err(error) => {
                self.hunting = true;
                Err(ProtocolError::Undecodable(error))
            }
        }
    }

    /// Discards everything up to an opening that is wanted.
    fn next_opening(&mut self) -> Option<Nonce> {
        loop {
            self.skip_to_marker();
            let opening = self.buffer.get(..OPENING)?;
            let mut nonce = [0; NONCE_BYTES];
            nonce.copy_from_slice(&opening[MARKER.len()..]);
            match self.expected {
                // An answer to an earlier opening. It may be cut short and run
                // into ours, so the search goes on behind its marker.
                Some(expected) if expected != nonce => self.buffer.advance(MARKER.len()),
                _ => {
                    self.buffer.advance(OPENING);
                    self.hunting = false;
                    return Some(nonce);
                }
            }
        }
    }

    /// Leaves the buffer at a marker, or at what may be the start of one.
    fn skip_to_marker(&mut self) {
        // Nearly all that is ever skipped is zeros, and the guest may run on
        // an emulated CPU: eight bytes a step.
        let zeros = self.buffer.chunks_exact(8).take_while(|chunk| **chunk == [0; 8]).count() * 8;
        self.buffer.advance(zeros);
        let found = self.buffer.iter().enumerate().find_map(|(at, byte)| {
            let rest = &self.buffer[at..];
            let starts = rest.starts_with(&MARKER) || MARKER.starts_with(rest);
            (*byte == MARKER[0] && starts).then_some(at)
        });
        self.buffer.advance(found.unwrap_or(self.buffer.len()));
    }
}
