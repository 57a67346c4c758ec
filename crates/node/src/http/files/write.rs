//! Uploads: a file, which may go on where an earlier one broke off, or a tar.

use std::io;

use axum::Json;
use axum::body::BodyDataStream;
use axum::extract::{Path, Request, State};
use axum::http::header;
use bytes::Bytes;
use futures_util::StreamExt;
use inn_api::{Code, FileWritten, Problem};
use inn_fail_point::{Point, fail_point};
use inn_guest_proto::capability;
use jiff::Timestamp;
use serde::Deserialize;
use utoipa::IntoParams;

use super::zeros::HoleFinder;
use super::{Format, absolute};
use crate::guest::{FileWriter, GuestError, GuestSession, Piece, WriteSpec};
use crate::http::ApiState;
use crate::http::convert::files as convert;
use crate::http::extract::{Params, linger, of_body};
use crate::http::problem::{Failed, of_guest, ready_session};
use crate::vm::VmHandle;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::http) struct WriteParams {
    /// Absolute; with a tar, the directory that it is extracted into.
    #[param(pattern = "^/[^\\x00]*$")]
    path: String,
    #[serde(default)]
    #[param(inline)]
    format: Format,
    /// Permissions of a raw file, in octal; those of the file before, or 0644.
    #[param(example = "0644")]
    mode: Option<String>,
    /// Owner and group; those of the file before, or root's. Both or neither.
    uid: Option<u32>,
    gid: Option<u32>,
    /// When the file was modified; now where nothing is said.
    #[param(value_type = Option<String>, example = "2026-01-31T12:00:00Z")]
    modified: Option<Timestamp>,
    /// 16 hex digits of the client's choice: what has arrived is kept when the
    /// connection breaks off, and the upload goes on with another request.
    #[param(example = "0123456789abcdef")]
    #[param(pattern = "^[0-9a-fA-F]{16}$")]
    upload: Option<String>,
    /// Where the body begins in the file. With `upload`, what the guest has of
    /// it; without, the file is written into and not replaced.
    offset: Option<u64>,
}

/// Writes a file of the guest's, or extracts a tar. A file is replaced whole
/// once all of it has arrived and its checksum was verified; long runs of
/// zeros become holes. A tar may leave some of its entries when it fails.
#[utoipa::path(put, path = "/api/vms/{vm}/files", tag = "files",
    params(("vm" = String, Path, description = "Name or id"), WriteParams),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"), responses(
        (status = 200, description = "written", body = FileWritten),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
        (status = 507, description = "the guest's disk is full", body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::http) async fn write_file(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    Params(params): Params<WriteParams>,
    request: Request,
) -> Result<Json<FileWritten>, Failed> {
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    // Files have no limit but the guest's disk, and are not held in memory.
    let mut body = request.into_body().into_data_stream();
    let written = async {
        let path = absolute(&params.path)?;
        let (spec, offset) = (write_spec(&params, length)?, params.offset.unwrap_or(0));
        let (vm, session) = ready_session(&state, &name).await?;
        let upload = Upload { vm: &vm, session: &session, path };
        match (params.format, spec.upload) {
            (Format::Tar, _) => upload.tree(&mut body).await,
            (Format::Raw, None) => upload.file(spec, offset, &mut body).await,
            (Format::Raw, Some(id)) => {
                let turn = state.uploads.take((vm.id(), path.to_owned(), id.0)).await;
                let turn = turn.ok_or_else(|| upload.superseded())?;
                let written = turn.over.run_until_cancelled(upload.file(spec, offset, &mut body));
                written.await.unwrap_or_else(|| Err(upload.superseded()))
            }
        }
    };
    match written.await {
        Ok(written) => Ok(Json(written)),
        Err(failed) => {
            linger(body);
            Err(failed)
        }
    }
}

fn write_spec(params: &WriteParams, length: Option<u64>) -> Result<WriteSpec, Failed> {
    let invalid = |detail: String| Failed::invalid(detail);
    let spec = WriteSpec {
        mode: params.mode.as_deref().map(convert::mode).transpose().map_err(invalid)?,
        owner: convert::owner(params.uid, params.gid).map_err(invalid)?,
        offset: params.offset.filter(|_| params.upload.is_none()),
        make_parents: true,
        upload: params.upload.as_deref().map(convert::upload_id).transpose().map_err(invalid)?,
        sparse: false,
        modified: params.modified.map(convert::modified),
        length: length.map(|length: u64| length.saturating_add(params.offset.unwrap_or(0))),
    };
    let of_files = spec.mode.is_some() || spec.owner.is_some() || spec.modified.is_some();
    if params.format == Format::Tar
        && (of_files || params.upload.is_some() || params.offset.is_some())
    {
        return Err(Failed::invalid(
            "a tar has the modes, owners and times of its files in itself",
        ));
    }
    Ok(spec)
}

