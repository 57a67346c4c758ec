//! Images: what a VM boots from.
//!
//! [`ImageStore`] turns OCI images into bootable root disks and keeps them,
//! by digest. The blocks it is made of know nothing of each other's inside:
//! `source` finds an image in a directory or an archive, `blob` keeps what
//! came, verified, `layer` reads hostile tar streams, and `ext4` writes the
//! disk, without mounting and without being root. [`kernel`] and
//! [`initramfs`] bring the other half of a boot.
//!
//! All of it blocks: async callers use `spawn_blocking`.

mod arrival;
mod blob;
mod build;
pub mod cache;
pub mod commit;
mod course;
pub mod disk_image;
mod error;
mod export;
mod ext4;
mod fetch;
pub mod initramfs;
mod jobs;
pub mod kernel;
mod layer;
mod layout;
mod record;
mod scratch;
mod source;
mod store;
mod watch;
mod workspace;

pub use error::ImageError;
pub use export::{ExportedImage, receive_layout};
pub use fetch::LayerSource;
pub use layout::write_layout;
pub use record::{ImageRecord, RunConfig};
pub use scratch::copy_disk;
pub use store::{Aside, ImageStore, ImportRequest, PullRequest};
pub use watch::{ImportProgress, ImportStep, ImportWatch, LayerProgress, LayerState, Unwatched};
