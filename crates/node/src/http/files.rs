use std::io;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use inn_api::{Code, Problem};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::ApiState;
use super::extract::Params;
use super::problem::{Failed, find_vm, of_guest, of_not_ready};
use crate::guest::{FileReader, FileWriter, GuestError, GuestSession, Piece, ReadSpec, WriteSpec};
use crate::vm::VmHandle;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Format {
    /// One file's bytes.
    #[default]
    Raw,
    /// A tar of a whole tree.
    Tar,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ReadParams {
    /// Absolute.
    path: String,
    #[serde(default)]
    #[param(inline)]
    format: Format,
}

/// Reads a file of the guest's, or a tree as a tar with paths relative to it.
#[utoipa::path(get, path = "/api/vms/{vm}/files", tag = "vms",
    params(("vm" = String, Path, description = "Name or id"), ReadParams), responses(
        (status = 200, description = "the bytes", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn read(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    Params(params): Params<ReadParams>,
) -> Result<Response, Failed> {
    let path = absolute(&params.path)?;
    let (vm, session) = session(&state, &name).await?;
    let opened = async {
        let mut reader = match params.format {
            Format::Raw => session.read_file(path, ReadSpec::default()).await?,
            Format::Tar => session.read_tree(path).await?,
        };
        // What fails at the first byte is still a problem and no broken body.
        let first = next(&mut reader).await?;
        Ok((reader, first))
    };
    let (reader, first) = opened.await.map_err(|error| of_guest(&vm, &error))?;
    let media_type = match params.format {
        Format::Raw => "application/octet-stream",
        Format::Tar => "application/x-tar",
    };
    let headers = [(header::CONTENT_TYPE, media_type)];
    Ok((headers, Body::from_stream(rest(reader, first))).into_response())
}

/// Only a sparse transfer has holes.
async fn next(reader: &mut FileReader) -> Result<Option<Bytes>, GuestError> {
    while let Some(piece) = reader.next().await? {
        if let Piece::Data(bytes) = piece {
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}

/// An error ends the body without its last chunk: the client sees that it is
/// not whole.
fn rest(
    reader: FileReader,
    first: Option<Bytes>,
) -> impl futures_util::Stream<Item = Result<Bytes, GuestError>> {
    let later = stream::unfold(Some(reader), |reader| async {
        let mut reader = reader?;
        match next(&mut reader).await {
            Ok(Some(bytes)) => Some((Ok(bytes), Some(reader))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    });
    let is_more = first.is_some();
    stream::iter(first.map(Ok)).chain(later.take(if is_more { usize::MAX } else { 0 }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct WriteParams {
    /// Absolute; with a tar, the directory that it is extracted into.
    path: String,
    #[serde(default)]
    #[param(inline)]
    format: Format,
    /// Permissions of a raw file, in octal; those of the file before, or 0644.
    #[param(example = "0644")]
    mode: Option<String>,
}

/// Writes a file into the guest, or extracts a tar there. Missing directories
/// above it are made. A file is there whole or not at all.
#[utoipa::path(put, path = "/api/vms/{vm}/files", tag = "vms",
    params(("vm" = String, Path, description = "Name or id"), WriteParams),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"), responses(
        (status = 204, description = "written"),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "the guest's disk is full, …", body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn write(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    Params(params): Params<WriteParams>,
    request: Request,
) -> Result<StatusCode, Failed> {
    let path = absolute(&params.path)?;
    let mode = params.mode.as_deref().map(octal).transpose()?;
    let (vm, session) = session(&state, &name).await?;
    let opened = match params.format {
        Format::Raw => {
            let spec = WriteSpec { mode, make_parents: true, ..WriteSpec::default() };
            session.write_file(path, spec).await
        }
        Format::Tar => session.write_tree(path).await,
    };
    let mut writer = opened.map_err(|error| of_guest(&vm, &error))?;
    // Files have no limit but the guest's disk, and are not held in memory.
    let mut body = request.into_body().into_data_stream();
    while let Some(part) = body.next().await {
        let part = part.map_err(|error| {
            // Dropping the writer leaves what was there.
            Failed::invalid(format!("the upload broke off: {}", io::Error::other(error)))
        })?;
        if let Err(error) = writer.write(part).await {
            return Err(of_guest(&vm, &error));
        }
    }
    finish(&vm, writer).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn finish(vm: &VmHandle, writer: FileWriter) -> Result<(), Failed> {
    writer.finish().await.map(drop).map_err(|error| of_guest(vm, &error))
}

async fn session(state: &ApiState, name: &str) -> Result<(VmHandle, GuestSession), Failed> {
    let vm = find_vm(&state.node.vms, name)?;
    match vm.session().await {
        Ok(session) => Ok((vm, session)),
        Err(why) => Err(of_not_ready(&vm, &why)),
    }
}

fn absolute(path: &str) -> Result<&str, Failed> {
    if path.starts_with('/') && !path.contains('\0') {
        Ok(path)
    } else {
        Err(Failed::new(Code::InvalidRequest, format!("the path `{path}` is not absolute")))
    }
}

/// chmod(2): twelve bits.
fn octal(text: &str) -> Result<u32, Failed> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o7777)
        .ok_or_else(|| Failed::invalid(format!("the mode `{text}` is not octal up to 7777")))
}
