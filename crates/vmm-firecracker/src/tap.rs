//! A tap for a VMM that takes none by descriptor.
//!
//! ```text
//!   ours ──its name written down──▶ lent ──ours closed──▶ Firecracker attaches
//!                                    │                        └─▶ goes with it
//!                                    └─ nobody attaches: removed with what is left
//! ```

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use inn_fail_point::{Point, fail_point};
use inn_host::process::Process;
use inn_host::tap;
use rustix::process::geteuid;

/// Has the name of a tap that would outlive its machine as yet.
const LENT: &str = "lent-tap";

/// No interface has a longer name (IFNAMSIZ).
const LONGEST: u64 = 16;

/// What the VMM is told.
#[derive(Debug)]
pub(crate) struct LentTap {
    pub(crate) name: String,
    pub(crate) netns: OwnedFd,
}

/// Gives a tap to whoever has this uid.
pub(crate) fn lend(device: OwnedFd, user: u32, run_dir: &Path) -> io::Result<LentTap> {
    let (name, netns) = (tap::name(&device)?, tap::netns(&device)?);
    fs::write(run_dir.join(LENT), &name)?;
    tap::lend(&device, user)?;
    fail_point(Point::FirecrackerLent);
    Ok(LentTap { name, netns })
}

/// Has it go with the process that has attached to it. Where that can't be had,
/// it is removed when its machine has ended.
pub(crate) fn take_back(process: &Process, name: &str, run_dir: &Path) {
    match tap::take_back(process, name) {
        Ok(()) => forget(run_dir),
        Err(error) => tracing::warn!(
            tap = name, %error,
            "it stays until its machine's end is seen: tracing Firecracker is not permitted"
        ),
    }
}

pub(crate) fn remove_lent(run_dir: &Path) {
    let name = match lent(&run_dir.join(LENT)) {
        Ok(Some(name)) => name,
        Ok(None) => return,
        Err(error) if error.kind() == ErrorKind::NotFound => return,
        Err(error) => {
            return tracing::warn!(run_dir = %run_dir.display(), %error, "a tap may stay behind");
        }
    };
    match tap::remove(&name) {
        Ok(()) => forget(run_dir),
        Err(error) => tracing::warn!(tap = name, %error, "a tap stays behind"),
    }
}

/// Only what this agent has written down: the directory is the VMM's own, which
/// could name another one's tap there.
fn lent(path: &Path) -> io::Result<Option<String>> {
    let file = File::options().read(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
    let is_ours = file.metadata()?.uid() == geteuid().as_raw();
    let mut name = String::new();
    file.take(LONGEST).read_to_string(&mut name)?;
    Ok(Some(name).filter(|_| is_ours))
}

fn forget(run_dir: &Path) {
    if let Err(error) = fs::remove_file(run_dir.join(LENT)) {
        tracing::warn!(run_dir = %run_dir.display(), %error, "a tap's name stays behind");
    }
}
