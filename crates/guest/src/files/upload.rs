//! Uploads that go on after their stream broke off.
//!
//! ```text
//!        claim                  all there, sum right
//!  none ───────▶ being written ─────────────────────▶ in place
//!                 │      ▲ │ mismatch, disk full, refused: gone
//!     host gone   ▼      │ claim (another stream, the same path and id)
//!                kept ───┴──▶ dropped: by request, by time, by too many others
//! ```
//!
//! The part lies beside its target, under a name that tells both; its length
//! is how far the upload has come. One that an earlier life of this program
//! left is found by its name when its host comes back, and only then: to look
//! for those on the whole disk would cost more than they take.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use inn_guest_proto::wire::{FailureKind, Transferred, UploadState, WriteFile};
use inn_guest_proto::{BlockSum, MAX_DATA};
use tokio::task::{spawn_blocking, spawn_local};

use super::job::In;
use super::meta;
use super::read::sum_up;
use super::write::{Problem, Target, attributes, receive_sparse, room_for};
use crate::os::files;
use crate::refusal::{OrRefuse, Refusal};
use crate::stream::Gone;

/// Bytes of an upload's id.
const ID_BYTES: usize = 8;

/// How long a part waits for its host.
const KEPT_FOR: Duration = Duration::from_secs(15 * 60);

/// Parts that wait at once; the oldest of more is dropped.
const MAX_KEPT: usize = 64;

/// How long a stream waits for a former one of the same upload to settle: it
/// has lost its host, and so ends with its next piece.
const SETTLES: Duration = Duration::from_secs(20);

/// Bytes of the target's name in its part's: a name has 255 at most, and the
/// rest takes 28.
const SHOWN_NAME: usize = 220;

pub(super) fn write(
    request: &WriteFile,
    target: &Target,
    input: &mut In,
) -> Result<Transferred, Problem> {
    let path = part_path(target, &request.upload)?;
    let mut claim = Claim::take(&path, &input.over())?;
    let written = write_part(request, target, &path, input);
    // Whatever else went wrong would go wrong again.
    claim.keep = matches!(written, Err(Problem::Gone));
    written
}

fn write_part(
    request: &WriteFile,
    target: &Target,
    path: &Path,
    input: &mut In,
) -> Result<Transferred, Problem> {
    let mut file = files::open_private(path)?;
    let meta = file.metadata()?;
    let begun = meta.len().min(request.length.unwrap_or(u64::MAX));
    if begun < meta.len() {
        file.set_len(begun)?;
    }
    if let Some(length) = request.length
        && !request.sparse
    {
        room_for(length.saturating_sub(files::allocated(&meta)), target.dir(), &request.path)?;
    }
    input.begin_at(begun)?;
    let mut passed = BlockSum::default();
    passed.skip(begun);
    let (arrived, length, whole) = if begun == 0 {
        let (arrived, length) = receive_sparse(request, input, &mut file, &mut [&mut passed])?;
        (arrived, length, passed)
    } else {
        let mut whole = BlockSum::default();
        add_kept(&mut whole, &mut file, begun, &input.over())?;
        let sums = &mut [&mut passed, &mut whole];
        let (arrived, length) = receive_sparse(request, input, &mut file, sums)?;
        (arrived, length, whole)
    };
    attributes(request, Some(target)).apply(&file)?;
    drop(file);
    fs::rename(path, &target.path)?;
    Ok(sum_up(whole, arrived, length))
}

/// The first `end` bytes of what is there.
fn add_kept(
    sum: &mut BlockSum,
    file: &mut File,
    end: u64,
    over: &AtomicBool,
) -> Result<(), Problem> {
    while sum.position() < end && !over.load(Ordering::Acquire) {
        let at = sum.position();
        let data = files::next_data(file, at)?.unwrap_or(end).min(end);
        sum.skip(data - at);
        let until = files::next_hole(file, data)?.min(end);
        file.seek(SeekFrom::Start(data))?;
        while sum.position() < until && !over.load(Ordering::Acquire) {
            let want = usize::try_from(until - sum.position()).unwrap_or(MAX_DATA).min(MAX_DATA);
            let mut buffer = BytesMut::with_capacity(want);
            if files::read_some(file, &mut buffer, want)? == 0 {
                // Somebody has cut it.
                return Err(Refusal::new(FailureKind::Changed, "read what was kept").into());
            }
            sum.add(&buffer);
        }
    }
    if over.load(Ordering::Acquire) { Err(Gone.into()) } else { Ok(()) }
}

