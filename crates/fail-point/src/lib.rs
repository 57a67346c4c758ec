//! Named instants between the steps of an operation, at which the agent can be
//! made to die.
//!
//! ```text
//!   INN_FAIL_POINT=qemu.spawned     ──arm──▶ the first time that this point is
//!   INN_FAIL_POINT=create.stored:2           reached, or the second: SIGKILL
//! ```
//!
//! [`Point`] is the registry: what has just been done at each point, and what
//! would come next. The kill matrix (`tests/kill`) kills an agent at every one
//! of them and looks at what its next life makes of it; it matches on the enum,
//! so a point that it has no scenario for does not compile, and one that its
//! scenario does not reach fails it. docs/testing.md says how to add one.
//!
//! Only builds with debug assertions have any of this. In these a point costs
//! one relaxed load of an atomic; in a release build it is nothing at all.

mod points;

use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Signal, getpid, kill_process};

pub use points::{Operation, Point};

/// The environment variable that arms one point: `NAME` or `NAME:N`.
pub const VARIABLE: &str = "INN_FAIL_POINT";

const OFF: u32 = 0;

/// The armed point's number and one, or [`OFF`].
static ARMED: AtomicU32 = AtomicU32::new(OFF);

/// How many more times it has to be reached.
static LEFT: AtomicU32 = AtomicU32::new(0);

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArmError {
    #[error("{VARIABLE} names the unknown fail point `{name}`; docs/kill-matrix.md has them all")]
    Unknown { name: String },
    #[error("{VARIABLE} = `{text}`: after the colon a number from 1 on is expected")]
    Count { text: String },
    #[error(
        "{VARIABLE} is set, and this build has no fail points; use one with debug assertions, or unset it"
    )]
    NotBuilt,
}

/// Arms what the environment names. To be called before anything is done.
pub fn arm_from_environment() -> Result<(), ArmError> {
    match std::env::var_os(VARIABLE) {
        Some(text) if !text.is_empty() => arm(&text.to_string_lossy()),
        _ => Ok(()),
    }
}

fn arm(text: &str) -> Result<(), ArmError> {
    if !cfg!(debug_assertions) {
        return Err(ArmError::NotBuilt);
    }
    let (point, count) = parse(text)?;
    LEFT.store(count, Ordering::Relaxed);
    ARMED.store(number(point), Ordering::Relaxed);
    Ok(())
}

fn parse(text: &str) -> Result<(Point, u32), ArmError> {
    let (name, count) = match text.split_once(':') {
        None => (text, 1),
        Some((name, count)) => match count.parse() {
            Ok(count @ 1..) => (name, count),
            _ => return Err(ArmError::Count { text: text.to_owned() }),
        },
    };
    let point = Point::ALL.iter().copied().find(|point| point.name() == name);
    point.map(|point| (point, count)).ok_or_else(|| ArmError::Unknown { name: name.to_owned() })
}

const fn number(point: Point) -> u32 {
    point as u32 + 1
}

/// Here the agent dies, if this point is armed and it is the time.
#[inline]
pub fn fail_point(point: Point) {
    if cfg!(debug_assertions) && ARMED.load(Ordering::Relaxed) == number(point) {
        die_if_due(point);
    }
}

#[cold]
fn die_if_due(point: Point) {
    if LEFT.fetch_sub(1, Ordering::Relaxed) != 1 {
        return;
    }
    // To the log's stream, but not by the log, which may be buffered.
    eprintln!("{}", epitaph(point));
    // By no handler and no destructor: whatever comes, this thread does not go on.
    let _ = kill_process(getpid(), Signal::KILL);
    loop {
        std::thread::park();
    }
}

/// What the agent's stderr ends with when it has died at a point.
pub fn epitaph(point: Point) -> String {
    format!("fail point {point}: the agent kills itself here")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_armed_by_its_name_and_count() {
        assert_eq!(parse("create.stored"), Ok((Point::CreateStored, 1)));
        assert_eq!(parse("create.stored:3"), Ok((Point::CreateStored, 3)));
        assert_eq!(
            parse("create.stord").unwrap_err().to_string(),
            "INN_FAIL_POINT names the unknown fail point `create.stord`; docs/kill-matrix.md has them all"
        );
        for text in ["create.stored:", "create.stored:0", "create.stored:x"] {
            assert_eq!(parse(text), Err(ArmError::Count { text: text.to_owned() }));
        }
    }

    #[test]
    fn names_are_their_own_and_well_formed() {
        let mut names: Vec<_> = Point::ALL.iter().map(|point| point.name()).collect();
        for name in &names {
            let (operation, what) = name.split_once('.').unwrap();
            let plain =
                |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
            assert!(plain(operation) && plain(what), "{name}");
        }
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
        assert_eq!(Point::CreateStored.to_string(), "create.stored");
    }

    #[test]
    fn what_is_not_armed_does_nothing() {
        for point in Point::ALL {
            fail_point(*point);
        }
    }
}
