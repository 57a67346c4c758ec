//! What each request leads to.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use inn_guest_proto::wire::{
    Done, FailureKind, Request, Shutdown, ShutdownKind, end::Outcome, request::Kind,
};
use tokio::task::spawn_local;

use crate::agent::{Agent, Role};
use crate::apart::apart;
use crate::os::{identity, lifecycle};
use crate::refusal::Refusal;
use crate::stream::Stream;
use crate::{exec, files, machine, telemetry};

/// For the answer to leave before the machine does.
const ANSWER_LEAVES: Duration = Duration::from_millis(50);

/// Starts what the request asks for. Whatever takes time is a task.
pub(crate) fn start(agent: &Rc<Agent>, stream: Stream, request: Request) {
    let Some(kind) = request.kind else {
        // From a host that is one minor version newer.
        return stream.end(Refusal::new(FailureKind::Unsupported, "do what was asked"));
    };
    match kind {
        Kind::Exec(spec) => exec::start(agent, stream, spec),
        Kind::Attach(attach) => exec::attach(agent, stream, &attach),
        Kind::ListExecs(_) => stream.end(Outcome::ExecList(agent.execs.list())),
        Kind::SignalExec(request) => {
            answer(&stream, agent.execs.signal(&request.id, request.signal));
        }
        Kind::ForgetExec(request) => answer(&stream, agent.execs.forget(&request.id)),
        Kind::Configure(setup) => match identity::configure(agent, setup) {
            Ok(done) => stream.end(Outcome::Configured(done)),
            Err(refusal) => stream.end(refusal),
        },
        Kind::Shutdown(request) => shut_down(agent, &stream, &request),
        Kind::ReadFile(request) => files::read_file(stream, request),
        Kind::WriteFile(request) => files::write_file(stream, request),
        Kind::ReadTree(request) => files::read_tree(stream, request),
        Kind::WriteTree(request) => files::write_tree(stream, request),
        Kind::Stat(request) => files::stat(stream, request),
        Kind::ListDir(request) => files::list_dir(stream, request),
        Kind::MakeDir(request) => files::make_dir(stream, request),
        Kind::Remove(request) => files::remove(stream, request),
        Kind::Rename(request) => files::rename(stream, request),
        Kind::Symlink(request) => files::symlink(stream, request),
        Kind::SetAttributes(request) => files::set_attributes(stream, request),
        Kind::WatchFiles(request) => files::watch_files(stream, request),
        Kind::GetUpload(request) => files::get_upload(stream, request),
        Kind::DropUpload(request) => files::drop_upload(stream, request),
        Kind::GetTelemetry(_) => telemetry::get(agent, stream),
        Kind::WatchTelemetry(request) => telemetry::watch(agent, stream, &request),
        kind @ (Kind::SetPassword(_)
        | Kind::SetHostname(_)
        | Kind::SetClock(_)
        | Kind::ApplyNetwork(_)
        | Kind::ConfirmNetwork(_)
        | Kind::Freeze(_)
        | Kind::Thaw(_)
        | Kind::GetSshKeys(_)
        | Kind::SetSshKeys(_)
        | Kind::GrowDisk(_)
        | Kind::MountDisk(_)
        | Kind::Unmount(_)
        | Kind::Resume(_)) => machine::start(agent, stream, kind),
    }
}

fn answer(stream: &Stream, result: Result<(), Refusal>) {
    match result {
        Ok(()) => stream.end(Outcome::Done(Done {})),
        Err(refusal) => stream.end(refusal),
    }
}

fn shut_down(agent: &Rc<Agent>, stream: &Stream, request: &Shutdown) {
    let last = match request.kind() {
        ShutdownKind::PowerOff => lifecycle::Last::PowerOff,
        ShutdownKind::Reboot => lifecycle::Last::Reboot,
    };
    let grace = Duration::from_millis(request.grace_ms.into());
    let by_init = match agent.role {
        Role::Resident => match lifecycle::prepare(last) {
            Ok(request) => Some(request),
            Err(refusal) => return stream.end(refusal),
        },
        Role::Init | Role::Bare => None,
    };
    stream.end(Outcome::Done(Done {}));
    // What ends now is not to be started again.
    agent.execs.close();
    let agent = Rc::clone(agent);
    spawn_local(async move {
        agent.wire.written(ANSWER_LEAVES).await;
        // Whatever ends now has something to write.
        let freezer = Arc::clone(&agent.freezer);
        if freezer.is_frozen() {
            let _thawed = apart("thaw", move || freezer.thaw()).await;
        }
        match (agent.role, by_init) {
            (Role::Init, _) => lifecycle::shut_down(&agent.reaper, last, grace).await,
            (_, Some(request)) => {
                lifecycle::ask_init(&agent.machine.programs, request, last, grace).await;
            }
            (_, None) => agent.stop.notify_one(),
        }
    });
}
