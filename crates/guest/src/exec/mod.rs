//! Processes that the host asks for.
//!
//! ```text
//!  Exec ─▶ prepare ─▶ launch ─▶ running ──last output, or grace over──▶ ended
//!             │          │       ▲  │ supervised: ended, and wanted again │
//!             │          │       └──┘                                     │
//!             └──────────┴──▶ refused (End with a Failure)                │
//!                         neither retained nor lasting: forgotten at once ◀┤
//!                    kept until ForgetExec, or until newer ones need room ◀┘
//! ```
//!
//! A process that is not retained belongs to its stream: when the host cancels
//! it or goes away, its family is ended. A retained one runs on, its output
//! goes to a ring, and any number of streams may follow it. A lasting one
//! belongs to its stream, too, but waits a while for another where the session
//! is lost.

mod input;
mod lasting;
mod notes;
mod outbox;
mod output;
mod ring;
mod run;
mod spec;
mod state;
mod supervise;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use inn_guest_proto::wire::{Attach, Exec, ExecList, FailureKind, reply};
use tokio::task::spawn_local;

use crate::agent::Agent;
use crate::refusal::Refusal;
use crate::stream::Stream;
use lasting::Lasting;
use output::{From, follow};
use run::{NoRun, Running, Work};
use state::ExecState;

const ID_BYTES: usize = 8;

/// Processes that run or are retained. A program in the VM can start as many
/// as it likes; these are the host's. Each takes up to three descriptors of
/// the 1024 that a process has by default.
const MAX_EXECS: usize = 256;

/// The most that one process may retain.
const MAX_RETAIN: u32 = 1024 * 1024;

/// What all that run may retain together.
const MAX_RETAINED_BYTES: usize = 32 * 1024 * 1024;

/// What all that have ended may retain together, oldest forgotten first.
const MAX_ENDED_BYTES: usize = 4 * 1024 * 1024;

/// Their number, likewise: each also keeps its arguments.
const MAX_ENDED: usize = 64;

type Id = [u8; ID_BYTES];

#[derive(Debug, Default)]
pub(crate) struct ExecTable {
    known: RefCell<BTreeMap<Id, Rc<ExecState>>>,
    /// In the order of their ends.
    ended: RefCell<Vec<Id>>,
    /// Nothing is started any more.
    closed: Cell<bool>,
}

pub(crate) fn start(agent: &Rc<Agent>, stream: Stream, spec: Exec) {
    match launch(agent, &spec) {
        Ok((exec, running, program)) => {
            stream.reply(reply::Kind::ExecStarted(exec.started()));
            let timeout = (spec.timeout_ms > 0).then(|| Duration::from_millis(spec.timeout_ms));
            let owner = if exec.ring.is_some() {
                let from = From { offset: 0, notes: spec.notes.then_some(0) };
                follow(Rc::clone(&exec), stream, from);
                None
            } else if exec.lasting.is_some() {
                lasting::follow(agent, Rc::clone(&exec), stream, 0);
                None
            } else {
                let stream = Rc::new(stream);
                input::feed(&exec, &stream);
                Some(stream)
            };
            let with_stdin = spec.stdin;
            let work = Work { program, with_stdin, timeout, owner, notes: spec.notes };
            run::drive(agent, exec, running, work);
        }
        Err(refusal) => stream.end(refusal),
    }
}

type Launched = (Rc<ExecState>, Running, crate::os::process::Program);

fn launch(agent: &Rc<Agent>, spec: &Exec) -> Result<Launched, Refusal> {
    let id = parse_id(&spec.id)?;
    agent.execs.admit(&id, spec)?;
    let stable = spec.stable_addresses || agent.stable_addresses.get();
    let program = spec::prepare(spec)?.at_stable_addresses(stable);
    let mut running = run::start(agent, &program, spec.tty.as_ref(), spec.stdin).map_err(
        |error| match error {
            NoRun::Pipes(error) => Refusal::io("open pipes for the process", &error),
            NoRun::Launch(error) => spec::explain(&error, spec, &program),
        },
    )?;
    let lasting = Lasting::of(spec, agent.execs.known.borrow().len());
    let exec = Rc::new(ExecState::new(id, running.pid, spec, lasting));
    // Before the first input can come.
    exec.stdin.renew(running.stdin.take());
    *exec.terminal.borrow_mut() = running.terminal.take();
    agent.execs.known.borrow_mut().insert(id, Rc::clone(&exec));
    Ok((exec, running, program))
}

