//! Reads a log that somebody else writes and cuts: the older part (`.1`), the
//! current one, and what comes.

use std::fs::{File, Metadata};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use inn_host::log_times::{self, Extent, Part};
use inn_vmm::open_log;
use jiff::Timestamp;

use crate::logging::time_of_line;

/// What is read at once.
const CHUNK: usize = 64 << 10;

/// How often to look again at a log that is cut while it is looked at.
const TRIES: usize = 3;

/// Where to begin: at the later one of the two.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Begin {
    /// With the last so many lines.
    pub(super) tail: Option<u64>,
    pub(super) since: Option<Since>,
}

/// With what was written since a time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Since {
    pub(super) at: Timestamp,
    pub(super) now: Timestamp,
    /// Each line begins with its time; another log has marks beside it.
    pub(super) by_lines: bool,
}

/// Blocks briefly in each call.
#[derive(Debug)]
pub(super) struct LogReader {
    path: PathBuf,
    /// The part before the last cut, until it is read.
    older: Option<File>,
    /// How far that one is read.
    older_position: u64,
    current: Option<File>,
    /// How far the current one is read.
    position: u64,
}

impl LogReader {
    /// A log that is not there yet is empty.
    pub(super) fn open(path: &Path, begin: Begin) -> io::Result<Self> {
        let mut reader = Self::whole(path)?;
        if let Some(since) = begin.since {
            let place = match since.by_lines {
                true => reader.since_by_lines(since)?,
                false => reader.since_by_marks(since)?,
            };
            reader.skip(place);
        }
        if let Some(lines) = begin.tail {
            let place = reader.last_lines(lines)?;
            reader.skip(place);
        }
        Ok(reader)
    }

    fn whole(path: &Path) -> io::Result<Self> {
        let mut kept = path.as_os_str().to_owned();
        kept.push(".1");
        Ok(Self {
            path: path.to_owned(),
            older: open_log(Path::new(&kept))?,
            older_position: 0,
            current: open_log(path)?,
            position: 0,
        })
    }

    /// Never back.
    fn skip(&mut self, (part, position): (Part, u64)) {
        match part {
            Part::Older => self.older_position = self.older_position.max(position),
            Part::Current => {
                self.older = None;
                self.position = self.position.max(position);
            }
        }
    }

    fn last_lines(&mut self, lines: u64) -> io::Result<(Part, u64)> {
        let (position, missing) = match &mut self.current {
            Some(file) => last_lines(file, lines)?,
            None => (0, lines),
        };
        Ok(match &mut self.older {
            Some(file) if missing > 0 => (Part::Older, last_lines(file, missing)?.0),
            _ => (Part::Current, position),
        })
    }

    /// With the line in which what was written since begins.
    fn since_by_marks(&mut self, since: Since) -> io::Result<(Part, u64)> {
        for _ in 0..TRIES {
            let marks = log_times::read(&self.path)?;
            *self = Self::whole(&self.path)?;
            // Otherwise they may be of parts that were turned meanwhile.
            if !log_times::read(&self.path)?.starts_with(&marks) {
                continue;
            }
            let extents = [extent(self.older.as_ref())?, extent(self.current.as_ref())?];
            let (at, now) = (SystemTime::from(since.at), SystemTime::from(since.now));
            let (part, offset) = log_times::begin(&marks, extents, at, now);
            let file = match part {
                Part::Older => &mut self.older,
                Part::Current => &mut self.current,
            };
            let begin = file.as_mut().map_or(Ok(0), |file| line_begin(file, offset))?;
            return Ok((part, begin));
        }
        Ok((Part::Older, 0))
    }

    /// With the first line that is not older. One whose clock was ahead of now
    /// is as old as the next.
    fn since_by_lines(&self, since: Since) -> io::Result<(Part, u64)> {
        let mut end = (Part::Older, 0);
        for (part, file) in [(Part::Older, &self.older), (Part::Current, &self.current)] {
            end = (part, 0);
            let Some(file) = file else { continue };
            let (mut lines, mut line) = (BufReader::new(file), Vec::new());
            loop {
                line.clear();
                let length = lines.read_until(b'\n', &mut line)? as u64;
                if length == 0 {
                    break;
                }
                let time = time_of_line(&line);
                if time.is_some_and(|time| time >= since.at && time <= since.now) {
                    return Ok(end);
                }
                end.1 += length;
            }
        }
        Ok(end)
    }

