//! A guest's network: applied, and confirmed while the guest can be reached.
//!
//! ```text
//!   apply ──▶ a ping is answered ──▶ confirm ──▶ it stays
//!     │              │ not within the time
//!     └──────────────┴──▶ the guest takes it back, whole, by itself
//! ```

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use inn_api::{Code, NetworkApplied, NetworkSetup, Problem};
use tokio::time::{Instant, timeout_at};

use crate::http::ApiState;
use crate::http::convert::guest as convert;
use crate::http::extract::Body;
use crate::http::problem::{Failed, of_guest, of_not_ready, ready_session};
use crate::vm::VmHandle;

const CONFIRM_SECONDS: u32 = 30;
const MAX_CONFIRM_SECONDS: u32 = 600;

/// Sets the guest's network up anew. It is taken back unless the node reaches
/// the guest afterwards.
#[utoipa::path(post, path = "/api/vms/{vm}/guest/network", tag = "guest",
    params(("vm" = String, Path, description = "Name or id")),
    request_body = NetworkSetup, responses(
        (status = 200, body = NetworkApplied),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "refused, or taken back", body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::http) async fn set_network(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    Body(setup): Body<NetworkSetup>,
) -> Result<Json<NetworkApplied>, Failed> {
    let seconds = setup.confirm_seconds.unwrap_or(CONFIRM_SECONDS);
    if !(1..=MAX_CONFIRM_SECONDS).contains(&seconds) {
        let detail = format!("confirmSeconds is 1 to {MAX_CONFIRM_SECONDS}, and not {seconds}");
        return Err(Failed::invalid(detail));
    }
    let confirm = Duration::from_secs(seconds.into());
    let setup = convert::network(setup).map_err(Failed::invalid)?;
    let (vm, session) = ready_session(&state, &name).await?;
    let applied = session.apply_network(setup, confirm).await;
    let applied = applied.map_err(|error| of_guest(&vm, &error))?;
    let deadline = Instant::now() + confirm;
    match timeout_at(deadline, confirmed(&vm)).await {
        Ok(Ok(())) => Ok(Json(convert::network_applied(applied))),
        Ok(Err(failed)) => Err(taken_back(failed, seconds)),
        Err(_) => {
            let detail = format!("VM {name}: the guest was not reached after its network changed");
            Err(taken_back(Failed::new(Code::GuestUnavailable, detail), seconds))
        }
    }
}

/// Confirms over the session that is left, or over the next one.
async fn confirmed(vm: &VmHandle) -> Result<(), Failed> {
    loop {
        let session = vm.session().await.map_err(|why| of_not_ready(vm, &why))?;
        if session.ping().await.is_err() {
            // Over: the VM's task opens another.
            session.closed().await;
            continue;
        }
        match session.confirm_network().await {
            Ok(()) => return Ok(()),
            Err(_) if session.is_closed() => {}
            Err(error) => return Err(of_guest(vm, &error)),
        }
    }
}

fn taken_back(mut failed: Failed, seconds: u32) -> Failed {
    let more = format!("; the guest takes the change back {seconds} s after it was made");
    failed.0.detail.push_str(&more);
    failed
}
