use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use inn_api::{
    Code, ForkRequest, Operation, Problem, SignedReceipt, Snapshot, SnapshotCreate, SnapshotImport,
    SnapshotList, VmList,
};
use inn_domain::{Origin, RestartPolicy, VmSpec};
use inn_units::{VmName, nearest};

use super::extract::{Body, Params};
use super::image_export::pieces;
use super::images::begin;
use super::operations::{EndParams, ended};
use super::problem::{Failed, find_vm};
use super::vms::{WaitParams, not_held};
use super::{ApiState, convert};
use crate::access::Principal;
use crate::error::{Chain, is_full_disk};
use crate::events::{Event, EventKind};
use crate::node::Node;
use crate::operations::Outcome;
use crate::snapshots::{
    Held, HoldError, ImportError, Kept, TakeError, export, held_of, import, names, take,
};
use crate::traces;
use crate::vm::{CaptureError, VmHandle};

/// The most VMs that one request makes: each has its record on the disk first.
const MOST: u32 = 64;

/// Saves a VM: memory, devices and disk, of one moment, on the node's disk. It
/// stands still meanwhile, and runs on. The operation's result is the
/// snapshot's id.
#[utoipa::path(post, path = "/api/vms/{vm}/snapshot", tag = "snapshots",
    params(("vm" = String, Path, description = "Name or id"), EndParams),
    request_body = SnapshotCreate, responses(
        (status = 200, description = "the operation, which has ended within `wait`", body = Operation),
        (status = 202, description = "the operation that takes it", body = Operation),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "the name is in use", body = Problem, content_type = "application/problem+json"),
        (status = 429, body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn take_snapshot(
    State(state): State<ApiState>,
    Path(vm): Path<String>,
    Params(params): Params<EndParams>,
    Extension(principal): Extension<Principal>,
    Body(asked): Body<SnapshotCreate>,
) -> Result<(StatusCode, Json<Operation>), Failed> {
    let vm = find_vm(&state.node.vms, &vm)?;
    whole(&principal)?;
    let taken = state.node.snapshots.all();
    if taken.iter().any(|kept| kept.manifest.name == asked.name) {
        return Err(of_take(&vm, TakeError::NameInUse(asked.name)));
    }
    let (_, operation) = begin(&state, "vm-snapshot")?;
    let (node, work) = (Arc::clone(&state.node), Arc::clone(&operation));
    operation.spawn_on(&state.node, async move {
        let given_up = work.given_up();
        let outcome = match take(&node, &vm, &asked.name, given_up.clone()).await {
            Ok(id) => Outcome::Succeeded { result: id.to_string() },
            Err(_) if given_up.is_cancelled() => Outcome::Cancelled,
            Err(error) => Outcome::Failed(*of_take(&vm, error).0),
        };
        node.events
            .tell(arrived((EventKind::SnapshotTaken, "taken"), &asked.name, &outcome).of(&vm));
        work.finish(outcome);
    });
    let view = ended(&operation, params.wait).await;
    let status = if view.outcome.is_some() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(convert::operation(view))))
}

/// The node's snapshots, oldest first.
#[utoipa::path(get, path = "/api/snapshots", tag = "snapshots", responses(
    (status = 200, body = SnapshotList),
))]
pub(super) async fn list_snapshots(
    State(state): State<ApiState>,
) -> Result<Json<SnapshotList>, Failed> {
    let all = state.node.snapshots.all();
    Ok(Json(SnapshotList {
        items: all.iter().map(|kept| convert::snapshot::snapshot(kept)).collect(),
    }))
}

