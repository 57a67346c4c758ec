//! One more layer on an image: its documents, and where its layers are.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use inn_fail_point::{Point, fail_point};
use inn_units::{Digest, ImageName};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

use crate::blob::digest_of;
use crate::error::ImageError;
use crate::export::in_oci_words;
use crate::fetch::LayerSource;
use crate::layout::execution;
use crate::record::{ImageRecord, RunConfig};
use crate::source::{Chosen, host_architecture};
use crate::store::ImageStore;
use crate::watch::ImportWatch;

/// By gzip, which everybody reads who reads images at all.
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const CHUNK: usize = 256 << 10;

/// What is said of how the new image runs; the rest is as it was.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunChange {
    pub cmd: Option<Vec<String>>,
    pub env: Vec<(String, String)>,
    pub labels: BTreeMap<String, String>,
}

/// An image whose documents and layers are all here, its layers open.
#[derive(Debug)]
pub struct Base {
    manifest: Value,
    config: Value,
    layers: Vec<File>,
}

/// A layer that was written, packed, and is nobody's yet.
#[derive(Debug)]
pub struct CommittedLayer {
    file: NamedTempFile,
    digest: Digest,
    diff_id: Digest,
    size: u64,
}

#[derive(Debug)]
pub struct CommitRequest {
    pub name: ImageName,
    /// What stands below the layer; without one the layer is all there is, and
    /// runs as this says.
    pub base: Result<Base, RunConfig>,
    pub change: RunChange,
    pub layer: CommittedLayer,
}

impl ImageStore {
    /// The image of that manifest, if its documents and layers are still here.
    pub fn base(&self, manifest: &Digest) -> Option<Base> {
        let blobs = self.blobs_dir();
        let document = |digest: &Digest| -> Option<Value> {
            let bytes = fs::read(blobs.join(digest.hex())).ok()?;
            (digest_of(&bytes) == *digest).then(|| serde_json::from_slice(&bytes).ok())?
        };
        let manifest = document(manifest)?;
        let digest = |of: &Value| of["digest"].as_str()?.parse::<Digest>().ok();
        let config = document(&digest(&manifest["config"])?)?;
        let layers = manifest["layers"].as_array()?.iter().map(|layer| {
            let file = File::open(blobs.join(digest(layer)?.hex())).ok()?;
            let size = file.metadata().ok()?.len();
            (layer["size"].as_u64() == Some(size)).then_some(file)
        });
        let layers = layers.collect::<Option<Vec<File>>>()?;
        Some(Base { manifest, config, layers })
    }

    /// Packs a layer's tar, until it ends.
    pub fn pack_layer(&self, tar: &mut dyn Read) -> Result<CommittedLayer, ImageError> {
        let tmp = self.tmp_dir();
        let fail = |err| ImageError::io("write a layer in", tmp, err);
        let file = NamedTempFile::new_in(tmp).map_err(fail)?;
        let packed = Summed {
            out: BufWriter::new(file.reopen().map_err(fail)?),
            sum: Sha256::new(),
            size: 0,
        };
        // Its header has no time, so the same layer is the same blob.
        let mut encoder = GzEncoder::new(packed, Compression::fast());
        let mut plain = Sha256::new();
        let mut chunk = vec![0; CHUNK];
        loop {
            let n = match tar.read(&mut chunk) {
                Ok(0) => break,
                Ok(n) => n,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
                Err(err) => return Err(fail(err)),
            };
            plain.update(&chunk[..n]);
            encoder.write_all(&chunk[..n]).map_err(fail)?;
        }
        let mut packed = encoder.finish().map_err(fail)?;
        packed.flush().map_err(fail)?;
        fail_point(Point::CommitPacked);
        Ok(CommittedLayer {
            file,
            digest: Digest::from_sha256(packed.sum.finalize().into()),
            diff_id: Digest::from_sha256(plain.finalize().into()),
            size: packed.size,
        })
    }

    /// Makes the image: bootable, and known by its name.
    pub fn commit(
        &self,
        request: CommitRequest,
        watch: &dyn ImportWatch,
    ) -> Result<ImageRecord, ImageError> {
        let CommitRequest { name, base, change, layer } = request;
        let (mut manifest, mut config, layers) = match base {
            Ok(Base { mut manifest, config, layers }) => {
                in_oci_words(&mut manifest);
                (manifest, config, layers)
            }
            Err(run) => (
                json!({ "schemaVersion": 2, "mediaType": MANIFEST, "layers": [] }),
                json!({
                    "architecture": host_architecture(), "os": "linux", "config": execution(&run),
                    "rootfs": { "type": "layers", "diff_ids": [] },
                }),
                Vec::new(),
            ),
        };
        config_of(&mut config, &layer, &change);
        let config = serde_json::to_vec(&config).expect("what was JSON becomes JSON");
        manifest["config"] =
            json!({ "mediaType": CONFIG, "digest": digest_of(&config), "size": config.len() });
        if let Some(layers) = manifest["layers"].as_array_mut() {
            layers.push(json!({ "mediaType": LAYER, "digest": layer.digest, "size": layer.size }));
        }
        let manifest = serde_json::to_vec(&manifest).expect("what was JSON becomes JSON");
        let chosen = Chosen::of_documents(&format!("the image {name}"), manifest, config)?;
        let mut files = layers;
        let path = layer.file.path().to_owned();
        files.push(layer.file.reopen().map_err(|err| ImageError::io("open", &path, err))?);
        self.obtain(&name, chosen, Arc::new(Layers(files)), watch)
    }
}

