//! The read-only disk by which the guest agent comes into full VMs: one file
//! for all VMs of a node, made when the first needs it.
//!
//! It is named by what is in it. Another version's is removed as ours is made:
//! a machine that has it keeps it open, and its guest has long read it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use inn_cloud_init::AgentDisk;

use crate::reconcile::sync_parent;

static UNIT: &str = include_str!("../../../packaging/systemd/inn-guest.service");

#[derive(Debug)]
pub(crate) struct GuestDisk {
    dir: PathBuf,
    binary: &'static [u8],
    /// The name of ours, once somebody has asked.
    name: Mutex<Option<String>>,
}

impl GuestDisk {
    pub(crate) fn new(dir: PathBuf, binary: &'static [u8]) -> Self {
        Self { dir, binary, name: Mutex::default() }
    }

    /// Its file, which is there. Blocks: milliseconds once it was made.
    pub(crate) fn path(&self) -> Result<PathBuf, (PathBuf, io::Error)> {
        // One at a time, so that nobody makes it twice. A panic leaves no half.
        let mut name = self.name.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(name) = &*name {
            let path = self.dir.join(name);
            if path.exists() {
                return Ok(path);
            }
        }
        let bytes = AgentDisk { binary: self.binary, unit: UNIT }.disk();
        let of = twox_hash::XxHash3_64::oneshot(&bytes);
        let ours = name.insert(format!("inn-guest-{of:016x}.iso"));
        let path = self.dir.join(&*ours);
        let known = fs::metadata(&path).is_ok_and(|it| it.len() == bytes.len() as u64);
        if !known {
            make(&self.dir, &path, &bytes).map_err(|error| (path.clone(), error))?;
        }
        Ok(path)
    }
}

fn make(dir: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    write_whole(path, bytes)?;
    for entry in fs::read_dir(dir)? {
        let other = entry?.path();
        if other != path
            && let Err(error) = fs::remove_file(&other)
        {
            tracing::warn!(path = %other.display(), %error, "an older guest agent's disk stays");
        }
    }
    Ok(())
}

/// For its owner's eyes only, under its name only once it is whole.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = PathBuf::from(fresh);
    // What a dead agent has left half done has another one's mode, perhaps.
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file: File =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    sync_parent(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_made_once_and_another_version_s_goes() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("guest");
        let old = GuestDisk::new(place.clone(), b"old").path().unwrap();
        let made = fs::metadata(&old).unwrap().modified().unwrap();
        let same = GuestDisk::new(place.clone(), b"old");
        assert_eq!((same.path().unwrap(), same.path().unwrap()), (old.clone(), old.clone()));
        assert_eq!(fs::metadata(&old).unwrap().modified().unwrap(), made);

        fs::write(place.join("inn-guest-1.iso.new"), b"half").unwrap();
        let new = GuestDisk::new(place.clone(), b"new").path().unwrap();
        assert_ne!(new, old);
        let left: Vec<PathBuf> =
            fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(left, [new]);
        // The other one is made again where it is asked for.
        assert_eq!(same.path().unwrap(), old);
    }
}
