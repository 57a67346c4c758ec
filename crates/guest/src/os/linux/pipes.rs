//! Pipes and terminals between a process and us.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use bytes::BytesMut;
use inn_guest_proto::wire::TtySize;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Gid, Uid};
use rustix::pty::OpenptFlags;
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::raw;

/// Our ends. On a terminal one descriptor serves for all.
#[derive(Debug)]
pub(crate) struct Ours {
    pub(crate) stdin: Option<Feed>,
    pub(crate) stdout: Drain,
    pub(crate) stderr: Option<Drain>,
    pub(crate) terminal: Option<Terminal>,
}

/// The process's ends; dropped once it has them.
#[derive(Debug)]
pub(crate) struct Theirs {
    stdin: OwnedFd,
    stdout: OwnedFd,
    stderr: Option<OwnedFd>,
    /// Stdin is everybody's /dev/null.
    stdin_is_shared: bool,
    is_terminal: bool,
}

impl Theirs {
    pub(super) fn stdin(&self) -> BorrowedFd<'_> {
        self.stdin.as_fd()
    }

    pub(super) fn stdout(&self) -> BorrowedFd<'_> {
        self.stdout.as_fd()
    }

    pub(super) fn stderr(&self) -> BorrowedFd<'_> {
        self.stderr.as_ref().unwrap_or(&self.stdout).as_fd()
    }

    pub(super) fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// So that a process without privileges can open /dev/stdout again.
    pub(super) fn give_to(&self, uid: u32, gid: u32) {
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

/// A terminal of this size, or else pipes, with one for stdin if it is wanted.
pub(crate) fn open(tty: Option<&TtySize>, with_stdin: bool) -> io::Result<(Ours, Theirs)> {
    match tty {
        Some(size) => open_terminal(size),
        None => open_pipes(with_stdin),
    }
}

fn open_pipes(with_stdin: bool) -> io::Result<(Ours, Theirs)> {
    let (stdin, their_stdin) = if with_stdin {
        let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC)?;
        rustix::fs::fcntl_setfl(&ours, OFlags::WRONLY | OFlags::NONBLOCK)?;
        (Some(Feed { fd: raw::watch(ours, Interest::WRITABLE)? }), theirs)
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
        is_terminal: false,
    };
    Ok((ours, theirs))
}

fn output_pipe() -> io::Result<(Drain, OwnedFd)> {
    let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
    rustix::fs::fcntl_setfl(&ours, OFlags::RDONLY | OFlags::NONBLOCK)?;
    let ours = Drain { fd: raw::watch(ours, Interest::READABLE)?, is_terminal: false };
    Ok((ours, theirs))
}

fn open_terminal(size: &TtySize) -> io::Result<(Ours, Theirs)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = rustix::pty::openpt(flags)?;
    rustix::pty::unlockpt(&master)?;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
    rustix::fs::fcntl_setfl(&master, OFlags::RDWR | OFlags::NONBLOCK)?;
    let terminal = Terminal { master: Rc::new(master.try_clone()?) };
    terminal.resize(size)?;
    let ours = Ours {
        stdin: Some(Feed { fd: raw::watch(master.try_clone()?, Interest::WRITABLE)? }),
        stdout: Drain { fd: raw::watch(master, Interest::READABLE)?, is_terminal: true },
        stderr: None,
        terminal: Some(terminal),
    };
    let stdin = slave.try_clone()?;
    let theirs =
        Theirs { stdin, stdout: slave, stderr: None, stdin_is_shared: false, is_terminal: true };
    Ok((ours, theirs))
}

/// The reading end of an output.
#[derive(Debug)]
pub(crate) struct Drain {
    fd: AsyncFd<OwnedFd>,
    is_terminal: bool,
}

impl Drain {
    /// Waits for some and appends at most `want` bytes; 0 once the last writer
    /// is gone. Cancel safe.
    pub(crate) async fn read(&self, buffer: &mut BytesMut, want: usize) -> io::Result<usize> {
        loop {
            let mut ready = self.fd.readable().await?;
            buffer.reserve(want);
            match raw::read_spare(self.fd.as_fd(), buffer, want) {
                // The other end of a terminal that is closed: an error, EIO.
                Err(Errno::IO) if self.is_terminal => return Ok(0),
                Ok(count) => {
                    // A pipe that gave less than was wanted is empty, and the
                    // next writer is an event of its own (epoll(7), Q9): no
                    // need to ask it again.
                    if count < want && count > 0 && !self.is_terminal {
                        ready.clear_ready();
                    }
                    return Ok(count);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// The writing end of an input.
#[derive(Debug)]
pub(crate) struct Feed {
    fd: AsyncFd<OwnedFd>,
}

impl Feed {
    /// Waits until there is room and writes some of `bytes`. Cancel safe:
    /// nothing is written that is not reported.
    pub(crate) async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match rustix::io::write(self.fd.get_ref(), bytes) {
                Ok(count) => return Ok(count),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.fd.writable().await?.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Terminal {
    master: Rc<OwnedFd>,
}

impl Terminal {
    pub(crate) fn resize(&self, size: &TtySize) -> io::Result<()> {
        let small = |cells: u32| u16::try_from(cells).unwrap_or(u16::MAX);
        let size = Winsize {
            ws_row: small(size.rows),
            ws_col: small(size.cols),
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        Ok(tcsetwinsize(&self.master, size)?)
    }
}
