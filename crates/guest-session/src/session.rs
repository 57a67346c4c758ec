use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use inn_guest_proto::wire::{self, end, request};
use inn_guest_proto::{Host, HostEvent, Nonce};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::timeout;

use super::link::{
    Link, Opening, STREAM_EVENTS, StreamControl, StreamEvent, StreamReader, StreamWriter, reason_of,
};
use super::task::{Begun, COMMANDS, Command, Holds, SessionTask, io_error};
use super::{
    GuestError, GuestHello, GuestResume, GuestSetup, Health, RefusedKind, ResumeReport,
    SetupReport, ShutdownKind, convert,
};

mod exec;
mod files;
mod machine;
mod telemetry;

pub use telemetry::TelemetryWatch;

/// A handle on one session with a guest. Clones share the session; it ends
/// with the last handle, exec, file transfer or watch that uses it.
#[derive(Debug, Clone)]
pub struct GuestSession {
    shared: Arc<Shared>,
    held: Option<Held>,
}

/// How a guest's channel was left by whoever had it before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// In the middle of a frame, maybe.
    Anyhow,
    /// Nobody had it: the connection was made for this, all the way to the guest.
    Unused,
    /// See [`HeldBack::is_between_frames`]. Nobody has opened it since.
    BetweenFrames,
}

/// Nothing is written into a guest's channel meanwhile.
#[derive(Debug)]
pub struct HeldBack {
    holds: Holds,
    wake: Arc<Notify>,
    between_frames: bool,
}

impl HeldBack {
    pub(super) fn begin(holds: &Holds, wake: &Arc<Notify>, between_frames: bool) -> Self {
        holds.fetch_add(1, Ordering::AcqRel);
        Self { holds: Arc::clone(holds), wake: Arc::clone(wake), between_frames }
    }

    /// Whether the guest has read all that was ever written to it, to the end of
    /// the last frame: whoever opens a session with it next, or with a copy of it,
    /// may do so as [`Left::BetweenFrames`].
    pub fn is_between_frames(&self) -> bool {
        self.between_frames
    }
}

impl Drop for HeldBack {
    fn drop(&mut self) {
        self.holds.fetch_sub(1, Ordering::AcqRel);
        self.wake.notify_one();
    }
}

/// What is kept as long as somebody uses a session.
pub type Held = Arc<dyn std::fmt::Debug + Send + Sync>;

#[derive(Debug)]
struct Shared {
    hello: GuestHello,
    commands: mpsc::Sender<Command>,
    wake: Arc<Notify>,
    holds: Holds,
    closed: watch::Receiver<Option<GuestError>>,
    health: watch::Receiver<Health>,
    next_key: AtomicU64,
}

impl GuestSession {
    /// Opens a session over a fresh byte stream to the guest's channel and
    /// waits for the guest's hello for as long as the caller lets it: during
    /// boot nothing answers. Cancel safe: the stream is closed.
    pub async fn establish(stream: UnixStream) -> Result<Self, GuestError> {
        Self::establish_as(Left::Anyhow, stream).await
    }

    /// The same on a channel of which it is known how it was left.
    pub async fn establish_as(left: Left, stream: UnixStream) -> Result<Self, GuestError> {
        Self::greeted(stream, left.begin()?, Arc::default()).await
    }

    /// As [`resume`](Self::resume) right behind the opening, to a guest of which it
    /// is known that it goes on from a saved machine: it has the order when it
    /// greets, and is not asked and waited for a second time.
    pub async fn establish_resuming(
        stream: UnixStream,
        left: Left,
        resume: GuestResume,
    ) -> Result<(Self, Resuming), GuestError> {
        let order = request::Kind::Resume(convert::resume(resume)?);
        let (mut begun, wake) = (left.begin()?, Arc::default());
        let (opening, events) = opening(AHEAD, order, &wake);
        let link = Arc::clone(&opening.link);
        begun.ask_ahead(opening);
        let session = Self::greeted(stream, begun, wake).await?;
        let reader = session.reader(link, events);
        Ok((session.clone(), Resuming { session, reader }))
    }

    async fn greeted(
        stream: UnixStream,
        mut begun: Begun,
        wake: Arc<Notify>,
    ) -> Result<Self, GuestError> {
        let hello = greet(&stream, &mut begun.host).await?;
        let (commands, receiver) = mpsc::channel(COMMANDS);
        let holds = Holds::default();
        let (task, watched) =
            SessionTask::new(stream, begun, receiver, Arc::clone(&wake), Arc::clone(&holds));
        tokio::spawn(task.run());
        let shared = Shared {
            hello,
            commands,
            wake,
            holds,
            closed: watched.closed,
            health: watched.health,
            next_key: AtomicU64::new(AHEAD + 1),
        };
        Ok(Self { shared: Arc::new(shared), held: None })
    }

