use std::fs;
use std::path::{Path, PathBuf};

use inn_units::Bytes;

use super::KernelError;
use super::discover::{Found, HostKernels, find_in_tree, images_in, newest, trees};

/// Written by the build of a guest kernel: its version.
const BUILT: &str = "built";

/// Longer ones are no versions.
const MAX_VERSION: usize = 128;

/// A kernel that a VM could boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedKernel {
    /// Its directory's name; of the host's own its version.
    pub name: String,
    pub image: PathBuf,
    /// Empty where nothing says.
    pub version: String,
    /// Of the image as it lies there.
    pub bytes: Bytes,
    pub origin: KernelOrigin,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelOrigin {
    /// Unpacked from a package.
    Package,
    /// Built for guests: it needs no modules.
    Built,
    /// What the host itself may boot.
    Host,
}

pub(super) fn list(
    data_kernels: &Path,
    host: &HostKernels,
) -> Result<Vec<ListedKernel>, KernelError> {
    let mut listed = Vec::new();
    for dir in trees(data_kernels)? {
        let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(found) = newest(find_in_tree(&dir)?) else { continue };
        let built = built_version(&dir);
        let origin = if built.is_some() { KernelOrigin::Built } else { KernelOrigin::Package };
        let version = built.unwrap_or_else(|| found.version.clone());
        listed.extend(describe(found, name, version, origin));
    }
    for found in images_in(&host.boot)? {
        // As where one is looked for: those of distributions have modules.
        if found.modules.is_none() || fs::File::open(&found.image).is_err() {
            continue;
        }
        let version = found.version.clone();
        if !listed.iter().any(|known| known.name == version) {
            listed.extend(describe(found, version.clone(), version, KernelOrigin::Host));
        }
    }
    Ok(listed)
}

/// Nothing if it is gone meanwhile.
fn describe(
    found: Found,
    name: String,
    version: String,
    origin: KernelOrigin,
) -> Option<ListedKernel> {
    let bytes = Bytes(found.image.metadata().ok()?.len());
    Some(ListedKernel { name, image: found.image, version, bytes, origin })
}

fn built_version(dir: &Path) -> Option<String> {
    let text = fs::read_to_string(dir.join(BUILT)).ok()?;
    let version = text.lines().next()?.trim();
    (!version.is_empty() && version.len() <= MAX_VERSION).then(|| version.to_owned())
}
