use axum::Json;
use axum::extract::{Path, State};
use inn_api::{Problem, VmWhy};
use jiff::Timestamp;
use tokio::time::Instant;

use super::ApiState;
use super::convert::why as convert;
use super::problem::{Failed, find_vm};
use crate::network::Standing;
use crate::vm::{WhyFacts, console_of_boot, why as judge};

/// Why a VM is as it is: what it is at or failed in, how its last boot went
/// against its budgets, and what to do next.
#[utoipa::path(get, path = "/api/vms/{vm}/why", tag = "vms",
    params(("vm" = String, Path, description = "Name or id")), responses(
        (status = 200, body = VmWhy),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn why(
    State(state): State<ApiState>,
    Path(name): Path<String>,
) -> Result<Json<VmWhy>, Failed> {
    let vm = find_vm(&state.node.vms, &name)?;
    let view = vm.view();
    let standing = state.node.networks.standing(&vm);
    let troubles = standing.as_ref().map(Standing::troubles).unwrap_or_default();
    let facts = WhyFacts {
        spec: vm.spec(),
        view: &view,
        network: &troubles,
        now: Timestamp::now(),
        moment: state.node.now(),
        instant: Instant::now(),
    };
    let console = console_of_boot(vm.paths(), &view.boots).await;
    let mut why = convert::why(&vm, &facts, judge(&facts), console);
    why.network = standing.map(|standing| convert::network(&state.node, standing));
    let selection = state.node.select_runtime(vm.spec()).await;
    why.runtimes = selection.verdicts.iter().map(ToString::to_string).collect();
    Ok(Json(why))
}
