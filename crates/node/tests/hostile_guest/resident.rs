use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Looks at this process's resident memory until it is dropped.
pub(crate) struct Watch {
    base: u64,
    most: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

/// Shorter than anything grows by a MiB.
const EVERY: Duration = Duration::from_millis(2);

impl Watch {
    pub(crate) fn start() -> Self {
        let base = resident_kib();
        let most = Arc::new(AtomicU64::new(base));
        let over = Arc::new(AtomicBool::new(false));
        let (shared, ends) = (Arc::clone(&most), Arc::clone(&over));
        std::thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                shared.fetch_max(resident_kib(), Ordering::Relaxed);
                std::thread::park_timeout(EVERY);
            }
        });
        Self { base, most, over }
    }

    /// How much it had grown at most.
    pub(crate) fn most_kib(&self) -> u64 {
        self.most.load(Ordering::Relaxed).saturating_sub(self.base)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// The second field of /proc/self/statm, in pages of 4 KiB.
fn resident_kib() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4
}
