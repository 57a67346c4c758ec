//! Disk images that came from elsewhere: each kept once, unpacked, by the
//! SHA-256 of what its publisher gave out.
//!
//! ```text
//!   partial/KEY.part, .json ──whole, verified──▶ unpacked ──▶ raw, sparse ──▶ HEX.img ──▶ HEX.json
//!    (resumed by its URL)      gz, xz, zst ──────┘   qcow2 ──────┘             the disk    the record
//! ```
//!
//! A disk counts from its record on. What a crash leaves without one is
//! removed by the next start, and a download that nobody goes on with after a
//! day.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use inn_fail_point::{Point, fail_point};
use inn_units::{Bytes, Digest};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::checksum::Checksum;
use super::{
    CHUNK, DiskImageError, Fresh, ImageFormat, LARGEST, copy_to, inspect, invalid, io_error,
    write_error,
};
use crate::cache::{
    CacheEntry, CacheKind, Inventory, allocated, is_locked, modified_unix, partial,
};
use crate::watch::{ImportProgress, ImportStep, ImportWatch};

/// How long a download that was cut short is kept to be gone on with.
const PARTIAL: Duration = Duration::from_secs(24 * 3600);

/// What an xz stream may ask for: `xz -9` has dictionaries of 64 MiB.
const XZ_MEMORY: u64 = 256 << 20;

/// As `zstd --long=27` has it, the most that is taken without being asked.
const ZSTD_WINDOW_LOG: u32 = 27;

/// The cache's directory. Clones share it.
#[derive(Debug, Clone)]
pub struct DiskImages {
    dir: PathBuf,
}

/// A disk that is there, raw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedDisk {
    /// Of what was fetched, as its publisher has it.
    pub digest: Digest,
    pub path: PathBuf,
    /// What a guest sees of it.
    pub size: Bytes,
    /// What it takes of the cache's disk.
    pub allocated: Bytes,
    pub url: String,
    pub fetched_unix: u64,
    pub last_used_unix: u64,
}

/// A download under way, or one that was cut short.
#[derive(Debug, Clone)]
pub struct Partial {
    pub path: PathBuf,
    record: PathBuf,
}

/// What says whether the rest of it can be asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartialRecord {
    pub url: String,
    #[serde(default)]
    pub validator: Option<String>,
    #[serde(default)]
    pub total: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    url: String,
    sha256: Digest,
    #[serde(default)]
    sha512: Option<String>,
    size: Bytes,
    fetched_unix: u64,
}

/// What something fetched has proved to be.
#[derive(Debug, Clone)]
pub struct Fetched {
    pub path: PathBuf,
    pub url: String,
    pub digest: Digest,
    pub checksum: Checksum,
}

impl DiskImages {
    /// Makes the directory and removes what a crash has left. Another agent
    /// may share it, so only what is old enough is a leftover.
    pub fn open(cache: &Path) -> Result<Self, DiskImageError> {
        let dir = cache.join("disk-images");
        let this = Self { dir };
        let partial = this.partial_dir();
        fs::create_dir_all(&partial).map_err(io_error("make", &partial))?;
        for (dir, keep) in [(&partial, false), (&this.dir, true)] {
            let Ok(entries) = fs::read_dir(dir) else { continue };
            for path in entries.flatten().map(|entry| entry.path()) {
                let whole = ["img", "json"].iter().all(|kind| path.with_extension(kind).exists());
                let kept = path.is_dir() || (keep && whole);
                if !kept && is_old(&path) {
                    tracing::info!(path = %path.display(), "removing what a download has left");
                    let _ = fs::remove_file(&path);
                }
            }
        }
        Ok(this)
    }

    /// Where downloads are on their way.
    pub fn partial_dir(&self) -> PathBuf {
        self.dir.join("partial")
    }

    /// Where a download of this URL goes on, or begins. What is to come of it
    /// counts, too: a URL may have another content tomorrow.
    pub fn partial(&self, url: &str, expected: Option<&Checksum>) -> Partial {
        let mut hash = Sha256::new();
        hash.update(url);
        hash.update(expected.map(Checksum::to_string).unwrap_or_default());
        let key = Digest::from_sha256(hash.finalize().into()).hex();
        let path = self.partial_dir().join(format!("{}.part", &key[..32]));
        Partial { record: path.with_extension("json"), path }
    }

    /// The disk that is known by this checksum. It counts as used now.
    pub fn find(&self, wanted: &Checksum) -> Option<CachedDisk> {
        let found = match wanted {
            Checksum::Sha256(bytes) => self.read(&Digest::from_sha256(*bytes).hex()),
            Checksum::Sha512(_) => self
                .records()
                .find(|(record, _)| record.sha512.as_deref() == Some(wanted.hex().as_str())),
        };
        let (_, disk) = found?;
        // That it was used is of no use to who has no disk.
        let now = File::open(&disk.path).and_then(|file| file.set_modified(SystemTime::now()));
        if let Err(error) = now {
            tracing::warn!(path = %disk.path.display(), %error, "its use is not noted");
        }
        Some(disk)
    }

