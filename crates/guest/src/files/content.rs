//! The content of one file.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use inn_guest_proto::wire::{ReadFile, Transferred, WriteFile};

use super::job::{In, Out};
use super::meta;
use crate::refusal::{OrRefuse, Refusal};

/// Of a new file that was given none.
const DEFAULT_MODE: u32 = 0o644;

pub(super) fn read(request: &ReadFile, out: &mut Out) -> Result<Transferred, Refusal> {
    let path = meta::absolute(&request.path)?;
    let what = || format!("read {}", request.path);
    // Not blocking: opening a FIFO would wait for a writer for ever.
    let mut file =
        OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).or_refuse(what)?;
    let meta = file.metadata().or_refuse(what)?;
    if !meta.is_file() {
        return Err(Refusal::invalid(format!("read {}, which is no file", request.path)));
    }
    out.info(meta::info(&meta, None)).or_refuse(what)?;
    if request.offset > 0 {
        file.seek(SeekFrom::Start(request.offset)).or_refuse(what)?;
    }
    let mut limited = file.take(request.limit.unwrap_or(u64::MAX));
    copy(&mut limited, out).or_refuse(what)?;
    out.finish().or_refuse(what)
}

pub(super) fn write(request: &WriteFile, input: &mut In) -> Result<Transferred, Refusal> {
    let path = meta::absolute(&request.path)?;
    let what = || format!("write {}", request.path);
    if request.make_parents
        && let Some(parent) = path.parent()
    {
        fs::create_dir_all(parent).or_refuse(|| format!("make {}", parent.display()))?;
    }
    match request.offset {
        Some(offset) => write_within(request, path, offset, input),
        None => replace(request, path, input),
    }
    .map_err(|error| match error {
        Problem::Io(error) => Refusal::io(what(), &error),
        Problem::Refused(refusal) => refusal,
    })
}

enum Problem {
    Io(io::Error),
    Refused(Refusal),
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn write_within(
    request: &WriteFile,
    path: &Path,
    offset: u64,
    input: &mut In,
) -> Result<Transferred, Problem> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(request.mode.unwrap_or(DEFAULT_MODE))
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    copy(input, &mut file)?;
    set_attributes(&file, request, None)?;
    input.verified(&request.path).map_err(Problem::Refused)
}

/// Beside it first; in its place once everything is there and right.
fn replace(request: &WriteFile, path: &Path, input: &mut In) -> Result<Transferred, Problem> {
    // What a link points to is what is replaced, as any editor does it.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let before = fs::symlink_metadata(&path).ok();
    if before.as_ref().is_some_and(|meta| !meta.is_file()) {
        return Err(Problem::Io(io::Error::from_raw_os_error(libc::EISDIR)));
    }
    let beside = Beside::new(&path);
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside.path)?;
    copy(input, &mut file)?;
    let transferred = input.verified(&request.path).map_err(Problem::Refused)?;
    set_attributes(&file, request, Some(before.as_ref()))?;
    drop(file);
    fs::rename(&beside.path, &path)?;
    Ok(transferred)
}

/// The mode and owner asked for; of a file that is replaced, else, its own.
fn set_attributes(
    file: &File,
    request: &WriteFile,
    replaced: Option<Option<&fs::Metadata>>,
) -> io::Result<()> {
    let before = replaced.flatten();
    let owner = match (&request.owner, before) {
        (Some(owner), _) => Some((owner.uid, owner.gid)),
        (None, Some(before)) => Some((before.uid(), before.gid())),
        (None, None) => None,
    };
    if let Some((uid, gid)) = owner {
        fchown(file, Some(uid), Some(gid))?;
    }
    let mode = request.mode.or_else(|| before.map(|meta| meta.mode() & 0o7777));
    // A new file got 0600 so far; one written within keeps what it has. After
    // the owner, since a change of owner drops setuid.
    let mode = if replaced.is_some() { Some(mode.unwrap_or(DEFAULT_MODE)) } else { mode };
    if let Some(mode) = mode {
        file.set_permissions(Permissions::from_mode(mode & 0o7777))?;
    }
    Ok(())
}

/// A name in the same directory, removed again unless it was renamed away.
struct Beside {
    path: PathBuf,
}

impl Beside {
    fn new(path: &Path) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!(".inn-{}-{number}", std::process::id());
        let dir = path.parent().unwrap_or(Path::new("/"));
        Self { path: dir.join(name) }
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let _renamed_or_never_made = fs::remove_file(&self.path);
    }
}

/// In pieces as large as a message.
pub(super) fn copy(from: &mut impl Read, to: &mut impl io::Write) -> io::Result<u64> {
    let mut buffer = vec![0; inn_guest_proto::MAX_DATA];
    let mut total = 0;
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(count) => {
                to.write_all(&buffer[..count])?;
                total += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
