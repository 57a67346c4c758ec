//! An image as an OCI layout once more (image spec 1.1, image-layout.md): the
//! blobs that it came with, in a tar or a directory.
//!
//! ```text
//!   record ─▶ manifest ─▶ its blobs, opened all at once ─▶ tar ─▶ received, verified again
//!                 └ docker's: the same in the image spec's words, with a digest of its own
//! ```
//! Nothing is taken from a clock: the same image is the same bytes. Whoever
//! deletes the image meanwhile takes nothing away, since its files are open.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use inn_units::Digest;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Archive, Builder, EntryType, Header};

use crate::blob::digest_of;
use crate::error::{ImageError, shown};

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Of a tar (POSIX 1003.1, pax, "ustar Interchange Format").
const BLOCK: u64 = 512;
const BLOBS: &str = "blobs/sha256/";
/// An image has a few dozen layers; its index and its mark beside them.
const MOST_ENTRIES: usize = 4096;
/// An index of one image has some hundred bytes.
const MAX_INDEX: u64 = 1 << 20;

/// What docker's documents call what the image spec has under another name
/// (image spec 1.1, media-types.md, "Compatibility Matrix").
const WORDS: [(&str, &str); 5] = [
    ("application/vnd.docker.distribution.manifest.v2+json", OCI_MANIFEST),
    ("application/vnd.docker.container.image.v1+json", "application/vnd.oci.image.config.v1+json"),
    ("application/vnd.docker.image.rootfs.diff.tar", "application/vnd.oci.image.layer.v1.tar"),
    (
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.oci.image.layer.v1.tar+gzip",
    ),
    (
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
        "application/vnd.oci.image.layer.v1.tar+zstd",
    ),
];

/// An image that is about to be written, with all its files open.
#[derive(Debug)]
pub struct ExportedImage {
    /// The digest of the manifest that the layout has.
    pub digest: Digest,
    parts: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    name: String,
    size: u64,
    from: Source,
}

#[derive(Debug)]
enum Source {
    Text(Vec<u8>),
    Blob { file: File, path: PathBuf, digest: Digest },
}

