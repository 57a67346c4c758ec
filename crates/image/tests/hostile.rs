//! What must be refused: one sentence that names the thing, and nothing left.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "test code: a panic is a failure"
)]

mod support;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use inn_image::{ImageError, ImageStore, ImportProgress, ImportWatch, Unwatched};
use inn_units::{Bytes, MIB};
use support::{Cache, Tar, digest, host_architecture, layout, layout_of, request};
use tar::EntryType;

fn refused(layer: Vec<u8>, parts: &[&str]) {
    let sentence = Cache::new().refusal(layout(&[layer]).path());
    for part in parts {
        assert!(sentence.contains(part), "{part:?} is not in {sentence:?}");
    }
}

#[test]
fn names_and_links_that_lead_out_of_the_root() {
    refused(Tar::new().file("a/../../b", "").end(), &["`a/../../b`", "`..`", "layer 1"]);
    refused(Tar::new().file("/etc/passwd", "").end(), &["`/etc/passwd`", "absolute"]);
    refused(Tar::new().hard_link("x", "/etc/shadow").end(), &["`x`", "`/etc/shadow`", "absolute"]);
    refused(Tar::new().hard_link("x", "../etc/shadow").end(), &["`x`", "`../etc/shadow`"]);
    refused(Tar::new().hard_link("x", "gone").end(), &["`x`", "`gone`", "not there"]);
    refused(Tar::new().dir("d").hard_link("x", "d").end(), &["`x`", "directory"]);
    refused(Tar::new().file(".wh...", "").end(), &["`.wh...`", "whiteout"]);
    refused(Tar::new().pax(&[("path", b"a\0b")]).file("x", "").end(), &["NUL"]);
    let long = "n".repeat(256);
    refused(Tar::new().pax(&[("path", long.as_bytes())]).file("x", "").end(), &["255 bytes"]);
    let deep = "d/".repeat(2100);
    refused(Tar::new().pax(&[("path", deep.as_bytes())]).dir("x").end(), &["4,096 bytes"]);
    let deep = "d/".repeat(1500);
    refused(Tar::new().pax(&[("path", deep.as_bytes())]).dir("x").end(), &["directories deep"]);
}

#[test]
fn damaged_tars() {
    let good = Tar::new().file("a", &"x".repeat(2000)).end();
    refused(good[..1000].to_vec(), &["layer 1", "truncated"]);
    refused(vec![b'z'; 5000], &["layer 1", "not a tar"]);
    refused(Vec::new(), &["layer 1", "truncated"]);
    let mut flipped = Tar::new().file("a", "").file("b", "").end();
    flipped[512 + 3] ^= 1;
    refused(flipped, &["checksum"]);
    let mut huge = Tar::new().file("big", "x");
    huge.0[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0x7f, 255, 255, 255, 255, 255, 255, 255]);
    refused(rechecked(huge.0), &["too large"]);
    let mut negative = Tar::new().file("bad", "x");
    negative.0[124..136].copy_from_slice(b"-0000000001\0");
    refused(rechecked(negative.0), &["size is not a number"]);
    refused(Tar::new().entry(EntryType::new(b'Q'), b"odd", b"", b"").end(), &["`odd`", "'Q'"]);
    refused(
        Tar::new().entry(EntryType::XHeader, b"pax", b"", b"999 path=x\n").file("x", "").end(),
        &["PAX"],
    );
    let mut long = Tar::new().entry(EntryType::GNULongName, b"long", b"", b"x");
    long.0[124..136].copy_from_slice(b"77777777777\0");
    refused(rechecked(long.0), &["long name", "limit"]);
    let value = vec![b'v'; 9000];
    refused(
        Tar::new().pax(&[("SCHILY.xattr.user.big", &value)]).file("x", "").end(),
        &["`x`", "attributes"],
    );
    let lies = Tar::new()
        .pax(&[("GNU.sparse.size", b"10"), ("GNU.sparse.map", b"0,5,3,5")])
        .file("s", "0123456789");
    refused(lies.end(), &["`s`", "map"]);
}

/// With the first header's checksum made right again.
fn rechecked(mut tar: Vec<u8>) -> Vec<u8> {
    let mut header = tar::Header::from_byte_slice(&tar[..512]).clone();
    header.set_cksum();
    tar[..512].copy_from_slice(header.as_bytes());
    tar
}

