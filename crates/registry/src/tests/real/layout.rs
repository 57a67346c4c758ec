use std::path::Path;

use inn_units::Digest;
use serde_json::{Value, json};

use super::super::{OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, digest, noise};
use crate::Platform;

/// An OCI layout: `ours` is an image of this host's architecture, `multi` an
/// index of it and of another's.
pub(super) struct Layout {
    pub(super) dir: tempfile::TempDir,
    pub(super) layers: Vec<Vec<u8>>,
    pub(super) image: Digest,
    pub(super) index: Digest,
}

impl Layout {
    pub(super) fn new(sizes: &[usize]) -> Self {
        // skopeo takes what begins so for compressed, and leaves it as it is.
        let layer = |size: &usize| [&[0x1f, 0x8b, 0x08], noise(*size).as_slice()].concat();
        let layers: Vec<Vec<u8>> = sizes.iter().map(layer).collect();
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path();
        std::fs::create_dir_all(at.join("blobs/sha256")).unwrap();
        std::fs::write(at.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let arch = Platform::host().architecture;
        let ours = image(at, &arch, &layers);
        let other = image(at, "s390x", &layers[..1]);
        let with = |entry: &Value, arch: &str| {
            let mut entry = entry.clone();
            entry["platform"] = json!({ "os": "linux", "architecture": arch });
            entry
        };
        let index = json!({
            "schemaVersion": 2, "mediaType": OCI_INDEX,
            "manifests": [with(&other, "s390x"), with(&ours, &arch)],
        });
        let multi = blob(at, OCI_INDEX, index.to_string().as_bytes());
        let named = |entry: &Value, name: &str| {
            let mut entry = entry.clone();
            entry["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
            entry
        };
        let top = json!({
            "schemaVersion": 2, "manifests": [named(&ours, "ours"), named(&multi, "multi")],
        });
        std::fs::write(at.join("index.json"), top.to_string()).unwrap();
        let of = |entry: &Value| entry["digest"].as_str().unwrap().parse().unwrap();
        Self { image: of(&ours), index: of(&multi), layers, dir }
    }
}

fn image(at: &Path, architecture: &str, layers: &[Vec<u8>]) -> Value {
    let diff_ids: Vec<_> = layers.iter().map(|layer| digest(layer).to_string()).collect();
    let config = json!({
        "architecture": architecture, "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
        "history": vec![json!({ "created_by": "test" }); layers.len()],
    });
    let config = blob(at, OCI_CONFIG, config.to_string().as_bytes());
    let layers: Vec<_> = layers.iter().map(|layer| blob(at, OCI_LAYER, layer)).collect();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers,
    });
    blob(at, OCI_MANIFEST, manifest.to_string().as_bytes())
}

fn blob(at: &Path, kind: &str, bytes: &[u8]) -> Value {
    let digest = digest(bytes);
    std::fs::write(at.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
    json!({ "mediaType": kind, "digest": digest.to_string(), "size": bytes.len() })
}
