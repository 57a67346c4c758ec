use std::ffi::{OsStr, OsString};
use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};

use super::spawn::clean_environment;
use super::{MissingProgram, Program};

/// What is kept of each output stream: its last 64 KiB.
const TAIL: usize = 64 << 10;

/// Runs a program to its end, or kills it at the deadline. Dropping the future
/// kills it too. stdin is empty, the environment is only `PATH`, `LC_ALL=C`,
/// `HOME` and `TMPDIR`. Any exit status but 0 is an error.
#[expect(clippy::disallowed_methods, reason = "this is the wrapper that all others use")]
pub async fn run(
    program: Program,
    args: impl IntoIterator<Item = impl AsRef<OsStr>>,
    deadline: Duration,
) -> Result<Output, RunError> {
    let name = program.name().to_owned();
    let mut command = tokio::process::Command::new(program.find()?);
    command
        .args(args)
        .env_clear()
        .envs(clean_environment())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child =
        command.spawn().map_err(|source| RunError::Start { program: name.clone(), source })?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());

    let ended = tokio::time::timeout(deadline, async {
        tokio::try_join!(read_tail(stdout), read_tail(stderr), child.wait())
    })
    .await;
    match ended {
        Ok(Ok((stdout, stderr, status))) if status.success() => Ok(Output { stdout, stderr }),
        Ok(Ok((_, stderr, status))) => {
            Err(RunError::Failed { program: name, status, stderr: last_lines(&stderr) })
        }
        Ok(Err(source)) => Err(RunError::Io { program: name, source }),
        Err(_) => {
            child.kill().await.map_err(|source| RunError::Io { program: name.clone(), source })?;
            Err(RunError::Deadline { program: name, deadline })
        }
    }
}

/// [`run`] for code that blocks anyway. It has a thread of its own meanwhile,
/// so that it may be called where another runtime is running.
pub fn run_blocking(
    program: Program,
    args: impl IntoIterator<Item = impl AsRef<OsStr>>,
    deadline: Duration,
) -> Result<Output, RunError> {
    let args: Vec<OsString> = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
    let start = move |source| RunError::Start { program: program.name().to_owned(), source };
    let thread = move || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(start)?
            .block_on(run(program, args, deadline))
    };
    std::thread::Builder::new()
        .name(format!("run {}", program.name()))
        .spawn(thread)
        .map_err(start)?
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// What a program that succeeded has written: the last 64 KiB of each stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Missing(#[from] MissingProgram),
    #[error("{program} could not be started")]
    Start { program: String, source: io::Error },
    /// `stderr` is its last lines, joined.
    #[error("{program} failed with {status}: {stderr}")]
    Failed { program: String, status: ExitStatus, stderr: String },
    #[error("{program} did not end within {deadline:?} and was killed")]
    Deadline { program: String, deadline: Duration },
    #[error("{program} could not be followed to its end")]
    Io { program: String, source: io::Error },
}

async fn read_tail(stream: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    let Some(mut stream) = stream else { return Ok(kept) };
    loop {
        if stream.read_buf(&mut kept).await? == 0 {
            kept.drain(..kept.len().saturating_sub(TAIL));
            return Ok(kept);
        }
        // Dropping the head only now and then keeps this linear.
        if kept.len() > 2 * TAIL {
            kept.drain(..kept.len() - TAIL);
        }
    }
}

/// The last lines that carry text, as one line for an error message.
fn last_lines(stderr: &[u8]) -> String {
    const LINES: usize = 5;
    let text = String::from_utf8_lossy(stderr);
    let mut lines: Vec<&str> =
        text.lines().rev().map(str::trim).filter(|l| !l.is_empty()).take(LINES).collect();
    lines.reverse();
    if lines.is_empty() { "it said nothing".to_owned() } else { lines.join("; ") }
}
