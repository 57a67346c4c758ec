//! A tree of this host as a tar for a guest.
//!
//! Owners do not travel: a uid means nothing in the guest, so everything is
//! root's there, as `docker cp` has it. Set-id bits do not travel either.

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use tar::{Builder, EntryType, Header};

/// Writes `path` under the name `name`: a file alone, a directory with all
/// below it. Links are kept as links; sockets, pipes and devices are left out.
pub(crate) fn pack(path: &Path, name: &Path, out: &mut dyn Write) -> io::Result<()> {
    let mut tar = Builder::new(out);
    // Given by the user, so a link here means what it points at.
    let metadata = fs::metadata(path).map_err(|e| naming(path, e))?;
    append(&mut tar, path, name, &metadata)?;
    tar.finish()
}

/// The tar of no entry at all: unpacking it only makes the directory.
pub(crate) fn pack_nothing(out: &mut dyn Write) -> io::Result<()> {
    Builder::new(out).finish()
}

fn append(
    tar: &mut Builder<&mut dyn Write>,
    path: &Path,
    name: &Path,
    metadata: &Metadata,
) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_mode(metadata.mode() & 0o777);
    header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or(0));
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    let kind = metadata.file_type();
    if kind.is_dir() {
        header.set_entry_type(EntryType::Directory);
        tar.append_data(&mut header, name, io::empty())?;
        let mut entries: Vec<_> =
            fs::read_dir(path).and_then(Iterator::collect).map_err(|e| naming(path, e))?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let below = entry.path();
            let metadata = fs::symlink_metadata(&below).map_err(|e| naming(&below, e))?;
            append(tar, &below, &name.join(entry.file_name()), &metadata)?;
        }
        return Ok(());
    }
    if kind.is_symlink() {
        header.set_entry_type(EntryType::Symlink);
        let target = fs::read_link(path).map_err(|e| naming(path, e))?;
        return tar.append_link(&mut header, name, target);
    }
    if kind.is_socket() || kind.is_fifo() || kind.is_block_device() || kind.is_char_device() {
        return Ok(());
    }
    let file = File::open(path).map_err(|e| naming(path, e))?;
    header.set_size(metadata.len());
    // A file that grows meanwhile is cut; one that shrinks must not leave the
    // archive out of step, so it is an error.
    let mut exact = Exactly { file: file.take(metadata.len()), left: metadata.len() };
    tar.append_data(&mut header, name, &mut exact).map_err(|e| naming(path, e))
}

struct Exactly {
    file: io::Take<File>,
    left: u64,
}

impl Read for Exactly {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(out)?;
        self.left -= n as u64;
        if n == 0 && self.left > 0 && !out.is_empty() {
            return Err(io::Error::other("it shrank while it was read"));
        }
        Ok(n)
    }
}

pub(crate) fn naming(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
