use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;

use super::*;
use crate::watch::Unwatched;

const MIB: u64 = 1 << 20;

/// `qemu-img`, which no one here wrote.
#[expect(clippy::disallowed_methods, reason = "a test asks another program for images")]
fn qemu_img(args: &[&str]) {
    let done = Command::new("qemu-img").args(args).output().expect("the package qemu-utils");
    assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// A disk with data, text that compresses, zeros and holes.
fn pattern(length: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(length).unwrap()];
    let mut state = 1u32;
    for (index, chunk) in bytes.chunks_mut(96 << 10).enumerate() {
        match index % 4 {
            0 => chunk.iter_mut().for_each(|byte| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *byte = state.to_be_bytes()[0];
            }),
            1 => chunk.iter_mut().zip(b"innkeeper ".iter().cycle()).for_each(|(b, c)| *b = *c),
            _ => {}
        }
    }
    bytes
}

struct Images {
    dir: tempfile::TempDir,
    raw: Vec<u8>,
}

impl Images {
    fn new(length: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let raw = pattern(length);
        fs::write(dir.path().join("raw"), &raw).unwrap();
        Self { dir, raw }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn convert(&self, name: &str, options: &[&str]) -> PathBuf {
        let (from, to) = (self.text("raw"), self.text(name));
        let mut args = vec!["convert", "-f", "raw", "-O", "qcow2"];
        args.extend_from_slice(options);
        args.extend([from.as_str(), to.as_str()]);
        qemu_img(&args);
        self.path(name)
    }

    fn copy(&self, source: &Path, format: ImageFormat, size: u64) -> Result<(), DiskImageError> {
        copy_to(source, format, None, &self.path("disk"), Bytes(size), &Unwatched)
    }

    /// Inspected and copied it is the disk that it was made from.
    fn is_the_disk(&self, source: &Path) {
        let info = inspect(source).unwrap();
        let length = self.raw.len() as u64;
        let expected = DiskInfo {
            format: ImageFormat::Qcow2,
            virtual_size: Bytes(length),
            architecture: None,
        };
        assert_eq!(info, expected, "{source:?}");
        self.copy(source, info.format, length + MIB).unwrap();
        let disk = fs::read(self.path("disk")).unwrap();
        assert!(disk[..self.raw.len()] == self.raw, "{source:?} differs");
        assert_eq!(disk.len() as u64, length + MIB);
        assert!(disk[self.raw.len()..].iter().all(|byte| *byte == 0), "grown by zeros");
        let stored = fs::metadata(self.path("disk")).unwrap().blocks() * 512;
        assert!(stored < length * 3 / 4, "{source:?}: {stored} bytes of {length} are stored");
    }

    /// Why neither a look nor a copy takes it; nothing is left of the attempt.
    fn refused(&self, source: &Path) -> String {
        let copied = self.copy(source, ImageFormat::Qcow2, 1 << 40).unwrap_err();
        assert!(!self.path("disk").exists() && !self.path("disk.new").exists());
        assert!(copied.to_string().contains(source.to_str().unwrap()), "{copied}");
        match inspect(source) {
            Err(error) => error.to_string(),
            Ok(info) => panic!("{source:?} passes for {info:?}, and its copy: {copied}"),
        }
    }

    fn patched(&self, of: &Path, at: usize, bytes: &[u8]) -> PathBuf {
        let mut image = fs::read(of).unwrap();
        image[at..at + bytes.len()].copy_from_slice(bytes);
        let path = self.path("patched");
        fs::write(&path, image).unwrap();
        path
    }
}

fn u64_at(image: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(image[at..at + 8].try_into().unwrap())
}

fn at(offset: u64) -> usize {
    usize::try_from(offset).unwrap()
}

#[test]
fn what_qemu_makes_is_read_as_it_was_meant() {
    let images = Images::new(9 * MIB + 512);
    for (name, options) in [
        ("plain", &[][..]),
        ("version2", &["-o", "compat=0.10"][..]),
        ("deflate", &["-c"][..]),
        ("deflate2", &["-c", "-o", "compat=0.10"][..]),
        ("zstd", &["-c", "-o", "compression_type=zstd"][..]),
        ("large", &["-o", "cluster_size=2M"][..]),
        ("small", &["-o", "cluster_size=512"][..]),
        ("small-deflate", &["-c", "-o", "cluster_size=512"][..]),
        ("large-zstd", &["-c", "-o", "cluster_size=2M,compression_type=zstd"][..]),
        ("lazy", &["-o", "lazy_refcounts=on"][..]),
        ("allocated", &["-o", "preallocation=metadata"][..]),
    ] {
        images.is_the_disk(&images.convert(name, options));
    }
}

#[test]
fn snapshots_inside_do_not_matter() {
    let images = Images::new(2 * MIB);
    let image = images.convert("snapshots", &[]);
    qemu_img(&["snapshot", "-c", "one", image.to_str().unwrap()]);
    images.is_the_disk(&image);
}

#[test]
fn an_empty_disk_is_all_holes() {
    let images = Images::new(MIB);
    let image = images.text("empty");
    qemu_img(&["create", "-q", "-f", "qcow2", &image, "64G"]);
    let info = inspect(Path::new(&image)).unwrap();
    assert_eq!(info.virtual_size, Bytes::gib(64));
    images.copy(Path::new(&image), info.format, 64 << 30).unwrap();
    let disk = fs::metadata(images.path("disk")).unwrap();
    assert_eq!((disk.len(), disk.blocks()), (64 << 30, 0));
    assert_eq!(disk.mode() & 0o777, 0o600);
}

#[test]
fn what_needs_another_file_or_is_unknown_is_refused_by_name() {
    let images = Images::new(MIB);
    let plain = images.convert("plain", &[]);
    let (raw, backed, data) = (images.text("raw"), images.text("backed"), images.text("data"));
    qemu_img(&["create", "-q", "-f", "qcow2", "-F", "raw", "-b", &raw, &backed]);
    assert!(images.refused(Path::new(&backed)).contains("backing file"));
    let external = images.text("external");
    let option = format!("data_file={data}");
    qemu_img(&["create", "-q", "-f", "qcow2", "-o", &option, &external, "1M"]);
    assert!(images.refused(Path::new(&external)).contains("in another file"));
    let extended = images.convert("extended", &["-o", "extended_l2=on,cluster_size=64k"]);
    assert!(images.refused(&extended).contains("extended L2"));
    for (offset, bytes, word) in [
        (4, &[0, 0, 0, 4][..], "version 4"),
        (20, &[0, 0, 0, 8], "impossible size"),
        (20, &[0, 0, 0, 22], "impossible size"),
        (24, &[0, 0, 0, 0, 0, 0, 0, 0], "is empty"),
        (24, &[0, 0, 0, 0, 0, 0, 2, 1], "whole sectors"),
        (24, &[0x7f, 0, 0, 0, 0, 0, 0, 0], "is the most"),
        (24, &[0, 0, 1, 0, 0, 0, 0, 0], "shorter than its disk"),
        (32, &[0, 0, 0, 2], "encrypted"),
        (36, &[0xff, 0xff, 0xff, 0xff], "too long"),
        (36, &[0, 0, 0, 0], "shorter than its disk"),
        (40, &[0, 0, 0, 0, 0, 0, 2, 0], "lies outside"),
        (40, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0], "lies outside"),
        (79, &[2], "corrupt"),
        (72, &[1], "unknown features"),
        (104, &[7], "unknown way 7"),
    ] {
        let why = images.refused(&images.patched(&plain, offset, bytes));
        assert!(why.contains(word), "{offset}: {why}");
    }
}

