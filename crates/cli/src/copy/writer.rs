//! Where a download's bytes go: a file whose holes stay holes, or stdout.
//!
//! One thread owns the target, writes to it and sums it up, so that neither
//! keeps the connection waiting.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use inn_guest_proto::BlockSum;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// Chunks on their way to the thread: enough that neither waits for the
/// other's every system call.
const DEPTH: usize = 16;

/// What file systems allocate at least; a hole smaller than this is none.
const PAGE: usize = 4096;
static ZEROS: [u8; PAGE] = [0; PAGE];

pub(crate) type Sum = [u8; 8];

#[derive(Debug)]
pub(crate) enum Target {
    File(File),
    Stdout,
}

enum Job {
    Data(Bytes),
    /// The sum of what was written since the last time it was asked for.
    Sum(oneshot::Sender<Sum>),
}

#[derive(Debug)]
pub(crate) struct Writer {
    jobs: mpsc::Sender<Job>,
    thread: JoinHandle<io::Result<(Target, u64)>>,
}

impl Writer {
    pub(crate) fn start(target: Target) -> Self {
        let (jobs, queue) = mpsc::channel(DEPTH);
        Self { jobs, thread: tokio::task::spawn_blocking(move || work(target, queue)) }
    }

    /// Queues what comes next. False: the thread has failed, and
    /// [`Self::finish`] says why.
    pub(crate) async fn write(&self, data: Bytes) -> bool {
        self.jobs.send(Job::Data(data)).await.is_ok()
    }

    /// The sum since the last time; none when the thread has failed.
    pub(crate) async fn sum(&self) -> Option<Sum> {
        let (answer, sum) = oneshot::channel();
        self.jobs.send(Job::Sum(answer)).await.ok()?;
        sum.await.ok()
    }

    /// All is written; a file is as long as what was written to it.
    pub(crate) async fn finish(self) -> io::Result<(Target, u64)> {
        drop(self.jobs);
        self.thread.await.map_err(io::Error::other)?
    }
}

fn work(mut target: Target, mut queue: mpsc::Receiver<Job>) -> io::Result<(Target, u64)> {
    let mut at = 0;
    let mut sum = BlockSum::default();
    while let Some(job) = queue.blocking_recv() {
        match job {
            Job::Data(data) => {
                sum.add(&data);
                match &mut target {
                    Target::File(file) => write_sparse(file, at, &data)?,
                    Target::Stdout => {
                        let mut out = io::stdout().lock();
                        out.write_all(&data).and_then(|()| out.flush())?;
                    }
                }
                at += data.len() as u64;
            }
            Job::Sum(answer) => {
                // Whoever asked may have left.
                let _ = answer.send(std::mem::take(&mut sum).finish());
            }
        }
    }
    if let Target::File(file) = &target {
        // The last hole is written by nothing else.
        file.set_len(at)?;
    }
    Ok((target, at))
}

/// Writes into a file that is new, so that what is left out reads as zeros.
fn write_sparse(file: &File, mut at: u64, mut data: &[u8]) -> io::Result<()> {
    while !data.is_empty() {
        let zeros = run(data, at, true);
        at += zeros as u64;
        data = &data[zeros..];
        let bytes = run(data, at, false);
        file.write_all_at(&data[..bytes], at)?;
        at += bytes as u64;
        data = &data[bytes..];
    }
    Ok(())
}

/// How much at the front of `data` is pages of zeros, or is none.
fn run(data: &[u8], at: u64, zeros: bool) -> usize {
    let mut length = 0;
    while length < data.len() {
        let within = usize::try_from((at + length as u64) % PAGE as u64).unwrap_or(0);
        let end = data.len().min(length + PAGE - within);
        let is_zero = data[length..end] == ZEROS[..end - length];
        if is_zero != zeros {
            break;
        }
        length = end;
    }
    length
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::MetadataExt;

    proptest! {
        #[test]
        fn what_is_written_is_what_is_read(
            parts in proptest::collection::vec((any::<bool>(), 1usize..20_000), 0..12),
        ) {
            let file = tempfile::tempfile().unwrap();
            let mut content = Vec::new();
            for (zero, length) in parts {
                let part = vec![if zero { 0 } else { 7 }; length];
                write_sparse(&file, content.len() as u64, &part).unwrap();
                content.extend_from_slice(&part);
            }
            file.set_len(content.len() as u64).unwrap();
            let mut read = vec![1; content.len()];
            file.read_exact_at(&mut read, 0).unwrap();
            prop_assert!(read == content);
        }
    }

    #[tokio::test]
    async fn holes_take_no_room_and_sums_are_of_what_came_since() {
        let writer = Writer::start(Target::File(tempfile::tempfile().unwrap()));
        assert!(writer.write(Bytes::from_static(b"begin")).await);
        assert!(writer.write(Bytes::from(vec![0; 8 << 20])).await);
        let mut expected = BlockSum::default();
        expected.add(b"begin");
        expected.skip(8 << 20);
        assert_eq!(writer.sum().await, Some(expected.finish()));
        assert_eq!(writer.sum().await, Some(BlockSum::default().finish()));
        let (target, length) = writer.finish().await.unwrap();
        let Target::File(file) = target else { panic!("{target:?}") };
        let metadata = file.metadata().unwrap();
        assert_eq!((length, metadata.len()), ((8 << 20) + 5, (8 << 20) + 5));
        // Blocks are of 512 bytes (stat(2)).
        assert!(metadata.blocks() * 512 < 1 << 20, "{} blocks", metadata.blocks());
    }
}
