//! A plan, carried out.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use inn_units::Bytes;
use rustix::fs::{Mode, OFlags};

use crate::buffers::{Buffers, Dice};
use crate::histogram::{Histogram, Latency};
use crate::plan::{Direction, Pass, Pattern, Plan};
use crate::{threads, uring};

/// How requests get to the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Engine {
    IoUring,
    /// A thread for each request at a time, and why it is no io_uring.
    Threads(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub engine: Engine,
    pub passes: Vec<Figures>,
    /// Written in all, the file's first writing included.
    pub written: Bytes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figures {
    pub pass: Pass,
    pub requests: u64,
    pub took: Duration,
    pub latency: Latency,
    /// It ended before its time, since so much was written.
    pub cut: bool,
}

impl Figures {
    pub fn bytes_per_second(&self) -> u64 {
        per_second(self.requests.saturating_mul(self.pass.block.get()), self.took)
    }

    pub fn requests_per_second(&self) -> u64 {
        per_second(self.requests, self.took)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    #[error("it was cancelled")]
    Cancelled,
    #[error("cannot {step} in {dir}")]
    Io {
        step: &'static str,
        dir: String,
        #[source]
        source: io::Error,
    },
}

/// What an engine is to do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Job {
    pub(crate) pass: Pass,
    pub(crate) size: u64,
    /// Counted once the engine is ready; at least one request is made.
    pub(crate) time: Duration,
    /// At most so many requests.
    pub(crate) most: u64,
}

/// What it has done.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) requests: u64,
    pub(crate) took: Duration,
    pub(crate) latencies: Histogram,
}

/// A file without a name that was written through once, and how requests get to
/// it. Gone when this is dropped.
#[derive(Debug)]
pub struct Ground {
    file: File,
    dir: String,
    size: Bytes,
    engine: Engine,
}

impl Ground {
    /// Of whole blocks of each pass. `go_on` is asked now and then. Blocks.
    pub fn make(
        dir: &Path,
        size: Bytes,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Self, MeasureError> {
        let dir_name = dir.display().to_string();
        let refuse = |step| {
            let dir = dir_name.clone();
            move |source| MeasureError::Io { step, dir, source }
        };
        let file = nameless(dir)
            .map_err(refuse("make a file without a name that bypasses the page cache"))?;
        fill(&file, size, go_on).map_err(refuse("write the file"))?;
        let engine = match uring::probe() {
            Ok(()) => Engine::IoUring,
            Err(error) => Engine::Threads(format!("io_uring is not to be had: {error}")),
        };
        Ok(Self { file, dir: dir_name, size, engine })
    }

    /// For others who measure on the same one.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// One pass of so long, and of so many requests at most. Blocks.
    pub fn measure(&self, pass: Pass, time: Duration, most: u64) -> Result<Figures, MeasureError> {
        let job = Job { pass, size: self.size.get(), time, most };
        let done = match &self.engine {
            Engine::IoUring => uring::run(&self.file, job),
            Engine::Threads(_) => threads::run(&self.file, job),
        };
        let Done { requests, took, latencies } = done.map_err(|source| MeasureError::Io {
            step: "read and write the file",
            dir: self.dir.clone(),
            source,
        })?;
        let latency = latencies.latency();
        Ok(Figures { pass, requests, took, latency, cut: requests >= most })
    }
}

/// Measures on a file in `dir` that has no name. `told` is asked before each
/// pass, with how many are done, and ends it all by `false`.
pub fn run(
    plan: &Plan,
    dir: &Path,
    told: &mut dyn FnMut(usize) -> bool,
) -> Result<Report, MeasureError> {
    let ground = Ground::make(dir, plan.size, &mut || told(0))?;
    let mut written = plan.size.get();
    let mut may_write = plan.may_write.get();
    let mut passes = Vec::new();
    for (index, pass) in plan.passes.iter().enumerate() {
        if !told(index) {
            return Err(MeasureError::Cancelled);
        }
        let block = pass.block.get();
        let most = match pass.direction {
            Direction::Read => u64::MAX,
            // What is left, shared among the passes that write yet: a fast disk's
            // first one would have all of it.
            Direction::Write => {
                let writing = |pass: &&Pass| pass.direction == Direction::Write;
                let left = plan.passes[index..].iter().filter(writing).count() as u64;
                may_write / left.max(1) / block
            }
        };
        let figures = ground.measure(*pass, plan.time, most)?;
        if pass.direction == Direction::Write {
            written += figures.requests * block;
            may_write = may_write.saturating_sub(figures.requests * block);
        }
        passes.push(figures);
    }
    Ok(Report { engine: ground.engine, passes, written: Bytes(written) })
}

fn nameless(dir: &Path) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::DIRECT | OFlags::CLOEXEC;
    let file: OwnedFd = rustix::fs::open(dir, flags, Mode::RUSR | Mode::WUSR)?;
    Ok(File::from(file))
}