    pub fn list(&self) -> Vec<CachedDisk> {
        let mut disks: Vec<CachedDisk> = self.records().map(|(_, disk)| disk).collect();
        disks.sort_by(|a, b| a.url.cmp(&b.url).then(a.digest.cmp(&b.digest)));
        disks
    }

    /// All of them, as the cache's limits are kept.
    pub fn inventory(&self) -> Inventory {
        let mut found = Inventory::default();
        for disk in self.list() {
            let parts = self.files(&disk.digest);
            found.sizes.insert(parts[0].clone(), disk.allocated);
            found.sizes.insert(parts[1].clone(), Bytes::kib(4));
            found.entries.push(CacheEntry {
                kind: CacheKind::DiskImage,
                id: disk.digest.hex(),
                name: disk.url.rsplit('/').next().unwrap_or(&disk.url).to_owned(),
                parts: parts.into(),
                last_used: disk.last_used_unix,
                uses: Vec::new(),
            });
        }
        let partials = fs::read_dir(self.partial_dir()).into_iter().flatten().flatten();
        for path in partials.map(|entry| entry.path()) {
            let (true, Ok(metadata)) =
                (path.extension().is_some_and(|kind| kind == "part"), fs::metadata(&path))
            else {
                continue;
            };
            let id = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let mut entry = partial(&id, &path, modified_unix(&metadata), is_locked(&path));
            entry.parts.push(path.with_extension("json"));
            found.sizes.insert(path, allocated(&metadata));
            found.entries.push(entry);
        }
        found
    }

    /// The files of a disk, of which the first is the largest.
    pub fn files(&self, digest: &Digest) -> [PathBuf; 2] {
        [self.place(&digest.hex(), "img"), self.place(&digest.hex(), "json")]
    }

    pub fn remove(&self, digest: &Digest) -> io::Result<()> {
        let [disk, record] = self.files(digest);
        // Without its record it is none, whatever happens next.
        for path in [record, disk] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Unpacks what was fetched and verified, and keeps it. `fetched` stays.
    /// Blocking, and as long as the disk is slow.
    pub fn keep(
        &self,
        fetched: &Fetched,
        watch: &dyn ImportWatch,
    ) -> Result<CachedDisk, DiskImageError> {
        let hex = fetched.digest.hex();
        let target = self.place(&hex, "img");
        fail_point(Point::DiskFetchVerified);
        let unpacked = self.place(&hex, "unpacked");
        let made = match decompress(&fetched.path, &unpacked, watch)? {
            false => make(&fetched.path, &target, watch),
            true => {
                let made = match inspect(&unpacked)?.format {
                    ImageFormat::Raw => fs::rename(&unpacked, &target)
                        .map_err(|error| write_error("finish", &target, error)),
                    ImageFormat::Qcow2 => make(&unpacked, &target, watch),
                };
                // Of no use to anybody, also where it was no disk.
                let _ = fs::remove_file(&unpacked);
                made
            }
        };
        made?;
        fail_point(Point::DiskFetchUnpacked);
        let size = inspect(&target)?.virtual_size;
        let record = Record {
            url: fetched.url.clone(),
            sha256: fetched.digest,
            sha512: match fetched.checksum {
                Checksum::Sha256(_) => None,
                Checksum::Sha512(_) => Some(fetched.checksum.hex()),
            },
            size,
            fetched_unix: unix_now(),
        };
        let path = self.place(&hex, "json");
        write_json(&path, &record)?;
        fail_point(Point::DiskFetchRecorded);
        let damaged = || invalid(&path, "cannot be read again".to_owned());
        self.read(&hex).map(|(_, disk)| disk).ok_or_else(damaged)
    }

    fn place(&self, hex: &str, kind: &str) -> PathBuf {
        self.dir.join(format!("{hex}.{kind}"))
    }

    fn records(&self) -> impl Iterator<Item = (Record, CachedDisk)> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        entries.filter_map(|entry| {
            let path = entry.path();
            let hex = path.file_stem()?.to_str()?;
            (path.extension()? == "json").then(|| self.read(hex)).flatten()
        })
    }

