//! Images on their way: two who want one image wait for one piece of work.
//!
//! ```text
//!   claim ─ the disk is here ───────────────────────────────▶ use it
//!     └─ join the work or begin it ─▶ wait, passing on its progress ─▶ use it
//!                 └ cancelled: leave; the last one to leave ends the work
//! ```
//! The work has a thread of its own, so that it belongs to none of those who
//! wait. Whoever has claimed an image keeps it from being swept until the
//! claim goes, after its record is written.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use inn_units::Digest;

use crate::course::Course;
use crate::error::ImageError;
use crate::fetch::LayerSource;
use crate::watch::ImportWatch;

/// How often one who waits passes on the progress and looks whether it was
/// cancelled.
const LOOK: Duration = Duration::from_millis(25);

/// Which images are in somebody's hands right now, with their blobs.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    held: Mutex<BTreeMap<Digest, Held>>,
}

#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) blobs: Vec<Digest>,
    pub(crate) users: usize,
    job: Option<Arc<Job>>,
}

#[derive(Debug)]
pub(crate) struct Claim<'a> {
    claims: &'a Claims,
    pub(crate) manifest: Digest,
}

impl Claims {
    pub(crate) fn claim(&self, manifest: Digest, blobs: &[Digest]) -> Claim<'_> {
        let new = || Held { blobs: blobs.to_vec(), users: 0, job: None };
        self.lock().entry(manifest).or_insert_with(new).users += 1;
        Claim { claims: self, manifest }
    }

    /// While the guard lives, nobody claims an image and nobody lets go of one.
    pub(crate) fn lock(&self) -> MutexGuard<'_, BTreeMap<Digest, Held>> {
        // A panic elsewhere leaves the map whole: each change is one call.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim<'_> {
    /// The work under way, joined; else `begin`'s, if it gives one.
    pub(crate) fn join(&self, begin: impl FnOnce() -> Option<Arc<Job>>) -> Option<Arc<Job>> {
        let mut held = self.claims.lock();
        let of_it = held.get_mut(&self.manifest).expect("a claimed image is held");
        if let Some(job) = of_it.job.clone() {
            job.lock().waiting += 1;
            return Some(job);
        }
        let job = begin()?;
        of_it.job = Some(Arc::clone(&job));
        Some(job)
    }

    /// The work is over: who comes now begins anew.
    pub(crate) fn over(
        claims: &Claims,
        manifest: Digest,
        job: &Job,
        outcome: Result<(), ImageError>,
    ) {
        if let Some(held) = claims.lock().get_mut(&manifest) {
            held.job = None;
        }
        job.lock().outcome = Some(outcome);
        job.changed.notify_all();
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut held = self.claims.lock();
        if let Some(of_it) = held.get_mut(&self.manifest) {
            of_it.users -= 1;
            if of_it.users == 0 {
                held.remove(&self.manifest);
            }
        }
    }
}

/// One image becoming a disk.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) course: Course,
    pub(crate) source: Arc<dyn LayerSource>,
    state: Mutex<JobState>,
    changed: Condvar,
}

#[derive(Debug)]
struct JobState {
    waiting: usize,
    outcome: Option<Result<(), ImageError>>,
}

impl Job {
    /// With one who waits.
    pub(crate) fn new(course: Course, source: Arc<dyn LayerSource>) -> Self {
        let state = Mutex::new(JobState { waiting: 1, outcome: None });
        Self { course, source, state, changed: Condvar::new() }
    }

    /// Waits for the end, as one of those who joined. One who is cancelled
    /// waits on only if nobody else does: what it began then is gone when it
    /// returns. `None` where the work had been given up before it was joined.
    pub(crate) fn wait(&self, watch: &dyn ImportWatch) -> Option<Result<(), ImageError>> {
        let mut left = false;
        let mut state = self.lock();
        loop {
            if let Some(outcome) = &state.outcome {
                let outcome = match outcome {
                    _ if left => Some(Err(ImageError::Cancelled)),
                    Ok(()) => Some(Ok(())),
                    Err(ImageError::Cancelled) => None,
                    Err(error) => Some(Err(error.again())),
                };
                drop(state);
                // What came since the last look: whoever watches sees all of it.
                if let Some(Ok(())) = outcome {
                    self.course.tell(watch);
                }
                return outcome;
            }
            drop(state);
            self.course.tell(watch);
            if !left && watch.cancelled() {
                left = true;
                let mut state = self.lock();
                state.waiting -= 1;
                if state.waiting > 0 {
                    return Some(Err(ImageError::Cancelled));
                }
                drop(state);
                self.course.cancel();
                self.source.stop();
            }
            state = self.lock();
            if state.outcome.is_none() {
                state = self
                    .changed
                    .wait_timeout(state, LOOK)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, JobState> {
        // A panic elsewhere leaves it whole: each change is one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
