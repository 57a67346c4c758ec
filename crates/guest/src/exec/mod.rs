//! Processes that the host asks for.
//!
//! ```text
//!  Exec ─▶ prepare ─▶ launch ─▶ running ──last output, or grace over──▶ ended
//!             └─────────┴──▶ refused (End with a Failure)                 │
//!                                      not retained: forgotten at once ◀──┤
//!          retained: kept until ForgetExec, or until newer ones need room ◀┘
//! ```
//!
//! A process that is not retained belongs to its stream: when the host cancels
//! it or goes away, the process group is ended. A retained one runs on, its
//! output goes to a ring, and any number of streams may follow it.

mod io;
mod ring;
mod run;
mod spec;
mod user;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use bytes::Bytes;
use inn_guest_proto::wire::{
    Attach, Exec, ExecEnd, ExecList, ExecStarted, ExecSummary, FailureKind, reply,
};
use tokio::sync::Notify;
use tokio::task::spawn_local;

use crate::agent::Agent;
use crate::os::raw::{self, Launch, LaunchError, Step};
use crate::refusal::{OrRefuse, Refusal};
use crate::stream::Stream;
use ring::Ring;
use spec::Prepared;

const ID_BYTES: usize = 8;

/// Processes that run or are retained. A program in the VM can start as many
/// as it likes; these are the host's.
const MAX_EXECS: usize = 256;

/// The most that one process may retain.
const MAX_RETAIN: u32 = 1024 * 1024;

/// What all that have ended may retain together, oldest forgotten first.
const MAX_ENDED_BYTES: usize = 4 * 1024 * 1024;

/// Their number, likewise: each also keeps its arguments.
const MAX_ENDED: usize = 64;

/// How much of the arguments a listing shows: it must fit one frame.
const SHOWN_ARGUMENTS: usize = 200;

type Id = [u8; ID_BYTES];

/// One process and what is known of it.
#[derive(Debug)]
struct ExecState {
    id: Id,
    pid: i32,
    argv: Vec<String>,
    /// Present where the output is retained.
    ring: Option<RefCell<Ring>>,
    ended: RefCell<Option<ExecEnd>>,
    /// The ring has more, or the process has ended.
    news: Notify,
    /// Bytes of output passed on or kept so far.
    output: Cell<u64>,
    truncated: Cell<u64>,
    limit: Option<u64>,
    stdin: RefCell<Option<Rc<run::Stdin>>>,
    terminal: Option<OwnedFd>,
}

#[derive(Debug, Default)]
pub(crate) struct ExecTable {
    known: RefCell<BTreeMap<Id, Rc<ExecState>>>,
    /// In the order of their ends.
    ended: RefCell<Vec<Id>>,
}

pub(crate) fn start(agent: &Rc<Agent>, stream: Stream, spec: Exec) {
    match launch(agent, &spec) {
        Ok((exec, ours)) => {
            stream.reply(started(&exec));
            run::supervise(agent, exec, ours, stream, &spec);
        }
        Err(refusal) => stream.end(refusal),
    }
}

fn launch(agent: &Rc<Agent>, spec: &Exec) -> Result<(Rc<ExecState>, run::Running), Refusal> {
    let id = parse_id(&spec.id)?;
    agent.execs.admit(&id)?;
    let prepared = spec::prepare(spec)?;
    let (ours, theirs) = io::open(spec).or_refuse(|| "open pipes for the process".into())?;
    theirs.give_to(prepared.user.uid, prepared.user.gid);
    let begun = std::time::Instant::now();
    let pid = raw::launch(&Launch {
        candidates: &prepared.candidates,
        argv: &prepared.argv,
        env: &prepared.env,
        cwd: &prepared.cwd,
        uid: prepared.user.uid,
        gid: prepared.user.gid,
        groups: &prepared.user.groups,
        stdin: theirs.stdin(),
        stdout: theirs.stdout(),
        stderr: theirs.stderr(),
        terminal: spec.tty.is_some(),
        stable_addresses: agent.stable_addresses.get(),
    })
    .map_err(|error| explain(&error, spec, &prepared))?;
    let ended = agent.reaper.expect(pid);
    drop(theirs);
    let retain = spec.retain_bytes.map(|bytes| bytes.min(MAX_RETAIN) as usize);
    let stdin = ours.stdin.map(run::Stdin::new).transpose();
    let exec = Rc::new(ExecState {
        id,
        pid,
        argv: spec.argv.clone(),
        ring: retain.map(|bytes| RefCell::new(Ring::new(bytes))),
        ended: RefCell::new(None),
        news: Notify::new(),
        output: Cell::new(0),
        truncated: Cell::new(0),
        limit: spec.output_limit,
        stdin: RefCell::new(stdin.unwrap_or_default().map(Rc::new)),
        terminal: ours.terminal,
    });
    agent.execs.known.borrow_mut().insert(id, Rc::clone(&exec));
    let running = run::Running { ended, begun, stdout: ours.stdout, stderr: ours.stderr };
    Ok((exec, running))
}

