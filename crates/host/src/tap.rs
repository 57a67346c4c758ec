//! Taps: network cards of the host's whose other end is a descriptor.
//!
//! ```text
//!   open(name) ──▶ the device is there, and is this descriptor
//!       │ handed to a VMM, closed here
//!       ▼
//!   the VMM holds it ──its end, however it comes──▶ the device is gone
//! ```
//!
//! Never persistent (TUNSETPERSIST): a tap lives exactly as long as the machine
//! that holds it, whether an agent runs or not, so none can be left behind.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags, open as open_file};

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
    attach(&tap, name).map_err(failed("TUNSETIFF"))?;
    own(&tap).map_err(failed("TUNSETOWNER"))?;
    Ok(tap)
}

#[allow(unsafe_code)]
fn attach(tap: &OwnedFd, name: &str) -> io::Result<()> {
    let too_long = || io::Error::new(io::ErrorKind::InvalidInput, "15 characters at most");
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags() },
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

/// Exclusive: an existing device of that name is another's, and no way in.
fn flags() -> libc::c_short {
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_TUN_EXCL;
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

fn done(status: libc::c_int) -> io::Result<()> {
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
#[path = "tap_tests.rs"]
mod tests;
