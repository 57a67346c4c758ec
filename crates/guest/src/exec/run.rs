//! The tasks around one process: its output, its input, its end.

use std::cell::RefCell;
use std::future::pending;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use inn_guest_proto::MAX_DATA;
use inn_guest_proto::wire::{Channel, Control, Exec, ExecEnd, control, end::Outcome, exec_end};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant as Deadline, sleep, sleep_until};

use super::{ExecState, detach, io as pipes};
use crate::agent::Agent;
use crate::os::raw;
use crate::os::reaper::Ended;
use crate::stream::{Gone, Input, Stream};

/// Between SIGTERM and SIGKILL of a timeout, and between SIGHUP and SIGKILL
/// when nobody listens any more.
const BEFORE_KILL: Duration = Duration::from_secs(2);

/// After the process's end somebody it left behind may hold its output open;
/// what such a one says later than this is not the process's.
const AFTER_END: Duration = Duration::from_millis(100);

/// The most that a pipe holds (pipe(7), /proc/sys/fs/pipe-max-size): what is
/// read after the end beyond this was written after the end.
const PIPE_HOLDS: usize = 1024 * 1024;

/// How much of an output is read at once at first.
const FIRST_READ: usize = 4096;

/// What Ctrl-D types on a terminal.
const END_OF_TRANSMISSION: &[u8] = b"\x04";

#[derive(Debug)]
pub(super) struct Running {
    pub(super) ended: oneshot::Receiver<Ended>,
    pub(super) begun: Instant,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: Option<OwnedFd>,
}

/// Where output goes.
enum Sink {
    /// Into the ring; whoever follows reads it there.
    Ring,
    /// To the one stream, at the pace of its credit.
    Stream(Rc<Stream>),
}

/// Runs the process to its end and tells the stream.
pub(super) fn supervise(
    agent: &Rc<Agent>,
    exec: Rc<ExecState>,
    running: Running,
    stream: Stream,
    spec: &Exec,
) {
    let agent = Rc::clone(agent);
    let timeout = (spec.timeout_ms > 0).then(|| Duration::from_millis(spec.timeout_ms));
    let Running { ended, begun, stdout, stderr } = running;
    let (tell_exit, exit) = watch::channel(false);
    let retained = exec.ring.is_some();
    let owner = if retained {
        follow(Rc::clone(&exec), stream, 0);
        None
    } else {
        let stream = Rc::new(stream);
        feed(&exec, &stream);
        Some(stream)
    };
    detach(async move {
        let pump_out = pump(&exec, stdout, Channel::Stdout, owner.clone(), exit.clone());
        let pump_err = async {
            match stderr {
                Some(stderr) => pump(&exec, stderr, Channel::Stderr, owner.clone(), exit).await,
                None => Ok(()),
            }
        };
        let wait = async {
            let end = wait_for_end(&exec, ended, timeout, owner.as_deref()).await;
            let took = begun.elapsed();
            let _nobody_pumps = tell_exit.send(true);
            (end, took)
        };
        let ((end, took), _, _) = tokio::join!(wait, pump_out, pump_err);
        let (status, timed_out) = end;
        let end = ExecEnd {
            status: Some(match status {
                Ended::Code(code) => exec_end::Status::Code(code),
                Ended::Signal(signal) => exec_end::Status::Signal(signal),
            }),
            timed_out,
            truncated: exec.truncated.get(),
            output: exec.output.get(),
            took_ns: u64::try_from(took.as_nanos()).unwrap_or(u64::MAX),
        };
        if let Some(stdin) = exec.stdin.borrow_mut().take() {
            stdin.close();
        }
        *exec.ended.borrow_mut() = Some(end);
        agent.execs.settle(&exec);
        exec.news.notify_waiters();
        if let Some(stream) = owner {
            stream.end(Outcome::ExecEnd(end));
        }
    });
}

