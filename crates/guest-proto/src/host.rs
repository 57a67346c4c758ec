//! The node's end.
//!
//! ```text
//!  new: zeros (if need be), marker, nonce, hello are queued, and what is asked ahead
//!   │
//!   ▼  marker and nonce     hello of a version that fits
//!  hunting ──▶ greeting ──────────▶ open ──ProtocolError──▶ broken (the driver drops it)
//! ```

use bytes::BytesMut;

use crate::frame::{Inbound, Nonce, Unit};
use crate::mux::{Arrival, Mux, body_name};
use crate::wire::envelope::Body;
use crate::wire::request::Kind;
use crate::wire::{Cancel, Control, Data, End, Eof, Hello, Ping, Reply, Request};
use crate::{MAX_QUEUED_CONTROLS, MAX_STREAMS, ProtocolError, SendError, VERSION, Version, agree};

#[derive(Debug)]
pub struct Host {
    inbound: Inbound,
    mux: Mux,
    version: Option<Version>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum HostEvent {
    /// The session is open.
    Hello {
        hello: Hello,
        version: Version,
    },
    Pong {
        token: u64,
    },
    Reply {
        stream: u32,
        reply: Reply,
    },
    /// To be acknowledged by [`Host::consumed`] with its [`crate::data_cost`].
    Data {
        stream: u32,
        data: Data,
    },
    Eof {
        stream: u32,
        eof: Eof,
    },
    /// So much more may be sent on the stream.
    Credit {
        stream: u32,
        bytes: u32,
    },
    /// The stream is gone.
    End {
        stream: u32,
        end: End,
    },
}

impl Host {
    /// `nonce` is fresh randomness; `agent` names the program, for people.
    pub fn new(nonce: Nonce, agent: &str) -> Self {
        Self::opening_by(Mux::push_opening, nonce, agent)
    }

    /// On a connection that nobody has used before: its guest is in no frame that
    /// zeros would have to complete.
    pub fn on_fresh_connection(nonce: Nonce, agent: &str) -> Self {
        Self::opening_by(Mux::push_answer, nonce, agent)
    }

    /// On a lasting channel whose last host knew that its guest had read all it was
    /// sent, to the last frame's end: as long as an opening of zeros has to be then.
    pub fn between_frames(nonce: Nonce, agent: &str) -> Self {
        Self::opening_by(Mux::push_short_opening, nonce, agent)
    }

    fn opening_by(open: fn(&mut Mux, &Nonce), nonce: Nonce, agent: &str) -> Self {
        let mut mux = Mux::default();
        open(&mut mux, &nonce);
        let hello = Hello {
            version: Some(crate::wire::Version { major: VERSION.major, minor: VERSION.minor }),
            agent: agent.chars().take(100).collect(),
            ..Hello::default()
        };
        mux.push_first(0, Body::Hello(hello)).expect("a short hello fits a frame");
        Self { inbound: Inbound::new(Some(nonce)), mux, version: None }
    }

    /// Where the driver appends what it reads: at most [`crate::READ_SIZE`] at
    /// once, and then [`Host::next_event`] until there is none.
    pub fn input(&mut self) -> &mut BytesMut {
        self.inbound.buffer()
    }

    /// Bytes that arrived and are not handed out yet; bounded by one frame
    /// once `next_event` has returned `None`.
    pub fn buffered(&self) -> usize {
        self.inbound.buffered()
    }

    /// What the driver writes next; it then says how much it [`wrote`](Self::wrote).
    pub fn output(&mut self) -> &[u8] {
        self.mux.output()
    }

    pub fn wrote(&mut self, bytes: usize) {
        self.mux.wrote(bytes);
    }

    /// # Errors
    /// The session is over: nothing that follows has a meaning.
    pub fn next_event(&mut self) -> Result<Option<HostEvent>, ProtocolError> {
        loop {
            match self.inbound.next()? {
                None => return Ok(None),
                Some(Unit::Opened(_)) => {}
                Some(Unit::Reopening) => return Err(ProtocolError::Reopened),
                Some(Unit::Message(envelope)) => {
                    // A body that a newer minor version brought.
                    let Some(body) = envelope.body else { continue };
                    if let Some(event) = self.take(envelope.stream, body)? {
                        return Ok(Some(event));
                    }
                }
            }
        }
    }

