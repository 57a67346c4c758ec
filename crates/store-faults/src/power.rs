//! What a power loss may leave, as a pure function of what was written.

use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::events::{Event, FileId, Tap};

/// Of spinning disks and most flash: what is written whole or not at all.
const SECTOR: usize = 512;

/// Up to so many writes under way all their subsets are tried.
const ALL_SUBSETS: usize = 4;

/// Else so many, by chance.
const SAMPLES: usize = 6;

/// The same each time.
const SEED: u64 = 0x1991_0817;

/// The power fails after so many events.
#[derive(Debug, Clone)]
pub struct PowerCut {
    pub events: usize,
    /// Each differs from the others and from those of all cuts before.
    pub found: Vec<Found>,
    /// How many writes the test had begun.
    pub begun: usize,
    /// How many of them were answered.
    pub answered: usize,
}

/// What is on the disk afterwards.
#[derive(Debug, Clone)]
pub struct Found {
    pub files: BTreeMap<String, Vec<u8>>,
    /// All that the operating system had been given: a process was killed and
    /// no power was lost.
    pub is_all: bool,
}

#[derive(Debug, Clone, Default)]
struct Content {
    synced: Vec<u8>,
    since: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
}

#[derive(Debug, Clone)]
enum NameChange {
    Made(String, FileId),
    Gone(String),
}

/// What becomes of a change that was not synced.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Lost,
    Kept,
    /// Of its sectors those of the bits that are set; by turns.
    Torn(u64),
    /// The file is so long, and holds zeros there.
    Zeros,
}

#[derive(Debug, Default)]
struct Disk {
    contents: BTreeMap<FileId, Content>,
    names: BTreeMap<String, FileId>,
    names_since: Vec<NameChange>,
}

/// Every prefix of the tap's events, with all or a sample of the states of the
/// files that a power loss at that point may leave.
pub fn power_cuts(tap: &Tap) -> impl Iterator<Item = PowerCut> {
    let mut disk = Disk::default();
    for (name, (file, bytes)) in tap.before() {
        disk.contents.insert(file, Content { synced: bytes, since: Vec::new() });
        disk.names.insert(name, file);
    }
    let (mut seen, mut chance) = (HashSet::new(), Chance(SEED));
    let (mut begun, mut answered) = (0, 0);
    let mut events = tap.events().into_iter();
    (0..=events.len()).map(move |at| {
        if at > 0
            && let Some(event) = events.next()
        {
            match event {
                Event::Begun(write) => begun = write + 1,
                Event::Answered(write) => answered = write + 1,
                event => disk.apply(event),
            }
        }
        let mut found = disk.found(&mut chance);
        found.retain(|found| {
            let mut hash = DefaultHasher::new();
            // The same files promise more once more was answered.
            (answered, found.is_all, &found.files).hash(&mut hash);
            seen.insert(hash.finish())
        });
        PowerCut { events: at, found, begun, answered }
    })
}

impl Disk {
    fn apply(&mut self, event: Event) {
        match event {
            Event::Created { file, name } => {
                self.contents.insert(file, Content::default());
                self.names_since.push(NameChange::Made(name, file));
            }
            Event::Written { file, at, bytes } => {
                self.contents.entry(file).or_default().since.push(Change::Write(at, bytes));
            }
            Event::Truncated { file, length } => {
                self.contents.entry(file).or_default().since.push(Change::Length(length));
            }
            Event::Synced { file } => {
                let content = self.contents.entry(file).or_default();
                content.synced = content.after(&mut |_| Fate::Kept);
                content.since.clear();
            }
            Event::Removed { name } => self.names_since.push(NameChange::Gone(name)),
            Event::DirectorySynced => {
                self.names = self.names_after(&mut || true);
                self.names_since.clear();
            }
            Event::Begun(_) | Event::Answered(_) => {}
        }
    }

    fn found(&self, chance: &mut Chance) -> Vec<Found> {
        let pending: usize = self.names_since.len()
            + self.contents.values().map(|content| content.since.len()).sum::<usize>();
        let mut found = vec![Found { files: self.files(&mut |_| Fate::Kept), is_all: true }];
        let mut add = |fate: &mut dyn FnMut(usize) -> Fate| {
            found.push(Found { files: self.files(fate), is_all: false });
        };
        if pending > 0 {
            add(&mut |_| Fate::Lost);
        } else {
            return found;
        }
        if pending <= ALL_SUBSETS {
            for subset in 1..1u32 << pending {
                let mut next = 0;
                add(&mut |_| {
                    next += 1;
                    if subset >> (next - 1) & 1 == 1 { Fate::Kept } else { Fate::Lost }
                });
            }
        } else {
            for _ in 0..SAMPLES {
                add(&mut |_| if chance.next() & 1 == 1 { Fate::Kept } else { Fate::Lost });
            }
        }
        for _ in 0..SAMPLES {
            add(&mut |_| match chance.next() % 4 {
                0 => Fate::Lost,
                1 => Fate::Kept,
                2 => Fate::Torn(chance.next()),
                _ => Fate::Zeros,
            });
        }
        found
    }