impl ExportedImage {
    /// Of the image `name`, whose manifest and whose other blobs lie in `blobs`.
    pub(crate) fn open(name: &str, manifest: &Digest, blobs: &Path) -> Result<Self, ImageError> {
        let gone = |digest: &Digest| ImageError::NotFound {
            what: format!("{digest} of the image {name}"),
            hint: "delete the image and get it again".into(),
        };
        let path = blobs.join(manifest.hex());
        let as_it_came = fs::read(&path).map_err(|err| match err.kind() {
            io::ErrorKind::NotFound => gone(manifest),
            _ => ImageError::io("read", &path, err),
        })?;
        let got = digest_of(&as_it_came);
        if got != *manifest {
            return Err(ImageError::DigestMismatch {
                what: format!("the manifest of the image {name}"),
                expected: *manifest,
                got,
            });
        }
        let malformed =
            |why: String| ImageError::invalid(format!("the manifest of the image {name}"), why);
        let mut document: Value =
            serde_json::from_slice(&as_it_came).map_err(|err| malformed(err.to_string()))?;
        let bytes = if in_oci_words(&mut document) {
            serde_json::to_vec(&document).expect("what was JSON becomes JSON")
        } else {
            as_it_came
        };
        let digest = digest_of(&bytes);
        let index = json!({
            "schemaVersion": 2,
            "manifests": [{
                "mediaType": OCI_MANIFEST, "digest": digest, "size": bytes.len(),
                "annotations": { "org.opencontainers.image.ref.name": tag(name) },
            }],
        });
        let mut export = Self { digest, parts: Vec::new() };
        export.text("oci-layout".into(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec());
        export.text("index.json".into(), index.to_string().into_bytes());
        export.text(blob_name(&digest), bytes);

        let config = std::iter::once(&document["config"]);
        let layers = document["layers"].as_array().into_iter().flatten();
        for descriptor in config.chain(layers) {
            let digest = descriptor["digest"].as_str().and_then(|text| text.parse().ok());
            let digest: Digest =
                digest.ok_or_else(|| malformed("has a blob without a digest".into()))?;
            let name = blob_name(&digest);
            if export.parts.iter().any(|part| part.name == name) {
                continue;
            }
            let path = blobs.join(digest.hex());
            let file = File::open(&path).map_err(|err| match err.kind() {
                io::ErrorKind::NotFound => gone(&digest),
                _ => ImageError::io("open", &path, err),
            })?;
            let size = file.metadata().map_err(|err| ImageError::io("read", &path, err))?.len();
            if descriptor["size"].as_u64() != Some(size) {
                let why = "is not as long as its manifest says; delete the image and get it again";
                return Err(ImageError::invalid(path.display().to_string(), why));
            }
            export.parts.push(Part { name, size, from: Source::Blob { file, path, digest } });
        }
        Ok(export)
    }

    fn text(&mut self, name: String, bytes: Vec<u8>) {
        self.parts.push(Part { name, size: bytes.len() as u64, from: Source::Text(bytes) });
    }

    /// How long its tar is.
    pub fn tar_bytes(&self) -> u64 {
        let parts = self.parts.iter().map(|part| BLOCK + part.size.next_multiple_of(BLOCK));
        // Two directories, and two empty blocks at the end.
        parts.sum::<u64>() + 4 * BLOCK
    }

    /// Writes the layout as a tar. Each blob is verified on its way; what is
    /// damaged ends it before its end.
    pub fn write_tar(self, out: &mut dyn Write) -> Result<(), ImageError> {
        let failed = |err| ImageError::io("write a tar of", Path::new("the image"), err);
        let mut tar = Builder::new(out);
        for dir in ["blobs/", BLOBS] {
            let mut header = header(EntryType::Directory, 0o755, 0);
            tar.append_data(&mut header, dir, io::empty()).map_err(failed)?;
        }
        for part in self.parts {
            let mut header = header(EntryType::Regular, 0o644, part.size);
            match part.from {
                Source::Text(bytes) => {
                    tar.append_data(&mut header, &part.name, &bytes[..]).map_err(failed)?;
                }
                Source::Blob { file, path, digest } => {
                    let what = path.display().to_string();
                    let blob = Verified::new(file, what, digest, part.size);
                    tar.append_data(&mut header, &part.name, blob).map_err(failed)?;
                }
            }
        }
        tar.finish().map_err(failed)
    }
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header
}

fn blob_name(digest: &Digest) -> String {
    format!("{BLOBS}{}", digest.hex())
}

/// What the layout calls the image: its tag, as `skopeo copy` does.
fn tag(name: &str) -> &str {
    match name.rsplit_once(':') {
        Some((_, tag)) if !tag.contains('/') && !name.starts_with("sha256:") => tag,
        _ => "latest",
    }
}

/// Whether a manifest was docker's, and was said again.
pub(crate) fn in_oci_words(manifest: &mut Value) -> bool {
    let mut changed = false;
    let mut say = |kind: &mut Value| {
        let found = WORDS.iter().find(|(theirs, _)| kind.as_str() == Some(theirs));
        if let Some((_, ours)) = found {
            *kind = (*ours).into();
            changed = true;
        }
    };
    for pointer in ["/mediaType", "/config/mediaType"] {
        if let Some(kind) = manifest.pointer_mut(pointer) {
            say(kind);
        }
    }
    for layer in manifest["layers"].as_array_mut().into_iter().flatten() {
        if let Some(kind) = layer.get_mut("mediaType") {
            say(kind);
        }
    }
    changed
}

/// Reads the tar of a layout, verifies each blob, and writes it all into the
/// directory, if one is given; answers with the digest of its one image.
pub fn receive_layout(tar: &mut dyn Read, into: Option<&Path>) -> Result<Digest, ImageError> {
    let broken = |err| ImageError::io("read the tar of", Path::new("the image"), err);
    let refuse = |name: &[u8], why: &str| {
        ImageError::invalid(format!("the entry {} of the tar", shown(name)), why)
    };
    let mut archive = Archive::new(tar);
    let mut image = None;
    for (number, entry) in archive.entries().map_err(broken)?.enumerate() {
        let entry = entry.map_err(broken)?;
        let name = entry.path_bytes().into_owned();
        if number == MOST_ENTRIES {
            return Err(refuse(&name, "is one too many for a layout"));
        }
        let kind = entry.header().entry_type();
        let text = std::str::from_utf8(&name).unwrap_or_default();
        if kind.is_dir() && matches!(text, "blobs/" | BLOBS) {
            if let Some(dir) = into.map(|into| into.join(text)) {
                fs::create_dir_all(&dir).map_err(|err| ImageError::io("create", &dir, err))?;
            }
            continue;
        }
        let digest = text.strip_prefix(BLOBS).and_then(|hex| format!("sha256:{hex}").parse().ok());
        if !kind.is_file() || (digest.is_none() && !matches!(text, "oci-layout" | "index.json")) {
            return Err(refuse(&name, "does not belong into a layout"));
        }
        let size = entry.size();
        let mut content: Box<dyn Read + '_> = match digest {
            Some(digest) => Box::new(Verified::new(entry, text.to_owned(), digest, size)),
            None if size > MAX_INDEX => return Err(refuse(&name, "is longer than 1 MiB")),
            None => Box::new(entry),
        };
        if text == "index.json" {
            let mut bytes = Vec::new();
            content.read_to_end(&mut bytes).map_err(broken)?;
            let index: Value = serde_json::from_slice(&bytes).unwrap_or_default();
            image = index["manifests"][0]["digest"].as_str().and_then(|text| text.parse().ok());
            content = Box::new(io::Cursor::new(bytes));
        }
        match into.map(|into| into.join(text)) {
            Some(path) => {
                let fail = |err| ImageError::io("write", &path, err);
                let mut file = File::create_new(&path).map_err(fail)?;
                io::copy(&mut content, &mut file).map_err(fail)?;
            }
            None => drop(io::copy(&mut content, &mut io::sink()).map_err(broken)?),
        }
    }
    image.ok_or_else(|| ImageError::invalid("the tar", "names no image in its index"))
}

