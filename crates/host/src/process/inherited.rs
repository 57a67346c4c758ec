use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, RawFd};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;

/// Descriptors below are the standard ones, which are nobody's to name.
const FIRST_FREE: RawFd = 3;

/// Those that somebody has by now.
static TAKEN: Mutex<Vec<RawFd>> = Mutex::new(Vec::new());

/// A descriptor that this process was started with, by its number; each can be
/// had once. For a process that was started for one task, before it opens
/// anything: a number that it has given to a file of its own is not inherited.
#[allow(unsafe_code)]
pub fn inherited(number: RawFd) -> io::Result<File> {
    // A list that a panic left is whole: each change is one push.
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    let is_open = || Path::new(&format!("/proc/self/fd/{number}")).exists();
    if number < FIRST_FREE || taken.contains(&number) || !is_open() {
        return Err(Errno::BADF.into());
    }
    taken.push(number);
    // SAFETY: it is open, and nobody else in this process owns it: the process
    // was started with it and has opened nothing yet, and `TAKEN` lets no
    // number be taken twice.
    Ok(unsafe { File::from_raw_fd(number) })
}
