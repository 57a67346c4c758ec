//! Frames that are nearly right: of every kind, on any stream, whole or cut.

use crate::told;
use arbitrary::{Arbitrary, Result, Unstructured};
use inn_guest_proto::wire::envelope::Body;
use inn_guest_proto::wire::{
    self, Cancel, Control, Credit, Data, Done, End, Envelope, Eof, ExecStarted, Failure, FileInfo,
    Goodbye, Hello, InputTaken, Ping, Pong, Reply, Request, TtySize, UploadState, control, end,
    reply, request,
};
use inn_guest_proto::{MARKER, MAX_DATA, NONCE_BYTES, VERSION};

pub(crate) const NONCE: [u8; NONCE_BYTES] = [7; NONCE_BYTES];

/// Bytes for the channel.
#[derive(Debug, Clone)]
pub(crate) enum Piece {
    Frame(Vec<u8>),
    /// A frame without its end.
    Cut(Vec<u8>, u16),
    /// A length, and nothing behind it.
    Length(u32),
    Opening([u8; NONCE_BYTES]),
    Zeros(u16),
    Raw(Vec<u8>),
    /// One of those before, once more.
    Again(u8),
}

impl<'a> Arbitrary<'a> for Piece {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        Ok(match u.int_in_range(0..=15u8)? {
            0 => Self::Cut(frame(u)?, u.arbitrary()?),
            1 => Self::Length(u.arbitrary()?),
            2 => Self::Opening(if u.arbitrary()? { NONCE } else { u.arbitrary()? }),
            3 => Self::Zeros(u.arbitrary()?),
            4 => Self::Raw(u.arbitrary()?),
            5 => Self::Again(u.arbitrary()?),
            _ => Self::Frame(frame(u)?),
        })
    }
}

/// Pieces as bytes, with those before for [`Piece::Again`].
#[derive(Debug, Default)]
pub(crate) struct Channel {
    sent: Vec<Vec<u8>>,
}

impl Channel {
    pub(crate) fn bytes(&mut self, piece: Piece) -> Vec<u8> {
        let bytes = match piece {
            Piece::Frame(frame) => frame,
            Piece::Cut(mut frame, at) => {
                frame.truncate(usize::from(at) % frame.len().max(1));
                frame
            }
            Piece::Length(length) => length.to_be_bytes().to_vec(),
            Piece::Opening(nonce) => [MARKER.as_slice(), &nonce].concat(),
            Piece::Zeros(count) => vec![0; count.into()],
            Piece::Raw(bytes) => bytes,
            Piece::Again(index) => match self.sent.len() {
                0 => Vec::new(),
                n => self.sent[usize::from(index) % n].clone(),
            },
        };
        if self.sent.len() < 64 {
            self.sent.push(bytes.clone());
        }
        bytes
    }
}

pub(crate) fn encode(stream: u32, body: Body) -> Vec<u8> {
    let payload = Envelope { stream, body: Some(body) }.to_payload();
    let length = u32::try_from(payload.len()).expect("a few KiB");
    [length.to_be_bytes().as_slice(), &payload].concat()
}

pub(crate) fn hello() -> Body {
    let version = wire::Version { major: VERSION.major, minor: VERSION.minor };
    Body::Hello(Hello { version: Some(version), ..Hello::default() })
}

fn frame(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let stream = match u.int_in_range(0..=9u8)? {
        0 => u.arbitrary()?,
        low => u32::from(low - 1),
    };
    Ok(encode(stream, body(u)?))
}