/// Waits for the process itself, and ends its group on the way where its time
/// is up or nobody listens. The second value says whether its time was up.
async fn wait_for_end(
    exec: &ExecState,
    mut ended: oneshot::Receiver<Ended>,
    timeout: Option<Duration>,
    owner: Option<&Stream>,
) -> (Ended, bool) {
    let mut timed_out = false;
    let mut term_at = timeout.map(|limit| Deadline::now() + limit);
    let mut kill_at = None;
    let mut listening = true;
    loop {
        // Every arm may be cancelled: nothing is taken before it is acted on.
        tokio::select! {
            end = &mut ended => {
                if timed_out || !listening {
                    // Whoever of the group did not heed the first signal.
                    end_group(exec, libc::SIGKILL);
                }
                // The reaper lives as long as the agent does.
                return (end.unwrap_or(Ended::Signal(libc::SIGKILL)), timed_out);
            }
            () = at(term_at) => {
                timed_out = true;
                term_at = None;
                end_group(exec, libc::SIGTERM);
                kill_at = Some(Deadline::now() + BEFORE_KILL);
            }
            () = at(kill_at) => {
                kill_at = None;
                end_group(exec, libc::SIGKILL);
            }
            control = controls(owner), if listening => match control {
                Ok(control) => steer(exec, &control),
                Err(Gone) => {
                    listening = false;
                    end_group(exec, libc::SIGHUP);
                    kill_at = Some(Deadline::now() + BEFORE_KILL);
                }
            },
        }
    }
}

