//! The two file systems that overlayfs joins for a guest, as an OCI layer
//! (Linux Documentation/filesystems/overlayfs.rst; OCI image spec 1.1,
//! layer.md).
//!
//! ```text
//!   the writable disk's upper/      in the layer
//!     a file, a directory           itself
//!     a character device 0/0        .wh.NAME
//!     trusted.overlay.opaque        .wh..wh..opq in the directory
//!     trusted.overlay.redirect      .wh..wh..opq, and all that is seen in it: a layer has no renames
//! ```
//! What the agent gives every guest at its start is left out (`OURS`).

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use tar::{Builder, EntryType, Header};

use super::LayerScope;
use crate::error::shown;
use crate::ext4::read::{Inode, InodeKind, Listing, ROOT, ReadError, Span, Volume};
use crate::layer::Limits;

/// Where overlayfs keeps what is written: see the guest's `os/linux/boot.rs`.
const UPPER: &[u8] = b"upper";
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
const OVERLAY: &[u8] = b"trusted.overlay.";

/// Written anew at each start of a VM, for that VM alone.
const OURS: [&[u8]; 4] = [b"hostname", b"hosts", b"resolv.conf", b"machine-id"];

/// Directories inside one another: what an image may have, as well.
const MAX_DEPTH: usize = 1024;
/// Parts of a sparse file that an import takes.
const MAX_PARTS: usize = 1 << 18;

