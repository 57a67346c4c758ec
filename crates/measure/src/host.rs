//! A figure for the CPU and one for memory, to compare hosts by.

use std::hint::black_box;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

/// Each of the two takes so long.
const TIME: Duration = Duration::from_millis(500);

/// Past most caches of a core.
const MEMORY: usize = 64 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostFigures {
    /// SHA-256 on one thread, bytes a second.
    pub sha256: u64,
    /// Copied on one thread, bytes a second.
    pub copied: u64,
}

pub fn measure_host() -> HostFigures {
    let text = vec![0x5a_u8; 1 << 20];
    let sha256 = rate(text.len(), || {
        black_box(Sha256::digest(black_box(&text)));
    });
    let from = vec![0x5a_u8; MEMORY];
    let mut to = vec![0_u8; MEMORY];
    let copied = rate(MEMORY, || black_box(&mut to).copy_from_slice(black_box(&from)));
    HostFigures { sha256, copied }
}

/// Bytes a second of what does so many at a time.
fn rate(bytes: usize, mut work: impl FnMut()) -> u64 {
    let begun = Instant::now();
    let mut done: u128 = 0;
    while begun.elapsed() < TIME {
        work();
        done += bytes as u128;
    }
    u64::try_from(done * 1_000_000_000 / begun.elapsed().as_nanos().max(1)).unwrap_or(u64::MAX)
}
