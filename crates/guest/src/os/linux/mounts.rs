//! Disks that the host attached, mounted by their serial; for good where that
//! is wanted, by a line in /etc/fstab (fstab(5)).

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use inn_guest_proto::wire::{FailureKind, MountDisk};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount as unmount2};

use super::mount_table::{self, escape, unescape};
use super::probe::{Found, probe};
use super::programs::Programs;
use super::{disks, etc, ioctls, wait_for};
use crate::refusal::{OrRefuse, Refusal};

const FSTAB: &str = "/etc/fstab";

/// mount(8) passes over options that begin like this: it tells our lines from
/// all others.
const OURS: &str = "x-innkeeper";

/// A disk of some terabytes, emulated, on a loaded host.
const FORMATTING: Duration = Duration::from_secs(300);
const RELOADING: Duration = Duration::from_secs(30);

/// For a disk that is there: one that is not must not keep the VM from
/// starting.
const APPEARING: Duration = Duration::from_secs(2);

/// What the machine could not go on without.
const NEVER: [&str; 5] = ["/", "/proc", "/sys", "/dev", "/run"];

/// A disk that is mounted there already is no error.
pub(crate) fn mount_disk(request: &MountDisk, programs: &Programs) -> Result<(), Refusal> {
    let Some(wanted) = &request.mount else {
        return Err(Refusal::invalid("mount a disk that is not named"));
    };
    let target = plain(&wanted.target)?;
    let device =
        disks::find(&wanted.serial).or_refuse(|| format!("find the disk {}", wanted.serial))?;
    let what = || format!("mount the disk {} on {target}", wanted.serial);
    let node = rustix::fs::open(&device, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .or_refuse(|| format!("open {}", device.display()))?;
    let size = ioctls::device_size(node.as_fd()).or_refuse(what)?;
    drop(node);
    let look = || probe(&device, size).or_refuse(|| format!("read {}", device.display()));
    let mut found = look()?;
    if request.format && found == Found::Nothing {
        let argv = ["mkfs.ext4", "-q", "-F", &device.to_string_lossy()];
        programs
            .run(&argv, FORMATTING)
            .map_err(|error| error.refuse(&format!("format the disk {}", wanted.serial)))?;
        found = look()?;
    }
    let (kind, uuid) = match (&found, request.kind.as_str()) {
        (Found::FileSystem { kind, uuid }, "") => ((*kind).to_owned(), uuid.clone()),
        (Found::FileSystem { uuid, .. }, kind) => (kind.to_owned(), uuid.clone()),
        (Found::Nothing, _) => {
            return Err(Refusal::invalid(format!("{}: it holds nothing", what())));
        }
        (Found::Unknown, "") => {
            let why = "it holds something, but no file system that is known here";
            return Err(Refusal::invalid(format!("{}: {why}", what())));
        }
        (Found::Unknown, kind) => (kind.to_owned(), None),
    };
    check_kind(&kind)?;
    let line = request.lasting.then(|| {
        let uuid = uuid.ok_or_else(|| {
            Refusal::invalid(format!("{} for good: a {kind} has no UUID to find it by", what()))
        });
        uuid.map(|uuid| fstab_line(&uuid, target, &kind, wanted.read_only))
    });
    let line = line.transpose()?;
    let there = mount_table::at(target).or_refuse(what)?;
    let number = fs::metadata(&device).or_refuse(what)?.rdev();
    let number = (rustix::fs::major(number), rustix::fs::minor(number));
    let is_this = |mounted: &mount_table::Mounted| {
        mounted.device == number || Path::new(&mounted.source) == device
    };
    if there.as_ref().is_some_and(|mounted| !is_this(mounted)) {
        let why = "something else is mounted there";
        return Err(Refusal::new(FailureKind::AlreadyExists, format!("{}: {why}", what())));
    }
    if let Some(line) = &line {
        // First, or systemd takes the new mount for one that is not to be.
        edit_fstab(|text| with_line(text, target, line), programs)?;
    }
    if there.is_some() {
        return Ok(());
    }
    fs::create_dir_all(target).or_refuse(|| format!("make {target}"))?;
    let read_only = wanted.read_only || matches!(kind.as_str(), "iso9660" | "squashfs" | "erofs");
    let mut flags = MountFlags::NOATIME;
    if read_only {
        flags |= MountFlags::RDONLY;
    }
    mount(&device, target, kind.as_str(), flags, None).or_refuse(what)
}

/// As PID 1: mounts what is to last, for there is no other init that reads
/// fstab. One sentence for each that is not there.
pub(super) fn mount_lasting(problems: &mut Vec<String>) {
    let text = fs::read_to_string(FSTAB).unwrap_or_default();
    for line in text.lines().filter_map(lasting) {
        if mount_table::at(&line.target).is_ok_and(|there| there.is_some()) {
            continue;
        }
        if let Err(error) = mount_line(&line) {
            problems.push(format!("{} was not mounted: {error}", line.target));
        }
    }
}

/// Of our own line.
#[derive(Debug, PartialEq, Eq)]
struct Lasting<'a> {
    uuid: &'a str,
    target: String,
    kind: &'a str,
    read_only: bool,
}

