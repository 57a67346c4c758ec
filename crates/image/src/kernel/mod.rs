//! Kernels: which one a VM boots, and in which form.
//!
//! ```text
//!   explicit path ─┐
//!   data/kernels ──┼─ discover ─▶ bzImage ─ extract ─▶ cache/vmlinux-DIGEST
//!   host's /boot ──┘     │                                    │
//!                        └──────── vmlinux ───────────────────┴─▶ Kernel
//!                                                                   │ + modules, inn-guest
//!                                                cache/initramfs-DIGEST.cpio ◀┘
//! ```
//!
//! Both results are cached by the digest of what they are made from and are
//! written under another name first, so that a reader never sees half a file.
//! Answers are remembered while the files they came from look unchanged: the
//! second start of a VM reads no kernel.

mod cache;
mod discover;
pub(crate) mod elf;
mod error;
mod extract;
mod list;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use inn_units::{Bytes, Digest};
use sha2::{Digest as _, Sha256};

pub use error::KernelError;
pub use list::{KernelOrigin, ListedKernel};

use crate::cache::Inventory;
use crate::initramfs::{self, ModuleSet};
use cache::Cache;
use discover::{Found, HostKernels};

/// No distribution's kernel comes near (Debian's largest has 60 MiB).
pub const MAX_KERNEL: Bytes = Bytes::mib(256);

/// A kernel that can be booted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// An uncompressed ELF with a PVH entry point; the bzImage itself where
    /// none can be had from it, which boots too, only slower.
    pub vmlinux: PathBuf,
    /// `6.1.0-56-cloud-amd64`; empty where the image does not say.
    pub version: String,
    /// Its `lib/modules/VERSION`; `None` means that all is built in.
    pub modules: Option<PathBuf>,
    /// Of the image as found.
    pub digest: Digest,
}

/// Finds kernels and keeps what is made from them. Blocking: call it where
/// blocking is allowed.
#[derive(Debug)]
pub struct KernelStore {
    cache: Cache,
    host: HostKernels,
    kernels: Mutex<HashMap<Found, (FileStamp, Kernel)>>,
    initramfs: Mutex<HashMap<InitramfsKey, PathBuf>>,
}

/// What boots as a machine's `/init`. It is told apart by its digest, which takes
/// milliseconds: whoever boots it often keeps this.
#[derive(Debug, Clone, Copy)]
pub struct GuestBinary<'a> {
    bytes: &'a [u8],
    digest: Digest,
}

impl<'a> GuestBinary<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, digest: sha256(bytes) }
    }
}

/// What tells that a file is still the one that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct FileStamp {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct InitramfsKey {
    kernel: Digest,
    modules: Option<(PathBuf, FileStamp)>,
    guest: Digest,
    set: ModuleSet,
}

impl KernelStore {
    /// Makes the directory and removes what a dead process left half written,
    /// and what nobody has used for a month.
    pub fn open(cache: &Path) -> Result<Self, KernelError> {
        Self::with_host(cache, HostKernels::default())
    }

    fn with_host(cache: &Path, host: HostKernels) -> Result<Self, KernelError> {
        Ok(Self {
            cache: Cache::open(cache)?,
            host,
            kernels: Mutex::default(),
            initramfs: Mutex::default(),
        })
    }

    /// The kernel at `explicit`; else the newest in a directory of
    /// `data_kernels`; else the newest of the host's own.
    pub fn resolve(
        &self,
        explicit: Option<&Path>,
        data_kernels: &Path,
    ) -> Result<Kernel, KernelError> {
        let found = discover::find(explicit, data_kernels, &self.host)?;
        let stamp = FileStamp::of(&found.image)?;
        if let Some((known, kernel)) = lock(&self.kernels).get(&found)
            && *known == stamp
            && self.cache.is_there(&kernel.vmlinux)
        {
            return Ok(kernel.clone());
        }
        let kernel = self.prepare(&found)?;
        lock(&self.kernels).insert(found, (stamp, kernel.clone()));
        Ok(kernel)
    }

    /// Of what [`Self::resolve`] has given, by its path.
    pub fn digest_of(&self, vmlinux: &Path) -> Option<Digest> {
        let kernels = lock(&self.kernels);
        kernels.values().map(|(_, kernel)| kernel).find(|k| k.vmlinux == vmlinux).map(|k| k.digest)
    }

