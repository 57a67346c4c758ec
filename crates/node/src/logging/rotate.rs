use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A log file that becomes `NAME.1`, in the place of the one before, once it is
/// full. It is given whole lines, and cuts none.
#[derive(Debug)]
pub(super) struct Rotating {
    path: PathBuf,
    file: File,
    length: u64,
    /// `None` of what is no file, such as a terminal.
    limit: Option<u64>,
}

impl Rotating {
    pub(super) fn open(path: &Path, limit: u64) -> io::Result<Self> {
        let file = append(path)?;
        let metadata = file.metadata()?;
        let limit = metadata.is_file().then_some(limit);
        Ok(Self { path: path.to_owned(), length: metadata.len(), file, limit })
    }

    /// Where it cannot be moved, it grows.
    fn turn(&mut self) -> io::Result<()> {
        let mut older = self.path.as_os_str().to_owned();
        older.push(".1");
        std::fs::rename(&self.path, older)?;
        self.file = append(&self.path)?;
        self.length = 0;
        Ok(())
    }
}

impl Write for Rotating {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let more = u64::try_from(line.len()).unwrap_or(u64::MAX);
        if self.length > 0 && self.limit.is_some_and(|limit| self.length + more > limit) {
            // Said by whoever reads it, since this is where it would be said.
            let _ = self.turn();
        }
        self.file.write_all(line)?;
        self.length += more;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_log_is_moved_and_no_line_is_cut() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.log");
        std::fs::write(&path, "of an earlier life\n").unwrap();
        let mut log = Rotating::open(&path, 40).unwrap();
        let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap();
        for line in ["one two three\n", "four\n", "five six seven eight nine\n"] {
            log.write_all(line.as_bytes()).unwrap();
        }
        assert_eq!(read("agent.log.1"), "of an earlier life\none two three\nfour\n");
        assert_eq!(read("agent.log"), "five six seven eight nine\n");
        // One that is longer than all of it has a file of its own.
        let long = format!("{}\n", "x".repeat(90));
        log.write_all(long.as_bytes()).unwrap();
        log.write_all(b"next\n").unwrap();
        assert_eq!((read("agent.log.1"), read("agent.log")), (long, "next\n".to_owned()));
    }
}
