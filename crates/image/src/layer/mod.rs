//! OCI layers: tar streams, plain or compressed, applied to an ext4 tree.

mod apply;
mod journal;
mod path;
mod pipeline;
mod sparse;
mod tar;

pub(crate) use apply::{Making, replay, tar_error};
pub(crate) use journal::{JournalHead, JournalReader, JournalWriter};
pub(crate) use pipeline::{Compression, ENTRY, LayerBlob, Limits, MEMORY, unpack};
pub(crate) use tar::{Kind, SkipRead, TarError, TarReader};

/// What all layers of one image may still add up to.
#[derive(Debug)]
pub(crate) struct Budget {
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
    /// Memory for inodes, names, link targets and attributes.
    pub(crate) metadata: u64,
}
