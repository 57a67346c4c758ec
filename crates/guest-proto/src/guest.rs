//! The guest's end.
//!
//! ```text
//!            marker, nonce            hello that fits
//!  hunting ────────────────▶ greeting ───────────────▶ open
//!     ▲                         │                       │
//!     └──── Broken: any error, a new opening, lost() ───┘
//! ```
//!
//! It never ends for good: whatever breaks, the next opening begins anew.

use bytes::BytesMut;

use crate::frame::{Inbound, Nonce, Unit};
use crate::host::agree_with;
use crate::mux::{Arrival, Mux, body_name};
use crate::wire::envelope::Body;
use crate::wire::request::Kind;
use crate::wire::{
    Control, Data, End, Eof, Failure, FailureKind, Goodbye, Hello, Reply, Request, end,
};
use crate::{MAX_STREAMS, ProtocolError, SendError, VERSION, Version};

#[derive(Debug)]
pub struct Guest {
    inbound: Inbound,
    mux: Mux,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Hunting,
    Greeting,
    Open,
}

#[derive(Debug, Clone, PartialEq)]
pub enum GuestEvent {
    /// A host opened. All earlier streams are gone without an End; the driver
    /// answers with [`Guest::greet`].
    Opened(Nonce),
    /// The host's hello: requests follow.
    Hello {
        hello: Hello,
        version: Version,
    },
    Request {
        stream: u32,
        request: Request,
    },
    /// To be acknowledged by [`Guest::consumed`] with its [`crate::data_cost`].
    Data {
        stream: u32,
        data: Data,
    },
    Eof {
        stream: u32,
        eof: Eof,
    },
    Credit {
        stream: u32,
        bytes: u32,
    },
    Control {
        stream: u32,
        control: Control,
    },
    /// The driver stops the work and ends the stream.
    Cancel {
        stream: u32,
    },
    /// The session broke; all streams are gone. The channel goes on.
    Broken(ProtocolError),
}

impl Default for Guest {
    fn default() -> Self {
        Self { inbound: Inbound::new(None), mux: Mux::default(), phase: Phase::Hunting }
    }
}

impl Guest {
    /// See [`crate::Host::input`].
    pub fn input(&mut self) -> &mut BytesMut {
        self.inbound.buffer()
    }

    pub fn buffered(&self) -> usize {
        self.inbound.buffered()
    }

    pub fn output(&mut self) -> &[u8] {
        self.mux.output()
    }

    pub fn wrote(&mut self, bytes: usize) {
        self.mux.wrote(bytes);
    }

    /// The driver knows that the host is gone: forgets the session, half
    /// received and half sent frames included.
    pub fn lost(&mut self) {
        self.inbound.forget();
        self.mux.reset();
        self.phase = Phase::Hunting;
    }

    /// Answers [`GuestEvent::Opened`].
    pub fn greet(&mut self, nonce: &Nonce, hello: Hello) -> Result<(), SendError> {
        let version = crate::wire::Version { major: VERSION.major, minor: VERSION.minor };
        self.mux.push_answer(nonce);
        self.mux.push_first(0, Body::Hello(Hello { version: Some(version), ..hello }))
    }

    pub fn next_event(&mut self) -> Option<GuestEvent> {
        loop {
            let unit = match self.inbound.next() {
                Ok(unit) => unit?,
                Err(error) => return Some(self.broken(error)),
            };
            match unit {
                Unit::Opened(nonce) => {
                    self.mux.reset();
                    self.phase = Phase::Greeting;
                    return Some(GuestEvent::Opened(nonce));
                }
                Unit::Reopening => {
                    self.mux.reset();
                    self.phase = Phase::Hunting;
                    return Some(GuestEvent::Broken(ProtocolError::Reopened));
                }
                Unit::Message(envelope) => {
                    let Some(body) = envelope.body else { continue };
                    match self.take(envelope.stream, body) {
                        Ok(Some(event)) => return Some(event),
                        Ok(None) => {}
                        Err(error) => return Some(self.broken(error)),
                    }
                }
            }
        }
    }

