//! Commands in a guest: one that lives as long as its WebSocket, and those
//! that run on by themselves.

mod channel;
pub(super) mod detached;
mod query;

use std::io;
use std::sync::Arc;

use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{Path, RawQuery, State};
use axum::response::Response;
use inn_api::Problem;
use inn_api::exec::GRACE;

use self::channel::{Begin, Channel};
use self::query::ExecQuery;
use super::ApiState;
use super::convert::exec::TimeLimit;
use super::problem::{Failed, find_vm};
use crate::guest::ExecSpec;
use crate::vm::{VmHandle, program};

/// Runs a command in the VM, as a WebSocket of Kubernetes' subprotocols
/// `v5.channel.k8s.io` or `v4.channel.k8s.io`. The VM may still be starting.
/// `shell`, `env`, `workdir`, `user`, `timeout`, `output-limit`, `rows`, `cols`,
/// `image-entrypoint` and `confirm` are of ours. A command outlives its agent by
/// 60 s, in which it can be attached to.
#[utoipa::path(get, path = "/api/vms/{vm}/exec", tag = "execs",
    params(
        ("vm" = String, Path, description = "Name or id"),
        ("command" = Option<Vec<String>>, Query, description = "Repeats"),
        ("shell" = Option<String>, Query, description = "A line for the guest's shell, in place of `command`"),
        ("stdin" = Option<bool>, Query), ("stdout" = Option<bool>, Query),
        ("stderr" = Option<bool>, Query), ("tty" = Option<bool>, Query),
        ("env" = Option<Vec<String>>, Query, description = "`K=V`, repeats"),
        ("workdir" = Option<String>, Query),
        ("user" = Option<String>, Query, description = "`user` or `user:group`, names or numbers"),
        ("timeout" = Option<String>, Query, example = "30s",
            description = "At most the node's maximum, which is also that of those that give none"),
        ("output-limit" = Option<u64>, Query,
            description = "Bytes of output; the rest is dropped, and the status says how much"),
        ("rows" = Option<u16>, Query), ("cols" = Option<u16>, Query),
        ("image-entrypoint" = Option<bool>, Query,
            description = "Put the image's entrypoint in front, and its CMD where no command is given"),
        ("confirm" = Option<bool>, Query,
            description = "Have what was taken of input and output told on channel 6"),
    ), responses(
        (status = 101, description = "a WebSocket",
            headers(("inn-exec-id" = String, description = "To attach to it, should the agent end before it"))),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn exec(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Failed> {
    let vm = find_vm(&state.node.vms, &name)?;
    let query = ExecQuery::parse(query.as_deref().unwrap_or_default()).map_err(Failed::invalid)?;
    let limit = TimeLimit { asked: query.timeout, most: state.node.config.live().exec_max_timeout };
    let spec = exec_spec(&vm, &query, limit)?;
    let channel = Channel {
        node: Arc::clone(&state.node),
        begin: Begin::Run(Box::new(spec)),
        stdout: query.stdout,
        stderr: query.stderr,
        confirm: query.confirm,
        limit,
        vm,
    };
    channel.open(upgrade, state.node.closing.clone())
}

fn exec_spec(vm: &VmHandle, query: &ExecQuery, limit: TimeLimit) -> Result<ExecSpec, Failed> {
    let argv = if query.image_entrypoint {
        let command = (!query.command.is_empty()).then_some(query.command.as_slice());
        vm.spec().argv_of(command)
    } else {
        query.command.clone()
    };
    if argv.is_empty() && query.shell.is_none() {
        let image = vm.spec().source_name();
        return Err(Failed::invalid(format!("{image} has no command; give one")));
    }
    Ok(ExecSpec {
        command_line: query.shell.clone(),
        tty: query.tty,
        stdin: query.stdin,
        timeout: limit.timeout(),
        output_limit: query.output_limit,
        lasting: Some(GRACE),
        ..common_spec(vm, argv, &query.env, query.workdir.as_ref(), query.user.as_ref())?
    })
}

/// What an exec has of its VM where it does not say otherwise.
fn common_spec(
    vm: &VmHandle,
    argv: Vec<String>,
    env: &[String],
    workdir: Option<&String>,
    user: Option<&String>,
) -> Result<ExecSpec, Failed> {
    let program = program(vm.spec(), vm.view().is_emulated(), argv);
    let program = program.map_err(|error| Failed::internal(&io::Error::other(error)))?;
    Ok(ExecSpec {
        env: vm.spec().environment(env),
        cwd: workdir.cloned().or(program.cwd),
        make_cwd: workdir.is_none(),
        user: user.cloned().or(program.user),
        ..program
    })
}