    /// All that could be booted: those in `data_kernels`, then the host's own.
    pub fn list(&self, data_kernels: &Path) -> Result<Vec<ListedKernel>, KernelError> {
        list::list(data_kernels, &self.host)
    }

    /// The image that a store would take, of which none needs to be there yet.
    pub fn image_here(
        explicit: Option<&Path>,
        data_kernels: &Path,
    ) -> Result<PathBuf, KernelError> {
        discover::find(explicit, data_kernels, &HostKernels::default()).map(|found| found.image)
    }

    /// The image that [`Self::resolve`] would take.
    pub fn image(
        &self,
        explicit: Option<&Path>,
        data_kernels: &Path,
    ) -> Result<PathBuf, KernelError> {
        discover::find(explicit, data_kernels, &self.host).map(|found| found.image)
    }

    /// An uncompressed newc cpio with `guest` as its `/init` and the modules
    /// that `set` needs and `kernel` has not built in.
    pub fn initramfs(
        &self,
        kernel: &Kernel,
        guest: GuestBinary<'_>,
        set: ModuleSet,
    ) -> Result<PathBuf, KernelError> {
        let modules = match &kernel.modules {
            Some(dir) => Some((dir.clone(), FileStamp::of(dir)?)),
            None => None,
        };
        let key = InitramfsKey { kernel: kernel.digest, modules, guest: guest.digest, set };
        if let Some(path) = lock(&self.initramfs).get(&key)
            && self.cache.is_there(path)
        {
            return Ok(path.clone());
        }
        let archive = initramfs::build(kernel.modules.as_deref(), guest.bytes, set)?;
        let name = format!("initramfs-{}.cpio", sha256(&archive).hex());
        let path = self.cache.get_or_write(&name, |file| {
            std::io::Write::write_all(file, &archive).map_err(Into::into)
        })?;
        lock(&self.initramfs).insert(key, path.clone());
        Ok(path)
    }

    /// What is cached: all of it can be made again.
    pub fn inventory(&self) -> Result<Inventory, KernelError> {
        self.cache.inventory()
    }

    fn prepare(&self, found: &Found) -> Result<Kernel, KernelError> {
        let image = read_bounded(&found.image)?;
        let digest = sha256(&image);
        let (vmlinux, version) = match extract::recognise(&image) {
            Some(extract::Image::Elf) => {
                elf::check_bootable(&mut std::io::Cursor::new(&image))
                    .map_err(|why| KernelError::not_a_kernel(&found.image, why))?;
                (found.image.clone(), String::new())
            }
            Some(extract::Image::BzImage(bz)) => {
                let name = format!("vmlinux-{}", digest.hex());
                let vmlinux = match self.cache.get_or_write(&name, |file| bz.extract(file)) {
                    Ok(path) => path,
                    // A kernel that only its own decompressor can read, or
                    // one without the entry point, still boots as it is.
                    Err(KernelError::Unextractable { why }) => {
                        tracing::warn!(image = %found.image.display(), why, "booting the compressed kernel: slower");
                        found.image.clone()
                    }
                    Err(KernelError::Payload { why }) => {
                        return Err(KernelError::not_a_kernel(&found.image, why));
                    }
                    Err(other) => return Err(other),
                };
                (vmlinux, bz.version().to_owned())
            }
            None => {
                return Err(KernelError::not_a_kernel(
                    &found.image,
                    "is neither a bzImage (vmlinuz) nor an ELF vmlinux for x86-64",
                ));
            }
        };
        let version = if found.version.is_empty() { version } else { found.version.clone() };
        let modules =
            found.modules.clone().or_else(|| discover::modules_of(&found.image, &version));
        Ok(Kernel { vmlinux, version, modules, digest })
    }
}

impl FileStamp {
    fn of(path: &Path) -> Result<Self, KernelError> {
        let meta = path.metadata().map_err(|e| KernelError::io("look at", path, e))?;
        Ok(Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, KernelError> {
    let file = File::open(path).map_err(|e| KernelError::io("open the kernel", path, e))?;
    let mut image = Vec::new();
    file.take(MAX_KERNEL.get() + 1)
        .read_to_end(&mut image)
        .map_err(|e| KernelError::io("read the kernel", path, e))?;
    if image.len() as u64 > MAX_KERNEL.get() {
        return Err(KernelError::not_a_kernel(path, format!("is larger than {MAX_KERNEL}")));
    }
    Ok(image)
}

pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    Digest::from_sha256(Sha256::digest(bytes).into())
}

/// The maps hold finished answers only: a panic elsewhere spoils none.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
