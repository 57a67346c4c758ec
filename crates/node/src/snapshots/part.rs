//! The parts of a snapshot: files with holes, written and looked through block
//! by block, so that what is zero costs neither space nor time.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use inn_units::Bytes;
use rustix::fs::{MemfdFlags, SealFlags, SeekFrom, fcntl_add_seals, memfd_create};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use super::manifest::{Part, PartKind, Root};

const BLOCK: usize = 64 << 10;

/// What a part has come to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PartError {
    #[error("its {0} is missing")]
    Missing(PartKind),
    #[error("its {kind} has {found} bytes, and should have {wanted}")]
    Length { kind: PartKind, found: u64, wanted: u64 },
    #[error("its {0} is damaged: its SHA-256 is another")]
    Damaged(PartKind),
    #[error("its {0} cannot be read")]
    Io(PartKind, #[source] io::Error),
}

/// Ends what takes long between two blocks, once nobody wants it any more.
pub(super) fn wanted(given_up: &CancellationToken) -> io::Result<()> {
    match given_up.is_cancelled() {
        false => Ok(()),
        true => Err(io::Error::other("it was given up")),
    }
}

/// Copies a part to a new file that its owner alone may read. Blocks.
pub(super) fn write(
    source: &File,
    to: &Path,
    kind: PartKind,
    given_up: &CancellationToken,
) -> io::Result<Part> {
    let target = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    let length = source.metadata()?.len();
    target.set_len(length)?;
    let (stored, sha256) = walk(source, length, |at, block| {
        wanted(given_up)?;
        target.write_all_at(block, at)
    })?;
    target.sync_all()?;
    Ok(Part { kind, length: Bytes(length), stored: Bytes(stored), sha256 })
}

/// What a file that is there already comes to as a part; it is on the disk
/// after. Blocks.
pub(super) fn take_in(
    path: &Path,
    kind: PartKind,
    given_up: &CancellationToken,
) -> io::Result<Part> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let (stored, sha256) = walk(&file, length, |_, _| wanted(given_up))?;
    file.sync_all()?;
    Ok(Part { kind, length: Bytes(length), stored: Bytes(stored), sha256 })
}

/// Of a file that is no part: its length and digest, as of one. Blocks.
pub(super) fn digest_of(path: &Path) -> io::Result<Root> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let (_, sha256) = walk(&file, length, |_, _| Ok(()))?;
    Ok(Root { length: Bytes(length), sha256 })
}

/// Whether a part is as it should be. Blocks.
pub(super) fn check(directory: &Path, part: &Part) -> Result<(), PartError> {
    let file = open(directory, part)?;
    compare(part, walk(&file, part.length.get(), |_, _| Ok(())))
}

/// A part as memory that nobody can write to any more. Blocks.
pub(super) fn load(directory: &Path, part: &Part) -> Result<File, PartError> {
    let file = open(directory, part)?;
    let failed = |error: io::Error| PartError::Io(part.kind, error);
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = File::from(memfd_create("inn-saved", flags).map_err(|e| failed(e.into()))?);
    memory.set_len(part.length.get()).map_err(failed)?;
    let copied = walk(&file, part.length.get(), |at, block| memory.write_all_at(block, at));
    compare(part, copied)?;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    fcntl_add_seals(&memory, seals).map_err(|e| failed(e.into()))?;
    Ok(memory)
}

fn open(directory: &Path, part: &Part) -> Result<File, PartError> {
    let file =
        File::open(directory.join(part.kind.file())).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => PartError::Missing(part.kind),
            _ => PartError::Io(part.kind, error),
        })?;
    let found = file.metadata().map_err(|error| PartError::Io(part.kind, error))?.len();
    let wanted = part.length.get();
    if found != wanted {
        return Err(PartError::Length { kind: part.kind, found, wanted });
    }
    Ok(file)
}

fn compare(part: &Part, walked: io::Result<(u64, String)>) -> Result<(), PartError> {
    match walked {
        Ok((_, sha256)) if sha256 == part.sha256 => Ok(()),
        Ok(_) => Err(PartError::Damaged(part.kind)),
        Err(error) => Err(PartError::Io(part.kind, error)),
    }
}

