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

mod files;
mod machine;
mod telemetry;

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind};
use std::sync::Arc;

use bytes::Bytes;
use inn_guest_proto::wire::{
    Attach, Channel, Configure, Configured, Data, Done, Exec as ExecRequest, ExecList, ExecStarted,
    Failure, FailureKind, Hello, Reply, Request, ResumeStep, ResumeStepKind, Resumed, ShutdownKind,
    control, end, reply, request, resume_step,
};
use inn_guest_proto::{Guest, GuestEvent, MAX_DATA, Nonce, SendError, capability, data_cost};
use inn_vmm::MachineEnd;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::guest::Exec;
use crate::machine::Core;
use crate::program::Program;

pub(crate) use machine::Settings;
use telemetry::{Look, Watches};

const SIGKILL: i32 = 9;

/// All of them, as of a guest of today. It has no files: what it cannot do it
/// says when asked.
const CAPABILITIES: [&str; 6] = [
    capability::TELEMETRY,
    capability::EXEC_2,
    capability::FILES_2,
    capability::MACHINE,
    capability::RESUME,
    capability::RESUME_2,
];

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
    watches: Watches,
    /// Set by a shutdown; carried out once all is written.
    ending: Option<MachineEnd>,
}

/// A client of an exec.
struct Stream {
    exec: Bytes,
    /// Of the output that is known from the start.
    sent: u64,
    /// Copied stdin that waits for credit.
    echo: VecDeque<Bytes>,
    stdin_ended: bool,
    /// The number of the next note, where it takes notes.
    notes: Option<u64>,
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        self.forget_streams();
    }
}

impl<'a> Session<'a> {
    fn new(core: &'a Core) -> Self {
        Self {
            core,
            guest: Guest::default(),
            streams: BTreeMap::new(),
            watches: Watches::default(),
            ending: None,
        }
    }

