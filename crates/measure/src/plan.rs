//! What is measured: pure.

use std::time::Duration;

use inn_units::Bytes;

/// What is left on the disk at least, whatever is asked for: a share of it, and
/// so much on small ones.
const LEFT: (u64, Bytes) = (10, Bytes::gib(1));

/// Written at most in all passes together, in sizes of the file: SSDs wear.
const WRITTEN: u64 = 8;

const SMALLEST: Bytes = Bytes::mib(16);
const LARGEST: Bytes = Bytes::gib(16);
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pattern {
    Sequential,
    Random,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Read,
    Write,
}

/// One measurement: requests of one size, so many of them at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pass {
    pub pattern: Pattern,
    pub direction: Direction,
    pub block: Bytes,
    pub depth: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// Of the file.
    pub size: Bytes,
    /// Of each pass.
    pub time: Duration,
}

/// What a disk has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    pub total: Bytes,
    pub available: Bytes,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub size: Bytes,
    pub time: Duration,
    /// What all passes may write together, the file's first writing aside.
    pub may_write: Bytes,
    pub passes: Vec<Pass>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error(
        "a file of {size} would leave {left} of the disk, and {least} are left at least; ask for a smaller one"
    )]
    NoRoom { size: Bytes, left: Bytes, least: Bytes },
    #[error("the file is between {SMALLEST} and {LARGEST}, and {0} are asked for")]
    Size(Bytes),
    #[error("each measurement takes between 100ms and 60s, and {0:?} is asked for")]
    Time(Duration),
}

pub fn plan(wish: Wish, room: Room) -> Result<Plan, Refusal> {
    let Wish { size, time } = wish;
    if !(SMALLEST..=LARGEST).contains(&size) {
        return Err(Refusal::Size(size));
    }
    if !(SHORTEST..=LONGEST).contains(&time) {
        return Err(Refusal::Time(time));
    }
    let least = Bytes(room.total.get() / LEFT.0).max(LEFT.1);
    let left = Bytes(room.available.get().saturating_sub(size.get()));
    if left < least {
        return Err(Refusal::NoRoom { size, left, least });
    }
    // The file is of whole blocks of the largest size.
    let size = Bytes(size.get() & !(Bytes::mib(1).get() - 1));
    Ok(Plan { size, time, may_write: Bytes(size.get() * WRITTEN), passes: passes() })
}

/// From 4 KiB, a guest's page, to 1 MiB, what copies use; one at a time, which
/// is latency, and as many as fill a queue.
fn passes() -> Vec<Pass> {
    let pass = |pattern, direction, kib: u64, depth| Pass {
        pattern,
        direction,
        block: Bytes(kib << 10),
        depth,
    };
    let mut all = Vec::new();
    for direction in [Direction::Read, Direction::Write] {
        all.push(pass(Pattern::Sequential, direction, 1024, 8));
        all.push(pass(Pattern::Sequential, direction, 128, 1));
        all.push(pass(Pattern::Random, direction, 4, 1));
        all.push(pass(Pattern::Random, direction, 4, 32));
        all.push(pass(Pattern::Random, direction, 64, 8));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Room = Room { total: Bytes::gib(100), available: Bytes::gib(12) };

    fn of(size: Bytes) -> Result<Plan, Refusal> {
        plan(Wish { size, time: Duration::from_secs(2) }, ROOM)
    }

    #[test]
    fn a_disk_is_never_filled() {
        assert!(of(Bytes::gib(1)).is_ok());
        let refused = of(Bytes::gib(4)).unwrap_err();
        let words = "a file of 4GiB would leave 8GiB of the disk, and 10GiB are left at least";
        assert!(refused.to_string().starts_with(words), "{refused}");
        let small = Room { total: Bytes::gib(2), available: Bytes::mib(1100) };
        let wish = Wish { size: Bytes::mib(100), time: Duration::from_secs(1) };
        assert!(matches!(plan(wish, small), Err(Refusal::NoRoom { .. })));
    }

    #[test]
    fn time_and_bytes_are_bounded() {
        assert!(matches!(of(Bytes::mib(1)), Err(Refusal::Size(_))));
        assert!(matches!(of(Bytes::gib(17)), Err(Refusal::Size(_))));
        let wish = Wish { size: Bytes::gib(1), time: Duration::from_secs(61) };
        assert!(matches!(plan(wish, ROOM), Err(Refusal::Time(_))));
        let plan = of(Bytes(Bytes::mib(33).get() + 5)).unwrap();
        assert_eq!((plan.size, plan.may_write), (Bytes::mib(33), Bytes::mib(33 * 8)));
        assert!(plan.passes.iter().all(|pass| plan.size.get().is_multiple_of(pass.block.get())));
    }
}
