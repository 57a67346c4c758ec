//! A registry with one image, as much of the distribution spec 1.1 as a pull
//! asks for ("Pulling manifests", "Pulling blobs"), and what was asked of it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::StreamExt;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

pub(super) struct TestRegistry {
    pub(super) address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    manifest: String,
    blobs: Mutex<HashMap<String, Bytes>>,
    /// Ranges and names of the blobs that were asked for.
    asked: Mutex<Vec<(String, Option<String>)>>,
    /// How many bytes of each layer are given out so far.
    given: watch::Sender<usize>,
}

impl TestRegistry {
    /// With the image `team/app:1` of one layer, a plain tar with a file of
    /// that many bytes.
    pub(super) async fn start(bytes: usize) -> Self {
        let layer = Bytes::from(layer(bytes));
        let config = format!(
            r#"{{"architecture":"{}","os":"linux","config":{{"Cmd":["sleep","infinity"]}},"rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
            if std::env::consts::ARCH == "aarch64" { "arm64" } else { "amd64" },
            sha256(&layer)
        );
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":{}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{}","size":{}}}]}}"#,
            sha256(config.as_bytes()),
            config.len(),
            sha256(&layer),
            layer.len()
        );
        let blobs = [(sha256(config.as_bytes()), Bytes::from(config)), (sha256(&layer), layer)];
        let shared = Arc::new(Shared {
            manifest,
            blobs: Mutex::new(blobs.into_iter().collect()),
            asked: Mutex::default(),
            given: watch::Sender::new(usize::MAX),
        });
        let routes = Router::new()
            .route("/v2/", get(|| async { "{}" }))
            .route("/v2/team/app/manifests/{name}", get(manifest_of))
            .route("/v2/team/app/blobs/{digest}", get(blob_of))
            .with_state(Arc::clone(&shared));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Self { address, shared }
    }

    pub(super) fn reference(&self) -> String {
        format!("{}/team/app:1", self.address)
    }

    /// Gives no more than that of any blob, until it is called again.
    pub(super) fn give(&self, bytes: usize) {
        self.shared.given.send_replace(bytes);
    }

    /// What was asked for of the layer: the beginnings of the ranges.
    pub(super) fn ranges(&self) -> Vec<Option<String>> {
        let layer = self.layer();
        let asked = self.shared.asked.lock().unwrap();
        asked.iter().filter(|(name, _)| *name == layer).map(|(_, range)| range.clone()).collect()
    }

    pub(super) fn layer(&self) -> String {
        let blobs = self.shared.blobs.lock().unwrap();
        blobs.iter().max_by_key(|(_, bytes)| bytes.len()).unwrap().0.clone()
    }

    /// The layer is another one from now on, under the same name.
    pub(super) fn change_layer(&self) {
        let name = self.layer();
        let mut blobs = self.shared.blobs.lock().unwrap();
        let mut changed = blobs[&name].to_vec();
        changed[700] ^= 1;
        blobs.insert(name, changed.into());
    }
}

async fn manifest_of(State(shared): State<Arc<Shared>>, Path(name): Path<String>) -> Response {
    if name != "1" && name != sha256(shared.manifest.as_bytes()) {
        return StatusCode::NOT_FOUND.into_response();
    }
    let kind = (header::CONTENT_TYPE, "application/vnd.oci.image.manifest.v1+json");
    ([kind], shared.manifest.clone()).into_response()
}

async fn blob_of(
    State(shared): State<Arc<Shared>>,
    Path(digest): Path<String>,
    headers: HeaderMap,
) -> Response {
    let Some(bytes) = shared.blobs.lock().unwrap().get(&digest).cloned() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let range = headers.get(header::RANGE).map(|value| value.to_str().unwrap().to_owned());
    shared.asked.lock().unwrap().push((digest, range.clone()));
    let from: usize = range
        .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok())
        .unwrap_or(0);
    let given = shared.given.subscribe();
    let total = bytes.len();
    // A piece at a time, as far as it may be given.
    let pieces = futures_util::stream::unfold((from, given), move |(at, mut given)| {
        let bytes = bytes.clone();
        async move {
            if at == bytes.len() {
                return None;
            }
            let until = *given.wait_for(|&given| given > at).await.ok()?;
            let end = bytes.len().min(until).min(at + 64 * 1024);
            Some((Ok::<_, std::io::Error>(bytes.slice(at..end)), (end, given)))
        }
    });
    let mut answer = Response::new(Body::from_stream(pieces.boxed()));
    let length = (total - from).to_string();
    answer.headers_mut().insert(header::CONTENT_LENGTH, length.parse().unwrap());
    if from > 0 {
        *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
        let range = format!("bytes {from}-{}/{total}", total - 1);
        answer.headers_mut().insert(header::CONTENT_RANGE, range.parse().unwrap());
    }
    answer
}

fn layer(bytes: usize) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    let content: Vec<u8> = (0..bytes).map(|n| u8::try_from(n % 251).unwrap()).collect();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, "content", &content[..]).unwrap();
    tar.into_inner().unwrap()
}

fn sha256(bytes: &[u8]) -> String {
    inn_units::Digest::from_sha256(Sha256::digest(bytes).into()).to_string()
}
