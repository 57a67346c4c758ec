use std::fs::{self, File, FileTimes};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::KernelError;
use crate::cache::{CacheEntry, CacheKind, Inventory, allocated, modified_unix, renew};

/// Files by the digest of what they are made from; never changed once there.
#[derive(Debug)]
pub(super) struct Cache {
    dir: PathBuf,
}

const PARTIAL: &str = ".partial-";

/// For all who are handed one: a VMM without rights opens it anew, and would
/// need a copy of its own otherwise, of some 50 MiB and for as long as it runs.
/// Who may come here by a path, the directory says.
const READABLE: u32 = 0o644;

/// Far beyond any write: another agent may share the directory and be at it.
const PARTIAL_LIVES: Duration = Duration::from_secs(3600);

/// Each use renews a file, so what is older belongs to a kernel or an
/// `inn` that is no longer there.
const UNUSED_LIVES: Duration = Duration::from_secs(30 * 24 * 3600);

impl Cache {
    pub(super) fn open(dir: &Path) -> Result<Self, KernelError> {
        fs::create_dir_all(dir).map_err(|e| KernelError::io("make the kernel cache", dir, e))?;
        let cache = Self { dir: dir.to_owned() };
        cache
            .reap(SystemTime::now())
            .map_err(|e| KernelError::io("tidy the kernel cache", dir, e))?;
        Ok(cache)
    }

    /// The file `name`, made by `write` if it is not there yet. Two makers at
    /// once make the same bytes; the first one's stay.
    pub(super) fn get_or_write(
        &self,
        name: &str,
        write: impl FnOnce(&mut File) -> Result<(), KernelError>,
    ) -> Result<PathBuf, KernelError> {
        let path = self.dir.join(name);
        if let Ok(known) = File::options().write(true).open(&path) {
            known
                .set_times(FileTimes::new().set_modified(SystemTime::now()))
                .map_err(|e| KernelError::io("renew", &path, e))?;
            return Ok(path);
        }
        let mut partial = tempfile::Builder::new()
            .prefix(PARTIAL)
            .tempfile_in(&self.dir)
            .map_err(|e| KernelError::io("write in the kernel cache", &self.dir, e))?;
        write(partial.as_file_mut()).map_err(|e| match e {
            KernelError::Write(source) => KernelError::io("write", &path, source),
            other => other,
        })?;
        partial
            .as_file()
            .set_permissions(fs::Permissions::from_mode(READABLE))
            .map_err(|e| KernelError::io("share", &path, e))?;
        // Somebody may have made the same meanwhile. Theirs stays: it may be booted
        // already, and templates are told apart by which file it is.
        match partial.persist_noclobber(&path) {
            Err(e) if e.error.kind() == std::io::ErrorKind::AlreadyExists => Ok(path),
            Err(e) => Err(KernelError::io("name", &path, e.error)),
            Ok(_) => Ok(path),
        }
    }

    /// Whether the file is there, which is used now.
    pub(super) fn is_there(&self, path: &Path) -> bool {
        // One that is not of this cache is the host's own: it is not touched.
        if path.parent() != Some(&self.dir) {
            return path.exists();
        }
        renew(path).unwrap_or_else(|_| path.exists())
    }

    pub(super) fn inventory(&self) -> Result<Inventory, KernelError> {
        let fail = |e| KernelError::io("look through the kernel cache", &self.dir, e);
        let mut found = Inventory::default();
        for entry in fs::read_dir(&self.dir).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let name = entry.file_name();
            let Some((kind, of)) = name.to_str().and_then(|name| {
                let (form, digest) = name.split_once('-')?;
                match form {
                    "vmlinux" => Some((CacheKind::Kernel, digest)),
                    "initramfs" => Some((CacheKind::Initramfs, digest.strip_suffix(".cpio")?)),
                    _ => None,
                }
            }) else {
                continue;
            };
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                // Removed meanwhile.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                Err(e) => return Err(fail(e)),
            };
            found.sizes.insert(entry.path(), allocated(&metadata));
            found.entries.push(CacheEntry {
                kind,
                id: of.to_owned(),
                name: format!("{kind} {}", of.get(..12).unwrap_or(of)),
                parts: vec![entry.path()],
                last_used: modified_unix(&metadata),
                uses: Vec::new(),
            });
        }
        Ok(found)
    }

    /// Only touches what this cache itself has named.
    fn reap(&self, now: SystemTime) -> std::io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let lives = match name.to_str() {
                Some(name) if name.starts_with(PARTIAL) => PARTIAL_LIVES,
                Some(name) if name.starts_with("vmlinux-") || name.starts_with("initramfs-") => {
                    UNUSED_LIVES
                }
                _ => continue,
            };
            let meta = entry.metadata()?;
            if now.duration_since(meta.modified()?).is_ok_and(|age| age > lives) {
                fs::remove_file(entry.path())?;
            } else if lives == UNUSED_LIVES && meta.permissions().mode() & READABLE != READABLE {
                // Of a version that kept them to itself.
                fs::set_permissions(entry.path(), fs::Permissions::from_mode(READABLE))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_failed_write_leaves_nothing_and_a_good_one_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let fail = cache.get_or_write("vmlinux-1", |file| {
            file.write_all(b"half")?;
            Err(KernelError::Payload { why: "is torn".into() })
        });
        assert!(fail.is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);

        let path = cache.get_or_write("vmlinux-1", |file| Ok(file.write_all(b"whole")?)).unwrap();
        let again = cache.get_or_write("vmlinux-1", |_| panic!("it is there")).unwrap();
        assert_eq!((fs::read(&path).unwrap(), again), (b"whole".to_vec(), path.clone()));
        let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(), READABLE);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        Cache::open(dir.path()).unwrap();
        assert_eq!(mode(), READABLE, "an earlier version's are shared, too");
    }

    #[test]
    fn of_two_makers_at_once_the_first_ones_file_stays() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let ino = |path: &Path| fs::metadata(path).unwrap().ino();
        let mut first = None;
        let path = cache.get_or_write("vmlinux-1", |file| {
            let theirs = cache.get_or_write("vmlinux-1", |file| Ok(file.write_all(b"same")?))?;
            first = Some(ino(&theirs));
            Ok(file.write_all(b"same")?)
        });
        assert_eq!(Some(ino(&path.unwrap())), first);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn tidying_takes_the_old_and_leaves_the_foreign() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        for name in [".partial-x", "vmlinux-a", "initramfs-a.cpio", "notes.txt"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        let left = || {
            let mut names: Vec<_> = fs::read_dir(dir.path())
                .unwrap()
                .map(|e| e.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        cache.reap(SystemTime::now()).unwrap();
        assert_eq!(left().len(), 4);
        cache.reap(SystemTime::now() + PARTIAL_LIVES * 2).unwrap();
        assert_eq!(left(), ["initramfs-a.cpio", "notes.txt", "vmlinux-a"]);
        cache.reap(SystemTime::now() + UNUSED_LIVES * 2).unwrap();
        assert_eq!(left(), ["notes.txt"]);
    }
}
