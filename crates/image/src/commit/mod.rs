//! An image of what a VM has made of another one.
//!
//! ```text
//!   a copy of the VM's disk ─┐
//!   the image's root disk ───┴▶ layer-writer (a process without any right) ─tar─▶ layer, gzip
//!                                                                                   │
//!   the image's manifest and configuration ─────────▶ one more layer in both ◀──────┘
//!                                                            └▶ imported like any other
//! ```
//! No kernel mounts what the guest has written: it is read by `ext4::read`,
//! in a process that has two disks and a pipe and nothing else
//! ([`LayerWriter`]). What comes out of the pipe is as little believed as any
//! other layer.

mod image;
mod layer;
mod process;

pub use image::{Base, CommitRequest, CommittedLayer, RunChange};
pub use process::{LayerWriter, if_asked};

/// What a layer is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerScope {
    /// What the VM has changed.
    Changes,
    /// All that the VM sees: for an image whose layers are not here any more.
    Whole,
}
