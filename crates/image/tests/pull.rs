//! Layers that come from elsewhere: at the same time, interrupted, shared,
//! lied about; and disks that begin as copies of others.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "test code: a panic is a failure"
)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, SystemTime};

use inn_image::{
    ImageError, ImageRecord, ImageStore, ImportProgress, ImportWatch, LayerProgress, LayerSource,
    LayerState, PullRequest, Unwatched,
};
use support::debugfs::{assert_clean, available, read_tree};
use support::{Cache, Tar, digest, host_architecture, layout};

/// Longer than anything here takes on a machine that is busy.
const DEADLINE: Duration = Duration::from_secs(60);

/// A registry with one image: its layers by number, and what was asked of it.
#[derive(Debug, Default)]
struct Remote {
    layers: Vec<Vec<u8>>,
    /// Breaks off once when a layer has given so many bytes.
    breaks_at: Mutex<BTreeMap<usize, u64>>,
    /// Gives no more than these bytes until it is opened.
    gate: Gate,
    opened: Mutex<Vec<(usize, u64)>>,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
    stopped: AtomicBool,
}

#[derive(Debug)]
struct Gate {
    closed_at: AtomicU64,
    moved: Condvar,
    lock: Mutex<()>,
}

impl Default for Gate {
    fn default() -> Self {
        Self { closed_at: AtomicU64::new(u64::MAX), moved: Condvar::new(), lock: Mutex::default() }
    }
}

impl Gate {
    fn close_at(&self, bytes: u64) {
        self.closed_at.store(bytes, Ordering::SeqCst);
    }

    fn open(&self) {
        self.close_at(u64::MAX);
        self.moved.notify_all();
    }
}

#[derive(Debug, Clone)]
struct Source(Arc<Remote>);

struct Body {
    remote: Arc<Remote>,
    layer: usize,
    at: u64,
}

impl LayerSource for Source {
    fn open(&self, layer: usize, from: u64) -> Result<Box<dyn Read + Send>, ImageError> {
        self.0.opened.lock().unwrap().push((layer, from));
        let now = self.0.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.most_at_once.fetch_max(now, Ordering::SeqCst);
        Ok(Box::new(Body { remote: Arc::clone(&self.0), layer, at: from }))
    }

    fn is_remote(&self) -> bool {
        true
    }

    fn stop(&self) {
        self.0.stopped.store(true, Ordering::SeqCst);
        self.0.gate.moved.notify_all();
    }
}

impl Read for Body {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let gate = &self.remote.gate;
        let mut held = gate.lock.lock().unwrap();
        while self.at >= gate.closed_at.load(Ordering::SeqCst) {
            if self.remote.stopped.load(Ordering::SeqCst) {
                return Err(io::Error::other(ImageError::Cancelled));
            }
            let waited = gate.moved.wait_timeout(held, DEADLINE).unwrap();
            assert!(!waited.1.timed_out(), "the gate was never opened");
            held = waited.0;
        }
        drop(held);
        let mut breaks = self.remote.breaks_at.lock().unwrap();
        let mut end = self.remote.layers[self.layer].len();
        if let Some(&at) = breaks.get(&self.layer) {
            if self.at >= at {
                breaks.remove(&self.layer);
                return Err(io::Error::new(io::ErrorKind::ConnectionReset, "the line was cut"));
            }
            end = at as usize;
        }
        let closed = gate.closed_at.load(Ordering::SeqCst);
        let end = end.min(usize::try_from(closed).unwrap_or(usize::MAX));
        let rest = &self.remote.layers[self.layer][self.at as usize..end];
        let n = rest.len().min(into.len()).min(64 * 1024);
        into[..n].copy_from_slice(&rest[..n]);
        self.at += n as u64;
        Ok(n)
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.remote.at_once.fetch_sub(1, Ordering::SeqCst);
    }
}

/// An image of these tars, zstd where it says so, as a registry has it.
struct Image {
    remote: Arc<Remote>,
    manifest: Vec<u8>,
    config: Vec<u8>,
}

fn image(tars: &[Vec<u8>]) -> Image {
    let pairs: Vec<_> = tars.iter().map(|tar| (tar.clone(), tar.clone())).collect();
    image_of(&pairs)
}

