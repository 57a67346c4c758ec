//! Files of /etc, replaced whole: whoever reads sees the old one or the new.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

/// By rename, which replaces a link instead of following it. What is right
/// already is not written again.
pub(super) fn replace(path: &Path, content: &str, mode: u32) -> io::Result<()> {
    let is_file = fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file());
    if is_file && fs::read(path).is_ok_and(|now| now == content.as_bytes()) {
        return Ok(());
    }
    put(path, content, |file| file.set_permissions(Permissions::from_mode(mode)))
}

/// Keeps the mode and owner that the file has, and is on the disk when it
/// returns: for what nobody can log in without.
pub(super) fn rewrite(path: &Path, content: &str, new: (u32, u32)) -> io::Result<()> {
    let (mode, owner) = match fs::metadata(path) {
        Ok(meta) => (meta.mode() & 0o7777, (meta.uid(), meta.gid())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => (new.0, (0, new.1)),
        Err(error) => return Err(error),
    };
    put(path, content, |file| {
        fchown(file, Some(owner.0), Some(owner.1))?;
        file.set_permissions(Permissions::from_mode(mode))?;
        file.sync_all()
    })
}

fn put(
    path: &Path,
    content: &str,
    prepare: impl FnOnce(&File) -> io::Result<()>,
) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".inn");
    // What an agent that died in here left behind.
    let _none = fs::remove_file(&beside);
    let create = || fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside);
    let result = create().and_then(|mut file| {
        file.write_all(content.as_bytes())?;
        prepare(&file)?;
        fs::rename(&beside, path)
    });
    if result.is_err() {
        let _never_made = fs::remove_file(&beside);
    }
    result
}
