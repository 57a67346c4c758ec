use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal, setsid};

use super::confined::Confinement;
use super::{Confined, ProcessIdentity};

/// A long-lived process to be: in a session of its own, stdin empty, stdout
/// and stderr appended to one log.
#[derive(Debug)]
pub struct SpawnSpec {
    program: PathBuf,
    args: Vec<OsString>,
    log: File,
    inherited: Vec<OwnedFd>,
    keep_environment: bool,
    leased: bool,
    confined: Confined,
}

impl SpawnSpec {
    pub fn new(program: impl Into<PathBuf>, log: File) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            log,
            inherited: Vec::new(),
            keep_environment: false,
            leased: false,
            confined: Confined::default(),
        }
    }

    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Hands a descriptor to the child, under the number that is returned; the
    /// agent's own copy closes with the spawn.
    pub fn inherit(&mut self, fd: OwnedFd) -> RawFd {
        let number = fd.as_raw_fd();
        self.inherited.push(fd);
        number
    }

    /// Gives the child the whole environment. Otherwise it gets none of it
    /// but a few harmless variables, since the agent's may hold secrets.
    pub fn keep_environment(mut self) -> Self {
        self.keep_environment = true;
        self
    }

    /// The kernel kills the process when the thread that spawned it ends,
    /// which is why only a [`Spawner`](super::Spawner) may start such a one.
    pub fn leased(mut self, leased: bool) -> Self {
        self.leased = leased;
        self
    }

    /// What it gives up before it runs.
    pub fn confined(mut self, confined: Confined) -> Self {
        self.confined = confined;
        self
    }

    #[expect(clippy::disallowed_methods, reason = "this is the wrapper that all others use")]
    #[allow(unsafe_code)]
    pub(super) fn start(self) -> io::Result<Child> {
        let Self { program, args, log, inherited, keep_environment, leased, confined } = self;
        let confinement = Confinement::new(confined);
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        if !keep_environment {
            command.env_clear().envs(clean_environment());
        }
        let numbers: Vec<RawFd> = inherited.iter().map(AsRawFd::as_raw_fd).collect();
        let parent = getpid();
        let before_exec = move || {
            setsid()?;
            confinement.enter()?;
            if leased {
                set_parent_process_death_signal(Some(Signal::KILL))?;
                // The parent may have died before the line above: then its
                // death signal never comes.
                if getppid() != Some(parent) {
                    return Err(io::ErrorKind::NotFound.into());
                }
            }
            close_all_on_exec();
            for &number in &numbers {
                // SAFETY: `inherited`, which the parent holds until the child
                // has passed exec, owns every one of these descriptors.
                let fd = unsafe { BorrowedFd::borrow_raw(number) };
                fcntl_setfd(fd, FdFlags::empty())?;
            }
            Ok(())
        };
        // SAFETY: between fork and exec only system calls are made, by rustix
        // without libc's locks: no allocation, no lock, no other thread's state.
        unsafe { command.pre_exec(before_exec) };
        let child = command.spawn()?;
        drop(inherited);
        Ok(child)
    }
}

/// Starts a process that nobody of this process will wait for: for programs
/// that end soon themselves, such as a command line that starts an agent.
/// Refuses a leased one, whose life would hang on the calling thread.
pub fn spawn_detached(spec: SpawnSpec) -> io::Result<ProcessIdentity> {
    if spec.leased {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a leased process needs a Spawner's thread",
        ));
    }
    let child = spec.start()?;
    ProcessIdentity::of_pid(child.id())
}

/// Marks every descriptor but the standard three close-on-exec, whatever a
/// library may have left open. Where the kernel can't (before 5.11), what
/// this process opens itself is marked already.
#[allow(unsafe_code)]
fn close_all_on_exec() {
    // SAFETY: close_range(2) takes three integers and touches no memory; with
    // CLOSE_RANGE_CLOEXEC it closes nothing in this process. By number, since
    // libc's own function is missing before glibc 2.34.
    unsafe {
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
    }
}

/// What a child needs to work at all, and nothing that could be a secret.
pub(super) fn clean_environment() -> Vec<(OsString, OsString)> {
    let mut clean: Vec<(OsString, OsString)> = ["PATH", "HOME", "TMPDIR"]
        .into_iter()
        .filter_map(|name| Some((name.into(), env::var_os(name)?)))
        .collect();
    clean.push(("LC_ALL".into(), "C".into()));
    clean
}
