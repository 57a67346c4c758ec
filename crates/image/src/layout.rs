//! An image made here: an OCI layout (image spec 1.1, image-layout.md) of one
//! layer, from a directory or a tar. The same input is the same image: nothing
//! is taken from a clock, and names come in the order of their bytes.

mod pack;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::path::Path;

use inn_units::Digest;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::blob::digest_of;
use crate::error::ImageError;
use crate::layer::Compression;
use crate::record::RunConfig;
use crate::source::host_architecture;

const CHUNK: usize = 256 * 1024;

/// Writes the layout into the empty directory `into`; answers with the image's
/// digest. A tar may be plain, gzip or zstd, and becomes the layer as it is.
pub fn write_layout(source: &Path, run: &RunConfig, into: &Path) -> Result<Digest, ImageError> {
    let blobs = into.join("blobs/sha256");
    fs::create_dir_all(&blobs).map_err(|err| ImageError::io("create", &blobs, err))?;
    let metadata = fs::metadata(source).map_err(|err| match err.kind() {
        io::ErrorKind::NotFound => ImageError::NotFound {
            what: source.display().to_string(),
            hint: "give the path of a directory or of a tar".into(),
        },
        _ => ImageError::io("open", source, err),
    })?;
    let part = blobs.join("part");
    let fail = |err| ImageError::io("write", &part, err);
    let mut out = Summed { inner: File::create(&part).map_err(fail)?, sum: Sha256::new(), size: 0 };
    if metadata.is_dir() {
        pack::pack(source, &mut out).map_err(|err| ImageError::io("pack", source, err))?;
    } else {
        let mut from = File::open(source).map_err(|err| ImageError::io("open", source, err))?;
        io::copy(&mut from, &mut out).map_err(fail)?;
    }
    let layer = Digest::from_sha256(out.sum.finalize().into());
    let size = out.size;
    let path = blobs.join(layer.hex());
    fs::rename(&part, &path).map_err(fail)?;
    let (compression, diff_id) = unpacked(&path, layer, source)?;

    let blob = |bytes: &[u8]| {
        let path = blobs.join(digest_of(bytes).hex());
        fs::write(&path, bytes).map_err(|err| ImageError::io("write", &path, err))
    };
    let config = json!({
        "architecture": host_architecture(), "os": "linux", "config": execution(run),
        "rootfs": { "type": "layers", "diff_ids": [diff_id] },
    })
    .to_string();
    blob(config.as_bytes())?;
    let kind = match compression {
        Compression::None => "application/vnd.oci.image.layer.v1.tar",
        Compression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
        Compression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
    };
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": digest_of(config.as_bytes()), "size": config.len(),
        },
        "layers": [{ "mediaType": kind, "digest": layer, "size": size }],
    })
    .to_string();
    blob(manifest.as_bytes())?;
    let digest = digest_of(manifest.as_bytes());
    let index = json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest, "size": manifest.len(),
        }],
    });
    for (name, content) in [
        ("index.json", index.to_string()),
        ("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#.into()),
    ] {
        let path = into.join(name);
        fs::write(&path, content).map_err(|err| ImageError::io("write", &path, err))?;
    }
    Ok(digest)
}

/// How a layer is compressed, and the digest of what it unpacks to.
fn unpacked(
    path: &Path,
    layer: Digest,
    source: &Path,
) -> Result<(Compression, Digest), ImageError> {
    let fail = |err| ImageError::io("read", path, err);
    let mut head = Vec::new();
    File::open(path).and_then(|file| file.take(4).read_to_end(&mut head)).map_err(fail)?;
    let compression = Compression::detect(&head);
    if compression == Compression::None {
        return Ok((compression, layer));
    }
    let file = BufReader::with_capacity(CHUNK, File::open(path).map_err(fail)?);
    let mut reader = compression.reader(file).map_err(fail)?;
    let mut sum = Summed { inner: io::sink(), sum: Sha256::new(), size: 0 };
    io::copy(&mut reader, &mut sum).map_err(|err| {
        let why = format!("cannot be decompressed: {err}; make it again");
        ImageError::invalid(source.display().to_string(), why)
    })?;
    Ok((compression, Digest::from_sha256(sum.sum.finalize().into())))
}

/// As the image spec's config.md has it; what is not said is left out.
pub(crate) fn execution(run: &RunConfig) -> serde_json::Value {
    let mut all = BTreeMap::new();
    let lists = [("Entrypoint", &run.entrypoint), ("Cmd", &run.cmd), ("Env", &run.env)];
    for (key, list) in lists {
        if !list.is_empty() {
            all.insert(key, json!(list));
        }
    }
    for (key, text) in [("WorkingDir", &run.working_dir), ("User", &run.user)] {
        if let Some(text) = text {
            all.insert(key, json!(text));
        }
    }
    if !run.labels.is_empty() {
        all.insert("Labels", json!(run.labels));
    }
    json!(all)
}

/// Hashes and counts what is written through it.
struct Summed<W> {
    inner: W,
    sum: Sha256,
    size: u64,
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.sum.update(&bytes[..n]);
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
