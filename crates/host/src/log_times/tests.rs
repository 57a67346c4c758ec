use std::fs;
use std::path::{Path, PathBuf};

use super::*;

/// In tenths of a second.
fn at(tenths: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(1_000_000_000_000 + tenths * 100)
}

/// A log whose parts have a limit, and what was written when.
struct Log {
    dir: tempfile::TempDir,
    times: Times,
    parts: [Vec<(u64, u64)>; 2],
    limit: u64,
    modified: SystemTime,
}

impl Log {
    fn new(limit: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let times = Times::open(&dir.path().join("x.log")).unwrap();
        Self { dir, times, parts: Default::default(), limit, modified: UNIX_EPOCH }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("x.log")
    }

    fn length(&self, part: Part) -> u64 {
        self.parts[part as usize].iter().map(|(length, _)| length).sum()
    }

    fn write(&mut self, length: u64, tenths: u64) {
        if self.length(Part::Current) + length > self.limit {
            self.parts[0] = std::mem::take(&mut self.parts[1]);
            self.times.turn(0);
        }
        self.times.mark(self.length(Part::Current), at(tenths));
        self.parts[1].push((length, tenths));
        self.modified = at(tenths);
    }

    /// When what is shown was written.
    fn shown(&self, since: u64, now: u64) -> Vec<u64> {
        let marks = read(&self.path()).unwrap();
        let extents = [Part::Older, Part::Current]
            .map(|part| Extent { length: self.length(part), modified: self.modified });
        let (part, offset) = begin(&marks, extents, at(since), at(now));
        let [older, current] = self.parts.clone().map(|pieces| {
            let mut end = 0;
            let ends = pieces.into_iter().map(move |(length, tenths)| {
                end += length;
                (end, tenths)
            });
            ends.collect::<Vec<_>>()
        });
        let from = |pieces: Vec<(u64, u64)>, offset: u64| {
            pieces.into_iter().filter(move |(end, _)| *end > offset).map(|(_, tenths)| tenths)
        };
        match part {
            Part::Older => from(older, offset).chain(from(current, 0)).collect(),
            Part::Current => from(current, offset).collect(),
        }
    }
}

#[test]
fn what_is_shown_begins_a_second_early_at_most() {
    let mut log = Log::new(1000);
    for tenths in [0, 3, 50, 54, 61, 400] {
        log.write(10, tenths);
    }
    assert_eq!(log.shown(0, 500), [0, 3, 50, 54, 61, 400]);
    assert_eq!(log.shown(9, 500), [0, 3, 50, 54, 61, 400], "within its second");
    // Long silence is not shown for what was before it.
    assert_eq!(log.shown(10, 500), [50, 54, 61, 400]);
    assert_eq!(log.shown(60, 500), [61, 400]);
    assert_eq!(log.shown(200, 500), [400]);
    assert_eq!(log.shown(410, 500), [], "nothing since");
}

#[test]
fn a_turn_takes_the_marks_along() {
    let mut log = Log::new(30);
    for second in 0..8 {
        log.write(10, second * 10);
    }
    assert_eq!(log.shown(0, 100), [30, 40, 50, 60, 70], "what is still there");
    assert_eq!(log.shown(40, 100), [40, 50, 60, 70]);
    assert_eq!(log.shown(70, 100), [70]);
    // Cut where it was longer than its limit is now.
    let mark = |part, offset, tenths| Mark { part, ..Mark::new(offset, at(tenths)) };
    let marks = [(0, 0), (100, 20), (200, 40)].map(|(at, when)| mark(Part::Current, at, when));
    let expected = [(0, 20), (50, 40)].map(|(at, when)| mark(Part::Older, at, when));
    assert_eq!(turned(&marks, 150), expected);
}