    /// What comes next; empty at the end, as it is now.
    pub(super) fn read(&mut self) -> io::Result<Vec<u8>> {
        if let Some(file) = &mut self.older {
            file.seek(SeekFrom::Start(self.older_position))?;
            let chunk = read_chunk(file)?;
            self.older_position += chunk.len() as u64;
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

/// No part is an empty one.
fn extent(part: Option<&File>) -> io::Result<Extent> {
    let Some(part) = part else {
        return Ok(Extent { length: 0, modified: SystemTime::UNIX_EPOCH });
    };
    let metadata = part.metadata()?;
    Ok(Extent { length: metadata.len(), modified: metadata.modified()? })
}

/// Where the line that `offset` is in begins; `offset` itself, if that is far.
fn line_begin(file: &mut File, offset: u64) -> io::Result<u64> {
    let start = offset.saturating_sub(CHUNK as u64);
    file.seek(SeekFrom::Start(start))?;
    let mut before = Vec::new();
    file.take(offset - start).read_to_end(&mut before)?;
    Ok(match before.iter().rposition(|byte| *byte == b'\n') {
        Some(end) => start + end as u64 + 1,
        None if start == 0 => 0,
        None => offset,
    })
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

    fn tail_of(path: &Path, tail: Option<u64>) -> String {
        all(&mut LogReader::open(path, Begin { tail, since: None }).unwrap())
    }

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000_000 + second).unwrap()
    }

    fn since(path: &Path, at: i64, tail: Option<u64>, by_lines: bool) -> String {
        let since = Since { at: second(at), now: second(1_000), by_lines };
        all(&mut LogReader::open(path, Begin { tail, since: Some(since) }).unwrap())
    }

    #[test]
    fn what_was_written_since_a_time_begins_with_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        let mut times = log_times::Times::open(&path).unwrap();
        for (offset, at) in [(0, 0), (4, 10)] {
            times.mark(offset, second(at).into());
        }
        times.turn(0);
        for (offset, at) in [(0, 20), (6, 30)] {
            times.mark(offset, second(at).into());
        }
        let write = |name: &str, text: &str, at: i64| {
            std::fs::write(dir.path().join(name), text).unwrap();
            let file = File::options().append(true).open(dir.path().join(name)).unwrap();
            file.set_modified(second(at).into()).unwrap();
        };
        write("x.log.1", "one\ntwo\n", 10);
        write("x.log", "three and\nfour\n", 30);
        for (at, tail, text) in [
            (0, None, "one\ntwo\nthree and\nfour\n"),
            (5, None, "two\nthree and\nfour\n"),
            (11, None, "three and\nfour\n"),
            (25, None, "three and\nfour\n"),
            (25, Some(1), "four\n"),
            (5, Some(99), "two\nthree and\nfour\n"),
            (31, None, ""),
            (31, Some(5), ""),
        ] {
            assert_eq!(since(&path, at, tail, false), text, "{at} {tail:?}");
        }
        // What comes is read from there.
        let begin = Since { at: second(40), now: second(1_000), by_lines: false };
        let begin = Begin { since: Some(begin), tail: None };
        let mut reader = LogReader::open(&path, begin).unwrap();
        assert_eq!(all(&mut reader), "");
        write("x.log", "three and\nfour\nfive\n", 50);
        assert_eq!(all(&mut reader), "five\n");
    }

    #[test]
    fn lines_with_times_are_told_apart_by_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.log");
        let line = |at: i64| format!("{:.3}  INFO said at {at}\n", second(at));
        let lines = |all: &[i64]| all.iter().map(|at| line(*at)).collect::<String>();
        std::fs::write(dir.path().join("agent.log.1"), lines(&[0, 10])).unwrap();
        std::fs::write(&path, lines(&[20, 5_000, 30, 40])).unwrap();
        assert_eq!(since(&path, 5, None, true), lines(&[10, 20, 5_000, 30, 40]));
        assert_eq!(since(&path, 25, None, true), lines(&[30, 40]), "a clock was ahead");
        assert_eq!(since(&path, 25, Some(1), true), lines(&[40]));
        assert_eq!(since(&path, 41, None, true), "");
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
            assert_eq!(tail_of(&path, tail), text, "{tail:?}");
        }
        std::fs::write(&path, "c\n".repeat(CHUNK)).unwrap();
        let long = tail_of(&path, Some(60_000));
        assert_eq!(long.len(), 120_000);
    }

    #[test]
    fn what_comes_is_read_also_after_a_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        let mut reader = LogReader::open(&path, Begin::default()).unwrap();
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