#[derive(Debug, thiserror::Error)]
pub(super) enum LayerError {
    #[error("the VM's disk cannot be read")]
    Upper(#[source] ReadError),
    #[error("the image's disk cannot be read")]
    Lower(#[source] ReadError),
    #[error("{} {why}", shown(.path))]
    Entry { path: Vec<u8>, why: &'static str },
    #[error("the VM's disk has more {0} than an image may have")]
    TooMuch(&'static str),
    #[error("the layer cannot be written")]
    Write(#[source] io::Error),
}

/// Which disk an inode is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Side {
    Upper,
    Lower,
}

struct Packing<'a, W: Write> {
    upper: &'a Volume,
    lower: &'a Volume,
    tar: Builder<W>,
    /// The first name of each file with several.
    linked: HashMap<(Side, u32), Vec<u8>>,
    /// Directories have one name.
    seen: HashSet<u32>,
    entries: u64,
    bytes: u64,
}

/// One directory of the guest's.
struct Dir<'a> {
    path: &'a [u8],
    upper: Option<&'a Inode>,
    lower: Option<&'a Inode>,
    /// All that is seen in it belongs to the layer, not the changes alone.
    whole: bool,
    depth: usize,
}

/// Writes the layer's tar.
pub(super) fn pack(
    upper: &Volume,
    lower: &Volume,
    scope: LayerScope,
    out: impl Write,
) -> Result<(), LayerError> {
    let limits = Limits::default();
    let root = upper.inode(ROOT).map_err(LayerError::Upper)?;
    let top = upper.lookup(&root, UPPER).map_err(LayerError::Upper)?;
    let below = lower.inode(ROOT).map_err(LayerError::Lower)?;
    let mut packing = Packing {
        upper,
        lower,
        tar: Builder::new(out),
        linked: HashMap::new(),
        seen: HashSet::new(),
        entries: limits.entries,
        bytes: limits.bytes.get(),
    };
    let whole = scope == LayerScope::Whole;
    match &top {
        Some(top) => packing.entry(Side::Upper, top, b".")?,
        None if whole => packing.entry(Side::Lower, &below, b".")?,
        // A VM that has never run has changed nothing.
        None => {}
    }
    if top.is_some() || whole {
        let upper = top.as_ref();
        packing.dir(&Dir { path: b"", upper, lower: Some(&below), whole, depth: 0 })?;
    }
    packing.tar.finish().map_err(LayerError::Write)?;
    packing.tar.get_mut().flush().map_err(LayerError::Write)
}

impl<W: Write> Packing<'_, W> {
    fn dir(&mut self, dir: &Dir<'_>) -> Result<(), LayerError> {
        if dir.depth > MAX_DEPTH {
            let path = dir.path.to_vec();
            return Err(LayerError::Entry { path, why: "lies more than 1024 directories deep" });
        }
        if let Some(inode) = dir.upper
            && !self.seen.insert(inode.number)
        {
            let path = dir.path.to_vec();
            return Err(LayerError::Entry { path, why: "is a directory with several names" });
        }
        let mut above = self.list(Side::Upper, dir.upper)?;
        if dir.path == b"etc" {
            above.retain(|name, _| !OURS.contains(&&**name));
        }
        let below = self.list(Side::Lower, dir.lower)?;
        let seen_below = below.keys().filter(|_| dir.whole);
        let names: BTreeSet<&[u8]> = above.keys().chain(seen_below).map(|name| &**name).collect();
        for name in names {
            let path = join(dir.path, name);
            match above.get(name) {
                Some(&number) => self.above(dir, &below, (name, &path), number)?,
                None => {
                    let inode = self.inode(Side::Lower, below[name])?;
                    self.entry(Side::Lower, &inode, &path)?;
                    if inode.kind == InodeKind::Dir {
                        let lower = Some(&inode);
                        let depth = dir.depth + 1;
                        self.dir(&Dir { path: &path, upper: None, lower, whole: true, depth })?;
                    }
                }
            }
        }
        Ok(())
    }

    /// A name that the writable disk has.
    fn above(
        &mut self,
        dir: &Dir<'_>,
        below: &Listing,
        (name, path): (&[u8], &[u8]),
        number: u32,
    ) -> Result<(), LayerError> {
        let refuse = |why| Err(LayerError::Entry { path: path.to_vec(), why });
        let inode = self.inode(Side::Upper, number)?;
        if inode.is_whiteout() {
            let mark = [WHITEOUT, name].concat();
            return if dir.whole { Ok(()) } else { self.mark(dir.path, &mark) };
        }
        if name.starts_with(WHITEOUT) {
            return refuse("has a name that means a deletion in a layer; rename it first");
        }
        let xattrs = self.upper.xattrs(&inode).map_err(LayerError::Upper)?;
        let said = |what: &[u8]| xattrs.get(&[OVERLAY, what].concat());
        if said(b"metacopy").is_some() {
            return refuse("has its content elsewhere (metacopy), which is not read here");
        }
        self.entry(Side::Upper, &inode, path)?;
        if inode.kind != InodeKind::Dir {
            return Ok(());
        }
        let counterpart = match said(b"redirect") {
            Some(target) => Some(self.redirected(dir, below, target, path)?),
            None if said(b"opaque").is_some_and(|value| value == b"y") => None,
            None => self.directory_in(below, name)?,
        };
        let moved = said(b"redirect").is_some();
        if !dir.whole && (moved || said(b"opaque").is_some_and(|value| value == b"y")) {
            self.mark(path, OPAQUE)?;
        }
        let (upper, lower) = (Some(&inode), counterpart.as_ref());
        let whole = dir.whole || moved;
        self.dir(&Dir { path, upper, lower, whole, depth: dir.depth + 1 })
    }

    /// The directory of the image that a renamed one was: overlayfs.rst,
    /// "redirect_dir"; a path from the image's root, or a name beside it.
    fn redirected(
        &self,
        dir: &Dir<'_>,
        below: &Listing,
        target: &[u8],
        path: &[u8],
    ) -> Result<Inode, LayerError> {
        let lost = || LayerError::Entry {
            path: path.to_vec(),
            why: "was renamed from a directory that the image does not have",
        };
        let Some(absolute) = target.strip_prefix(b"/") else {
            if dir.lower.is_none() {
                return Err(lost());
            }
            return self.directory_in(below, target)?.ok_or_else(lost);
        };
        let mut at = self.inode(Side::Lower, ROOT)?;
        for name in absolute.split(|&c| c == b'/') {
            let names = self.list(Side::Lower, Some(&at))?;
            at = self.directory_in(&names, name)?.ok_or_else(lost)?;
        }
        Ok(at)
    }

    /// A name among those of the image's disk, if it is a directory's.
    fn directory_in(&self, names: &Listing, name: &[u8]) -> Result<Option<Inode>, LayerError> {
        let Some(&number) = names.get(name) else { return Ok(None) };
        let inode = self.inode(Side::Lower, number)?;
        Ok(Some(inode).filter(|inode| inode.kind == InodeKind::Dir))
    }

    fn volume(&self, side: Side) -> &Volume {
        match side {
            Side::Upper => self.upper,
            Side::Lower => self.lower,
        }
    }

    fn inode(&self, side: Side, number: u32) -> Result<Inode, LayerError> {
        self.volume(side).inode(number).map_err(of(side))
    }

    fn list(&self, side: Side, dir: Option<&Inode>) -> Result<Listing, LayerError> {
        dir.map_or_else(|| Ok(Listing::new()), |dir| self.volume(side).list(dir).map_err(of(side)))
    }

    fn count(&mut self, bytes: u64) -> Result<(), LayerError> {
        self.entries = self.entries.checked_sub(1).ok_or(LayerError::TooMuch("files"))?;
        self.bytes = self.bytes.checked_sub(bytes).ok_or(LayerError::TooMuch("bytes"))?;
        Ok(())
    }

    /// An empty file whose name alone counts.
    fn mark(&mut self, dir: &[u8], name: &[u8]) -> Result<(), LayerError> {
        self.count(0)?;
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0);
        header.set_mtime(0);
        header.set_size(0);
        let path = join(dir, name);
        self.tar.append_data(&mut header, as_path(&path), io::empty()).map_err(LayerError::Write)
    }

