//! Whole trees as tar streams, with modes, owners, times, links of both kinds
//! and extended attributes (as GNU tar and libarchive write them: pax records
//! named SCHILY.xattr). Left out are sockets, and attributes whose value has a
//! newline in it, where the tar crate cuts records and would take what follows
//! for others.
//!
//! Extraction never leaves its directory: see `os::beneath`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::path::{Component, Path, PathBuf};

use inn_guest_proto::MAX_DATA;
use inn_guest_proto::wire::Transferred;
use tar::{Archive, Builder, Entry, EntryType, Header};

use super::job::{In, Out, gone};
use super::meta;
use crate::os::beneath::{self, Root, Special};
use crate::os::files::{self, Attributes};
use crate::refusal::{OrRefuse, Refusal};

/// Directories below one another that are followed: deeper is no tree that
/// somebody made on purpose.
const MAX_DEPTH: usize = 256;

/// Files with several names that are remembered for their other names; those
/// of a file beyond are sent as files of their own.
const MAX_LINKED: usize = 16 * 1024;

const XATTR: &str = "SCHILY.xattr.";

pub(super) fn read(path: &str, out: &mut Out) -> Result<Transferred, Refusal> {
    let what = || format!("read {path}");
    let path = meta::absolute(path)?;
    let meta = fs::symlink_metadata(path).or_refuse(what)?;
    out.info(files::info(&meta, None)).map_err(gone)?;
    let mut packer = Packer { builder: Builder::new(&mut *out), linked: BTreeMap::new() };
    packer.builder.follow_symlinks(false);
    if meta.is_dir() {
        packer.add_children(path, Path::new(""), 0).or_refuse(what)?;
    } else {
        let name = path.file_name().map(PathBuf::from).unwrap_or_default();
        packer.add(path, &name, &meta).or_refuse(what)?;
    }
    packer.builder.finish().or_refuse(what)?;
    drop(packer);
    out.finish().map_err(gone)
}

struct Packer<'a> {
    builder: Builder<&'a mut Out>,
    /// Under which name a file with several was sent first.
    linked: BTreeMap<(u64, u64), PathBuf>,
}

impl Packer<'_> {
    fn add_children(&mut self, dir: &Path, inside: &Path, depth: usize) -> io::Result<()> {
        if depth > MAX_DEPTH {
            return Err(io::Error::other("directories are too deep"));
        }
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            // What vanished meanwhile is not there.
            let Ok(meta) = entry.metadata() else { continue };
            let name = inside.join(entry.file_name());
            self.add(&entry.path(), &name, &meta)?;
            if meta.is_dir() {
                self.add_children(&entry.path(), &name, depth + 1)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, path: &Path, name: &Path, meta: &fs::Metadata) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_metadata(meta);
        if meta.is_symlink() {
            header.set_size(0);
            return self.builder.append_link(&mut header, name, fs::read_link(path)?);
        }
        if let Some(first) = self.seen_before(name, meta) {
            header.set_size(0);
            header.set_entry_type(EntryType::Link);
            return self.builder.append_link(&mut header, name, first);
        }
        let is_file = meta.is_file();
        let kind = header.entry_type();
        if !is_file
            && !matches!(
                kind,
                EntryType::Directory | EntryType::Fifo | EntryType::Char | EntryType::Block
            )
        {
            // A socket: nothing that a copy of could serve.
            return Ok(());
        }
        let xattrs: Vec<_> = files::xattrs(path)
            .into_iter()
            .filter(|(_, value)| !value.contains(&b'\n'))
            .map(|(name, value)| (format!("{XATTR}{name}"), value))
            .collect();
        let records = xattrs.iter().map(|(key, value)| (key.as_str(), value.as_slice()));
        if is_file {
            // A file that grows or shrinks meanwhile would break the archive:
            // what was promised is what is sent.
            let promised = meta.len();
            let file = File::open(path)?;
            self.builder.append_pax_extensions(records)?;
            let padded = file.take(promised).chain(io::repeat(0)).take(promised);
            return self.builder.append_data(&mut header, name, in_pieces(padded, promised));
        }
        header.set_size(0);
        self.builder.append_pax_extensions(records)?;
        self.builder.append_data(&mut header, name, io::empty())
    }

    fn seen_before(&mut self, name: &Path, meta: &fs::Metadata) -> Option<PathBuf> {
        let key = files::link_key(meta)?;
        let first = self.linked.get(&key).cloned();
        if first.is_none() && self.linked.len() < MAX_LINKED {
            self.linked.insert(key, name.to_owned());
        }
        first
    }
}

