//! What hostile guests do. Each goes on until it is killed, and greets again
//! whenever the node opens again.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;

use inn_guest_proto::wire::envelope::Body;
use inn_guest_proto::wire::{Channel, Credit, Data, End, Envelope, Hello, Pong, Version, end};
use inn_guest_proto::{MARKER, MAX_DATA, MAX_FRAME, NONCE_BYTES, VERSION};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attack {
    /// Never greets: zeros without end.
    ZerosForEver,
    /// Never greets: markers with wrong nonces.
    WrongNonces,
    /// Greets, and then pongs that nobody asked for, as fast as it can.
    FloodOfPongs,
    /// Messages that no version knows, which are ignored.
    FloodOfUnknown,
    /// Credit of nothing, on an open stream.
    FloodOfCredit,
    /// Data on an open stream, beyond its credit.
    ExceedCredit,
    /// Output up to the last byte of the credit, in the smallest pieces.
    SmallestPieces,
    /// A length that no frame has.
    HugeLength,
    /// A frame that is never finished.
    HalfAFrame,
    /// Data on 100,000 streams that nobody opened.
    ManyStreams,
    /// Greets, and reads nothing any more.
    NeverReads,
    /// The same messages over and over.
    Replay,
    /// Ends that carry as much as a frame may.
    FatEnds,
}

pub(crate) const ALL: [Attack; 13] = [
    Attack::ZerosForEver,
    Attack::WrongNonces,
    Attack::FloodOfPongs,
    Attack::FloodOfUnknown,
    Attack::FloodOfCredit,
    Attack::ExceedCredit,
    Attack::SmallestPieces,
    Attack::HugeLength,
    Attack::HalfAFrame,
    Attack::ManyStreams,
    Attack::NeverReads,
    Attack::Replay,
    Attack::FatEnds,
];

impl Attack {
    pub(crate) fn name(self) -> String {
        format!("{self:?}")
    }

    pub(crate) fn carry_out(self) {
        let mut channel = Wire::of_stdin();
        loop {
            let done = match self {
                Self::ZerosForEver => channel.for_ever(&[0; 64 * 1024]),
                Self::WrongNonces => {
                    channel.for_ever(&[MARKER.as_slice(), &[9; NONCE_BYTES]].concat().repeat(2000))
                }
                _ => self.after_greeting(&mut channel),
            };
            match done {
                Ok(()) => {}
                // The test is over.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => return,
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn after_greeting(self, channel: &mut Wire) -> std::io::Result<()> {
        channel.greet()?;
        match self {
            Self::FloodOfPongs => {
                channel.for_ever(&frame(0, Body::Pong(Pong { token: 1 })).repeat(4000))
            }
            Self::FloodOfUnknown => channel.for_ever(&unknown().repeat(4000)),
            Self::FloodOfCredit => {
                channel.for_ever(&frame(1, Body::Credit(Credit { bytes: 0 })).repeat(4000))
            }
            Self::ExceedCredit => channel.for_ever(&frame(1, data(MAX_DATA))),
            Self::SmallestPieces => {
                channel.write(&frame(1, data(1)).repeat(1024))?;
                Ok(())
            }
            Self::HugeLength => {
                channel.write(&u32::MAX.to_be_bytes())?;
                Ok(())
            }
            Self::HalfAFrame => {
                channel.write(&u32::try_from(MAX_FRAME).unwrap().to_be_bytes())?;
                channel.write(&vec![1; MAX_FRAME - 1])?;
                Ok(())
            }
            Self::ManyStreams => {
                for stream in 1..=100_000 {
                    channel.write(&frame(stream, data(100)))?;
                }
                Ok(())
            }
            Self::NeverReads => loop {
                std::thread::park();
            },
            Self::Replay => {
                let end = frame(1, Body::End(End::default()));
                channel.for_ever(&[frame(1, data(1000)), end].concat().repeat(100))
            }
            Self::FatEnds => {
                let failure = inn_guest_proto::wire::Failure {
                    what: "x".repeat(MAX_FRAME - 100),
                    ..Default::default()
                };
                for stream in 1..=2 {
                    let outcome = Some(end::Outcome::Failure(failure.clone()));
                    channel.write(&frame(stream, Body::End(End { outcome })))?;
                }
                Ok(())
            }
            Self::ZerosForEver | Self::WrongNonces => unreachable!("they do not greet"),
        }
    }
}

fn frame(stream: u32, body: Body) -> Vec<u8> {
    let payload = Envelope { stream, body: Some(body) }.to_payload();
    [u32::try_from(payload.len()).unwrap().to_be_bytes().as_slice(), &payload].concat()
}

/// An envelope with field 1000, a varint (protobuf's encoding: 1000 << 3).
fn unknown() -> Vec<u8> {
    let payload = [0xc0, 0x3e, 0x01, inn_guest_proto::SEAL];
    [4u32.to_be_bytes().as_slice(), &payload].concat()
}

fn data(size: usize) -> Body {
    let channel = Channel::Stdout.into();
    Body::Data(Data { channel, bytes: vec![1; size].into(), offset: 0 })
}

struct Wire {
    channel: File,
    /// What came in and may hold the node's next opening.
    read: Vec<u8>,
}

impl Wire {
    fn of_stdin() -> Self {
        let stdin = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
        Self { channel: File::from(stdin), read: Vec::new() }
    }

    /// Waits for an opening and answers it as a guest does.
    fn greet(&mut self) -> std::io::Result<()> {
        let nonce = self.opening()?;
        let version = Some(Version { major: VERSION.major, minor: VERSION.minor });
        let hello = Body::Hello(Hello { version, ..Hello::default() });
        self.write(&[MARKER.as_slice(), &nonce, &frame(0, hello)].concat())
    }

    fn opening(&mut self) -> std::io::Result<[u8; NONCE_BYTES]> {
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let found = self.read.windows(MARKER.len()).position(|window| window == MARKER);
            if let Some(at) = found
                && let Some(nonce) = self.read[at + MARKER.len()..].first_chunk()
            {
                let nonce = *nonce;
                self.read.drain(..at + MARKER.len() + NONCE_BYTES);
                return Ok(nonce);
            }
            // All but what may be the start of an opening.
            let keep = self.read.len().saturating_sub(MARKER.len() + NONCE_BYTES);
            if found.is_none() {
                self.read.drain(..keep);
            }
            match self.channel.read(&mut buffer)? {
                0 => return Err(ErrorKind::BrokenPipe.into()),
                count => self.read.extend_from_slice(&buffer[..count]),
            }
        }
    }

    /// Never reads: the node's openings are met by more of the same.
    fn for_ever(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        loop {
            self.write(bytes)?;
        }
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.channel.write_all(bytes)
    }
}
