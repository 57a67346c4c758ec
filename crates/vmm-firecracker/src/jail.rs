//! The first process of a jailed machine's pid namespace: makes the root
//! directory, has the jailer become Firecracker in it, and tells how that ended.
//!
//! ```text
//!   mount namespace ─▶ a tmpfs ─▶ ID/root: the machine's files, each bound there
//!                                          /run: the run directory
//!       ─▶ jailer: its copy of Firecracker, its devices, chroot, the user ─▶ Firecracker
//! ```
//!
//! Whatever ends this process ends Firecracker, whose user is another one by then
//! (pid_namespaces(7)); it ends itself when its keeper does.

use std::ffi::{CString, OsString};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use inn_host::process::{ChildSpec, become_user, unshare_mounts};
use inn_vmm::kept::{NOT_STARTED, VmmEnd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_bind, mount_remount};
use rustix::process::{Pid, PidfdFlags, WaitOptions, pidfd_open, waitpid};

use crate::orders::{JailFile, JailOrder, Orders};

/// Where root directories are while they are made: a directory that every Linux
/// has, and that Firecracker takes nothing from. Nobody else sees it there.
const BASE: &str = "/sys";

/// Its own program is copied into it, and a kernel that its user may not read.
const ROOM_MIB: u64 = 512;

pub(crate) struct Inside {
    pub(crate) stdio: [OwnedFd; 3],
    pub(crate) netns: Option<OwnedFd>,
    /// Ends with the keeper.
    pub(crate) lifeline: OwnedFd,
    pub(crate) telling: OwnedFd,
}

/// What a machine's file is called in its root directory.
pub(crate) fn inside(name: &str) -> PathBuf {
    Path::new("/").join(name)
}

/// Where the run directory is there.
pub(crate) const RUN: &str = "/run";

/// Where the memory is there that it goes on from: a file without a name, which
/// its standard error leads to. What it has to say goes to its log.
pub(crate) const MEMORY: &str = "/fds/2";

/// Until Firecracker has ended, or the keeper.
pub(crate) fn keep(orders: &Orders, jail: &JailOrder, inside: Inside) -> io::Result<()> {
    let Inside { stdio, netns, lifeline, telling } = inside;
    let child = start(orders, jail, stdio, netns);
    let end = match child {
        Ok(child) => {
            become_user(jail.uid)?;
            ended(child, &lifeline)?
        }
        Err(error) => {
            eprintln!("making a root directory for Firecracker: {error}");
            Some(VmmEnd::Exited(NOT_STARTED))
        }
    };
    if let Some(end) = end {
        File::from(telling).write_all(&serde_json::to_vec(&end).map_err(io::Error::other)?)?;
    }
    Ok(())
}

fn start(
    orders: &Orders,
    jail: &JailOrder,
    stdio: [OwnedFd; 3],
    netns: Option<OwnedFd>,
) -> io::Result<Pid> {
    let program = orders.firecracker.file_name().unwrap_or_default();
    let root = Path::new(BASE).join(program).join(orders.instance()).join("root");
    unshare_mounts()?;
    make_room(ROOM_MIB + jail.room_mib)?;
    let run = root.join("run");
    DirBuilder::new().recursive(true).mode(0o755).create(&run)?;
    // Our working directory is the run directory.
    mount_bind(".", &run)?;
    for file in &jail.files {
        put(file, &root).map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", file.path.display()))
        })?;
    }
    let descriptors_at = match orders.descriptors.memory {
        Some(_) => {
            let place = root.join("fds");
            fs::create_dir(&place)?;
            Some(CString::new(place.into_os_string().into_vec())?)
        }
        None => None,
    };
    let uid = jail.uid.to_string();
    let instance = orders.instance();
    let mut args: Vec<OsString> = ["--id", &instance, "--uid", &uid, "--gid", &uid]
        .into_iter()
        .chain(["--chroot-base-dir", BASE, "--exec-file"])
        .map(OsString::from)
        .collect();
    args.push(orders.firecracker.clone().into());
    args.push("--".into());
    args.extend(orders.args.iter().cloned());
    let program = jail.jailer.clone();
    ChildSpec { program, args, stdio, netns, dies_with_us: false, descriptors_at }.start()
}

/// In large pages, where the host has them: its program is copied in half the time.
fn make_room(mib: u64) -> io::Result<()> {
    let options = format!("mode=755,size={mib}m,nr_inodes=256");
    let large = CString::new(format!("{options},huge=within_size"))?;
    let options = CString::new(options)?;
    let made =
        |options: &CString| mount("tmpfs", BASE, "tmpfs", MountFlags::NOSUID, options.as_c_str());
    match made(&large) {
        Err(Errno::INVAL) => Ok(made(&options)?),
        made => Ok(made?),
    }
}

fn put(file: &JailFile, root: &Path) -> io::Result<()> {
    let target = root.join(&file.name);
    let mode = fs::metadata(&file.path)?.permissions().mode();
    if file.read_only && mode & 0o004 == 0 {
        // Such as the kernels in /boot of some distributions, root's alone.
        fs::copy(&file.path, &target)?;
        return fs::set_permissions(&target, fs::Permissions::from_mode(0o444));
    }
    File::create(&target)?;
    mount_bind(&file.path, &target)?;
    let read_only = if file.read_only { MountFlags::RDONLY } else { MountFlags::empty() };
    let flags = MountFlags::BIND | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(mount_remount(&target, flags | read_only, c"")?)
}

/// `None` where its keeper has ended first.
fn ended(child: Pid, lifeline: &OwnedFd) -> io::Result<Option<VmmEnd>> {
    let vmm = pidfd_open(child, PidfdFlags::empty())?;
    loop {
        let mut fds = [PollFd::new(&vmm, PollFlags::IN), PollFd::new(lifeline, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        if !fds[0].revents().is_empty() {
            match waitpid(Some(child), WaitOptions::empty()) {
                Ok(Some((_, status))) => return Ok(Some(VmmEnd::of(status))),
                Ok(None) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        } else if !fds[1].revents().is_empty() {
            return Ok(None);
        }
    }
}

/// Makes what a jailed machine reads and writes that of its user, who opens it by
/// its path: a disk of its own is given to it; one that all share is readable by
/// whoever gets to it, which the directories above it decide.
pub(crate) fn give(path: &Path, read_only: bool, uid: u32) -> io::Result<()> {
    if !read_only {
        return chown(path, Some(uid), Some(uid));
    }
    let mut permissions = fs::metadata(path)?.permissions();
    if permissions.mode() & 0o004 == 0 {
        permissions.set_mode(permissions.mode() | 0o004);
        fs::set_permissions(path, permissions)?;
    }
    Ok(())
}
