//! Pipes and terminals between a process and us.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use inn_guest_proto::wire::{Exec, TtySize};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Gid, Uid};
use rustix::pty::OpenptFlags;
use rustix::termios::{Winsize, tcsetwinsize};

/// Our ends, non-blocking. On a terminal one descriptor serves for all.
#[derive(Debug)]
pub(crate) struct Ours {
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: Option<OwnedFd>,
    pub(crate) terminal: Option<OwnedFd>,
}

/// The process's ends; dropped once it has them.
#[derive(Debug)]
pub(crate) struct Theirs {
    stdin: OwnedFd,
    stdout: OwnedFd,
    stderr: Option<OwnedFd>,
    /// Stdin is everybody's /dev/null.
    stdin_is_shared: bool,
}

impl Theirs {
    pub(crate) fn stdin(&self) -> BorrowedFd<'_> {
        self.stdin.as_fd()
    }

    pub(crate) fn stdout(&self) -> BorrowedFd<'_> {
        self.stdout.as_fd()
    }

    pub(crate) fn stderr(&self) -> BorrowedFd<'_> {
        self.stderr.as_ref().unwrap_or(&self.stdout).as_fd()
    }

    /// So that a process without privileges can open /dev/stdout again.
    pub(crate) fn give_to(&self, uid: u32, gid: u32) {
        if uid == 0 {
            return;
        }
        let stdin = (!self.stdin_is_shared).then_some(&self.stdin);
        for fd in [stdin, Some(&self.stdout), self.stderr.as_ref()].into_iter().flatten() {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            // Refused only where we are not root, and then it is ours already.
            let _refused = rustix::fs::fchown(fd, Some(uid), Some(gid));
        }
    }
}

pub(crate) fn open(spec: &Exec) -> io::Result<(Ours, Theirs)> {
    match &spec.tty {
        Some(size) => open_terminal(size),
        None => open_pipes(spec.stdin),
    }
}

fn open_pipes(with_stdin: bool) -> io::Result<(Ours, Theirs)> {
    let (stdin, their_stdin) = if with_stdin {
        let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC)?;
        rustix::fs::fcntl_setfl(&ours, OFlags::WRONLY | OFlags::NONBLOCK)?;
        (Some(ours), theirs)
    } else {
        let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        (None, null)
    };
    let (stdout, their_stdout) = output_pipe()?;
    let (stderr, their_stderr) = output_pipe()?;
    let ours = Ours { stdin, stdout, stderr: Some(stderr), terminal: None };
    let theirs = Theirs {
        stdin: their_stdin,
        stdout: their_stdout,
        stderr: Some(their_stderr),
        stdin_is_shared: !with_stdin,
    };
    Ok((ours, theirs))
}

fn output_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
    rustix::fs::fcntl_setfl(&ours, OFlags::RDONLY | OFlags::NONBLOCK)?;
    Ok((ours, theirs))
}

fn open_terminal(size: &TtySize) -> io::Result<(Ours, Theirs)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = rustix::pty::openpt(flags)?;
    rustix::pty::unlockpt(&master)?;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
    resize(master.as_fd(), size)?;
    rustix::fs::fcntl_setfl(&master, OFlags::RDWR | OFlags::NONBLOCK)?;
    let ours = Ours {
        stdin: Some(master.try_clone()?),
        stdout: master.try_clone()?,
        stderr: None,
        terminal: Some(master),
    };
    let stdin = slave.try_clone()?;
    let theirs = Theirs { stdin, stdout: slave, stderr: None, stdin_is_shared: false };
    Ok((ours, theirs))
}

pub(crate) fn resize(terminal: BorrowedFd<'_>, size: &TtySize) -> io::Result<()> {
    let small = |cells: u32| u16::try_from(cells).unwrap_or(u16::MAX);
    let size =
        Winsize { ws_row: small(size.rows), ws_col: small(size.cols), ws_xpixel: 0, ws_ypixel: 0 };
    Ok(tcsetwinsize(terminal, size)?)
}
