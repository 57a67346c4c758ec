//! A root directory in which there is nothing but what a program needs to
//! start: for processes that get all else by descriptor.
//!
//! ```text
//!   a thread of its own:  new mount namespace ─▶ private ─▶ a tmpfs, filled:
//!       /usr/lib* /usr/share /lib*        read-only
//!       the programs                      read-only, one file each
//!       /dev/null /dev/urandom /dev/kvm   nothing else of /dev
//!       /etc/resolv.conf, ld.so.cache     read-only; a QEMU's own network asks the first
//!       /proc                             one of its own: processes of the same user alone
//!   ─▶ becomes the root, the old one is let go ─▶ the thread ends
//!                                                        │ a descriptor keeps the namespace
//!   child, before exec: setns ◀───────────────────────────┘
//! ```
//!
//! All machines of an agent share one, since nothing in it can be written to;
//! it is made in about a millisecond, and entered by one system call. No mount
//! of it is ever seen outside, and the kernel takes it down with the last
//! process or descriptor that is in it: there is nothing to clean up.

use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, symlink};
use std::path::{Component, Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive,
    mount_change, mount_remount, unmount,
};
use rustix::process::{chdir, pivot_root};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Where the new root is while it is filled: a directory that every Linux has,
/// and that nothing is taken from. Only that one namespace sees it there.
const BASE: &str = "/sys";

/// What a shared library, a firmware or a module may be in.
const SHARED: [&str; 8] = [
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/libx32",
    "/usr/libexec",
    "/usr/share",
    "/lib",
    "/lib64",
];

const DEVICES: [&str; 3] = ["/dev/null", "/dev/urandom", "/dev/kvm"];

const RESOLVER: &str = "/etc/resolv.conf";
const LINKER_CACHE: &str = "/etc/ld.so.cache";

/// Names and no bytes.
const TMPFS: &std::ffi::CStr = c"mode=755,size=64k,nr_inodes=256";

/// Since Linux 5.8 each instance has options of its own (proc(5)); before, they
/// would be the host's too.
const PROC: &std::ffi::CStr = c"hidepid=2,subset=pid";

/// A root directory for processes to enter.
#[derive(Debug)]
pub struct Jail {
    namespace: File,
    files: Vec<Held>,
}