pub(super) fn write(path: &str, input: &mut In) -> Result<Transferred, Refusal> {
    let dir = meta::absolute(path)?;
    let what = || format!("extract into {path}");
    fs::create_dir_all(dir).or_refuse(|| format!("make {path}"))?;
    let root = Root::open(dir).or_refuse(what)?;
    let mut unpacker = Unpacker { root, dirs: Vec::new(), entries: 0 };
    let mut archive = Archive::new(&mut *input);
    for entry in archive.entries().or_refuse(what)? {
        let mut entry = entry.or_refuse(what)?;
        let name = entry.path().or_refuse(what)?.into_owned();
        unpacker.add(&name, &mut entry).or_refuse(|| {
            let before = unpacker.entries;
            format!("extract {} into {path}, where {before} entries before it stay", name.display())
        })?;
    }
    let transferred = input.verified(path)?;
    // Last, deepest first: a directory may be read-only to whoever fills it,
    // and filling it changes its time.
    for (name, attributes, xattrs) in unpacker.dirs.iter().rev() {
        unpacker.root.finish_dir(name, attributes, xattrs).or_refuse(what)?;
    }
    Ok(transferred)
}

type Xattrs = Vec<(String, Vec<u8>)>;

struct Unpacker {
    root: Root,
    /// Made, and to be finished.
    dirs: Vec<(PathBuf, Attributes, Xattrs)>,
    entries: u64,
}

impl Unpacker {
    fn add(&mut self, name: &Path, entry: &mut Entry<'_, &mut In>) -> io::Result<()> {
        let Some((parents, last)) = split(name)? else {
            return Ok(());
        };
        let parent = self.root.dir(&parents)?;
        let header = entry.header().clone();
        let attributes = attributes_of(&header)?;
        let mode = attributes.mode.unwrap_or_default();
        let kind = header.entry_type();
        if kind == EntryType::Directory {
            parent.make_dir(last)?;
            self.dirs.push((parents.join(last), attributes, xattrs_of(entry)?));
            self.entries += 1;
            return Ok(());
        }
        parent.remove_other(last)?;
        let device = || -> io::Result<(u32, u32)> {
            Ok((header.device_major()?.unwrap_or(0), header.device_minor()?.unwrap_or(0)))
        };
        match kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let xattrs = xattrs_of(entry)?;
                let mut file = parent.create(last)?;
                let size = entry.size();
                if let Err(error) =
                    io::copy(&mut in_pieces(entry, size), &mut file).and_then(|_| file.flush())
                {
                    // Half of it would look like all of it.
                    let _left_as_it_is = parent.remove_other(last);
                    return Err(error);
                }
                for (name, value) in &xattrs {
                    // Not every file system has them, nor every user the right.
                    let _not_here = files::set_xattr(&file, name, value);
                }
                attributes.apply(&file)?;
                self.entries += 1;
                return Ok(());
            }
            EntryType::Symlink => {
                let target = entry.link_name()?.ok_or(io::ErrorKind::InvalidData)?;
                parent.symlink(last, &target)?;
            }
            EntryType::Link => {
                let target = entry.link_name()?.ok_or(io::ErrorKind::InvalidData)?;
                let (dirs, file) = split(&target)?.ok_or(io::ErrorKind::InvalidData)?;
                parent.link(last, &self.root.dir(&dirs)?, file)?;
                self.entries += 1;
                return Ok(());
            }
            EntryType::Fifo => parent.make_special(last, Special::Fifo, mode)?,
            EntryType::Char => {
                let (major, minor) = device()?;
                parent.make_special(last, Special::Character { major, minor }, mode)?;
            }
            EntryType::Block => {
                let (major, minor) = device()?;
                parent.make_special(last, Special::Block { major, minor }, mode)?;
            }
            // Headers of extensions are the parser's; others say nothing to us.
            _ => return Ok(()),
        }
        self.entries += 1;
        if let Some(owner) = attributes.owner {
            parent.own(last, owner)?;
        }
        attributes.mtime.map_or(Ok(()), |mtime| parent.touch(last, mtime))
    }
}

