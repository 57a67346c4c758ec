use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Enough for the log's pages of some stops and deletions: each is one or two
/// small rows.
const SIZE: usize = 128 << 10;

/// Room on the disk for the writes that make room: a VM can be stopped and
/// deleted although nothing else can be written any more.
#[derive(Debug)]
pub(crate) struct Reserve {
    path: PathBuf,
}

impl Reserve {
    pub(crate) fn beside(database: &Path) -> Self {
        let mut path = database.as_os_str().to_owned();
        path.push(".reserve");
        let reserve = Self { path: path.into() };
        reserve.hold();
        reserve
    }

    /// Makes it, where it is not there. Without the room for it there is none
    /// until the next deletion, or the agent's next life.
    pub(crate) fn hold(&self) {
        let size = SIZE as u64;
        if fs::metadata(&self.path).is_ok_and(|file| file.len() == size) {
            return;
        }
        // Not a hole: blocks are what is kept.
        let made = File::create(&self.path).and_then(|mut file| file.write_all(&vec![0; SIZE]));
        if made.is_err() {
            self.give();
        }
    }

    /// Whether there is room now that was not there before.
    pub(crate) fn give(&self) -> bool {
        fs::remove_file(&self.path).is_ok()
    }
}
