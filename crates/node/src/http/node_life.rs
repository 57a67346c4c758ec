//! What befalls the node as a whole: its configuration read again, its guests
//! down with the host and up again.

use std::path::PathBuf;
use std::time::Duration;

use axum::Json;
use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use inn_api::{Code, GuestsDown, GuestsStarted, Problem, Reload, Upgrade, UpgradeBegun};
use inn_fail_point::{Point, fail_point};
use serde::Deserialize;
use utoipa::IntoParams;

use super::ApiState;
use super::auth::Peer;
use super::convert::node_life::guest_down;
use super::extract::{Body, Params, Wait};
use super::problem::Failed;
use crate::error::Chain;
use crate::upgrade::{self, Decision, UpgradeDenied};
use crate::{hold, reload};

/// What a host that goes down gives its guests where nothing is said.
const WITHIN: Duration = Duration::from_secs(90);

/// Reads the configuration and the certificates again, as SIGHUP does. What is
/// wrong with either is the answer, and stays as it was; what is right with the
/// configuration holds though a certificate is not. An event has the same.
#[utoipa::path(post, path = "/api/node/reload", tag = "node", responses(
    (status = 200, body = Reload),
    (status = 400, description = "the configuration or a certificate is not right, and stays as it was", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn reload_node(State(state): State<ApiState>) -> Result<Json<Reload>, Failed> {
    // To its end, also if whoever asked has gone: an init system that was told
    // that it has begun waits for it.
    let (node, tls) = (state.node, state.tls);
    let reloaded = tokio::spawn(async move { reload::reload(&node, tls.as_deref()).await })
        .await
        .map_err(|error| Failed::internal(&error))?
        .map_err(|error| Failed::invalid(Chain(&error).to_string()))?;
    let names = |keys: Vec<&str>| keys.into_iter().map(str::to_owned).collect();
    Ok(Json(Reload { changed: names(reloaded.changed), waiting: names(reloaded.waiting) }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ShutdownParams {
    /// For all guests together; 90s unless given, at most ten minutes.
    #[param(value_type = Option<String>, example = "90s", pattern = "^[0-9]{1,6}(ms|s|m|h|d)?$")]
    timeout: Option<Wait>,
}

/// Shuts all guests down, for a host that goes down: one group after the other
/// by their label `stop-order`, lowest number first, and by force what is left
/// at its time. What is desired stays as it is: they start again at the host's
/// next boot, or by `guests/start`. Answers once they are down.
#[utoipa::path(post, path = "/api/node/guests/shutdown", tag = "node",
    params(ShutdownParams), responses(
        (status = 200, body = GuestsDown),
        (status = 400, body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn shutdown_guests(
    State(state): State<ApiState>,
    Params(params): Params<ShutdownParams>,
) -> Result<Json<GuestsDown>, Failed> {
    let within = params.timeout.map_or(WITHIN, |Wait(within)| within);
    // To its end, also if whoever asked has gone: half of it is of no use.
    let node = state.node;
    let all = tokio::spawn(async move { hold::shutdown(&node, within).await })
        .await
        .map_err(|error| Failed::internal(&error))?
        .map_err(|error| Failed::internal(&error))?;
    let items = all.iter().map(guest_down);
    Ok(Json(GuestsDown { items: items.collect() }))
}

/// Lets guests that were shut down for the host start again: those that are
/// desired to run. Succeeds where none were.
#[utoipa::path(post, path = "/api/node/guests/start", tag = "node", responses(
    (status = 200, body = GuestsStarted),
))]
pub(super) async fn start_guests(
    State(state): State<ApiState>,
) -> Result<Json<GuestsStarted>, Failed> {
    let starting = hold::release(&state.node).await.map_err(|error| Failed::internal(&error))?;
    let items = starting.iter().map(|vm| vm.spec().name.clone()).collect();
    Ok(Json(GuestsStarted { items }))
}

/// Has another program take the agent's process over: the file that the agent
/// was started from, which somebody has replaced, or one that is named. It is
/// tried first: whether it runs, takes the configuration and knows the state;
/// where it does not, the agent goes on. VMs and execs run on, and whoever
/// connects in the meantime waits.
#[utoipa::path(post, path = "/api/node/upgrade", tag = "node", request_body = Upgrade, responses(
    (status = 202, description = "it begins with this answer; `startedAt` of the node tells its end", body = UpgradeBegun),
    (status = 400, body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "a program is named by the host's owner alone, on the unix socket", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "the program cannot take over, or leased VMs would end", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn upgrade(
    State(state): State<ApiState>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Body(asked): Body<Upgrade>,
) -> Result<(StatusCode, Json<UpgradeBegun>), Failed> {
    let node = &state.node;
    let program = match asked.program {
        Some(_) if !peer.owns_the_host() => {
            let detail = "only root, or the agent's own user, names a program, on the unix socket";
            return Err(Failed::new(Code::Forbidden, detail));
        }
        Some(path) if !path.starts_with('/') || path.contains('\0') => {
            return Err(Failed::invalid("the program is an absolute path"));
        }
        Some(path) => PathBuf::from(path),
        None => upgrade::own_program().map_err(|error| Failed::internal(&error))?,
    };
    let denied = |error: UpgradeDenied| {
        tracing::warn!(%error, "no upgrade");
        Failed::new(Code::Conflict, error.to_string())
    };
    let version = upgrade::check(node, &program, asked.end_leased).await.map_err(denied)?;
    fail_point(Point::UpgradeTried);
    let begun = UpgradeBegun {
        program: program.display().to_string(),
        from_version: env!("CARGO_PKG_VERSION").to_owned(),
        to_version: version,
    };
    let decision = Decision { program, version: begun.to_version.clone() };
    node.upgrade.decide(decision).map_err(denied)?;
    fail_point(Point::UpgradeDecided);
    Ok((StatusCode::ACCEPTED, Json(begun)))
}
