//! The file system while it is being put together: inodes and names in
//! memory, file data already on the disk.
//!
//! Names carry the layer that last set them, so that a whiteout can hide what
//! lower layers brought and keep what its own layer did, in whatever order
//! the layer lists them (OCI image spec 1.1, layer.md, "Whiteouts").

use std::collections::{BTreeMap, BTreeSet};

use super::alloc::Run;
use super::extent::Extent;
use super::layout::LINK_MAX;
use super::xattr::Xattr;

/// More directories inside one another than this are refused.
pub(crate) const MAX_DEPTH: usize = 1024;
/// Symbolic links on one path, as in the kernel (MAXSYMLINKS).
const MAX_FOLLOWED: usize = 40;
/// EXT4_NAME_LEN.
pub(crate) const MAX_NAME: usize = 255;

/// An index into the tree's inodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NodeId(u32);

impl NodeId {
    pub(super) fn index(self) -> usize {
        self.0 as usize
    }
}

/// Seconds since 1970 and nanoseconds of that second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Timestamp {
    pub(crate) secs: i64,
    pub(crate) nanos: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Attr {
    /// Permission bits with setuid, setgid and sticky: `0o7777` at most.
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Timestamp,
    pub(crate) xattrs: Vec<Xattr>,
}

impl Attr {
    /// What a directory gets that no entry describes.
    fn implied() -> Self {
        Self { mode: 0o755, ..Self::default() }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct FileData {
    pub(crate) size: u64,
    pub(crate) extents: Vec<Extent>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    Dir,
    File(FileData),
    Symlink(Box<[u8]>),
    CharDevice {
        major: u32,
        minor: u32,
    },
    BlockDevice {
        major: u32,
        minor: u32,
    },
    Fifo,
    #[cfg_attr(not(test), expect(dead_code, reason = "tar has no sockets"))]
    Socket,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) attr: Attr,
    pub(super) content: Content,
    /// Names of this inode; 1 for a directory.
    pub(super) links: u32,
    /// The layer that brought it.
    born: u32,
    pub(super) names: Names,
}

/// Names in a directory; of everything else no more than a word.
#[derive(Debug, Default)]
#[expect(clippy::box_collection, reason = "a map of its own is three words in each file")]
pub(super) struct Names(Option<Box<BTreeMap<Box<[u8]>, Name>>>);

impl Names {
    fn get(&self, name: &[u8]) -> Option<&Name> {
        self.0.as_ref()?.get(name)
    }

    fn remove(&mut self, name: &[u8]) -> Option<Name> {
        self.0.as_mut()?.remove(name)
    }

    fn insert(&mut self, name: Box<[u8]>, entry: Name) {
        self.0.get_or_insert_default().insert(name, entry);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], &Name)> {
        self.0.iter().flat_map(|names| names.iter()).map(|(name, entry)| (&**name, entry))
    }