fn image_of(layers: &[(Vec<u8>, Vec<u8>)]) -> Image {
    let ids: Vec<String> = layers.iter().map(|(_, tar)| format!("\"{}\"", digest(tar))).collect();
    let config = format!(
        r#"{{"architecture":"{}","os":"linux","config":{{"Cmd":["/bin/sh"]}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        host_architecture(),
        ids.join(",")
    )
    .into_bytes();
    let described = |kind: &str, bytes: &[u8]| {
        format!(
            r#"{{"mediaType":"application/vnd.oci.image.{kind}","digest":"{}","size":{}}}"#,
            digest(bytes),
            bytes.len()
        )
    };
    let list: Vec<String> =
        layers.iter().map(|(blob, _)| described("layer.v1.tar", blob)).collect();
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#,
        described("config.v1+json", &config),
        list.join(",")
    )
    .into_bytes();
    let layers = layers.iter().map(|(blob, _)| blob.clone()).collect();
    Image { remote: Arc::new(Remote { layers, ..Remote::default() }), manifest, config }
}

impl Image {
    fn request(&self, name: &str) -> PullRequest {
        PullRequest {
            name: name.parse().unwrap(),
            what: "registry.example/test".into(),
            manifest: self.manifest.clone(),
            config: self.config.clone(),
            source: Arc::new(Source(Arc::clone(&self.remote))),
        }
    }

    fn pull(&self, store: &ImageStore, name: &str) -> Result<ImageRecord, ImageError> {
        self.remote.stopped.store(false, Ordering::SeqCst);
        store.pull(self.request(name), &Unwatched)
    }

    fn opened(&self) -> Vec<(usize, u64)> {
        std::mem::take(&mut self.remote.opened.lock().unwrap())
    }
}

fn noise(len: usize, seed: u32) -> String {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        char::from(b'a' + (state % 23) as u8)
    };
    (0..len).map(|_| next()).collect()
}

/// Layers that replace, remove, link and leave holes, as builds do.
fn layers() -> Vec<Vec<u8>> {
    vec![
        Tar::new()
            .dir("etc")
            .dir("var")
            .file("etc/passwd", "root:x:0:0::/root:/bin/sh\n")
            .file("var/status", &noise(300_000, 1))
            .file("twice", &noise(50_000, 2))
            .file("twice", &noise(9_000, 3))
            .file("gone", &noise(20_000, 4))
            .hard_link("also-gone", "gone")
            .symlink("link", "etc")
            .end(),
        Tar::new()
            .file("var/status", &noise(400_000, 5))
            .file("link/added", "through a link")
            .file(".wh.gone", "")
            .file("more", &noise(70_000, 6))
            .end(),
        Tar::new()
            .file("var/status", &noise(10_000, 7))
            .dir("var/deep")
            .file("var/.wh..wh..opq", "")
            .file("var/deep/er", &noise(100_000, 8))
            .hard_link("hard", "more")
            .end(),
    ]
}

fn with(mut base: Vec<Vec<u8>>, top: Vec<u8>) -> Vec<Vec<u8>> {
    base.push(top);
    base
}

/// The disk that these layers give where no other one is.
fn from_scratch(tars: &[Vec<u8>]) -> Vec<u8> {
    let cache = Cache::new();
    fs::read(cache.import(layout(tars).path()).unwrap().root_disk).unwrap()
}

/// What a disk begins as shows in nothing: it is the same, byte for byte.
#[test]
fn a_disk_that_begins_as_a_copy_is_the_one_that_its_layers_give() {
    let all = layers();
    let cache = Cache::new();
    image(&all).pull(&cache.store, "first").unwrap();
    for (number, shared) in [(1, 2), (2, 3), (3, 1)] {
        let top = Tar::new()
            .file("var/status", &noise(5_000 * number, 9))
            .file("top", &noise(350_000, 10 + number as u32))
            .file(".wh.more", "")
            .end();
        let tars = with(all[..shared].to_vec(), top);
        let other = image(&tars);
        let record = other.pull(&cache.store, &format!("other-{number}")).unwrap();
        // Only the layer that is not here was fetched.
        assert_eq!(other.opened(), [(shared, 0)]);
        cache.assert_no_leftovers();
        let disk = fs::read(&record.root_disk).unwrap();
        // The same image elsewhere has the same identity and so the same bytes.
        let elsewhere = Cache::new();
        let scratch = image(&tars).pull(&elsewhere.store, "test").unwrap();
        assert_eq!(scratch.manifest, record.manifest);
        assert!(disk == fs::read(&scratch.root_disk).unwrap(), "copied from {shared} layers");
        if available("a_disk_that_begins_as_a_copy_is_the_one_that_its_layers_give") {
            assert_clean(&record.root_disk);
            let (copied, made) = (read_tree(&record.root_disk), read_tree(&scratch.root_disk));
            assert_eq!(copied, made);
            assert!(copied.contains_key("top") && !copied.contains_key("more"));
        }
    }
    assert_eq!(cache.files("journals").len(), 4);
}

