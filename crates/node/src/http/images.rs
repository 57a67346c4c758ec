use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use inn_api::{Code, Image, ImageImport, ImageList, Operation, Problem};
use inn_fail_point::{Point, fail_point};
use inn_image::{ImageError, ImageRecord, ImportRequest};
use inn_units::{ImageName, OperationId};
use serde::Deserialize;
use utoipa::IntoParams;

use super::extract::{Body, Params};
use super::operations::{EndParams, ended};
use super::paging::Paging;
use super::problem::{Failed, find_vm};
use super::{ApiState, convert};
use crate::events::{Event, EventKind};
use crate::image_cache::{needed_for_import, with_room};
use crate::images::blocking;
use crate::node::Node;
use crate::operations::{Operation as Work, Outcome};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListParams {
    /// Only those whose name begins so.
    prefix: Option<String>,
    /// The most of a page: 1 to 1000; all unless given.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// Only what comes after: the `next` of the page before.
    after: Option<String>,
}

/// The images that are on this node, by name.
#[utoipa::path(get, path = "/api/images", operation_id = "list_images", tag = "images", params(ListParams),
    responses((status = 200, body = ImageList)))]
pub(super) async fn list(
    State(state): State<ApiState>,
    Params(params): Params<ListParams>,
) -> Result<Json<ImageList>, Failed> {
    let paging = Paging::new(params.limit)?;
    let mut records = state.node.images.list().await?;
    records.retain(|record| {
        let name = record.name.as_str();
        params.prefix.as_ref().is_none_or(|prefix| name.starts_with(prefix))
            && params.after.as_ref().is_none_or(|after| name > after.as_str())
    });
    records.sort_by(|a, b| a.name.as_str().cmp(b.name.as_str()));
    let (records, next) = paging.page(records, |record| record.name.to_string());
    let items = records.into_iter().map(|record| image(&state, record)).collect();
    Ok(Json(ImageList { items, next }))
}

/// One image, by its name or the digest that is its id.
#[utoipa::path(get, path = "/api/images/{name}", operation_id = "show_image", tag = "images",
    params(("name" = String, Path, description = "Name, or id; slashes as %2F")), responses(
        (status = 200, body = Image),
    ))]
pub(super) async fn show(
    State(state): State<ApiState>,
    Path(name): Path<String>,
) -> Result<Json<Image>, Failed> {
    let records = state.node.images.list().await?;
    let wanted = name.parse::<ImageName>().ok();
    let found = records.into_iter().find(|record| {
        Some(&record.name) == wanted.as_ref() || record.manifest.to_string() == name
    });
    let record = found.ok_or_else(|| {
        let shown: String = name.chars().take(80).collect();
        let detail = format!("there is no image {shown}; `inn image list` shows those there are");
        Failed::new(Code::NotFound, detail)
    })?;
    Ok(Json(image(&state, record)))
}

/// With the VMs of it that the caller sees.
fn image(state: &ApiState, record: ImageRecord) -> Image {
    let mut used_by = state.node.vms.using_image(&record.manifest);
    used_by.retain(|name| find_vm(&state.node.vms, name.as_str()).is_ok());
    convert::image(record, &used_by)
}

/// Imports an image from an OCI layout directory or a tar on the node.
#[utoipa::path(post, path = "/api/images/import", tag = "images", params(EndParams),
    request_body = ImageImport, responses(
        (status = 200, description = "the operation, which has ended within `wait`", body = Operation),
        (status = 202, description = "the operation that imports it", body = Operation),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 429, body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn import(
    State(state): State<ApiState>,
    Params(params): Params<EndParams>,
    Body(import): Body<ImageImport>,
) -> Result<(StatusCode, Json<Operation>), Failed> {
    let path = std::path::PathBuf::from(&import.path);
    if !path.is_absolute() {
        return Err(Failed::invalid(format!("the path {} is not absolute", path.display())));
    }
    let (id, operation) = begin(&state, "image-import")?;
    let request = ImportRequest {
        path,
        name: import.name,
        reference: import.reference,
        digest: import.digest,
    };
    let (node, work) = (Arc::clone(&state.node), Arc::clone(&operation));
    let (events, name) = (Arc::clone(&state.node.events), request.name.clone());
    operation.spawn_on(&state.node, async move {
        let (imported, room) = import_with_room(&node, &request, &work).await;
        fail_point(Point::ImportRecorded);
        inn_host::memory::release_freed();
        let outcome = match imported {
            Ok(record) => Outcome::Succeeded { result: record.manifest.to_string() },
            Err(ImageError::Cancelled) => Outcome::Cancelled,
            Err(error) => {
                let mut problem = *Failed::from(error).0;
                if let Some(room) = room {
                    let made = format!(" (removed to make room, in vain: {room})");
                    problem.detail.push_str(&made);
                }
                Outcome::Failed(problem)
            }
        };
        events.tell(of_arrival("imported", &name, id, &outcome));
        work.finish(outcome);
    });
    let view = ended(&operation, params.wait).await;
    let status = if view.outcome.is_some() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(convert::operation(view))))
}