pub(super) fn state(path: &str, id: &Bytes) -> Result<UploadState, Refusal> {
    let target = Target::find(meta::absolute(path)?).or_refuse(|| format!("look at {path}"))?;
    let part = part_path(&target, id)?;
    let length = fs::symlink_metadata(&part).map_or(0, |meta| meta.len());
    if length > 0 {
        parts().remember(&part);
    }
    Ok(UploadState { offset: length })
}

pub(super) fn drop_part(path: &str, id: &Bytes, over: &Arc<AtomicBool>) -> Result<(), Refusal> {
    let target = Target::find(meta::absolute(path)?).or_refuse(|| format!("look at {path}"))?;
    // Settles as one that is not kept.
    Claim::take(&part_path(&target, id)?, over).map(drop)
}

/// `.NAME.HEX.inn-part`
fn part_path(target: &Target, id: &Bytes) -> Result<PathBuf, Refusal> {
    if id.len() != ID_BYTES {
        return Err(Refusal::invalid(format!("use an upload's id that is not {ID_BYTES} bytes")));
    }
    let name = target.path.file_name().unwrap_or_default().to_string_lossy();
    let mut part = String::from(".");
    part.extend(name.chars().scan(SHOWN_NAME, |room, letter| {
        *room = room.checked_sub(letter.len_utf8())?;
        Some(letter)
    }));
    part.push('.');
    for byte in id {
        let _a_string_grows = write!(part, "{byte:02x}");
    }
    part.push_str(".inn-part");
    Ok(target.dir().join(part))
}

/// Which parts there are, for all jobs.
struct Parts {
    /// Being written, and whether the stream that does so is over.
    busy: BTreeMap<PathBuf, Arc<AtomicBool>>,
    /// Oldest first.
    kept: Vec<(PathBuf, Instant)>,
    /// A task waits for the oldest's time.
    watched: bool,
}

static PARTS: Mutex<Parts> =
    Mutex::new(Parts { busy: BTreeMap::new(), kept: Vec::new(), watched: false });
static SETTLED: Condvar = Condvar::new();

fn parts() -> MutexGuard<'static, Parts> {
    PARTS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Parts {
    fn remember(&mut self, path: &Path) {
        if self.busy.contains_key(path) || self.kept.iter().any(|(kept, _)| kept == path) {
            return;
        }
        self.kept.push((path.to_owned(), Instant::now()));
        if self.kept.len() > MAX_KEPT {
            let _gone = fs::remove_file(self.kept.remove(0).0);
        }
    }

    /// Drops those whose time is up. The next one's time, or no more watch.
    fn expire(&mut self, now: Instant) -> Option<Instant> {
        self.kept.retain(|(path, since)| {
            let keep = now.duration_since(*since) < KEPT_FOR;
            if !keep {
                let _gone = fs::remove_file(path);
            }
            keep
        });
        self.watched = !self.kept.is_empty();
        self.kept.first().map(|(_, since)| *since + KEPT_FOR)
    }
}

/// The right to one part. Given back, the part is removed unless it is to be
/// kept.
struct Claim {
    path: PathBuf,
    keep: bool,
}

