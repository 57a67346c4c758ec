//! A machine's log writer, from its owner's side: see
//! [`inn_host::log_writer`].

use std::io;
use std::path::Path;
use std::time::Duration;

use inn_host::log_writer;
use inn_host::process::{Process, Signal};
use tokio::time::timeout;

use crate::read_tail;

/// For what is still in the pipes to reach the logs, when nobody fills them
/// any more: some MiB at most, but a disk may be slow.
const DRAIN: Duration = Duration::from_secs(10);

/// How much of a log is read to explain an end.
pub const LAST_WORDS: usize = 8 << 10;

/// The lines of it that are shown.
const LINES: usize = 20;

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
