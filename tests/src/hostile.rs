//! OCI layouts that no honest tool writes: made by hand, digest by digest.

use std::path::{Path, PathBuf};

use serde_json::json;
use sha2::{Digest, Sha256};

/// One entry of a layer, written as given: no name is checked or cleaned.
#[derive(Debug, Clone)]
pub struct TarEntry<'a> {
    pub path: &'a [u8],
    pub kind: tar::EntryType,
    pub link: &'a [u8],
    pub data: &'a [u8],
}

impl<'a> TarEntry<'a> {
    pub fn file(path: &'a str, data: &'a [u8]) -> Self {
        let kind = tar::EntryType::Regular;
        Self { path: path.as_bytes(), kind, link: b"", data }
    }

    pub fn hard_link(path: &'a str, to: &'a str) -> Self {
        let kind = tar::EntryType::Link;
        Self { path: path.as_bytes(), kind, link: to.as_bytes(), data: b"" }
    }

    pub fn symlink(path: &'a str, to: &'a str) -> Self {
        let kind = tar::EntryType::Symlink;
        Self { path: path.as_bytes(), kind, link: to.as_bytes(), data: b"" }
    }
}

/// A ustar archive of the entries.
pub fn tar_of(entries: &[TarEntry<'_>]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(entry.kind);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(entry.data.len() as u64);
        // The crate's setters refuse what is to be tested.
        let raw = header.as_old_mut();
        raw.name[..entry.path.len()].copy_from_slice(entry.path);
        raw.linkname[..entry.link.len()].copy_from_slice(entry.link);
        header.set_cksum();
        builder.append(&header, entry.data).unwrap();
    }
    builder.into_inner().unwrap()
}

/// Writes an OCI layout of one uncompressed layer with the reference `bad`.
pub fn layout_of(dir: &Path, layer: &[u8]) -> PathBuf {
    let layout = dir.join("layout");
    std::fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    let layer_digest = put(&layout, layer);
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [layer_digest]},
    })
    .to_string();
    let config_digest = put(&layout, config.as_bytes());
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": config_digest, "size": config.len(),
        },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": layer_digest, "size": layer.len(),
        }],
    })
    .to_string();
    let manifest_digest = put(&layout, manifest.as_bytes());
    let index = json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": manifest_digest, "size": manifest.len(),
            "annotations": {"org.opencontainers.image.ref.name": "bad"},
        }],
    });
    std::fs::write(layout.join("index.json"), index.to_string()).unwrap();
    std::fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    layout
}

fn put(layout: &Path, bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    std::fs::write(layout.join("blobs/sha256").join(&hex), bytes).unwrap();
    format!("sha256:{hex}")
}