/// The base's configuration with one more layer, and what was asked for.
fn config_of(config: &mut Value, layer: &CommittedLayer, change: &RunChange) {
    if let Some(ids) = config["rootfs"]["diff_ids"].as_array_mut() {
        ids.push(json!(layer.diff_id));
    }
    if let Some(history) = config["history"].as_array_mut() {
        history.push(json!({ "created_by": "inn vm commit" }));
    }
    if let Some(config) = config.as_object_mut() {
        // Of the base: nothing of the new image is taken from a clock.
        config.remove("created");
        // Docker's id of the container that it was made in, and the like.
        for gone in ["container", "container_config"] {
            config.remove(gone);
        }
    }
    let run = &mut config["config"];
    if !run.is_object() {
        *run = Value::Object(Map::new());
    }
    if let Some(cmd) = &change.cmd {
        run["Cmd"] = json!(cmd);
    }
    if !change.env.is_empty() {
        let old = run["Env"].as_array().cloned().unwrap_or_default();
        let name = |entry: &Value| {
            entry.as_str().and_then(|text| text.split('=').next()).unwrap_or_default().to_owned()
        };
        let is_set = |entry: &Value| change.env.iter().any(|(set, _)| *set == name(entry));
        let kept = old.into_iter().filter(|entry| !is_set(entry));
        let set = change.env.iter().map(|(name, value)| json!(format!("{name}={value}")));
        run["Env"] = kept.chain(set).collect();
    }
    for (name, value) in &change.labels {
        if !run["Labels"].is_object() {
            run["Labels"] = Value::Object(Map::new());
        }
        run["Labels"][name] = json!(value);
    }
}

/// The layers of an image that is made here, as files.
#[derive(Debug)]
struct Layers(Vec<File>);

impl LayerSource for Layers {
    fn open(&self, layer: usize, from: u64) -> Result<Box<dyn Read + Send>, ImageError> {
        let fail = |err| ImageError::io("read a layer of", Path::new("the image"), err);
        let file = self.0.get(layer).ok_or_else(|| fail(io::ErrorKind::NotFound.into()))?;
        let mut file = file.try_clone().map_err(fail)?;
        file.seek(SeekFrom::Start(from)).map_err(fail)?;
        Ok(Box::new(file))
    }

    fn is_remote(&self) -> bool {
        false
    }
}

/// Hashes and counts what is written through it.
struct Summed<W> {
    out: W,
    sum: Sha256,
    size: u64,
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.sum.update(&bytes[..n]);
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_an_image_replaces_what_it_said_itself() {
        let layer = CommittedLayer {
            file: NamedTempFile::new().unwrap(),
            digest: digest_of(b"packed"),
            diff_id: digest_of(b"plain"),
            size: 6,
        };
        let mut config = json!({
            "created": "2024-01-01T00:00:00Z", "author": "kept",
            "config": { "Env": ["PATH=/bin", "A=1"], "Entrypoint": ["/start"], "Cmd": ["old"] },
            "rootfs": { "type": "layers", "diff_ids": ["sha256:0"] }, "history": [{}],
        });
        let change = RunChange {
            cmd: Some(vec!["new".into()]),
            env: vec![("A".into(), "2".into()), ("B".into(), String::new())],
            labels: [("tier".to_owned(), "web".to_owned())].into(),
        };
        config_of(&mut config, &layer, &change);
        assert_eq!(config["config"]["Env"], json!(["PATH=/bin", "A=2", "B="]));
        assert_eq!(config["config"]["Cmd"], json!(["new"]));
        assert_eq!(config["config"]["Entrypoint"], json!(["/start"]));
        assert_eq!(config["config"]["Labels"], json!({ "tier": "web" }));
        assert_eq!(config["rootfs"]["diff_ids"][1], json!(layer.diff_id));
        assert_eq!(config["history"].as_array().map(Vec::len), Some(2));
        assert!(config.get("created").is_none() && config["author"] == "kept");
    }
}
