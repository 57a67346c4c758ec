//! The task that owns a session's byte stream and drives the protocol over it.

use std::collections::HashMap;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use inn_guest_proto::wire::{Control, Data, Eof};
use inn_guest_proto::{Host, HostEvent, SendError};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::GuestError;
use super::link::{Link, Opening, StreamEvent};
use super::session::HeldBack;

/// Requests and pieces of data on their way to the task. Data are bounded by
/// credit; this many let a writer stay ahead of the task by 4 MiB.
pub(super) const COMMANDS: usize = 64;

/// Writes in one round, of some 64 KiB each.
const WRITES: usize = 8;

/// A reading of telemetry, or what an interactive command says, is less.
const MUCH: usize = 4096;

/// The token of a ping that nothing is written after. All others' is 0.
const SETTLES: u64 = 1;

/// Silence after which the guest is asked for a sign of life.
const PING_AFTER: Duration = Duration::from_secs(15);

/// A ping unanswered for so long makes a guest's health [`Health::Silent`].
const SILENT_AFTER: Duration = Duration::from_secs(10);

/// A guest that says nothing for so long after a ping is wedged or gone. Long,
/// because an emulated guest on a loaded host may stall for many seconds.
const PING_DEADLINE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) enum Command {
    Open(Box<Opening>),
    Data {
        key: u64,
        data: Data,
    },
    Eof {
        key: u64,
        eof: Eof,
    },
    Control {
        key: u64,
        control: Control,
    },
    Ping(oneshot::Sender<()>),
    /// Answered once nothing is being written, see [`Holds`].
    Held(oneshot::Sender<()>),
    /// Answered once the guest has read all that was written, and nothing is
    /// written any more.
    Settle(oneshot::Sender<HeldBack>),
    Close,
}

/// How many there are who want that nothing is written.
pub(super) type Holds = Arc<AtomicUsize>;

/// Whether a guest still answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    Good,
    /// It has sent nothing since then, and was asked for a sign of life at
    /// least 10 s ago. Any byte makes it good again; 60 s end the session.
    Silent {
        since: Instant,
    },
}

pub(super) struct SessionTask {
    stream: UnixStream,
    host: Host,
    commands: mpsc::Receiver<Command>,
    wake: Arc<Notify>,
    holds: Holds,
    closed: watch::Sender<Option<GuestError>>,
    health: watch::Sender<Health>,
    table: Table,
    last_heard: Instant,
    pinged: Option<Instant>,
    /// Bytes, of all.
    written: u64,
    settling: Option<Settling>,
}

/// Of a session that is to have nothing on its way to the guest.
///
/// ```text
///   wanted ─ nothing to write ─▶ a ping alone ─ its pong ─▶ nothing written since ─▶ held
///      ▲                                                 └─ something was ─┐
///      └───────────────────────────────────────────────────────────────────┘
/// ```
struct Settling {
    answer: oneshot::Sender<HeldBack>,
    /// Bytes up to the ping's end, of all that are written: once there is one.
    pinged: Option<u64>,
}

/// A session that the guest has yet to greet.
pub(super) struct Begun {
    pub(super) host: Host,
    table: Table,
}

impl Begun {
    pub(super) fn new(host: Host) -> Self {
        Self { host, table: Table::default() }
    }

    /// Asks right behind our hello.
    pub(super) fn ask_ahead(&mut self, opening: Opening) {
        let Opening { request, link, events } = opening;
        let stream = self.host.open_ahead(request);
        self.table.opened(&mut self.host, stream, OpenStream { link, events });
    }
}

/// What the task tells to all handles.
pub(super) struct Watched {
    pub(super) closed: watch::Receiver<Option<GuestError>>,
    pub(super) health: watch::Receiver<Health>,
}

/// The open streams by the protocol's number and by ours.
#[derive(Debug, Default)]
struct Table {
    streams: HashMap<u32, OpenStream>,
    keys: HashMap<u64, u32>,
    pings: Vec<oneshot::Sender<()>>,
}

#[derive(Debug)]
struct OpenStream {
    link: Arc<Link>,
    events: mpsc::Sender<StreamEvent>,
}

