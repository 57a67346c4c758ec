//! Waiting for a condition of another process, always with a deadline.

use std::time::{Duration, Instant};

/// Long enough for any step on a slow and busy host; only a hang gets there.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// How often a condition is looked at that nothing can be told of.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Looks until `check` gives something, and panics with `what` after
/// [`PATIENCE`].
#[track_caller]
pub fn until<T>(what: &str, check: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, check).unwrap_or_else(|| panic!("after {PATIENCE:?} still not: {what}"))
}

/// Looks until `check` gives something or the time is over.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that polls: other processes' states tell nobody"
)]
pub fn within<T>(limit: Duration, mut check: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = check() {
            return Some(found);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}