    /// The same session for somebody who keeps something as long as this
    /// handle, or any exec, transfer or watch begun by it, is there.
    #[must_use]
    pub fn holding(self, held: Held) -> Self {
        Self { held: Some(held), ..self }
    }

    pub fn hello(&self) -> &GuestHello {
        &self.shared.hello
    }

    /// The protocol's version that both ends speak: major and minor.
    pub fn protocol(&self) -> (u32, u32) {
        self.shared.hello.protocol
    }

    /// Whether the guest still answers. Its sender goes with the session.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.shared.health.clone()
    }

    /// Makes the booted guest this VM and no other. Only a guest that is PID 1
    /// takes it.
    pub async fn configure(&self, setup: GuestSetup) -> Result<SetupReport, GuestError> {
        match self.ask(request::Kind::Configure(convert::configure(setup)?)).await? {
            end::Outcome::Configured(done) => Ok(convert::setup_report(done)),
            other => Err(unexpected(&other)),
        }
    }

    /// Ends the guest in good order: SIGTERM to all, SIGKILL after `grace`,
    /// disks written. Answered before it begins; the VM's end is for the
    /// runtime to see.
    pub async fn shutdown(&self, kind: ShutdownKind, grace: Duration) -> Result<(), GuestError> {
        self.done(request::Kind::Shutdown(convert::shutdown(kind, grace))).await
    }

    /// How long the guest takes to answer at all.
    pub async fn ping(&self) -> Result<Duration, GuestError> {
        let (answer, answered) = oneshot::channel();
        let start = Instant::now();
        self.command(Command::Ping(answer)).await?;
        answered.await.map_err(|_| reason_of(&self.shared.closed))?;
        Ok(start.elapsed())
    }

    /// Writes nothing into the channel until what this returns is dropped, while
    /// its machine is saved: a VMM takes in what comes also for a guest that
    /// stands still, into memory that is just being copied. What the guest says
    /// is read. A guest that has not read all that it was told within `patience`
    /// is left amid a frame.
    pub async fn hold_back(&self, patience: Duration) -> HeldBack {
        let (answer, settled) = oneshot::channel();
        if self.command(Command::Settle(answer)).await.is_ok()
            && let Ok(Ok(held)) = timeout(patience, settled).await
        {
            return held;
        }
        // Also where it was only just so: whoever waited for it has gone.
        let held = HeldBack::begin(&self.shared.holds, &self.shared.wake, false);
        let (answer, answered) = oneshot::channel();
        // One that is over writes nothing.
        if self.command(Command::Held(answer)).await.is_ok() {
            let _over = answered.await;
        }
        held
    }

    /// Resolves when the session is over, with the reason. Cancel safe.
    pub async fn closed(&self) -> GuestError {
        let mut closed = self.shared.closed.clone();
        // An error is a task that was stopped without a reason.
        drop(closed.wait_for(Option::is_some).await);
        reason_of(&closed)
    }

    pub fn is_closed(&self) -> bool {
        self.shared.commands.is_closed()
    }

    /// Ends the session for all its handles. Execs that are not retained end.
    pub async fn close(&self) {
        let _closed_already = self.shared.commands.send(Command::Close).await;
    }

    /// What the guest's agent is too old for is refused without asking it.
    fn needs(&self, capability: &str, what: &str) -> Result<(), GuestError> {
        let hello = self.hello();
        if hello.can(capability) {
            return Ok(());
        }
        Err(GuestError::Refused {
            what: format!("{what}: its agent, {}, is too old for it", hello.version),
            kind: RefusedKind::Unsupported,
            errno: None,
        })
    }

    fn control(&self, writer: &StreamWriter) -> StreamControl {
        StreamControl {
            key: writer.link.key,
            commands: self.shared.commands.clone(),
            closed: self.shared.closed.clone(),
        }
    }

    async fn command(&self, command: Command) -> Result<(), GuestError> {
        self.shared.commands.send(command).await.map_err(|_| reason_of(&self.shared.closed))
    }

    async fn open(&self, kind: request::Kind) -> Result<(StreamReader, StreamWriter), GuestError> {
        let shared = &self.shared;
        let key = shared.next_key.fetch_add(1, Ordering::Relaxed);
        let (opening, events) = opening(key, kind, &shared.wake);
        let link = Arc::clone(&opening.link);
        self.command(Command::Open(Box::new(opening))).await?;
        let reader = self.reader(Arc::clone(&link), events);
        let writer =
            StreamWriter { link, commands: shared.commands.clone(), closed: shared.closed.clone() };
        Ok((reader, writer))
    }

    fn reader(&self, link: Arc<Link>, events: mpsc::Receiver<StreamEvent>) -> StreamReader {
        StreamReader {
            link,
            events,
            closed: self.shared.closed.clone(),
            ended: false,
            _session: self.shared.commands.clone(),
            _held: self.held.clone(),
        }
    }

    /// One request, one outcome.
    async fn ask(&self, kind: request::Kind) -> Result<end::Outcome, GuestError> {
        let (reader, _) = self.open(kind).await?;
        outcome_of(reader).await
    }

    async fn done(&self, kind: request::Kind) -> Result<(), GuestError> {
        match self.ask(kind).await? {
            end::Outcome::Done(_) => Ok(()),
            other => Err(unexpected(&other)),
        }
    }
}