/// A blob that ends well only if it was what its digest says.
struct Verified<R> {
    from: R,
    what: String,
    digest: Digest,
    left: u64,
    /// Gone once it has been compared.
    hash: Option<Sha256>,
}

impl<R> Verified<R> {
    fn new(from: R, what: String, digest: Digest, size: u64) -> Self {
        Self { from, what, digest, left: size, hash: Some(Sha256::new()) }
    }
}

impl<R: Read> Read for Verified<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let want = into.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let n = self.from.read(&mut into[..want])?;
        self.left -= n as u64;
        if n == 0 && self.left > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(hash) = &mut self.hash {
            hash.update(&into[..n]);
        }
        if self.left == 0
            && let Some(hash) = self.hash.take()
        {
            let got = Digest::from_sha256(hash.finalize().into());
            if got != self.digest {
                return Err(io::Error::other(ImageError::DigestMismatch {
                    what: self.what.clone(),
                    expected: self.digest,
                    got,
                }));
            }
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_calls_an_image_by_its_tag() {
        let names = ["base", "base:12", "127.0.0.1:5000/team/app", "127.0.0.1:5000/team/app:3"];
        assert_eq!(names.map(tag), ["latest", "12", "latest", "3"]);
        assert_eq!(tag(&format!("sha256:{}", "0".repeat(64))), "latest");
    }

    #[test]
    fn docker_s_words_become_the_image_spec_s_and_others_stay() {
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": { "mediaType": "application/vnd.docker.container.image.v1+json" },
            "layers": [
                { "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip", "size": 3 },
                { "mediaType": "application/vnd.oci.image.layer.v1.tar" },
            ],
            "annotations": { "kept": "yes" },
        });
        assert!(in_oci_words(&mut manifest));
        let text = manifest.to_string();
        assert!(!text.contains("docker") && text.contains("kept"), "{text}");
        assert_eq!(
            manifest["layers"][0]["mediaType"],
            "application/vnd.oci.image.layer.v1.tar+gzip"
        );
        assert!(!in_oci_words(&mut manifest), "nothing is left to be said again");
    }

    #[test]
    fn a_strange_or_damaged_tar_is_refused() {
        let tar_of = |name: &str, content: &[u8]| {
            let mut tar = Builder::new(Vec::new());
            let mut header = header(EntryType::Regular, 0o644, content.len() as u64);
            tar.append_data(&mut header, name, content).unwrap();
            tar.into_inner().unwrap()
        };
        let dir = tempfile::tempdir().unwrap();
        let receive = |tar: Vec<u8>| receive_layout(&mut &tar[..], Some(dir.path())).unwrap_err();
        let strange = receive(tar_of("etc/passwd", b"x"));
        assert!(strange.to_string().contains("does not belong"), "{strange}");
        fs::create_dir_all(dir.path().join(BLOBS)).unwrap();
        let wrong = receive(tar_of(&blob_name(&digest_of(b"a")), b"b"));
        assert!(matches!(wrong, ImageError::DigestMismatch { .. }), "{wrong}");
        let without = receive(tar_of("index.json", b"{}"));
        assert!(without.to_string().contains("names no image"), "{without}");
    }
}