/// Gives each block that is not all zero to `sink`; how many bytes they are and
/// their digest.
pub(super) fn walk(
    file: &File,
    length: u64,
    mut sink: impl FnMut(u64, &[u8]) -> io::Result<()>,
) -> io::Result<(u64, String)> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; BLOCK];
    let (mut at, mut stored) = (0, 0);
    while at < length {
        let data = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(data) => data,
            // Only a hole is left.
            Err(Errno::NXIO) => break,
            Err(errno) => return Err(errno.into()),
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(data))?.min(length);
        // Blocks lie where they lie, whatever holes a file system leaves.
        at = at.max(data - data % BLOCK as u64);
        while at < end {
            let size = usize::try_from(length - at).unwrap_or(BLOCK).min(BLOCK);
            let block = &mut buffer[..size];
            file.read_exact_at(block, at)?;
            if block.iter().any(|byte| *byte != 0) {
                hash.update(at.to_le_bytes());
                hash.update(&*block);
                sink(at, block)?;
                stored += size as u64;
            }
            at += size as u64;
        }
    }
    let digest = hash.finalize();
    Ok((stored, digest.iter().map(|byte| format!("{byte:02x}")).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sparse(path: &Path) -> File {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path);
        let file = file.unwrap();
        file.set_len((10 << 20) + 5).unwrap();
        file.write_all_at(b"first", 100).unwrap();
        file.write_all_at(b"over a block's end", (3 << 20) - 4).unwrap();
        file.write_all_at(&[7; 5], 10 << 20).unwrap();
        file
    }

    #[test]
    fn a_part_is_what_it_was_and_takes_no_more() {
        let directory = tempfile::tempdir().unwrap();
        let (source, never) = (sparse(&directory.path().join("source")), CancellationToken::new());
        let part =
            write(&source, &directory.path().join("memory"), PartKind::Memory, &never).unwrap();
        assert_eq!(part.length, Bytes((10 << 20) + 5));
        assert_eq!(part.stored, Bytes(3 * BLOCK as u64 + 5));
        check(directory.path(), &part).unwrap();
        let memory = load(directory.path(), &part).unwrap();
        let mut bytes = vec![0; 18];
        memory.read_exact_at(&mut bytes, (3 << 20) - 4).unwrap();
        assert_eq!(bytes, b"over a block's end");
        assert!(memory.write_all_at(b"x", 0).is_err(), "it is sealed");
        // As it is written out in full it is the same.
        let path = directory.path().join("memory");
        let full = std::fs::read(&path).unwrap();
        std::fs::write(&path, full).unwrap();
        check(directory.path(), &part).unwrap();
        assert_eq!(take_in(&path, PartKind::Memory, &never).unwrap(), part);
    }

    #[test]
    fn what_is_damaged_cut_or_gone_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let (source, given_up) =
            (sparse(&directory.path().join("source")), CancellationToken::new());
        let part = write(&source, &path, PartKind::State, &given_up).unwrap();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(b"x", 5 << 20).unwrap();
        let refused = |word: &str| {
            let why = load(directory.path(), &part).unwrap_err().to_string();
            assert!(why.contains("state") && why.contains(word), "{why}");
            assert!(check(directory.path(), &part).is_err());
        };
        refused("damaged");
        file.write_all_at(&[0], 5 << 20).unwrap();
        check(directory.path(), &part).unwrap();
        file.set_len(5 << 20).unwrap();
        refused("5242880 bytes");
        std::fs::remove_file(&path).unwrap();
        refused("missing");
    }

    #[test]
    fn what_nobody_wants_any_more_ends_between_two_blocks() {
        let directory = tempfile::tempdir().unwrap();
        let given_up = CancellationToken::new();
        given_up.cancel();
        let (source, to) = (directory.path().join("source"), directory.path().join("memory"));
        let error = write(&sparse(&source), &to, PartKind::Memory, &given_up).unwrap_err();
        assert!(error.to_string().contains("given up"), "{error}");
        take_in(&source, PartKind::Disk, &given_up).unwrap_err();
    }
}
