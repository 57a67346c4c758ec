use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use inn_guest_proto::wire::{self, end, request};
use inn_guest_proto::{Host, HostEvent};
use inn_units::ExecId;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::link::{
    Link, Opening, STREAM_EVENTS, StreamControl, StreamEvent, StreamReader, StreamWriter, reason_of,
};
use super::task::{COMMANDS, Command, SessionTask, Table, io_error};
use super::{
    DirEntry, Exec, ExecSpec, ExecSummary, FileInfo, FileReader, FileWriter, GuestError,
    GuestHello, GuestSetup, ReadSpec, SetupReport, ShutdownKind, WriteSpec, convert,
};

/// A handle on one session with a guest. Clones share the session; it ends
/// with the last handle, exec or file transfer that uses it.
#[derive(Debug, Clone)]
pub struct GuestSession {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    hello: GuestHello,
    commands: mpsc::Sender<Command>,
    wake: Arc<Notify>,
    closed: watch::Receiver<Option<GuestError>>,
    next_key: AtomicU64,
}

impl GuestSession {
    /// Opens a session over a fresh byte stream to the guest's channel and
    /// waits for the guest's hello for as long as the caller lets it: during
    /// boot nothing answers. Cancel safe: the stream is closed.
    pub async fn establish(stream: UnixStream) -> Result<Self, GuestError> {
        let mut nonce = [0; inn_guest_proto::NONCE_BYTES];
        getrandom::fill(&mut nonce)
            .map_err(|error| io_error("randomness", std::io::Error::other(error.to_string())))?;
        let mut host = Host::new(nonce, concat!("inn ", env!("CARGO_PKG_VERSION")));
        let hello = greet(&stream, &mut host).await?;
        let (commands, receiver) = mpsc::channel(COMMANDS);
        let (close, closed) = watch::channel(None);
        let wake = Arc::new(Notify::new());
        let task = SessionTask {
            stream,
            host,
            commands: receiver,
            wake: Arc::clone(&wake),
            closed: close,
            table: Table::default(),
            last_heard: tokio::time::Instant::now(),
            pinged: None,
        };
        tokio::spawn(task.run());
        let next_key = AtomicU64::new(0);
        Ok(Self { shared: Arc::new(Shared { hello, commands, wake, closed, next_key }) })
    }

    pub fn hello(&self) -> &GuestHello {
        &self.shared.hello
    }

    /// Makes the booted guest this VM and no other. Only a guest that is PID 1
    /// takes it.
    pub async fn configure(&self, setup: GuestSetup) -> Result<SetupReport, GuestError> {
        match self.ask(request::Kind::Configure(convert::configure(setup)?)).await? {
            end::Outcome::Configured(done) => Ok(convert::setup_report(done)),
            other => Err(unexpected(&other)),
        }
    }

    /// Starts a process. Returns once the request is on its way: whether the
    /// process started is the first thing that [`Exec::next`] tells.
    pub async fn exec(&self, spec: ExecSpec) -> Result<Exec, GuestError> {
        let (id, stdin) = (spec.id, spec.stdin || spec.tty.is_some());
        let kind = request::Kind::Exec(convert::exec(spec));
        let (reader, writer) = self.open(kind).await?;
        let control = self.control(&writer);
        Ok(Exec::new(id, reader, stdin.then_some(writer), control))
    }

    /// Reads on in a retained exec's output from `offset` and waits for its
    /// end. What the guest no longer keeps is skipped: see
    /// [`super::Output::offset`]. Where the exec has a stdin that is still
    /// open, this one writes to it.
    pub async fn attach(&self, id: ExecId, offset: u64) -> Result<Exec, GuestError> {
        let attach = wire::Attach { id: convert::exec_id(id), offset, notes: false };
        let (reader, writer) = self.open(request::Kind::Attach(attach)).await?;
        let control = self.control(&writer);
        Ok(Exec::new(id, reader, Some(writer), control))
    }

    pub async fn list_execs(&self) -> Result<Vec<ExecSummary>, GuestError> {
        match self.ask(request::Kind::ListExecs(wire::ListExecs {})).await? {
            end::Outcome::ExecList(list) => convert::exec_list(list),
            other => Err(unexpected(&other)),
        }
    }

    /// Sends a signal to the process group of any exec, ours or not.
    pub async fn signal(&self, id: ExecId, signal: i32) -> Result<(), GuestError> {
        let request = wire::SignalExec { id: convert::exec_id(id), signal };
        self.done(request::Kind::SignalExec(request)).await
    }

    /// Drops what the guest keeps of an exec that has ended.
    pub async fn forget(&self, id: ExecId) -> Result<(), GuestError> {
        let request = wire::ForgetExec { id: convert::exec_id(id) };
        self.done(request::Kind::ForgetExec(request)).await
    }

    /// Ends the guest in good order: SIGTERM to all, SIGKILL after `grace`,
    /// disks written. Answered before it begins; the VM's end is for the
    /// runtime to see.
    pub async fn shutdown(&self, kind: ShutdownKind, grace: Duration) -> Result<(), GuestError> {
        self.done(request::Kind::Shutdown(convert::shutdown(kind, grace))).await
    }

