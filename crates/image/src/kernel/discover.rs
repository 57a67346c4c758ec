use std::cmp::Ordering;
use std::fs;
use std::path::{Path, PathBuf};

use super::KernelError;

/// An image file and what its place says about it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Found {
    pub(super) image: PathBuf,
    /// From the file's name; may be empty.
    pub(super) version: String,
    pub(super) modules: Option<PathBuf>,
}

/// Where a distribution installs its kernels.
#[derive(Debug)]
pub(super) struct HostKernels {
    pub(super) boot: PathBuf,
}

impl Default for HostKernels {
    fn default() -> Self {
        Self { boot: "/boot".into() }
    }
}

/// The uncompressed form first, since nothing has to be made from it.
const IMAGE_NAMES: [&str; 3] = ["vmlinux", "vmlinuz", "bzImage"];

/// Bounds what one look into a directory costs; a kernel package has four files there.
const MAX_ENTRIES: usize = 4096;

pub(super) fn find(
    explicit: Option<&Path>,
    data_kernels: &Path,
    host: &HostKernels,
) -> Result<Found, KernelError> {
    if let Some(path) = explicit {
        return find_explicit(path);
    }
    let mut found = Vec::new();
    for dir in trees(data_kernels)? {
        found.extend(find_in_tree(&dir)?);
    }
    if let Some(newest) = newest(found) {
        return Ok(newest);
    }
    let mut locked = Vec::new();
    let readable = images_in(&host.boot)?.into_iter().filter(|found| {
        // Ubuntu lets only root read them.
        let readable = fs::File::open(&found.image).is_ok();
        if !readable {
            locked.push(found.image.clone());
        }
        // A distribution's kernel never has all built in.
        readable && found.modules.is_some()
    });
    newest(readable.collect()).ok_or_else(|| not_found(data_kernels, &host.boot, &locked))
}

/// The directories of kernels; one that is being filled has a dot first.
pub(super) fn trees(data_kernels: &Path) -> Result<Vec<PathBuf>, KernelError> {
    let mut dirs = entries(data_kernels)?;
    dirs.retain(|dir| {
        let name = dir.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| !name.starts_with('.')) && dir.is_dir()
    });
    Ok(dirs)
}

fn not_found(data_kernels: &Path, boot: &Path, locked: &[PathBuf]) -> KernelError {
    let mut hint = format!(
        "`inn image kernel fetch` unpacks the distribution's there, from the package \
         linux-image-cloud-amd64 on Debian; elsewhere unpack one by `dpkg -x linux-image-*.deb {}`, \
         or name one with --kernel",
        data_kernels.join("debian").display()
    );
    if let Some(path) = locked.first() {
        hint.push_str(&format!(" ({} is there and only root may read it)", path.display()));
    }
    KernelError::NotFound { looked_in: vec![data_kernels.to_owned(), boot.to_owned()], hint }
}

fn find_explicit(path: &Path) -> Result<Found, KernelError> {
    let meta = path.metadata().map_err(|e| KernelError::io("open the kernel", path, e))?;
    if meta.is_dir() {
        return newest(find_in_tree(path)?).ok_or_else(|| {
            KernelError::not_a_kernel(
                path,
                "holds no kernel: no vmlinux or vmlinuz in it or in its boot/",
            )
        });
    }
    if !meta.is_file() {
        return Err(KernelError::not_a_kernel(path, "is not a file"));
    }
    Ok(found_at(path.to_owned()))
}

/// The kernels of one unpacked package: `boot/vmlinuz-V` as dpkg -x leaves it,
/// or the same files flat.
pub(super) fn find_in_tree(dir: &Path) -> Result<Vec<Found>, KernelError> {
    let mut found = images_in(dir)?;
    found.extend(images_in(&dir.join("boot"))?);
    Ok(found)
}

pub(super) fn images_in(dir: &Path) -> Result<Vec<Found>, KernelError> {
    let mut found: Vec<Found> = Vec::new();
    for path in entries(dir)? {
        let is_image = path
            .file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| split_name(name).is_some());
        if is_image && path.is_file() {
            found.push(found_at(path));
        }
    }
    // Of one version the first form of IMAGE_NAMES.
    found.sort_by_key(|f| form(&f.image));
    let mut versions = Vec::new();
    found.retain(|f| {
        let first = !versions.contains(&f.version);
        versions.push(f.version.clone());
        first
    });
    Ok(found)
}

fn found_at(image: PathBuf) -> Found {
    let name = image.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let version = split_name(name).map(|(_, version)| version.to_owned()).unwrap_or_default();
    let modules = modules_of(&image, &version);
    Found { image, version, modules }
}

