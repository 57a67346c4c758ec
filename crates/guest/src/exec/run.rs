//! The task behind each exec: its runs, one after the other, and its end.
//!
//! ```text
//!  run ──ended──▶ supervise says: again ──delay──▶ run
//!   │                             └─ done ─▶ booked, told, retained or forgotten
//!   │ time is up, nobody listens, forgotten: SIGTERM (SIGHUP) to the family,
//!   └ after a grace, or with its leader's end, SIGKILL to what is left of it
//! ```

use std::future::pending;
use std::rc::Rc;
use std::time::{Duration, Instant};

use inn_guest_proto::wire::{
    Channel, Control, ExecEnd, TtySize, end::Outcome, exec_end, exec_note,
};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant as Deadline, sleep_until};

use super::detach;
use super::output::{pump, steer};
use super::state::ExecState;
use super::supervise::Next;
use crate::agent::Agent;
use crate::os::pipes::{self, Drain, Feed, Terminal};
use crate::os::process::{self, Family, LaunchError, Program, SIGHUP, SIGKILL, SIGTERM};
use crate::os::reaper::Ended;
use crate::stream::{Gone, Stream};

/// Between the signal that asks a process to end and SIGKILL.
const BEFORE_KILL: Duration = Duration::from_secs(2);

/// What a shell says of a program that it cannot start.
const CANNOT_START: i32 = 127;

/// A process that runs.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) pid: i32,
    pub(super) stdin: Option<Feed>,
    pub(super) terminal: Option<Terminal>,
    ended: oneshot::Receiver<Ended>,
    begun: Instant,
    stdout: Drain,
    stderr: Option<Drain>,
}

/// Why there is none.
#[derive(Debug)]
pub(super) enum NoRun {
    Pipes(std::io::Error),
    Launch(LaunchError),
}

pub(super) fn start(
    agent: &Agent,
    program: &Program,
    tty: Option<&TtySize>,
    with_stdin: bool,
) -> Result<Running, NoRun> {
    let (ours, theirs) = pipes::open(tty, with_stdin).map_err(NoRun::Pipes)?;
    let begun = Instant::now();
    let pid = process::launch(program, &theirs).map_err(NoRun::Launch)?;
    Ok(Running {
        pid,
        stdin: ours.stdin,
        terminal: ours.terminal,
        ended: agent.reaper.expect(pid),
        begun,
        stdout: ours.stdout,
        stderr: ours.stderr,
    })
}

/// What an exec is made of besides its state.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) program: Program,
    pub(super) with_stdin: bool,
    pub(super) timeout: Option<Duration>,
    /// The one stream that it belongs to, unless it is retained or lasting.
    pub(super) owner: Option<Rc<Stream>>,
    /// The owner takes notes.
    pub(super) notes: bool,
}

/// Runs the exec to its end and tells everyone.
pub(super) fn drive(agent: &Rc<Agent>, exec: Rc<ExecState>, first: Running, work: Work) {
    let agent = Rc::clone(agent);
    // Who asks for more than there will ever be has no limit.
    let deadline = work.timeout.and_then(|limit| Deadline::now().checked_add(limit));
    let watch = Watch {
        deadline,
        listening: true,
        timed_out: false,
        hung_up: false,
        kill_at: None,
        family: None,
    };
    detach(async move {
        let mut driver = Driver { agent: &agent, exec: &exec, work: &work, watch };
        let end = driver.run_all(first).await;
        exec.stdin.renew(None);
        exec.terminal.borrow_mut().take();
        exec.ended.set(Some(end));
        agent.execs.settle(&exec);
        exec.news.notify_waiters();
        if let Some(stream) = &work.owner {
            stream.end(Outcome::ExecEnd(end));
        }
    });
}

struct Driver<'a> {
    agent: &'a Agent,
    exec: &'a ExecState,
    work: &'a Work,
    watch: Watch,
}