/// For a copy of so many bytes: in pieces that are worth a system call.
fn in_pieces<R: Read>(from: R, size: u64) -> BufReader<R> {
    let capacity = usize::try_from(size).unwrap_or(MAX_DATA).clamp(8 * 1024, MAX_DATA);
    BufReader::with_capacity(capacity, from)
}

fn attributes_of(header: &Header) -> io::Result<Attributes> {
    let owner = match (u32::try_from(header.uid()?), u32::try_from(header.gid()?)) {
        (Ok(uid), Ok(gid)) => Some((uid, gid)),
        _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "an owner that is no number")),
    };
    Ok(Attributes {
        mode: Some(header.mode()? & 0o7777),
        owner: owner.filter(|_| beneath::may_give_away()),
        mtime: Some((i64::try_from(header.mtime()?).unwrap_or(0), 0)),
    })
}

fn xattrs_of(entry: &mut Entry<'_, &mut In>) -> io::Result<Xattrs> {
    let Some(records) = entry.pax_extensions()? else { return Ok(Vec::new()) };
    let records = records.flatten().filter_map(|record| {
        let name = record.key().ok()?.strip_prefix(XATTR)?;
        Some((name.to_owned(), record.value_bytes().to_vec()))
    });
    Ok(records.collect())
}

/// Parents and last name of an entry; `None` for the directory itself.
fn split(name: &Path) -> io::Result<Option<(PathBuf, &Path)>> {
    let mut parts = Vec::new();
    for part in name.components() {
        match part {
            Component::Normal(part) => parts.push(part),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "a name with .. in it"));
            }
        }
    }
    if parts.len() > MAX_DEPTH {
        return Err(io::Error::other("directories are too deep"));
    }
    Ok(parts.pop().map(|last| (parts.iter().collect(), Path::new(last))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::job;

    #[test]
    fn links_times_and_extended_attributes_are_kept() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let source = |name: &str| from.path().join(name);
        fs::create_dir(source("dir")).unwrap();
        fs::write(source("dir/file"), vec![7; 100_000]).unwrap();
        fs::hard_link(source("dir/file"), source("other name")).unwrap();
        files::symlink("dir/file", &source("link")).unwrap();
        let attribute = ("user.inn".to_owned(), b"a=b\0".to_vec());
        let file = File::open(source("dir/file")).unwrap();
        // tmpfs has those only since Linux 6.6.
        let has_xattrs = files::set_xattr(&file, &attribute.0, &attribute.1).is_ok();
        for (name, time) in [("dir/file", 1_000), ("link", 2_000), ("dir", 3_000)] {
            let mtime = Attributes { mtime: Some((time, 0)), ..Attributes::default() };
            mtime.apply_to(&source(name)).unwrap();
        }
        let (path, into) = (from.path().to_str().unwrap(), to.path().to_str().unwrap());
        let (sent, received) = job::pass(|out| read(path, out), |input| write(into, input));
        assert_eq!(sent.unwrap(), received.unwrap());

        let meta = |name: &str| fs::symlink_metadata(to.path().join(name)).unwrap();
        let key = files::link_key(&meta("dir/file"));
        assert!(key.is_some() && key == files::link_key(&meta("other name")));
        assert_eq!(fs::read(to.path().join("other name")).unwrap(), vec![7; 100_000]);
        for (name, time) in [("dir/file", 1_000), ("link", 2_000), ("dir", 3_000)] {
            assert_eq!(files::version(&meta(name)).mtime_s, time, "{name}");
        }
        if has_xattrs {
            assert!(files::xattrs(&to.path().join("dir/file")).contains(&attribute));
        }
    }

    #[test]
    fn a_name_that_leads_up_is_refused() {
        assert!(split(Path::new("a/../b")).is_err());
        assert!(split(Path::new("./")).unwrap().is_none());
        let (parents, last) = split(Path::new("/a/./b/c")).unwrap().unwrap();
        assert_eq!((parents.as_path(), last), (Path::new("a/b"), Path::new("c")));
    }
}
