//! The agent on Linux. Every file here stands behind a name that says nothing
//! of Linux: `crate::os::x` is what the rest of this crate calls.

pub(crate) mod beneath;
pub(crate) mod boot;
pub(crate) mod clock;
mod dhcp;
pub(crate) mod disk_size;
pub(crate) mod disks;
mod etc;
pub(crate) mod files;
pub(crate) mod freeze;
pub(crate) mod hostname;
pub(crate) mod identity;
pub(crate) mod init_system;
#[allow(unsafe_code)]
mod ioctls;
pub(crate) mod kernel;
pub(crate) mod lifecycle;
pub(crate) mod memory;
mod mount_table;
pub(crate) mod mounts;
pub(crate) mod network;
pub(crate) mod network_setup;
pub(crate) mod password;
pub(crate) mod pipes;
pub(crate) mod port;
mod probe;
#[allow(unsafe_code)]
pub(crate) mod process;
pub(crate) mod programs;
#[allow(unsafe_code)]
pub(crate) mod raw;
mod readdress;
pub(crate) mod reaper;
mod renumber;
pub(crate) mod resume;
pub(crate) mod service;
mod sha_crypt;
pub(crate) mod ssh_keys;
pub(crate) mod telemetry;
pub(crate) mod users;
pub(crate) mod vsock;
pub(crate) mod watch;

use std::io;
use std::time::{Duration, Instant};

/// How long one look at a device that is not there yet lasts. Short, since
/// every one of them delays the boot; it is a wait, not a spin.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Looks until `found` finds something. Devices appear without a sign that a
/// program without udev or netlink could wait for.
pub(crate) fn wait_for<T>(
    what: &str,
    deadline: Duration,
    mut found: impl FnMut() -> Option<T>,
) -> io::Result<T> {
    let start = Instant::now();
    loop {
        if let Some(it) = found() {
            return Ok(it);
        }
        if start.elapsed() >= deadline {
            let text = format!("{what} did not appear within {} s", deadline.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        let timeout =
            rustix::event::Timespec { tv_sec: 0, tv_nsec: LOOK_EVERY.subsec_nanos().into() };
        // Nothing to poll: it is the wait that counts.
        let _interrupted = rustix::event::poll(&mut [], Some(&timeout));
    }
}
