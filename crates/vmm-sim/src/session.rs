//! One connection to the simulated guest: the driver of the protocol's guest
//! end, with its requests.
//!
//! ```text
//!   bytes ─▶ Guest ─event─▶ request, data, signal ─▶ execs ─┐
//!   bytes ◀─ Guest ◀──────── reply, data, end ◀─ progress ◀─┘  when credit, time or stdin allow
//! ```
//!
//! The task that [`serve`] runs in owns all of it but the execs, which the
//! machine keeps for the next session.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use inn_guest_proto::wire::{
    Attach, Channel, Configured, Data, Done, Exec as ExecRequest, ExecList, ExecStarted, Failure,
    FailureKind, Hello, Reply, Request, ShutdownKind, control, end, reply, request,
};
use inn_guest_proto::{Guest, GuestEvent, MAX_DATA, Nonce, SendError, data_cost};
use inn_vmm::MachineEnd;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::guest::Exec;
use crate::machine::Core;
use crate::program::Program;

/// Read at once. Small, since a thousand guests may be idle.
const READ: usize = 4 << 10;

const SIGKILL: i32 = 9;

/// Speaks for the guest until the connection, the machine or its handle ends.
pub(crate) async fn serve(core: Arc<Core>, stream: UnixStream, mut alive: watch::Receiver<()>) {
    let boots = async {
        match core.behaviour.answers_after {
            Some(after) => tokio::time::sleep_until(core.started + after).await,
            None => std::future::pending().await,
        }
    };
    let ended = Arc::clone(&core);
    tokio::select! {
        // Each of these is the end of the connection, whatever was going on.
        _ = alive.changed() => {}
        _ = ended.wait() => {}
        result = async { boots.await; Session::new(&core).run(&stream).await } => {
            match result {
                Ok(Some(end)) => core.finish(end),
                Ok(None) => {}
                Err(error) => tracing::debug!(vm = %core.state.id, %error, "a session failed"),
            }
        }
    }
}

struct Session<'a> {
    core: &'a Core,
    guest: Guest,
    streams: BTreeMap<u32, Stream>,
    /// Set by a shutdown; carried out once all is written.
    ending: Option<MachineEnd>,
}

/// A client of an exec.
struct Stream {
    exec: Bytes,
    /// Of the output that is known from the start.
    sent: usize,
    /// Copied stdin that waits for credit.
    echo: VecDeque<Bytes>,
    stdin_ended: bool,
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        self.forget_streams();
    }
}

impl<'a> Session<'a> {
    fn new(core: &'a Core) -> Self {
        Self { core, guest: Guest::default(), streams: BTreeMap::new(), ending: None }
    }

    /// Ends with the connection (`None`), or with the machine's end to be.
    async fn run(&mut self, stream: &UnixStream) -> io::Result<Option<MachineEnd>> {
        loop {
            self.progress();
            let idle = self.guest.output().is_empty();
            if idle && self.ending.is_some() {
                return Ok(self.ending.take());
            }
            let interest =
                if idle { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE };
            let due = self.next_due();
            tokio::select! {
                // Only says what is possible.
                ready = stream.ready(interest) => {
                    let ready = ready?;
                    if ready.is_writable() && !self.write_some(stream)? {
                        return Ok(None);
                    }
                    if ready.is_readable() && !self.read_some(stream)? {
                        return Ok(None);
                    }
                }
                // `progress` looks at the time again.
                () = sleep_until(due) => {}
            }
            while let Some(event) = self.guest.next_event() {
                self.handle(event)?;
            }
        }
    }

    fn write_some(&mut self, stream: &UnixStream) -> io::Result<bool> {
        match stream.try_write(self.guest.output()) {
            Ok(written) => {
                self.guest.wrote(written);
                Ok(true)
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock => Ok(true),
                ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => Ok(false),
                _ => Err(error),
            },
        }
    }