#[test]
fn a_disk_is_copied_from_however_it_was_made() {
    let all = layers();
    let cache = Cache::new();
    // An imported one, then one that began as its copy.
    cache.import(layout(&all[..2]).path()).unwrap();
    let second = image(&all);
    second.pull(&cache.store, "second").unwrap();
    assert_eq!(second.opened(), [(2, 0)]);
    fs::remove_file(
        cache
            .dir
            .path()
            .join("journals")
            .join(cache.store.find("test").unwrap().unwrap().manifest.hex()),
    )
    .unwrap();
    let tars = with(all.clone(), Tar::new().file("last", "1").end());
    let third = image(&tars);
    let record = third.pull(&cache.store, "third").unwrap();
    assert_eq!(third.opened(), [(3, 0)]);
    let elsewhere = Cache::new();
    let scratch = third.pull(&elsewhere.store, "test").unwrap();
    assert!(fs::read(record.root_disk).unwrap() == fs::read(scratch.root_disk).unwrap());
}

#[test]
fn a_damaged_journal_and_a_missing_disk_cost_only_time() {
    let all = layers();
    let cache = Cache::new();
    let first = image(&all).pull(&cache.store, "first").unwrap();
    let journal = cache.files("journals").remove(0);
    let mut bytes = fs::read(&journal).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&journal, &bytes).unwrap();
    let tars = with(all.clone(), Tar::new().file("top", "1").end());
    let record = image(&tars).pull(&cache.store, "second").unwrap();
    let elsewhere = Cache::new();
    let scratch = image(&tars).pull(&elsewhere.store, "test").unwrap();
    assert!(fs::read(record.root_disk).unwrap() == fs::read(scratch.root_disk).unwrap());

    fs::remove_file(&first.root_disk).unwrap();
    let again = image(&all).pull(&cache.store, "first").unwrap();
    assert_eq!(again.root_disk, first.root_disk);
    // Journals go with their disks.
    for name in ["first", "second"] {
        cache.store.delete(&name.parse().unwrap(), &[]).unwrap();
    }
    assert!(cache.files("journals").is_empty() && cache.files("disks").is_empty());
    assert!(from_scratch(&all) != from_scratch(&tars));
}

#[test]
fn a_pull_that_was_cut_off_goes_on_where_it_was() {
    let tars =
        vec![Tar::new().file("a", &noise(900_000, 1)).end(), Tar::new().file("b", "2").end()];
    let wanted = image(&tars);
    wanted.remote.breaks_at.lock().unwrap().insert(0, 500_000);
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path()).unwrap();
    let error = wanted.pull(&store, "test").unwrap_err();
    assert!(matches!(error, ImageError::Remote { .. }), "{error}");
    assert!(error.to_string().contains("layer 1"), "{error}");
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("the line was cut"), "{source}");
    assert!(wanted.opened().contains(&(0, 0)));
    assert!(store.list().unwrap().is_empty());
    drop(store);

    // Another agent, after this one's death.
    let cache = Cache::at(dir);
    let record = wanted.pull(&cache.store, "test").unwrap();
    assert!(wanted.opened().contains(&(0, 500_000)));
    let elsewhere = Cache::new();
    let other = image(&tars).pull(&elsewhere.store, "test").unwrap();
    assert!(fs::read(record.root_disk).unwrap() == fs::read(other.root_disk).unwrap());
    assert!(cache.files("partial").is_empty());
    cache.assert_no_leftovers();
}

#[test]
fn a_damaged_part_is_fetched_anew() {
    let tars = vec![Tar::new().file("a", &noise(900_000, 1)).end()];
    let wanted = image(&tars);
    let cache = Cache::new();
    let partial = cache.dir.path().join("partial").join(digest(&tars[0]).hex());
    fs::write(&partial, vec![b'x'; 300_000]).unwrap();
    wanted.pull(&cache.store, "test").unwrap();
    assert_eq!(wanted.opened(), [(0, 300_000), (0, 0)]);
    assert!(!partial.exists());
}