struct Upload<'a> {
    vm: &'a VmHandle,
    session: &'a GuestSession,
    path: &'a str,
}

impl Upload<'_> {
    async fn file(
        &self,
        spec: WriteSpec,
        offset: u64,
        body: &mut BodyDataStream,
    ) -> Result<FileWritten, Failed> {
        let (is_upload, in_place) = (spec.upload.is_some(), spec.offset.is_some());
        let sparse = !in_place && self.session.hello().can(capability::FILES_2);
        let spec = WriteSpec { sparse, ..spec };
        let opened = self.session.write_file(self.path, spec).await;
        let mut writer = opened.map_err(|error| self.guest(&error))?;
        fail_point(Point::CopyInOpened);
        // What the guest has by now may be sent again, and is passed over.
        let start = writer.start();
        let mut again = match is_upload {
            true => start.checked_sub(offset).ok_or_else(|| self.gap(start, offset))?,
            false => 0,
        };
        let mut finder = HoleFinder::at(start);
        let mut pieces = Vec::new();
        while let Some(mut part) = next(body).await? {
            let passed = usize::try_from(again).unwrap_or(usize::MAX).min(part.len());
            again -= part.split_to(passed).len() as u64;
            if sparse {
                finder.take(&part, &mut pieces);
                self.pass_on(&mut writer, &mut pieces).await?;
            } else {
                writer.write(part).await.map_err(|error| self.guest(&error))?;
            }
        }
        if again > 0 {
            return Err(Failed::invalid("the upload ends before what the guest has of it already"));
        }
        finder.finish(&mut pieces);
        self.pass_on(&mut writer, &mut pieces).await?;
        self.finish(writer).await
    }

    async fn tree(&self, body: &mut BodyDataStream) -> Result<FileWritten, Failed> {
        let opened = self.session.write_tree(self.path).await;
        let mut writer = opened.map_err(|error| self.guest(&error))?;
        while let Some(part) = next(body).await? {
            writer.write(part).await.map_err(|error| self.guest(&error))?;
        }
        self.finish(writer).await
    }

    async fn pass_on(
        &self,
        writer: &mut FileWriter,
        pieces: &mut Vec<Piece>,
    ) -> Result<(), Failed> {
        for piece in pieces.drain(..) {
            let passed = match piece {
                Piece::Data(bytes) => writer.write(bytes).await,
                Piece::Hole(length) => writer.skip(length),
            };
            passed.map_err(|error| self.guest(&error))?;
        }
        Ok(())
    }

    async fn finish(&self, writer: FileWriter) -> Result<FileWritten, Failed> {
        fail_point(Point::CopyInSent);
        let written = writer.finish().await.map_err(|error| self.guest(&error))?;
        fail_point(Point::CopyInDone);
        Ok(FileWritten { bytes: written.length, block_sum: written.block_sum.map(convert::hex) })
    }

    fn guest(&self, error: &GuestError) -> Failed {
        of_guest(self.vm, error)
    }

    fn superseded(&self) -> Failed {
        let detail = format!(
            "VM {}: a later request goes on with this upload to {}",
            self.vm.spec().name,
            self.path
        );
        Failed::new(Code::Conflict, detail)
    }

    fn gap(&self, start: u64, offset: u64) -> Failed {
        let detail = format!(
            "VM {}: of this upload to {} the guest has {start} bytes, and the request begins at \
             {offset}; send it from there",
            self.vm.spec().name,
            self.path
        );
        Failed::new(Code::Conflict, detail)
    }
}

/// What breaks off leaves what was there, or of an upload what has come.
async fn next(body: &mut BodyDataStream) -> Result<Option<Bytes>, Failed> {
    let part = body.next().await.transpose();
    part.map_err(|error| match of_body(&error) {
        slow if slow.0.code == Code::RequestTimeout => slow,
        _ => Failed::invalid(format!("the upload broke off: {}", io::Error::other(error))),
    })
}
