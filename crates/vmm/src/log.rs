//! Logs in two parts: `NAME`, and `NAME.1` with what was before it.
//!
//! What a VMM prints, its log writer keeps bounded for as long as it lives.
//! Here is what is done from outside: reading across the parts, removing both,
//! and [`bound_log`], which cuts a log that nobody writes for the moment, or
//! that was written with a higher limit. It is safe under a writer that appends
//! (O_APPEND), but for what comes between the copy and the cut, some
//! microseconds: that is lost.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use inn_host::log_times::{self, Times};
use inn_units::Bytes;
use libc::{O_NOFOLLOW, O_NONBLOCK};

/// How often to copy what was appended during the copy before it: a writer
/// that is faster still loses some.
const CATCH_UP: usize = 4;

/// Cuts the log at `path` if it is longer than `limit`, keeping its last
/// `limit` bytes in `path` + `.1`. Tells whether it did. No log is no error.
pub fn bound_log(path: &Path, limit: Bytes) -> io::Result<bool> {
    // Mostly there is nothing to do, which takes one look and no more.
    match fs::symlink_metadata(path) {
        Ok(log) if log.len() <= limit.get() => return Ok(false),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    }
    let mut log = open_regular(path, OpenOptions::new().read(true).write(true))?;
    let length = log.metadata()?.len();
    let fresh = with_suffix(path, ".1.new");
    match keep_end(&mut log, length, limit, &fresh) {
        Ok(()) => {}
        // There is no room to keep it, and a log that stays makes none.
        Err(error) if is_full(&error) => {
            log.set_len(0)?;
            let _ = fs::remove_file(&fresh);
            marks(path, |times| times.forget(false));
            return Ok(true);
        }
        Err(error) => {
            let _ = fs::remove_file(&fresh);
            return Err(error);
        }
    }
    log.set_len(0)?;
    fs::rename(&fresh, with_suffix(path, ".1"))?;
    marks(path, |times| times.turn(length.saturating_sub(limit.get())));
    Ok(true)
}

/// Where the log has marks, and they can be had: without them it is read from
/// further back.
fn marks(path: &Path, change: impl FnOnce(&mut Times)) {
    if fs::symlink_metadata(log_times::path_of(path)).is_ok() {
        match Times::open(path) {
            Ok(mut times) => change(&mut times),
            Err(error) => tracing::debug!(log = %path.display(), %error, "its times are off"),
        }
    }
}