    /// A fate is asked for with the sectors of the change, in its order.
    fn files(&self, fate: &mut dyn FnMut(usize) -> Fate) -> BTreeMap<String, Vec<u8>> {
        let names = self.names_after(&mut || !matches!(fate(1), Fate::Lost));
        let contents: BTreeMap<_, _> =
            self.contents.iter().map(|(file, content)| (*file, content.after(fate))).collect();
        let named = names.into_iter();
        named.map(|(name, file)| (name, contents.get(&file).cloned().unwrap_or_default())).collect()
    }

    fn names_after(&self, kept: &mut dyn FnMut() -> bool) -> BTreeMap<String, FileId> {
        let mut names = self.names.clone();
        for change in &self.names_since {
            match change {
                _ if !kept() => {}
                NameChange::Made(name, file) => {
                    names.insert(name.clone(), *file);
                }
                NameChange::Gone(name) => {
                    names.remove(name);
                }
            }
        }
        names
    }
}

impl Content {
    fn after(&self, fate: &mut dyn FnMut(usize) -> Fate) -> Vec<u8> {
        let mut bytes = self.synced.clone();
        for change in &self.since {
            match change {
                Change::Write(at, written) => {
                    let sectors = written.len().div_ceil(SECTOR);
                    write(&mut bytes, *at, written, fate(sectors));
                }
                Change::Length(length) => {
                    if !matches!(fate(1), Fate::Lost) {
                        bytes.resize(*length, 0);
                    }
                }
            }
        }
        bytes
    }
}

fn write(bytes: &mut Vec<u8>, at: usize, written: &[u8], fate: Fate) {
    let end = at + written.len();
    let was = bytes.len();
    let kept = |sector: usize| match fate {
        Fate::Lost | Fate::Zeros => false,
        Fate::Kept => true,
        Fate::Torn(mask) => mask >> (sector % 64) & 1 == 1,
    };
    if matches!(fate, Fate::Zeros) {
        bytes.resize(was.max(end), 0);
    }
    // Sectors are the disk's, wherever in them the write begins.
    let mut from = at;
    while from < end {
        let to = end.min((from / SECTOR + 1) * SECTOR);
        if kept(from / SECTOR) {
            if bytes.len() < to {
                bytes.resize(to, 0);
            }
            bytes[from..to].copy_from_slice(&written[from - at..to - at]);
        }
        from = to;
    }
}

/// Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014.
#[derive(Debug)]
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: FileId = FileId(0);

    fn disk(events: Vec<Event>) -> Disk {
        let mut disk = Disk::default();
        for event in events {
            disk.apply(event);
        }
        disk
    }

    fn written(at: usize, bytes: &[u8]) -> Event {
        Event::Written { file: FILE, at, bytes: bytes.to_vec() }
    }

    #[test]
    fn what_was_synced_stays_and_what_was_not_may_go() {
        let made = Event::Created { file: FILE, name: "a".into() };
        let synced = Event::Synced { file: FILE };
        let mut disk = disk(vec![made, written(0, b"old"), synced.clone()]);
        let lost = |disk: &Disk| disk.files(&mut |_| Fate::Lost);
        assert_eq!(lost(&disk), BTreeMap::new(), "the name was not synced");
        disk.apply(Event::DirectorySynced);
        disk.apply(written(0, b"new"));
        assert_eq!(lost(&disk)["a"], b"old");
        assert_eq!(disk.files(&mut |_| Fate::Kept)["a"], b"new");
        disk.apply(synced);
        disk.apply(Event::Removed { name: "a".into() });
        assert_eq!(lost(&disk)["a"], b"new", "nor was its removal");
        assert!(disk.files(&mut |_| Fate::Kept).is_empty());
    }

    #[test]
    fn writes_are_torn_at_the_disk_s_sectors() {
        let mut bytes = vec![0; SECTOR];
        write(&mut bytes, SECTOR - 2, &[1; 4], Fate::Torn(0b01));
        assert_eq!((bytes.len(), bytes[SECTOR - 1]), (SECTOR, 1));
        write(&mut bytes, SECTOR - 2, &[2; 4], Fate::Torn(0b10));
        assert_eq!((bytes.len(), bytes[SECTOR - 1], bytes[SECTOR]), (SECTOR + 2, 1, 2));
        write(&mut bytes, 0, &[3; 2 * SECTOR], Fate::Zeros);
        assert_eq!((bytes.len(), bytes[0], bytes[2 * SECTOR - 1]), (2 * SECTOR, 0, 0));
    }
}
