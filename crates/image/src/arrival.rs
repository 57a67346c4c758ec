//! A layer's bytes on their way into the cache: a file that grows, and whoever
//! reads it while it does.
//!
//! ```text
//!   Coming ──begin──▶ Growing ──verified──▶ Here
//!      └───────────────┴──── failed ──────▶ Failed
//! ```
//! One fetching thread moves it; the unpacking thread reads behind it. A
//! reader sees the end only once the digest held.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tempfile::TempPath;

use crate::course::Course;
use crate::error::ImageError;

/// How often a reader that waits looks whether it shall go on.
const LOOK: Duration = Duration::from_millis(50);

/// What is left of a layer at most when one waits for its digest to explain
/// why it could not be unpacked.
const WORTH_WAITING: u64 = 64 << 20;

#[derive(Debug, Default)]
pub(crate) struct Arrival {
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Debug, Default)]
struct State {
    file: Option<Arc<File>>,
    /// What may be read.
    bytes: u64,
    place: Option<Place>,
    failed: Option<ImageError>,
}

/// Where a verified layer lies.
#[derive(Debug)]
pub(crate) enum Place {
    /// In the blob store, since before.
    Blob,
    /// Where an interrupted download is gone on with.
    Partial(PathBuf),
    /// In this process's own directory.
    Own(TempPath),
}

impl Arrival {
    pub(crate) fn begin(&self, file: Arc<File>) {
        self.lock().file = Some(file);
        self.moved.notify_all();
    }

    pub(crate) fn grew(&self, bytes: u64) {
        self.lock().bytes = bytes;
        self.moved.notify_all();
    }

    pub(crate) fn verified(&self, file: Arc<File>, bytes: u64, place: Place) {
        let mut state = self.lock();
        (state.file, state.bytes, state.place) = (Some(file), bytes, Some(place));
        self.moved.notify_all();
    }

    pub(crate) fn fail(&self, error: ImageError) {
        self.lock().failed = Some(error);
        self.moved.notify_all();
    }

    /// Waits until it is here.
    pub(crate) fn wait(&self, course: &Course) -> Result<(), ImageError> {
        let mut state = self.lock();
        loop {
            if let Some(error) = &state.failed {
                return Err(error.again());
            }
            if state.place.is_some() {
                return Ok(());
            }
            course.check()?;
            state = self.look(state);
        }
    }

    /// What its fetching says of a layer that could not be unpacked: the
    /// digest knows better than the parser what is wrong with it.
    pub(crate) fn verdict(&self, size: u64, course: &Course) -> Option<ImageError> {
        if size.saturating_sub(self.lock().bytes) > WORTH_WAITING {
            return None;
        }
        self.wait(course).err().filter(|error| !matches!(error, ImageError::Cancelled))
    }

    /// Why it will not come, if that is so.
    pub(crate) fn failure(&self) -> Option<ImageError> {
        let failed = self.lock().failed.as_ref().map(ImageError::again);
        failed.filter(|error| !matches!(error, ImageError::Cancelled))
    }

    pub(crate) fn take_place(&self) -> Option<Place> {
        self.lock().place.take()
    }

    fn look<'a>(&'a self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.moved.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner).0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is one assignment: a panic elsewhere spoils none.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a layer while it arrives.
#[derive(Debug)]
pub(crate) struct Tail<'a> {
    arrival: &'a Arrival,
    course: &'a Course,
    at: u64,
}

impl<'a> Tail<'a> {
    pub(crate) fn new(arrival: &'a Arrival, course: &'a Course) -> Self {
        Self { arrival, course, at: 0 }
    }
}

impl Read for Tail<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut state = self.arrival.lock();
        loop {
            if let Some(error) = &state.failed {
                return Err(io::Error::other(error.again()));
            }
            if let Some(file) = state.file.clone()
                && state.bytes > self.at
            {
                let ready = usize::try_from(state.bytes - self.at).unwrap_or(usize::MAX);
                drop(state);
                let want = into.len().min(ready);
                let n = file.read_at(&mut into[..want], self.at)?;
                self.at += n as u64;
                return Ok(n);
            }
            if state.place.is_some() {
                return Ok(0);
            }
            self.course.check().map_err(io::Error::other)?;
            state = self.arrival.look(state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_follows_the_growing_file_and_ends_only_when_it_is_verified() {
        let course = Course::new(std::iter::empty(), true);
        let arrival = Arrival::default();
        let file = Arc::new(tempfile::tempfile().unwrap());
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut all = Vec::new();
                Tail::new(&arrival, &course).read_to_end(&mut all).map(|_| all)
            });
            file.write_all_at(b"first", 0).unwrap();
            arrival.begin(Arc::clone(&file));
            arrival.grew(5);
            file.write_all_at(b" second", 5).unwrap();
            arrival.verified(Arc::clone(&file), 12, Place::Blob);
            assert_eq!(reader.join().unwrap().unwrap(), b"first second");
        });
        arrival.wait(&course).unwrap();
    }

    #[test]
    fn a_reader_hears_of_the_failure_and_of_the_halt() {
        let course = Course::new(std::iter::empty(), true);
        let arrival = Arrival::default();
        arrival.fail(ImageError::invalid("layer 1", "is truncated"));
        let error = Tail::new(&arrival, &course).read(&mut [0; 8]).unwrap_err();
        assert!(error.to_string().contains("layer 1 is truncated"), "{error}");
        assert!(arrival.verdict(10, &course).is_some());

        let waiting = Arrival::default();
        course.halt();
        assert!(Tail::new(&waiting, &course).read(&mut [0; 8]).is_err());
        assert!(waiting.verdict(10, &course).is_none());
    }
}
