//! What the cache holds, and what of it may go.
//!
//! ```text
//!   directories ─┐
//!   VMs, imports ┼─ read ─▶ Inventory ─┐
//!   last uses ───┘          CacheLimits ├─ plan (pure) ─▶ CachePlan ─ remove ─▶ what was removed
//!                           now ────────┘                              └ asks once more before each
//! ```
//!
//! Nobody counts references: what an entry consists of, and who uses it, is
//! read anew each time, so no crash can leave a count that is wrong. When an
//! entry was last used is its file's modification time, which every use renews
//! and which nothing else of ours reads: cheap, kept by the file system, and at
//! worst some seconds too old after a crash of the host.

mod inventory;
mod plan;
mod remove;
mod sentence;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use inn_units::{Bytes, Digest};

pub(crate) use inventory::{
    Known, Places, allocated, disk_name, inventory, is_locked, is_wanted, modified_unix, partial,
    renew,
};
pub use plan::plan;
pub use remove::{CacheRemoval, remove_file, remove_partial};
pub(crate) use remove::{unlink, used_since};

/// What was used so recently may be about to be used again: a VM that is being
/// made from it is not in any list yet.
pub const RECENT: Duration = Duration::from_secs(60);

/// Sorts of things that take room. A new sort needs no more than a row here:
/// whoever keeps such things lists them as entries and removes what is planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CacheKind {
    /// A root disk, its names, and the blobs that it was made from.
    Image,
    /// A disk image that was fetched.
    DiskImage,
    /// An empty file system, copied for each VM's own disk.
    EmptyDisk,
    /// A vmlinux that was extracted.
    Kernel,
    Initramfs,
    /// A machine that was saved for others to begin from.
    Template,
    /// What a download that was cut short has left, for the next try.
    Partial,
    /// What no image leads to.
    Leftover,
}

/// Who needs an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheUse {
    /// So many VMs run from it, or would.
    Vms(usize),
    /// An import or a pull brings it in.
    Import,
    /// VMs begin from it.
    Template,
    /// Another agent has its images in the same directory.
    OtherAgent,
}

/// One thing that is kept or goes as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheEntry {
    pub kind: CacheKind,
    /// Its own among those of its kind.
    pub id: String,
    /// As people know it.
    pub name: String,
    /// Its files. Several entries may have one in common: it goes with the last.
    pub parts: Vec<PathBuf>,
    /// Seconds since 1970.
    pub last_used: u64,
    pub uses: Vec<CacheUse>,
}

/// All that is in the cache.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    pub entries: Vec<CacheEntry>,
    /// What each file takes of the disk.
    pub sizes: BTreeMap<PathBuf, Bytes>,
}

/// How much there may be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheLimits {
    /// All of it together.
    pub size: Option<Bytes>,
    /// What nobody has used for so long goes.
    pub age: Option<Duration>,
    /// At least so much is to become free: something else needs it.
    pub room: Option<Bytes>,
}

/// What is to become of every entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachePlan {
    /// What goes first, in its order, then what stays, by kind and name.
    pub decisions: Vec<CacheDecision>,
    /// What all of it takes.
    pub used: Bytes,
    /// What the plan makes free.
    pub frees: Bytes,
    pub limits: CacheLimits,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheDecision {
    pub entry: CacheEntry,
    /// What it takes; of what it shares, all.
    pub bytes: Bytes,
    pub verdict: CacheVerdict,
}

/// Displays as one sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheVerdict {
    InUse(Vec<CacheUse>),
    JustUsed {
        ago: Duration,
    },
    /// Nothing asks for its removal.
    Within {
        unused: Duration,
        used: Bytes,
        limits: CacheLimits,
    },
    Expired {
        unused: Duration,
        limit: Duration,
    },
    OverLimit {
        used: Bytes,
        limit: Bytes,
    },
    ForRoom {
        needed: Bytes,
    },
    Unreferenced,
}

impl CacheVerdict {
    pub const fn removes(&self) -> bool {
        matches!(
            self,
            Self::Expired { .. }
                | Self::OverLimit { .. }
                | Self::ForRoom { .. }
                | Self::Unreferenced
        )
    }
}

impl CacheDecision {
    pub const fn removes(&self) -> bool {
        self.verdict.removes()
    }
}

impl CachePlan {
    pub fn removals(&self) -> impl Iterator<Item = &CacheDecision> {
        self.decisions.iter().filter(|decision| decision.removes())
    }
}

impl Inventory {
    /// Both, as one.
    pub fn extend(&mut self, other: Self) {
        self.entries.extend(other.entries);
        self.sizes.extend(other.sizes);
    }

    /// Marks what VMs need that were made from disk images or images, by id.
    pub fn mark(&mut self, kind: CacheKind, id: &Digest, by: CacheUse) {
        let id = id.hex();
        let entries = self.entries.iter_mut().filter(|e| e.kind == kind && e.id == id);
        entries.for_each(|entry| entry.uses.push(by));
    }

    /// Marks all of it.
    pub fn mark_all(&mut self, by: CacheUse) {
        self.entries.iter_mut().for_each(|entry| entry.uses.push(by));
    }
}