    fn take(&mut self, stream: u32, body: Body) -> Result<Option<HostEvent>, ProtocolError> {
        if let Body::Goodbye(goodbye) = body {
            return Err(ProtocolError::Goodbye { reason: clip(&goodbye.reason) });
        }
        if self.version.is_none() {
            return self.greet(body).map(Some);
        }
        let misdirected =
            |body: &Body| ProtocolError::Misdirected { message: body_name(body), stream };
        match body {
            Body::Pong(pong) if stream == 0 => Ok(Some(HostEvent::Pong { token: pong.token })),
            body if stream == 0 => Err(misdirected(&body)),
            // The host closes a stream only at its End, so nothing comes late.
            body if !self.mux.is_open(stream) => {
                Err(ProtocolError::UnknownStream { message: body_name(&body), stream })
            }
            Body::Reply(reply) => {
                if !self.mux.reply(stream) {
                    return Err(ProtocolError::Misdirected { message: "second reply", stream });
                }
                Ok((!self.mux.is_deaf(stream)).then_some(HostEvent::Reply { stream, reply }))
            }
            Body::End(end) => {
                self.mux.close(stream);
                Ok(Some(HostEvent::End { stream, end }))
            }
            body => Ok(match self.mux.receive(stream, body)? {
                Arrival::Data(data) => Some(HostEvent::Data { stream, data }),
                Arrival::Eof(eof) => Some(HostEvent::Eof { stream, eof }),
                Arrival::Credit(bytes) => Some(HostEvent::Credit { stream, bytes }),
                Arrival::Ignored => None,
            }),
        }
    }

    fn greet(&mut self, body: Body) -> Result<HostEvent, ProtocolError> {
        let Body::Hello(hello) = body else {
            return Err(ProtocolError::ExpectedHello { message: body_name(&body) });
        };
        let version = agree_with(&hello)?;
        self.version = Some(version);
        Ok(HostEvent::Hello { hello, version })
    }

    /// Opens a stream for a request.
    pub fn open(&mut self, request: Request) -> Result<u32, SendError> {
        if self.version.is_none() {
            return Err(SendError::NotOpen);
        }
        self.open_ahead(request)
    }

    /// The same before the guest has greeted: the request goes right behind our
    /// hello, and its answers come behind the guest's. For what each version of a
    /// guest takes or refuses by its End; one whose version does not fit says that
    /// in place of all.
    pub fn open_ahead(&mut self, request: Request) -> Result<u32, SendError> {
        if self.mux.open_streams() >= MAX_STREAMS {
            return Err(SendError::Busy);
        }
        let stream = self.mux.last_stream().checked_add(1).ok_or(SendError::NotOpen)?;
        let brings_much = matches!(request.kind, Some(Kind::ReadFile(_) | Kind::ReadTree(_)));
        self.mux.push_first(stream, Body::Request(request))?;
        self.mux.open(stream);
        if brings_much {
            self.mux.widen(stream);
        }
        Ok(stream)
    }

    /// What may be sent on the stream now, in terms of [`crate::data_cost`].
    pub fn credit(&self, stream: u32) -> u32 {
        self.mux.credit(stream)
    }

    pub fn send_data(&mut self, stream: u32, data: Data) -> Result<(), SendError> {
        self.mux.send_data(stream, data)
    }

    pub fn send_eof(&mut self, stream: u32, eof: Eof) -> Result<(), SendError> {
        self.mux.send_eof(stream, eof)
    }

    pub fn control(&mut self, stream: u32, control: Control) -> Result<(), SendError> {
        if !self.mux.is_open(stream) || self.mux.is_deaf(stream) {
            return Err(SendError::NoStream);
        }
        if self.mux.queued_first() >= MAX_QUEUED_CONTROLS + MAX_STREAMS {
            return Err(SendError::Busy);
        }
        self.mux.push_first(stream, Body::Control(control))
    }

    /// Nobody waits for the stream any more: only its End still comes.
    pub fn cancel(&mut self, stream: u32) {
        if self.mux.give_up(stream) {
            // Once per stream, and streams are counted.
            let _fits = self.mux.push_first(stream, Body::Cancel(Cancel {}));
        }
    }

    pub fn consumed(&mut self, stream: u32, cost: u32) {
        self.mux.consumed(stream, cost);
    }

    /// The caller has at most one ping in flight.
    pub fn ping(&mut self, token: u64) -> Result<(), SendError> {
        if self.version.is_none() {
            return Err(SendError::NotOpen);
        }
        self.mux.push_first(0, Body::Ping(Ping { token }))
    }

    pub fn open_streams(&self) -> usize {
        self.mux.open_streams()
    }
}

pub(crate) fn agree_with(hello: &Hello) -> Result<Version, ProtocolError> {
    let theirs = hello.version.unwrap_or_default();
    let theirs = Version { major: theirs.major, minor: theirs.minor };
    agree(VERSION, theirs).ok_or(ProtocolError::Version { ours: VERSION, theirs })
}

/// A peer's sentence goes into errors and logs: printable and short.
fn clip(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}