fn keep_end(log: &mut File, length: u64, limit: Bytes, fresh: &Path) -> io::Result<()> {
    let mut kept = open_regular(fresh, OpenOptions::new().write(true).create(true).truncate(true))?;
    log.seek(SeekFrom::Start(length.saturating_sub(limit.get())))?;
    for _ in 0..CATCH_UP {
        // Never more than the limit at once, however fast it grows.
        if io::copy(&mut log.take(limit.get()), &mut kept)? == 0 {
            break;
        }
    }
    Ok(())
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The last `most` bytes of the log at `path`, across a cut. No log is empty.
pub fn read_tail(path: &Path, most: usize) -> io::Result<Vec<u8>> {
    let current = tail_of(path, most)?;
    let missing = most - current.len();
    if missing == 0 {
        return Ok(current);
    }
    let mut tail = tail_of(&with_suffix(path, ".1"), missing)?;
    tail.extend_from_slice(&current);
    Ok(tail)
}

/// One part of a log, to read. No log is no error.
pub fn open_log(path: &Path) -> io::Result<Option<File>> {
    match open_regular(path, OpenOptions::new().read(true)) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Neither through a link nor from a pipe: the directory may be a VMM's own,
/// and what it puts there must not have us read or cut another file, or wait.
fn open_regular(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let file = options.custom_flags(O_NOFOLLOW | O_NONBLOCK).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file")),
    }
}

/// Removes the log at `path`, what was cut from it, and when it was written.
pub fn remove_log(path: &Path) -> io::Result<()> {
    for suffix in ["", ".1", ".1.new", ".times"] {
        match fs::remove_file(with_suffix(path, suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn tail_of(path: &Path, most: usize) -> io::Result<Vec<u8>> {
    let Some(mut file) = open_log(path)? else { return Ok(Vec::new()) };
    let most = u64::try_from(most).unwrap_or(u64::MAX);
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(most)))?;
    let mut tail = Vec::new();
    file.take(most).read_to_end(&mut tail)?;
    Ok(tail)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::time::{Duration, UNIX_EPOCH};

    fn appender(path: &Path) -> File {
        OpenOptions::new().create(true).append(true).open(path).unwrap()
    }

    #[test]
    fn what_is_no_file_of_its_own_is_neither_read_nor_cut() {
        let dir = tempfile::tempdir().unwrap();
        let (secret, log) = (dir.path().join("secret"), dir.path().join("vmm.log"));
        fs::write(&secret, b"another one's").unwrap();
        std::os::unix::fs::symlink(&secret, &log).unwrap();
        assert!(read_tail(&log, 100).is_err());
        assert!(open_log(&log).is_err());
        assert!(bound_log(&log, Bytes(4)).is_err());
        assert_eq!(fs::read(&secret).unwrap(), b"another one's");
        // Nor is a planted name written through.
        fs::remove_file(&log).unwrap();
        fs::write(&log, b"longer than the limit").unwrap();
        std::os::unix::fs::symlink(&secret, dir.path().join("vmm.log.1.new")).unwrap();
        assert!(bound_log(&log, Bytes(4)).is_err());
        assert_eq!(fs::read(&secret).unwrap(), b"another one's");

        assert!(open_log(Path::new("/dev/null")).is_err());
    }

    #[test]
    fn an_appending_writer_goes_on_after_the_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        let limit = Bytes(10);
        assert!(!bound_log(&path, limit).unwrap(), "no log yet");
        let mut writer = appender(&path);
        writer.write_all(b"0123456789").unwrap();
        assert!(!bound_log(&path, limit).unwrap(), "just full");
        writer.write_all(b"abc").unwrap();
        assert!(bound_log(&path, limit).unwrap());
        assert_eq!(fs::read(dir.path().join("console.log.1")).unwrap(), b"3456789abc");
        writer.write_all(b"def").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"def");

        assert_eq!(read_tail(&path, 2).unwrap(), b"ef");
        assert_eq!(read_tail(&path, 5).unwrap(), b"bcdef");
        assert_eq!(read_tail(&path, 100).unwrap(), b"3456789abcdef");
        assert_eq!(read_tail(&dir.path().join("none"), 5).unwrap(), b"");

        remove_log(&path).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_cut_takes_the_times_along() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        fs::write(&path, b"0123456789abc").unwrap();
        let (early, late) = (UNIX_EPOCH, UNIX_EPOCH + Duration::from_secs(60));
        let mut times = Times::open(&path).unwrap();
        times.mark(0, early);
        times.mark(10, late);
        assert!(bound_log(&path, Bytes(5)).unwrap());
        let extent = |length| log_times::Extent { length, modified: UNIX_EPOCH };
        let marks = log_times::read(&path).unwrap();
        let shown = |since| log_times::begin(&marks, [extent(5), extent(0)], since, late);
        assert_eq!(shown(early), (log_times::Part::Older, 0));
        assert_eq!(shown(late), (log_times::Part::Older, 2));
        remove_log(&path).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_flood_stays_within_the_bound() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        let limit = Bytes::kib(64);
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut writer = appender(&path);
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    writer.write_all(&[b'x'; 512]).unwrap();
                }
            });
            let mut cuts = 0;
            while cuts < 50 {
                cuts += usize::from(bound_log(&path, limit).unwrap());
                let kept = fs::metadata(dir.path().join("console.log.1")).map_or(0, |m| m.len());
                // As much as was there, and what was appended meanwhile.
                assert!(kept <= limit.get() * (CATCH_UP as u64 + 1), "{kept}");
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }
}