async fn at(deadline: Option<Deadline>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

async fn controls(owner: Option<&Stream>) -> Result<Control, Gone> {
    match owner {
        Some(stream) => stream.control().await,
        None => pending().await,
    }
}

fn end_group(exec: &ExecState, signal: i32) {
    // Also what the process left in its group; gone already is as good.
    let _gone = raw::signal_group(exec.pid, signal);
}

fn steer(exec: &ExecState, control: &Control) {
    match &control.action {
        Some(control::Action::Signal(signal)) => {
            // A number that there is not, or a process that is gone.
            let _ignored = exec.signal(*signal);
        }
        Some(control::Action::Resize(size)) => {
            if let Some(terminal) = &exec.terminal {
                let _gone = pipes::resize(terminal.as_fd(), size);
            }
        }
        None => {}
    }
}

/// Reads one output until its end: the last writer is gone, or the process has
/// ended and what it wrote is read.
async fn pump(
    exec: &ExecState,
    fd: OwnedFd,
    channel: Channel,
    owner: Option<Rc<Stream>>,
    mut exit: watch::Receiver<bool>,
) -> io::Result<()> {
    let sink = owner.map_or(Sink::Ring, Sink::Stream);
    let fd = raw::watch(fd, Interest::READABLE)?;
    let mut buffer = BytesMut::new();
    let mut after_end = 0;
    // Most programs say little: memory for more comes with more.
    let mut want = FIRST_READ;
    let cutoff = {
        let mut exit = exit.clone();
        async move {
            if exit.wait_for(|ended| *ended).await.is_ok() {
                sleep(AFTER_END).await;
            }
        }
    };
    tokio::pin!(cutoff);
    loop {
        buffer.reserve(want);
        match raw::read_spare(fd.as_fd(), &mut buffer, want) {
            // The other end of a terminal that is closed: an error, EIO.
            Ok(0) | Err(rustix::io::Errno::IO) => return Ok(()),
            Ok(count) => {
                if count == want {
                    want = MAX_DATA.min(want * 4);
                }
                if *exit.borrow_and_update() {
                    after_end += count;
                }
                let bytes = buffer.split().freeze();
                if put(exec, &sink, channel, bytes).await.is_err() || after_end > PIPE_HOLDS {
                    return Ok(());
                }
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => {
                // Both arms may be cancelled: neither reads.
                tokio::select! {
                    ready = fd.readable() => ready?.clear_ready(),
                    () = &mut cutoff => return Ok(()),
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
}

async fn put(
    exec: &ExecState,
    sink: &Sink,
    channel: Channel,
    mut bytes: Bytes,
) -> Result<(), Gone> {
    let offset = exec.output.get();
    let room = exec.limit.map_or(u64::MAX, |limit| limit.saturating_sub(offset));
    let room = usize::try_from(room).unwrap_or(usize::MAX);
    if bytes.len() > room {
        exec.truncated.set(exec.truncated.get() + (bytes.len() - room) as u64);
        bytes.truncate(room);
    }
    if bytes.is_empty() {
        return Ok(());
    }
    exec.output.set(offset + bytes.len() as u64);
    match sink {
        Sink::Stream(stream) => stream.send(channel, bytes, offset).await,
        Sink::Ring => {
            if let Some(ring) = &exec.ring {
                ring.borrow_mut().push(channel, &bytes);
            }
            exec.news.notify_waiters();
            // The next reader of the ring has its turn before the next write.
            tokio::task::yield_now().await;
            Ok(())
        }
    }
}

/// Sends what the ring holds from `offset` on, and then what comes, until the
/// process has ended or the host does not listen.
pub(super) fn follow(exec: Rc<ExecState>, stream: Stream, offset: u64) {
    let stream = Rc::new(stream);
    feed(&exec, &stream);
    detach(async move {
        let steering = async {
            while let Ok(control) = stream.control().await {
                steer(&exec, &control);
            }
        };
        let sending = async {
            let mut offset = offset;
            loop {
                let next = exec.ring.as_ref().and_then(|ring| ring.borrow().read(offset, MAX_DATA));
                if let Some((at, channel, bytes)) = next {
                    offset = at + bytes.len() as u64;
                    if stream.send(channel, bytes, at).await.is_err() {
                        return;
                    }
                    continue;
                }
                let end = *exec.ended.borrow();
                if let Some(end) = end {
                    return stream.end(Outcome::ExecEnd(end));
                }
                exec.news.notified().await;
            }
        };
        // Whichever ends first: cancelled while waiting, nothing is lost.
        tokio::select! {
            () = steering => {}
            () = sending => {}
        }
    });
}

/// Passes a stream's input to the process, where it has a stdin.
fn feed(exec: &Rc<ExecState>, stream: &Rc<Stream>) {
    let stdin = exec.stdin.borrow().clone();
    let (exec, stream) = (Rc::downgrade(exec), Rc::downgrade(stream));
    detach(async move {
        loop {
            let Some(listening) = stream.upgrade() else { return };
            // Ends when the host cancels or its session is over; a stream that
            // has ended is deaf, and this task goes with its last owner.
            let Ok(input) = listening.input().await else { return };
            match input {
                Input::Data(bytes) => {
                    if let Some(stdin) = &stdin {
                        // Both arms may be cancelled: the rest is for nobody.
                        tokio::select! {
                            () = stdin.write(&bytes) => {}
                            () = listening.gone() => return,
                        }
                    }
                    listening.consumed(bytes.len());
                }
                Input::Eof(_) => {
                    let Some(stdin) = &stdin else { continue };
                    if exec.upgrade().is_some_and(|exec| exec.terminal.is_some()) {
                        stdin.write(END_OF_TRANSMISSION).await;
                    } else {
                        stdin.close();
                    }
                }
            }
        }
    });
}

/// The writing end of a process's stdin.
#[derive(Debug)]
pub(super) struct Stdin {
    pipe: RefCell<Option<Rc<AsyncFd<OwnedFd>>>>,
    closed: Notify,
}

impl Stdin {
    pub(super) fn new(pipe: OwnedFd) -> io::Result<Self> {
        let pipe = Rc::new(raw::watch(pipe, Interest::WRITABLE)?);
        Ok(Self { pipe: RefCell::new(Some(pipe)), closed: Notify::new() })
    }

    fn close(&self) {
        self.pipe.borrow_mut().take();
        self.closed.notify_waiters();
    }

    /// Waits until the process took it all. What nobody will read any more is
    /// dropped: the process's end says the rest.
    async fn write(&self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let Some(pipe) = self.pipe.borrow().clone() else { return };
            match rustix::io::write(pipe.get_ref(), bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    // Both arms may be cancelled: neither writes.
                    tokio::select! {
                        ready = pipe.writable() => match ready {
                            Ok(mut ready) => ready.clear_ready(),
                            Err(_) => return self.close(),
                        },
                        () = self.closed.notified() => return,
                    }
                }
                Err(_) => return self.close(),
            }
        }
    }
}
