//! Taps: network cards of the host's whose other end is a descriptor.
//!
//! ```text
//!   open(name) ──▶ the device is there, and is this descriptor
//!       │ handed to a VMM, closed here
//!       ▼
//!   the VMM holds it ──its end, however it comes──▶ the device is gone
//! ```
//!
//! Never persistent (TUNSETPERSIST), but for the moment in which a VMM that
//! takes names attaches to it: a tap lives exactly as long as the machine that
//! holds it, whether an agent runs or not, so none can be left behind.
//!
//! ```text
//!   lend ──▶ stays ──closed here──▶ the VMM attaches ──take_back──▶ as above
//!              └──▶ nobody did: remove
//! ```

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, open as open_file};
use rustix::process::{PidfdGetfdFlags, pidfd_getfd};

use crate::process::Process;

const DEVICE: &str = "/dev/net/tun";

#[derive(Debug, thiserror::Error)]
pub enum TapError {
    #[error("the tap {name} is there already: another process holds it")]
    Held { name: String },
    #[error("taps can't be made without {DEVICE}: load the kernel module `tun`")]
    NoDriver,
    #[error("the tap {name} may not be made: it needs CAP_NET_ADMIN")]
    NotPermitted { name: String },
    #[error("making the tap {name} failed at {step}")]
    Io { name: String, step: &'static str, source: io::Error },
}

/// Makes a tap of this name in the calling thread's network namespace. Frames
/// have a header as virtio-net does (`IFF_VNET_HDR`, 10 bytes until somebody
/// asks for more), so that checksums and segmentation cross it undone, and no
/// protocol before it (`IFF_NO_PI`). Nobody but root may attach to it a second
/// time, its VMM's own user neither.
pub fn open(name: &str) -> Result<OwnedFd, TapError> {
    let failed = |step: &'static str| {
        let name = name.to_owned();
        move |source: io::Error| match source.raw_os_error() {
            Some(libc::EBUSY) => TapError::Held { name },
            Some(libc::EPERM) => TapError::NotPermitted { name },
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => TapError::NoDriver,
            _ => TapError::Io { name, step, source },
        }
    };
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let tap = open_file(DEVICE, flags, Mode::empty())
        .map_err(|e| failed("opening the driver")(e.into()))?;
    attach(&tap, name, flags_of(libc::IFF_TUN_EXCL)).map_err(failed("TUNSETIFF"))?;
    own(&tap).map_err(failed("TUNSETOWNER"))?;
    Ok(tap)
}

#[allow(unsafe_code)]
fn attach(tap: &OwnedFd, name: &str, flags: libc::c_short) -> io::Result<()> {
    let too_long = || io::Error::new(io::ErrorKind::InvalidInput, "15 characters at most");
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags },
    };
    // The last one stays 0.
    let room = &mut request.ifr_name[..libc::IFNAMSIZ - 1];
    if name.len() > room.len() {
        return Err(too_long());
    }
    for (to, from) in room.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq` (linux/if_tun.h),
    // which `request` is, and keeps no pointer to it.
    let status = unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    done(status)
}

/// Exclusive (`IFF_TUN_EXCL`): an existing device of that name is another's, and
/// no way in.
fn flags_of(more: libc::c_int) -> libc::c_short {
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | more;
    // The field has 16 bits, and so have the flags.
    let [low, high, ..] = flags.to_le_bytes();
    libc::c_short::from_le_bytes([low, high])
}

#[allow(unsafe_code)]
fn own(tap: &OwnedFd) -> io::Result<()> {
    let root: libc::c_ulong = 0;
    // SAFETY: TUNSETOWNER takes a number in place of a pointer.
    done(unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETOWNER, root) })
}

/// For a VMM that takes a tap by its name alone, in the tap's own network
/// namespace. From here on the device stays without anybody who holds it, so that
/// ours can be closed, until [`take_back`] or [`remove`]; `user` may attach to it.
#[allow(unsafe_code)]
pub fn lend(tap: &OwnedFd, user: u32) -> io::Result<()> {
    let (user, stays): (libc::c_ulong, libc::c_ulong) = (user.into(), 1);
    // SAFETY: both take a number in place of a pointer.
    done(unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETOWNER, user) })?;
    // SAFETY: see above.
    done(unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETPERSIST, stays) })
}

/// What a tap is called.
#[allow(unsafe_code)]
pub fn name(tap: &OwnedFd) -> io::Result<String> {
    let mut answer = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: 0 },
    };
    // SAFETY: TUNGETIFF writes one `struct ifreq`, which `answer` is, and keeps
    // no pointer to it.
    done(unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNGETIFF, &raw mut answer) })?;
    let bytes: Vec<u8> =
        answer.ifr_name.iter().flat_map(|c| c.to_ne_bytes()).take_while(|b| *b != 0).collect();
    String::from_utf8(bytes).map_err(io::Error::other)
}

/// The network namespace that a tap is in.
#[allow(unsafe_code)]
pub fn netns(tap: &OwnedFd) -> io::Result<OwnedFd> {
    // linux/if_tun.h, since Linux 5.2: `_IO('T', 227)`.
    const TUNGETDEVNETNS: libc::Ioctl = 0x54e3;
    // SAFETY: it takes no argument.
    let fd = unsafe { libc::ioctl(tap.as_raw_fd(), TUNGETDEVNETNS, 0) };
    done(fd)?;
    // SAFETY: the kernel has made it for us, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes a tap that was lent go with the process that has attached to it. That
/// one's own descriptor is duplicated, which takes the right to trace it
/// (pidfd_getfd(2)).
pub fn take_back(process: &Process, tap: &str) -> io::Result<()> {
    let fds = std::fs::read_dir(format!("/proc/{}/fd", process.identity().pid))?;
    for entry in fds.flatten() {
        // By the path that it has opened: in its root directory, the same.
        let is_tap = std::fs::read_link(entry.path()).is_ok_and(|path| path.ends_with("net/tun"));
        let number = entry.file_name().to_str().and_then(|fd| fd.parse().ok());
        let Some(number) = number.filter(|_| is_tap) else { continue };
        let held = pidfd_getfd(process.pidfd(), number, PidfdGetfdFlags::empty())?;
        if name(&held).is_ok_and(|name| name == tap) {
            return let_go(&held);
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, "the process has not attached to the tap"))
}

/// Removes a tap that was lent and that nobody holds, if it is there.
pub fn remove(name: &str) -> io::Result<()> {
    if !Path::new("/sys/class/net").join(name).exists() {
        return Ok(());
    }
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let tap = open_file(DEVICE, flags, Mode::empty())?;
    attach(&tap, name, flags_of(0))?;
    let_go(&tap)
}

#[allow(unsafe_code)]
fn let_go(tap: &OwnedFd) -> io::Result<()> {
    let goes: libc::c_ulong = 0;
    // SAFETY: TUNSETPERSIST takes a number in place of a pointer.
    done(unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETPERSIST, goes) })
}

fn done(status: libc::c_int) -> io::Result<()> {
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
#[path = "tap_tests.rs"]
mod tests;