    /// Ends with the connection (`None`), or with the machine's end to be.
    async fn run(&mut self, stream: &UnixStream) -> io::Result<Option<MachineEnd>> {
        loop {
            self.core.goes_on().await;
            self.progress();
            // Mostly there is room, and nothing to wait for.
            if !self.guest.output().is_empty() && !self.write_some(stream)? {
                return Ok(None);
            }
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
        let (now, guest) = (Instant::now(), self.core.guest());
        let uptime = now.saturating_duration_since(self.core.started);
        let hello = Hello {
            agent: "inn-sim".to_owned(),
            capabilities: CAPABILITIES.map(str::to_owned).to_vec(),
            boot_id: format!("{:032x}", self.core.state.number),
            kernel: "simulated".to_owned(),
            is_init: !self.core.behaviour.resident,
            configured: guest.configured,
            uptime_ns: u64::try_from(uptime.as_nanos()).unwrap_or(u64::MAX),
            os: "Simulated Linux".to_owned(),
            hostname: guest.settings.hostname(self.core.state.number),
            frozen: guest.settings.is_frozen(now),
            ..Hello::default()
        };
        drop(guest);
        let sent = self.guest.greet(nonce, hello);
        debug_assert_eq!(sent, Ok(()), "a short hello fits a frame");
    }

    fn request(&mut self, stream: u32, request: Request) -> io::Result<()> {
        use request::Kind;
        let outcome = match request.kind {
            Some(Kind::Configure(setup)) => {
                self.configure(&setup)?;
                end::Outcome::Configured(Configured::default())
            }
            Some(Kind::Resume(resume)) => {
                self.configure(&resume.setup.unwrap_or_default())?;
                end::Outcome::Resumed(resumed())
            }
            Some(Kind::ListExecs(_)) => {
                let now = Instant::now();
                let mut guest = self.core.guest();
                let execs =
                    guest.execs.iter_mut().map(|(id, exec)| exec.summary(id, now)).collect();
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
            Some(Kind::ReadFile(wanted)) => {
                match files::read(self.core.behaviour.files_at.as_deref(), &wanted) {
                    Ok((info, bytes)) => {
                        let info = reply::Kind::FileInfo(info);
                        let replied = self.guest.reply(stream, Reply { kind: Some(info) });
                        self.sent(replied);
                        let done = files::transferred(&bytes);
                        // A stream's first credit is enough for one.
                        if !bytes.is_empty() {
                            send(&mut self.guest, stream, Channel::Main, bytes, 0);
                        }
                        end::Outcome::Transferred(done)
                    }
                    Err(outcome) => *outcome,
                }
            }
            Some(Kind::Stat(wanted)) => {
                files::stat(self.core.behaviour.files_at.as_deref(), &wanted.path)
            }
            Some(Kind::GetTelemetry(_)) => end::Outcome::Telemetry(self.reading(Instant::now())),
            Some(Kind::WatchTelemetry(watch)) => {
                self.watches.add(stream, watch.interval_ms, Instant::now());
                return Ok(());
            }
            Some(other) => {
                let changed = self.core.guest().settings.change(&other, Instant::now());
                changed.unwrap_or_else(|| {
                    failure("do this, being simulated", FailureKind::Unsupported)
                })
            }
            None => failure("do what was asked", FailureKind::Unsupported),
        };
        self.end(stream, outcome);
        Ok(())
    }

    fn end(&mut self, stream: u32, outcome: end::Outcome) {
        let result = self.guest.end(stream, outcome);
        self.sent(result);
    }

    fn exec(&mut self, stream: u32, request: ExecRequest) {
        let program = match request.command_line.as_str() {
            "" => Program::find(&request.argv),
            line => Program::find_line(line),
        };
        let Some(program) = program else {
            let name = request.argv.first().map_or("the line", String::as_str);
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
        let (id, notes) = (request.id.clone(), request.notes.then_some(0));
        let clock = guest.settings.clock(now).as_millis();
        let mut exec = Exec::new(request, program, pid, now);
        exec.started_unix_ms = u64::try_from(clock).unwrap_or(u64::MAX);
        guest.execs.insert(id.clone(), exec);
        drop(guest);
        self.follow(stream, id, pid, 0, notes);
    }

    fn configure(&self, setup: &Configure) -> io::Result<()> {
        self.core.set_configured()?;
        let settings = &mut self.core.guest().settings;
        settings.set_hostname(&setup.hostname);
        if setup.clock_unix_ns > 0 {
            settings.set_clock(setup.clock_unix_ns, Instant::now());
        }
        if let Some(network) = setup.network.as_ref().filter(|network| !network.dhcp4) {
            settings.set_network(network);
        }
        Ok(())
    }

    fn attach(&mut self, stream: u32, attach: Attach) {
        let known = self.core.guest().execs.get(&attach.id).map(|exec| (exec.pid, exec.noted()));
        match known {
            Some((pid, noted)) => {
                let notes = attach.notes.then_some(noted);
                self.follow(stream, attach.id, pid, attach.offset, notes);
            }
            None => {
                let outcome = failure("find the exec", FailureKind::NotFound);
                self.end(stream, outcome);
            }
        }
    }

    fn follow(&mut self, stream: u32, exec: Bytes, pid: u32, offset: u64, notes: Option<u64>) {
        let started = reply::Kind::ExecStarted(ExecStarted { pid, ..ExecStarted::default() });
        let reply = self.guest.reply(stream, Reply { kind: Some(started) });
        self.sent(reply);
        let echo = VecDeque::new();
        let state = Stream { exec, sent: offset, echo, stdin_ended: false, notes };
        self.streams.insert(stream, state);
    }

    fn reading(&self, now: Instant) -> inn_guest_proto::wire::Telemetry {
        let mut guest = self.core.guest();
        let running =
            guest.execs.values_mut().filter_map(|exec| exec.end(now).is_none().then_some(()));
        let execs = u32::try_from(running.count()).unwrap_or(u32::MAX);
        telemetry::reading(Look {
            number: self.core.state.number,
            uptime: now.saturating_duration_since(self.core.started),
            clock: guest.settings.clock(now),
            hostname: guest.settings.hostname(self.core.state.number),
            addresses: guest.settings.addresses().to_vec(),
            execs,
            frozen: guest.settings.is_frozen(now),
        })
    }

    /// One reading for each watch that is due; a host that does not read
    /// misses some.
    fn send_readings(&mut self, now: Instant) {
        for stream in self.watches.take_due(now) {
            let bytes = self.reading(now).to_bytes();
            send(&mut self.guest, stream, Channel::Main, bytes, 0);
        }
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
        if self.watches.remove(stream) {
            self.end(stream, end::Outcome::Done(Done {}));
            return;
        }
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
        self.send_readings(now);
        let mut over = Vec::new();
        for (&number, stream) in &mut self.streams {
            let mut guest = self.core.guest();
            let Some(exec) = guest.execs.get_mut(&stream.exec) else {
                // Forgotten while somebody followed it.
                over.push((number, failure("find the exec", FailureKind::NotFound)));
                continue;
            };
            exec.advance(now);
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
            .chain(self.watches.next_due())
            .min()
    }

    fn forget_streams(&mut self) {
        self.watches.clear();
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
    while let Some((next, note)) = stream.notes.and_then(|from| exec.note(from)) {
        if !send(guest, number, Channel::Notes, note.to_bytes(), 0) {
            return false;
        }
        stream.notes = Some(next);
    }
    // Each run writes the same.
    let known = &exec.program.stdout;
    while stream.sent < exec.written() {
        let from = usize::try_from(stream.sent % known.len() as u64).unwrap_or(0);
        let end = known.len().min(from + MAX_DATA);
        if !send(guest, number, Channel::Stdout, known.slice(from..end), stream.sent) {
            return false;
        }
        stream.sent += (end - from) as u64;
    }
    while let Some(chunk) = stream.echo.front().cloned() {
        let size = chunk.len();
        if !send(guest, number, Channel::Stdout, chunk, exec.output()) {
            return false;
        }
        stream.echo.pop_front();
        exec.copied += size as u64;
        guest.consumed(number, data_cost(size));
    }
    true
}

fn send(guest: &mut Guest, number: u32, channel: Channel, bytes: Bytes, offset: u64) -> bool {
    let data = Data { channel: channel.into(), bytes, offset };
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

/// What can go wrong in a real one cannot here: it has a name and a clock, and
/// neither random numbers nor a card.
fn resumed() -> Resumed {
    let step = |kind: ResumeStepKind| ResumeStep {
        kind: kind.into(),
        took_ns: 0,
        result: Some(resume_step::Result::Done(Done {})),
    };
    let kinds = [
        ResumeStepKind::Entropy,
        ResumeStepKind::Clock,
        ResumeStepKind::Hostname,
        ResumeStepKind::MachineId,
        ResumeStepKind::Network,
        ResumeStepKind::Mounts,
        ResumeStepKind::Secrets,
    ];
    Resumed { steps: kinds.map(step).to_vec() }
}