impl Left {
    fn begin(self) -> Result<Begun, GuestError> {
        let mut nonce = [0; inn_guest_proto::NONCE_BYTES];
        getrandom::fill(&mut nonce)
            .map_err(|error| io_error("randomness", std::io::Error::other(error.to_string())))?;
        let open: fn(Nonce, &str) -> Host = match self {
            Self::Anyhow => Host::new,
            Self::Unused => Host::on_fresh_connection,
            Self::BetweenFrames => Host::between_frames,
        };
        Ok(Begun::new(open(nonce, concat!("inn ", env!("CARGO_PKG_VERSION")))))
    }
}

/// The key of the stream that is asked for ahead of the guest's hello.
const AHEAD: u64 = 0;

fn opening(
    key: u64,
    kind: request::Kind,
    wake: &Arc<Notify>,
) -> (Opening, mpsc::Receiver<StreamEvent>) {
    let link = Arc::new(Link::new(key, Arc::clone(wake)));
    let (sender, events) = mpsc::channel(STREAM_EVENTS);
    let request = wire::Request { kind: Some(kind) };
    (Opening { request, link, events: sender }, events)
}

async fn outcome_of(mut reader: StreamReader) -> Result<end::Outcome, GuestError> {
    loop {
        if let StreamEvent::End(end) = reader.next().await? {
            return convert::outcome(end);
        }
    }
}

/// A guest that has the order to become itself. Dropping it takes the order back
/// as far as it has not begun.
#[derive(Debug)]
pub struct Resuming {
    session: GuestSession,
    reader: StreamReader,
}

impl Resuming {
    /// As [`GuestSession::resume`] answers.
    pub async fn report(self) -> Result<ResumeReport, GuestError> {
        self.session.can_resume()?;
        machine::resumed(outcome_of(self.reader).await?)
    }
}

/// Writes the opening and reads up to the guest's hello.
async fn greet(stream: &UnixStream, host: &mut Host) -> Result<GuestHello, GuestError> {
    loop {
        let mut interest = Interest::READABLE;
        if !host.output().is_empty() {
            interest |= Interest::WRITABLE;
        }
        let ready = stream.ready(interest).await.map_err(|error| io_error("waiting", error))?;
        if ready.is_writable() && !host.output().is_empty() {
            match stream.try_write(host.output()) {
                Ok(written) => host.wrote(written),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(super::task::lost_or_io("writing", error)),
            }
        }
        if ready.is_readable() || ready.is_read_closed() {
            match stream.try_read_buf(host.input()) {
                Ok(0) => return Err(GuestError::closed("the virtual machine hung up")),
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(super::task::lost_or_io("reading", error)),
            }
            match host.next_event() {
                Ok(Some(HostEvent::Hello { hello, version })) => {
                    return Ok(convert::hello(hello, version));
                }
                Ok(_) => {}
                Err(error) => return Err(GuestError::Protocol(Arc::new(error))),
            }
            // As in the session's task: one read a turn.
            tokio::task::yield_now().await;
        }
    }
}

pub(super) fn unexpected(outcome: &end::Outcome) -> GuestError {
    let message = match outcome {
        end::Outcome::Done(_) => "done",
        end::Outcome::Failure(_) => "failure",
        end::Outcome::ExecEnd(_) => "an exec's end",
        end::Outcome::Transferred(_) => "a transfer's end",
        end::Outcome::Configured(_) => "configured",
        end::Outcome::ExecList(_) => "a list of execs",
        end::Outcome::FileInfo(_) => "a file's attributes",
        end::Outcome::Telemetry(_) => "telemetry",
        end::Outcome::UploadState(_) => "an upload's state",
        end::Outcome::NetworkApplied(_) => "a network",
        end::Outcome::Frozen(_) => "frozen file systems",
        end::Outcome::SshKeys(_) => "ssh keys",
        end::Outcome::DiskGrown(_) => "a grown disk",
        end::Outcome::Resumed(_) => "a machine that is itself again",
    };
    convert::misdirected(message)
}
