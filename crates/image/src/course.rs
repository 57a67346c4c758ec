use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use inn_units::{Bytes, Digest};

use crate::error::ImageError;
use crate::watch::{ImportProgress, ImportStep, ImportWatch, LayerProgress, LayerState};

/// How far an image is on its way to a disk, and whether it shall go on:
/// counters that its threads move and its watchers read, without a lock.
#[derive(Debug)]
pub(crate) struct Course {
    layers: Vec<LayerCourse>,
    /// Whether the layers come from elsewhere.
    remote: bool,
    finishing: AtomicBool,
    cancelled: AtomicBool,
    /// One of its threads has failed: the others need not go on.
    halted: AtomicBool,
}

#[derive(Debug)]
struct LayerCourse {
    digest: Digest,
    size: u64,
    arrived: AtomicU64,
    is_here: AtomicBool,
    unpacked: AtomicU64,
    done: AtomicBool,
    shared: AtomicBool,
}

impl Course {
    pub(crate) fn new(layers: impl Iterator<Item = (Digest, u64)>, remote: bool) -> Self {
        let layer = |(digest, size)| LayerCourse {
            digest,
            size,
            arrived: AtomicU64::new(0),
            is_here: AtomicBool::new(false),
            unpacked: AtomicU64::new(0),
            done: AtomicBool::new(false),
            shared: AtomicBool::new(false),
        };
        Self {
            layers: layers.map(layer).collect(),
            remote,
            finishing: AtomicBool::new(false),
            cancelled: AtomicBool::new(false),
            halted: AtomicBool::new(false),
        }
    }

    pub(crate) fn arrived(&self, layer: usize, bytes: u64) {
        self.layers[layer].arrived.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn is_here(&self, layer: usize) {
        let layer = &self.layers[layer];
        layer.arrived.store(layer.size, Ordering::Relaxed);
        layer.is_here.store(true, Ordering::Relaxed);
    }

    pub(crate) fn unpacked(&self, layer: usize, bytes: u64) {
        self.layers[layer].unpacked.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn done(&self, layer: usize) {
        self.layers[layer].done.store(true, Ordering::Relaxed);
    }

    pub(crate) fn shared(&self, layer: usize) {
        self.layers[layer].shared.store(true, Ordering::Relaxed);
    }

    pub(crate) fn finishing(&self) {
        self.finishing.store(true, Ordering::Relaxed);
    }

    pub(crate) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    pub(crate) fn halt(&self) {
        self.halted.store(true, Ordering::Relaxed);
    }

    /// From the beginning, after a halt.
    pub(crate) fn begin_again(&self) {
        self.halted.store(false, Ordering::Relaxed);
        for layer in &self.layers {
            layer.arrived.store(0, Ordering::Relaxed);
            layer.unpacked.store(0, Ordering::Relaxed);
            layer.is_here.store(false, Ordering::Relaxed);
            layer.done.store(false, Ordering::Relaxed);
        }
    }

    /// Whether to go on. A halt, too, reads as a cancellation: the thread that
    /// failed has the reason.
    pub(crate) fn check(&self) -> Result<(), ImageError> {
        if self.is_cancelled() || self.halted.load(Ordering::Relaxed) {
            return Err(ImageError::Cancelled);
        }
        Ok(())
    }

    pub(crate) fn layers(&self) -> Vec<LayerProgress> {
        self.layers.iter().map(LayerCourse::progress).collect()
    }

    pub(crate) fn tell(&self, watch: &dyn ImportWatch) {
        let layers = self.layers();
        watch.progress(self.progress(&layers));
        watch.layers(&layers);
    }

    fn progress(&self, layers: &[LayerProgress]) -> ImportProgress {
        let total = layers.iter().fold(0u64, |sum, layer| sum.saturating_add(layer.size.get()));
        let arrived =
            layers.iter().fold(0u64, |sum, layer| sum.saturating_add(layer.arrived.get()));
        let unpacked = layers.iter().fold(0u64, |sum, layer| match layer.state {
            LayerState::Shared | LayerState::Done => sum.saturating_add(layer.size.get()),
            _ => sum.saturating_add(layer.unpacked.get()),
        });
        let waiting = |layer: &LayerProgress| {
            matches!(layer.state, LayerState::Waiting | LayerState::Arriving)
                || layer.arrived < layer.size
        };
        let (step, done, total) = if self.finishing.load(Ordering::Relaxed) {
            (ImportStep::Finishing, 0, 0)
        } else if layers.iter().any(waiting) {
            let step = if self.remote { ImportStep::Downloading } else { ImportStep::Verifying };
            (step, arrived, total)
        } else {
            (ImportStep::Unpacking, unpacked, total)
        };
        ImportProgress { step, done: Bytes(done), total: Bytes(total) }
    }
}

impl LayerCourse {
    fn progress(&self) -> LayerProgress {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let is = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
        let (arrived, unpacked) = (get(&self.arrived), get(&self.unpacked));
        let state = if is(&self.shared) {
            LayerState::Shared
        } else if is(&self.done) {
            LayerState::Done
        } else if !is(&self.is_here) {
            if arrived == 0 { LayerState::Waiting } else { LayerState::Arriving }
        } else if unpacked > 0 {
            LayerState::Unpacking
        } else {
            LayerState::Arrived
        };
        LayerProgress {
            digest: self.digest,
            size: Bytes(self.size),
            arrived: Bytes(arrived),
            unpacked: Bytes(unpacked),
            state,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_step_is_what_is_waited_for() {
        let digest = Digest::from_sha256([1; 32]);
        let course = Course::new([(digest, 10), (digest, 30)].into_iter(), true);
        course.arrived(0, 4);
        course.shared(1);
        let layers = course.layers();
        let progress = course.progress(&layers);
        assert_eq!(
            (progress.step, progress.done, progress.total),
            (ImportStep::Downloading, Bytes(4), Bytes(40))
        );
        assert_eq!(layers[0].state, LayerState::Arriving);
        assert_eq!(layers[1].state, LayerState::Shared);
        course.is_here(0);
        course.is_here(1);
        course.unpacked(0, 5);
        let layers = course.layers();
        let progress = course.progress(&layers);
        assert_eq!((progress.step, progress.done), (ImportStep::Unpacking, Bytes(35)));
        assert_eq!(layers[0].state, LayerState::Unpacking);
        course.finishing();
        assert_eq!(course.progress(&layers).step, ImportStep::Finishing);
        assert!(course.check().is_ok());
        course.halt();
        assert!(matches!(course.check(), Err(ImageError::Cancelled)) && !course.is_cancelled());
    }
}
