//! The disk image that a new VM is made from: found on this node, and looked
//! at before anything is accepted.

use std::path::{Path, PathBuf};

use inn_api::{Code, DiskImage};
use inn_domain::{DiskFormat, DiskPin};
use inn_image::disk_image::checksum::Checksum;
use inn_image::disk_image::{self, DiskImageError, DiskImages, DiskInfo, ImageFormat};
use inn_units::Digest;

use super::super::problem::Failed;
use crate::error::Chain;

/// One of the cache by its digest; else of a file its header is read, and
/// nothing that the header names.
pub(super) async fn resolve(store: &DiskImages, image: &DiskImage) -> Result<DiskPin, Failed> {
    let digest = image.sha256.as_deref().map(parse_sha256).transpose().map_err(Failed::invalid)?;
    if let Some(digest) = digest {
        let (store, wanted) = (store.clone(), Checksum::Sha256(*digest.as_bytes()));
        let found = tokio::task::spawn_blocking(move || store.find(&wanted)).await;
        if let Some(disk) = found.map_err(|error| Failed::internal(&error))? {
            let info = inspect(&disk.path).await?;
            return Ok(DiskPin {
                url: image.url.clone(),
                path: disk.path,
                format: DiskFormat::Raw,
                digest: Some(digest),
                cached: true,
                size: disk.size,
                architecture: info.architecture,
            });
        }
    }
    if let Some(why) = remote(&image.url, digest) {
        return Err(why);
    }
    let path = local_path(&image.url).map_err(Failed::invalid)?;
    let info = inspect(&path).await?;
    let format = match info.format {
        ImageFormat::Raw => DiskFormat::Raw,
        ImageFormat::Qcow2 => DiskFormat::Qcow2,
    };
    let (url, size, architecture) = (image.url.clone(), info.virtual_size, info.architecture);
    Ok(DiskPin { url, path, format, digest, cached: false, size, architecture })
}

async fn inspect(path: &Path) -> Result<DiskInfo, Failed> {
    let looked_at = path.to_owned();
    let inspected = tokio::task::spawn_blocking(move || disk_image::inspect(&looked_at)).await;
    let inspected = inspected.map_err(|error| Failed::internal(&error))?;
    inspected.map_err(|error| not_usable(path, &error))
}

/// Of an image that is elsewhere, and not in the cache.
fn remote(url: &str, digest: Option<Digest>) -> Option<Failed> {
    let scheme = url.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase())?;
    if scheme != "http" && scheme != "https" {
        return None;
    }
    let shown: String = url.chars().take(200).collect();
    Some(match digest {
        Some(digest) => Failed::new(
            Code::NotFound,
            format!(
                "the disk image {shown} with the digest {digest} is not on this node; \
                 `inn image pull {shown} --sha256 {}` brings it here",
                digest.hex()
            ),
        ),
        None => Failed::invalid(format!(
            "a VM from {shown} needs the sha256 of the image, which `inn image pull {shown}` tells \
             once it is on this node"
        )),
    })
}

/// What a VM from this image may be named after.
pub(super) fn stem(pin: &DiskPin) -> String {
    let name = match pin.cached {
        true => pin.url.rsplit('/').next().unwrap_or_default(),
        false => pin.path.file_name().and_then(|name| name.to_str()).unwrap_or_default(),
    };
    // Without what it is packed in, and then without its format.
    let name = [".gz", ".xz", ".zst"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
    name.rsplit_once('.').map_or(name, |(stem, _)| stem).to_owned()
}

fn not_usable(path: &Path, error: &DiskImageError) -> Failed {
    let shown = path.display();
    match error {
        DiskImageError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            Failed::new(Code::NotFound, format!("there is no disk image {shown} on this node"))
        }
        error => Failed::new(Code::InvalidImage, format!("{}", Chain(error))),
    }
}

fn parse_sha256(text: &str) -> Result<Digest, String> {
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    format!("sha256:{}", hex.to_ascii_lowercase())
        .parse()
        .map_err(|_| "sha256 is the 64 hex digits of a SHA-256".to_owned())
}

/// The path of a `file:` URL (RFC 8089), which has to be of this host.
fn local_path(url: &str) -> Result<PathBuf, String> {
    let shown: String = url.chars().take(200).collect();
    let (scheme, rest) = url.split_once("://").ok_or_else(|| {
        format!("the disk image's URL {shown} is none; give file:// and an absolute path")
    })?;
    match scheme.to_ascii_lowercase().as_str() {
        "file" => {}
        _ => {
            return Err(format!(
                "a disk image cannot come by {scheme}; give file:// and an absolute path"
            ));
        }
    }
    let path = rest.strip_prefix("localhost").unwrap_or(rest);
    if !path.starts_with('/') {
        return Err(format!("the disk image's URL {shown} names another host or no absolute path"));
    }
    percent_decoded(path)
        .map(PathBuf::from)
        .ok_or_else(|| format!("the disk image's URL {shown} is not properly encoded"))
}

fn percent_decoded(text: &str) -> Option<std::ffi::OsString> {
    use std::os::unix::ffi::OsStringExt;
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let (digits, tail) = rest.split_at_checked(2)?;
        let digits = std::str::from_utf8(digits).ok()?;
        if digits.starts_with('+') {
            return None;
        }
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = tail;
    }
    (!bytes.contains(&0)).then(|| std::ffi::OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_url_names_a_path_of_this_host() {
        for (url, path) in [
            ("file:///srv/a.qcow2", "/srv/a.qcow2"),
            ("file://localhost/srv/a.img", "/srv/a.img"),
            ("FILE:///srv/a%20b%2Fc", "/srv/a b/c"),
        ] {
            assert_eq!(local_path(url).unwrap(), Path::new(path), "{url}");
        }
        for (url, word) in [
            ("ftp://host/x", "ftp"),
            ("/srv/a.img", "file://"),
            ("file://other/srv/a", "another host"),
            ("file:///srv/%zz", "encoded"),
            ("file:///srv/%2", "encoded"),
            ("file:///srv/%00", "encoded"),
        ] {
            let why = local_path(url).unwrap_err();
            assert!(why.contains(word), "{url}: {why}");
        }
    }

    #[test]
    fn a_sha256_is_taken_with_or_without_its_name() {
        let hex = "AB".repeat(32);
        let digest = parse_sha256(&hex).unwrap();
        assert_eq!(digest.hex(), hex.to_ascii_lowercase());
        assert_eq!(parse_sha256(&format!("sha256:{hex}")).unwrap(), digest);
        assert!(parse_sha256("abc").is_err());
    }
}