impl Driver<'_> {
    async fn run_all(&mut self, first: Running) -> ExecEnd {
        let mut end = self.run(first).await;
        loop {
            let ran = Duration::from_nanos(end.took_ns);
            let success = end.status == Some(exec_end::Status::Code(0));
            let next = self.exec.supervisor.borrow_mut().ended(success, ran);
            let Next::Again { after } = next else { return end };
            let millis = u32::try_from(after.as_millis()).unwrap_or(u32::MAX);
            self.tell(exec_note::Kind::RunEnded(end), millis).await;
            self.watch.idle(self.exec, self.work.owner.as_deref(), after).await;
            end.timed_out = self.watch.timed_out;
            if !self.exec.supervisor.borrow_mut().start_again() {
                return end;
            }
            let size = self.exec.size.get();
            match start(self.agent, &self.work.program, size.as_ref(), self.work.with_stdin) {
                Ok(mut run) => {
                    self.exec.pid.set(run.pid);
                    self.exec.stdin.renew(run.stdin.take());
                    *self.exec.terminal.borrow_mut() = run.terminal.take();
                    let started = self.exec.started();
                    self.tell(exec_note::Kind::RunStarted(started), 0).await;
                    end = self.run(run).await;
                }
                // Its program is gone, or the machine is short of something:
                // that may pass, and counts as a run.
                Err(_) => end = self.end(Ended::Code(CANNOT_START), Duration::ZERO),
            }
        }
    }

    /// One run, up to its end and that of its output.
    async fn run(&mut self, run: Running) -> ExecEnd {
        let (exec, owner) = (self.exec, self.work.owner.as_deref());
        let (tell_exit, exit) = watch::channel(false);
        let pump_out = pump(exec, run.stdout, Channel::Stdout, owner, exit.clone());
        let pump_err = async {
            if let Some(stderr) = run.stderr {
                pump(exec, stderr, Channel::Stderr, owner, exit).await;
            }
        };
        let watch = &mut self.watch;
        let wait = async {
            let ended = watch.wait(exec, owner, run.ended).await;
            let took = run.begun.elapsed();
            let _nobody_pumps = tell_exit.send(true);
            (ended, took)
        };
        let ((ended, took), (), ()) = tokio::join!(wait, pump_out, pump_err);
        self.end(ended, took)
    }

    fn end(&self, ended: Ended, took: Duration) -> ExecEnd {
        ExecEnd {
            status: Some(match ended {
                Ended::Code(code) => exec_end::Status::Code(code),
                Ended::Signal(signal) => exec_end::Status::Signal(signal),
            }),
            timed_out: self.watch.timed_out,
            truncated: self.exec.truncated.get(),
            output: self.exec.output.get(),
            took_ns: u64::try_from(took.as_nanos()).unwrap_or(u64::MAX),
        }
    }

    async fn tell(&self, kind: exec_note::Kind, next_in_ms: u32) {
        let note = self.exec.note(kind, next_in_ms);
        if let Some(owner) = self.work.owner.as_deref().filter(|_| self.work.notes) {
            // One that is gone is noticed by the watch.
            let _gone = owner.send(Channel::Notes, note.to_bytes(), 0).await;
        }
    }
}

/// What may end an exec before it ends itself.
#[derive(Debug)]
struct Watch {
    /// Of all runs together.
    deadline: Option<Deadline>,
    /// The owner does.
    listening: bool,
    timed_out: bool,
    /// The family has been told that nobody wants it any more.
    hung_up: bool,
    kill_at: Option<Deadline>,
    /// Of a run that is being ended.
    family: Option<Family>,
}

impl Watch {
    /// Waits for the process itself, and ends its family on the way where its
    /// time is up, nobody listens, or nobody wants it any more.
    async fn wait(
        &mut self,
        exec: &ExecState,
        owner: Option<&Stream>,
        mut ended: oneshot::Receiver<Ended>,
    ) -> Ended {
        loop {
            if exec.ending.get() && self.family.is_none() {
                self.end_family(exec, SIGTERM);
            }
            if exec.is_hung_up() && !std::mem::replace(&mut self.hung_up, true) {
                self.end_family(exec, SIGHUP);
            }
            // Every arm may be cancelled: nothing is taken before it is acted
            // on.
            tokio::select! {
                ended = &mut ended => {
                    self.kill_at = None;
                    if let Some(mut family) = self.family.take() {
                        // Whoever of it did not heed the first signal.
                        family.signal(SIGKILL);
                    }
                    // The reaper lives as long as the agent does.
                    return ended.unwrap_or(Ended::Signal(SIGKILL));
                }
                () = at(self.deadline) => {
                    self.time_is_up(exec);
                    self.end_family(exec, SIGTERM);
                }
                () = at(self.kill_at) => {
                    self.kill_at = None;
                    if let Some(family) = &mut self.family {
                        family.signal(SIGKILL);
                    }
                }
                () = exec.poked.notified() => {}
                control = controls(owner), if self.listening => match control {
                    Ok(control) => steer(exec, &control),
                    Err(Gone) => {
                        self.stop_listening(exec);
                        self.end_family(exec, SIGHUP);
                    }
                },
            }
        }
    }

    /// Between two runs: waits until the next one is due, or there is to be
    /// none.
    async fn idle(&mut self, exec: &ExecState, owner: Option<&Stream>, delay: Duration) {
        let due = Deadline::now() + delay;
        loop {
            // Every arm may be cancelled, as above.
            tokio::select! {
                () = sleep_until(due) => return,
                () = at(self.deadline) => return self.time_is_up(exec),
                () = exec.poked.notified() => {
                    if exec.supervisor.borrow().is_done() {
                        return;
                    }
                }
                control = controls(owner), if self.listening => match control {
                    Ok(control) => steer(exec, &control),
                    Err(Gone) => return self.stop_listening(exec),
                },
            }
        }
    }

    fn time_is_up(&mut self, exec: &ExecState) {
        self.timed_out = true;
        self.deadline = None;
        exec.supervisor.borrow_mut().stop();
    }

    fn stop_listening(&mut self, exec: &ExecState) {
        self.listening = false;
        exec.supervisor.borrow_mut().stop();
    }

    fn end_family(&mut self, exec: &ExecState, signal: i32) {
        let family = self.family.get_or_insert_with(|| Family::new(exec.pid.get()));
        family.signal(signal);
        self.kill_at.get_or_insert(Deadline::now() + BEFORE_KILL);
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
