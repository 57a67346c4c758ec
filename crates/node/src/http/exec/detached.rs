//! Execs that outlive their connection: the guest keeps them, and the latest
//! of their output, under an id; nothing of them is kept here.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use inn_api::{Code, ExecCreate, ExecInfo, ExecList, ExecSignal, Problem};
use inn_fail_point::{Point, fail_point};
use inn_units::ExecId;

use super::super::ApiState;
use super::super::convert::exec::{TimeLimit, exec_info, exec_words, signal_number};
use super::super::extract::{Body, Params};
use super::super::idempotency::Keyed;
use super::super::paging::{PageParams, page_of};
use super::super::problem::{Failed, find_vm, of_guest, ready_session};
use super::channel::{Begin, Channel};
use super::common_spec;
use super::query::AttachQuery;
use crate::guest::{
    ExecEvent, ExecSpec, ExecSummary, GuestError, GuestSession, RefusedKind, TtySize,
};
use crate::vm::{VmHandle, WORKLOAD};

/// What the guest keeps of an exec's output where nothing is said.
const RETAINED: u32 = 1 << 20;

/// What is taken: all execs of a guest share its memory with its programs.
const MAX_RETAINED: u32 = 64 << 20;

/// Of a terminal that nobody has attached to yet.
const UNSEEN: TtySize = TtySize { rows: 24, cols: 80 };

/// For the end of what was killed to be told.
const KILLED: Duration = Duration::from_secs(10);

const SIGKILL: i32 = 9;

/// The commands that run in the guest, and those that have ended and are kept,
/// oldest first.
#[utoipa::path(get, path = "/api/vms/{vm}/execs", tag = "execs",
    params(("vm" = String, Path, description = "Name or id"), PageParams), responses(
        (status = 200, body = ExecList),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::http) async fn list_execs(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    Params(params): Params<PageParams>,
) -> Result<Json<ExecList>, Failed> {
    let (vm, session) = ready_session(&state, &name).await?;
    let execs = session.list_execs().await.map_err(|error| of_guest(&vm, &error))?;
    let execs = execs.into_iter().map(exec_info).collect();
    // A guest before 1.1 does not say when: then their ids are the order.
    let place = |exec: &ExecInfo| (exec.started_at.unwrap_or_default(), exec.id);
    let (items, next) = page_of(&params, execs, place)?;
    Ok(Json(ExecList { items, next }))
}

/// Starts a command that runs on by itself. Answers once it has started.
#[utoipa::path(post, path = "/api/vms/{vm}/execs", tag = "execs",
    params(("vm" = String, Path, description = "Name or id")),
    request_body = ExecCreate, responses(
        (status = 201, description = "started", body = ExecInfo),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "no such VM or program", body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::http) async fn create_exec(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    key: Keyed,
    Body(create): Body<ExecCreate>,
) -> Result<Response, Failed> {
    let words = exec_words(&create).map_err(Failed::invalid)?;
    let retain = create.retain_bytes.unwrap_or(RETAINED);
    if retain > MAX_RETAINED {
        return Err(Failed::invalid(format!("retainBytes is at most {MAX_RETAINED}")));
    }
    let (vm, session) = ready_session(&state, &name).await?;
    let limit = TimeLimit { asked: words.timeout, most: state.node.config.live().exec_max_timeout };
    let (workdir, user) = (create.workdir.as_ref(), create.user.as_ref());
    let mut spec = ExecSpec {
        command_line: create.shell,
        tty: create.tty.then_some(UNSEEN),
        stdin: create.stdin,
        timeout: limit.timeout(),
        output_limit: create.output_limit_bytes,
        retain: Some(retain),
        ..common_spec(&vm, create.command, &words.env, workdir, user)?
    };
    // The guest knows of one that an earlier life of the agent has started.
    let before = match key.exec_id() {
        Some(id) => {
            spec.id = id;
            find(&session, id).await.map_err(|error| of_guest(&vm, &error))?
        }
        None => None,
    };
    let id = spec.id;
    let started = match before {
        Some(before) => Some(before),
        None => start(&session, spec).await.map_err(|error| of_guest(&vm, &error))?,
    };
    let info = exec_info(started.ok_or_else(|| no_exec(&vm, &id.to_string()))?);
    let location = HeaderValue::from_str(&format!("/api/vms/{}/execs/{id}", vm.id()))
        .map_err(|error| Failed::internal(&error))?;
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(info)).into_response())
}

async fn start(session: &GuestSession, spec: ExecSpec) -> Result<Option<ExecSummary>, GuestError> {
    let id = spec.id;
    let mut exec = session.exec(spec).await?;
    // Whether it has started is the first thing that it tells.
    exec.next().await?;
    fail_point(Point::ExecDetached);
    find(session, id).await
}

async fn find(session: &GuestSession, id: ExecId) -> Result<Option<ExecSummary>, GuestError> {
    Ok(session.list_execs().await?.into_iter().find(|exec| exec.id == id))
}

/// One command.
#[utoipa::path(get, path = "/api/vms/{vm}/execs/{exec}", tag = "execs",
    params(
        ("vm" = String, Path, description = "Name or id"),
        ("exec" = String, Path, description = "Id"),
    ), responses(
        (status = 200, body = ExecInfo),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::http) async fn show_exec(
    State(state): State<ApiState>,
    Path((name, exec)): Path<(String, String)>,
) -> Result<Json<ExecInfo>, Failed> {
    let (vm, session) = ready_session(&state, &name).await?;
    let known = known(&vm, &session, &exec).await?;
    Ok(Json(exec_info(known)))
}

