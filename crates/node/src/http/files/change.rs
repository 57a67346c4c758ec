use axum::extract::{Path, State};
use axum::http::StatusCode;
use inn_api::{FileAttributes, MakeDir, Problem, Rename, Symlink};
use serde::Deserialize;
use utoipa::IntoParams;

use super::absolute;
use crate::http::ApiState;
use crate::http::convert::files as convert;
use crate::http::extract::{Body, Params};
use crate::http::problem::{Failed, of_guest, ready_session};

/// Of a directory whose mode is not said.
const DIRECTORY_MODE: u32 = 0o755;

/// Makes a directory in the guest.
#[utoipa::path(post, path = "/api/vms/{vm}/files/mkdir", tag = "files",
    params(("vm" = String, Path, description = "Name or id")),
    request_body = MakeDir, responses(
        (status = 204, description = "done"),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::http) async fn make_dir(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    Body(MakeDir { path, mode, parents }): Body<MakeDir>,
) -> Result<StatusCode, Failed> {
    absolute(&path)?;
    let mode =
        mode.as_deref().map_or(Ok(DIRECTORY_MODE), convert::mode).map_err(Failed::invalid)?;
    let (vm, session) = ready_session(&state, &name).await?;
    session.make_dir(&path, mode, parents).await.map_err(|error| of_guest(&vm, &error))?;
    Ok(StatusCode::NO_CONTENT)
}

/// Renames a file or directory within one file system of the guest's.
#[utoipa::path(post, path = "/api/vms/{vm}/files/rename", tag = "files",
    params(("vm" = String, Path, description = "Name or id")),
    request_body = Rename, responses(
        (status = 204, description = "done"),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::http) async fn rename_file(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    Body(Rename { from, to, replace }): Body<Rename>,
) -> Result<StatusCode, Failed> {
    absolute(&from)?;
    absolute(&to)?;
    let (vm, session) = ready_session(&state, &name).await?;
    session.rename(&from, &to, replace).await.map_err(|error| of_guest(&vm, &error))?;
    Ok(StatusCode::NO_CONTENT)
}

/// Makes a symbolic link in the guest, wherever it leads.
#[utoipa::path(post, path = "/api/vms/{vm}/files/symlink", tag = "files",
    params(("vm" = String, Path, description = "Name or id")),
    request_body = Symlink, responses(
        (status = 204, description = "done"),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::http) async fn symlink_file(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    Body(Symlink { path, target, replace }): Body<Symlink>,
) -> Result<StatusCode, Failed> {
    absolute(&path)?;
    let (vm, session) = ready_session(&state, &name).await?;
    session.symlink(&path, &target, replace).await.map_err(|error| of_guest(&vm, &error))?;
    Ok(StatusCode::NO_CONTENT)
}

/// Changes the mode, owner or time of a file of the guest's.
#[utoipa::path(post, path = "/api/vms/{vm}/files/attributes", tag = "files",
    params(("vm" = String, Path, description = "Name or id")),
    request_body = FileAttributes, responses(
        (status = 204, description = "done"),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::http) async fn set_file_attributes(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    Body(change): Body<FileAttributes>,
) -> Result<StatusCode, Failed> {
    absolute(&change.path)?;
    let wanted = convert::attributes(&change).map_err(Failed::invalid)?;
    let (vm, session) = ready_session(&state, &name).await?;
    session.set_attributes(&change.path, wanted).await.map_err(|error| of_guest(&vm, &error))?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::http) struct RemoveParams {
    /// Absolute.
    #[param(pattern = "^/[^\\x00]*$")]
    path: String,
    /// With all that is in it.
    #[serde(default)]
    recursive: bool,
}

/// Removes a file or an empty directory of the guest's, or a whole tree.
#[utoipa::path(delete, path = "/api/vms/{vm}/files", tag = "files",
    params(("vm" = String, Path, description = "Name or id"), RemoveParams), responses(
        (status = 204, description = "it is gone"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::http) async fn remove_file(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    Params(RemoveParams { path, recursive }): Params<RemoveParams>,
) -> Result<StatusCode, Failed> {
    absolute(&path)?;
    let (vm, session) = ready_session(&state, &name).await?;
    session.remove(&path, recursive).await.map_err(|error| of_guest(&vm, &error))?;
    Ok(StatusCode::NO_CONTENT)
}
