//! Downloads: a file, a part of it, or a tree as a tar.

use std::io;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{Stream, stream};
use http_body_util::BodyExt;
use inn_api::{BLOCK_SUM, Code, Problem};
use inn_fail_point::{Point, fail_point};
use inn_guest_proto::capability;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use serde::Deserialize;
use tokio::sync::oneshot;
use utoipa::IntoParams;

use super::range::{Verdict, Wanted};
use super::zeros::zeros;
use super::{Format, absolute};
use crate::guest::{FileInfo, FileKind, FileReader, GuestError, GuestSession, Piece, ReadSpec};
use crate::http::ApiState;
use crate::http::convert::files as convert;
use crate::http::extract::Params;
use crate::http::problem::{Failed, of_guest, ready_session};
use crate::vm::VmHandle;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::http) struct ReadParams {
    /// Absolute.
    #[param(pattern = "^/[^\\x00]*$")]
    path: String,
    #[serde(default)]
    #[param(inline)]
    format: Format,
}

/// Reads a file of the guest's, or a tree as a tar with paths relative to it.
/// Of a raw file the trailer `inn-block-sum` has the checksum of what was
/// sent, for clients that take trailers (`TE: trailers`); the others are told
/// its length.
#[utoipa::path(get, path = "/api/vms/{vm}/files", tag = "files",
    params(
        ("vm" = String, Path, description = "Name or id"), ReadParams,
        ("range" = Option<String>, Header, description = "`bytes=N-` or `bytes=N-M`, of a raw file"),
        ("if-range" = Option<String>, Header), ("if-match" = Option<String>, Header),
        ("if-none-match" = Option<String>, Header),
    ), responses(
        (status = 200, description = "the bytes", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 206, description = "the range", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 304, description = "it is what `if-none-match` names"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
        (status = 412, description = "it is not what `if-match` names", body = Problem, content_type = "application/problem+json"),
        (status = 416, description = "it ends before the range", body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::http) async fn read_file(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    Params(params): Params<ReadParams>,
    headers: HeaderMap,
) -> Result<Response, Failed> {
    let path = absolute(&params.path)?;
    let (vm, session) = ready_session(&state, &name).await?;
    match params.format {
        Format::Raw => {
            Download { vm: &vm, session: &session, path, wanted: Wanted::read(&headers) }
                .answer()
                .await
        }
        Format::Tar => {
            let opened = async {
                let reader = session.read_tree(path).await?;
                begin(reader).await
            };
            let (reader, first) = opened.await.map_err(|error| of_guest(&vm, &error))?;
            let headers = [(header::CONTENT_TYPE, "application/x-tar")];
            Ok((headers, Body::from_stream(content(reader, first, None))).into_response())
        }
    }
}

/// What a download of the file would answer, without its content.
#[utoipa::path(head, path = "/api/vms/{vm}/files", tag = "files",
    params(("vm" = String, Path, description = "Name or id"), ReadParams), responses(
        (status = 200, description = "its length and etag"),
        (status = 404), (status = 409),
    ))]
pub(in crate::http) async fn head_file(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    Params(params): Params<ReadParams>,
) -> Result<Response, Failed> {
    let path = absolute(&params.path)?;
    let (vm, session) = ready_session(&state, &name).await?;
    let info = session.stat(path, true).await.map_err(|error| of_guest(&vm, &error))?;
    let mut headers = match params.format {
        Format::Raw => file_headers(&info),
        Format::Tar => HeaderMap::new(),
    };
    if params.format == Format::Raw && info.kind == FileKind::File && info.size > 0 {
        headers.insert(header::CONTENT_LENGTH, info.size.into());
    }
    Ok((headers, Body::empty()).into_response())
}

struct Download<'a> {
    vm: &'a VmHandle,
    session: &'a GuestSession,
    path: &'a str,
    wanted: Wanted,
}