    fn is_empty(&self) -> bool {
        self.0.as_ref().is_none_or(|names| names.is_empty())
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Name {
    pub(super) node: NodeId,
    layer: u32,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TreeError {
    #[error("goes through {0}, which is not a directory")]
    NotADirectory(String),
    #[error("goes through more than {MAX_FOLLOWED} symbolic links")]
    TooManySymlinks,
    #[error("lies more than {MAX_DEPTH} directories deep")]
    TooDeep,
    #[error("has a name of more than {MAX_NAME} bytes in it")]
    NameTooLong,
    #[error("links to a directory")]
    LinkToDirectory,
    #[error("has more than {LINK_MAX} hard links")]
    TooManyLinks,
    #[error("is one of more than 4 billion entries")]
    TooManyInodes,
}

#[derive(Debug)]
pub(crate) struct Tree {
    nodes: Vec<Option<Node>>,
    /// The layer that is being applied.
    layer: u32,
    /// Blocks of files that are gone and that this layer had brought.
    freed: Vec<Run>,
    /// Blocks of files that are gone and that a lower layer had brought: they
    /// keep their content, so that an image which ends with that layer can be
    /// copied from this disk.
    retired: Vec<Run>,
    /// Directories in which this layer has hidden all there was to hide: a
    /// layer full of whiteouts of one place takes no longer than one.
    hidden: (u32, BTreeSet<NodeId>),
}

impl Tree {
    pub(crate) const ROOT: NodeId = NodeId(0);

    pub(super) fn new() -> Self {
        let mut tree = Self {
            nodes: Vec::new(),
            layer: 0,
            freed: Vec::new(),
            retired: Vec::new(),
            hidden: (0, BTreeSet::new()),
        };
        tree.add(Attr::implied(), Content::Dir).expect("the first inode has a number");
        tree
    }

    pub(super) fn node(&self, id: NodeId) -> &Node {
        self.nodes[id.index()].as_ref().expect("names only lead to inodes that are there")
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        self.nodes[id.index()].as_mut().expect("names only lead to inodes that are there")
    }

    /// How many slots of inodes there are; ids are below it.
    pub(super) fn slots(&self) -> usize {
        self.nodes.len()
    }

    /// From here on it is this layer that brings and removes.
    pub(super) fn begin_layer(&mut self, layer: u32) {
        self.layer = layer;
    }

    pub(super) fn retired(&self) -> &[Run] {
        &self.retired
    }

    /// What stands in place of all that replaying has freed and retired.
    pub(super) fn resume(&mut self, retired: Vec<Run>) {
        self.freed.clear();
        self.retired = retired;
    }

    pub(super) fn take_freed(&mut self) -> Vec<Run> {
        std::mem::take(&mut self.freed)
    }

    pub(crate) fn is_dir(&self, id: NodeId) -> bool {
        self.node(id).content == Content::Dir
    }

    pub(crate) fn lookup(&self, dir: NodeId, name: &[u8]) -> Option<NodeId> {
        self.node(dir).names.get(name).map(|entry| entry.node)
    }

    pub(crate) fn set_attr(&mut self, id: NodeId, attr: Attr) {
        self.node_mut(id).attr = attr;
    }

    /// The directory that a path leads to. A symbolic link on the way is
    /// followed as a process whose root is the tree would, so it never leads
    /// outside; what is missing is made, also where a link points to nothing.
    pub(crate) fn directory_at(&mut self, path: &[&[u8]], layer: u32) -> Result<NodeId, TreeError> {
        let mut walk = Walk::new(path);
        while let Some(name) = walk.next()? {
            let id = match self.lookup(walk.at(), &name) {
                Some(id) => id,
                None => self.put(walk.at(), &name, Attr::implied(), Content::Dir, layer)?,
            };
            walk.enter(self, id, &name)?;
        }
        Ok(walk.at())
    }

    /// The same for a directory that must be there; `None` when it is not.
    pub(crate) fn find_directory(&self, path: &[&[u8]]) -> Option<NodeId> {
        let mut walk = Walk::new(path);
        while let Some(name) = walk.next().ok()? {
            let id = self.lookup(walk.at(), &name)?;
            walk.enter(self, id, &name).ok()?;
        }
        Some(walk.at())
    }

    /// Gives `name` in `dir` this content. A directory over a directory only
    /// changes its attributes; anything else replaces what was there.
    pub(crate) fn put(
        &mut self,
        dir: NodeId,
        name: &[u8],
        attr: Attr,
        content: Content,
        layer: u32,
    ) -> Result<NodeId, TreeError> {
        if name.len() > MAX_NAME {
            return Err(TreeError::NameTooLong);
        }
        if let Some(old) = self.lookup(dir, name) {
            if content == Content::Dir && self.is_dir(old) {
                self.set_attr(old, attr);
                self.name(dir, name, old, layer);
                return Ok(old);
            }
            self.remove(dir, name);
        }
        let id = self.add(attr, content)?;
        self.name(dir, name, id, layer);
        Ok(id)
    }

    /// Another name for an inode that is not a directory.
    pub(crate) fn link(
        &mut self,
        dir: NodeId,
        name: &[u8],
        target: NodeId,
        layer: u32,
    ) -> Result<(), TreeError> {
        if name.len() > MAX_NAME {
            return Err(TreeError::NameTooLong);
        }
        if self.is_dir(target) {
            return Err(TreeError::LinkToDirectory);
        }
        if self.node(target).links >= LINK_MAX {
            return Err(TreeError::TooManyLinks);
        }
        self.node_mut(target).links += 1;
        self.remove(dir, name);
        self.name(dir, name, target, layer);
        Ok(())
    }

    /// Removes a name and all below it; nothing when it is not there.
    pub(crate) fn remove(&mut self, dir: NodeId, name: &[u8]) {
        let Some(entry) = self.node_mut(dir).names.remove(name) else { return };
        let mut gone = vec![entry.node];
        while let Some(id) = gone.pop() {
            let layer = self.layer;
            let node = self.node_mut(id);
            node.links -= 1;
            if node.links > 0 {
                continue;
            }
            gone.extend(node.names.iter().map(|(_, entry)| entry.node));
            let is_own = node.born == layer;
            if let Content::File(data) = &node.content {
                let runs: Vec<Run> = data.extents.iter().map(|extent| extent.run).collect();
                if is_own { self.freed.extend(runs) } else { self.retired.extend(runs) }
            }
            self.nodes[id.index()] = None;
        }
    }

    /// Hides `name` as a whiteout in `layer` does.
    pub(crate) fn hide(&mut self, dir: NodeId, name: &[u8], layer: u32) {
        let Some(&entry) = self.node(dir).names.get(name) else { return };
        let emptied = self.hide_children(entry.node, layer);
        if entry.layer < layer && emptied {
            self.remove(dir, name);
        }
    }

    /// Hides all that lower layers put into a directory; whether that leaves
    /// it empty. Recursion ends at [`MAX_DEPTH`].
    pub(crate) fn hide_children(&mut self, dir: NodeId, layer: u32) -> bool {
        if self.hidden.0 != layer {
            self.hidden = (layer, BTreeSet::new());
        }
        // Ids are never used again, and what the layer adds later is its own.
        if self.hidden.1.insert(dir) {
            let names: Vec<Box<[u8]>> =
                self.node(dir).names.iter().map(|(name, _)| name.into()).collect();
            for name in names {
                self.hide(dir, &name, layer);
            }
        }
        self.node(dir).names.is_empty()
    }

    fn add(&mut self, attr: Attr, content: Content) -> Result<NodeId, TreeError> {
        let id = u32::try_from(self.nodes.len()).map_err(|_| TreeError::TooManyInodes)?;
        let born = self.layer;
        self.nodes.push(Some(Node { attr, content, links: 1, born, names: Names::default() }));
        Ok(NodeId(id))
    }

    fn name(&mut self, dir: NodeId, name: &[u8], node: NodeId, layer: u32) {
        self.node_mut(dir).names.insert(name.into(), Name { node, layer });
    }
}

/// One walk along a path. What is left to do is a stack, so that a link's
/// target is walked before the rest.
struct Walk {
    left: Vec<Box<[u8]>>,
    passed: Vec<NodeId>,
    followed: usize,
}

impl Walk {
    fn new(path: &[&[u8]]) -> Self {
        let left = path.iter().rev().map(|&name| name.into()).collect();
        Self { left, passed: vec![Tree::ROOT], followed: 0 }
    }

    fn at(&self) -> NodeId {
        *self.passed.last().expect("the root is never popped")
    }

    /// The next name to look up in `at`; `.` and `..` are dealt with here,
    /// and `..` in the root is the root.
    fn next(&mut self) -> Result<Option<Box<[u8]>>, TreeError> {
        while let Some(name) = self.left.pop() {
            match &*name {
                b"" | b"." => {}
                b".." if self.passed.len() > 1 => {
                    self.passed.pop();
                }
                b".." => {}
                _ if self.passed.len() > MAX_DEPTH => return Err(TreeError::TooDeep),
                _ => return Ok(Some(name)),
            }
        }
        Ok(None)
    }

    fn enter(&mut self, tree: &Tree, id: NodeId, name: &[u8]) -> Result<(), TreeError> {
        match &tree.node(id).content {
            Content::Dir => self.passed.push(id),
            Content::Symlink(target) => {
                self.followed += 1;
                if self.followed > MAX_FOLLOWED {
                    return Err(TreeError::TooManySymlinks);
                }
                if target.starts_with(b"/") {
                    self.passed.truncate(1);
                }
                self.left.extend(target.split(|&c| c == b'/').rev().map(Box::from));
            }
            _ => return Err(TreeError::NotADirectory(crate::error::shown(name))),
        }
        Ok(())
    }
}
