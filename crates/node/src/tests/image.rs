//! The smallest OCI image that can be imported: one layer with one file.

use std::fs;
use std::path::Path;

use inn_units::Digest;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// Writes an OCI layout (image spec 1.1, image-layout.md) into `dir`. `cmd`
/// is what the image runs.
pub(super) fn write_layout(dir: &Path, cmd: &[&str]) {
    fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
    let layer = layer();
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": { "Cmd": cmd, "Env": ["PATH=/bin", "FROM=image"] },
        "rootfs": { "type": "layers", "diff_ids": [sha256(&layer)] },
    })
    .to_string();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", config.as_bytes()),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
    })
    .to_string();
    let index = json!({
        "schemaVersion": 2,
        "manifests": [descriptor(
            "application/vnd.oci.image.manifest.v1+json",
            manifest.as_bytes(),
        )],
    });
    for blob in [&layer, config.as_bytes(), manifest.as_bytes()] {
        fs::write(dir.join("blobs/sha256").join(digest(blob).hex()), blob).unwrap();
    }
    fs::write(dir.join("index.json"), index.to_string()).unwrap();
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

fn layer() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    let content = b"hello\n";
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, "hello", &content[..]).unwrap();
    tar.into_inner().unwrap()
}

fn descriptor(media_type: &str, blob: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": sha256(blob), "size": blob.len() })
}

fn sha256(blob: &[u8]) -> String {
    digest(blob).to_string()
}

fn digest(blob: &[u8]) -> Digest {
    Digest::from_sha256(Sha256::digest(blob).into())
}
