//! One layer's entries, put into the tree.
//!
//! What a later entry or layer does to an earlier one follows what the
//! common runtimes do: a directory over a directory changes its attributes,
//! everything else replaces; a directory on the way that no entry made is
//! made as root's with mode 0755; a symbolic link on the way is followed
//! inside the root. A symbolic link's own target is stored as it stands: it
//! is resolved in the guest.

use std::io::BufRead;
use std::path::Path;

use super::journal::{JournalReader, JournalWriter, Kept, Step};
use super::path::{Target, components, target};
use super::tar::{Entry, Kind, SkipRead, TarError, TarReader};
use super::{Budget, ENTRY, LayerBlob, MEMORY};
use crate::course::Course;
use crate::error::{ImageError, shown};
use crate::ext4::{
    Attr, Boundary, Content, Ext4Builder, Ext4Error, FileData, MAX_SYMLINK, NodeId, Tree,
    TreeError, Xattr, xattrs_fit,
};

/// Linux device numbers have 12 and 20 bits (linux/kdev_t.h).
const MAX_MAJOR: u64 = 0xfff;
const MAX_MINOR: u64 = 0xf_ffff;

/// Why an entry was refused, without its name.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("{0}")]
    Because(String),
    #[error(transparent)]
    Tree(#[from] TreeError),
    #[error(transparent)]
    Disk(#[from] Ext4Error),
    #[error("over the budget")]
    OverBudget(String),
}

impl From<&'static str> for Refusal {
    fn from(why: &'static str) -> Self {
        Self::Because(why.to_owned())
    }
}

/// Applies a layer; `what` names it in messages. Fails with what the reader failed with, if it did.
pub(super) fn apply<R: SkipRead>(
    making: &mut Making<'_>,
    blob: &LayerBlob<'_>,
    what: &str,
    tar: &mut TarReader<R>,
) -> Result<(), ImageError> {
    making.builder.begin_layer(blob.number);
    let unwritten = |err| ImageError::io("write beside", blob.disk, err);
    while let Some(entry) = tar.next_entry().map_err(|err| tar_error(what, err))? {
        let mut applied = Applied {
            builder: &mut *making.builder,
            layer: blob.number,
            budget: &mut *making.budget,
            stored: None,
        };
        applied
            .entry(&entry, Data::Stream(tar))
            .map_err(|refusal| image_error(blob.disk, what, &entry.name, refusal))?;
        let stored = applied.stored.take();
        making.journal.entry(&entry, stored.as_ref()).map_err(unwritten)?;
    }
    let boundary = making.builder.boundary();
    making.journal.boundary(&boundary).map_err(unwritten)
}

/// Applies the lowest layers of another image once more, by its journal: the
/// tree and the journal come to be, and the boundary to copy up to.
pub(crate) fn replay(
    making: &mut Making<'_>,
    from: &mut JournalReader,
    layers: usize,
    (disk, course): (&Path, &Course),
) -> Result<Boundary, ImageError> {
    let fail = |err| ImageError::io("read the journal beside", disk, err);
    let unwritten = |err| ImageError::io("write beside", disk, err);
    let mut last = Boundary::default();
    for layer in (1u32..).take(layers) {
        course.check()?;
        let what = format!("layer {layer}");
        making.builder.begin_layer(layer);
        loop {
            let recorded = match from.next_step().map_err(fail)? {
                Step::Boundary(boundary) => {
                    making.journal.boundary(&boundary).map_err(unwritten)?;
                    last = boundary;
                    break;
                }
                Step::Entry(recorded) => recorded,
            };
            let mut applied = Applied {
                builder: &mut *making.builder,
                layer,
                budget: &mut *making.budget,
                stored: None,
            };
            applied
                .entry(&recorded.entry, Data::Kept(recorded.kept.as_ref()))
                .map_err(|refusal| image_error(disk, &what, &recorded.entry.name, refusal))?;
            let kept = recorded.kept.as_ref();
            making.journal.entry(&recorded.entry, kept).map_err(unwritten)?;
        }
    }
    Ok(last)
}

