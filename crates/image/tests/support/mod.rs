//! Images made by hand, and what an import is asked for.
#![allow(dead_code, reason = "each test binary uses a part")]

pub(crate) mod debugfs;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use inn_image::{ImageError, ImageRecord, ImageStore, ImportRequest, Unwatched};
use inn_units::Digest;
use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};
use tempfile::TempDir;

pub(crate) use debugfs::Found;

pub(crate) fn digest(bytes: &[u8]) -> Digest {
    Digest::from_sha256(Sha256::digest(bytes).into())
}

/// A tar in which any name may stand, also one that `tar` would refuse.
#[derive(Debug, Default, Clone)]
pub(crate) struct Tar(pub(crate) Vec<u8>);

impl Tar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn entry(mut self, kind: EntryType, name: &[u8], link: &[u8], data: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o644 });
        header.set_size(data.len() as u64);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn dir(self, name: &str) -> Self {
        self.entry(EntryType::Directory, name.as_bytes(), b"", b"")
    }

    pub(crate) fn file(self, name: &str, data: &str) -> Self {
        self.entry(EntryType::Regular, name.as_bytes(), b"", data.as_bytes())
    }

    pub(crate) fn symlink(self, name: &str, to: &str) -> Self {
        self.entry(EntryType::Symlink, name.as_bytes(), to.as_bytes(), b"")
    }

    pub(crate) fn hard_link(self, name: &str, to: &str) -> Self {
        self.entry(EntryType::Link, name.as_bytes(), to.as_bytes(), b"")
    }

    /// PAX records for the entry that follows.
    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut len = rest + 1;
            while len != rest + len.to_string().len() {
                len = rest + len.to_string().len();
            }
            data.extend_from_slice(format!("{len} {key}=").as_bytes());
            data.extend_from_slice(value);
            data.push(b'\n');
        }
        self.entry(EntryType::XHeader, b"pax", b"", &data)
    }

    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// An OCI layout directory of these layers; a layer is its blob and the tar
/// that its diff_id is of.
pub(crate) fn layout_of(layers: &[(Vec<u8>, Vec<u8>)], architecture: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_layout(dir.path(), layers, architecture);
    dir
}

/// The same, where the tar itself would be too large to have at hand.
pub(crate) fn layout_with(layers: &[(Vec<u8>, Digest)], architecture: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_layout_with(dir.path(), layers, architecture);
    dir
}

pub(crate) fn write_layout(dir: &Path, layers: &[(Vec<u8>, Vec<u8>)], architecture: &str) {
    let layers: Vec<_> = layers.iter().map(|(blob, tar)| (blob.clone(), digest(tar))).collect();
    write_layout_with(dir, &layers, architecture);
}

fn write_layout_with(dir: &Path, layers: &[(Vec<u8>, Digest)], architecture: &str) {
    fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
    let blob = |bytes: &[u8]| {
        fs::write(dir.join("blobs/sha256").join(digest(bytes).hex()), bytes).unwrap();
        format!(r#""digest":"{}","size":{}"#, digest(bytes), bytes.len())
    };
    let diff_ids: Vec<String> =
        layers.iter().map(|(_, diff_id)| format!("\"{diff_id}\"")).collect();
    let config = format!(
        r#"{{"architecture":"{architecture}","os":"linux","config":{{"Cmd":["/bin/sh"],"Env":["A=1"],"Entrypoint":null}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        diff_ids.join(",")
    );
    let list: Vec<String> = layers
        .iter()
        .map(|(bytes, _)| {
            format!(r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar",{}}}"#, blob(bytes))
        })
        .collect();
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.oci.image.config.v1+json",{}}},"layers":[{}]}}"#,
        blob(config.as_bytes()),
        list.join(",")
    );
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json",{}}}]}}"#,
        blob(manifest.as_bytes())
    );
    fs::write(dir.join("index.json"), index).unwrap();
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

pub(crate) fn host_architecture() -> &'static str {
    if std::env::consts::ARCH == "aarch64" { "arm64" } else { "amd64" }
}

/// An OCI layout directory of plain tars for this machine.
pub(crate) fn layout(layers: &[Vec<u8>]) -> TempDir {
    let layers: Vec<_> = layers.iter().map(|tar| (tar.clone(), tar.clone())).collect();
    layout_of(&layers, host_architecture())
}

pub(crate) fn request(path: &Path) -> ImportRequest {
    ImportRequest {
        path: path.to_owned(),
        name: "test".parse().unwrap(),
        reference: None,
        digest: None,
    }
}

/// A cache that is checked for leftovers when it goes.
pub(crate) struct Cache {
    pub(crate) dir: TempDir,
    pub(crate) store: ImageStore,
}

impl Cache {
    pub(crate) fn new() -> Self {
        Self::at(tempfile::tempdir().unwrap())
    }

    pub(crate) fn at(dir: TempDir) -> Self {
        let store = ImageStore::open(dir.path()).unwrap();
        Self { dir, store }
    }

    pub(crate) fn import(&self, path: &Path) -> Result<ImageRecord, ImageError> {
        self.store.import(&request(path), &Unwatched)
    }

    /// Imports what has to be refused; the sentence, when nothing is left.
    pub(crate) fn refusal(&self, path: &Path) -> String {
        let error = self.import(path).unwrap_err();
        self.assert_nothing_made();
        error.to_string()
    }

    pub(crate) fn assert_nothing_made(&self) {
        for below in ["disks", "records", "blobs/sha256"] {
            assert!(self.files(below).is_empty(), "leftovers in {below}");
        }
        self.assert_no_leftovers();
    }

    /// Nothing but the lock may be in a workspace after a call.
    pub(crate) fn assert_no_leftovers(&self) {
        for workspace in self.files("tmp") {
            let names: Vec<_> =
                fs::read_dir(&workspace).unwrap().map(|e| e.unwrap().file_name()).collect();
            assert_eq!(names, ["lock"], "leftovers in {}", workspace.display());
        }
    }

    pub(crate) fn files(&self, below: &str) -> Vec<PathBuf> {
        fs::read_dir(self.dir.path().join(below))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect()
    }

    /// The tree that the layers give, without the root itself.
    pub(crate) fn tree(&self, layers: &[Vec<u8>]) -> BTreeMap<String, Found> {
        let record = self.import(layout(layers).path()).unwrap();
        self.assert_no_leftovers();
        debugfs::assert_clean(&record.root_disk);
        let mut tree = debugfs::read_tree(&record.root_disk);
        tree.remove("");
        tree
    }
}