#[test]
fn content_that_is_not_what_its_digest_says() {
    let tar = Tar::new().file("a", "1").end();
    let image = layout(std::slice::from_ref(&tar));
    let blob = image.path().join("blobs/sha256").join(digest(&tar).hex());
    let mut other = tar.clone();
    other[600] ^= 1;
    fs::write(&blob, &other).unwrap();
    let sentence = Cache::new().refusal(image.path());
    assert!(
        sentence.contains(&digest(&tar).to_string())
            && sentence.contains(&digest(&other).to_string()),
        "{sentence}"
    );
    fs::write(&blob, &tar[..700]).unwrap();
    assert!(Cache::new().refusal(image.path()).contains("truncated"));
    fs::write(&blob, [tar.as_slice(), b"more"].concat()).unwrap();
    assert!(Cache::new().refusal(image.path()).contains("longer"));
    fs::remove_file(&blob).unwrap();
    assert!(Cache::new().refusal(image.path()).contains("incomplete"));

    // The blob is what it says, but not what the configuration says.
    let sentence =
        Cache::new().refusal(layout_of(&[(gzip(&other), tar.clone())], host_architecture()).path());
    assert!(
        sentence.contains("content of layer 1") && sentence.contains(&digest(&tar).to_string()),
        "{sentence}"
    );

    let cache = Cache::new();
    let image = layout(&[tar]);
    let mut wanted = request(image.path());
    wanted.digest = Some(digest(b"another"));
    let error = cache.store.import(&wanted, &Unwatched).unwrap_err();
    assert!(matches!(error, ImageError::DigestMismatch { .. }), "{error}");
    cache.assert_nothing_made();
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn compressed_streams_that_break_or_explode() {
    let tar = Tar::new().file("a", &"x".repeat(100_000)).end();
    let whole = gzip(&tar);
    let cut = whole[..whole.len() - 20].to_vec();
    let sentence =
        Cache::new().refusal(layout_of(&[(cut, tar.clone())], host_architecture()).path());
    assert!(sentence.contains("layer 1") && sentence.contains("too early"), "{sentence}");
    let mut flipped = whole;
    let at = flipped.len() - 6;
    flipped[at] ^= 1;
    let sentence = Cache::new().refusal(layout_of(&[(flipped, tar)], host_architecture()).path());
    assert!(sentence.contains("layer 1") && sentence.contains("get it again"), "{sentence}");

    // Damage in the middle of a file is the layer's, not the disk's.
    let noise: String =
        (0..200_000u32).map(|i| char::from(b'a' + (i.wrapping_mul(i) % 23) as u8)).collect();
    let tar = Tar::new().file("a", &noise).end();
    let mut zeroed = zstd::encode_all(&tar[..], 3).unwrap();
    let middle = zeroed.len() / 2;
    zeroed[middle..middle + 8].fill(0xff);
    let sentence = Cache::new().refusal(layout_of(&[(zeroed, tar)], host_architecture()).path());
    assert!(sentence.contains("layer 1"), "{sentence}");

    // 3 GiB of zeros in some hundred KiB: stopped on the way.
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    let mut bomb = Tar::new().file("bomb", "");
    bomb.0[124..136].copy_from_slice(b"30000000000\0");
    encoder.write_all(&rechecked(bomb.0)).unwrap();
    let zeros = vec![0u8; 16 * MIB as usize];
    (0..192).for_each(|_| encoder.write_all(&zeros).unwrap());
    let bomb = encoder.finish().unwrap();
    let sentence =
        Cache::new().refusal(layout_of(&[(bomb, Vec::new())], host_architecture()).path());
    assert!(sentence.contains("layer 1") && sentence.contains("200 times"), "{sentence}");
}

#[test]
fn what_is_no_image_or_not_for_this_machine() {
    let dir = tempfile::tempdir().unwrap();
    let missing = Cache::new().refusal(&dir.path().join("nothing"));
    assert!(missing.contains("nothing") && missing.contains("not found"), "{missing}");
    assert!(Cache::new().refusal(dir.path()).contains("is not an image"));
    let text = dir.path().join("text");
    fs::write(&text, "just a text\n".repeat(100)).unwrap();
    let sentence = Cache::new().refusal(&text);
    assert!(sentence.contains("text") && sentence.contains("not a tar"), "{sentence}");
    let tar = dir.path().join("plain.tar");
    fs::write(&tar, Tar::new().file("a", "").end()).unwrap();
    assert!(Cache::new().refusal(&tar).contains("is not an image"));
    fs::write(&tar, &Tar::new().file("manifest.json", &"x".repeat(5000)).end()[..3000]).unwrap();
    assert!(Cache::new().refusal(&tar).contains("truncated"));

    let layer = Tar::new().file("a", "").end();
    let foreign = layout_of(&[(layer.clone(), layer.clone())], "riscv64");
    let sentence = Cache::new().refusal(foreign.path());
    assert!(sentence.contains("riscv64") && sentence.contains(host_architecture()), "{sentence}");

    let image = layout(&[layer]);
    fs::write(image.path().join("index.json"), "{").unwrap();
    assert!(Cache::new().refusal(image.path()).contains("malformed"));
    fs::write(image.path().join("index.json"), vec![b' '; 5 << 20]).unwrap();
    assert!(Cache::new().refusal(image.path()).contains("4 MiB"));
    fs::write(image.path().join("index.json"), r#"{"manifests":[]}"#).unwrap();
    assert!(Cache::new().refusal(image.path()).contains("without any image"));
}

/// Cancels after so many reports.
struct CancelAfter(AtomicU64);

impl ImportWatch for CancelAfter {
    fn progress(&self, _: ImportProgress) {}

    fn cancelled(&self) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_err()
    }
}

#[test]
fn a_cancelled_import_leaves_nothing_at_any_point() {
    // Large enough that it is asked for several times on the way.
    let noise: String =
        (0..60_000_000u32).map(|i| char::from(b'a' + (i.wrapping_mul(i) % 23) as u8)).collect();
    let image = layout(&[Tar::new().file("a", &noise).end(), Tar::new().file("b", "").end()]);
    let cache = Cache::new();
    for after in 0.. {
        match cache.store.import(&request(image.path()), &CancelAfter(AtomicU64::new(after))) {
            Err(ImageError::Cancelled) => cache.assert_nothing_made(),
            Err(other) => panic!("{other}"),
            Ok(_) => {
                assert!(after > 2);
                return;
            }
        }
    }
}

/// Set to the mount point for the test that runs inside.
const SMALL: &str = "INN_TEST_SMALL_FILE_SYSTEM";

#[test]
fn a_full_disk_is_said_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=4m none \"$1\" && exec \"$2\" --exact inside_a_small_file_system --ignored";
    let this = std::env::current_exe().unwrap();
    #[expect(
        clippy::disallowed_methods,
        reason = "a mount of the test's own needs a process of its own"
    )]
    let mut inside = std::process::Command::new("unshare");
    inside.args(["-m", "sh", "-c", script, "sh"]).arg(dir.path()).arg(&this).env(SMALL, dir.path());
    match inside.output() {
        Ok(out) if out.status.success() => {}
        Ok(out) if !rustix::process::geteuid().is_root() => {
            println!(
                "SKIPPED a_full_disk_is_said_and_leaves_nothing: only root can mount ({})",
                out.status
            );
        }
        Ok(out) => panic!(
            "{}{}",
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        ),
        Err(err) => println!("SKIPPED a_full_disk_is_said_and_leaves_nothing: unshare: {err}"),
    }
}