impl Download<'_> {
    async fn answer(self) -> Result<Response, Failed> {
        let mut range = self.wanted.range;
        let mut reader = self.open(range).await?;
        match self.wanted.judge(&convert::etag(&reader.info().version())) {
            Verdict::Send => {}
            Verdict::SendWhole => {
                range = None;
                reader = self.open(None).await?;
            }
            Verdict::NotModified => {
                let headers = file_headers(reader.info());
                return Ok((StatusCode::NOT_MODIFIED, headers).into_response());
            }
            Verdict::Changed => return Err(self.changed()),
        }
        let mut size = reader.info().size;
        let mut bounded = self.is_sparse();
        if size == 0 {
            // A file without a size may yet have content, as those of /proc:
            // it is read to its end, and has no ranges.
            if let Some((1.., _)) = range {
                return Ok(self.not_there(size));
            }
            range = None;
            bounded = false;
            if self.is_sparse() {
                reader = self.open_plain().await?;
                size = reader.info().size;
            }
        }
        if range.is_some_and(|(first, _)| first >= size) {
            return Ok(self.not_there(size));
        }
        let (first, last) = range.map_or((0, size.saturating_sub(1)), |(first, last)| {
            (first, last.unwrap_or(u64::MAX).min(size - 1))
        });
        let mut headers = file_headers(reader.info());
        let status = match range {
            Some(_) => {
                let value = HeaderValue::try_from(format!("bytes {first}-{last}/{size}"));
                headers.insert(header::CONTENT_RANGE, value.map_err(|e| Failed::internal(&e))?);
                StatusCode::PARTIAL_CONTENT
            }
            None => StatusCode::OK,
        };
        let opened = begin(reader).await;
        let (reader, first_part) = opened.map_err(|error| of_guest(self.vm, &error))?;
        if !self.wanted.trailers {
            if bounded {
                headers.insert(header::CONTENT_LENGTH, (last - first + 1).into());
            }
            let body = Body::from_stream(content(reader, first_part, None));
            return Ok((status, headers, body).into_response());
        }
        // RFC 9112, 7.1.2: trailers come with chunks, and so without a length.
        headers.insert(header::TRAILER, HeaderValue::from_static(BLOCK_SUM));
        let (sender, sum) = oneshot::channel();
        let body = Body::from_stream(content(reader, first_part, Some(sender)));
        Ok((status, headers, Body::new(body.with_trailers(trailers(sum)))).into_response())
    }

    /// Whether holes are left out on the way, and the content is what the file
    /// was when it was opened.
    fn is_sparse(&self) -> bool {
        self.session.hello().can(capability::FILES_2)
    }

    async fn open(&self, range: Option<(u64, Option<u64>)>) -> Result<FileReader, Failed> {
        let (offset, last) = range.unwrap_or_default();
        let sparse = self.is_sparse();
        let spec = ReadSpec {
            offset,
            limit: last.map(|last| (last - offset).saturating_add(1)),
            sparse,
            expect: self.wanted.expected().filter(|_| sparse).and_then(convert::version_of),
        };
        self.read(spec).await
    }

    async fn open_plain(&self) -> Result<FileReader, Failed> {
        self.read(ReadSpec::default()).await
    }

    async fn read(&self, spec: ReadSpec) -> Result<FileReader, Failed> {
        let opened = self.session.read_file(self.path, spec).await;
        opened.map_err(|error| of_guest(self.vm, &error))
    }

    fn changed(&self) -> Failed {
        let detail = format!(
            "VM {}: {} is not the file that if-match names any more",
            self.vm.spec().name,
            self.path
        );
        Failed::new(Code::GuestFileChanged, detail)
    }

    fn not_there(&self, size: u64) -> Response {
        let detail = format!(
            "VM {}: {} has {size} bytes and ends before the range",
            self.vm.spec().name,
            self.path
        );
        let failed = Failed::invalid(detail).with_status(StatusCode::RANGE_NOT_SATISFIABLE);
        let mut response = failed.into_response();
        if let Ok(range) = HeaderValue::try_from(format!("bytes */{size}")) {
            response.headers_mut().insert(header::CONTENT_RANGE, range);
        }
        response
    }
}

fn file_headers(info: &FileInfo) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let media_type = HeaderValue::from_static("application/octet-stream");
    headers.insert(header::CONTENT_TYPE, media_type);
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if let Ok(etag) = HeaderValue::try_from(convert::etag(&info.version())) {
        headers.insert(header::ETAG, etag);
    }
    // A guest's clock may be where HTTP has no dates, or after our own.
    let modified = convert::modified_at(info).min(Timestamp::now());
    let date = DateTimePrinter::new().timestamp_to_rfc9110_string(&modified);
    if let Some(date) = date.ok().and_then(|date| HeaderValue::try_from(date).ok()) {
        headers.insert(header::LAST_MODIFIED, date);
    }
    headers
}

/// What fails at the first byte is still a problem and no broken body.
async fn begin(mut reader: FileReader) -> Result<(FileReader, Option<Piece>), GuestError> {
    let first = reader.next().await?;
    fail_point(Point::CopyOutOpened);
    Ok((reader, first))
}

/// The content with its holes filled, in bounded pieces. An error ends it
/// without its last chunk: the client sees that it is not whole.
fn content(
    reader: FileReader,
    first: Option<Piece>,
    done: Option<oneshot::Sender<Option<[u8; 8]>>>,
) -> impl Stream<Item = Result<Bytes, GuestError>> {
    struct State {
        reader: FileReader,
        /// What has come and was not passed on.
        next: Option<Piece>,
        ended: bool,
        done: Option<oneshot::Sender<Option<[u8; 8]>>>,
    }
    let ended = first.is_none();
    let state = State { reader, next: first, ended, done };
    stream::try_unfold(state, |mut state| async move {
        loop {
            match state.next.take() {
                Some(Piece::Data(bytes)) => return Ok(Some((bytes, state))),
                Some(Piece::Hole(0)) => {}
                Some(Piece::Hole(length)) => {
                    let part = zeros(length);
                    state.next = Some(Piece::Hole(length - part.len() as u64));
                    return Ok(Some((part, state)));
                }
                None if !state.ended => {
                    state.next = state.reader.next().await?;
                    state.ended = state.next.is_none();
                }
                None => {
                    if let Some(done) = state.done.take() {
                        // A client that has gone wants no sum.
                        let _ = done.send(state.reader.block_sum());
                    }
                    return Ok(None);
                }
            }
        }
    })
}

async fn trailers(
    sum: oneshot::Receiver<Option<[u8; 8]>>,
) -> Option<Result<HeaderMap, axum::Error>> {
    let lost = |_| axum::Error::new(io::Error::other("the content has no end"));
    match sum.await.map_err(lost) {
        Ok(sum) => {
            let value = HeaderValue::try_from(convert::hex(sum?)).ok()?;
            Some(Ok(HeaderMap::from_iter([(HeaderName::from_static(BLOCK_SUM), value)])))
        }
        Err(error) => Some(Err(error)),
    }
}
