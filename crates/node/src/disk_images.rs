//! Disk images by URL: fetched, verified and unpacked into the cache.
//!
//! ```text
//!   checksum given, or found in the publisher's list
//!      │ known in the cache ─────────────────────────────▶ there
//!      ▼
//!   download (resumed) ──hash──▶ verified ──▶ unpacked ──▶ there
//!      └ cut, cancelled: what has come is kept for the next try
//! ```
//!
//! One URL is fetched once at a time: who comes second waits, and finds it.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use inn_image::disk_image::checksum::{Checksum, ChecksumError, Hasher, LONGEST_LIST};
use inn_image::disk_image::{
    CachedDisk, DiskImageError, DiskImages, Fetched, Partial, PartialRecord,
};
use inn_image::{ImportProgress, ImportStep, ImportWatch};
use inn_registry::fetch::{FetchError, Fetcher, Start};
use tokio::sync::mpsc;
use url::Url;

use crate::image_cache::{make_room_for, with_room};
use crate::node::Node;
use crate::operations::Operation;

/// Pieces that wait to be written: a disk is slower than a network at times.
const PIECES: usize = 16;

/// How often a download that stands still looks whether it was cancelled.
const LOOK: Duration = Duration::from_millis(200);

const CHUNK: usize = 256 << 10;

/// What is to be fetched. Where it has no checksum, TLS alone vouches for it.
#[derive(Debug, Clone)]
pub(crate) struct DiskRequest {
    pub(crate) url: Url,
    pub(crate) expected: Expected,
}

#[derive(Debug, Clone)]
pub(crate) enum Expected {
    Anything,
    This(Checksum),
    /// In a list such as SHA256SUMS.
    In(Url),
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum DiskFetchError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Image(#[from] DiskImageError),
    #[error("the checksums of {list} are of no use")]
    List {
        list: String,
        #[source]
        source: ChecksumError,
    },
    #[error(
        "{url} has the checksum {got} where {expected} was expected: it is damaged, or has been \
         replaced; look at what its publisher says"
    )]
    Mismatch { url: String, expected: Checksum, got: Checksum },
    #[error("cannot {step} {}", path.display())]
    Io {
        step: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the download was cancelled")]
    Cancelled,
}

/// The node's disk images.
#[derive(Debug)]
pub(crate) struct DiskFetches {
    store: DiskImages,
    /// By the names of partial files.
    turns: Mutex<HashMap<PathBuf, Arc<tokio::sync::Mutex<()>>>>,
}

impl DiskFetches {
    pub(crate) fn new(store: DiskImages) -> Self {
        Self { store, turns: Mutex::default() }
    }

    pub(crate) fn store(&self) -> &DiskImages {
        &self.store
    }

    /// With what was removed to make room for it. Not cancel safe: it is told by
    /// the operation.
    pub(crate) async fn fetch(
        &self,
        node: &Arc<Node>,
        request: &DiskRequest,
        operation: &Arc<Operation>,
    ) -> (Result<CachedDisk, DiskFetchError>, Option<String>) {
        let cache = node.config.paths.image_cache_dir.clone();
        with_room(node, &cache, ("a disk image", None), || self.obtain(node, request, operation))
            .await
    }

    async fn obtain(
        &self,
        node: &Arc<Node>,
        request: &DiskRequest,
        operation: &Arc<Operation>,
    ) -> Result<CachedDisk, DiskFetchError> {
        let settings = node.config.live().registries.fetch();
        // It reads certificates.
        let fetcher = tokio::task::spawn_blocking(move || Fetcher::new(&settings)).await.map_err(
            |error| io(Path::new("certificates"), "read")(std::io::Error::other(error)),
        )??;
        let expected = expected(request, &fetcher).await?;
        let url = request.url.as_str();
        let partial = self.store.partial(url, expected.as_ref());
        let turn = self.turn(&partial.path);
        let _turn = loop {
            match tokio::time::timeout(LOOK, turn.lock()).await {
                Ok(turn) => break turn,
                Err(_) if operation.cancelled() => return Err(DiskFetchError::Cancelled),
                Err(_) => {}
            }
        };
        let _locked = loop {
            match partial.lock().map_err(io(&partial.path, "lock"))? {
                Some(file) => break file,
                None if operation.cancelled() => return Err(DiskFetchError::Cancelled),
                // Another agent is at it.
                None => tokio::time::sleep(LOOK).await,
            }
        };
        let fetched = self.fetch_alone((node, request, &fetcher), (&partial, expected), operation);
        let fetched = fetched.await;
        if fetched.is_err() {
            partial.forget_empty();
        }
        fetched
    }

