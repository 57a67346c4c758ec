//! One line on the console, or on stderr where we are no init: all that a
//! human sees of a guest that cannot speak to its host.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Mode, OFlags};

static PRIORITIES: AtomicBool = AtomicBool::new(false);

/// From now on stderr is systemd's journal, which knows whose it is and wants
/// a priority in front: sd-daemon(3).
pub(crate) fn prefix_priorities() {
    PRIORITIES.store(true, Ordering::Relaxed);
}

/// Something that somebody may have to look at.
pub(crate) fn say(text: &str) {
    line(4, text);
}

/// Something that is as it should be.
pub(crate) fn note(text: &str) {
    line(6, text);
}

fn line(priority: u8, text: &str) {
    // One write, so that the kernel's own lines do not come between.
    let line = match PRIORITIES.load(Ordering::Relaxed) {
        true => format!("<{priority}>{text}\n"),
        false => format!("inn-guest: {text}\n"),
    };
    let _nobody_reads = io::stderr().write_all(line.as_bytes());
}

/// Puts the console behind descriptors 0 to 2. Later ones are then never among
/// the three that a child's own are moved to.
pub(crate) fn attach() -> io::Result<()> {
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