    fn entry(&mut self, side: Side, inode: &Inode, path: &[u8]) -> Result<(), LayerError> {
        if inode.kind == InodeKind::Socket {
            return Ok(());
        }
        self.count(0)?;
        let mut header = Header::new_gnu();
        header.set_mode(u32::from(inode.mode));
        header.set_uid(inode.uid.into());
        header.set_gid(inode.gid.into());
        header.set_mtime(u64::try_from(inode.mtime.secs).unwrap_or(0));
        header.set_size(0);
        if inode.links > 1 && inode.kind != InodeKind::Dir {
            if let Some(first) = self.linked.get(&(side, inode.number)) {
                header.set_entry_type(EntryType::Link);
                let linked = self.tar.append_link(&mut header, as_path(path), as_path(first));
                return linked.map_err(LayerError::Write);
            }
            self.linked.insert((side, inode.number), path.to_vec());
        }
        let volume = self.volume(side);
        let mut records = Records::default();
        if inode.mtime.nanos > 0 || inode.mtime.secs < 0 {
            records.add("mtime", decimal(inode.mtime.secs, inode.mtime.nanos).into_bytes());
        }
        for (name, value) in volume.xattrs(inode).map_err(of(side))? {
            // What overlayfs keeps of its own is an order in a lower layer.
            if let (false, Ok(name)) = (name.starts_with(OVERLAY), std::str::from_utf8(&name)) {
                records.add(&format!("SCHILY.xattr.{name}"), value);
            }
        }
        if inode.kind == InodeKind::File {
            return self.file(side, inode, path, (header, records));
        }
        let target = match inode.kind {
            InodeKind::Symlink => Some(volume.target(inode).map_err(of(side))?),
            _ => None,
        };
        records.write(&mut self.tar)?;
        if let Some(target) = target {
            header.set_entry_type(EntryType::Symlink);
            let made = self.tar.append_link(&mut header, as_path(path), as_path(&target));
            return made.map_err(LayerError::Write);
        }
        let mut number = |major: u32, minor: u32| {
            header.set_device_major(major).and_then(|()| header.set_device_minor(minor))
        };
        let kind = match inode.kind {
            InodeKind::CharDevice { major, minor } => {
                number(major, minor).map_err(LayerError::Write)?;
                EntryType::Char
            }
            InodeKind::BlockDevice { major, minor } => {
                number(major, minor).map_err(LayerError::Write)?;
                EntryType::Block
            }
            InodeKind::Fifo => EntryType::Fifo,
            _ => EntryType::Directory,
        };
        header.set_entry_type(kind);
        self.tar.append_data(&mut header, as_path(path), io::empty()).map_err(LayerError::Write)
    }

    fn file(
        &mut self,
        side: Side,
        inode: &Inode,
        path: &[u8],
        (mut header, mut records): (Header, Records),
    ) -> Result<(), LayerError> {
        let volume = match side {
            Side::Upper => self.upper,
            Side::Lower => self.lower,
        };
        let spans = volume.spans(inode).map_err(of(side))?;
        let stored: u64 = spans.iter().map(|span| span.len).sum();
        let parts = parts_of(&spans);
        header.set_entry_type(EntryType::Regular);
        let mut name = Cow::Borrowed(as_path(path));
        let mut map = Vec::new();
        let is_sparse = stored < inode.size && parts.len() < MAX_PARTS;
        if is_sparse {
            // GNU tar manual, "Storing Sparse Files", form 1.0.
            records.add("GNU.sparse.major", b"1".to_vec());
            records.add("GNU.sparse.minor", b"0".to_vec());
            records.add("GNU.sparse.name", path.to_vec());
            records.add("GNU.sparse.realsize", inode.size.to_string().into_bytes());
            map = map_of(&parts, inode.size);
            name = Cow::Borrowed(Path::new("GNUSparseFile.0/sparse"));
        }
        let size = if is_sparse { map.len() as u64 + stored } else { inode.size };
        self.bytes = self.bytes.checked_sub(size).ok_or(LayerError::TooMuch("bytes"))?;
        header.set_size(size);
        records.write(&mut self.tar)?;
        let holes = if is_sparse { None } else { Some(inode.size) };
        let mut failed = None;
        let content = Content {
            volume,
            spans: &spans,
            at: 0,
            end: holes,
            buffer: Vec::new(),
            failed: &mut failed,
        };
        let written = self.tar.append_data(&mut header, &name, (&map[..]).chain(content));
        match (written, failed) {
            (_, Some(error)) => Err(of(side)(error)),
            (written, None) => written.map_err(LayerError::Write),
        }
    }
}