    /// While nobody else does.
    async fn fetch_alone(
        &self,
        (node, request, fetcher): (&Arc<Node>, &DiskRequest, &Fetcher),
        (partial, expected): (&Partial, Option<Checksum>),
        operation: &Arc<Operation>,
    ) -> Result<CachedDisk, DiskFetchError> {
        let url = request.url.as_str();
        let known = self.store.clone();
        if let Some(expected) = expected
            && let Some(disk) =
                blocking("look for it in", &partial.path, move || Ok(known.find(&expected))).await?
        {
            partial.remove();
            return Ok(disk);
        }
        let (path, hasher) = match request.url.to_file_path() {
            Ok(path) if request.url.scheme() == "file" => {
                let needed = std::fs::metadata(&path).ok().map(|file| inn_units::Bytes(file.len()));
                let cache = &node.config.paths.image_cache_dir;
                make_room_for(node, cache, "a disk image", needed).await;
                let (hashed, watch) = (path.clone(), Arc::clone(operation));
                let kind = expected;
                let hasher = blocking("read", &path, move || {
                    hash_file(&hashed, Hasher::for_expected(kind.as_ref()), &watch)
                })
                .await?;
                (path, hasher)
            }
            _ => {
                let from = (node, request, fetcher);
                let hasher = download(from, partial, expected.as_ref(), operation).await?;
                (partial.path.clone(), hasher)
            }
        };
        let Some(hasher) = hasher else { return Err(DiskFetchError::Cancelled) };
        let (digest, checksum) = hasher.finish();
        if let Some(expected) = expected
            && expected != checksum
        {
            // Whatever it is, it is not to be gone on with.
            partial.remove();
            let url = url.to_owned();
            return Err(DiskFetchError::Mismatch { url, expected, got: checksum });
        }
        let fetched = Fetched { path, url: url.to_owned(), digest, checksum };
        let (store, watch) = (self.store.clone(), Arc::clone(operation));
        let kept = tokio::task::spawn_blocking(move || store.keep(&fetched, &*watch)).await;
        match kept.map_err(|error| io(&partial.path, "unpack")(std::io::Error::other(error)))? {
            Ok(disk) => {
                partial.remove();
                Ok(disk)
            }
            Err(DiskImageError::Cancelled) => Err(DiskFetchError::Cancelled),
            Err(error) => {
                // Whole and verified, and yet no disk: it never will be one.
                if matches!(error, DiskImageError::Invalid { .. }) {
                    partial.remove();
                }
                Err(error.into())
            }
        }
    }

    fn turn(&self, path: &Path) -> Arc<tokio::sync::Mutex<()>> {
        // Whole entries only: a panic elsewhere spoils none.
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(turns.entry(path.to_owned()).or_default())
    }
}

/// What it has to be.
async fn expected(
    request: &DiskRequest,
    fetcher: &Fetcher,
) -> Result<Option<Checksum>, DiskFetchError> {
    let list = match &request.expected {
        Expected::Anything => return Ok(None),
        Expected::This(checksum) => return Ok(Some(*checksum)),
        Expected::In(list) => list,
    };
    let text = match list.to_file_path() {
        Ok(path) if list.scheme() == "file" => {
            let of = path.clone();
            blocking("read", &path, move || {
                let mut text = Vec::new();
                File::open(of)?.take(LONGEST_LIST as u64).read_to_end(&mut text)?;
                Ok(text)
            })
            .await?
        }
        _ => {
            let step = format!("get {list}");
            fetcher.small(&step, list, LONGEST_LIST as u64).await?.to_vec()
        }
    };
    let name = request.url.path_segments().and_then(|mut parts| parts.next_back());
    let name = percent_decoded(name.unwrap_or_default());
    Checksum::find(&String::from_utf8_lossy(&text), &name)
        .map(Some)
        .map_err(|source| DiskFetchError::List { list: list.to_string(), source })
}