    fn read(&self, hex: &str) -> Option<(Record, CachedDisk)> {
        use std::os::unix::fs::MetadataExt;
        let text = fs::read(self.place(hex, "json")).ok()?;
        let record: Record = serde_json::from_slice(&text).ok()?;
        let path = self.place(hex, "img");
        let metadata = fs::metadata(&path).ok()?;
        let disk = CachedDisk {
            digest: record.sha256,
            path,
            size: record.size,
            // stat(2): of 512 bytes, whatever the file system's are.
            allocated: Bytes(metadata.blocks().saturating_mul(512)),
            url: record.url.clone(),
            fetched_unix: record.fetched_unix,
            last_used_unix: u64::try_from(metadata.mtime()).unwrap_or(0),
        };
        (record.sha256.hex() == hex).then_some((record, disk))
    }
}

impl Partial {
    /// How much is here of the version that the record is about.
    pub fn resume(&self, url: &str) -> Option<(u64, PartialRecord)> {
        let record: PartialRecord = serde_json::from_slice(&fs::read(&self.record).ok()?).ok()?;
        let length = fs::metadata(&self.path).ok()?.len();
        (record.url == url && record.validator.is_some() && length > 0).then_some((length, record))
    }

    /// Has it for this process alone, until the file is closed: several agents
    /// may share a cache. `None` when another one has it.
    pub fn lock(&self) -> io::Result<Option<File>> {
        use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
        let mut options = fs::OpenOptions::new();
        let options = options.write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(&self.path)?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(None);
        }
        // Whoever had it may have removed it just before.
        let named = fs::metadata(&self.path).map(|named| (named.dev(), named.ino())).ok();
        let held = file.metadata()?;
        Ok((named == Some((held.dev(), held.ino()))).then_some(file))
    }

    /// Of one that nothing has come for nothing is left.
    pub fn forget_empty(&self) {
        if fs::metadata(&self.path).is_ok_and(|metadata| metadata.len() == 0) {
            self.remove();
        }
    }

    pub fn note(&self, record: &PartialRecord) -> Result<(), DiskImageError> {
        write_json(&self.record, record)
    }

    pub fn remove(&self) {
        let _ = fs::remove_file(&self.path);
        let _ = fs::remove_file(&self.record);
    }
}

fn make(source: &Path, target: &Path, watch: &dyn ImportWatch) -> Result<(), DiskImageError> {
    let info = inspect(source)?;
    copy_to(source, info.format, None, target, info.virtual_size, watch)
}

/// Whether it was compressed; then its content is at `target`, sparse.
fn decompress(
    source: &Path,
    target: &Path,
    watch: &dyn ImportWatch,
) -> Result<bool, DiskImageError> {
    let file = File::open(source).map_err(io_error("open", source))?;
    let total = file.metadata().map_err(io_error("look at", source))?.len();
    let mut input = BufReader::with_capacity(CHUNK, Counted { file, done: 0, total, watch });
    let head = input.fill_buf().map_err(io_error("read", source))?;
    let mut reader: Box<dyn Read + '_> = if head.starts_with(&[0x1f, 0x8b, 0x08]) {
        Box::new(flate2::bufread::MultiGzDecoder::new(input))
    } else if head.starts_with(b"\xfd7zXZ\0") {
        let stream =
            liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, liblzma::stream::CONCATENATED)
                .map_err(|error| invalid(source, format!("is no xz: {error}")))?;
        Box::new(liblzma::bufread::XzDecoder::new_stream(input, stream))
    } else if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let mut decoder =
            zstd::stream::read::Decoder::with_buffer(input).map_err(io_error("read", source))?;
        decoder.window_log_max(ZSTD_WINDOW_LOG).map_err(io_error("read", source))?;
        Box::new(decoder)
    } else {
        return Ok(false);
    };
    let fresh = Fresh::create(target)?;
    let mut chunk = vec![0; CHUNK];
    let mut at = 0;
    loop {
        let read = fill(&mut *reader, &mut chunk)
            .map_err(|error| invalid(source, format!("cannot be unpacked: {error}")))?;
        if read == 0 {
            break;
        }
        if at + read as u64 > LARGEST {
            return Err(invalid(source, format!("is more than {} unpacked", Bytes(LARGEST))));
        }
        fresh.write(&chunk[..read], at)?;
        at += read as u64;
        if watch.cancelled() {
            return Err(DiskImageError::Cancelled);
        }
    }
    fresh.grow(at)?;
    drop(reader);
    fresh.keep()?;
    Ok(true)
}

/// Tells how much of a file has been read.
struct Counted<'a> {
    file: File,
    done: u64,
    total: u64,
    watch: &'a dyn ImportWatch,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.done += read as u64;
        let (done, total) = (Bytes(self.done), Bytes(self.total));
        self.watch.progress(ImportProgress { step: ImportStep::Decompressing, done, total });
        Ok(read)
    }
}

