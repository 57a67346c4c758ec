//! The task that owns the byte stream to the host and drives the protocol.
//!
//! ```text
//!              opened                       hung up, broken, opened anew
//!  no session ────────▶ session with streams ───────────────────────────▶ no session
//!                        each request: one local task
//! ```
//!
//! All tasks run on one thread and share [`Wire`]; none holds a borrow of it
//! across an await.

use std::cell::{RefCell, RefMut};
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use inn_guest_proto::{Guest, GuestEvent, MAX_DATA, ProtocolError};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::agent::Agent;
use crate::console;
use crate::newcomers::Newcomers;
use crate::os::memory::Tidy;
use crate::os::port::{self, Port};
use crate::presence::Presence;
use crate::requests;
use crate::stream::{Input, Stream, StreamState};

/// The protocol's state and its streams.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    guest: RefCell<Guest>,
    streams: RefCell<BTreeMap<u32, Rc<StreamState>>>,
    /// Something may have to be written.
    pokes: Notify,
    /// Nothing is left to be written.
    drained: Notify,
    pub(crate) newcomers: Newcomers,
    pub(crate) tidy: Tidy,
}

impl Wire {
    pub(crate) fn guest(&self) -> RefMut<'_, Guest> {
        self.guest.borrow_mut()
    }

    pub(crate) fn poke(&self) {
        self.pokes.notify_one();
    }

    /// Waits, but not for ever, until everything has been written.
    pub(crate) async fn written(&self, limit: Duration) {
        let all = async {
            while !self.guest().output().is_empty() {
                self.drained.notified().await;
            }
        };
        let _late = tokio::time::timeout(limit, all).await;
    }

    pub(crate) fn close_stream(&self, number: u32) {
        self.streams.borrow_mut().remove(&number);
        self.newcomers.went(number);
        self.tidy.worked();
    }

    pub(crate) fn has_stream(&self, number: u32, state: &Rc<StreamState>) -> bool {
        self.streams.borrow().get(&number).is_some_and(|known| Rc::ptr_eq(known, state))
    }

    fn open_stream(self: &Rc<Self>, number: u32) -> Stream {
        let state = Rc::new(StreamState::default());
        self.streams.borrow_mut().insert(number, Rc::clone(&state));
        self.newcomers.came(number);
        Stream::new(Rc::clone(self), number, state)
    }

    fn on_stream(&self, number: u32, act: impl FnOnce(&StreamState)) {
        let state = self.streams.borrow().get(&number).cloned();
        if let Some(state) = state {
            act(&state);
        }
    }

    fn detach_all(&self) {
        let streams = std::mem::take(&mut *self.streams.borrow_mut());
        for state in streams.values() {
            state.detach();
        }
        self.newcomers.all_went();
        self.tidy.worked();
    }
}

/// How the stream to the host behaves at the other end's going.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    /// A port: the same one serves the next host.
    Lasting,
    /// A connection: its end is the end of this call.
    Connection,
}

/// Serves one byte stream: for ever, or until it ends.
pub(crate) async fn serve(
    agent: &Rc<Agent>,
    stream: port::Stream,
    transport: Transport,
) -> io::Result<()> {
    let mut port = Port::new(stream)?;
    let mut presence = Presence::default();
    let wire = Rc::clone(&agent.wire);
    // Of a session before, which may have been cut off in the middle.
    wire.guest().lost();
    wire.detach_all();
    let result = loop {
        match turn(agent, &wire, &mut port, &mut presence) {
            Ok(Turn::Idle) => {}
            Ok(Turn::HungUp) => {
                port.hung_up();
                if transport == Transport::Connection {
                    break Ok(());
                }
                if presence.nobody(Instant::now()) {
                    wire.guest().lost();
                    wire.detach_all();
                }
            }
            Err(error) => break Err(error),
        }
        if port.is_readable() {
            // Other tasks have their turn between two reads.
            tokio::task::yield_now().await;
            continue;
        }
        let look = async {
            match presence.look_at() {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        // All arms may be cancelled: each only tells that something changed.
        tokio::select! {
            changed = port.changed() => {
                if let Err(error) = changed {
                    break Err(error);
                }
            }
            () = wire.pokes.notified() => {}
            () = look => port.look_again(),
        }
    };
    wire.guest().lost();
    wire.detach_all();
    result
}

enum Turn {
    Idle,
    HungUp,
}

/// Reads, acts on what came, and writes what there is, until nothing more
/// comes or it was a full `Data`: a port gives 4 KiB at once.
fn turn(
    agent: &Rc<Agent>,
    wire: &Rc<Wire>,
    port: &mut Port,
    presence: &mut Presence,
) -> io::Result<Turn> {
    let mut taken = 0;
    loop {
        let asked = port.is_readable();
        let read = port.read(wire.guest().input());
        let more = match read {
            Ok(Some(0)) => return Ok(Turn::HungUp),
            Ok(Some(count)) => {
                taken += count;
                loop {
                    let event = wire.guest().next_event();
                    let Some(event) = event else { break };
                    if matches!(event, GuestEvent::Opened(_) | GuestEvent::Broken(_)) {
                        presence.began();
                    }
                    act(agent, wire, event);
                }
                taken < MAX_DATA
            }
            Ok(None) => {
                // It is there, and says nothing now.
                if asked && !port.is_readable() {
                    presence.heard();
                }
                false
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                return Ok(Turn::HungUp);
            }
            Err(error) => return Err(error),
        };
        match write(wire, port, presence)? {
            Turn::Idle if more => {}
            turn => return Ok(turn),
        }
    }
}

fn write(wire: &Wire, port: &mut Port, presence: &mut Presence) -> io::Result<Turn> {
    loop {
        let mut guest = wire.guest();
        let output = guest.output();
        if output.is_empty() {
            wire.drained.notify_waiters();
            return Ok(Turn::Idle);
        }
        match port.write(output) {
            Ok(Some(written)) => {
                presence.heard();
                guest.wrote(written);
            }
            Ok(None) => return Ok(Turn::Idle),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(Turn::HungUp),
            Err(error) => return Err(error),
        }
    }
}

fn act(agent: &Rc<Agent>, wire: &Rc<Wire>, event: GuestEvent) {
    match event {
        GuestEvent::Opened(nonce) => {
            wire.detach_all();
            if let Err(error) = wire.guest().greet(&nonce, agent.hello()) {
                console::say(&format!("cannot greet the host: {error}"));
            }
        }
        GuestEvent::Hello { .. } => {}
        GuestEvent::Request { stream, request } => {
            let stream = wire.open_stream(stream);
            requests::start(agent, stream, request);
        }
        GuestEvent::Data { stream, data } => {
            wire.on_stream(stream, |state| {
                state.push_input(Input::Data { bytes: data.bytes, offset: data.offset });
            });
        }
        GuestEvent::Eof { stream, eof } => {
            wire.on_stream(stream, |state| state.push_input(Input::Eof(eof)));
        }
        GuestEvent::Credit { stream, .. } => wire.on_stream(stream, StreamState::credit_came),
        GuestEvent::Control { stream, control } => {
            wire.on_stream(stream, |state| state.push_control(control));
        }
        GuestEvent::Cancel { stream } => wire.on_stream(stream, StreamState::cancel),
        GuestEvent::Broken(error) => {
            wire.detach_all();
            // A new opening is how every agent begins, and half a frame is what
            // one that was killed leaves behind; the rest is a fault.
            if !matches!(error, ProtocolError::Reopened | ProtocolError::BrokenSeal) {
                console::say(&format!("dropped the host's session: {error}"));
            }
        }
    }
}