/// Ends a command with SIGKILL if it runs, and has the guest forget it.
#[utoipa::path(delete, path = "/api/vms/{vm}/execs/{exec}", tag = "execs",
    params(
        ("vm" = String, Path, description = "Name or id"),
        ("exec" = String, Path, description = "Id"),
    ), responses(
        (status = 204, description = "it is no more"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
        (status = 504, description = "it does not end", body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::http) async fn delete_exec(
    State(state): State<ApiState>,
    Path((name, exec)): Path<(String, String)>,
) -> Result<StatusCode, Failed> {
    let (vm, session) = ready_session(&state, &name).await?;
    let known = known(&vm, &session, &exec).await?;
    if known.id == WORKLOAD {
        let name = &vm.spec().name;
        let detail = format!(
            "{exec} is the workload of VM {name}; `inn vm stop {name}` ends it with the VM"
        );
        return Err(Failed::new(Code::Conflict, detail));
    }
    let ended = tokio::time::timeout(KILLED, end(&session, &known)).await.map_err(|_| {
        let detail = format!(
            "the exec {exec} in VM {} got SIGKILL and has not ended yet; try again",
            vm.spec().name
        );
        Failed::new(Code::Timeout, detail)
    })?;
    ended.map_err(|error| of_guest(&vm, &error))?;
    Ok(StatusCode::NO_CONTENT)
}

/// Whatever of this is done already is done.
async fn end(session: &GuestSession, exec: &ExecSummary) -> Result<(), GuestError> {
    if exec.ended.is_none() {
        unless_gone(session.signal(exec.id, SIGKILL).await)?;
        if !exec.retained {
            // Its own connection is told, and nothing of it is kept.
            return Ok(());
        }
        let mut watched = session.attach(exec.id, exec.output_end).await?;
        loop {
            match watched.next().await {
                Ok(Some(ExecEvent::Exited(_)) | None) => break,
                Ok(Some(_)) => {}
                Err(error) => return unless_gone(Err(error)),
            }
        }
    }
    unless_gone(session.forget(exec.id).await)
}

fn unless_gone(done: Result<(), GuestError>) -> Result<(), GuestError> {
    match done {
        Err(GuestError::Refused { kind: RefusedKind::NotFound, .. }) => Ok(()),
        done => done,
    }
}

/// Sends a signal to a command's process group.
#[utoipa::path(post, path = "/api/vms/{vm}/execs/{exec}/signal", tag = "execs",
    params(
        ("vm" = String, Path, description = "Name or id"),
        ("exec" = String, Path, description = "Id"),
    ), request_body = ExecSignal, responses(
        (status = 204, description = "sent"),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::http) async fn signal_exec(
    State(state): State<ApiState>,
    Path((name, exec)): Path<(String, String)>,
    Body(ExecSignal { signal }): Body<ExecSignal>,
) -> Result<StatusCode, Failed> {
    let number = signal_number(&signal).ok_or_else(|| {
        Failed::invalid(format!("`{signal}` is no signal: give a name such as SIGTERM, or 1 to 64"))
    })?;
    let (vm, session) = ready_session(&state, &name).await?;
    let id = exec_id(&vm, &exec)?;
    session.signal(id, number).await.map_err(|error| of_guest(&vm, &error))?;
    Ok(StatusCode::NO_CONTENT)
}

/// A command's output from an offset on and its end, and the way to its stdin,
/// as a WebSocket that speaks as `exec` does. Whoever leaves lets the command
/// run on; but for one of `exec` that has outlived its agent, which then is the
/// attached client's and ends with it.
#[utoipa::path(get, path = "/api/vms/{vm}/execs/{exec}/attach", tag = "execs",
    params(
        ("vm" = String, Path, description = "Name or id"),
        ("exec" = String, Path, description = "Id"),
        ("offset" = Option<u64>, Query,
            description = "Of stdout and stderr together, from the command's start; what the guest keeps no more is skipped"),
        ("stdin" = Option<bool>, Query), ("stdout" = Option<bool>, Query),
        ("stderr" = Option<bool>, Query),
        ("confirm" = Option<bool>, Query,
            description = "Have what was taken of input and output told on channel 6"),
    ), responses(
        (status = 101, description = "a WebSocket"),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::http) async fn attach_exec(
    State(state): State<ApiState>,
    Path((name, exec)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Failed> {
    let vm = find_vm(&state.node.vms, &name)?;
    let id = exec_id(&vm, &exec)?;
    let query =
        AttachQuery::parse(query.as_deref().unwrap_or_default()).map_err(Failed::invalid)?;
    let channel = Channel {
        node: Arc::clone(&state.node),
        begin: Begin::Attach { id, offset: query.offset, stdin: query.stdin },
        stdout: query.stdout,
        stderr: query.stderr,
        confirm: query.confirm,
        limit: TimeLimit { asked: None, most: state.node.config.live().exec_max_timeout },
        vm,
    };
    channel.open(upgrade, state.node.closing.clone())
}

async fn known(vm: &VmHandle, session: &GuestSession, exec: &str) -> Result<ExecSummary, Failed> {
    let id = exec_id(vm, exec)?;
    let found = find(session, id).await.map_err(|error| of_guest(vm, &error))?;
    found.ok_or_else(|| no_exec(vm, exec))
}

/// What is no id names none.
fn exec_id(vm: &VmHandle, text: &str) -> Result<ExecId, Failed> {
    text.parse().map_err(|_| no_exec(vm, text))
}

fn no_exec(vm: &VmHandle, exec: &str) -> Failed {
    let name = &vm.spec().name;
    let shown: String = exec.chars().take(80).collect();
    let detail = format!("VM {name} has no exec {shown}; `inn vm execs {name}` shows them");
    Failed::new(Code::NotFound, detail)
}
