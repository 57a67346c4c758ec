//! What the allocator keeps of memory that was freed.

use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

use super::raw;

/// Pieces of at least this size are mapped and unmapped one by one. Left to
/// itself glibc raises that with each one freed, up to 32 MiB, and keeps as
/// much on its heap (mallopt(3), M_MMAP_THRESHOLD).
const MAPPED_FROM: i32 = 256 * 1024;

/// So much at the heap's end is kept while there is work: a transfer's pieces
/// come and go all the time, and an emulated page fault takes longer than the
/// copy of what is on the page.
const KEPT: i32 = 8 * 1024 * 1024;

/// So long after the last burst what it left is given back: giving back while
/// more is coming would cost each its page faults.
const CALM: Duration = Duration::from_secs(1);

/// Once, ahead of all threads: their heaps are one, so that what a transfer's
/// thread has freed is not kept in a heap of its own.
pub(crate) fn be_frugal() {
    raw::limit_heaps(1, MAPPED_FROM, KEPT);
}

/// Gives freed memory back whenever work is followed by calm.
#[derive(Debug)]
pub(crate) struct Tidy {
    worked: Notify,
    /// At the beginning, on a page's border: nearly all of the heap is above.
    heap: usize,
}

/// The largest that Linux has.
const PAGE: usize = 64 * 1024;

impl Default for Tidy {
    fn default() -> Self {
        Self { worked: Notify::new(), heap: raw::heap_end().next_multiple_of(PAGE) }
    }
}

impl Tidy {
    /// Something has ended that took memory.
    pub(crate) fn worked(&self) {
        self.worked.notify_one();
    }

    pub(crate) async fn run(&self) {
        loop {
            self.worked.notified().await;
            loop {
                sleep(CALM).await;
                // Has more come meanwhile?
                tokio::select! {
                    biased;
                    () = self.worked.notified() => {}
                    () = std::future::ready(()) => break,
                }
            }
            raw::give_back_freed(self.heap);
        }
    }
}