fn lasting(line: &str) -> Option<Lasting<'_>> {
    entry(line).filter(|entry| entry.ours)?;
    let mut words = line.split_ascii_whitespace();
    let uuid = words.next()?.strip_prefix("UUID=")?;
    let (target, kind, options) = (words.next()?, words.next()?, words.next()?);
    let read_only = options.split(',').any(|option| option == "ro");
    Some(Lasting { uuid, target: unescape(target), kind, read_only })
}

fn mount_line(line: &Lasting<'_>) -> io::Result<()> {
    let device = wait_for(&format!("the disk {}", line.uuid), APPEARING, || by_uuid(line.uuid))?;
    fs::create_dir_all(&line.target)?;
    let mut flags = MountFlags::NOATIME;
    if line.read_only {
        flags |= MountFlags::RDONLY;
    }
    Ok(mount(&device, line.target.as_str(), line.kind, flags, None)?)
}

fn by_uuid(wanted: &str) -> Option<PathBuf> {
    let disks = fs::read_dir("/sys/block").ok()?.flatten();
    disks.map(|disk| Path::new("/dev").join(disk.file_name())).find(|device| {
        // Its end is of no matter: what has a mark at the start is found there.
        let found = probe(device, 0);
        matches!(found, Ok(Found::FileSystem { uuid: Some(uuid), .. }) if uuid == wanted)
    })
}

/// Takes the lasting line away too; what is not mounted is no error.
pub(crate) fn unmount(target: &str, programs: &Programs) -> Result<(), Refusal> {
    let target = plain(target)?;
    let beneath = |dir: &str| target.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'));
    if NEVER.contains(&target) || ["/proc", "/sys", "/dev"].into_iter().any(beneath) {
        let what = format!("unmount {target}, which the machine needs");
        return Err(Refusal::new(FailureKind::Denied, what));
    }
    let what = || format!("unmount {target}");
    if mount_table::at(target).or_refuse(what)?.is_some() {
        match unmount2(target, UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(rustix::io::Errno::BUSY) => {
                let what = format!("{}: something in it is in use", what());
                return Err(Refusal::io(what, &io::Error::from_raw_os_error(libc::EBUSY)));
            }
            Err(error) => return Err(error).or_refuse(what),
        }
    }
    edit_fstab(|text| without_line(text, target), programs)
}

/// Absolute, and the same as the kernel's list of mounts has it.
fn plain(target: &str) -> Result<&str, Refusal> {
    let trimmed = if target == "/" { target } else { target.trim_end_matches('/') };
    let path = Path::new(trimmed);
    let odd = path.components().any(|c| matches!(c, Component::ParentDir | Component::CurDir));
    if !path.is_absolute() || odd || trimmed.contains("//") || trimmed.contains('\0') {
        return Err(Refusal::invalid("use a mount point that is no plain absolute path"));
    }
    Ok(trimmed)
}

/// The name of a file system goes into fstab.
fn check_kind(kind: &str) -> Result<(), Refusal> {
    let is_letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if kind.is_empty() || kind.len() > 32 || !kind.chars().all(is_letter) {
        return Err(Refusal::invalid("mount a disk as a kind of file system that has no name"));
    }
    Ok(())
}

