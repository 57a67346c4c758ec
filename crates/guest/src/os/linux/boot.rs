//! From the initramfs to the VM's own root.
//!
//! ```text
//!  early mounts ─▶ (inn.probe: say so, reset) ─▶ modules ─▶ (inn.channel=vsock: its own)
//!    ─▶ disks inn-root, inn-rw
//!    ─▶ overlay ─▶ drop the initramfs's files ─▶ move to / and chroot ─▶ late mounts
//! ```
//!
//! Nothing here can be retried: an error ends the VM with one line on the
//! console that says which step failed.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, mount, mount_move};

use super::{disks, kernel, lifecycle};
use crate::console;

/// On the kernel command line: only prove that the kernel gets here.
const PROBE: &str = "inn.probe";

/// On the kernel command line: the host is to be met on a vsock.
const VSOCK: &str = "inn.channel=vsock";

/// How the host is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Channel {
    Port,
    Vsock,
}

const LOWER: &str = "/inn/root";
const WRITABLE: &str = "/inn/rw";
const NEW_ROOT: &str = "/inn/new";

/// A step of the boot and why it failed.
#[derive(Debug)]
pub(crate) struct BootError {
    /// Completes "cannot …".
    pub(crate) step: String,
    pub(crate) source: io::Error,
}

trait OrStep<T> {
    fn or_step(self, step: impl FnOnce() -> String) -> Result<T, BootError>;
}

impl<T, E: Into<io::Error>> OrStep<T> for Result<T, E> {
    fn or_step(self, step: impl FnOnce() -> String) -> Result<T, BootError> {
        self.map_err(|source| BootError { step: step(), source: source.into() })
    }
}

/// Leaves the process in the VM's root file system.
pub(crate) fn boot() -> Result<Channel, BootError> {
    mount_early()?;
    let cmdline = fs::read_to_string("/proc/cmdline").or_step(|| "read /proc/cmdline".into())?;
    let told = |wanted: &str| cmdline.split_ascii_whitespace().any(|word| word == wanted);
    if told(PROBE) {
        console::say("probe ok");
        lifecycle::reset();
    }
    let modules = Path::new("/modules");
    load_modules(modules, "load")?;
    let channel = if told(VSOCK) { Channel::Vsock } else { Channel::Port };
    if channel == Channel::Vsock {
        // Long before anybody listens: connections that a dead host has left
        // behind are refused meanwhile, and none of them is ours to serve.
        load_modules(modules, "load-vsock")?;
    }
    mount_root()?;
    drop_initramfs();
    switch_root()?;
    mount_late();
    Ok(channel)
}

fn mount_early() -> Result<(), BootError> {
    let quiet = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    for (kind, target, flags) in [
        ("devtmpfs", "/dev", MountFlags::NOSUID | MountFlags::NOEXEC),
        ("proc", "/proc", quiet),
        ("sysfs", "/sys", quiet),
    ] {
        make_dir(target)?;
        match mount(kind, target, kind, flags, None) {
            // The kernel may have mounted devtmpfs itself.
            Ok(()) | Err(rustix::io::Errno::BUSY) => {}
            Err(error) => return Err(error).or_step(|| format!("mount {kind} on {target}")),
        }
    }
    // An initramfs without /dev/console leaves us without descriptors.
    kernel::attach_console().or_step(|| "open /dev/console".into())
}

/// In the order of the file `list`, one name per line; no such file where the
/// kernel has all built in.
fn load_modules(dir: &Path, list: &str) -> Result<(), BootError> {
    let order = match fs::read_to_string(dir.join(list)) {
        Ok(order) => order,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).or_step(|| format!("read /modules/{list}")),
    };
    for name in order.lines().map(str::trim).filter(|name| !name.is_empty()) {
        let path = dir.join(name);
        let file = fs::File::open(&path).or_step(|| format!("open {}", path.display()))?;
        match rustix::system::finit_module(&file, c"", 0) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error).or_step(|| format!("load the module {name}")),
        }
    }
    Ok(())
}