impl SessionTask {
    pub(super) fn new(
        stream: UnixStream,
        Begun { host, table }: Begun,
        commands: mpsc::Receiver<Command>,
        wake: Arc<Notify>,
        holds: Holds,
    ) -> (Self, Watched) {
        let (closed, on_close) = watch::channel(None);
        let (health, on_health) = watch::channel(Health::Good);
        let task = Self {
            stream,
            host,
            commands,
            wake,
            holds,
            closed,
            health,
            table,
            last_heard: Instant::now(),
            pinged: None,
            written: 0,
            settling: None,
        };
        (task, Watched { closed: on_close, health: on_health })
    }

    pub(super) async fn run(mut self) {
        let reason = self.serve().await;
        tracing::debug!(%reason, "guest session closed");
        // First the reason, then the ends of all streams that will ask for it.
        let _nobody_left = self.closed.send(Some(reason));
        for stream in self.table.streams.values() {
            stream.link.credit.close();
        }
    }

    async fn serve(&mut self) -> GuestError {
        // What came behind the hello.
        if let Err(error) = self.act() {
            return error;
        }
        // Armed late and seldom: what is heard moves the next check away, and a
        // thousand guests' timers that are set again at each word cost a lot.
        let mut check = pin!(sleep_until(self.check_at()));
        loop {
            if let Err(error) = self.flush() {
                return error;
            }
            let interest = if self.host.output().is_empty() || self.is_held() {
                Interest::READABLE
            } else {
                Interest::READABLE | Interest::WRITABLE
            };
            let check_at = self.check_at();
            if check_at < check.deadline() {
                check.as_mut().reset(check_at);
            }
            // Every arm may be cancelled: each takes what is there or nothing.
            tokio::select! {
                ready = self.stream.ready(interest) => match ready {
                    Ok(ready) if ready.is_readable() || ready.is_read_closed() => {
                        match self.read() {
                            // A guest that sends without end gets one read a
                            // turn: its neighbours' sessions share the worker.
                            Ok(read) if read >= MUCH => tokio::task::yield_now().await,
                            Ok(_) => {}
                            Err(error) => return error,
                        }
                    }
                    Ok(_) => {}
                    Err(error) => return io_error("waiting", error),
                },
                command = self.commands.recv() => {
                    let Some(command) = command else {
                        return GuestError::closed("nobody uses it any more");
                    };
                    if let Some(reason) = self.obey(command) {
                        return reason;
                    }
                    // What else is there goes out in the same write.
                    for _ in 0..COMMANDS {
                        let Ok(command) = self.commands.try_recv() else { break };
                        if let Some(reason) = self.obey(command) {
                            return reason;
                        }
                    }
                }
                () = self.wake.notified() => self.table.settle(&mut self.host),
                () = &mut check => {
                    if let Err(error) = self.check_alive() {
                        return error;
                    }
                    check.as_mut().reset(self.check_at());
                }
            }
        }
    }