/// A file that is in it by itself: its name may be another one's tomorrow.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Held {
    fn now(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        Ok(Self { path: path.to_owned(), device: metadata.dev(), inode: metadata.ino() })
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{step}")]
pub struct JailError {
    step: String,
    source: io::Error,
}

impl Jail {
    /// Makes one for these programs. Blocks, for about a millisecond.
    pub fn make(programs: &[PathBuf]) -> Result<Self, JailError> {
        let programs = programs.to_vec();
        let thread = std::thread::Builder::new().name("jail".to_owned());
        let made = thread
            .spawn(move || make(&programs))
            .map_err(at("starting a thread for a mount namespace"))?
            .join();
        made.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Whether it was made for these programs, and all files that it holds are
    /// still the ones of their names.
    pub fn is_of_today(&self, programs: &[PathBuf]) -> bool {
        programs.iter().all(|program| self.files.iter().any(|held| held.path == *program))
            && self.files.iter().all(|held| Held::now(&held.path).is_ok_and(|now| now == *held))
    }

    pub(super) fn namespace(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }
}

fn at(step: impl Into<String>) -> impl FnOnce(io::Error) -> JailError {
    let step = step.into();
    move |source| JailError { step, source }
}

/// On a thread that ends with it, and is in the namespace until then.
#[allow(unsafe_code)]
fn make(programs: &[PathBuf]) -> Result<Jail, JailError> {
    // SAFETY: descriptors stay shared: UnshareFlags::FILES is not among them.
    // The thread's own root and working directory become its own (unshare(2)).
    unsafe { unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }
        .map_err(io::Error::from)
        .map_err(at("making a mount namespace"))?;
    let recursive = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", recursive)
        .map_err(io::Error::from)
        .map_err(at("keeping the mounts of a namespace to itself"))?;
    let namespace =
        File::open("/proc/thread-self/ns/mnt").map_err(at("opening a mount namespace"))?;
    let mut root = Root { files: Vec::new() };
    root.fill(programs)?;
    root.enter().map_err(at("entering the new root"))?;
    Ok(Jail { namespace, files: root.files })
}

struct Root {
    files: Vec<Held>,
}

impl Root {
    fn fill(&mut self, programs: &[PathBuf]) -> Result<(), JailError> {
        let plain = MountFlags::NOSUID | MountFlags::NODEV;
        mount("tmpfs", BASE, "tmpfs", plain, TMPFS)
            .map_err(io::Error::from)
            .map_err(at("mounting the new root"))?;
        let named = |path: &Path| at(format!("putting {} into the new root", path.display()));
        for shared in SHARED.map(Path::new) {
            Self::share(shared).map_err(named(shared))?;
        }
        for program in programs {
            self.hold(program, plain).map_err(named(program))?;
        }
        for device in DEVICES.map(Path::new).into_iter().filter(|device| device.exists()) {
            // A device that is replaced is the kernel's doing: no name to follow.
            Self::bind(device, MountFlags::NOSUID | MountFlags::NOEXEC).map_err(named(device))?;
        }
        let cache = Path::new(LINKER_CACHE);
        if cache.exists() {
            self.hold(cache, plain | MountFlags::NOEXEC).map_err(named(cache))?;
        }
        self.resolver().map_err(named(Path::new(RESOLVER)))?;
        Self::processes().map_err(named(Path::new("/proc")))
    }

    /// A directory and all that is mounted in it, or the link that it is.
    fn share(dir: &Path) -> io::Result<()> {
        match fs::symlink_metadata(dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(metadata) if metadata.is_symlink() => symlink(fs::read_link(dir)?, inside(dir)),
            Ok(_) => {
                let target = inside(dir);
                directories(&target)?;
                mount_bind_recursive(dir, &target)?;
                let flags = MountFlags::BIND | MountFlags::RDONLY;
                Ok(mount_remount(&target, flags | MountFlags::NOSUID | MountFlags::NODEV, c"")?)
            }
        }
    }

    fn hold(&mut self, file: &Path, flags: MountFlags) -> io::Result<()> {
        self.files.push(Held::now(file)?);
        // Below a shared directory it is there already.
        if inside(file).exists() { Ok(()) } else { Self::bind(file, flags) }
    }

    fn bind(file: &Path, flags: MountFlags) -> io::Result<()> {
        let target = inside(file);
        directories(target.parent().unwrap_or(&target))?;
        File::create(&target)?;
        mount_bind(file, &target)?;
        Ok(mount_remount(&target, MountFlags::BIND | MountFlags::RDONLY | flags, c"")?)
    }

    /// A resolver's configuration in /etc is that file, until it is replaced;
    /// elsewhere, such as in /run, its directory, in which it may be replaced.
    fn resolver(&mut self) -> io::Result<()> {
        let Ok(real) = fs::canonicalize(RESOLVER) else { return Ok(()) };
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        let etc = Path::new("/etc");
        match real.parent() {
            Some(dir) if dir != etc && dir != Path::new("/") => {
                self.files.push(Held::now(dir)?);
                let target = inside(dir);
                directories(&target)?;
                mount_bind(dir, &target)?;
                mount_remount(&target, MountFlags::BIND | MountFlags::RDONLY | flags, c"")?;
                directories(&inside(etc))?;
                symlink(&real, inside(Path::new(RESOLVER)))
            }
            _ => self.hold(Path::new(RESOLVER), flags),
        }
    }

    fn processes() -> io::Result<()> {
        let target = inside(Path::new("/proc"));
        directories(&target)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        match mount("proc", &target, "proc", flags, PROC) {
            Err(Errno::INVAL) => Ok(mount("proc", &target, "proc", flags, c"")?),
            mounted => Ok(mounted?),
        }
    }

    /// pivot_root(2), "pivot_root(".", ".")".
    fn enter(&self) -> io::Result<()> {
        let flags = MountFlags::BIND | MountFlags::RDONLY;
        mount_remount(BASE, flags | MountFlags::NOSUID | MountFlags::NODEV, c"")?;
        chdir(BASE)?;
        pivot_root(".", ".")?;
        unmount(".", UnmountFlags::DETACH)?;
        Ok(chdir("/")?)
    }
}

/// Where a path is in the new root, before that is one.
fn inside(path: &Path) -> PathBuf {
    let names = path.components().filter(|part| matches!(part, Component::Normal(_)));
    Path::new(BASE).join(names.collect::<PathBuf>())
}

fn directories(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o755).create(path)
}