/// A disk that is being made, and what all its layers share.
pub(crate) struct Making<'a> {
    pub(crate) builder: &'a mut Ext4Builder,
    pub(crate) budget: &'a mut Budget,
    pub(crate) journal: &'a mut JournalWriter,
}

/// Where a file's data comes from.
enum Data<'a> {
    Stream(&'a mut dyn BufRead),
    /// It is on the disk already, or will be when it is copied.
    Kept(Option<&'a Kept>),
}

/// Turns a damaged archive into a sentence; our own error comes through.
pub(crate) fn tar_error(what: &str, err: TarError) -> ImageError {
    match err {
        TarError::Io(source) => read_error(what, source),
        other => ImageError::invalid(what, other.to_string()),
    }
}

/// A reader of ours failed: with an error of ours, or because what it
/// decompresses is damaged.
fn read_error(what: &str, source: std::io::Error) -> ImageError {
    match source.downcast::<ImageError>() {
        Ok(ours) => ours,
        Err(source) => ImageError::invalid(what, format!("cannot be read: {source}; get it again")),
    }
}

fn image_error(disk: &Path, what: &str, name: &[u8], refusal: Refusal) -> ImageError {
    let entry = || format!("the entry {} of {what}", shown(name));
    match refusal {
        Refusal::OverBudget(limit) => ImageError::TooLarge { what: what.into(), limit },
        Refusal::Disk(Ext4Error::Full) => ImageError::TooLarge {
            what: what.into(),
            limit: "its files do not fit into the largest root disk that is allowed".into(),
        },
        Refusal::Disk(Ext4Error::Input(source)) => tar_error(what, source.into()),
        Refusal::Disk(Ext4Error::Io(source)) => ImageError::io("write", disk, source),
        other => ImageError::invalid(entry(), other.to_string()),
    }
}

struct Applied<'a> {
    builder: &'a mut Ext4Builder,
    layer: u32,
    budget: &'a mut Budget,
    /// The data of the entry, if it was a file.
    stored: Option<Kept>,
}