    /// Writes until nothing is left, the peer takes no more, or it is a lot:
    /// what arrives meanwhile is not to wait for a guest that reads fast.
    fn flush(&mut self) -> Result<(), GuestError> {
        if self.is_held() {
            return Ok(());
        }
        for _ in 0..WRITES {
            let output = self.host.output();
            if output.is_empty() {
                if self.nothing_is_left() {
                    return Ok(());
                }
                continue;
            }
            match self.stream.try_write(output) {
                Ok(written) => {
                    self.host.wrote(written);
                    self.written = self.written.saturating_add(written as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(lost_or_io("writing", error)),
            }
        }
        Ok(())
    }

    /// To write. Whoever waits for that has its ping then, by which there is.
    fn nothing_is_left(&mut self) -> bool {
        self.settling.take_if(|settling| settling.answer.is_closed());
        let Some(Settling { pinged: pinged @ None, .. }) = &mut self.settling else { return true };
        if self.host.ping(SETTLES).is_err() {
            return true;
        }
        *pinged = Some(self.written.saturating_add(self.host.output().len() as u64));
        false
    }

    /// The guest has read all up to that ping.
    fn has_read_up_to_ping(&mut self) {
        let still = !self.host.output().is_empty();
        let Some(settling) = &mut self.settling else { return };
        if still || settling.pinged != Some(self.written) {
            settling.pinged = None;
        } else if let Some(Settling { answer, .. }) = self.settling.take() {
            // Nobody is held back for one that has gone: it is dropped.
            let _gave_up = answer.send(HeldBack::begin(&self.holds, &self.wake, true));
        }
    }

    /// How many bytes there were.
    fn read(&mut self) -> Result<usize, GuestError> {
        let read = match read_once(&self.stream, self.host.input()) {
            Ok(0) => return Err(GuestError::closed("the virtual machine hung up")),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            Err(error) => return Err(lost_or_io("reading", error)),
        };
        self.last_heard = Instant::now();
        self.set_health(Health::Good);
        self.act()?;
        Ok(read)
    }

    /// On all that has come whole.
    fn act(&mut self) -> Result<(), GuestError> {
        loop {
            match self.host.next_event() {
                Ok(Some(event)) => {
                    if let HostEvent::Pong { token } = event {
                        self.pinged = None;
                        if token == SETTLES {
                            self.has_read_up_to_ping();
                        }
                    }
                    self.table.dispatch(event);
                }
                Ok(None) => return Ok(()),
                Err(error) => return Err(GuestError::Protocol(Arc::new(error))),
            }
        }
    }

    /// `Some` is the reason to stop.
    fn obey(&mut self, command: Command) -> Option<GuestError> {
        match command {
            Command::Open(opening) => {
                // What was dropped before this was asked for ends before it
                // begins: an upload goes on in the stream after.
                self.table.settle(&mut self.host);
                let Opening { request, link, events } = *opening;
                let stream = self.host.open(request);
                self.table.opened(&mut self.host, stream, OpenStream { link, events });
            }
            Command::Data { key, data } => {
                if let Some(stream) = self.table.keys.get(&key) {
                    // The writer holds credit, so only an end can refuse it.
                    let _over = self.host.send_data(*stream, data);
                }
            }
            Command::Eof { key, eof } => {
                if let Some(stream) = self.table.keys.get(&key) {
                    let _over = self.host.send_eof(*stream, eof);
                }
            }
            Command::Control { key, control } => {
                if let Some(stream) = self.table.keys.get(&key)
                    && self.host.control(*stream, control) == Err(SendError::Busy)
                {
                    tracing::debug!("dropped a signal or resize: too many are queued");
                }
            }
            Command::Ping(answer) => {
                self.table.pings.push(answer);
                self.send_ping();
            }
            Command::Held(answer) => {
                // Who asked has been waiting; what was written is written.
                let _gave_up = answer.send(());
            }
            Command::Settle(answer) => {
                self.settling = Some(Settling { answer, pinged: None });
            }
            Command::Close => return Some(GuestError::closed("it was ended on this side")),
        }
        None
    }

    fn is_held(&self) -> bool {
        self.holds.load(Ordering::Acquire) > 0
    }

    fn send_ping(&mut self) {
        if self.pinged.is_none() && self.host.ping(0).is_ok() {
            self.pinged = Some(Instant::now());
        }
    }

    /// When the ping went out that nothing was heard after.
    fn unanswered(&self) -> Option<Instant> {
        self.pinged.filter(|at| self.last_heard < *at)
    }

    /// When the guest's silence means something new.
    fn check_at(&self) -> Instant {
        match (self.unanswered(), *self.health.borrow()) {
            (None, _) => self.last_heard + PING_AFTER,
            (Some(at), Health::Good) => at + SILENT_AFTER,
            (Some(at), Health::Silent { .. }) => at + PING_DEADLINE,
        }
    }

    /// Takes the step that is due; the guest's long silence is an error.
    fn check_alive(&mut self) -> Result<(), GuestError> {
        let now = Instant::now();
        if let Some(at) = self.unanswered() {
            let silence = now.duration_since(at);
            if silence >= PING_DEADLINE {
                let what = "a sign of life".to_owned();
                return Err(GuestError::Timeout { what, after: PING_DEADLINE });
            }
            if silence >= SILENT_AFTER {
                self.set_health(Health::Silent { since: self.last_heard });
            }
        } else if now.duration_since(self.last_heard) >= PING_AFTER {
            // What was heard since is as good as an answer.
            self.pinged = None;
            self.send_ping();
        }
        Ok(())
    }

    fn set_health(&self, health: Health) {
        self.health.send_if_modified(|known| {
            let changed = *known != health;
            *known = health;
            changed
        });
    }
}

/// Reads what is there. One that leaves room has taken all, and spares the next
/// one, which would only say so: what comes after it is told anew (epoll(7),
/// "edge-triggered", question 9).
fn read_once(stream: &UnixStream, into: &mut BytesMut) -> io::Result<usize> {
    let room = into.capacity() - into.len();
    let mut read = 0;
    // What became ready before the read, and nothing after it, is forgotten.
    let tried = stream.try_io(Interest::READABLE, || {
        read = stream.try_read_buf(into)?;
        if (1..room).contains(&read) { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    if read > 0 { Ok(read) } else { tried.map(|()| 0) }
}

impl Table {
    fn opened(&mut self, host: &mut Host, stream: Result<u32, SendError>, open: OpenStream) {
        let OpenStream { link, events } = open;
        match stream {
            Ok(stream) => {
                self.keys.insert(link.key, stream);
                let cancelled = link.cancelled.load(Ordering::Acquire);
                self.streams.insert(stream, OpenStream { link, events });
                if cancelled {
                    host.cancel(stream);
                }
            }
            Err(error) => {
                let error = match error {
                    SendError::TooLarge { size, limit } => {
                        GuestError::TooLarge { what: "the request".to_owned(), size, limit }
                    }
                    other => GuestError::Refused {
                        what: format!("take the request ({other})"),
                        kind: super::RefusedKind::Exhausted,
                        errno: None,
                    },
                };
                link.credit.close();
                // The channel is fresh: it has room, or its reader has gone.
                let _gone = events.try_send(StreamEvent::Failed(error));
            }
        }
    }

    /// Picks up what the handles said by their atomics.
    fn settle(&mut self, host: &mut Host) {
        for (number, stream) in &self.streams {
            if stream.link.cancelled.load(Ordering::Acquire) {
                host.cancel(*number);
            } else {
                let cost = stream.link.consumed.swap(0, Ordering::AcqRel);
                if cost > 0 {
                    host.consumed(*number, cost);
                }
            }
        }
    }

    fn dispatch(&mut self, event: HostEvent) {
        match event {
            HostEvent::Reply { stream, reply } => {
                self.tell(stream, StreamEvent::Reply(Box::new(reply)));
            }
            HostEvent::Data { stream, data } => self.tell(stream, StreamEvent::Data(data)),
            HostEvent::End { stream, end } => {
                self.tell(stream, StreamEvent::End(Box::new(end)));
                if let Some(stream) = self.streams.remove(&stream) {
                    self.keys.remove(&stream.link.key);
                    stream.link.credit.close();
                }
            }
            HostEvent::Credit { stream, bytes } => {
                if let Some(stream) = self.streams.get(&stream) {
                    stream.link.credit.add_permits(bytes as usize);
                }
            }
            HostEvent::Pong { .. } => {
                for waiting in self.pings.drain(..) {
                    let _gave_up = waiting.send(());
                }
            }
            HostEvent::Hello { .. } | HostEvent::Eof { .. } => {}
        }
    }

    fn tell(&self, stream: u32, event: StreamEvent) {
        if let Some(stream) = self.streams.get(&stream) {
            // Never full (see STREAM_EVENTS); closed when the reader has gone.
            let _gone = stream.events.try_send(event);
        }
    }
}

pub(super) fn lost_or_io(step: &'static str, error: io::Error) -> GuestError {
    match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
            GuestError::closed("the virtual machine hung up")
        }
        _ => io_error(step, error),
    }
}

pub(super) fn io_error(step: &'static str, source: io::Error) -> GuestError {
    GuestError::Io { step, source: Arc::new(source) }
}
