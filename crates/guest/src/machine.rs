//! What the host changes in the machine around the agent.
//!
//! ```text
//!  request ─▶ may we? ─▶ frozen? ─▶ one at a time ─▶ a job on a thread ─▶ answer
//!  network:                             applied ─▶ pending ──confirmed──▶ kept
//!                                                     └─ time is up, we end ─▶ taken back
//! ```
//!
//! Changes wait for each other: two that rewrite one file, or one that grows a
//! disk which another one mounts, would be a race. Thaw and freeze do not
//! wait. A change that was begun is finished, whoever stops listening.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use inn_guest_proto::wire::{
    ApplyNetwork, Done, FailureKind, Freeze, Resume, SshKeys, end::Outcome, request::Kind,
};
use tokio::sync::{Mutex, oneshot};
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};

use crate::agent::{Agent, Role};
use crate::apart::apart;
use crate::console;
use crate::os::network_setup::{self, Undo};
use crate::os::programs::Programs;
use crate::os::{clock, disk_size, hostname, mounts, password, resume, ssh_keys};
use crate::refusal::{OrRefuse, Refusal};
use crate::stream::Stream;

/// How long a network setup may wait for its confirmation.
const MAX_CONFIRM: Duration = Duration::from_secs(3600);

type Verdict = Result<Outcome, Refusal>;

/// What is under way.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) programs: Programs,
    changes: Mutex<()>,
    /// Of the network setup that waits to be confirmed: its timer, which is
    /// told to stop, or to take it back now and say when it has.
    confirm: RefCell<Option<oneshot::Sender<Word>>>,
    last_setup: Cell<Fate>,
}

