//! Files of /etc, replaced whole: whoever reads sees the old one or the new.

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

/// By rename, which replaces a link instead of following it. What is right
/// already is not written again.
pub(super) fn replace(path: &Path, content: &str, mode: u32) -> io::Result<()> {
    let is_file = fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file());
    if is_file && fs::read(path).is_ok_and(|now| now == content.as_bytes()) {
        return Ok(());
    }
    put(path, content.as_bytes(), |file| file.set_permissions(Permissions::from_mode(mode)))
}

/// In its place, in a machine whose guest waits for it: a fifth of what
/// [`replace`] takes. What is written goes in one piece, so readers see the old
/// file or the new one, or for a moment the new one with the end of an old one
/// that was longer. Whatever is no plain file of one name is replaced.
pub(super) fn overwrite(path: &Path, content: &str, mode: u32) -> io::Result<()> {
    match overwrite_plain(path, content.as_bytes()) {
        Ok(()) => Ok(()),
        // It is not there, a link, a directory, or on a disk that says no: the
        // other way knows what to do, or says so better.
        Err(_) => replace(path, content, mode),
    }
}

fn overwrite_plain(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() || meta.nlink() > 1 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    if meta.len() == content.len() as u64 {
        let mut now = Vec::with_capacity(content.len() + 1);
        file.read_to_end(&mut now)?;
        if now == content {
            return Ok(());
        }
    }
    file.write_all_at(content, 0)?;
    if meta.len() > content.len() as u64 { file.set_len(content.len() as u64) } else { Ok(()) }
}

/// Keeps the mode and owner that the file has, and is on the disk when it
/// returns: for what nobody can log in without.
pub(super) fn rewrite(path: &Path, content: &str, new: (u32, u32)) -> io::Result<()> {
    let (mode, owner) = match fs::metadata(path) {
        Ok(meta) => (meta.mode() & 0o7777, (meta.uid(), meta.gid())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => (new.0, (0, new.1)),
        Err(error) => return Err(error),
    };
    put(path, content.as_bytes(), |file| {
        fchown(file, Some(owner.0), Some(owner.1))?;
        file.set_permissions(Permissions::from_mode(mode))?;
        file.sync_all()
    })
}

/// What stood in a place, to be put back there.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Saved {
    Nothing,
    Link(PathBuf),
    File { content: Vec<u8>, mode: u32, owner: (u32, u32) },
}

impl Saved {
    pub(super) fn new(path: &Path) -> io::Result<Self> {
        let meta = match fs::symlink_metadata(path) {
            Ok(meta) => meta,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::Nothing),
            Err(error) => return Err(error),
        };
        if meta.is_symlink() {
            return fs::read_link(path).map(Self::Link);
        }
        let (mode, owner) = (meta.mode() & 0o7777, (meta.uid(), meta.gid()));
        Ok(Self::File { content: fs::read(path)?, mode, owner })
    }

    pub(super) fn restore(&self, path: &Path) -> io::Result<()> {
        match self {
            Self::Nothing => match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
            Self::Link(target) => {
                Self::Nothing.restore(path)?;
                std::os::unix::fs::symlink(target, path)
            }
            Self::File { content, mode, owner } => put(path, content, |file| {
                fchown(file, Some(owner.0), Some(owner.1))?;
                file.set_permissions(Permissions::from_mode(*mode))
            }),
        }
    }
}

fn put(
    path: &Path,
    content: &[u8],
    prepare: impl FnOnce(&File) -> io::Result<()>,
) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".inn");
    // What an agent that died in here left behind.
    let _none = fs::remove_file(&beside);
    let create = || fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside);
    let result = create().and_then(|mut file| {
        file.write_all(content)?;
        prepare(&file)?;
        fs::rename(&beside, path)
    });
    if result.is_err() {
        let _never_made = fs::remove_file(&beside);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stood_there_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        let states: [&dyn Fn(); 3] =
            [&|| {}, &|| std::os::unix::fs::symlink("../run/nowhere", &path).unwrap(), &|| {
                fs::write(&path, "old").unwrap();
                fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
            }];
        for make in states {
            Saved::Nothing.restore(&path).unwrap();
            make();
            let before = Saved::new(&path).unwrap();
            replace(&path, "new", 0o600).unwrap();
            assert_ne!(Saved::new(&path).unwrap(), before);
            before.restore(&path).unwrap();
            assert_eq!(Saved::new(&path).unwrap(), before);
        }
        assert!(!dir.path().join("resolv.conf.inn").exists());
    }

    #[test]
    fn what_is_overwritten_is_as_what_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hostname");
        let read = || fs::read_to_string(&path).unwrap();
        for content in ["one\n", "another\n", "another\n", "x\n", ""] {
            overwrite(&path, content, 0o644).unwrap();
            assert_eq!(read(), content);
        }
        let inode = || fs::metadata(&path).unwrap().ino();
        let before = inode();
        overwrite(&path, "same place\n", 0o644).unwrap();
        assert_eq!(inode(), before);

        let other = dir.path().join("other");
        fs::hard_link(&path, &other).unwrap();
        overwrite(&path, "not the other\n", 0o644).unwrap();
        assert_eq!(fs::read_to_string(&other).unwrap(), "same place\n");

        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        overwrite(&path, "not what the link leads to\n", 0o644).unwrap();
        assert_eq!(fs::read_to_string(&other).unwrap(), "same place\n");
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
    }
}
