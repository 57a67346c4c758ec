//! Disk images by URL: what fetches them into the node's cache, and what is there.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use inn_api::{CachedDiskImage, CachedDiskImageList, Code, DiskImagePull, Operation, Problem};
use inn_image::disk_image::CachedDisk;
use inn_image::disk_image::checksum::Checksum;
use inn_units::{Digest, OperationId};
use jiff::Timestamp;
use url::Url;

use super::extract::{Body, Params};
use super::operations::{EndParams, ended};
use super::problem::Failed;
use super::{ApiState, convert};
use crate::disk_images::{DiskFetchError, DiskRequest, Expected};
use crate::error::Chain;
use crate::operations::Outcome;

/// Of a URL.
const LONGEST_URL: usize = 2_048;

/// Fetches a disk image, verifies it and unpacks it into the cache. One that
/// is there already is found by its checksum; a download that was cut short
/// goes on where it was.
#[utoipa::path(post, path = "/api/disk-images", operation_id = "pull_disk_image", tag = "images", params(EndParams),
    request_body = DiskImagePull, responses(
        (status = 200, description = "the operation, which has ended within `wait`", body = Operation),
        (status = 202, description = "the operation that fetches it; its result is the image's id", body = Operation),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 429, body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn pull(
    State(state): State<ApiState>,
    Params(params): Params<EndParams>,
    Body(pull): Body<DiskImagePull>,
) -> Result<(StatusCode, Json<Operation>), Failed> {
    let request = request(&pull).map_err(Failed::invalid)?;
    let mut id = [0; OperationId::BYTES];
    getrandom::fill(&mut id).map_err(|error| Failed::internal(&error))?;
    let id = OperationId::from_bytes(id);
    let begun = state.node.operations.begin(id, "disk-image-pull", Timestamp::now());
    let operation = begun.ok_or_else(|| {
        Failed::new(Code::LimitExceeded, "too many operations run already; wait for one to end")
    })?;
    let (node, work) = (Arc::clone(&state.node), Arc::clone(&operation));
    operation.spawn_on(&state.node, async move {
        let (fetched, room) = node.disk_images.fetch(&node, &request, &work).await;
        let outcome = match fetched {
            Ok(disk) => {
                tracing::info!(url = disk.url, digest = %disk.digest, "a disk image is there");
                Outcome::Succeeded { result: disk.digest.to_string() }
            }
            Err(DiskFetchError::Cancelled) => Outcome::Cancelled,
            Err(error) => {
                let mut text = Chain(&error).to_string();
                if let Some(room) = room {
                    text.push_str(&format!(" (removed to make room, in vain: {room})"));
                }
                tracing::warn!(url = %request.url, error = text, "a disk image did not come");
                Outcome::Failed(*Failed::new(code(&error), text).0)
            }
        };
        work.finish(outcome);
    });
    let view = ended(&operation, params.wait).await;
    let status = if view.outcome.is_some() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(convert::operation(view))))
}

fn code(error: &DiskFetchError) -> Code {
    use inn_image::disk_image::DiskImageError;
    match error {
        DiskFetchError::Image(DiskImageError::DiskFull { .. }) => Code::DiskFull,
        DiskFetchError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
            Code::DiskFull
        }
        DiskFetchError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            Code::NotFound
        }
        _ => Code::InvalidImage,
    }
}

/// What vouches for the bytes: a checksum, or TLS.
fn request(pull: &DiskImagePull) -> Result<DiskRequest, String> {
    let url = parse_url(&pull.url, "the disk image")?;
    let expected = match (&pull.checksum, &pull.checksums) {
        (Some(_), Some(_)) => {
            return Err("a checksum and a list of them are given; leave one of them out".into());
        }
        (Some(checksum), None) => {
            Expected::This(Checksum::parse(checksum).map_err(|error| error.to_string())?)
        }
        (None, Some(list)) => {
            let list = parse_url(list, "the list of checksums")?;
            if list.scheme() == "http" {
                return Err(format!(
                    "{list} comes without TLS, so anybody on the way could have written it; give \
                     the checksum itself, or a list over https"
                ));
            }
            Expected::In(list)
        }
        (None, None) if url.scheme() == "http" => {
            return Err(format!(
                "{url} comes without TLS, so nothing says that it is the image it should be; give \
                 its sha256, or a URL over https"
            ));
        }
        (None, None) => Expected::Anything,
    };
    Ok(DiskRequest { url, expected })
}