fn fill(reader: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), DiskImageError> {
    let text = serde_json::to_vec(value).map_err(io::Error::other);
    let fresh = path.with_extension("json.new");
    text.and_then(|text| {
        fs::write(&fresh, text)?;
        File::open(&fresh)?.sync_all()?;
        fs::rename(&fresh, path)
    })
    .map_err(|error| write_error("write", path, error))
}

fn is_old(path: &Path) -> bool {
    let modified = fs::metadata(path).and_then(|metadata| metadata.modified());
    modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > PARTIAL))
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::watch::Unwatched;

    /// Four blocks, of which the second and third are zeros.
    fn disk() -> Vec<u8> {
        let mut disk = vec![0; 16 << 10];
        disk[..4096].fill(7);
        disk[12 << 10..].fill(9);
        disk
    }

    fn fetched(dir: &Path, name: &str, bytes: &[u8]) -> Fetched {
        let path = dir.join(name);
        fs::write(&path, bytes).unwrap();
        let mut hasher = super::super::checksum::Hasher::for_expected(None);
        hasher.update(bytes);
        let (digest, checksum) = hasher.finish();
        Fetched { path, url: format!("https://example.org/{name}"), digest, checksum }
    }

    #[test]
    fn whatever_it_is_packed_in_a_raw_disk_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let images = DiskImages::open(dir.path()).unwrap();
        let raw = disk();
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(&raw).unwrap();
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(&raw).unwrap();
        let zst = zstd::encode_all(raw.as_slice(), 1).unwrap();
        let all = [
            ("a.img", raw.clone()),
            ("b.img.gz", gz.finish().unwrap()),
            ("c.img.xz", xz.finish().unwrap()),
            ("d.img.zst", zst),
        ];
        for (name, bytes) in &all {
            let fetched = fetched(dir.path(), name, bytes);
            assert_eq!(images.find(&fetched.checksum), None);
            let kept = images.keep(&fetched, &Unwatched).unwrap();
            assert_eq!(fs::read(&kept.path).unwrap(), raw, "{name}");
            assert_eq!((kept.size, kept.digest), (Bytes(16 << 10), fetched.digest));
            assert!(kept.allocated <= Bytes(8 << 10), "{name} has no holes");
            assert_eq!(images.find(&fetched.checksum).unwrap().path, kept.path);
            let copy = dir.path().join("vm.img");
            super::super::clone_to(&kept.path, &copy, Bytes(32 << 10), &Unwatched).unwrap();
            let bytes = fs::read(&copy).unwrap();
            assert!(bytes.len() == 32 << 10 && bytes.starts_with(&raw), "{name}");
        }
        assert_eq!(images.list().len(), all.len());
        let left: Vec<_> = fs::read_dir(dir.path().join("disk-images"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.ends_with(".img") && !name.ends_with(".json"))
            .collect();
        assert_eq!(left, ["partial"]);
        let first = images.list()[0].digest;
        images.remove(&first).unwrap();
        images.remove(&first).unwrap();
        assert_eq!(images.list().len(), all.len() - 1);
    }

    #[test]
    fn what_is_packed_badly_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let images = DiskImages::open(dir.path()).unwrap();
        let zst = zstd::encode_all(disk().as_slice(), 1).unwrap();
        for (name, bytes, word) in [
            ("half.zst", &zst[..zst.len() / 2], "unpacked"),
            ("bad.xz", &b"\xfd7zXZ\0garbage here"[..], "unpacked"),
            ("text.img", &b"no disk at all\n"[..], "512"),
        ] {
            let fetched = fetched(dir.path(), name, bytes);
            let error = images.keep(&fetched, &Unwatched).unwrap_err();
            assert!(error.to_string().contains(word), "{name}: {error}");
            assert_eq!(images.find(&fetched.checksum), None);
        }
        let left = fs::read_dir(dir.path().join("disk-images")).unwrap().count();
        assert_eq!(left, 1, "partial alone");
    }

    #[test]
    fn a_download_goes_on_where_its_version_is_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let images = DiskImages::open(dir.path()).unwrap();
        let url = "https://example.org/a.img";
        let partial = images.partial(url, None);
        let other = images.partial(url, Some(&Checksum::Sha256([1; 32])));
        assert_ne!(partial.path, other.path);
        assert_eq!(partial.resume(url), None);
        fs::write(&partial.path, b"half").unwrap();
        let mut record = PartialRecord { url: url.into(), validator: None, total: Some(8) };
        partial.note(&record).unwrap();
        assert_eq!(partial.resume(url), None, "nothing tells its version");
        record.validator = Some("\"etag\"".into());
        partial.note(&record).unwrap();
        assert_eq!(partial.resume(url), Some((4, record)));
        assert_eq!(partial.resume("https://example.org/b.img"), None);
        partial.remove();
        assert_eq!(partial.resume(url), None);
    }
}
