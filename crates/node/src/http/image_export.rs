//! An image on its way out: a tar of an OCI layout.

use std::io::{self, BufWriter, Write};

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use inn_api::Problem;
use inn_image::ExportedImage;
use tokio::sync::mpsc;

use super::ApiState;
use super::problem::Failed;
use crate::images::blocking;

/// Pieces between the thread that reads and the connection: enough that
/// neither waits for each of the other's calls, 1 MiB of memory.
const PIECES: usize = 4;
const PIECE: usize = 256 << 10;

/// The image as an OCI layout, in a tar: the blobs that it came with. The same
/// image is the same tar. What was docker's is described in the image spec's
/// words.
#[utoipa::path(get, path = "/api/images/{name}/export", tag = "images",
    params(("name" = String, Path, description = "Name, or id; slashes as %2F")), responses(
        (status = 200, description = "the tar", body = Vec<u8>, content_type = "application/x-tar"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn export(
    State(state): State<ApiState>,
    Path(name): Path<String>,
) -> Result<Response, Failed> {
    let store = state.node.images.store().clone();
    let image = blocking("open the image", move || store.export(&name)).await?;
    let headers = [
        (header::CONTENT_TYPE, "application/x-tar".to_owned()),
        (header::CONTENT_LENGTH, image.tar_bytes().to_string()),
    ];
    Ok((headers, Body::from_stream(content(image))).into_response())
}

fn content(image: ExportedImage) -> impl stream::Stream<Item = io::Result<Bytes>> + Send {
    pieces(move |out| image.write_tar(out).map_err(io::Error::other))
}

/// What `write` writes on a thread of its own, as fast as it is taken.
pub(super) fn pieces(
    write: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static,
) -> impl stream::Stream<Item = io::Result<Bytes>> + Send {
    let (send, pieces) = mpsc::channel(PIECES);
    tokio::task::spawn_blocking(move || {
        let sink = Pieces(send.clone());
        let mut out = BufWriter::with_capacity(PIECE, sink);
        let written = write(&mut out);
        if let Err(error) = written.and_then(|()| out.flush()) {
            // Whoever reads sees the connection end too early; why is here.
            tracing::warn!(%error, "it could not be exported");
            let _ = send.blocking_send(Err(error));
        }
    });
    stream::unfold(pieces, |mut pieces| async move { pieces.recv().await.map(|p| (p, pieces)) })
}

struct Pieces(mpsc::Sender<io::Result<Bytes>>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = Bytes::copy_from_slice(bytes);
        // Closed: the client is gone.
        self.0.blocking_send(Ok(piece)).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
