//! A machine's log writer, from its owner's side: see
//! [`inn_host::log_writer`].

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use inn_host::log_writer;
use inn_host::process::{Process, Signal, SpawnSpec, Spawner};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::{LaunchError, io_error, read_tail};

/// For what is still in the pipes to reach the logs, when nobody fills them
/// any more: some MiB at most, but a disk may be slow.
const DRAIN: Duration = Duration::from_secs(10);

/// How much of a log is read to explain an end.
pub const LAST_WORDS: usize = 8 << 10;

/// The lines of it that are shown.
const LINES: usize = 20;

/// A log writer whose start nobody waits for: it is the first of a machine's
/// processes to be moved to its control groups, for which the kernel waits until
/// each CPU has passed a quiet state (cgroup_threadgroup_rwsem in
/// kernel/cgroup/cgroup.c), some 10 ms. What is to be logged waits in its pipes.
/// Dropped, it ends by itself, with the pipes.
#[derive(Debug)]
pub struct StartingWriter {
    starting: JoinHandle<io::Result<Process>>,
    program: PathBuf,
}

impl StartingWriter {
    /// By a `spawner` of its own: one starts a process after the other.
    pub fn start(spawner: &Spawner, program: &Path, spec: SpawnSpec) -> Self {
        let spawner = spawner.clone();
        let starting = tokio::spawn(async move { spawner.spawn(spec).await });
        Self { starting, program: program.to_owned() }
    }

    pub async fn started(self) -> Result<Process, LaunchError> {
        let started = self.starting.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        started.map_err(io_error("starting", &self.program))
    }

    /// As [`complete_logs`].
    pub async fn complete(self) {
        match self.started().await {
            Ok(writer) => complete_logs(&writer).await,
            Err(error) => tracing::warn!(%error, "a log writer has not started"),
        }
    }
}

/// The one of a machine of an earlier life, by the first of its logs.
pub async fn find_log_writer(says: &Path) -> io::Result<Option<Process>> {
    let says = says.to_owned();
    tokio::task::spawn_blocking(move || log_writer::find(&says)).await.map_err(io::Error::other)?
}

/// Waits until the logs are complete. For when all that fill them have ended.
pub async fn complete_logs(writer: &Process) {
    let error = match timeout(DRAIN, writer.wait()).await {
        Ok(Ok(_)) => return,
        Ok(Err(error)) => error,
        Err(elapsed) => elapsed.into(),
    };
    let pid = writer.identity().pid;
    tracing::warn!(pid, %error, "a log writer does not end by itself and is ended");
    if let Err(error) = writer.kill(Signal::KILL) {
        tracing::warn!(pid, %error, "a log writer lives on");
    }
}

/// What a log says last. One that can't be read says nothing.
pub fn last_lines(log: &Path) -> Vec<String> {
    let tail = read_tail(log, LAST_WORDS).unwrap_or_default();
    let text = String::from_utf8_lossy(&tail);
    let mut lines: Vec<String> = text.lines().rev().take(LINES).map(str::to_owned).collect();
    lines.reverse();
    lines
}
