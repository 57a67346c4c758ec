//! The content of one file, in.
//!
//! ```text
//!  replace:  beside the target ─▶ all there, sum right ─▶ attributes ─▶ rename
//!  upload:   likewise, but what is beside outlives a broken stream (`upload`)
//!  within:   into the file itself, from an offset on
//! ```
//!
//! Whatever fails takes the half-written file with it.

use std::fs::{self, File, Metadata};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use inn_guest_proto::BlockSum;
use inn_guest_proto::wire::{FailureKind, Transferred, WriteFile};

use super::job::{In, damaged, gone};
use super::read::sum_up;
use super::{meta, upload};
use crate::os::files::{self, Attributes};
use crate::refusal::{OrRefuse, Refusal};
use crate::stream::Gone;

/// Of a new file that was given none.
const DEFAULT_MODE: u32 = 0o644;

pub(super) fn write(request: &WriteFile, input: &mut In) -> Result<Transferred, Refusal> {
    let path = meta::absolute(&request.path)?;
    let what = || format!("write {}", request.path);
    let rewrites = request.sparse || !request.upload.is_empty();
    if request.offset.is_some() && rewrites {
        return Err(Refusal::invalid(format!("write within {} what replaces it", request.path)));
    }
    if request.make_parents
        && let Some(parent) = path.parent()
    {
        fs::create_dir_all(parent).or_refuse(|| format!("make {}", parent.display()))?;
    }
    let done = match request.offset {
        Some(offset) => write_within(request, path, offset, input),
        None => Target::find(path).map_err(Problem::Io).and_then(|target| {
            match request.upload.is_empty() {
                true => replace(request, &target, input),
                false => upload::write(request, &target, input),
            }
        }),
    };
    done.map_err(|problem| match problem {
        Problem::Io(error) => Refusal::io(what(), &error),
        Problem::Refused(refusal) => refusal,
        Problem::Gone => gone(Gone),
    })
}

