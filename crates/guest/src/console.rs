//! One line on the console, or on stderr where we are no init: all that a
//! human sees of a guest that cannot speak to its host.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

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