/// What is unused makes room first, where there is too little.
async fn import_with_room(
    node: &Arc<Node>,
    request: &ImportRequest,
    work: &Arc<Work>,
) -> (Result<ImageRecord, ImageError>, Option<String>) {
    let path = request.path.clone();
    let needed = tokio::task::spawn_blocking(move || needed_for_import(&path)).await.ok().flatten();
    let cache = &node.config.paths.image_cache_dir;
    with_room(node, cache, ("an import", needed), || {
        let (images, request, watch) = (node.images.clone(), request.clone(), Arc::clone(work));
        blocking("import the image", move || images.import(&request, &*watch))
    })
    .await
}

/// A new operation, if there may be one more.
pub(super) fn begin(
    state: &ApiState,
    kind: &'static str,
) -> Result<(OperationId, Arc<Work>), Failed> {
    let mut id = [0; OperationId::BYTES];
    getrandom::fill(&mut id).map_err(|error| Failed::internal(&std::io::Error::other(error)))?;
    let id = OperationId::from_bytes(id);
    let begun = state.node.operations.begin(id, kind, jiff::Timestamp::now());
    let operation = begun.ok_or_else(|| {
        Failed::new(Code::LimitExceeded, "too many operations run already; wait for one to end")
    })?;
    Ok((id, operation))
}

/// `done` is what was to be done with it: `imported`, `pulled`.
pub(super) fn of_arrival(
    done: &str,
    name: &ImageName,
    id: OperationId,
    outcome: &Outcome,
) -> Event {
    let event = match outcome {
        Outcome::Succeeded { result } => {
            Event::new(EventKind::ImageImported, format!("image {name} was {done}"))
                .with("digest", result.as_str())
        }
        Outcome::Failed(problem) => {
            let message = format!("image {name} was not {done}: {}", problem.detail);
            Event::new(EventKind::ImageFailed, message).with("code", problem.code.as_str())
        }
        Outcome::Cancelled => {
            let message = format!("image {name} was not {done}: that was cancelled");
            Event::new(EventKind::ImageFailed, message)
        }
    };
    event.with("image", name.as_str()).with("operation", id.to_string())
}

/// Takes an image's name away, and what no name and no VM needs any more.
#[utoipa::path(delete, path = "/api/images/{name}", operation_id = "delete_image", tag = "images",
    params(("name" = String, Path, description = "Name; slashes as %2F")), responses(
        (status = 204, description = "deleted"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "VMs are made from it", body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn delete(
    State(state): State<ApiState>,
    Path(name): Path<String>,
) -> Result<StatusCode, Failed> {
    let node = &state.node;
    let parsed: ImageName =
        name.parse().map_err(|error: inn_units::ParseError| Failed::invalid(error.to_string()))?;
    if let Some(record) = node.images.find(&name).await? {
        // Under another name the image stays for those who use it.
        let images = node.images.list().await?;
        let names = images.iter().filter(|image| image.manifest == record.manifest).count();
        let users = node.vms.using_image(&record.manifest);
        if !users.is_empty() && names <= 1 {
            let names: Vec<&str> = users.iter().map(inn_units::VmName::as_str).collect();
            let detail = format!(
                "the image {name} is used by {}; delete {} first",
                names.join(", "),
                if names.len() == 1 { "that VM" } else { "those VMs" }
            );
            return Err(Failed::new(Code::InUse, detail));
        }
        let snapshots = node.snapshots.of_image(&record.manifest);
        if let Some(snapshot) = snapshots.first()
            && names <= 1
        {
            let detail = format!(
                "the image {name} is needed by the snapshot {snapshot}; `inn snapshot delete` it first"
            );
            return Err(Failed::new(Code::InUse, detail));
        }
    }
    let manifest = node.images.find(&name).await?.map(|record| record.manifest);
    node.images.delete(parsed, node.images_in_use()).await?;
    if let Some(manifest) = manifest {
        node.templates.name_is_gone(node, &manifest).await;
    }
    fail_point(Point::ImageSwept);
    let event = Event::new(EventKind::ImageDeleted, format!("image {name} was deleted"));
    node.events.tell(event.with("image", name.as_str()));
    Ok(StatusCode::NO_CONTENT)
}