impl Applied<'_> {
    fn entry(&mut self, entry: &Entry, data: Data<'_>) -> Result<(), Refusal> {
        self.budget.entries = self.budget.entries.checked_sub(1).ok_or_else(|| {
            Refusal::OverBudget("it has more entries than an image may have".into())
        })?;
        let xattrs = entry.xattrs.iter().map(|(name, value)| name.len() + value.len());
        let metadata = entry.name.len() + entry.link.len() + xattrs.sum::<usize>();
        let metadata = ENTRY + metadata as u64;
        self.budget.metadata = self.budget.metadata.checked_sub(metadata).ok_or_else(|| {
            Refusal::OverBudget(format!(
                "its files, their names and attributes take more memory than the {MEMORY} MiB \
                     that an image may, which are some 500,000 files"
            ))
        })?;
        let tree = &mut self.builder.tree;
        let (dir, name) = match target(&entry.name)? {
            Target::Ignored => return Ok(()),
            Target::Root if entry.kind == Kind::Dir => {
                tree.set_attr(Tree::ROOT, attr_of(entry)?);
                return Ok(());
            }
            Target::Root => return Err("is the root and not a directory".into()),
            Target::Opaque { dir } => {
                if let Some(dir) = tree.find_directory(&dir) {
                    tree.hide_children(dir, self.layer);
                }
                return Ok(());
            }
            Target::Whiteout { dir, name } => {
                if let Some(dir) = tree.find_directory(&dir) {
                    tree.hide(dir, name, self.layer);
                }
                return Ok(());
            }
            Target::Name { dir, name } => (tree.directory_at(&dir, self.layer)?, name),
        };
        if entry.kind == Kind::HardLink {
            let target = self.link_target(&entry.link)?;
            return Ok(self.builder.tree.link(dir, name, target, self.layer)?);
        }
        let attr = attr_of(entry)?;
        let content = self.content(entry, data)?;
        self.builder.tree.put(dir, name, attr, content, self.layer)?;
        Ok(())
    }

    fn content(&mut self, entry: &Entry, data: Data<'_>) -> Result<Content, Refusal> {
        let number = |n: u64, max: u64| match u32::try_from(n) {
            Ok(small) if n <= max => Ok(small),
            _ => Err(Refusal::Because(format!(
                "has the device number {n}, which Linux does not have"
            ))),
        };
        let device = || {
            Ok::<_, Refusal>((
                number(entry.device.0, MAX_MAJOR)?,
                number(entry.device.1, MAX_MINOR)?,
            ))
        };
        Ok(match entry.kind {
            Kind::Dir => Content::Dir,
            Kind::File => Content::File(self.file(entry, data)?),
            Kind::Symlink => {
                if entry.link.is_empty()
                    || entry.link.len() > MAX_SYMLINK
                    || entry.link.contains(&0)
                {
                    return Err(
                        "is a symbolic link whose target is empty, too long or has a NUL byte"
                            .into(),
                    );
                }
                Content::Symlink(entry.link.as_slice().into())
            }
            Kind::CharDevice => {
                let (major, minor) = device()?;
                Content::CharDevice { major, minor }
            }
            Kind::BlockDevice => {
                let (major, minor) = device()?;
                Content::BlockDevice { major, minor }
            }
            Kind::Fifo => Content::Fifo,
            Kind::HardLink => unreachable!("hard links have no content of their own"),
        })
    }

    fn file(&mut self, entry: &Entry, data: Data<'_>) -> Result<FileData, Refusal> {
        let stored = match (&data, &entry.sparse) {
            (Data::Kept(kept), _) => kept.map_or(0, |kept| kept.stored),
            (Data::Stream(_), Some(map)) => map.ranges().iter().map(|range| range.1).sum(),
            (Data::Stream(_), None) => entry.size,
        };
        self.budget.bytes = self.budget.bytes.checked_sub(stored).ok_or_else(|| {
            Refusal::OverBudget("its files are larger than an image may be".into())
        })?;
        let data = match (data, &entry.sparse) {
            (Data::Kept(kept), _) => {
                return kept.map(|kept| kept.data.clone()).ok_or_else(|| "has no data".into());
            }
            (Data::Stream(data), Some(map)) => {
                self.builder.store_sparse(map.size(), &map.ranges(), &mut map.expand(data))?
            }
            (Data::Stream(data), None) => self.builder.store(entry.size, data)?,
        };
        self.stored = Some(Kept { stored, data: data.clone() });
        Ok(data)
    }

    fn link_target(&self, link: &[u8]) -> Result<NodeId, Refusal> {
        let refuse =
            |why: &str| Refusal::Because(format!("is a hard link to {}, which {why}", shown(link)));
        let mut dir = components(link).map_err(refuse)?;
        let tree = &self.builder.tree;
        let name = dir.pop().ok_or_else(|| refuse("is a directory"))?;
        tree.find_directory(&dir)
            .and_then(|dir| tree.lookup(dir, name))
            .ok_or_else(|| refuse("is not there"))
    }
}

fn attr_of(entry: &Entry) -> Result<Attr, Refusal> {
    let id = |n: u64, what| {
        u32::try_from(n).map_err(|_| {
            Refusal::Because(format!("has the {what} {n}, which has more than 32 bits"))
        })
    };
    let mut xattrs: Vec<Xattr> = Vec::new();
    for (name, value) in &entry.xattrs {
        // Overlayfs would take its own attributes in a lower layer as orders.
        let foreign = name.starts_with(b"trusted.overlay.");
        match Xattr::new(name, value).filter(|_| !foreign) {
            Some(xattr) => {
                xattrs.retain(|other| !other.same_name(&xattr));
                xattrs.push(xattr);
            }
            None => {
                tracing::debug!(entry = %shown(&entry.name), xattr = %shown(name), "attribute left out")
            }
        }
    }
    if !xattrs_fit(&xattrs) {
        return Err("has more extended attributes than fit into 4 KiB".into());
    }
    Ok(Attr {
        mode: u16::try_from(entry.mode & 0o7777).expect("twelve bits"),
        uid: id(entry.uid, "owner")?,
        gid: id(entry.gid, "group")?,
        mtime: entry.mtime,
        xattrs,
    })
}