fn mount_root() -> Result<(), BootError> {
    let mount_disk = |serial: &str, target: &str, flags: MountFlags, data: &str| {
        make_dir(target)?;
        let device = disks::find(serial).or_step(|| format!("find the disk {serial}"))?;
        let data = CString::new(data).expect("no NUL in a constant");
        mount(&device, target, "ext4", flags, data.as_c_str())
            .or_step(|| format!("mount {} ({serial})", device.display()))
    };
    // A read-only disk with a journal to replay cannot be mounted without
    // `noload`; the images that we make are clean.
    mount_disk("inn-root", LOWER, MountFlags::RDONLY | MountFlags::NOATIME, "noload")?;
    mount_disk("inn-rw", WRITABLE, MountFlags::NOATIME, "noinit_itable")?;
    let upper = format!("{WRITABLE}/upper");
    let first_time = !Path::new(&upper).exists();
    make_dir(&upper)?;
    make_dir(&format!("{WRITABLE}/work"))?;
    if first_time {
        copy_attributes(Path::new(LOWER), Path::new(&upper))
            .or_step(|| "give / the image's mode and owner".into())?;
    }
    make_dir(NEW_ROOT)?;
    // redirect_dir: a rename of an image's directory works as on any disk.
    let data = format!("lowerdir={LOWER},upperdir={upper},workdir={WRITABLE}/work,redirect_dir=on");
    let data = CString::new(data).expect("no NUL in a constant");
    mount("overlay", NEW_ROOT, "overlay", MountFlags::NOATIME, data.as_c_str())
        .or_step(|| "mount the overlay of the image and the writable disk".into())
}

/// The merged root shows the upper directory's own attributes.
fn copy_attributes(from: &Path, to: &Path) -> io::Result<()> {
    let meta = fs::metadata(from)?;
    fs::set_permissions(to, fs::Permissions::from_mode(meta.mode() & 0o7777))?;
    std::os::unix::fs::chown(to, Some(meta.uid()), Some(meta.gid()))
}

/// They are RAM. What stays is our own program, which is in use.
fn drop_initramfs() {
    if let Err(error) = fs::remove_dir_all("/modules")
        && error.kind() != io::ErrorKind::NotFound
    {
        console::say(&format!("left the modules in memory: {error}"));
    }
}

fn switch_root() -> Result<(), BootError> {
    for name in ["dev", "proc", "sys"] {
        let target = format!("{NEW_ROOT}/{name}");
        make_dir(&target)?;
        mount_move(format!("/{name}"), &target).or_step(|| format!("move /{name}"))?;
    }
    lifecycle::keep_writable_disk(WRITABLE);
    let root = rustix::fs::open(NEW_ROOT, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .or_step(|| "open the new root".into())?;
    rustix::process::fchdir(&root).or_step(|| "enter the new root".into())?;
    mount_move(".", "/").or_step(|| "move the new root".into())?;
    rustix::process::chroot(".").or_step(|| "change the root".into())?;
    rustix::process::chdir("/").or_step(|| "enter /".into())
}

/// What programs expect and a VM can start without: an image may be odd
/// enough to have a file in such a place.
fn mount_late() {
    let quiet = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let late = [
        (
            "devpts",
            "/dev/pts",
            MountFlags::NOSUID | MountFlags::NOEXEC,
            c"mode=620,gid=5,ptmxmode=666",
        ),
        ("tmpfs", "/dev/shm", MountFlags::NOSUID | MountFlags::NODEV, c"mode=1777"),
        ("cgroup2", "/sys/fs/cgroup", quiet, c"nsdelegate"),
    ];
    for (kind, target, flags, data) in late {
        let there = target.starts_with("/sys") || fs::create_dir_all(target).is_ok();
        if let Err(error) = mount(kind, target, kind, flags, data)
            && there
            && error != rustix::io::Errno::NODEV
        {
            console::say(&format!("went on without {target}: {error}"));
        }
    }
    for (link, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        // devtmpfs is empty of them at each boot; one that is there is right.
        let _there_already = std::os::unix::fs::symlink(target, link);
    }
}

fn make_dir(path: &str) -> Result<(), BootError> {
    match fs::create_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(error).or_step(|| format!("make {path}"))
        }
        _ => Ok(()),
    }
}
