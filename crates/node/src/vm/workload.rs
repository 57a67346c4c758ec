//! Follows the workload: its output into a bounded log, its end to the task.
//!
//! The log alone says where to go on after a restart of the agent: `log_base`
//! is the output's offset less the log's length, and changes only with a cut
//! or a gap, so nothing is stored for each piece of output.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use inn_host::log_times::Times;
use inn_store::WorkloadRecord;
use inn_units::{Bytes, ExecId, format_duration};
use tokio::fs::{File, OpenOptions};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::error::Chain;
use crate::guest::{Exec, ExecEnd, ExecEvent, ExecStatus, GuestError, Output};

/// The one exec in each guest that is its workload, for every life of the agent.
pub(crate) const WORKLOAD: ExecId = ExecId::from_bytes(*b"workload");

/// What the guest keeps of the workload's output while no agent reads it.
pub(super) const RETAINED: u32 = 1 << 20;

/// For the last output to be written: 1 MiB to a disk that may be busy.
const DRAIN: Duration = Duration::from_secs(5);

/// News for the task: cuts of the log, and one end.
const NEWS: usize = 8;

/// A running follower. Dropping it stops the following, not the workload.
#[derive(Debug)]
pub(super) struct Follower {
    pub(super) news: mpsc::Receiver<WorkloadRecord>,
    task: JoinHandle<()>,
}

impl Follower {
    pub(super) fn start(exec: Exec, log: WorkloadLog, record: WorkloadRecord) -> Self {
        let (sender, news) = mpsc::channel(NEWS);
        let task = tokio::spawn(follow(exec, log, record, sender));
        Self { news, task }
    }

    /// Lets it write what has come already, now that its session is over, and
    /// takes its last news.
    pub(super) async fn drain(mut self) -> Option<WorkloadRecord> {
        let mut last = None;
        let drained = async {
            // Ends with the follower, who alone has the sender.
            while let Some(record) = self.news.recv().await {
                last = Some(record);
            }
        };
        if tokio::time::timeout(DRAIN, drained).await.is_err() {
            tracing::warn!("a workload's last output is given up");
        }
        last
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(
    mut exec: Exec,
    mut log: WorkloadLog,
    mut record: WorkloadRecord,
    news: mpsc::Sender<WorkloadRecord>,
) {
    let mut is_well = true;
    loop {
        let event = match exec.next().await {
            Ok(Some(event)) => event,
            Ok(None) => return,
            Err(error @ GuestError::Refused { .. }) => {
                record.running = false;
                record.reason = Some(Chain(&error).to_string());
                let _ = news.send(record).await;
                return;
            }
            // The session is lost: whoever finds it again follows on.
            Err(error) => {
                tracing::debug!(%error, "a workload's session is over");
                return;
            }
        };
        match event {
            ExecEvent::Started { .. } | ExecEvent::InputTaken(_) => {}
            // The guest keeps it up: between two runs it counts as running,
            // and says how the last one ended.
            ExecEvent::RunEnded { end, restarts, next_in } => {
                record.restarts = restarts;
                record.exit_code = Some(end.exit_code());
                record.reason = Some(match reason_of(&end) {
                    Some(why) => format!("{why}; it starts again in {}", format_duration(next_in)),
                    None => format!("it starts again in {}", format_duration(next_in)),
                });
                let _ = news.send(record.clone()).await;
            }
            ExecEvent::RunStarted { restarts, .. } => {
                record.restarts = restarts;
                record.exit_code = None;
                record.reason = None;
                let _ = news.send(record.clone()).await;
            }
            ExecEvent::Stdout(output) | ExecEvent::Stderr(output) => {
                let appended = log.append(&output).await;
                let was_well = std::mem::replace(&mut is_well, appended.is_ok());
                match appended {
                    Ok(base) if base == record.log_base => {}
                    Ok(base) => {
                        record.log_base = base;
                        let _ = news.send(record.clone()).await;
                    }
                    // The workload goes on; what it printed is lost. Told once:
                    // the next disk to fill up would be the one with our log.
                    Err(error) if was_well => tracing::warn!(
                        log = %log.path.display(), %error, "a workload's log cannot be written"
                    ),
                    Err(_) => {}
                }
            }
            ExecEvent::Exited(end) => {
                record.running = false;
                record.exit_code = Some(end.exit_code());
                record.reason = reason_of(&end);
                // A task that is gone has no use for it.
                let _ = news.send(record.clone()).await;
            }
        }
    }
}

fn reason_of(end: &ExecEnd) -> Option<String> {
    match end.status {
        ExecStatus::Code(_) => None,
        ExecStatus::Signal(number) => Some(format!("ended by signal {number}")),
    }
}

/// The workload's log, cut where it is full: the last cut stays as `.1`.
#[derive(Debug)]
pub(super) struct WorkloadLog {
    path: PathBuf,
    file: File,
    length: u64,
    base: i64,
    limit: u64,
    /// When it was written: `None` where that cannot be kept.
    times: Option<Times>,
}

impl WorkloadLog {
    /// For a workload that starts now, at offset 0.
    pub(super) async fn begin(path: &Path, limit: Bytes) -> io::Result<Self> {
        let mut log = Self::open(path, limit, 0).await?;
        log.base = 0i64.saturating_sub_unsigned(log.length);
        Ok(log)
    }

    pub(super) async fn open(path: &Path, limit: Bytes, base: i64) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path).await?;
        let length = file.metadata().await?.len();
        let path = path.to_owned();
        let times = with_times(None, {
            let path = path.clone();
            move |_| Times::open(&path).ok()
        });
        Ok(Self { times: times.await, path, file, length, base, limit: limit.get() })
    }

