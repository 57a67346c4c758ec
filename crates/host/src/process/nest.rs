//! For a process that keeps another one: a child of its own, in namespaces of
//! its own. Such a process has one thread.

use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::mount::mount_bind;
use rustix::process::{
    DumpableBehavior, Pid, Signal, getppid, parent_process_death_signal, set_dumpable_behavior,
    set_parent_process_death_signal,
};
use rustix::thread::{
    Gid, LinkNameSpaceType, Uid, UnshareFlags, move_into_link_name_space, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid, unshare_unsafe,
};

use super::spawn::clean_environment;

/// A child that its parent waits for by itself.
#[derive(Debug)]
pub struct ChildSpec {
    pub program: PathBuf,
    pub args: Vec<OsString>,
    /// Standard input, output and error; it has no other descriptors.
    pub stdio: [OwnedFd; 3],
    /// The network namespace that it is in, in place of ours.
    pub netns: Option<OwnedFd>,
    /// Killed when this process ends; not for one that changes its user, which
    /// takes that back (prctl(2)).
    pub dies_with_us: bool,
    /// A directory of its mount namespace's where it finds its own descriptors, as
    /// in /proc/self/fd, once it can't see that any more. What it was left of them
    /// is all that is there, and nobody else's.
    pub descriptors_at: Option<CString>,
}

impl ChildSpec {
    #[expect(clippy::disallowed_methods, reason = "one of the wrappers that all others use")]
    #[allow(unsafe_code)]
    pub fn start(self) -> io::Result<Pid> {
        let Self { program, args, stdio, netns, dies_with_us, descriptors_at } = self;
        let [input, output, error] = stdio;
        let mut command = Command::new(program);
        command.args(args).env_clear().envs(clean_environment());
        command.stdin(Stdio::from(input)).stdout(Stdio::from(output)).stderr(Stdio::from(error));
        let before_exec = move || {
            if let Some(netns) = &netns {
                move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
            }
            if let Some(place) = &descriptors_at {
                mount_bind(c"/proc/self/fd", place.as_c_str())?;
            }
            if dies_with_us {
                set_parent_process_death_signal(Some(Signal::KILL))?;
            }
            Ok(())
        };
        // SAFETY: between fork and exec only system calls are made: no allocation,
        // no lock.
        unsafe { command.pre_exec(before_exec) };
        let child = command.spawn()?;
        i32::try_from(child.id())
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(|| io::Error::other("a child has no pid"))
    }
}

/// Becomes this user, in no group but its own, for good; nobody of the same user
/// may look into this process from here on. It still dies with its parent, if it
/// would have: a change of the user takes that back (prctl(2)).
pub fn become_user(uid: u32) -> io::Result<()> {
    let (parent, dies_with_it) = (getppid(), parent_process_death_signal()?);
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(uid));
    set_thread_groups(&[])?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    if dies_with_it.is_some() {
        set_parent_process_death_signal(dies_with_it)?;
        if getppid() != parent {
            return Err(io::Error::other("its parent has ended"));
        }
    }
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// `None` in the child. For a process of one thread.
#[allow(unsafe_code)]
pub fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: its callers have one thread, so the child has all of its state, with
    // no lock held.
    match unsafe { libc::fork() } {
        ..0 => Err(io::Error::last_os_error()),
        pid => Ok(Pid::from_raw(pid)),
    }
}

/// The next child is the first process of a pid namespace: with its end, however
/// that comes, all others in there end (pid_namespaces(7)).
#[allow(unsafe_code)]
pub fn unshare_pids() -> io::Result<()> {
    // SAFETY: it changes nothing of this process itself.
    Ok(unsafe { unshare_unsafe(UnshareFlags::NEWPID) }?)
}

/// Mounts that are made from here on are this process's and its children's.
#[allow(unsafe_code)]
pub fn unshare_mounts() -> io::Result<()> {
    use rustix::mount::{MountPropagationFlags, mount_change};
    // SAFETY: descriptors stay shared: UnshareFlags::FILES is not among them.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }?;
    Ok(mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?)
}