#[test]
fn tables_that_lie_are_refused() {
    let images = Images::new(4 * MIB);
    let plain = images.convert("plain", &[]);
    let image = fs::read(&plain).unwrap();
    let l1 = u64_at(&image, 40);
    let l2 = u64_at(&image, at(l1)) & 0x00ff_ffff_ffff_fe00;
    let first = image[at(l2)..at(l2) + 8].to_vec();
    let entries: Vec<u8> = first.iter().copied().cycle().take(8 * 64).collect();
    for (place, bytes, word) in [
        (l1, &(1u64 << 50).to_be_bytes()[..], "table lies outside"),
        (l1, &0x1_0200u64.to_be_bytes()[..], "table lies outside"),
        (l2, &(1u64 << 50).to_be_bytes()[..], "cluster lies outside"),
        (l2, &(0x1_0200u64).to_be_bytes()[..], "cluster lies outside"),
        (l2, &(1u64 << 62 | 1 << 50).to_be_bytes()[..], "compressed cluster lies outside"),
        (l2, &entries, "same data twice"),
    ] {
        let why = images.refused(&images.patched(&plain, at(place), bytes));
        assert!(why.contains(word), "{place:#x}: {why}");
    }
    // An L1 table that is its own L2 table: read as one, and found wanting or
    // empty, but never followed in a circle.
    let own = images.patched(&plain, at(l1), &l1.to_be_bytes());
    images.copy(&own, ImageFormat::Qcow2, 4 * MIB).unwrap();
    fs::remove_file(images.path("disk")).unwrap();

    // A compressed cluster that is none.
    let packed = (1u64 << 62 | l2).to_be_bytes();
    let broken = images.patched(&plain, at(l2), &packed);
    let error = images.copy(&broken, ImageFormat::Qcow2, 4 * MIB).unwrap_err();
    assert!(error.to_string().contains("cannot be unpacked"), "{error}");
}

