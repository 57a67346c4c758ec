//! `inn guest export`: the guest agent as a service, put into what is to become
//! a VM's root file system. Nothing of the agent on this host is involved.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::context::Context;
use crate::failure::Failure;
use crate::guest_binary::GUEST_BINARY;

static UNIT: &str = include_str!("../../../packaging/systemd/inn-guest.service");

/// Where the unit's ExecStart has it.
const BINARY_PLACE: &str = "usr/local/sbin/inn-guest";
const UNIT_PLACE: &str = "etc/systemd/system/inn-guest.service";

/// What `systemctl enable` makes of the unit's WantedBy.
const LINK_PLACE: &str = "etc/systemd/system/multi-user.target.wants/inn-guest.service";
const LINK_TARGET: &str = "/etc/systemd/system/inn-guest.service";

#[derive(Debug, Serialize)]
struct Exported {
    binary: PathBuf,
    unit: PathBuf,
}

pub(crate) fn export(context: &Context, dir: &Path) -> Result<u8, Failure> {
    let exported = write(dir, GUEST_BINARY)?;
    context.result(&exported, || {
        format!("{}\n{}\n", exported.binary.display(), exported.unit.display())
    })?;
    Ok(0)
}

/// May be called again: a newer agent replaces the older.
fn write(dir: &Path, binary: &[u8]) -> Result<Exported, Failure> {
    match fs::metadata(dir) {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => return Err(Failure::new(format!("{} is no directory", dir.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Failure::new(format!(
                "there is no {}; it is to be the root of a file system",
                dir.display()
            )));
        }
        Err(error) => {
            return Err(Failure::because(format!("cannot use {}", dir.display()), &error));
        }
    }
    let place = |below: &str| {
        let path = dir.join(below);
        let parent = path.parent().unwrap_or(dir);
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(parent)
            .map_err(|e| Failure::because(format!("cannot make {}", parent.display()), &e))?;
        Ok::<_, Failure>(path)
    };
    let put = |path: &Path, bytes: &[u8], mode: u32| {
        replace(path, |fresh| write_file(fresh, bytes, mode))
            .map_err(|e| Failure::because(format!("cannot write {}", path.display()), &e))
    };
    let (binary_path, unit, link) = (place(BINARY_PLACE)?, place(UNIT_PLACE)?, place(LINK_PLACE)?);
    put(&binary_path, binary, 0o755)?;
    put(&unit, UNIT.as_bytes(), 0o644)?;
    replace(&link, |fresh| symlink(LINK_TARGET, fresh))
        .map_err(|e| Failure::because(format!("cannot link {}", link.display()), &e))?;
    Ok(Exported { binary: binary_path, unit })
}

fn write_file(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file: File = File::options().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    // Whatever the umask is.
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))
}

/// Makes something under another name first: it appears whole or not at all,
/// also in place of an agent that is running.
fn replace(path: &Path, make: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = PathBuf::from(fresh);
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let made = make(&fresh).and_then(|()| fs::rename(&fresh, path));
    if made.is_err() {
        // Half of it, or nothing.
        let _gone = fs::remove_file(&fresh);
    }
    made
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_agent_its_unit_and_the_link_are_put_in_place_again_and_again() {
        let dir = tempfile::tempdir().unwrap();
        for binary in [&b"old"[..], b"new"] {
            let exported = write(dir.path(), binary).unwrap();
            assert_eq!(exported.binary, dir.path().join("usr/local/sbin/inn-guest"));
            assert_eq!(fs::read(&exported.binary).unwrap(), binary);
            let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
            assert_eq!((mode(&exported.binary), mode(&exported.unit)), (0o755, 0o644));
            let link = dir.path().join(LINK_PLACE);
            assert_eq!(fs::read_link(link).unwrap(), Path::new(LINK_TARGET));
        }
        let wants = dir.path().join("etc/systemd/system/multi-user.target.wants");
        assert_eq!(fs::read_dir(wants).unwrap().count(), 1, "nothing half made stays");
    }

    #[test]
    fn the_unit_starts_what_is_exported() {
        assert!(UNIT.contains(&format!("\nExecStart=/{BINARY_PLACE} serve\n")));
        assert!(UNIT.contains("\nWantedBy=multi-user.target\n"));
        assert_eq!(LINK_TARGET.trim_start_matches('/'), UNIT_PLACE);
    }

    #[test]
    fn what_is_no_root_directory_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let missing = write(&dir.path().join("none"), b"").unwrap_err();
        assert!(missing.sentence().contains("there is no "), "{}", missing.sentence());
        let file = dir.path().join("file");
        fs::write(&file, b"").unwrap();
        assert!(write(&file, b"").unwrap_err().sentence().ends_with("is no directory"));
        // A file where a directory belongs.
        fs::write(dir.path().join("usr"), b"").unwrap();
        let blocked = write(dir.path(), b"").unwrap_err();
        assert!(blocked.sentence().starts_with("cannot make "), "{}", blocked.sentence());
    }
}
