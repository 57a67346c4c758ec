use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use inn_fail_point::{Point, fail_point};
use inn_units::{Bytes, Digest, ImageName};
use serde::{Deserialize, Serialize};

use crate::blob::digest_of;
use crate::error::ImageError;

/// An image that is here and can be booted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRecord {
    pub name: ImageName,
    /// The manifest's digest, which is the image's identity.
    pub manifest: Digest,
    pub config: RunConfig,
    /// As Go names it: `amd64`, `arm64`.
    pub architecture: String,
    /// A read-only ext4 file system.
    pub root_disk: PathBuf,
    pub disk_bytes: Bytes,
    /// Manifest, configuration and layers, compressed as they came.
    pub blob_bytes: Bytes,
    /// When it was imported.
    pub created_unix: u64,
}

/// What the image says of how to run it (OCI image spec 1.1, config.md).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunConfig {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    pub working_dir: Option<String>,
    pub user: Option<String>,
    pub labels: BTreeMap<String, String>,
}

/// A record as its file has it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct StoredRecord {
    /// Of this form; another one is not read.
    version: u32,
    pub(crate) name: ImageName,
    pub(crate) manifest: Digest,
    /// All blobs that belong to it.
    pub(crate) blobs: Vec<Digest>,
    pub(crate) architecture: String,
    pub(crate) disk_bytes: Bytes,
    pub(crate) blob_bytes: Bytes,
    pub(crate) created_unix: u64,
    config: StoredConfig,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct StoredConfig {
    entrypoint: Vec<String>,
    cmd: Vec<String>,
    env: Vec<String>,
    working_dir: Option<String>,
    user: Option<String>,
    labels: BTreeMap<String, String>,
}

const VERSION: u32 = 1;

impl StoredRecord {
    pub(crate) fn new(record: &ImageRecord, blobs: Vec<Digest>) -> Self {
        let config = record.config.clone();
        Self {
            version: VERSION,
            name: record.name.clone(),
            manifest: record.manifest,
            blobs,
            architecture: record.architecture.clone(),
            disk_bytes: record.disk_bytes,
            blob_bytes: record.blob_bytes,
            created_unix: record.created_unix,
            config: StoredConfig {
                entrypoint: config.entrypoint,
                cmd: config.cmd,
                env: config.env,
                working_dir: config.working_dir,
                user: config.user,
                labels: config.labels,
            },
        }
    }

    pub(crate) fn into_record(self, root_disk: PathBuf) -> ImageRecord {
        ImageRecord {
            name: self.name,
            manifest: self.manifest,
            config: RunConfig {
                entrypoint: self.config.entrypoint,
                cmd: self.config.cmd,
                env: self.config.env,
                working_dir: self.config.working_dir,
                user: self.config.user,
                labels: self.config.labels,
            },
            architecture: self.architecture,
            root_disk,
            disk_bytes: self.disk_bytes,
            blob_bytes: self.blob_bytes,
            created_unix: self.created_unix,
        }
    }
}

/// A name with its tag: `base` and `base:latest` are one image.
pub(crate) fn with_tag(name: &str) -> String {
    match name.rsplit_once(':') {
        Some((_, tag)) if !tag.contains('/') => name.to_owned(),
        _ => format!("{name}:latest"),
    }
}

/// Records: one JSON file for each name, replaced atomically. The file's name
/// is a hash, since an image's name has slashes and up to 255 bytes.
#[derive(Debug)]
pub(crate) struct Records {
    dir: PathBuf,
}

impl Records {
    pub(crate) fn open(root: &Path) -> Result<Self, ImageError> {
        let dir = root.join("records");
        fs::create_dir_all(&dir).map_err(|err| ImageError::io("create", &dir, err))?;
        Ok(Self { dir })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{}.json", digest_of(with_tag(name).as_bytes()).hex()))
    }

    pub(crate) fn get(&self, name: &str) -> Result<Option<StoredRecord>, ImageError> {
        read(&self.path(name))
    }

    /// Sorted by name.
    pub(crate) fn all(&self) -> Result<Vec<StoredRecord>, ImageError> {
        let fail = |err| ImageError::io("read", &self.dir, err);
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(fail)? {
            all.extend(read(&entry.map_err(fail)?.path())?);
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    pub(crate) fn put(&self, record: &StoredRecord, tmp: &Path) -> Result<(), ImageError> {
        let path = self.path(record.name.as_str());
        let fail = |err| ImageError::io("write", &path, err);
        let bytes = serde_json::to_vec_pretty(record).expect("strings and numbers become JSON");
        let mut file = tempfile::NamedTempFile::new_in(tmp).map_err(fail)?;
        file.write_all(&bytes).and_then(|()| file.as_file().sync_all()).map_err(fail)?;
        fail_point(Point::RecordWritten);
        file.persist(&path).map_err(|err| fail(err.error))?;
        Ok(())
    }

    /// Whether there was one.
    pub(crate) fn remove(&self, name: &str) -> Result<bool, ImageError> {
        let path = self.path(name);
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(err) => Err(ImageError::io("remove", &path, err)),
        }
    }
}

fn read(path: &Path) -> Result<Option<StoredRecord>, ImageError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(err) => return Err(ImageError::io("read", path, err)),
    };
    let damaged = |why: String| {
        let why = format!("is damaged ({why}); remove it and import the image again");
        ImageError::invalid(format!("the image record {}", path.display()), why)
    };
    let record: StoredRecord =
        serde_json::from_slice(&bytes).map_err(|err| damaged(err.to_string()))?;
    if record.version != VERSION {
        return Err(damaged(format!("it has version {}, known is {VERSION}", record.version)));
    }
    Ok(Some(record))
}
