//! Disk images by URL: fetched into the node's cache before a VM is made.

use std::io::Read;
use std::path::Path;

use inn_client::Client;
use inn_client::api::{DiskImagePull, Operation, OperationState};

use crate::context::Context;
use crate::failure::Failure;
use crate::progress::Meter;
use crate::signals::{Interrupt, Interrupts};

/// How long one question for progress may hang before it is asked again.
const ASK_AGAIN: std::time::Duration = std::time::Duration::from_secs(10);

/// How the packed begin: gzip, xz, zstd.
const PACKED: [&[u8]; 3] = [b"\x1f\x8b\x08", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"];

/// `inn image pull URL`: prints the image's SHA-256, by which VMs are made.
pub(crate) async fn command(
    context: &Context,
    place: &str,
    sum: Option<&str>,
) -> Result<u8, Failure> {
    let request = request(crate::args::disk_image_url(place)?, sum)?;
    let mut interrupts = Interrupts::listen()?;
    let client = context.client().await?;
    let sha256 = pull(context, &client, &request, &mut interrupts).await?;
    let list = client.disk_images().await?.items;
    match list.into_iter().find(|disk| disk.sha256 == sha256) {
        Some(disk) => {
            context.result(&disk, || format!("{} {}\n", disk.sha256, disk.url))?;
            Ok(0)
        }
        None => Err(Failure::new(format!("the disk image of {place} was deleted meanwhile"))),
    }
}

/// Whether the node has to fetch or unpack it first.
pub(crate) fn is_pulled(place: &str) -> bool {
    if place.starts_with("https://") || place.starts_with("http://") {
        return true;
    }
    let path = place.strip_prefix("file://").unwrap_or(place);
    let mut head = [0; 6];
    let read = std::fs::File::open(path).and_then(|mut file| file.read(&mut head));
    read.is_ok_and(|read| PACKED.iter().any(|magic| head[..read].starts_with(magic)))
}

/// What proves that it is the image: `--sha256`, a checksum, a URL or a file.
pub(crate) fn request(url: String, sum: Option<&str>) -> Result<DiskImagePull, Failure> {
    let mut pull = DiskImagePull { url, ..DiskImagePull::default() };
    match sum {
        None => {}
        Some(sum) if is_checksum(sum) => pull.checksum = Some(sum.to_owned()),
        Some(sum) if sum.contains("://") => pull.checksums = Some(sum.to_owned()),
        Some(sum) => pull.checksums = Some(crate::args::file_url(Path::new(sum), sum)?),
    }
    Ok(pull)
}

pub(crate) fn is_checksum(text: &str) -> bool {
    let hex = text.strip_prefix("sha256:").or(text.strip_prefix("sha512:")).unwrap_or(text);
    matches!(hex.len(), 64 | 128) && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Fetches it, with a bar; the SHA-256 that a VM is made by. The first
/// interrupt cancels.
pub(crate) async fn pull(
    context: &Context,
    client: &Client,
    request: &DiskImagePull,
    interrupts: &mut Interrupts,
) -> Result<String, Failure> {
    let mut operation: Operation = client.pull_disk_image(request).await?;
    let mut meter = Meter::start(context, "fetching");
    let mut cancelled: Option<Interrupt> = None;
    while operation.state == OperationState::Running {
        if let Some(progress) = &operation.progress {
            meter.update(&progress.step, progress.done_bytes, progress.total_bytes);
        }
        tokio::select! {
            // Safe to cancel: it only asks.
            next = client.wait_operation(operation.id, operation.version, ASK_AGAIN) => {
                operation = next?;
            }
            // Cancel safe: a signal that came stays to be seen.
            interrupt = interrupts.next() => {
                if let Some(first) = cancelled.replace(interrupt) {
                    return Err(interrupted(first));
                }
                client.cancel_operation(operation.id).await?;
            }
        }
    }
    meter.clear();
    match (operation.state, operation.problem, cancelled) {
        (OperationState::Succeeded, ..) => {
            let id = operation.result.unwrap_or_default();
            Ok(id.strip_prefix("sha256:").unwrap_or(&id).to_owned())
        }
        (_, _, Some(interrupt)) => Err(interrupted(interrupt)),
        (_, Some(problem), None) => Err(inn_client::ClientError::from(problem).into()),
        (_, None, None) => Err(Failure::new(format!("{} did not come", request.url))),
    }
}

fn interrupted(interrupt: Interrupt) -> Failure {
    Failure::new("interrupted: what has come so far is kept for the next try")
        .with_code(interrupt.exit_code())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remote_or_packed_is_pulled() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let (raw, gz) = (write("a.img", b"a boot sector"), write("b.img", b"\x1f\x8b\x08\0"));
        assert!(is_pulled("https://h.example/a.qcow2") && is_pulled("http://h.example/a"));
        assert!(!is_pulled(&raw) && !is_pulled("/not/there"));
        assert!(is_pulled(&gz) && is_pulled(&format!("file://{gz}")));
    }

    #[test]
    fn a_sum_is_hex_a_url_or_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let list = dir.path().join("SHA256SUMS");
        std::fs::write(&list, "").unwrap();
        let of = |sum: &str| request("https://h.example/a".into(), Some(sum)).unwrap();
        let hex = "ab".repeat(64);
        assert_eq!(of(&hex).checksum.as_deref(), Some(hex.as_str()));
        let url = "https://h.example/SHA512SUMS";
        assert_eq!(of(url).checksums.as_deref(), Some(url));
        let file = of(list.to_str().unwrap()).checksums.unwrap();
        assert_eq!(file, format!("file://{}", list.display()));
        assert!(request("https://h.example/a".into(), Some("/not/there")).is_err());
    }
}
