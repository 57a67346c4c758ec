use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use inn_api::{Code, Operation, Problem, VmCommit};
use inn_fail_point::{Point, fail_point};
use inn_image::commit::RunChange;

use super::extract::{Body, Params};
use super::images::{begin, of_arrival};
use super::operations::{EndParams, ended};
use super::problem::{Failed, find_vm, of_not_awake, of_not_ready};
use super::{ApiState, convert};
use crate::access::Principal;
use crate::commit::{CommitError, Wanted, commit as make};
use crate::error::Chain;
use crate::operations::Outcome;
use crate::vm::{CopyError, VmHandle};

/// Makes an image of a VM's disk: of one that is stopped, or that runs with a
/// guest agent, which holds its file systems still for the time of a copy. The
/// operation's result is the image's id; of a VM from a disk image, that of a
/// disk image.
#[utoipa::path(post, path = "/api/vms/{vm}/commit", tag = "vms",
    params(("vm" = String, Path, description = "Name or id"), EndParams),
    request_body = VmCommit, responses(
        (status = 200, description = "the operation, which has ended within `wait`", body = Operation),
        (status = 202, description = "the operation that makes it", body = Operation),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 429, body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn commit(
    State(state): State<ApiState>,
    Path(vm): Path<String>,
    Params(params): Params<EndParams>,
    Extension(principal): Extension<Principal>,
    Body(asked): Body<VmCommit>,
) -> Result<(StatusCode, Json<Operation>), Failed> {
    let vm = find_vm(&state.node.vms, &vm)?;
    if principal.is_limited() {
        // Its name would be one among the images that all VMs are made from.
        let detail = format!("{} has some VMs only, and makes no images", principal.who);
        return Err(Failed::new(Code::Forbidden, detail));
    }
    let is_name = |name: &str| !name.is_empty() && !name.contains(['=', '\0']);
    if let Some(name) = asked.env.keys().find(|name| !is_name(name)) {
        let shown: String = name.chars().take(40).collect();
        return Err(Failed::invalid(format!("`{shown}` is no name of a variable")));
    }
    // One that stands still would not answer; one that is stopped need not.
    let used = match vm.machine() {
        Some(_) => Some(vm.in_use(&state.node).await.map_err(|why| of_not_awake(&vm, why))?),
        None => None,
    };
    let (id, operation) = begin(&state, "vm-commit")?;
    let change = RunChange {
        cmd: asked.command,
        env: asked.env.into_iter().collect(),
        labels: asked.labels,
    };
    let wanted = Wanted { name: asked.name, change };
    let (node, work) = (Arc::clone(&state.node), Arc::clone(&operation));
    operation.spawn_on(&state.node, async move {
        let (made, room) = make(&node, &vm, &wanted, &work).await;
        drop(used);
        fail_point(Point::ImportRecorded);
        inn_host::memory::release_freed();
        let outcome = match made {
            Ok(digest) => Outcome::Succeeded { result: digest.to_string() },
            Err(CommitError::Cancelled) => Outcome::Cancelled,
            Err(error) => {
                let mut problem = *problem(&vm, error).0;
                if let Some(room) = room {
                    let made = format!(" (removed to make room, in vain: {room})");
                    problem.detail.push_str(&made);
                }
                Outcome::Failed(problem)
            }
        };
        let done = format!("made of VM {}", vm.spec().name);
        node.events.tell(of_arrival(&done, &wanted.name, id, &outcome));
        work.finish(outcome);
    });
    let view = ended(&operation, params.wait).await;
    let status = if view.outcome.is_some() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(convert::operation(view))))
}

fn problem(vm: &VmHandle, error: CommitError) -> Failed {
    let detail = |error: &CommitError| format!("VM {}: {}", vm.spec().name, Chain(error));
    match &error {
        CommitError::Copy(CopyError::NotReady(why)) => of_not_ready(vm, why),
        CommitError::Copy(CopyError::Guest(source)) => {
            Failed::new(convert::code_of_guest(source), detail(&error))
        }
        CommitError::Copy(CopyError::Copy(_)) | CommitError::Image(_) => match error {
            CommitError::Copy(CopyError::Copy(source)) | CommitError::Image(source) => {
                Failed::from(source)
            }
            other => Failed::internal(&other),
        },
        CommitError::Copy(_) => Failed::new(Code::Conflict, detail(&error)),
        CommitError::Unreadable(_) => Failed::new(Code::InvalidImage, detail(&error)),
        CommitError::Disk(_) => Failed::new(Code::InvalidImage, detail(&error)),
        CommitError::Process(_) | CommitError::Cancelled => Failed::internal(&error),
    }
}