fn body(u: &mut Unstructured<'_>) -> Result<Body> {
    Ok(match u.int_in_range(0..=13u8)? {
        0 => {
            let version = wire::Version { major: u.arbitrary()?, minor: u.arbitrary()? };
            Body::Hello(Hello { version: Some(version), ..Hello::default() })
        }
        1 => hello(),
        2 => Body::Ping(Ping { token: u.arbitrary()? }),
        3 => Body::Pong(Pong { token: u.arbitrary()? }),
        4 => Body::Request(Request { kind: request_kind(u)? }),
        5 => Body::Reply(Reply { kind: reply_kind(u)? }),
        6 | 7 => Body::Data(data(u)?),
        8 => Body::Credit(Credit { bytes: u.arbitrary()? }),
        9 => Body::Eof(Eof { channel: channel(u)?, ..Eof::default() }),
        10 => {
            let size = TtySize { rows: u.arbitrary()?, cols: u.arbitrary()? };
            let action = match u.int_in_range(0..=2u8)? {
                0 => control::Action::Resize(size),
                1 => control::Action::OutputTaken(u.arbitrary()?),
                _ => control::Action::Signal(u.arbitrary()?),
            };
            Body::Control(Control { action: Some(action) })
        }
        11 => Body::End(End { outcome: outcome(u)? }),
        12 => Body::Cancel(Cancel {}),
        _ => Body::Goodbye(Goodbye { reason: u.arbitrary()? }),
    })
}

fn channel(u: &mut Unstructured<'_>) -> Result<i32> {
    Ok(if u.ratio(1, 16)? { u.arbitrary()? } else { u.int_in_range(0..=4)? })
}

/// Sizes around the limits, without spending the input on content.
fn data(u: &mut Unstructured<'_>) -> Result<Data> {
    let size = match u.int_in_range(0..=7u8)? {
        0 => MAX_DATA,
        1 => MAX_DATA + 1,
        2 => MAX_DATA - 1,
        3 => 0,
        _ => usize::from(u.arbitrary::<u8>()?),
    };
    Ok(Data { channel: channel(u)?, bytes: vec![1; size].into(), offset: u.arbitrary()? })
}

fn request_kind(u: &mut Unstructured<'_>) -> Result<Option<request::Kind>> {
    Ok(match u.int_in_range(0..=4u8)? {
        0 => None,
        1 => Some(request::Kind::ListExecs(wire::ListExecs {})),
        2 => {
            let argv = u.arbitrary()?;
            let grace_ms = u.arbitrary()?;
            let lasting = u.arbitrary::<bool>()?.then_some(wire::Lasting { grace_ms });
            Some(request::Kind::Exec(wire::Exec { argv, lasting, ..wire::Exec::default() }))
        }
        3 => {
            let path = u.arbitrary()?;
            Some(request::Kind::WriteFile(wire::WriteFile { path, ..wire::WriteFile::default() }))
        }
        _ => Some(request::Kind::WatchTelemetry(wire::WatchTelemetry {
            interval_ms: u.arbitrary()?,
        })),
    })
}

fn reply_kind(u: &mut Unstructured<'_>) -> Result<Option<reply::Kind>> {
    Ok(match u.int_in_range(0..=3u8)? {
        0 => None,
        1 => {
            let taken = InputTaken { bytes: u.arbitrary()?, ended: u.arbitrary()? };
            let input_taken = u.arbitrary::<bool>()?.then_some(taken);
            Some(reply::Kind::ExecStarted(ExecStarted { pid: u.arbitrary()?, input_taken }))
        }
        2 => Some(reply::Kind::UploadState(UploadState { offset: u.arbitrary()? })),
        _ => {
            let (size, target) = (u.arbitrary()?, u.arbitrary()?);
            Some(reply::Kind::FileInfo(FileInfo { size, target, ..FileInfo::default() }))
        }
    })
}

fn outcome(u: &mut Unstructured<'_>) -> Result<Option<end::Outcome>> {
    Ok(match u.int_in_range(0..=3u8)? {
        0 => None,
        1 => Some(end::Outcome::Done(Done {})),
        2 => {
            let (what, kind, errno) = (u.arbitrary()?, u.arbitrary()?, u.arbitrary()?);
            Some(end::Outcome::Failure(Failure { what, kind, errno }))
        }
        _ => Some(told::outcome(u)?),
    })
}
