//! A network card's frames, between a tap that the agent has opened and libkrun,
//! which would open one by its name.
//!
//! ```text
//!   tap ──header, frame──▶ thread ──frame──▶ socket pair ──▶ libkrun
//!       ◀─header, frame─── thread ◀──frame──
//! ```
//!
//! The tap asks for no offloads, so its headers say nothing: they are cut off,
//! and those of the other way are zeros.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

/// `struct virtio_net_hdr` (linux/virtio_net.h), which a tap with
/// `IFF_VNET_HDR` puts before each frame.
const HEADER: usize = 10;

/// The longest frame: what a 16-bit length allows, and its Ethernet header.
const FRAME: usize = 65_536 + 18;

/// Carries until the machine ends. Without a tap frames go nowhere.
pub(crate) fn carry(link: OwnedFd, tap: Option<OwnedFd>) -> io::Result<()> {
    let link = Arc::new(link);
    let tap = tap.map(Arc::new);
    if let Some(tap) = tap.clone() {
        let link = Arc::clone(&link);
        thread("to-guest", move || to_guest(&tap, &link))?;
    }
    thread("from-guest", move || from_guest(&link, tap.as_deref()))
}

fn thread(name: &str, carry: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
    let name = name.to_owned();
    let work = move || {
        if let Err(error) = carry() {
            eprintln!("the machine's network card stands still: {error}");
        }
    };
    std::thread::Builder::new().name(name).spawn(work).map(drop)
}

fn to_guest(tap: &OwnedFd, link: &OwnedFd) -> io::Result<()> {
    let mut buffer = vec![0; HEADER + FRAME];
    loop {
        let read = match rustix::io::read(tap, &mut buffer) {
            Ok(read) => read,
            Err(Errno::AGAIN) => {
                wait(tap, PollFlags::IN)?;
                continue;
            }
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        let Some(frame) = buffer.get(HEADER..read).filter(|frame| !frame.is_empty()) else {
            continue;
        };
        match send(link, frame, SendFlags::NOSIGNAL) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::PIPE | Errno::CONNRESET) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

fn from_guest(link: &OwnedFd, tap: Option<&OwnedFd>) -> io::Result<()> {
    let mut buffer = vec![0; HEADER + FRAME];
    loop {
        let read = match recv(link, &mut buffer[HEADER..], RecvFlags::empty()) {
            Ok((0, _)) | Err(Errno::CONNRESET) => return Ok(()),
            Ok((read, _)) => read,
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        let Some(tap) = tap else { continue };
        // As on any cable, a frame that cannot go is lost: a device that is
        // down, or a frame that is none.
        let _lost = rustix::io::write(tap, &buffer[..HEADER + read]);
    }
}

fn wait(fd: impl AsFd, events: PollFlags) -> io::Result<()> {
    match poll(&mut [PollFd::new(&fd, events)], None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