#[test]
fn parts_that_nobody_goes_on_with_are_reaped() {
    let cache = Cache::new();
    let partial = cache.dir.path().join("partial");
    for (name, hours) in [("old", 25), ("young", 1)] {
        let file = fs::File::create(partial.join(name)).unwrap();
        let then = SystemTime::now() - Duration::from_secs(hours * 3600);
        file.set_modified(then).unwrap();
    }
    image(&layers()).pull(&cache.store, "test").unwrap();
    assert!(!partial.join("old").exists() && partial.join("young").exists());
}

#[test]
fn what_a_registry_lies_about_is_never_seen() {
    let tar = Tar::new().file("a", &noise(400_000, 1)).end();
    for (lie, parts) in [
        (&|bytes: &mut Vec<u8>| bytes[1000] ^= 1, &["has the digest", "layer 1"]),
        (&|bytes: &mut Vec<u8>| bytes.truncate(300_000), &["truncated", "layer 1"]),
        (&|bytes: &mut Vec<u8>| bytes.extend_from_slice(b"more"), &["longer", "layer 1"]),
        // No tar at all: the digest says it better than the parser.
        (&|bytes: &mut Vec<u8>| bytes[..2000].fill(b'z'), &["has the digest", "layer 1"]),
    ] as [(&dyn Fn(&mut Vec<u8>), &[&str; 2]); 4]
    {
        let honest = image(std::slice::from_ref(&tar));
        let mut lying = tar.clone();
        lie(&mut lying);
        let remote = Arc::new(Remote { layers: vec![lying], ..Remote::default() });
        let wanted = Image { remote, ..honest };
        let cache = Cache::new();
        let sentence = wanted.pull(&cache.store, "test").unwrap_err().to_string();
        for part in parts {
            assert!(sentence.contains(part), "{part:?} is not in {sentence:?}");
        }
        cache.assert_nothing_made();
        assert!(cache.files("partial").is_empty() && cache.files("journals").is_empty());
    }
    let wanted = image(&[tar]);
    let cache = Cache::new();
    let request = PullRequest { config: b"{}".to_vec(), ..wanted.request("test") };
    let error = cache.store.pull(request, &Unwatched).unwrap_err();
    assert!(matches!(error, ImageError::DigestMismatch { .. }), "{error}");
    assert!(wanted.opened().is_empty());
}

/// Follows the layers, and is asked whether to go on.
#[derive(Default)]
struct Follower {
    layers: Mutex<Vec<LayerProgress>>,
    moved: Condvar,
    cancelled: AtomicBool,
}

impl ImportWatch for Follower {
    fn progress(&self, _: ImportProgress) {}

    fn layers(&self, layers: &[LayerProgress]) {
        *self.layers.lock().unwrap() = layers.to_vec();
        self.moved.notify_all();
    }

    fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }
}

impl Follower {
    fn wait_for(&self, what: &str, seen: impl Fn(&[LayerProgress]) -> bool) {
        let layers = self.layers.lock().unwrap();
        let waited = self.moved.wait_timeout_while(layers, DEADLINE, |layers| !seen(layers));
        assert!(!waited.unwrap().1.timed_out(), "not seen: {what}");
    }
}

#[test]
fn layers_come_together_and_are_unpacked_while_they_come() {
    let tars: Vec<Vec<u8>> =
        (1..6).map(|n| Tar::new().file(&format!("{n}"), &noise(3_000_000, n)).end()).collect();
    let wanted = image(&tars);
    wanted.remote.gate.close_at(2_000_000);
    let cache = Cache::new();
    let follower = Follower::default();
    std::thread::scope(|scope| {
        let pull = scope.spawn(|| cache.store.pull(wanted.request("test"), &follower));
        follower.wait_for("the first is unpacked while it comes", |layers| {
            layers.first().is_some_and(|first| {
                first.state == LayerState::Arriving && first.unpacked.get() > 1_000_000
            })
        });
        follower.wait_for("three come", |layers| {
            layers.iter().filter(|layer| layer.arrived.get() == 2_000_000).count() == 3
        });
        // Nothing of it is to be seen before all is there.
        for below in ["disks", "records", "blobs/sha256", "journals"] {
            assert!(cache.files(below).is_empty(), "{below}");
        }
        wanted.remote.gate.open();
        pull.join().unwrap().unwrap();
    });
    assert_eq!(wanted.remote.most_at_once.load(Ordering::SeqCst), 3);
    follower
        .wait_for("all are done", |layers| layers.iter().all(|layer| layer.arrived == layer.size));
    assert_eq!(cache.files("blobs/sha256").len(), 7);
    assert!(cache.files("partial").is_empty());
}

