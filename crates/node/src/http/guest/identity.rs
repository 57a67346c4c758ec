//! Who a guest is and who may enter it; its clock; its file systems held still.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use inn_api::{ClockSet, Freeze, Frozen, Problem, SetHostname, SetPassword, SetSshKeys, SshKeys};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::guest::{GuestError, GuestSession};
use crate::http::ApiState;
use crate::http::convert::guest as convert;
use crate::http::extract::{Body, Params};
use crate::http::problem::{Failed, of_guest, ready_session};

/// How long a guest stays frozen where nothing is said: a snapshot of a disk
/// takes seconds.
const FREEZE_SECONDS: u32 = 30;

/// Beyond it the guest's programs have given up.
const MAX_FREEZE_SECONDS: u32 = 600;

/// Sets a user's password. It is kept nowhere here and never logged.
#[utoipa::path(post, path = "/api/vms/{vm}/guest/password", tag = "guest",
    params(("vm" = String, Path, description = "Name or id")),
    request_body = SetPassword, responses(
        (status = 204, description = "set"),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "no such VM or user", body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::http) async fn set_password(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    Body(set): Body<SetPassword>,
) -> Result<StatusCode, Failed> {
    let (user, password) = convert::password(set).map_err(Failed::invalid)?;
    let (vm, session) = ready_session(&state, &name).await?;
    session.set_password(&user, password).await.map_err(|error| of_guest(&vm, &error))?;
    Ok(StatusCode::NO_CONTENT)
}

/// Sets the guest's hostname, lastingly.
#[utoipa::path(post, path = "/api/vms/{vm}/guest/hostname", tag = "guest",
    params(("vm" = String, Path, description = "Name or id")),
    request_body = SetHostname, responses(
        (status = 204, description = "set"),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::http) async fn set_hostname(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    Body(SetHostname { hostname }): Body<SetHostname>,
) -> Result<StatusCode, Failed> {
    let (vm, session) = ready_session(&state, &name).await?;
    session.set_hostname(&hostname).await.map_err(|error| of_guest(&vm, &error))?;
    Ok(StatusCode::NO_CONTENT)
}

/// Sets the guest's clock to the node's, and says by how much it was off.
#[utoipa::path(post, path = "/api/vms/{vm}/guest/clock", tag = "guest",
    params(("vm" = String, Path, description = "Name or id")), responses(
        (status = 200, body = ClockSet),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::http) async fn set_clock(
    State(state): State<ApiState>,
    Path(name): Path<String>,
) -> Result<Json<ClockSet>, Failed> {
    let (vm, session) = ready_session(&state, &name).await?;
    let behind_ms = synchronize(&session).await.map_err(|error| of_guest(&vm, &error))?;
    Ok(Json(ClockSet { behind_ms }))
}

/// By how much the guest's clock was behind.
async fn synchronize(session: &GuestSession) -> Result<i64, GuestError> {
    let asked = unix_time();
    let theirs = session.telemetry().await?.clock;
    let answered = unix_time();
    session.set_clock(SystemTime::now()).await?;
    // It read its clock somewhere in between: most likely in the middle.
    Ok(difference_ms(asked + answered.saturating_sub(asked) / 2, theirs))
}

fn unix_time() -> Duration {
    // A node whose clock is before the epoch gives its guests the epoch.
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn difference_ms(ours: Duration, theirs: Duration) -> i64 {
    let millis = |d: Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX);
    millis(ours).saturating_sub(millis(theirs))
}

/// Holds the guest's file systems still, for a snapshot of its disk. The guest
/// lets go by itself when the time is over, whatever becomes of the node.
#[utoipa::path(post, path = "/api/vms/{vm}/guest/freeze", tag = "guest",
    params(("vm" = String, Path, description = "Name or id")),
    request_body = Freeze, responses(
        (status = 200, body = Frozen),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::http) async fn freeze(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    Body(Freeze { mounts, timeout_seconds }): Body<Freeze>,
) -> Result<Json<Frozen>, Failed> {
    let seconds = timeout_seconds.unwrap_or(FREEZE_SECONDS);
    if !(1..=MAX_FREEZE_SECONDS).contains(&seconds) {
        let detail = format!("timeoutSeconds is 1 to {MAX_FREEZE_SECONDS}, and not {seconds}");
        return Err(Failed::invalid(detail));
    }
    let (vm, session) = ready_session(&state, &name).await?;
    let frozen = session.freeze(Duration::from_secs(seconds.into()), mounts).await;
    Ok(Json(convert::frozen(frozen.map_err(|error| of_guest(&vm, &error))?)))
}

/// Lets the guest's file systems go on. `expired` says that they had done so
/// before, and that a snapshot taken since is not to be trusted.
#[utoipa::path(post, path = "/api/vms/{vm}/guest/thaw", tag = "guest",
    params(("vm" = String, Path, description = "Name or id")), responses(
        (status = 200, body = Frozen),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::http) async fn thaw(
    State(state): State<ApiState>,
    Path(name): Path<String>,
) -> Result<Json<Frozen>, Failed> {
    let (vm, session) = ready_session(&state, &name).await?;
    let thawed = session.thaw().await.map_err(|error| of_guest(&vm, &error))?;
    Ok(Json(convert::frozen(thawed)))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::http) struct UserParams {
    user: String,
}

/// Who may enter as a user by ssh: the lines of the user's authorized_keys.
#[utoipa::path(get, path = "/api/vms/{vm}/guest/ssh-keys", tag = "guest",
    params(("vm" = String, Path, description = "Name or id"), UserParams), responses(
        (status = 200, body = SshKeys),
        (status = 404, description = "no such VM or user", body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::http) async fn ssh_keys(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    Params(UserParams { user }): Params<UserParams>,
) -> Result<Json<SshKeys>, Failed> {
    let (vm, session) = ready_session(&state, &name).await?;
    let keys = session.ssh_keys(&user).await.map_err(|error| of_guest(&vm, &error))?;
    Ok(Json(SshKeys { keys }))
}

/// Adds those keys that are missing, or leaves only these.
#[utoipa::path(put, path = "/api/vms/{vm}/guest/ssh-keys", tag = "guest",
    params(("vm" = String, Path, description = "Name or id")),
    request_body = SetSshKeys, responses(
        (status = 204, description = "set"),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "no such VM or user", body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::http) async fn set_ssh_keys(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    Body(SetSshKeys { user, keys, replace }): Body<SetSshKeys>,
) -> Result<StatusCode, Failed> {
    // A key with a line end in it would be two.
    if let Some(key) = keys.iter().find(|key| key.contains(['\n', '\r', '\0'])) {
        let shown: String = key.chars().take(40).collect();
        return Err(Failed::invalid(format!("the key `{shown}` is more than one line")));
    }
    let (vm, session) = ready_session(&state, &name).await?;
    let set = session.set_ssh_keys(&user, keys, replace).await;
    set.map_err(|error| of_guest(&vm, &error))?;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_ahead_is_behind_by_less_than_nothing() {
        let at = Duration::from_millis;
        assert_eq!(difference_ms(at(5000), at(3000)), 2000);
        assert_eq!(difference_ms(at(3000), at(5000)), -2000);
        assert_eq!(difference_ms(Duration::ZERO, Duration::MAX), -i64::MAX);
    }
}