#[test]
#[ignore = "run by a_full_disk_is_said_and_leaves_nothing in a file system of 4 MiB"]
fn inside_a_small_file_system() {
    let root = std::env::var_os(SMALL).unwrap();
    let cache = Cache::at(tempfile::tempdir_in(root).unwrap());
    let noise: String =
        (0..9_000_000u32).map(|i| char::from(b'a' + (i.wrapping_mul(i) % 23) as u8)).collect();
    let tar = Tar::new().file("a", &noise).end();
    // The blob alone is too large, and that is known before it is copied.
    let image = layout(std::slice::from_ref(&tar));
    let error = cache.import(image.path()).unwrap_err();
    assert!(
        matches!(error, ImageError::DiskFull { needed: Some(_), free: Some(_), .. }),
        "{error}"
    );
    cache.assert_nothing_made();
    // The blob fits, what it unpacks to does not.
    let image = layout_of(&[(zstd::encode_all(&tar[..], 9).unwrap(), tar)], host_architecture());
    let error = cache.import(image.path()).unwrap_err();
    assert!(matches!(error, ImageError::DiskFull { needed: None, .. }), "{error}");
    assert!(error.to_string().contains(&cache.dir.path().display().to_string()), "{error}");
    cache.assert_nothing_made();
}

#[test]
fn scratch_disks_refuse_sizes_that_cannot_be() {
    let cache = Cache::new();
    let path = cache.dir.path().join("rw.img");
    for (size, part) in
        [(Bytes(0), "16MiB"), (Bytes(16 * MIB - 1), "16MiB"), (Bytes(u64::MAX), "too large")]
    {
        let sentence = cache.store.make_scratch_disk(&path, size).unwrap_err().to_string();
        assert!(sentence.contains(part), "{sentence}");
        assert!(!path.exists());
    }
    let nowhere = Path::new("/nonexistent/rw.img");
    let _ = cache.store.make_scratch_disk(nowhere, Bytes::mib(16)).unwrap_err();
    cache.assert_no_leftovers();
}

#[test]
fn a_store_that_cannot_be_made_names_the_path() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = ImageStore::open(&file.path().join("cache")).unwrap_err();
    assert!(error.to_string().contains(&file.path().display().to_string()));
}
