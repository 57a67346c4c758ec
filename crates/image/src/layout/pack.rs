//! A directory as a layer: everything below it, with owners, modes, times,
//! links, devices, FIFOs and extended attributes as they are. Sockets are left
//! out. Who packs without being root makes root the owner of what is theirs,
//! since it is all that they could have meant.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use tar::{Builder, EntryType, Header};

const BUFFER: usize = 1 << 20;

pub(super) fn pack(root: &Path, out: &mut impl Write) -> io::Result<()> {
    let mut packing = Packing {
        tar: Builder::new(BufWriter::with_capacity(BUFFER, out)),
        us: rustix::process::geteuid().as_raw(),
        linked: BTreeMap::new(),
    };
    packing.below(root, Path::new("."))?;
    packing.tar.into_inner()?.flush()
}

struct Packing<W: Write> {
    tar: Builder<W>,
    us: u32,
    /// Files with several names, by device and inode: the first name.
    linked: BTreeMap<(u64, u64), PathBuf>,
}

impl<W: Write> Packing<W> {
    fn below(&mut self, path: &Path, name: &Path) -> io::Result<()> {
        let mut entries: Vec<_> =
            fs::read_dir(path).and_then(Iterator::collect).map_err(|e| naming(path, e))?;
        entries.sort_by(|a, b| a.file_name().as_bytes().cmp(b.file_name().as_bytes()));
        for entry in entries {
            let (path, name) = (entry.path(), name.join(entry.file_name()));
            let metadata = fs::symlink_metadata(&path).map_err(|e| naming(&path, e))?;
            self.append(&path, &name, &metadata).map_err(|e| naming(&path, e))?;
            if metadata.is_dir() {
                self.below(&path, &name)?;
            }
        }
        Ok(())
    }

    fn append(&mut self, path: &Path, name: &Path, metadata: &Metadata) -> io::Result<()> {
        let kind = metadata.file_type();
        if kind.is_socket() {
            return Ok(());
        }
        let mut header = self.header(metadata);
        if metadata.nlink() > 1 && !kind.is_dir() {
            let id = (metadata.dev(), metadata.ino());
            if let Some(first) = self.linked.get(&id) {
                header.set_entry_type(EntryType::Link);
                return self.tar.append_link(&mut header, name, first.clone());
            }
            self.linked.insert(id, name.to_owned());
        }
        let xattrs = xattrs(path)?;
        if !xattrs.is_empty() {
            let records = xattrs.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
            self.tar.append_pax_extensions(records)?;
        }
        if kind.is_symlink() {
            header.set_entry_type(EntryType::Symlink);
            return self.tar.append_link(&mut header, name, fs::read_link(path)?);
        }
        if kind.is_file() {
            header.set_size(metadata.len());
            let exact = Exactly { file: File::open(path)?, left: metadata.len() };
            return self.tar.append_data(&mut header, name, exact);
        }
        header.set_entry_type(match () {
            () if kind.is_dir() => EntryType::Directory,
            () if kind.is_fifo() => EntryType::Fifo,
            () if kind.is_char_device() => EntryType::Char,
            () => EntryType::Block,
        });
        if kind.is_char_device() || kind.is_block_device() {
            let device = metadata.rdev();
            header.set_device_major(rustix::fs::major(device))?;
            header.set_device_minor(rustix::fs::minor(device))?;
        }
        self.tar.append_data(&mut header, name, io::empty())
    }

    fn header(&self, metadata: &Metadata) -> Header {
        let mut header = Header::new_gnu();
        header.set_mode(metadata.mode() & 0o7777);
        header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or(0));
        let root_s = |id: u32, own: u32| if self.us != 0 && id == own { 0 } else { id };
        header.set_uid(root_s(metadata.uid(), self.us).into());
        header.set_gid(if self.us == 0 { metadata.gid() } else { 0 }.into());
        header.set_size(0);
        header
    }
}

/// As PAX records have them, in the order of their names.
fn xattrs(path: &Path) -> io::Result<Vec<(String, Vec<u8>)>> {
    // The largest list and the largest value that Linux has (XATTR_SIZE_MAX).
    let mut list = vec![0u8; 64 << 10];
    let n = match rustix::fs::llistxattr(path, &mut list) {
        Ok(n) => n,
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(errno) => return Err(errno.into()),
    };
    let mut found = Vec::new();
    for name in list[..n].split(|&c| c == 0).filter(|name| !name.is_empty()) {
        let Ok(name) = std::str::from_utf8(name) else { continue };
        let mut value = vec![0u8; 64 << 10];
        let n = match rustix::fs::lgetxattr(path, name, &mut value) {
            Ok(n) => n,
            // Gone meanwhile, or not for us to read.
            Err(Errno::NODATA | Errno::PERM | Errno::ACCESS) => continue,
            Err(errno) => return Err(errno.into()),
        };
        value.truncate(n);
        found.push((format!("SCHILY.xattr.{name}"), value));
    }
    found.sort();
    Ok(found)
}

/// Of a file that grows meanwhile only the beginning; one that shrinks would
/// leave the archive out of step, so it is an error.
struct Exactly {
    file: File,
    left: u64,
}

impl Read for Exactly {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let want = into.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let n = self.file.read(&mut into[..want])?;
        self.left -= n as u64;
        if n == 0 && want > 0 {
            return Err(io::Error::other("it shrank while it was read"));
        }
        Ok(n)
    }
}

fn naming(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