/// Writes all of it once: what was never written is read from no disk.
fn fill(file: &File, size: Bytes, go_on: &mut dyn FnMut() -> bool) -> io::Result<()> {
    const CHUNK: usize = 1 << 20;
    let mut buffers = Buffers::new(1, CHUNK);
    let mut offset = 0;
    while offset < size.get() {
        if !go_on() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        offset += write_at(file, buffers.renewed(0), offset)?;
    }
    file.sync_data()
}

pub(crate) fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<u64> {
    let written = rustix::io::pwrite(file, bytes, offset)?;
    if written != bytes.len() {
        return Err(io::ErrorKind::WriteZero.into());
    }
    Ok(written as u64)
}

/// Where the requests of a pass go.
#[derive(Debug)]
pub(crate) struct Offsets {
    pattern: Pattern,
    block: u64,
    blocks: u64,
    next: u64,
    dice: Dice,
}

impl Offsets {
    /// `seed` tells one of several from the others.
    pub(crate) fn new(job: &Job, seed: u64) -> Self {
        let block = job.pass.block.get();
        let blocks = (job.size / block).max(1);
        // Several that go in order begin at different places.
        let next = blocks / u64::from(job.pass.depth).max(1) * seed % blocks;
        Self { pattern: job.pass.pattern, block, blocks, next, dice: Dice::new(seed) }
    }

    pub(crate) fn next(&mut self) -> u64 {
        let index = match self.pattern {
            Pattern::Random => self.dice.roll() % self.blocks,
            Pattern::Sequential => {
                let index = self.next;
                self.next = (self.next + 1) % self.blocks;
                index
            }
        };
        index * self.block
    }
}

fn per_second(count: u64, took: Duration) -> u64 {
    let nanos = took.as_nanos().max(1);
    u64::try_from(u128::from(count) * 1_000_000_000 / nanos).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Room, Wish, plan};

    fn small() -> Plan {
        let room = Room { total: Bytes::gib(100), available: Bytes::gib(100) };
        let wish = Wish { size: Bytes::mib(16), time: Duration::from_millis(100) };
        plan(wish, room).unwrap()
    }

    /// Of a file system that knows such files: tmpfs has no O_DIRECT before
    /// Linux 6.6, overlayfs may have no O_TMPFILE.
    fn dir() -> Option<tempfile::TempDir> {
        let dir = tempfile::tempdir().unwrap();
        match nameless(dir.path()) {
            Ok(_) => Some(dir),
            Err(error) => {
                println!("SKIPPED: {}: {error}", dir.path().display());
                None
            }
        }
    }

    #[test]
    fn each_pass_is_measured_within_its_bytes_and_no_file_is_left() {
        let Some(dir) = dir() else { return };
        let plan = small();
        let report = run(&plan, dir.path(), &mut |_| true).unwrap();
        println!("{report:?}");
        assert_eq!(report.passes.len(), plan.passes.len());
        for figures in &report.passes {
            let latency = figures.latency;
            assert!(figures.requests > 0, "{figures:?}");
            assert!(latency.p50 <= latency.p99 && latency.p99 <= latency.most, "{figures:?}");
        }
        assert!(report.written.get() <= plan.size.get() + plan.may_write.get());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn it_is_cancelled_between_passes() {
        let Some(dir) = dir() else { return };
        let mut asked = 0;
        let mut told = |done| {
            asked += usize::from(done > 0);
            done < 2
        };
        let error = run(&small(), dir.path(), &mut told).unwrap_err();
        assert!(matches!(error, MeasureError::Cancelled), "{error:?}");
        assert_eq!(asked, 2);
    }

    #[test]
    fn both_engines_do_what_they_are_told() {
        let Some(dir) = dir() else { return };
        let file = nameless(dir.path()).unwrap();
        fill(&file, Bytes::mib(1), &mut || true).unwrap();
        for direction in [Direction::Read, Direction::Write] {
            for pattern in [Pattern::Sequential, Pattern::Random] {
                let pass = Pass { pattern, direction, block: Bytes(4096), depth: 7 };
                let time = Duration::from_secs(3600);
                let job = Job { pass, size: 1 << 20, time, most: 100 };
                let done = threads::run(&file, job).unwrap();
                assert_eq!(done.requests, 100, "{pass:?}");
                if let Err(error) = uring::probe() {
                    println!("SKIPPED io_uring: {error}");
                    continue;
                }
                assert_eq!(uring::run(&file, job).unwrap().requests, 100, "{pass:?}");
            }
        }
        assert_eq!(file.metadata().unwrap().len(), 1 << 20);
    }

    #[test]
    fn offsets_stay_in_the_file() {
        for pattern in [Pattern::Sequential, Pattern::Random] {
            let pass = Pass { pattern, direction: Direction::Read, block: Bytes(4096), depth: 3 };
            let job = Job { pass, size: 40960, time: Duration::ZERO, most: 1 };
            for seed in 0..3 {
                let mut offsets = Offsets::new(&job, seed);
                let all: Vec<u64> = (0..20).map(|_| offsets.next()).collect();
                assert!(all.iter().all(|at| at.is_multiple_of(4096) && *at < 40960), "{all:?}");
            }
        }
    }
}
