//! The end of the VM.
//!
//! ```text
//!  SIGTERM to all ─▶ childless or grace over ─▶ SIGKILL ─▶ sync ─▶ unmount ─▶ reboot(2)
//! ```

use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags, mount_remount, unmount};
use rustix::system::{RebootCommand, reboot};

use super::boot::BootError;
use super::raw;
use super::reaper::Reaper;
use crate::console;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Last {
    PowerOff,
    Reboot,
}

/// After SIGKILL nothing takes long but a process inside the kernel, which
/// must not keep the VM from ending.
const AFTER_KILL: Duration = Duration::from_secs(2);

/// The writable disk's own mount, which lies under the VM's root unseen.
static WRITABLE: OnceLock<OwnedFd> = OnceLock::new();

/// Called while `path` can still be seen.
pub(crate) fn keep_writable_disk(path: &str) {
    if let Ok(dir) = rustix::fs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
        let _only_once = WRITABLE.set(dir);
    }
}

/// As PID 1: ends everything in good order, then the machine.
pub(crate) async fn shut_down(reaper: &Reaper, last: Last, grace: Duration) -> ! {
    // SIGHUP for interactive shells, which ignore SIGTERM; SIGCONT for what is
    // stopped and would not notice.
    for signal in [libc::SIGTERM, libc::SIGHUP, libc::SIGCONT] {
        let _nobody_there = raw::signal_all(signal);
    }
    if tokio::time::timeout(grace, reaper.childless()).await.is_err() {
        let _nobody_there = raw::signal_all(libc::SIGKILL);
        let _stuck = tokio::time::timeout(AFTER_KILL, reaper.childless()).await;
    }
    put_away_disks();
    match last {
        Last::PowerOff => power_off(),
        Last::Reboot => reset(),
    }
}

fn put_away_disks() {
    rustix::fs::sync();
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    for line in mounts.lines().rev() {
        let mut words = line.split(' ');
        if let (Some(device), Some(target)) = (words.next(), words.next())
            && device.starts_with("/dev/")
            && target != "/"
        {
            let _in_use = unmount(unescape(target), UnmountFlags::empty());
        }
    }
    // The root cannot be unmounted, and neither can what is under it.
    let _in_use = mount_remount("/", MountFlags::RDONLY, c"");
    if let Some(disk) = WRITABLE.get()
        && rustix::process::fchdir(disk).is_ok()
    {
        let _in_use = mount_remount(".", MountFlags::RDONLY, c"");
    }
}

/// /proc/mounts writes space, tab, newline and backslash in octal
/// (getmntent(3)).
fn unescape(text: &str) -> String {
    let plain = text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n");
    plain.replace("\\134", "\\")
}

/// A boot that cannot go on: says why, and ends the machine, so that the host
/// need not wait for a deadline to know.
pub(crate) fn fail(error: &BootError) -> ! {
    console::say(&format!("cannot {}: {}", error.step, error.source));
    rustix::fs::sync();
    power_off()
}

/// Where no firmware can switch off, a reset ends the machine as well: its
/// runtime does not let it start again.
pub(crate) fn power_off() -> ! {
    if std::path::Path::new("/sys/firmware/acpi").exists() {
        let _cannot = reboot(RebootCommand::PowerOff);
    }
    reset()
}

pub(crate) fn reset() -> ! {
    let _cannot = reboot(RebootCommand::Restart);
    // The kernel refuses: the end of PID 1 is a panic, which ends it too.
    std::process::exit(1)
}

/// As an ordinary process of a full VM, whose init ends it. Nobody waits for
/// the program: init's signals are its answer.
#[expect(clippy::disallowed_methods, reason = "the guest has no other way to start init's program")]
pub(crate) fn ask_init(last: Last) -> std::io::Result<()> {
    let program = match last {
        Last::PowerOff => "/sbin/poweroff",
        Last::Reboot => "/sbin/reboot",
    };
    std::process::Command::new(program).spawn()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::unescape;

    #[test]
    fn mount_points_are_unescaped() {
        assert_eq!(unescape("/a\\040b\\134c"), "/a b\\c");
        assert_eq!(unescape("/plain"), "/plain");
    }
}