/// One snapshot.
#[utoipa::path(get, path = "/api/snapshots/{snapshot}", tag = "snapshots",
    params(("snapshot" = String, Path, description = "Name or id")), responses(
        (status = 200, body = Snapshot),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn show_snapshot(
    State(state): State<ApiState>,
    Path(name): Path<String>,
) -> Result<Json<Snapshot>, Failed> {
    Ok(Json(convert::snapshot::snapshot(&*find(&state.node, &name)?)))
}

/// Deletes a snapshot. VMs that have begun from it run on.
#[utoipa::path(delete, path = "/api/snapshots/{snapshot}", tag = "snapshots",
    params(("snapshot" = String, Path, description = "Name or id")), responses(
        (status = 204, description = "gone"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "VMs are about to begin from it", body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn delete_snapshot(
    State(state): State<ApiState>,
    Path(name): Path<String>,
) -> Result<StatusCode, Failed> {
    let node = &state.node;
    let kept = find(node, &name)?;
    let id = kept.manifest.id;
    let waits = |vm: &VmHandle| {
        vm.spec().from.as_ref().is_some_and(|origin| origin.snapshot == id) && vm.awaits_origin()
    };
    if let Some(vm) = node.vms.all().into_iter().find(waits) {
        let vm = &vm.spec().name;
        let detail =
            format!("VM {vm} has yet to begin from the snapshot {name}; start or delete it first");
        return Err(Failed::new(Code::InUse, detail));
    }
    node.snapshots.delete(&node.store, &kept).await.map_err(|error| Failed::internal(&error))?;
    let called = kept.manifest.name.as_str();
    let event =
        Event::new(EventKind::SnapshotDeleted, format!("the snapshot {called} was deleted"));
    node.events.tell(event.with("snapshot", called));
    Ok(StatusCode::NO_CONTENT)
}

/// A snapshot with all that it needs but the image's disk, for another node.
#[utoipa::path(get, path = "/api/snapshots/{snapshot}/export", tag = "snapshots",
    params(("snapshot" = String, Path, description = "Name or id")), responses(
        (status = 200, body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn export_snapshot(
    State(state): State<ApiState>,
    Path(name): Path<String>,
) -> Result<Response, Failed> {
    let kept = find(&state.node, &name)?;
    let content = pieces(move |mut out| export(&kept, &mut out));
    let headers = [(header::CONTENT_TYPE, "application/octet-stream")];
    Ok((headers, axum::body::Body::from_stream(content)).into_response())
}

/// Takes in what an export has written, from a file on the node.
#[utoipa::path(post, path = "/api/snapshots/import", tag = "snapshots", params(EndParams),
    request_body = SnapshotImport, responses(
        (status = 200, description = "the operation, which has ended within `wait`", body = Operation),
        (status = 202, description = "the operation that takes it in", body = Operation),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 429, body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn import_snapshot(
    State(state): State<ApiState>,
    Params(params): Params<EndParams>,
    Body(asked): Body<SnapshotImport>,
) -> Result<(StatusCode, Json<Operation>), Failed> {
    let path = std::path::PathBuf::from(&asked.path);
    if !path.is_absolute() {
        return Err(Failed::invalid(format!("the path {} is not absolute", path.display())));
    }
    let (_, operation) = begin(&state, "snapshot-import")?;
    let (node, work) = (Arc::clone(&state.node), Arc::clone(&operation));
    operation.spawn_on(&state.node, async move {
        let given_up = work.given_up();
        let wanted = asked.name.clone();
        let outcome = match import(&node, &path, wanted, given_up.clone()).await {
            Ok(id) => Outcome::Succeeded { result: id.to_string() },
            Err(_) if given_up.is_cancelled() => Outcome::Cancelled,
            Err(error) => Outcome::Failed(*of_import(&path, &error).0),
        };
        // It may have brought its name with it.
        let there = match &outcome {
            Outcome::Succeeded { result } => node.snapshots.find(result),
            Outcome::Failed(_) | Outcome::Cancelled => None,
        };
        let called = match (&there, &asked.name) {
            (Some(kept), _) => kept.manifest.name.to_string(),
            (None, Some(name)) => name.to_string(),
            (None, None) => path.display().to_string(),
        };
        node.events.tell(arrived((EventKind::SnapshotImported, "imported"), &called, &outcome));
        work.finish(outcome);
    });
    let view = ended(&operation, params.wait).await;
    let status = if view.outcome.is_some() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(convert::operation(view))))
}

/// What has become of a snapshot that was to be `done`: `taken`, `imported`.
fn arrived(
    (there, done): (EventKind, &str),
    name: &impl std::fmt::Display,
    outcome: &Outcome,
) -> Event {
    let not = format!("the snapshot {name} was not {done}");
    let event = match outcome {
        Outcome::Succeeded { result } => {
            Event::new(there, format!("the snapshot {name} was {done}")).with("id", result.as_str())
        }
        Outcome::Failed(problem) => {
            Event::new(EventKind::SnapshotFailed, format!("{not}: {}", problem.detail))
                .with("code", problem.code.as_str())
        }
        Outcome::Cancelled => {
            Event::new(EventKind::SnapshotFailed, format!("{not}: that was cancelled"))
        }
    };
    event.with("snapshot", name.to_string())
}

fn of_import(path: &std::path::Path, error: &ImportError) -> Failed {
    let code = match error {
        error if is_full_disk(error) => Code::InsufficientResources,
        ImportError::Take(TakeError::NameInUse(_)) => Code::NameInUse,
        ImportError::NoImage { .. } => Code::NotFound,
        ImportError::OtherRoot(_) => Code::Conflict,
        ImportError::Take(_) => return Failed::internal(error),
        _ => Code::InvalidRequest,
    };
    Failed::new(code, format!("{}: {}", path.display(), Chain(error)))
}

/// Makes VMs that begin from a snapshot: each goes on where that was saved,
/// with a name, addresses and disk of its own.
#[utoipa::path(post, path = "/api/snapshots/{snapshot}/fork", tag = "snapshots",
    params(("snapshot" = String, Path, description = "Name or id"), WaitParams),
    request_body = ForkRequest, responses(
        (status = 201, description = "made, and settled within `wait`", body = VmList),
        (status = 202, description = "accepted", body = VmList),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "a name is in use, or the snapshot is damaged", body = Problem, content_type = "application/problem+json"),
        (status = 507, description = "no room for them on the node", body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn fork_snapshot(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    Params(params): Params<WaitParams>,
    Body(asked): Body<ForkRequest>,
) -> Result<Response, Failed> {
    let node = Arc::clone(&state.node);
    not_held(&node)?;
    let kept = find(&node, &name)?;
    let lease = asked.lease;
    let names = names_of(&node, asked, kept.manifest.name.as_str())?;
    let wait = params.wait.map(|wait| wait.0);
    to_its_end(async move {
        let held = node.snapshots.hold(kept.manifest.id).await.map_err(of_hold)?;
        let named = kept.manifest.name.to_string();
        let event = forked(&named, &names).with("snapshot", named.as_str());
        let made = make(&node, (held, leased(&kept.spec, lease), named), names, wait).await?;
        node.events.tell(event);
        Ok(made)
    })
    .await
}

/// Makes VMs that begin from one that runs or is paused, as it is now. It
/// stands still for that, and runs on.
#[utoipa::path(post, path = "/api/vms/{vm}/fork", tag = "snapshots",
    params(("vm" = String, Path, description = "Name or id"), WaitParams),
    request_body = ForkRequest, responses(
        (status = 201, description = "made, and settled within `wait`", body = VmList),
        (status = 202, description = "accepted", body = VmList),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "it does not run, or a name is in use", body = Problem, content_type = "application/problem+json"),
        (status = 507, description = "no room for them on the node", body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn fork_vm(
    State(state): State<ApiState>,
    Path(vm): Path<String>,
    Params(params): Params<WaitParams>,
    Extension(principal): Extension<Principal>,
    Body(asked): Body<ForkRequest>,
) -> Result<Response, Failed> {
    let node = Arc::clone(&state.node);
    let vm = find_vm(&node.vms, &vm)?;
    whole(&principal)?;
    not_held(&node)?;
    let lease = asked.lease;
    let names = names_of(&node, asked, vm.spec().name.as_str())?;
    let wait = params.wait.map(|wait| wait.0);
    to_its_end(async move {
        let (held, spec) = held_of(&node, &vm).await.map_err(|error| of_take(&vm, error))?;
        let named = vm.spec().name.to_string();
        let event = forked(&named, &names).of(&vm);
        let made = make(&node, (held, leased(&spec, lease), named), names, wait).await?;
        node.events.tell(event);
        Ok(made)
    })
    .await
}

/// What a VM's guest confirmed once its machine went on from a saved one, as
/// the node has signed it.
#[utoipa::path(get, path = "/api/vms/{vm}/receipt", tag = "snapshots",
    params(("vm" = String, Path, description = "Name or id")), responses(
        (status = 200, body = SignedReceipt),
        (status = 404, description = "no such VM, or it booted", body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn receipt(
    State(state): State<ApiState>,
    Path(name): Path<String>,
) -> Result<Json<SignedReceipt>, Failed> {
    let vm = find_vm(&state.node.vms, &name)?;
    let view = vm.view();
    let signed = view.receipt.as_deref().and_then(convert::snapshot::signed_receipt);
    signed.map(Json).ok_or_else(|| {
        Failed::new(
            Code::NotFound,
            format!("VM {name} has no receipt: it has booted, or never run"),
        )
    })
}

/// Others' VMs would be made, and the disk filled.
fn whole(principal: &Principal) -> Result<(), Failed> {
    if principal.is_limited() {
        let detail = format!("{} has some VMs only, and makes no others", principal.who);
        return Err(Failed::new(Code::Forbidden, detail));
    }
    Ok(())
}

fn find(node: &Node, name: &str) -> Result<Arc<Kept>, Failed> {
    node.snapshots.find(name).ok_or_else(|| {
        let all = node.snapshots.all();
        let hint = match nearest(name, all.iter().map(|kept| kept.manifest.name.as_str())) {
            Some(near) => format!("did you mean {near}?"),
            None => "`inn snapshot list` shows those there are".to_owned(),
        };
        let shown: String = name.chars().take(80).collect();
        Failed::new(Code::NotFound, format!("there is no snapshot {shown}; {hint}"))
    })
}

fn names_of(node: &Node, asked: ForkRequest, of: &str) -> Result<Vec<VmName>, Failed> {
    let ForkRequest { count, name_prefix, names: given, lease } = asked;
    if lease && (count.unwrap_or(1) != 1 || given.len() > 1) {
        return Err(Failed::invalid("a lease is one VM's; ask for one"));
    }
    if !given.is_empty() {
        if count.is_some() || name_prefix.is_some() {
            return Err(Failed::invalid("names are given, and a count or a prefix too; give one"));
        }
        if given.len() > usize::try_from(MOST).unwrap_or(usize::MAX) {
            return Err(Failed::invalid(format!("at most {MOST} VMs are made at once")));
        }
        return Ok(given);
    }
    let count = count.unwrap_or(1);
    if !(1..=MOST).contains(&count) {
        return Err(Failed::invalid(format!("{count} VMs: at least 1 and at most {MOST} at once")));
    }
    let prefix = name_prefix.unwrap_or_else(|| of.to_owned());
    // What is at /persist of a name is that name's next VM's.
    let taken = |name: &VmName| {
        node.vms.find(name.as_str()).is_some() || node.config.paths.persist_disk(name).exists()
    };
    let made = names(&prefix, count, taken);
    made.map_err(|error| Failed::invalid(error.to_string()))
}

fn forked(of: &str, names: &[VmName]) -> Event {
    let clones: Vec<&str> = names.iter().map(VmName::as_str).collect();
    Event::new(EventKind::VmForked, format!("{of} was forked into {}", clones.join(", ")))
        .with("clones", clones)
}

/// One that is leased is never started again: its end is the lease's.
fn leased(spec: &VmSpec, lease: bool) -> VmSpec {
    let restart = if lease { RestartPolicy::No } else { spec.restart };
    VmSpec { lease, restart, ..spec.clone() }
}

async fn make(
    node: &Arc<Node>,
    (held, spec, origin): (Arc<Held>, VmSpec, String),
    names: Vec<VmName>,
    wait: Option<Duration>,
) -> Result<Response, Failed> {
    let from = Some(Origin { snapshot: held.id, name: origin });
    let spec = VmSpec { from, ..spec };
    let made = node.vms.fork(node, (&held, &spec), names).await?;
    // What they begin from goes with the last of them that is up.
    drop(held);
    let mut all_settled = false;
    if let Some(wait) = wait {
        let all = async {
            for vm in &made {
                vm.settled(wait).await;
            }
        };
        all_settled = tokio::time::timeout(wait, all).await.is_ok()
            && made.iter().all(|vm| vm.view().has_settled());
    }
    let items = made.iter().map(|vm| convert::vm(node, vm, &vm.view())).collect();
    let status = if all_settled { StatusCode::CREATED } else { StatusCode::ACCEPTED };
    Ok((status, Json(VmList { items, next: None })).into_response())
}

/// A client that goes away takes its request along, and half of its VMs are of
/// no use.
async fn to_its_end(
    change: impl Future<Output = Result<Response, Failed>> + Send + 'static,
) -> Result<Response, Failed> {
    let done = tokio::spawn(traces::within(traces::current(), change)).await;
    done.map_err(|error| Failed::internal(&error))?
}

fn of_take(vm: &VmHandle, error: TakeError) -> Failed {
    let code = match &error {
        TakeError::NameInUse(_) => Code::NameInUse,
        TakeError::Capture(CaptureError::Closing) => Code::Conflict,
        TakeError::Capture(CaptureError::Store(_)) | TakeError::NoRandomness(_) => {
            return Failed::internal(&error);
        }
        error if is_full_disk(error) => Code::InsufficientResources,
        TakeError::Store(_) | TakeError::Write(_) => return Failed::internal(&error),
        TakeError::Capture(_) => Code::Conflict,
    };
    Failed::new(code, format!("VM {}: {}", vm.spec().name, Chain(&error)))
}

fn of_hold(error: HoldError) -> Failed {
    match &error {
        HoldError::Gone | HoldError::Part { .. } => {
            Failed::new(Code::Conflict, Chain(&error).to_string())
        }
        HoldError::Panicked(_) => Failed::internal(&error),
    }
}