/// Follows a retained exec, or becomes the owner of a lasting one, and takes
/// over its stdin.
pub(crate) fn attach(agent: &Rc<Agent>, stream: Stream, request: &Attach) {
    let exec = match agent.execs.find(&request.id) {
        Ok(exec) if exec.ring.is_some() => exec,
        Ok(exec) if exec.lasting.is_some() => {
            let admitted = exec.lasting.as_ref().map_or(Ok(()), |it| it.admit(request.offset));
            if let Err(refusal) = admitted {
                return stream.end(refusal);
            }
            stream.reply(reply::Kind::ExecStarted(exec.started()));
            return lasting::follow(agent, exec, stream, request.offset);
        }
        Ok(_) => return stream.end(Refusal::invalid("attach to an exec that is not retained")),
        Err(refusal) => return stream.end(refusal),
    };
    stream.reply(reply::Kind::ExecStarted(exec.started()));
    // Those from now on: what came before is in the listing.
    let notes = request.notes.then(|| exec.notes.borrow().next_number());
    follow(exec, stream, From { offset: request.offset, notes });
}

impl ExecTable {
    fn admit(&self, id: &Id, spec: &Exec) -> Result<(), Refusal> {
        if self.closed.get() {
            let what = "start a process while the machine is going down";
            return Err(Refusal::new(FailureKind::Failed, what));
        }
        let known = self.known.borrow();
        if known.contains_key(id) {
            let what = "start an exec whose id is in use";
            return Err(Refusal::new(FailureKind::AlreadyExists, what));
        }
        if known.len() >= MAX_EXECS {
            let what = format!("start more than {MAX_EXECS} execs");
            return Err(Refusal::new(FailureKind::Exhausted, what));
        }
        let Some(wanted) = spec.retain_bytes else { return Ok(()) };
        let running = known.values().filter(|exec| exec.ended.get().is_none());
        let rings = running.filter_map(|exec| exec.ring.as_ref());
        let promised: usize = rings.map(|ring| ring.borrow().capacity()).sum();
        if promised + wanted.min(MAX_RETAIN) as usize > MAX_RETAINED_BYTES {
            let most = MAX_RETAINED_BYTES / 1024 / 1024;
            let what = format!("retain more than {most} MiB of the output of all that runs");
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

    /// Of a supervised exec, SIGTERM and SIGKILL also mean that it is not
    /// started again.
    pub(crate) fn signal(&self, id: &Bytes, signal: i32) -> Result<(), Refusal> {
        self.find(id)?.signal(signal)
    }

    /// One that runs is forgotten only if it is supervised: its runs may have
    /// no end. It is ended first.
    pub(crate) fn forget(&self, id: &Bytes) -> Result<(), Refusal> {
        let exec = self.find(id)?;
        if exec.ended.get().is_some() {
            self.remove(&exec.id);
        } else if exec.supervisor.borrow().restarts_at_all() {
            exec.forgotten.set(true);
            exec.end_all();
        } else {
            return Err(Refusal::invalid("forget an exec that runs"));
        }
        Ok(())
    }

    /// The machine, or the agent, is about to end: what runs has its last run,
    /// and nothing is started.
    pub(crate) fn close(&self) {
        self.closed.set(true);
        for exec in self.known.borrow().values() {
            exec.run_no_more();
        }
    }

    fn remove(&self, id: &Id) {
        self.known.borrow_mut().remove(id);
        self.ended.borrow_mut().retain(|ended| ended != id);
    }

    /// Books an end: what is not retained goes, and so do the oldest of what
    /// is, where there are too many.
    fn settle(&self, exec: &ExecState) {
        let kept = exec.ring.is_some() || exec.lasting.is_some() && !exec.is_hung_up();
        if !kept || exec.forgotten.get() {
            return self.remove(&exec.id);
        }
        self.ended.borrow_mut().push(exec.id);
        loop {
            let oldest = {
                let (known, ended) = (self.known.borrow(), self.ended.borrow());
                let bytes: usize =
                    ended.iter().filter_map(|id| known.get(id)).map(|exec| exec.cost()).sum();
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

fn parse_id(bytes: &Bytes) -> Result<Id, Refusal> {
    Id::try_from(bytes.as_ref())
        .map_err(|_| Refusal::invalid(format!("use an id that is not {ID_BYTES} bytes")))
}

/// Starts a local task that nobody waits for.
fn detach(task: impl Future<Output = ()> + 'static) {
    drop(spawn_local(task));
}