fn edit_fstab(
    edit: impl FnOnce(&str) -> Result<String, Refusal>,
    programs: &Programs,
) -> Result<(), Refusal> {
    let what = || format!("write {FSTAB}");
    let before = match fs::read_to_string(FSTAB) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).or_refuse(what),
    };
    let after = edit(&before)?;
    if after == before {
        return Ok(());
    }
    etc::rewrite(Path::new(FSTAB), &after, (0o644, 0)).or_refuse(what)?;
    if Path::new("/run/systemd/system").exists() {
        // It makes units of the lines, and acts on those that it knows.
        let _next_boot_will = programs.run(&["systemctl", "daemon-reload"], RELOADING);
    }
    Ok(())
}

fn fstab_line(uuid: &str, target: &str, kind: &str, read_only: bool) -> String {
    let access = if read_only { "ro" } else { "rw" };
    format!("UUID={uuid} {} {kind} {access},noatime,nofail,{OURS} 0 2", escape(target))
}

struct Entry<'a> {
    target: &'a str,
    ours: bool,
}

fn entry(line: &str) -> Option<Entry<'_>> {
    let mut words = line.split_ascii_whitespace();
    let (source, target) = (words.next()?, words.next()?);
    let options = words.nth(1).unwrap_or_default();
    let ours = options.split(',').any(|option| option == OURS);
    if source.starts_with('#') { None } else { Some(Entry { target, ours }) }
}

fn with_line(text: &str, target: &str, line: &str) -> Result<String, Refusal> {
    let escaped = escape(target);
    let theirs = |line: &str| entry(line).is_some_and(|e| e.target == escaped && !e.ours);
    if text.lines().any(theirs) {
        let what = format!("mount a disk on {target} for good: {FSTAB} has a line for it already");
        return Err(Refusal::new(FailureKind::AlreadyExists, what));
    }
    let mut after = without_line(text, target)?;
    if !after.is_empty() && !after.ends_with('\n') {
        after.push('\n');
    }
    after.push_str(line);
    after.push('\n');
    Ok(after)
}

fn without_line(text: &str, target: &str) -> Result<String, Refusal> {
    let escaped = escape(target);
    let lines = text.split_inclusive('\n');
    Ok(lines.filter(|line| !entry(line).is_some_and(|e| e.target == escaped && e.ours)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "00010203-0405-0607-0809-0a0b0c0d0eff";

    #[test]
    fn lines_come_and_go_and_others_stay() {
        let before = "# /data is ours\nUUID=x / ext4 errors=remount-ro 0 1\n";
        let line = fstab_line(UUID, "/my data", "ext4", false);
        assert_eq!(
            line,
            "UUID=00010203-0405-0607-0809-0a0b0c0d0eff /my\\040data ext4 \
             rw,noatime,nofail,x-innkeeper 0 2"
        );
        let after = with_line(before, "/my data", &line).unwrap();
        assert_eq!(after, format!("{before}{line}\n"));
        assert_eq!(with_line(&after, "/my data", &line).unwrap(), after);
        assert_eq!(without_line(&after, "/my data").unwrap(), before);
        assert_eq!(without_line(&after, "/my").unwrap(), after);
        // Somebody else's line is neither replaced nor taken away.
        assert!(with_line(before, "/", &line).is_err());
        assert_eq!(without_line(before, "/").unwrap(), before);
        assert_eq!(with_line("a b c", "/d", "l").unwrap(), "a b c\nl\n");
    }

    #[test]
    fn own_lines_are_read_back() {
        let line = fstab_line(UUID, "/my data", "xfs", true);
        let wanted =
            Lasting { uuid: UUID, target: "/my data".into(), kind: "xfs", read_only: true };
        assert_eq!(lasting(&line), Some(wanted));
        assert_eq!(lasting("UUID=x / ext4 errors=remount-ro 0 1"), None);
        assert_eq!(lasting("#UUID=x / ext4 x-innkeeper 0 1"), None);
    }

    #[test]
    fn targets_are_plain() {
        assert_eq!(plain("/data/").unwrap(), "/data");
        assert_eq!(plain("/").unwrap(), "/");
        for odd in ["data", "", "/a/../b", "/a//b", "/a/./b/../c", "/a\0b"] {
            assert!(plain(odd).is_err(), "{odd:?}");
        }
        assert!(check_kind("ext4").is_ok());
        assert!(check_kind("ext4 0 0\n/dev/x").is_err() && check_kind("").is_err());
    }
}