    /// Says why, and waits for the next opening.
    fn broken(&mut self, error: ProtocolError) -> GuestEvent {
        self.inbound.hunt();
        self.mux.drop_streams();
        // A broken seal is what a vanished host leaves: nobody listens.
        if self.phase != Phase::Hunting && error != ProtocolError::BrokenSeal {
            let goodbye = Goodbye { reason: error.to_string() };
            let _fits = self.mux.push_first(0, Body::Goodbye(goodbye));
        }
        self.phase = Phase::Hunting;
        GuestEvent::Broken(error)
    }

    fn take(&mut self, stream: u32, body: Body) -> Result<Option<GuestEvent>, ProtocolError> {
        if let Body::Goodbye(goodbye) = body {
            return Err(ProtocolError::Goodbye { reason: goodbye.reason });
        }
        if self.phase == Phase::Greeting {
            let Body::Hello(hello) = body else {
                return Err(ProtocolError::ExpectedHello { message: body_name(&body) });
            };
            let version = agree_with(&hello)?;
            self.phase = Phase::Open;
            return Ok(Some(GuestEvent::Hello { hello, version }));
        }
        match body {
            Body::Ping(ping) if stream == 0 => {
                self.mux.push_pong(ping.token);
                Ok(None)
            }
            Body::Request(request) if stream != 0 => self.open(stream, request).map(Some),
            Body::Control(control) if self.mux.is_open(stream) => {
                Ok((!self.mux.is_deaf(stream)).then_some(GuestEvent::Control { stream, control }))
            }
            Body::Cancel(_) if self.mux.is_open(stream) => {
                Ok(self.mux.give_up(stream).then_some(GuestEvent::Cancel { stream }))
            }
            // The stream has ended while the message was on its way.
            Body::Control(_) | Body::Cancel(_) if self.mux.was_open(stream) => Ok(None),
            body if stream == 0 => {
                Err(ProtocolError::Misdirected { message: body_name(&body), stream })
            }
            body => Ok(match self.mux.receive(stream, body)? {
                Arrival::Data(data) => Some(GuestEvent::Data { stream, data }),
                Arrival::Eof(eof) => Some(GuestEvent::Eof { stream, eof }),
                Arrival::Credit(bytes) => Some(GuestEvent::Credit { stream, bytes }),
                Arrival::Ignored => None,
            }),
        }
    }

    fn open(&mut self, stream: u32, request: Request) -> Result<GuestEvent, ProtocolError> {
        if stream <= self.mux.last_stream() {
            return Err(ProtocolError::StreamReused { stream });
        }
        if self.mux.open_streams() >= MAX_STREAMS {
            return Err(ProtocolError::TooManyStreams);
        }
        self.mux.open(stream);
        if matches!(request.kind, Some(Kind::WriteFile(_) | Kind::WriteTree(_))) {
            self.mux.widen(stream);
        }
        Ok(GuestEvent::Request { stream, request })
    }

    /// The one message ahead of the stream's data.
    pub fn reply(&mut self, stream: u32, reply: Reply) -> Result<(), SendError> {
        if !self.mux.reply(stream) {
            return Err(SendError::NoStream);
        }
        self.mux.push_first(stream, Body::Reply(reply))
    }

    pub fn credit(&self, stream: u32) -> u32 {
        self.mux.credit(stream)
    }

    pub fn send_data(&mut self, stream: u32, data: Data) -> Result<(), SendError> {
        self.mux.send_data(stream, data)
    }

    pub fn send_eof(&mut self, stream: u32, eof: Eof) -> Result<(), SendError> {
        self.mux.send_eof(stream, eof)
    }

    /// Ends the stream once its data are sent. An outcome that is too large
    /// for a frame becomes a failure that says so.
    pub fn end(&mut self, stream: u32, outcome: end::Outcome) -> Result<(), SendError> {
        match self.mux.send_end(stream, End { outcome: Some(outcome) }) {
            Err(SendError::TooLarge { .. }) => {
                let failure = Failure {
                    what: "fit the answer into one frame".to_owned(),
                    kind: FailureKind::Exhausted.into(),
                    errno: 0,
                };
                let outcome = Some(end::Outcome::Failure(failure));
                self.mux.send_end(stream, End { outcome })
            }
            other => other,
        }
    }

    pub fn consumed(&mut self, stream: u32, cost: u32) {
        self.mux.consumed(stream, cost);
    }

    pub fn open_streams(&self) -> usize {
        self.mux.open_streams()
    }
}
