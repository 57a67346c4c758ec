//! The byte stream to the host: a virtio-serial port, or a socket in tests.
//!
//! A port has no connections. While no host holds its other end it reports
//! POLLHUP all the time, so waiting for a host by poll(2) would spin; an
//! edge-triggered epoll tells of each change once, and lies inside tokio's.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use inn_guest_proto::READ_SIZE;
use rustix::event::epoll;
use rustix::fs::{Mode, OFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{raw, wait_for};

/// For the port's driver to show it: the host made it before the machine ran.
const DEADLINE: Duration = Duration::from_secs(30);

/// Waits for the virtio-serial port of this name and opens it.
pub(crate) fn open_by_name(name: &str) -> io::Result<OwnedFd> {
    let node = wait_for(&format!("the port {name}"), DEADLINE, || find(name))?;
    open(&node)
}

/// The device of the virtio-serial port of this name, if it is there by now.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    look(Path::new("/sys/class/virtio-ports"), name).filter(|node| node.exists())
}

pub(crate) fn open(node: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    Ok(rustix::fs::open(node, flags, Mode::empty())?)
}

fn look(class: &Path, name: &str) -> Option<PathBuf> {
    std::fs::read_dir(class).ok()?.flatten().find_map(|entry| {
        let found = std::fs::read_to_string(entry.path().join("name")).ok()?;
        (found.trim_end() == name).then(|| Path::new("/dev").join(entry.file_name()))
    })
}

/// What leads to a host, open.
pub(crate) type Stream = OwnedFd;

/// A non-blocking stream and what is known of its readiness.
#[derive(Debug)]
pub(crate) struct Port {
    stream: OwnedFd,
    events: AsyncFd<OwnedFd>,
    readable: bool,
    writable: bool,
}

impl Port {
    pub(crate) fn new(stream: OwnedFd) -> io::Result<Self> {
        let events = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        epoll::add(&events, stream.as_fd(), epoll::EventData::new_u64(0), flags)?;
        let events = raw::watch(events, Interest::READABLE)?;
        // The first attempts tell.
        Ok(Self { stream, events, readable: true, writable: true })
    }

    pub(crate) fn is_readable(&self) -> bool {
        self.readable
    }

    /// Waits for the next change. Cancel safe.
    ///
    /// What has changed is found out by reading and writing: to ask the inner
    /// epoll would be one more system call on every message's way. It is never
    /// emptied, and need not be: it tells the outer one of each change of the
    /// stream, also while an earlier one still lies in it (fs/eventpoll.c,
    /// `ep_poll_callback`).
    pub(crate) async fn changed(&mut self) -> io::Result<()> {
        self.events.readable().await?.clear_ready();
        self.readable = true;
        self.writable = true;
        Ok(())
    }

    /// Reads into `buffer`'s free space; `None` when nothing is there now.
    pub(crate) fn read(&mut self, buffer: &mut bytes::BytesMut) -> io::Result<Option<usize>> {
        if !self.readable {
            return Ok(None);
        }
        match raw::read_spare(self.stream.as_fd(), buffer, READ_SIZE) {
            Ok(count) => Ok(Some(count)),
            Err(rustix::io::Errno::AGAIN) => {
                self.readable = false;
                Ok(None)
            }
            Err(rustix::io::Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes some of `bytes`; `None` when the other end takes nothing now.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<Option<usize>> {
        if !self.writable {
            return Ok(None);
        }
        match rustix::io::write(&self.stream, bytes) {
            Ok(count) => Ok(Some(count)),
            Err(rustix::io::Errno::AGAIN) => {
                self.writable = false;
                Ok(None)
            }
            Err(rustix::io::Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Nobody is there: nothing can be read until a change says otherwise.
    pub(crate) fn hung_up(&mut self) {
        self.readable = false;
    }

    /// Whether or not there was a change.
    pub(crate) fn look_again(&mut self) {
        self.readable = true;
    }
}