/// Downloads what is missing; what hashed it all, unless it was cancelled.
async fn download(
    (node, request, fetcher): (&Arc<Node>, &DiskRequest, &Fetcher),
    partial: &Partial,
    expected: Option<&Checksum>,
    operation: &Arc<Operation>,
) -> Result<Option<Hasher>, DiskFetchError> {
    let url = &request.url;
    let mut hasher = Hasher::for_expected(expected);
    let mut start = Start::default();
    // Where no checksum tells whether two halves are of one whole, a cut is
    // gone on with in this life alone.
    if expected.is_some()
        && let Some((offset, record)) = partial.resume(url.as_str())
    {
        let (path, watch) = (partial.path.clone(), Arc::clone(operation));
        let fresh = hasher.clone();
        let hashed =
            blocking("read", &partial.path, move || hash_file(&path, fresh, &watch)).await?;
        let Some(hashed) = hashed else { return Ok(None) };
        hasher = hashed;
        start = Start { offset, validator: record.validator, total: record.total };
    }
    let asked = start.offset;
    let fetcher = match (url.scheme(), url.host_str()) {
        // Its checksum is what vouches for it: see `http::disk_images`.
        ("http", Some(host)) => {
            let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
            fetcher.with_plain_http(&format!("{host}{port}"))
        }
        _ => fetcher.clone(),
    };
    let mut body = fetcher.open(&format!("get {url}"), url, start).await?;
    if body.offset() != asked {
        hasher = Hasher::for_expected(expected);
    }
    partial.note(&PartialRecord {
        url: url.to_string(),
        validator: body.validator().map(str::to_owned),
        total: body.total(),
    })?;
    let (mut done, total) = (body.offset(), body.total().unwrap_or(0));
    // What is to come, and unpacked it is at least as much once more.
    let needed = total.saturating_sub(done).saturating_add(total);
    let cache = &node.config.paths.image_cache_dir;
    make_room_for(node, cache, "a disk image", Some(inn_units::Bytes(needed))).await;
    let (pieces, written) = mpsc::channel::<Bytes>(PIECES);
    let (path, from) = (partial.path.clone(), body.offset());
    let writing = tokio::task::spawn_blocking(move || write(&path, from, written, hasher));
    let mut cut = None;
    loop {
        let piece = tokio::select! {
            // May be dropped and called again, as it says.
            piece = body.next() => piece,
            () = tokio::time::sleep(LOOK) => {
                if operation.cancelled() {
                    break;
                }
                continue;
            }
        };
        match piece {
            Some(Ok(bytes)) => {
                done += bytes.len() as u64;
                // Its writer says why it has ended.
                if pieces.send(bytes).await.is_err() {
                    break;
                }
            }
            Some(Err(error)) => {
                cut = Some(error);
                break;
            }
            None => break,
        }
        operation.progress(ImportProgress {
            step: ImportStep::Downloading,
            done: inn_units::Bytes(done),
            total: inn_units::Bytes(total),
        });
        if operation.cancelled() {
            break;
        }
    }
    drop(pieces);
    let hasher = writing
        .await
        .unwrap_or_else(|error| Err(std::io::Error::other(error)))
        .map_err(io(&partial.path, "write"))?;
    match cut {
        Some(error) => Err(error.into()),
        None if operation.cancelled() => Ok(None),
        None => Ok(Some(hasher)),
    }
}

/// Writes and hashes what comes, from `offset` on.
fn write(
    path: &Path,
    offset: u64,
    mut pieces: mpsc::Receiver<Bytes>,
    mut hasher: Hasher,
) -> std::io::Result<Hasher> {
    use std::io::{Seek, SeekFrom};
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    // Of another version, or past what was hashed.
    file.set_len(offset)?;
    file.seek(SeekFrom::Start(offset))?;
    while let Some(piece) = pieces.blocking_recv() {
        hasher.update(&piece);
        file.write_all(&piece)?;
    }
    file.sync_data()?;
    Ok(hasher)
}

/// Nothing where that was cancelled.
fn hash_file(
    path: &Path,
    mut hasher: Hasher,
    operation: &Operation,
) -> std::io::Result<Option<Hasher>> {
    let mut file = OpenOptions::new()
        .read(true)
        // Never waits for a writer, as a FIFO would.
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(path)?;
    let total = inn_units::Bytes(file.metadata()?.len());
    let (mut chunk, mut done) = (vec![0; CHUNK], 0);
    loop {
        let read = file.read(&mut chunk)?;
        if read == 0 {
            return Ok(Some(hasher));
        }
        hasher.update(&chunk[..read]);
        done += read as u64;
        let step = ImportStep::Verifying;
        operation.progress(ImportProgress { step, done: inn_units::Bytes(done), total });
        if operation.cancelled() {
            return Ok(None);
        }
    }
}

async fn blocking<T: Send + 'static>(
    step: &'static str,
    path: &Path,
    body: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, DiskFetchError> {
    tokio::task::spawn_blocking(body)
        .await
        .unwrap_or_else(|error| Err(std::io::Error::other(error)))
        .map_err(io(path, step))
}

fn io(path: &Path, step: &'static str) -> impl FnOnce(std::io::Error) -> DiskFetchError {
    let path = path.to_owned();
    move |source| DiskFetchError::Io { step, path, source }
}

/// As far as it is any text.
fn percent_decoded(text: &str) -> String {
    let text = text.replace('+', "%2B");
    let decoded = form_urlencoded::parse(text.as_bytes()).next();
    decoded.map_or_else(String::new, |(name, _)| name.into_owned())
}
