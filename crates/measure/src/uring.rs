//! As many requests at a time as a pass asks for, from one thread. The one place
//! of this crate that is `unsafe`.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use io_uring::{IoUring, opcode, types};

use crate::buffers::Buffers;
use crate::histogram::Histogram;
use crate::plan::Direction;
use crate::run::{Done, Job, Offsets};

/// io_uring_enter(2)'s IORING_ENTER_GETEVENTS.
const ENTER_GETEVENTS: u32 = 1;

/// Whether there is one: containers and sysctl kernel.io_uring_disabled forbid it.
pub(crate) fn probe() -> io::Result<()> {
    IoUring::new(1).map(drop)
}

/// As fio has it: what is complete is told when it is asked for, and interrupts
/// nobody who is about to ask for more. A kernel before Linux 6.1 knows less.
fn ring(entries: u32) -> io::Result<IoUring> {
    let latest = IoUring::builder()
        .setup_coop_taskrun()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .build(entries);
    match latest {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => IoUring::new(entries),
        made => made,
    }
}

pub(crate) fn run(file: &File, job: Job) -> io::Result<Done> {
    let depth = usize::try_from(job.pass.depth).map_err(io::Error::other)?;
    let size = usize::try_from(job.pass.block.get()).map_err(io::Error::other)?;
    let mut requests = Requests {
        ring: ring(job.pass.depth.max(1).next_power_of_two())?,
        under_way: 0,
        buffers: Buffers::new(depth, size),
    };
    let start = Instant::now();
    let mut begun = vec![start; depth];
    let mut offsets = Offsets::new(&job, 0);
    let mut done = Done { requests: 0, took: Duration::ZERO, latencies: Histogram::new() };
    let mut asked = 0;
    let mut idle: Vec<usize> = (0..depth).collect();
    loop {
        while asked < job.most && (asked == 0 || start.elapsed() < job.time) {
            let Some(slot) = idle.pop() else { break };
            begun[slot] = Instant::now();
            requests.ask(file, job.pass.direction, slot, offsets.next())?;
            asked += 1;
        }
        if requests.under_way == 0 {
            done.took = start.elapsed();
            return Ok(done);
        }
        requests.wait(&mut |slot, result| {
            if usize::try_from(result).is_ok_and(|bytes| bytes == size) {
                done.latencies.add(begun[slot].elapsed());
                done.requests += 1;
                idle.push(slot);
                return Ok(());
            }
            Err(match result {
                ..0 => io::Error::from_raw_os_error(-result),
                _ => io::ErrorKind::UnexpectedEof.into(),
            })
        })?;
    }
}

/// Requests that the kernel has, with the memory that it reads and writes.
struct Requests {
    ring: IoUring,
    under_way: usize,
    buffers: Buffers,
}

impl Requests {
    /// Each goes to the kernel at once and by itself, as fio's do: requests that
    /// wait for others to go along with them leave the disk idle meanwhile.
    #[allow(unsafe_code)]
    fn ask(
        &mut self,
        file: &File,
        direction: Direction,
        slot: usize,
        offset: u64,
    ) -> io::Result<()> {
        let buffer = match direction {
            Direction::Read => self.buffers.get(slot),
            Direction::Write => self.buffers.renewed(slot),
        };
        let length = u32::try_from(buffer.len()).map_err(io::Error::other)?;
        let fd = types::Fd(file.as_raw_fd());
        let entry = match direction {
            Direction::Read => {
                opcode::Read::new(fd, buffer.as_mut_ptr(), length).offset(offset).build()
            }
            Direction::Write => {
                opcode::Write::new(fd, buffer.as_ptr(), length).offset(offset).build()
            }
        };
        let entry = entry.user_data(slot as u64);
        // SAFETY: the buffer is the slot's alone, which is not asked for again
        // before its completion, and lives until all are complete (`Drop`); the
        // file is borrowed by whoever waits for that.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        pushed.map_err(|_| io::Error::other("the queue is shorter than the requests"))?;
        self.under_way += 1;
        // Interrupted before it went, it goes again.
        while !self.ring.submission().is_empty() {
            self.enter(1, 0)?;
        }
        Ok(())
    }

    /// Submits so many, and waits until so many are complete; what is complete by
    /// then is told in any case, which a deferring ring does not do by itself.
    #[allow(unsafe_code)]
    fn enter(&self, submit: u32, wait: u32) -> io::Result<()> {
        // SAFETY: no argument is a pointer.
        let entered =
            unsafe { self.ring.submitter().enter::<()>(submit, wait, ENTER_GETEVENTS, None) };
        match entered {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
            _ => Ok(()),
        }
    }

    /// Until at least one is complete.
    fn wait(&mut self, each: &mut dyn FnMut(usize, i32) -> io::Result<()>) -> io::Result<()> {
        if self.ring.completion().is_empty() {
            self.enter(0, 1)?;
        }
        let mut outcome = Ok(());
        for completion in self.ring.completion() {
            self.under_way -= 1;
            let slot = usize::try_from(completion.user_data()).map_err(io::Error::other)?;
            outcome = outcome.and(each(slot, completion.result()));
        }
        outcome
    }
}

impl Drop for Requests {
    /// The kernel writes to the buffers until it says that it is done.
    fn drop(&mut self) {
        while self.under_way > 0 {
            if self.wait(&mut |_, _| Ok(())).is_err() {
                // It will say nothing more: the buffers stay its own.
                std::mem::forget(std::mem::replace(&mut self.buffers, Buffers::new(0, 0)));
                return;
            }
        }
    }
}