pub(super) enum Problem {
    Io(io::Error),
    Refused(Refusal),
    Gone,
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Gone> for Problem {
    fn from(Gone: Gone) -> Self {
        Self::Gone
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// What is to be replaced, or made.
pub(super) struct Target {
    pub(super) path: PathBuf,
    pub(super) before: Option<Metadata>,
}

impl Target {
    /// What a link points to is what is replaced, as any editor does it.
    pub(super) fn find(path: &Path) -> io::Result<Self> {
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let before = fs::symlink_metadata(&path).ok();
        if before.as_ref().is_some_and(|meta| !meta.is_file()) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        Ok(Self { path, before })
    }

    pub(super) fn dir(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }
}

fn write_within(
    request: &WriteFile,
    path: &Path,
    offset: u64,
    input: &mut In,
) -> Result<Transferred, Problem> {
    let (mut file, is_new) = files::open_to_write(path, request.mode.unwrap_or(DEFAULT_MODE))?;
    let before = file.metadata()?.len();
    let written = fill_within(request, &mut file, (offset, before), input);
    if let Err(Problem::Io(error)) = &written
        && files::is_full(error)
    {
        // What was overwritten is lost; what was added goes again.
        let _cannot = if is_new { fs::remove_file(path) } else { file.set_len(before) };
    }
    written
}

fn fill_within(
    request: &WriteFile,
    file: &mut File,
    (offset, before): (u64, u64),
    input: &mut In,
) -> Result<Transferred, Problem> {
    if let Some(length) = request.length {
        let grows = offset.saturating_add(length).saturating_sub(before);
        room_for(grows, Path::new(&request.path), &request.path)?;
    }
    file.seek(SeekFrom::Start(offset))?;
    copy_in(input, file)?;
    attributes(request, None).apply(file)?;
    Ok(input.verified(&request.path)?)
}

/// Beside it first; in its place once everything is there and right.
fn replace(request: &WriteFile, target: &Target, input: &mut In) -> Result<Transferred, Problem> {
    if let Some(length) = request.length
        && !request.sparse
    {
        room_for(length, target.dir(), &request.path)?;
    }
    let beside = Beside::new(target.dir());
    let mut file = files::create_private(&beside.path)?;
    let transferred = if request.sparse {
        let mut sum = BlockSum::default();
        let (bytes, length) = receive_sparse(request, input, &mut file, &mut [&mut sum])?;
        sum_up(sum, bytes, length)
    } else {
        copy_in(input, &mut file)?;
        input.verified(&request.path)?
    };
    attributes(request, Some(target)).apply(&file)?;
    drop(file);
    fs::rename(&beside.path, &target.path)?;
    Ok(transferred)
}

fn copy_in(input: &mut In, file: &mut File) -> Result<(), Problem> {
    while let Some(bytes) = input.content()? {
        file.write_all(&bytes)?;
    }
    Ok(())
}

/// Takes the content from where the sums begin up to its end, which makes the
/// file that long, and checks the first sum. Returns how much arrived, and the
/// length.
pub(super) fn receive_sparse(
    request: &WriteFile,
    input: &mut In,
    file: &mut File,
    sums: &mut [&mut BlockSum],
) -> Result<(u64, u64), Problem> {
    let invalid = |why: &str| Refusal::invalid(format!("accept {}: {why}", request.path));
    let mut position = sums.first().map_or(0, |sum| sum.position());
    let mut cursor = None;
    let mut arrived = 0;
    while let Some((at, bytes)) = input.piece()? {
        let Some(skipped) = at.checked_sub(position) else {
            return Err(invalid("its pieces overlap").into());
        };
        if cursor != Some(at) {
            file.seek(SeekFrom::Start(at))?;
        }
        file.write_all(&bytes)?;
        for sum in &mut *sums {
            sum.skip(skipped);
            sum.add(&bytes);
        }
        arrived += bytes.len() as u64;
        position = at + bytes.len() as u64;
        cursor = Some(position);
    }
    let eof = input.eof().ok_or(Gone)?;
    let Some(rest) = eof.length.checked_sub(position) else {
        return Err(invalid("it is longer than its length").into());
    };
    for sum in &mut *sums {
        sum.skip(rest);
    }
    let sum = sums.first().map(|sum| (*sum).clone().finish());
    if sum.is_none_or(|sum| eof.block_sum != sum[..]) {
        return Err(damaged(&request.path).into());
    }
    file.set_len(eof.length)?;
    Ok((arrived, eof.length))
}

/// The mode, owner and time asked for; of a file that is replaced, else, its
/// own. A new file got a private mode so far; one written within keeps what it
/// has.
pub(super) fn attributes(request: &WriteFile, replaced: Option<&Target>) -> Attributes {
    let before = replaced.and_then(|target| target.before.as_ref());
    let mode = request.mode.or_else(|| before.map(files::mode));
    let owner = request.owner.as_ref().map(|owner| (owner.uid, owner.gid));
    Attributes {
        mode: if replaced.is_some() { Some(mode.unwrap_or(DEFAULT_MODE)) } else { mode },
        owner: owner.or_else(|| before.map(files::owner)),
        mtime: request.mtime.as_ref().map(|time| (time.s, time.ns)),
    }
}

/// Refuses early what the disk cannot hold. Not for what may be holes.
pub(super) fn room_for(wanted: u64, dir: &Path, name: &str) -> Result<(), Problem> {
    let free = files::available(dir)?;
    if wanted > free {
        let what = format!("write {name}: it takes {wanted} more bytes, and {free} are free");
        return Err(Refusal::new(FailureKind::NoSpace, what).into());
    }
    Ok(())
}

/// A name in the same directory, removed again unless it was renamed away.
pub(super) struct Beside {
    pub(super) path: PathBuf,
}

impl Beside {
    pub(super) fn new(dir: &Path) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self { path: dir.join(format!(".inn-{}-{number}", std::process::id())) }
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let _renamed_or_never_made = fs::remove_file(&self.path);
    }
}