/// Which of the things that were asked for stood in the way.
fn explain(error: &LaunchError, spec: &Exec, prepared: &Prepared) -> Refusal {
    let program = spec.argv.first().map(String::as_str).unwrap_or_default();
    let what = match error.step {
        Step::Program => format!("run {program}"),
        Step::WorkingDirectory => {
            format!("enter the working directory {}", prepared.cwd.to_string_lossy())
        }
        Step::Identity => {
            format!("become user {} and group {}", prepared.user.uid, prepared.user.gid)
        }
        Step::Terminal => "give the process its terminal".to_owned(),
        Step::Fork | Step::Session | Step::Descriptors => format!("start a process for {program}"),
    };
    Refusal::io(what, &error.source)
}

pub(crate) fn attach(agent: &Rc<Agent>, stream: Stream, request: &Attach) {
    let exec = match agent.execs.find(&request.id) {
        Ok(exec) if exec.ring.is_some() => exec,
        Ok(_) => return stream.end(Refusal::invalid("attach to an exec that is not retained")),
        Err(refusal) => return stream.end(refusal),
    };
    stream.reply(started(&exec));
    run::follow(exec, stream, request.offset);
}

fn started(exec: &ExecState) -> reply::Kind {
    reply::Kind::ExecStarted(ExecStarted { pid: exec.pid.unsigned_abs() })
}

impl ExecTable {
    fn admit(&self, id: &Id) -> Result<(), Refusal> {
        let known = self.known.borrow();
        if known.contains_key(id) {
            let what = "start an exec whose id is in use";
            return Err(Refusal::new(FailureKind::AlreadyExists, what));
        }
        if known.len() >= MAX_EXECS {
            let what = format!("start more than {MAX_EXECS} execs");
            return Err(Refusal::new(FailureKind::Exhausted, what));
        }
        Ok(())
    }

    fn find(&self, id: &Bytes) -> Result<Rc<ExecState>, Refusal> {
        let known = self.known.borrow();
        known.get(&parse_id(id)?).cloned().ok_or_else(|| Refusal::not_found("find that exec"))
    }

    pub(crate) fn list(&self) -> ExecList {
        ExecList { execs: self.known.borrow().values().map(|exec| exec.summary()).collect() }
    }

    pub(crate) fn signal(&self, id: &Bytes, signal: i32) -> Result<(), Refusal> {
        self.find(id)?.signal(signal)
    }

    pub(crate) fn forget(&self, id: &Bytes) -> Result<(), Refusal> {
        let exec = self.find(id)?;
        if exec.ended.borrow().is_none() {
            return Err(Refusal::invalid("forget an exec that runs"));
        }
        self.remove(&exec.id);
        Ok(())
    }

    fn remove(&self, id: &Id) {
        self.known.borrow_mut().remove(id);
        self.ended.borrow_mut().retain(|ended| ended != id);
    }

    /// Books an end: what is not retained goes, and so do the oldest of what
    /// is, where there are too many.
    fn settle(&self, exec: &ExecState) {
        if exec.ring.is_none() {
            return self.remove(&exec.id);
        }
        self.ended.borrow_mut().push(exec.id);
        loop {
            let oldest = {
                let (known, ended) = (self.known.borrow(), self.ended.borrow());
                let rings = ended.iter().filter_map(|id| known.get(id)?.ring.as_ref());
                let bytes: usize = rings.map(|ring| ring.borrow().cost()).sum();
                let too_many = ended.len() > MAX_ENDED || bytes > MAX_ENDED_BYTES;
                ended.first().copied().filter(|_| too_many && ended.len() > 1)
            };
            match oldest {
                Some(id) => self.remove(&id),
                None => return,
            }
        }
    }
}

impl ExecState {
    fn signal(&self, signal: i32) -> Result<(), Refusal> {
        // 64 signals (signal(7)); 0 would only ask whether it is there.
        if !(1..=64).contains(&signal) {
            return Err(Refusal::invalid(format!("send the signal {signal}")));
        }
        if self.ended.borrow().is_some() {
            return Err(Refusal::not_found("signal an exec that has ended"));
        }
        // The pid is ours until it is reaped, and the group may outlive it.
        raw::signal_group(self.pid, signal).or_refuse(|| format!("send the signal {signal}"))
    }

    fn summary(&self) -> ExecSummary {
        let (start, end) = match &self.ring {
            Some(ring) => (ring.borrow().start(), ring.borrow().end()),
            None => (self.output.get(), self.output.get()),
        };
        let mut room = SHOWN_ARGUMENTS;
        let shown = self.argv.iter().map_while(|argument| {
            let piece: String = argument.chars().take(room).collect();
            room = room.saturating_sub(piece.len().max(1));
            (room > 0 || !piece.is_empty()).then_some(piece)
        });
        ExecSummary {
            id: Bytes::copy_from_slice(&self.id),
            pid: self.pid.unsigned_abs(),
            argv: shown.collect(),
            retained: self.ring.is_some(),
            output_start: start,
            output_end: end,
            ended: *self.ended.borrow(),
            ..ExecSummary::default()
        }
    }
}

fn parse_id(bytes: &Bytes) -> Result<Id, Refusal> {
    Id::try_from(bytes.as_ref())
        .map_err(|_| Refusal::invalid(format!("use an id that is not {ID_BYTES} bytes")))
}

/// Starts a local task that nobody waits for.
fn detach(task: impl Future<Output = ()> + 'static) {
    drop(spawn_local(task));
}