#[test]
fn two_pulls_of_one_image_are_one_and_one_may_leave() {
    let tars = vec![Tar::new().file("a", &noise(3_000_000, 1)).end()];
    let wanted = image(&tars);
    wanted.remote.gate.close_at(1_000_000);
    let cache = Cache::new();
    let (stays, leaves) = (Follower::default(), Follower::default());
    let came = |layers: &[LayerProgress]| layers.iter().any(|l| l.arrived.get() == 1_000_000);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| cache.store.pull(wanted.request("leaves"), &leaves));
        leaves.wait_for("the first one's progress", came);
        let second = scope.spawn(|| cache.store.pull(wanted.request("stays"), &stays));
        stays.wait_for("the same progress", came);
        leaves.cancelled.store(true, Ordering::SeqCst);
        let error = first.join().unwrap().unwrap_err();
        assert!(matches!(error, ImageError::Cancelled), "{error}");
        assert!(!wanted.remote.stopped.load(Ordering::SeqCst));
        wanted.remote.gate.open();
        second.join().unwrap().unwrap();
    });
    assert_eq!(wanted.opened(), [(0, 0)]);
    assert!(cache.store.find("stays").unwrap().is_some());
    assert!(cache.store.find("leaves").unwrap().is_none());
    cache.assert_no_leftovers();
}

#[test]
fn the_last_one_to_leave_ends_the_pull_and_what_came_stays_for_the_next() {
    let tars = vec![Tar::new().file("a", &noise(3_000_000, 1)).end()];
    let wanted = image(&tars);
    wanted.remote.gate.close_at(1_000_000);
    let cache = Cache::new();
    let follower = Follower::default();
    std::thread::scope(|scope| {
        let pull = scope.spawn(|| cache.store.pull(wanted.request("test"), &follower));
        follower.wait_for("a part", |l| l.iter().any(|l| l.arrived.get() == 1_000_000));
        follower.cancelled.store(true, Ordering::SeqCst);
        assert!(matches!(pull.join().unwrap(), Err(ImageError::Cancelled)));
    });
    assert!(wanted.remote.stopped.load(Ordering::SeqCst), "its source was told");
    cache.assert_nothing_made();
    wanted.remote.gate.open();
    wanted.opened();
    wanted.pull(&cache.store, "test").unwrap();
    assert_eq!(wanted.opened(), [(0, 1_000_000)]);
}

#[test]
fn two_images_with_a_layer_in_common_fetch_it_once() {
    let base = Tar::new().file("base", &noise(3_000_000, 1)).end();
    let images: Vec<Image> = (0..2)
        .map(|n| image(&[base.clone(), Tar::new().file("own", &n.to_string()).end()]))
        .collect();
    images[0].remote.gate.close_at(1_000_000);
    let cache = Cache::new();
    let followers = [Follower::default(), Follower::default()];
    std::thread::scope(|scope| {
        let first = scope.spawn(|| cache.store.pull(images[0].request("one"), &followers[0]));
        followers[0].wait_for("the first has it", |l| {
            l.first().is_some_and(|l| l.arrived.get() == 1_000_000)
        });
        let second = scope.spawn(|| cache.store.pull(images[1].request("two"), &followers[1]));
        followers[1].wait_for("the second waits for it alone", |l| {
            l.get(1).is_some_and(|own| own.arrived == own.size)
        });
        images[0].remote.gate.open();
        first.join().unwrap().unwrap();
        second.join().unwrap().unwrap();
    });
    assert!(images[1].opened().iter().all(|opened| *opened == (1, 0)));
    assert_eq!(cache.store.list().unwrap().len(), 2);
    cache.assert_no_leftovers();
}

#[test]
fn an_image_may_have_one_layer_twice_and_none_at_all() {
    let tar = Tar::new().file("a", "1").end();
    let cache = Cache::new();
    image(&[tar.clone(), Tar::new().file("a", "2").end(), tar])
        .pull(&cache.store, "twice")
        .unwrap();
    cache.assert_no_leftovers();
    image(&[]).pull(&cache.store, "empty").unwrap();
    let packed = Tar::new().file("z", &noise(500_000, 3)).end();
    let blob = zstd::encode_all(&packed[..], 1).unwrap();
    image_of(&[(blob, packed)]).pull(&cache.store, "packed").unwrap();
    assert_eq!(cache.store.list().unwrap().len(), 3);
    assert!(cache.files("partial").is_empty());
}