fn parse_url(text: &str, what: &str) -> Result<Url, String> {
    let shown: String = text.chars().take(200).collect();
    if text.len() > LONGEST_URL {
        return Err(format!("the URL of {what} is longer than {LONGEST_URL} bytes"));
    }
    let url = Url::parse(text).map_err(|error| {
        format!("{what} {shown} is at no URL ({error}); give https://…, http://… or file:///…")
    })?;
    match url.scheme() {
        "https" | "http" if url.host_str().is_some_and(|host| !host.is_empty()) => {}
        "file" if url.to_file_path().is_ok() => {}
        "file" => return Err(format!("{shown} names another host, or no absolute path")),
        scheme => return Err(format!("{what} cannot come by {scheme}; give https, http or file")),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(format!("the URL of {what} has a user or a password in it; leave them out"));
    }
    Ok(url)
}

/// The disk images in the node's cache.
#[utoipa::path(get, path = "/api/disk-images", operation_id = "list_disk_images", tag = "images", responses(
    (status = 200, body = CachedDiskImageList),
))]
pub(super) async fn list(
    State(state): State<ApiState>,
) -> Result<Json<CachedDiskImageList>, Failed> {
    let store = state.node.disk_images.store().clone();
    let all = tokio::task::spawn_blocking(move || store.list()).await;
    let items = all.map_err(|error| Failed::internal(&error))?.iter().map(shown).collect();
    Ok(Json(CachedDiskImageList { items }))
}

fn shown(disk: &CachedDisk) -> CachedDiskImage {
    let at = |unix: u64| {
        let seconds = i64::try_from(unix).unwrap_or(i64::MAX);
        Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH)
    };
    CachedDiskImage {
        sha256: disk.digest.hex(),
        id: disk.digest,
        url: disk.url.clone(),
        disk_bytes: disk.size,
        allocated_bytes: disk.allocated,
        fetched_at: at(disk.fetched_unix),
        last_used_at: at(disk.last_used_unix),
    }
}

/// Removes a disk image from the cache. VMs that were made from it have disks
/// of their own.
#[utoipa::path(delete, path = "/api/disk-images/{id}", operation_id = "delete_disk_image", tag = "images",
    params(("id" = String, Path, description = "Its SHA-256")), responses(
        (status = 204, description = "removed"),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn delete(
    State(state): State<ApiState>,
    Path(id): Path<String>,
) -> Result<StatusCode, Failed> {
    let hex = id.strip_prefix("sha256:").unwrap_or(&id);
    let digest: Digest = format!("sha256:{hex}")
        .parse()
        .map_err(|_| Failed::new(Code::NotFound, "an id is the SHA-256 that the list shows"))?;
    let store = state.node.disk_images.store().clone();
    let removed = tokio::task::spawn_blocking(move || {
        let there = store.list().iter().any(|disk| disk.digest == digest);
        store.remove(&digest).map(|()| there)
    });
    match removed.await.map_err(|error| Failed::internal(&error))? {
        Ok(true) => Ok(StatusCode::NO_CONTENT),
        Ok(false) => {
            Err(Failed::new(Code::NotFound, format!("there is no disk image {digest} here")))
        }
        Err(error) => Err(Failed::internal(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nothing_vouches_for_is_refused() {
        let hex = "ab".repeat(32);
        let pull = |url: &str, checksum: Option<&str>, checksums: Option<&str>| {
            request(&DiskImagePull {
                url: url.into(),
                checksum: checksum.map(Into::into),
                checksums: checksums.map(Into::into),
            })
        };
        let sums = "https://h.example/SHA256SUMS";
        for (url, checksum, list) in [
            ("https://h.example/a.qcow2", None, None),
            ("https://h.example/a.qcow2", None, Some(sums)),
            ("http://h.example:8080/a.qcow2", Some(hex.as_str()), None),
            ("http://h.example/a.qcow2", None, Some(sums)),
            ("file:///srv/a.img.xz", None, Some("file:///srv/SHA512SUMS")),
        ] {
            assert!(pull(url, checksum, list).is_ok(), "{url}");
        }
        for (url, checksum, list, word) in [
            ("http://h.example/a", None, None, "without TLS"),
            ("http://h.example/a", None, Some("http://h.example/SHA256SUMS"), "without TLS"),
            ("https://h.example/a", Some("12"), None, "neither"),
            ("https://h.example/a", Some(hex.as_str()), Some(sums), "leave one"),
            ("ftp://h.example/a", None, None, "ftp"),
            ("a.img", None, None, "no URL"),
            ("file://other/a.img", None, None, "another host"),
            ("https://me:secret@h.example/a", None, None, "password in it"),
        ] {
            let why = pull(url, checksum, list).unwrap_err();
            assert!(why.contains(word), "{url}: {why}");
            assert!(!why.contains("secret"), "{why}");
        }
    }
}
