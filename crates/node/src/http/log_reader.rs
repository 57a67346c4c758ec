//! Reads a log that somebody else writes and cuts: the older part (`.1`), the
//! current one, and what comes.

use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use inn_vmm::open_log;

/// What is read at once.
const CHUNK: usize = 64 << 10;

/// Blocks briefly in each call.
#[derive(Debug)]
pub(super) struct LogReader {
    path: PathBuf,
    /// The part before the last cut, until it is read.
    older: Option<File>,
    current: Option<File>,
    /// How far the current one is read.
    position: u64,
}

impl LogReader {
    /// From the beginning, or from the last `tail` lines on. A log that is
    /// not there yet is empty.
    pub(super) fn open(path: &Path, tail: Option<u64>) -> io::Result<Self> {
        let mut kept = path.as_os_str().to_owned();
        kept.push(".1");
        let mut older = open_log(Path::new(&kept))?;
        let mut current = open_log(path)?;
        let mut position = 0;
        if let Some(lines) = tail {
            let missing = match &mut current {
                Some(file) => {
                    let (at, missing) = last_lines(file, lines)?;
                    position = at;
                    missing
                }
                None => lines,
            };
            match &mut older {
                Some(file) if missing > 0 => {
                    let (at, _) = last_lines(file, missing)?;
                    file.seek(SeekFrom::Start(at))?;
                }
                _ => older = None,
            }
        }
        Ok(Self { path: path.to_owned(), older, current, position })
    }

    /// What comes next; empty at the end, as it is now.
    pub(super) fn read(&mut self) -> io::Result<Vec<u8>> {
        if let Some(file) = &mut self.older {
            let chunk = read_chunk(file)?;
            if !chunk.is_empty() {
                return Ok(chunk);
            }
            self.older = None;
        }
        let chunk = self.read_current()?;
        if !chunk.is_empty() {
            return Ok(chunk);
        }
        if !self.was_cut()? {
            return Ok(Vec::new());
        }
        // What came between the look at its end and the cut is still in it.
        let chunk = self.read_current()?;
        if !chunk.is_empty() {
            return Ok(chunk);
        }
        self.current = open_log(&self.path)?;
        self.position = 0;
        self.read_current()
    }

    fn read_current(&mut self) -> io::Result<Vec<u8>> {
        if self.current.is_none() {
            self.current = open_log(&self.path)?;
        }
        let Some(file) = &mut self.current else { return Ok(Vec::new()) };
        file.seek(SeekFrom::Start(self.position))?;
        let chunk = read_chunk(file)?;
        self.position += chunk.len() as u64;
        Ok(chunk)
    }

    /// Cut to nothing in place, or replaced by a new one.
    fn was_cut(&self) -> io::Result<bool> {
        let Some(file) = &self.current else { return Ok(false) };
        let there = match std::fs::metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            metadata => metadata?,
        };
        let id = |m: &Metadata| (m.dev(), m.ino());
        Ok(id(&file.metadata()?) != id(&there) || there.len() < self.position)
    }
}

fn read_chunk(file: &mut File) -> io::Result<Vec<u8>> {
    let mut chunk = Vec::new();
    file.take(CHUNK as u64).read_to_end(&mut chunk)?;
    Ok(chunk)
}

/// Where the last `lines` lines begin, and how many it has too few.
fn last_lines(file: &mut File, lines: u64) -> io::Result<(u64, u64)> {
    let length = file.seek(SeekFrom::End(0))?;
    if lines == 0 {
        return Ok((length, 0));
    }
    let mut end = length;
    let mut found = 0;
    let mut chunk = vec![0; CHUNK];
    while end > 0 {
        let start = end.saturating_sub(CHUNK as u64);
        let size = usize::try_from(end - start).unwrap_or(CHUNK);
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut chunk[..size])?;
        for (i, byte) in chunk[..size].iter().enumerate().rev() {
            let at = start + i as u64;
            // The newline at the very end closes the last line.
            if *byte == b'\n' && at + 1 < length {
                found += 1;
                if found == lines {
                    return Ok((at + 1, 0));
                }
            }
        }
        end = start;
    }
    let has = if length == 0 { 0 } else { found + 1 };
    Ok((0, lines.saturating_sub(has)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(reader: &mut LogReader) -> String {
        let mut text = Vec::new();
        loop {
            let chunk = reader.read().unwrap();
            if chunk.is_empty() {
                return String::from_utf8(text).unwrap();
            }
            text.extend(chunk);
        }
    }

    #[test]
    fn the_last_lines_reach_across_a_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        std::fs::write(dir.path().join("x.log.1"), "a\nb\n").unwrap();
        std::fs::write(&path, "c\nd\ne").unwrap();
        for (tail, text) in [
            (None, "a\nb\nc\nd\ne"),
            (Some(0), ""),
            (Some(1), "e"),
            (Some(3), "c\nd\ne"),
            (Some(4), "b\nc\nd\ne"),
            (Some(99), "a\nb\nc\nd\ne"),
        ] {
            assert_eq!(all(&mut LogReader::open(&path, tail).unwrap()), text, "{tail:?}");
        }
        std::fs::write(&path, "c\n".repeat(CHUNK)).unwrap();
        let long = all(&mut LogReader::open(&path, Some(60_000)).unwrap());
        assert_eq!(long.len(), 120_000);
    }

    #[test]
    fn what_comes_is_read_also_after_a_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        let mut reader = LogReader::open(&path, None).unwrap();
        assert_eq!(all(&mut reader), "");
        std::fs::write(&path, "one\n").unwrap();
        assert_eq!(all(&mut reader), "one\n");
        // Cut in place.
        std::fs::write(&path, "2\n").unwrap();
        assert_eq!(all(&mut reader), "2\n");
        // Written to, and replaced before anybody looked.
        std::fs::write(&path, "2\nlast\n").unwrap();
        std::fs::rename(&path, dir.path().join("x.log.1")).unwrap();
        assert_eq!(all(&mut reader), "last\n");
        std::fs::write(&path, "three\n").unwrap();
        assert_eq!(all(&mut reader), "three\n");
    }
}