fn of(side: Side) -> impl Fn(ReadError) -> LayerError {
    move |error| match side {
        Side::Upper => LayerError::Upper(error),
        Side::Lower => LayerError::Lower(error),
    }
}

fn as_path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}

/// Seconds since 1970 as PAX has them: with the sign before all of it.
fn decimal(secs: i64, nanos: u32) -> String {
    let all = i128::from(secs) * 1_000_000_000 + i128::from(nanos);
    let sign = if all < 0 { "-" } else { "" };
    let all = all.unsigned_abs();
    format!("{sign}{}.{:09}", all / 1_000_000_000, all % 1_000_000_000)
}

/// Spans that follow each other are one part of the map.
fn parts_of(spans: &[Span]) -> Vec<(u64, u64)> {
    let mut parts: Vec<(u64, u64)> = Vec::new();
    for span in spans {
        match parts.last_mut() {
            Some(last) if last.0 + last.1 == span.offset => last.1 += span.len,
            _ => parts.push((span.offset, span.len)),
        }
    }
    parts
}

fn map_of(parts: &[(u64, u64)], size: u64) -> Vec<u8> {
    let ends = parts.last().is_some_and(|last| last.0 + last.1 == size);
    let end = (!ends).then_some((size, 0));
    let mut map = format!("{}\n", parts.len() + usize::from(!ends));
    for (offset, len) in parts.iter().copied().chain(end) {
        map.push_str(&format!("{offset}\n{len}\n"));
    }
    let mut map = map.into_bytes();
    map.resize(map.len().next_multiple_of(512), 0);
    map
}

/// PAX records of one entry.
#[derive(Default)]
struct Records(Vec<(String, Vec<u8>)>);

impl Records {
    fn add(&mut self, name: &str, value: Vec<u8>) {
        self.0.push((name.to_owned(), value));
    }

    fn write(&self, tar: &mut Builder<impl Write>) -> Result<(), LayerError> {
        if self.0.is_empty() {
            return Ok(());
        }
        let records = self.0.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        tar.append_pax_extensions(records).map_err(LayerError::Write)
    }
}

/// A file's content; with its holes as zeros where `end` says how long it is.
struct Content<'a> {
    volume: &'a Volume,
    spans: &'a [Span],
    at: u64,
    end: Option<u64>,
    buffer: Vec<u8>,
    failed: &'a mut Option<ReadError>,
}

/// What is read at once.
const PIECE: u64 = 256 << 10;

impl Content<'_> {
    fn fill(&mut self) -> Result<(), ReadError> {
        let Some(&span) = self.spans.first() else {
            let zeros = self.end.unwrap_or(self.at).saturating_sub(self.at).min(PIECE);
            self.zeros(zeros);
            return Ok(());
        };
        if self.end.is_some() && span.offset > self.at {
            self.zeros((span.offset - self.at).min(PIECE));
            return Ok(());
        }
        let into = if self.end.is_some() { self.at - span.offset } else { self.at };
        let take = (span.len - into).min(PIECE);
        self.volume.read(&span, into, take, &mut self.buffer)?;
        self.at += take;
        if into + take == span.len {
            self.spans = &self.spans[1..];
            // Without holes only the place within the span counts.
            if self.end.is_none() {
                self.at = 0;
            }
        }
        Ok(())
    }

    fn zeros(&mut self, count: u64) {
        self.buffer = vec![0; usize::try_from(count).unwrap_or(0)];
        self.at += count;
    }
}

impl Read for Content<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.buffer.is_empty()
            && let Err(error) = self.fill()
        {
            *self.failed = Some(error);
            return Err(io::ErrorKind::InvalidData.into());
        }
        let n = out.len().min(self.buffer.len());
        out[..n].copy_from_slice(&self.buffer[..n]);
        self.buffer.drain(..n);
        Ok(n)
    }
}

#[cfg(test)]
#[path = "layer_tests.rs"]
mod tests;