impl Claim {
    fn take(path: &Path, over: &Arc<AtomicBool>) -> Result<Self, Refusal> {
        let deadline = Instant::now() + SETTLES;
        let mut parts = parts();
        while let Some(holder) = parts.busy.get(path) {
            let left = deadline.saturating_duration_since(Instant::now());
            if !holder.load(Ordering::Acquire) || left.is_zero() {
                let what = "go on with an upload that another stream writes";
                return Err(Refusal::new(FailureKind::AlreadyExists, what));
            }
            let waited = SETTLED.wait_timeout(parts, left);
            parts = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        parts.kept.retain(|(kept, _)| kept != path);
        parts.busy.insert(path.to_owned(), Arc::clone(over));
        Ok(Self { path: path.to_owned(), keep: false })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut parts = parts();
        parts.busy.remove(&self.path);
        if self.keep {
            parts.remember(&self.path);
        } else {
            let _in_place_or_never_made = fs::remove_file(&self.path);
        }
        SETTLED.notify_all();
    }
}

/// Drops parts when their time is up. The task is there only while a part is.
pub(super) fn watch_kept() {
    let mut parts = parts();
    if parts.kept.is_empty() || std::mem::replace(&mut parts.watched, true) {
        return;
    }
    drop(spawn_local(async {
        // A panic of the job is the end of the watch.
        while let Ok(Some(next)) = spawn_blocking(parts_now_due).await {
            tokio::time::sleep_until(next.into()).await;
        }
    }));
}

fn parts_now_due() -> Option<Instant> {
    parts().expire(Instant::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(path: &Path) -> Target {
        Target { path: path.to_owned(), before: None }
    }

    #[test]
    fn a_parts_name_tells_target_and_id_and_is_never_too_long() {
        let id = Bytes::from_static(&[0, 1, 2, 3, 0xfc, 0xfd, 0xfe, 0xff]);
        let part = part_path(&target(Path::new("/srv/disk.img")), &id).unwrap();
        assert_eq!(part, Path::new("/srv/.disk.img.00010203fcfdfeff.inn-part"));
        let long = format!("/srv/{}", "é".repeat(127));
        let part = part_path(&target(Path::new(&long)), &id).unwrap();
        assert!(part.file_name().unwrap().len() <= 255);
        assert!(part_path(&target(Path::new("/x")), &Bytes::from_static(b"short")).is_err());
    }

    #[test]
    fn a_part_has_one_writer_and_waits_for_its_host() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("part");
        fs::write(&path, "half").unwrap();
        let (first, second) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let mut claim = Claim::take(&path, &first).unwrap();
        assert!(Claim::take(&path, &second).is_err());
        // The first has lost its host, but not settled yet.
        first.store(true, Ordering::Release);
        let waiting = {
            let (path, second) = (path.clone(), Arc::clone(&second));
            std::thread::spawn(move || Claim::take(&path, &second).map(|_claim| path.exists()))
        };
        claim.keep = true;
        drop(claim);
        assert!(waiting.join().unwrap().unwrap(), "it was kept until the second settled");
        assert!(!path.exists(), "the second did not keep it");
    }

    #[test]
    fn time_and_number_bound_what_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut parts = Parts { busy: BTreeMap::new(), kept: Vec::new(), watched: false };
        let path = |number: usize| dir.path().join(number.to_string());
        for number in 0..=MAX_KEPT {
            fs::write(path(number), "").unwrap();
            parts.remember(&path(number));
        }
        parts.remember(&path(5));
        assert_eq!(parts.kept.len(), MAX_KEPT);
        assert!(!path(0).exists() && path(1).exists());
        let now = Instant::now();
        assert!(parts.expire(now).is_some_and(|next| next > now));
        assert!(parts.expire(now + KEPT_FOR).is_none());
        assert!(!path(1).exists() && !path(MAX_KEPT).exists() && !parts.watched);
    }

    #[test]
    fn what_is_kept_counts_like_what_passed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("part");
        let mut content = vec![0; 700_000];
        content[10..50].fill(7);
        content[400_000..500_000].fill(9);
        let mut file = files::open_private(&path).unwrap();
        for range in [0..100, 400_000..500_000] {
            file.seek(SeekFrom::Start(range.start as u64)).unwrap();
            std::io::Write::write_all(&mut file, &content[range]).unwrap();
        }
        file.set_len(700_000).unwrap();
        let (mut kept, mut passed) = (BlockSum::default(), BlockSum::default());
        let over = AtomicBool::new(false);
        assert!(add_kept(&mut kept, &mut file, 700_000, &over).is_ok());
        passed.add(&content);
        assert_eq!(kept.finish(), passed.finish());
        over.store(true, Ordering::Release);
        let cut = add_kept(&mut BlockSum::default(), &mut file, 700_000, &over);
        assert!(matches!(cut, Err(Problem::Gone)));
    }
}
