//! One request at a time for each of several threads: where io_uring is
//! forbidden.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::buffers::Buffers;
use crate::histogram::Histogram;
use crate::plan::Direction;
use crate::run::{Done, Job, Offsets, write_at};

pub(crate) fn run(file: &File, job: Job) -> io::Result<Done> {
    let left = AtomicU64::new(job.most);
    let (job, left) = (&job, &left);
    let each = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..job.pass.depth)
            .map(|seed| scope.spawn(move || work(file, job, seed.into(), left)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err(io::Error::other("it panicked"))))
            .collect::<io::Result<Vec<Done>>>()
    })?;
    let mut all = Done { requests: 0, took: Duration::ZERO, latencies: Histogram::new() };
    for done in each {
        all.requests += done.requests;
        all.took = all.took.max(done.took);
        all.latencies.merge(&done.latencies);
    }
    Ok(all)
}

fn work(file: &File, job: &Job, seed: u64, left: &AtomicU64) -> io::Result<Done> {
    let size = usize::try_from(job.pass.block.get()).map_err(io::Error::other)?;
    let mut buffers = Buffers::new(1, size);
    let mut offsets = Offsets::new(job, seed);
    let mut done = Done { requests: 0, took: Duration::ZERO, latencies: Histogram::new() };
    let begun_all = Instant::now();
    let take = || {
        let taken = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        taken.is_ok()
    };
    while (done.requests == 0 || begun_all.elapsed() < job.time) && take() {
        let offset = offsets.next();
        let begun = Instant::now();
        match job.pass.direction {
            Direction::Write => drop(write_at(file, buffers.renewed(0), offset)?),
            Direction::Read => {
                let read = rustix::io::pread(file, &mut *buffers.get(0), offset)?;
                if read != size {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
        }
        done.latencies.add(begun.elapsed());
        done.requests += 1;
    }
    done.took = begun_all.elapsed();
    Ok(done)
}