    /// The offset of the output that comes next.
    pub(super) fn next_offset(&self) -> u64 {
        u64::try_from(self.base.saturating_add_unsigned(self.length)).unwrap_or(0)
    }

    pub(super) fn base(&self) -> i64 {
        self.base
    }

    /// The base that holds afterwards.
    async fn append(&mut self, output: &Output) -> io::Result<i64> {
        // Whoever prints the most has the log a piece longer than its limit.
        if self.length >= self.limit {
            self.cut().await?;
        }
        let expected = self.next_offset();
        if output.offset > expected {
            let gap = format!("\n[{} bytes of output were lost]\n", output.offset - expected);
            self.write(gap.as_bytes()).await?;
        }
        // What was written twice is not: an attach may begin a bit too early.
        let known = expected.saturating_sub(output.offset);
        let fresh = output.bytes.get(usize::try_from(known).unwrap_or(usize::MAX)..);
        if let Some(fresh) = fresh {
            self.write(fresh).await?;
            let end = output.offset.saturating_add(output.bytes.len() as u64);
            let end = i64::try_from(end).unwrap_or(i64::MAX);
            self.base = end.saturating_sub_unsigned(self.length);
        }
        Ok(self.base)
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (now, length) = (SystemTime::now(), self.length);
        if self.times.as_ref().is_some_and(|times| times.is_due(now)) {
            self.change_times(move |times| times.mark(length, now)).await;
        }
        let written = self.file.write_all(bytes).await;
        if let Err(error) = written.and(self.file.flush().await) {
            // The file's length counts: half a piece would be the next one's.
            let _ = self.file.set_len(self.length).await;
            return Err(error);
        }
        self.length += bytes.len() as u64;
        Ok(())
    }

    async fn cut(&mut self) -> io::Result<()> {
        let mut kept = self.path.clone().into_os_string();
        kept.push(".1");
        tokio::fs::rename(&self.path, PathBuf::from(kept)).await?;
        self.change_times(|times| times.turn(0)).await;
        let next = self.next_offset();
        *self = Self::open(&self.path.clone(), Bytes(self.limit), 0).await?;
        self.base = i64::try_from(next).unwrap_or(i64::MAX);
        Ok(())
    }

    async fn change_times(&mut self, change: impl FnOnce(&mut Times) + Send + 'static) {
        let times = self.times.take();
        self.times = with_times(times, |mut times| {
            times.as_mut().map(change);
            times
        })
        .await;
    }
}

/// Files may be slow.
async fn with_times(
    times: Option<Times>,
    change: impl FnOnce(Option<Times>) -> Option<Times> + Send + 'static,
) -> Option<Times> {
    tokio::task::spawn_blocking(move || change(times)).await.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(offset: u64, text: &str) -> Output {
        Output { offset, bytes: bytes::Bytes::copy_from_slice(text.as_bytes()) }
    }

    #[tokio::test]
    async fn the_log_says_where_to_go_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("workload.log");
        let limit = Bytes(10);
        std::fs::write(&path, "old").unwrap();

        let mut log = WorkloadLog::begin(&path, limit).await.unwrap();
        assert_eq!((log.next_offset(), log.base()), (0, -3));
        assert_eq!(log.append(&output(0, "abc")).await.unwrap(), -3);
        // Another life: only the base was kept.
        let mut log = WorkloadLog::open(&path, limit, -3).await.unwrap();
        assert_eq!(log.next_offset(), 3);
        assert_eq!(log.append(&output(1, "bcdefgh")).await.unwrap(), -3, "overlap");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "oldabcdefgh");
        // Full: cut, and the base moves.
        assert_eq!(log.append(&output(8, "i")).await.unwrap(), 8);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "i");
        assert_eq!(
            std::fs::read_to_string(dir.path().join("workload.log.1")).unwrap(),
            "oldabcdefgh"
        );
        // However much comes, there are two parts, and each is bounded.
        let mut offset = 9;
        for _ in 0..50 {
            log.append(&output(offset, "12345")).await.unwrap();
            offset += 5;
            let files = std::fs::read_dir(dir.path()).unwrap().map(Result::unwrap);
            let parts = files.filter(|file| !file.file_name().to_string_lossy().contains("times"));
            let sizes: Vec<u64> = parts.map(|part| part.metadata().unwrap().len()).collect();
            assert!(sizes.len() == 2 && sizes.iter().all(|size| *size <= 14), "{sizes:?}");
        }
        assert_eq!(log.next_offset(), offset);
        log.cut().await.unwrap();
        // A gap is told, and counted right.
        log.append(&output(offset + 11, "z")).await.unwrap();
        assert_eq!(log.next_offset(), offset + 12);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "\n[11 bytes of output were lost]\nz");
    }
}
