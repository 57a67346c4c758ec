//! What the kernel says of itself, and the console that it was given.

use std::io;
use std::os::fd::AsFd;
use std::sync::OnceLock;

use rustix::fs::{Mode, OFlags};

/// Another one at each boot (random(4)), and so read once: a machine that goes on
/// from a saved one has it in its memory.
pub(crate) fn boot_id() -> String {
    static READ: OnceLock<String> = OnceLock::new();
    if let Some(id) = READ.get() {
        return id.clone();
    }
    match std::fs::read_to_string("/proc/sys/kernel/random/boot_id") {
        Ok(text) => READ.get_or_init(|| text.trim_end().to_owned()).clone(),
        Err(_) => String::new(),
    }
}

/// As `uname -r` says it.
pub(crate) fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// Puts the console behind descriptors 0 to 2. Later ones are then never among
/// the three that a child's own are moved to.
pub(super) fn attach_console() -> io::Result<()> {
    let console = rustix::fs::open(
        "/dev/console",
        OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    // A machine without a console still runs.
    .or_else(|_| rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()))?;
    rustix::stdio::dup2_stdin(console.as_fd())?;
    rustix::stdio::dup2_stdout(console.as_fd())?;
    rustix::stdio::dup2_stderr(console.as_fd())?;
    Ok(())
}