    pub async fn read_file(&self, path: &str, spec: ReadSpec) -> Result<FileReader, GuestError> {
        let request = wire::ReadFile {
            path: path.to_owned(),
            offset: spec.offset,
            limit: spec.limit,
            ..wire::ReadFile::default()
        };
        let (reader, _) = self.open(request::Kind::ReadFile(request)).await?;
        FileReader::begin(path, reader).await
    }

    pub async fn write_file(&self, path: &str, spec: WriteSpec) -> Result<FileWriter, GuestError> {
        let request = wire::WriteFile {
            path: path.to_owned(),
            mode: spec.mode,
            owner: spec.owner.map(|(uid, gid)| wire::Owner { uid, gid }),
            offset: spec.offset,
            make_parents: spec.make_parents,
            ..wire::WriteFile::default()
        };
        let (reader, writer) = self.open(request::Kind::WriteFile(request)).await?;
        Ok(FileWriter::new(path, reader, writer))
    }

    /// A tar of what is at `path`: of a directory the entries are relative to
    /// it, of anything else there is one entry.
    pub async fn read_tree(&self, path: &str) -> Result<FileReader, GuestError> {
        let request = wire::ReadTree { path: path.to_owned() };
        let (reader, _) = self.open(request::Kind::ReadTree(request)).await?;
        FileReader::begin(path, reader).await
    }

    /// Extracts a tar into the directory `path`, which is made if missing.
    pub async fn write_tree(&self, path: &str) -> Result<FileWriter, GuestError> {
        let request = wire::WriteTree { path: path.to_owned() };
        let (reader, writer) = self.open(request::Kind::WriteTree(request)).await?;
        Ok(FileWriter::new(path, reader, writer))
    }

    pub async fn stat(&self, path: &str, follow: bool) -> Result<FileInfo, GuestError> {
        let request = wire::Stat { path: path.to_owned(), follow };
        match self.ask(request::Kind::Stat(request)).await? {
            end::Outcome::FileInfo(info) => Ok(convert::file_info(info)),
            other => Err(unexpected(&other)),
        }
    }

    /// At most [`super::MAX_LISTED`] entries: more are an error.
    pub async fn list(&self, path: &str) -> Result<Vec<DirEntry>, GuestError> {
        let request = wire::ListDir { path: path.to_owned() };
        let (mut reader, _) = self.open(request::Kind::ListDir(request)).await?;
        let mut entries = Vec::new();
        loop {
            match reader.next().await? {
                StreamEvent::Data(data) => {
                    let page = wire::DirPage::from_bytes(data.bytes)
                        .map_err(|error| GuestError::Protocol(Arc::new(error)))?;
                    convert::extend_entries(&mut entries, page, path)?;
                }
                StreamEvent::End(end) => {
                    return match convert::outcome(end)? {
                        end::Outcome::Done(_) => Ok(entries),
                        other => Err(unexpected(&other)),
                    };
                }
                StreamEvent::Reply(_) | StreamEvent::Failed(_) => {}
            }
        }
    }

    pub async fn make_dir(&self, path: &str, mode: u32, parents: bool) -> Result<(), GuestError> {
        let request = wire::MakeDir { path: path.to_owned(), mode, parents };
        self.done(request::Kind::MakeDir(request)).await
    }

    pub async fn remove(&self, path: &str, recursive: bool) -> Result<(), GuestError> {
        let request = wire::Remove { path: path.to_owned(), recursive };
        self.done(request::Kind::Remove(request)).await
    }

    /// How long the guest takes to answer at all.
    pub async fn ping(&self) -> Result<Duration, GuestError> {
        let (answer, answered) = oneshot::channel();
        let start = Instant::now();
        self.command(Command::Ping(answer)).await?;
        answered.await.map_err(|_| reason_of(&self.shared.closed))?;
        Ok(start.elapsed())
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
        let link = Arc::new(Link::new(key, Arc::clone(&shared.wake)));
        let (sender, events) = mpsc::channel(STREAM_EVENTS);
        let request = wire::Request { kind: Some(kind) };
        let opening = Opening { request, link: Arc::clone(&link), events: sender };
        self.command(Command::Open(opening)).await?;
        let reader = StreamReader {
            link: Arc::clone(&link),
            events,
            closed: shared.closed.clone(),
            ended: false,
        };
        let writer =
            StreamWriter { link, commands: shared.commands.clone(), closed: shared.closed.clone() };
        Ok((reader, writer))
    }

    /// One request, one outcome.
    async fn ask(&self, kind: request::Kind) -> Result<end::Outcome, GuestError> {
        let (mut reader, _) = self.open(kind).await?;
        loop {
            if let StreamEvent::End(end) = reader.next().await? {
                return convert::outcome(end);
            }
        }
    }

    async fn done(&self, kind: request::Kind) -> Result<(), GuestError> {
        match self.ask(kind).await? {
            end::Outcome::Done(_) => Ok(()),
            other => Err(unexpected(&other)),
        }
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
    };
    convert::misdirected(message)
}