#[derive(Debug)]
enum Word {
    Keep,
    TakeBack(oneshot::Sender<()>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    None,
    Kept,
    TakenBack,
}

impl Machine {
    pub(crate) fn new(programs: Programs) -> Self {
        Self {
            programs,
            changes: Mutex::new(()),
            confirm: RefCell::default(),
            last_setup: Cell::new(Fate::None),
        }
    }
}

/// Starts one of the requests 50 to 62; others are refused as unknown.
pub(crate) fn start(agent: &Rc<Agent>, stream: Stream, kind: Kind) {
    if agent.role == Role::Bare {
        let what = "change a machine in which its agent is only an ordinary process";
        return stream.end(Refusal::new(FailureKind::Denied, what));
    }
    match kind {
        Kind::SetPassword(it) => {
            change(agent, stream, move |_| done(password::set(&it.user, &it.password, &it.hash)))
        }
        Kind::SetHostname(it) => change(agent, stream, move |_| done(hostname::set(&it.hostname))),
        // At once: whatever keeps it from being told is by how much it is wrong.
        Kind::SetClock(it) => {
            let set = clock::set(Duration::from_nanos(it.unix_ns));
            stream_end(&stream, done(set.or_refuse(|| "set its clock".into())));
        }
        Kind::ApplyNetwork(it) => apply_network(agent, stream, it),
        Kind::ConfirmNetwork(_) => stream_end(&stream, confirm_network(&agent.machine)),
        Kind::Freeze(it) => freeze(agent, stream, it),
        Kind::Thaw(_) => {
            let freezer = std::sync::Arc::clone(&agent.freezer);
            run(stream, move || Ok(Outcome::Frozen(freezer.thaw())));
        }
        Kind::GetSshKeys(it) => run(stream, move || {
            ssh_keys::get(&it.user).map(|keys| Outcome::SshKeys(SshKeys { keys }))
        }),
        Kind::SetSshKeys(it) => {
            change(agent, stream, move |_| done(ssh_keys::set(&it.user, &it.keys, it.replace)))
        }
        Kind::GrowDisk(it) => {
            change(agent, stream, move |_| disk_size::grow(&it.target).map(Outcome::DiskGrown))
        }
        Kind::MountDisk(it) => {
            change(agent, stream, move |programs| done(mounts::mount_disk(&it, programs)));
        }
        Kind::Unmount(it) => {
            change(agent, stream, move |programs| done(mounts::unmount(&it.target, programs)))
        }
        Kind::Resume(it) => resume(agent, stream, it),
        _ => stream.end(Refusal::new(FailureKind::Unsupported, "do what was asked")),
    }
}

fn done(result: Result<(), Refusal>) -> Verdict {
    result.map(|()| Outcome::Done(Done {}))
}

fn stream_end(stream: &Stream, verdict: Verdict) {
    match verdict {
        Ok(outcome) => stream.end(outcome),
        Err(refusal) => stream.end(refusal),
    }
}

/// Beside all others.
fn run(stream: Stream, job: impl FnOnce() -> Verdict + Send + 'static) {
    drop(spawn_local(async move {
        let verdict = apart("machine", job).await.and_then(|verdict| verdict);
        stream_end(&stream, verdict);
    }));
}

/// After all that came before.
fn change(
    agent: &Rc<Agent>,
    stream: Stream,
    job: impl FnOnce(&Programs) -> Verdict + Send + 'static,
) {
    let agent = Rc::clone(agent);
    drop(spawn_local(async move {
        // Both arms may be cancelled: nothing has begun.
        let turn = tokio::select! {
            turn = agent.machine.changes.lock() => turn,
            () = stream.gone() => return,
        };
        if let Err(refusal) = thawed(&agent) {
            return stream.end(refusal);
        }
        let programs = agent.machine.programs.clone();
        let verdict = apart("machine", move || job(&programs)).await.and_then(|verdict| verdict);
        drop(turn);
        stream_end(&stream, verdict);
    }));
}

/// What writes would wait for the thaw.
fn thawed(agent: &Agent) -> Result<(), Refusal> {
    if agent.freezer.is_frozen() {
        let what = "change anything while its file systems are frozen";
        return Err(Refusal::new(FailureKind::Denied, what));
    }
    Ok(())
}

/// A machine that was saved while it was frozen is thawed by its host first.
fn resume(agent: &Rc<Agent>, stream: Stream, request: Resume) {
    let agent = Rc::clone(agent);
    drop(spawn_local(async move {
        // Both arms may be cancelled: nothing has begun.
        let turn = tokio::select! {
            turn = agent.machine.changes.lock() => turn,
            () = stream.gone() => return,
        };
        if let Err(refusal) = thawed(&agent) {
            return stream.end(refusal);
        }
        let (programs, role) = (agent.machine.programs.clone(), agent.role);
        if let Some(setup) = &request.setup {
            agent.stable_addresses.set(setup.stable_addresses);
        }
        let begun = resume::begin(&request, role);
        let resumed = match begun.takes_time(&request) {
            true => apart("resume", move || begun.finish(&request, &programs)).await,
            false => Ok(begun.finish(&request, &programs)),
        };
        if let Ok(resumed) = &resumed
            && resume::succeeded(resumed)
        {
            agent.configured.set(true);
        }
        drop(turn);
        stream_end(&stream, resumed.map(Outcome::Resumed));
    }));
}

fn freeze(agent: &Rc<Agent>, stream: Stream, request: Freeze) {
    let agent = Rc::clone(agent);
    drop(spawn_local(async move {
        // Half a change is not to be frozen, and neither is a setup that its
        // timer could not take back.
        let Ok(_turn) = agent.machine.changes.try_lock() else {
            let what = "freeze its file systems while something is being changed";
            return stream.end(Refusal::new(FailureKind::Failed, what));
        };
        if agent.machine.confirm.borrow().is_some() {
            let what = "freeze its file systems while a network setup waits to be confirmed";
            return stream.end(Refusal::new(FailureKind::Failed, what));
        }
        let freezer = std::sync::Arc::clone(&agent.freezer);
        let dead_man = Duration::from_millis(request.dead_man_ms.into());
        let job = move || freezer.freeze(dead_man, &request.mounts).map(Outcome::Frozen);
        let verdict = apart("freeze", job).await.and_then(|verdict| verdict);
        stream_end(&stream, verdict);
    }));
}

fn apply_network(agent: &Rc<Agent>, stream: Stream, request: ApplyNetwork) {
    let confirm = Duration::from_millis(request.confirm_ms.into());
    if confirm.is_zero() || confirm > MAX_CONFIRM {
        let what = "apply a network setup that is to be confirmed at once, or in over an hour";
        return stream.end(Refusal::invalid(what));
    }
    let agent = Rc::clone(agent);
    drop(spawn_local(async move {
        // Both arms may be cancelled: nothing has begun.
        let turn = tokio::select! {
            turn = agent.machine.changes.lock() => turn,
            () = stream.gone() => return,
        };
        if let Err(refusal) = thawed(&agent) {
            return stream.end(refusal);
        }
        if agent.machine.confirm.borrow().is_some() {
            let what = "apply a network setup: another one waits to be confirmed";
            return stream.end(Refusal::new(FailureKind::AlreadyExists, what));
        }
        let programs = agent.machine.programs.clone();
        let setup = request.setup.unwrap_or_default();
        let job = move || network_setup::apply(&setup, &programs);
        let applied = apart("network", job).await.and_then(|applied| applied);
        let verdict = applied.map(|(applied, undo)| {
            let (tell, word) = oneshot::channel();
            agent.machine.confirm.replace(Some(tell));
            await_confirmation(&agent, confirm, word, undo);
            Outcome::NetworkApplied(applied)
        });
        drop(turn);
        stream_end(&stream, verdict);
    }));
}

/// The timer, which no host can stop but by confirming.
fn await_confirmation(
    agent: &Rc<Agent>,
    confirm: Duration,
    word: oneshot::Receiver<Word>,
    undo: Undo,
) {
    let agent = Rc::clone(agent);
    drop(spawn_local(async move {
        // Both arms may be cancelled: the timer is over, or of no use.
        let tell = tokio::select! {
            word = word => match word {
                Ok(Word::Keep) => return,
                Ok(Word::TakeBack(tell)) => Some(tell),
                Err(_) => None,
            },
            () = sleep(confirm) => None,
        };
        agent.machine.confirm.take();
        agent.machine.last_setup.set(Fate::TakenBack);
        let _turn = agent.machine.changes.lock().await;
        let programs = agent.machine.programs.clone();
        let taken_back = apart("network", move || undo.roll_back(&programs)).await;
        if let Err(refusal) = taken_back.and_then(|result| result) {
            console::say(&format!("cannot {refusal}"));
        }
        if let Some(tell) = tell {
            let _gave_up = tell.send(());
        }
    }));
}

/// Before the agent ends: what nobody confirmed is taken back, for the next
/// agent does not know of it. Files come first; a tool that is slower than
/// `limit` is not waited for.
pub(crate) async fn leave(agent: &Agent, limit: Duration) {
    let Some(timer) = agent.machine.confirm.take() else { return };
    let (tell, taken_back) = oneshot::channel();
    if timer.send(Word::TakeBack(tell)).is_ok() {
        let _late = timeout(limit, taken_back).await;
    }
}

/// Confirming twice succeeds twice.
fn confirm_network(machine: &Machine) -> Verdict {
    if let Some(tell) = machine.confirm.take() {
        machine.last_setup.set(Fate::Kept);
        let _timer_waits = tell.send(Word::Keep);
    }
    match machine.last_setup.get() {
        Fate::Kept => Ok(Outcome::Done(Done {})),
        Fate::TakenBack => {
            let what = "confirm the network setup: its time was up, and it was taken back";
            Err(Refusal::new(FailureKind::Changed, what))
        }
        Fate::None => {
            Err(Refusal::not_found("confirm a network setup: none was applied since it started"))
        }
    }
}
