use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use inn_api::{FileInfo, FileList, Problem, UploadState};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{UploadParams, absolute};
use crate::http::ApiState;
use crate::http::convert::files as convert;
use crate::http::extract::Params;
use crate::http::paging::Paging;
use crate::http::problem::{Failed, of_guest, ready_session};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::http) struct InfoParams {
    /// Absolute.
    #[param(pattern = "^/[^\\x00]*$")]
    path: String,
    /// Of what a symlink leads to, and not of itself.
    #[serde(default)]
    follow: bool,
}

/// What a file of the guest's is.
#[utoipa::path(get, path = "/api/vms/{vm}/files/info", tag = "files",
    params(("vm" = String, Path, description = "Name or id"), InfoParams), responses(
        (status = 200, body = FileInfo),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::http) async fn file_info(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    Params(InfoParams { path, follow }): Params<InfoParams>,
) -> Result<Json<FileInfo>, Failed> {
    absolute(&path)?;
    let (vm, session) = ready_session(&state, &name).await?;
    let info = session.stat(&path, follow).await.map_err(|error| of_guest(&vm, &error))?;
    Ok(Json(convert::file_info(&path, &info)))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::http) struct ListParams {
    /// Absolute.
    #[param(pattern = "^/[^\\x00]*$")]
    path: String,
    /// The most of a page: 1 to 1000; all unless given.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// Only names that come after this one: the `next` of the page before.
    after: Option<String>,
}

/// What is in a directory of the guest's, by name.
#[utoipa::path(get, path = "/api/vms/{vm}/files/list", tag = "files",
    params(("vm" = String, Path, description = "Name or id"), ListParams), responses(
        (status = 200, body = FileList),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::http) async fn list_files(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    Params(ListParams { path, limit, after }): Params<ListParams>,
) -> Result<Json<FileList>, Failed> {
    absolute(&path)?;
    let paging = Paging::new(limit)?;
    let (vm, session) = ready_session(&state, &name).await?;
    let mut entries = session.list(&path).await.map_err(|error| of_guest(&vm, &error))?;
    entries.retain(|entry| after.as_ref().is_none_or(|after| entry.name > *after));
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    let (entries, next) = paging.page(entries, |entry| entry.name.clone());
    Ok(Json(FileList { items: entries.into_iter().map(convert::dir_entry).collect(), next }))
}

/// How much the guest has of an upload that broke off.
#[utoipa::path(get, path = "/api/vms/{vm}/files/upload", tag = "files",
    params(("vm" = String, Path, description = "Name or id"), UploadParams), responses(
        (status = 200, body = UploadState),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::http) async fn upload_state(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    Params(UploadParams { path, upload }): Params<UploadParams>,
) -> Result<Json<UploadState>, Failed> {
    absolute(&path)?;
    let id = convert::upload_id(&upload).map_err(Failed::invalid)?;
    let (vm, session) = ready_session(&state, &name).await?;
    let offset = session.upload_state(&path, id).await.map_err(|error| of_guest(&vm, &error))?;
    Ok(Json(UploadState { offset }))
}

/// Has the guest throw away what it has of an upload.
#[utoipa::path(delete, path = "/api/vms/{vm}/files/upload", tag = "files",
    params(("vm" = String, Path, description = "Name or id"), UploadParams), responses(
        (status = 204, description = "nothing of it is left"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::http) async fn drop_upload(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    Params(UploadParams { path, upload }): Params<UploadParams>,
) -> Result<StatusCode, Failed> {
    absolute(&path)?;
    let id = convert::upload_id(&upload).map_err(Failed::invalid)?;
    let (vm, session) = ready_session(&state, &name).await?;
    session.drop_upload(&path, id).await.map_err(|error| of_guest(&vm, &error))?;
    Ok(StatusCode::NO_CONTENT)
}