/// `vmlinuz-6.1.0` → (`vmlinuz`, `6.1.0`).
fn split_name(name: &str) -> Option<(&'static str, &str)> {
    IMAGE_NAMES.iter().find_map(|form| match name.strip_prefix(form)? {
        "" => Some((*form, "")),
        // `vmlinuz-VERSION.old` and the like are leftovers of an upgrade.
        rest if rest.ends_with(".old") || rest.ends_with(".sig") || rest.ends_with(".hmac") => None,
        rest => Some((*form, rest.strip_prefix('-')?)),
    })
}

fn form(image: &Path) -> usize {
    let name = image.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let form = split_name(name).map(|(form, _)| form);
    IMAGE_NAMES.iter().position(|known| Some(*known) == form).unwrap_or(IMAGE_NAMES.len())
}

/// The directory with the modules of the kernel at `image`: in a tree around
/// it (its `boot/`'s parent, or its own directory), or `modules` beside it.
pub(super) fn modules_of(image: &Path, version: &str) -> Option<PathBuf> {
    let dir = image.parent()?;
    let root = if dir.file_name().is_some_and(|name| name == "boot") { dir.parent()? } else { dir };
    if !version.is_empty() && !version.contains('/') {
        let in_tree =
            ["lib/modules", "usr/lib/modules", "modules"].map(|lib| root.join(lib).join(version));
        if let Some(found) = in_tree.into_iter().find(|dir| dir.is_dir()) {
            return Some(found);
        }
    }
    // Flat: `modules` is the one kernel's own.
    let flat = dir.join("modules");
    flat.join("kernel").is_dir().then_some(flat)
}

pub(super) fn newest(found: Vec<Found>) -> Option<Found> {
    found
        .into_iter()
        .max_by(|a, b| compare_versions(&a.version, &b.version).then_with(|| a.image.cmp(&b.image)))
}

/// Numbers as numbers, the rest as text: `6.10` is newer than `6.9`.
fn compare_versions(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        let (text_a, text_b) = (
            take_while(&mut a, |c| !c.is_ascii_digit()),
            take_while(&mut b, |c| !c.is_ascii_digit()),
        );
        let (n_a, n_b) = (
            take_while(&mut a, |c| c.is_ascii_digit()),
            take_while(&mut b, |c| c.is_ascii_digit()),
        );
        let [n_a, n_b] = [n_a, n_b].map(|n| n.trim_start_matches('0'));
        let order =
            text_a.cmp(text_b).then_with(|| n_a.len().cmp(&n_b.len())).then_with(|| n_a.cmp(n_b));
        if order != Ordering::Equal || (a.is_empty() && b.is_empty()) {
            return order;
        }
    }
}

fn take_while<'a>(text: &mut &'a str, of: impl Fn(char) -> bool) -> &'a str {
    let (head, tail) = text.split_at(text.find(|c| !of(c)).unwrap_or(text.len()));
    *text = tail;
    head
}

/// What is in a directory, in order; nothing if it isn't there.
fn entries(dir: &Path) -> Result<Vec<PathBuf>, KernelError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e)
            if matches!(
                e.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(Vec::new());
        }
        Err(e) => return Err(KernelError::io("look for kernels in", dir, e)),
    };
    let mut paths = entries
        .take(MAX_ENTRIES)
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| KernelError::io("look for kernels in", dir, e))?;
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn versions_compare_as_people_read_them() {
        let sorted = [
            "",
            "5.10.0",
            "6.1.0-9-amd64",
            "6.1.0-56-amd64",
            "6.1.0-56-cloud-amd64",
            "6.9",
            "6.10",
        ];
        for pair in sorted.windows(2) {
            assert_eq!(compare_versions(pair[0], pair[1]), Ordering::Less, "{pair:?}");
        }
    }

    proptest! {
        #[test]
        fn comparing_is_an_order(a in "[0-9a-c.-]{0,12}", b in "[0-9a-c.-]{0,12}", c in "[0-9a-c.-]{0,12}") {
            prop_assert_eq!(compare_versions(&a, &b), compare_versions(&b, &a).reverse());
            if compare_versions(&a, &b).is_le() && compare_versions(&b, &c).is_le() {
                prop_assert!(compare_versions(&a, &c).is_le());
            }
        }
    }

    #[test]
    fn names_of_images_and_of_what_only_looks_like_one() {
        assert_eq!(
            split_name("vmlinuz-6.1.0-56-cloud-amd64"),
            Some(("vmlinuz", "6.1.0-56-cloud-amd64"))
        );
        assert_eq!(split_name("vmlinux"), Some(("vmlinux", "")));
        for other in
            ["vmlinuz-6.1.old", "vmlinux.xz", "initrd.img-6.1", "System.map-6.1", "vmlinuzz"]
        {
            assert_eq!(split_name(other), None, "{other}");
        }
    }
}