#[test]
fn what_has_no_mark_is_shown_rather_than_left_out() {
    let extent = |length, tenths| Extent { length, modified: at(tenths) };
    let shown =
        |marks: &[Mark], since| begin(marks, [extent(100, 10), extent(50, 20)], at(since), at(100));
    // Of an agent that made none: when the files were written to tells something.
    assert_eq!(shown(&[], 0), (Part::Older, 0));
    assert_eq!(shown(&[], 15), (Part::Current, 0));
    assert_eq!(shown(&[], 21), (Part::Current, 50));
    // By such a one after one that did, and the other way round.
    assert_eq!(shown(&[Mark::new(10, at(0))], 15), (Part::Current, 10));
    assert_eq!(shown(&[Mark::new(10, at(17))], 16), (Part::Current, 0));
    // What lies behind the end is of a log that is gone.
    assert_eq!(shown(&[Mark::new(51, at(0))], 15), (Part::Current, 0));
    assert_eq!(begin(&[], [extent(0, 0); 2], at(0), at(1)), (Part::Current, 0));
}

#[test]
fn clocks_that_jump_leave_nothing_out() {
    // Ahead for a while, and set right.
    let mut log = Log::new(1000);
    for tenths in [0, 900, 910, 50, 60] {
        log.write(10, tenths);
    }
    assert_eq!(log.shown(55, 70), [50, 60]);
    assert_eq!(log.shown(45, 70), [900, 910, 50, 60], "as old as what follows it at most");
    assert_eq!(log.shown(61, 70), [60]);
    // Back for a while, and set right: what is in doubt is shown.
    let mut log = Log::new(1000);
    for tenths in [500, 510, 10, 20, 540, 550] {
        log.write(10, tenths);
    }
    assert_eq!(log.shown(505, 560), [500, 510, 10, 20, 540, 550]);
    assert_eq!(log.shown(545, 560), [540, 550]);
}

#[test]
fn marks_are_bounded_and_get_coarser_with_age() {
    let mut log = Log::new(u64::MAX);
    let seconds = 6_000;
    for second in 0..seconds {
        log.write(1, second * 10);
    }
    let size = || fs::metadata(path_of(&log.path())).unwrap().len();
    assert!(size() <= (MOST * SIZE) as u64, "{}", size());
    for age in [1, 100, 600, 1_000, 3_000, 5_900] {
        let shown = log.shown((seconds - age) * 10, seconds * 10).len() as u64;
        assert!((age..=age + age / 100 + 1).contains(&shown), "{age}: {shown}");
    }
    // Whatever the clock does.
    let marks: Vec<Mark> = (0..MOST as u64).map(|n| Mark::new(n, at(n % 2 * 1_000))).collect();
    assert_eq!(thinned(&marks, at(0)).len(), MOST / 2);
}

#[test]
fn another_life_goes_on_with_the_marks() {
    let mut log = Log::new(1000);
    log.write(10, 0);
    log.times = Times::open(&log.path()).unwrap();
    log.write(10, 5);
    log.write(10, 30);
    assert_eq!(read(&log.path()).unwrap().len(), 3, "a life begins with a mark");
    assert_eq!(log.shown(20, 40), [30]);
    // Killed in the middle of one.
    let mut bytes = fs::read(path_of(&log.path())).unwrap();
    bytes.extend_from_slice(&[7; SIZE - 1]);
    fs::write(path_of(&log.path()), &bytes).unwrap();
    log.times = Times::open(&log.path()).unwrap();
    log.write(10, 60);
    assert_eq!(log.shown(20, 70), [30, 60]);
    log.times.forget(true);
    assert_eq!(log.shown(20, 70), [0, 5, 30, 60]);
    assert_eq!(read(Path::new("/nonexistent/x.log")).unwrap(), []);
}

#[test]
fn marks_are_read_from_files_alone() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("vmm.log");
    std::os::unix::fs::symlink("/etc/hostname", path_of(&log)).unwrap();
    assert!(read(&log).is_err() && Times::open(&log).is_err());
}