    /// False at the end of the stream.
    fn read_some(&mut self, stream: &UnixStream) -> io::Result<bool> {
        let input = self.guest.input();
        input.reserve(READ);
        match stream.try_read_buf(input) {
            Ok(read) => Ok(read > 0),
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock => Ok(true),
                ErrorKind::ConnectionReset => Ok(false),
                _ => Err(error),
            },
        }
    }

    fn handle(&mut self, event: GuestEvent) -> io::Result<()> {
        match event {
            GuestEvent::Opened(nonce) => {
                self.forget_streams();
                self.greet(&nonce);
            }
            GuestEvent::Request { stream, request } => {
                if !self.core.behaviour.deaf {
                    self.request(stream, request)?;
                }
            }
            GuestEvent::Data { stream, data } => self.stdin(stream, data.bytes),
            GuestEvent::Eof { stream, .. } => {
                if let Some(stream) = self.streams.get_mut(&stream) {
                    stream.stdin_ended = true;
                }
            }
            GuestEvent::Control { stream, control } => {
                if let Some(control::Action::Signal(signal)) = control.action
                    && let Some(stream) = self.streams.get(&stream)
                {
                    let exec = stream.exec.clone();
                    self.kill(&exec, signal);
                }
            }
            GuestEvent::Cancel { stream } => self.cancel(stream),
            GuestEvent::Broken(error) => {
                tracing::debug!(vm = %self.core.state.id, %error, "the host broke the session");
                self.forget_streams();
            }
            GuestEvent::Hello { .. } | GuestEvent::Credit { .. } => {}
        }
        Ok(())
    }

    fn greet(&mut self, nonce: &Nonce) {
        let uptime = self.core.started.elapsed();
        let hello = Hello {
            agent: "inn-sim".to_owned(),
            boot_id: format!("{:032x}", self.core.state.number),
            kernel: "simulated".to_owned(),
            is_init: true,
            configured: self.core.guest().configured,
            uptime_ns: u64::try_from(uptime.as_nanos()).unwrap_or(u64::MAX),
            ..Hello::default()
        };
        let sent = self.guest.greet(nonce, hello);
        debug_assert_eq!(sent, Ok(()), "a short hello fits a frame");
    }

    fn request(&mut self, stream: u32, request: Request) -> io::Result<()> {
        use request::Kind;
        let outcome = match request.kind {
            Some(Kind::Configure(_)) => {
                self.core.set_configured()?;
                end::Outcome::Configured(Configured::default())
            }
            Some(Kind::ListExecs(_)) => {
                let now = Instant::now();
                let guest = self.core.guest();
                let execs = guest.execs.iter().map(|(id, exec)| exec.summary(id, now)).collect();
                end::Outcome::ExecList(ExecList { execs })
            }
            Some(Kind::Shutdown(shutdown)) => {
                if !self.core.behaviour.ignores_shutdown {
                    self.ending = Some(match shutdown.kind() {
                        ShutdownKind::PowerOff => MachineEnd::PoweredOff,
                        ShutdownKind::Reboot => MachineEnd::Reset,
                    });
                }
                end::Outcome::Done(Done {})
            }
            Some(Kind::Exec(exec)) => {
                self.exec(stream, exec);
                return Ok(());
            }
            Some(Kind::Attach(attach)) => {
                self.attach(stream, attach);
                return Ok(());
            }
            Some(Kind::SignalExec(signal)) => {
                if self.core.guest().execs.contains_key(&signal.id) {
                    self.kill(&signal.id, signal.signal);
                    end::Outcome::Done(Done {})
                } else {
                    failure("find the exec", FailureKind::NotFound)
                }
            }
            Some(Kind::ForgetExec(forget)) => {
                self.core.guest().execs.remove(&forget.id);
                end::Outcome::Done(Done {})
            }
            _ => failure("do this, being simulated", FailureKind::Unsupported),
        };
        self.end(stream, outcome);
        Ok(())
    }

    fn end(&mut self, stream: u32, outcome: end::Outcome) {
        let result = self.guest.end(stream, outcome);
        self.sent(result);
    }

    fn exec(&mut self, stream: u32, request: ExecRequest) {
        let Some(program) = Program::find(&request.argv) else {
            let name = request.argv.first().map_or("nothing", String::as_str);
            let what = format!("run {name}: no such program");
            let outcome = failure(&what, FailureKind::NotFound);
            self.end(stream, outcome);
            return;
        };
        let now = Instant::now();
        let mut guest = self.core.guest();
        if guest.execs.contains_key(&request.id) {
            drop(guest);
            let outcome = failure("run two execs of one id", FailureKind::AlreadyExists);
            self.end(stream, outcome);
            return;
        }
        let pid = guest.next_pid();
        let exec = Exec {
            pid,
            argv: request.argv,
            program,
            started: now,
            timeout: (request.timeout_ms > 0).then(|| Duration::from_millis(request.timeout_ms)),
            retained: request.retain_bytes.is_some(),
            stdin_ended: (!request.stdin).then_some(now),
            copied: 0,
            killed: None,
        };
        guest.execs.insert(request.id.clone(), exec);
        drop(guest);
        self.follow(stream, request.id, pid, 0);
    }

    fn attach(&mut self, stream: u32, attach: Attach) {
        let pid = self.core.guest().execs.get(&attach.id).map(|exec| exec.pid);
        match pid {
            Some(pid) => self.follow(stream, attach.id, pid, attach.offset),
            None => {
                let outcome = failure("find the exec", FailureKind::NotFound);
                self.end(stream, outcome);
            }
        }
    }

    fn follow(&mut self, stream: u32, exec: Bytes, pid: u32, offset: u64) {
        let started = reply::Kind::ExecStarted(ExecStarted { pid });
        let reply = self.guest.reply(stream, Reply { kind: Some(started) });
        self.sent(reply);
        let sent = usize::try_from(offset).unwrap_or(usize::MAX);
        let state = Stream { exec, sent, echo: VecDeque::new(), stdin_ended: false };
        self.streams.insert(stream, state);
    }

    /// What nobody reads is consumed at once, as of a process without a reader.
    fn stdin(&mut self, stream: u32, bytes: Bytes) {
        let cost = data_cost(bytes.len());
        if let Some(state) = self.streams.get_mut(&stream)
            && let Some(exec) = self.core.guest().execs.get(&state.exec)
            && matches!(exec.program.ends, crate::program::Ends::WithStdin)
        {
            state.echo.push_back(bytes);
            return;
        }
        self.guest.consumed(stream, cost);
    }

    fn kill(&self, exec: &Bytes, signal: i32) {
        if let Some(exec) = self.core.guest().execs.get_mut(exec) {
            exec.kill(Instant::now(), signal);
        }
    }

    /// Nobody waits for the answer: what is not retained dies.
    fn cancel(&mut self, stream: u32) {
        let Some(state) = self.streams.remove(&stream) else { return };
        let now = Instant::now();
        let mut guest = self.core.guest();
        let ended = guest.execs.get_mut(&state.exec).and_then(|exec| {
            if !exec.retained {
                exec.kill(now, SIGKILL);
            }
            exec.end(now)
        });
        guest.execs.retain(|id, exec| *id != state.exec || exec.retained);
        drop(guest);
        let outcome = match ended {
            Some(ended) => end::Outcome::ExecEnd(ended),
            None => end::Outcome::Done(Done {}),
        };
        self.end(stream, outcome);
    }

    /// Sends what credit allows, and ends what has ended.
    fn progress(&mut self) {
        let now = Instant::now();
        let mut over = Vec::new();
        for (&number, stream) in &mut self.streams {
            let mut guest = self.core.guest();
            let Some(exec) = guest.execs.get_mut(&stream.exec) else {
                // Forgotten while somebody followed it.
                over.push((number, failure("find the exec", FailureKind::NotFound)));
                continue;
            };
            let all_sent = send_output(&mut self.guest, number, stream, exec);
            if all_sent && stream.stdin_ended && exec.stdin_ended.is_none() {
                exec.stdin_ended = Some(now);
            }
            if let Some(ended) = exec.end(now).filter(|_| all_sent) {
                if !exec.retained {
                    guest.execs.remove(&stream.exec);
                }
                over.push((number, end::Outcome::ExecEnd(ended)));
            }
        }
        for (number, outcome) in over {
            self.streams.remove(&number);
            self.end(number, outcome);
        }
    }

    fn next_due(&self) -> Option<Instant> {
        let guest = self.core.guest();
        self.streams
            .values()
            .filter_map(|stream| guest.execs.get(&stream.exec)?.due())
            // What is due and cannot be sent waits for credit, not for time.
            .filter(|due| *due > Instant::now())
            .min()
    }

    fn forget_streams(&mut self) {
        let streams = std::mem::take(&mut self.streams);
        let mut guest = self.core.guest();
        for stream in streams.into_values() {
            guest.execs.retain(|id, exec| *id != stream.exec || exec.retained);
        }
    }

    fn sent(&self, result: Result<(), SendError>) {
        if let Err(error) = result {
            tracing::debug!(vm = %self.core.state.id, %error, "an answer came too late");
        }
    }
}

/// True once nothing is left that could be sent now or later.
fn send_output(guest: &mut Guest, number: u32, stream: &mut Stream, exec: &mut Exec) -> bool {
    let known = &exec.program.stdout;
    while stream.sent < known.len() {
        let end = known.len().min(stream.sent + MAX_DATA);
        let chunk = known.slice(stream.sent..end);
        if !send(guest, number, chunk, stream.sent as u64) {
            return false;
        }
        stream.sent = end;
    }
    while let Some(chunk) = stream.echo.front().cloned() {
        let size = chunk.len();
        if !send(guest, number, chunk, exec.output()) {
            return false;
        }
        stream.echo.pop_front();
        exec.copied += size as u64;
        guest.consumed(number, data_cost(size));
    }
    true
}

fn send(guest: &mut Guest, number: u32, bytes: Bytes, offset: u64) -> bool {
    let data = Data { channel: Channel::Stdout.into(), bytes, offset };
    guest.credit(number) >= data_cost(data.bytes.len()) && guest.send_data(number, data).is_ok()
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

fn failure(what: &str, kind: FailureKind) -> end::Outcome {
    end::Outcome::Failure(Failure { what: what.to_owned(), kind: kind.into(), errno: 0 })
}