#[test]
fn what_was_cut_off_is_refused() {
    let images = Images::new(4 * MIB);
    let whole = fs::read(images.convert("plain", &[])).unwrap();
    for length in [5, 60, 71, 103, 4096, 70_000, whole.len() / 2] {
        let path = images.path("cut");
        fs::write(&path, &whole[..length]).unwrap();
        let why = images.refused(&path);
        assert!(why.contains("damaged or cut off"), "{length}: {why}");
    }
}

#[test]
fn a_raw_disk_is_whole_sectors_of_no_known_format() {
    let images = Images::new(3 * MIB);
    let raw = images.path("raw");
    let expected =
        DiskInfo { format: ImageFormat::Raw, virtual_size: Bytes(3 * MIB), architecture: None };
    assert_eq!(inspect(&raw).unwrap(), expected);
    images.copy(&raw, ImageFormat::Raw, 5 * MIB).unwrap();
    let disk = fs::read(images.path("disk")).unwrap();
    assert!(disk[..images.raw.len()] == images.raw && disk.len() as u64 == 5 * MIB);
    assert!(fs::metadata(images.path("disk")).unwrap().blocks() * 512 < 2 * MIB, "sparse");

    for (bytes, word) in [
        (&b""[..], "is empty"),
        (b"this is no disk\n", "whole sectors"),
        (&[b"KDMV".as_slice(), &[0; 508]].concat(), "VMDK"),
        (&[b"\x1f\x8b\x08".as_slice(), &[0; 509]].concat(), "gzip"),
    ] {
        let path = images.path("odd");
        fs::write(&path, bytes).unwrap();
        let why = inspect(&path).unwrap_err().to_string();
        assert!(why.contains(word) && why.contains("odd"), "{why}");
    }
    let why = inspect(images.dir.path()).unwrap_err().to_string();
    assert!(why.contains("is a directory"), "{why}");
    let fifo = images.path("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    let why = inspect(&fifo).unwrap_err().to_string();
    assert!(why.contains("no ordinary file"), "{why}");
    let missing = inspect(&images.path("none")).unwrap_err();
    assert!(
        matches!(&missing, DiskImageError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    );
    let small = images.copy(&raw, ImageFormat::Raw, MIB).unwrap_err();
    assert!(small.to_string().contains("more than the disk of 1MiB"), "{small}");
}

#[test]
fn a_digest_is_of_the_file_as_it_is() {
    let images = Images::new(2 * MIB);
    let qcow2 = images.convert("qcow2", &["-c"]);
    for (path, format) in [(images.path("raw"), ImageFormat::Raw), (qcow2, ImageFormat::Qcow2)] {
        let digest = Digest::from_sha256(Sha256::digest(fs::read(&path).unwrap()).into());
        let target = images.path("disk");
        let copy = |digest: &Digest| {
            copy_to(&path, format, Some(digest), &target, Bytes(2 * MIB), &Unwatched)
        };
        copy(&digest).unwrap();
        assert!(fs::read(&target).unwrap() == images.raw);
        fs::remove_file(&target).unwrap();
        let error = copy(&Digest::from_sha256([7; 32])).unwrap_err();
        assert!(matches!(error, DiskImageError::DigestMismatch { .. }), "{error}");
        assert!(!target.exists() && !images.path("disk.new").exists());
    }
}

/// Cancels once something was copied.
#[derive(Default)]
struct Impatient(AtomicBool);

impl ImportWatch for Impatient {
    fn progress(&self, progress: ImportProgress) {
        assert!(progress.done <= progress.total, "{progress:?}");
        self.0.store(progress.done > Bytes(0), Ordering::Relaxed);
    }

    fn cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

#[test]
fn a_cancelled_copy_leaves_nothing() {
    let images = Images::new(2 * MIB);
    let qcow2 = images.convert("qcow2", &[]);
    for (path, format) in [(images.path("raw"), ImageFormat::Raw), (qcow2, ImageFormat::Qcow2)] {
        let (target, watch) = (images.path("disk"), Impatient::default());
        let error = copy_to(&path, format, None, &target, Bytes(2 * MIB), &watch).unwrap_err();
        assert!(matches!(error, DiskImageError::Cancelled), "{error}");
        assert!(!target.exists() && !images.path("disk.new").exists());
    }
}

#[test]
fn a_full_disk_says_so() {
    // /dev/full answers every write with ENOSPC (full(4)).
    let error = io::Error::from(Errno::NOSPC);
    let error = write_error("write", Path::new("/srv/vms/disk.new"), error);
    assert!(
        error.to_string().starts_with("the file system of /srv/vms/disk.new is full"),
        "{error}"
    );
    let fresh = Fresh {
        file: OpenOptions::new().write(true).open("/dev/full").unwrap(),
        path: "/dev/full".into(),
        target: Path::new("/nowhere"),
        kept: true,
    };
    let error = fresh.write(&[1; 4096], 0).unwrap_err();
    assert!(matches!(error, DiskImageError::DiskFull { .. }), "{error}");
}

proptest! {
    #[test]
    fn arbitrary_headers_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..112)) {
        let mut head = b"QFI\xfb\0\0\0\x03".to_vec();
        head.extend_from_slice(&bytes);
        let _ = qcow2::Header::parse(&head);
    }

    /// Whatever is written over an image, it is refused or read, in bounds.
    #[test]
    fn arbitrary_damage_never_panics(
        at in 0usize..300_000,
        bytes in prop::collection::vec(any::<u8>(), 1..64),
    ) {
        use std::sync::OnceLock;
        static IMAGE: OnceLock<Vec<u8>> = OnceLock::new();
        let image = IMAGE.get_or_init(|| {
            let images = Images::new(MIB);
            fs::read(images.convert("qcow2", &["-c", "-o", "cluster_size=4k"])).unwrap()
        });
        let dir = tempfile::tempdir().unwrap();
        let (source, target) = (dir.path().join("image"), dir.path().join("disk"));
        let mut damaged = image.clone();
        let at = at % damaged.len();
        for (to, from) in damaged[at..].iter_mut().zip(&bytes) {
            *to = *from;
        }
        fs::write(&source, damaged).unwrap();
        let _ = inspect(&source);
        let size = Bytes(16 * MIB);
        let copied = copy_to(&source, ImageFormat::Qcow2, None, &target, size, &Unwatched);
        prop_assert_eq!(copied.is_ok(), target.exists());
    }
}
