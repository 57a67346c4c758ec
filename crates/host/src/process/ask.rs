use std::ffi::OsStr;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::RunError;
use super::spawn::clean_environment;

/// What is kept of an answer; a longer one is cut.
const LONGEST_ANSWER: u64 = 256 << 10;

/// Writes `input` to a program that configuration names, and brings what it
/// says, or kills it at the deadline; so does dropping the future. The
/// environment is that of [`super::run()`]. Any exit status is an answer.
///
/// Its answer may be a secret: nothing of it stands in an error.
#[expect(clippy::disallowed_methods, reason = "one of the wrappers that all others use")]
pub async fn ask(
    program: &Path,
    args: impl IntoIterator<Item = impl AsRef<OsStr>>,
    input: &[u8],
    deadline: Duration,
) -> Result<Answer, RunError> {
    let name = program.display().to_string();
    let io = |source| RunError::Io { program: name.clone(), source };
    let mut child = tokio::process::Command::new(program)
        .args(args)
        .env_clear()
        .envs(clean_environment())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| RunError::Start { program: name.clone(), source })?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let mut answer = Vec::new();
    let ended = tokio::time::timeout(deadline, async {
        if let Some(mut stdin) = stdin {
            // One that doesn't read its input has closed it: its answer counts.
            let _ = stdin.write_all(input).await;
        }
        if let Some(stdout) = stdout {
            stdout.take(LONGEST_ANSWER).read_to_end(&mut answer).await?;
        }
        child.wait().await
    })
    .await;
    match ended {
        Ok(status) => Ok(Answer { status: status.map_err(io)?, stdout: answer }),
        Err(_) => {
            child.kill().await.map_err(io)?;
            Err(RunError::Deadline { program: name, deadline })
        }
    }
}

/// What a program has said, however it ended.
#[derive(Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
}

/// The answer may be a secret.
impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer").field("status", &self.status).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn what_is_written_comes_back_whatever_the_status() {
        let shell = Path::new("/bin/sh");
        let script = ["-c", "read word; echo \"got $word\"; exit 3"];
        let answer = ask(shell, script, b"hello\n", LONG).await.unwrap();
        assert_eq!(
            (answer.status.code(), answer.stdout.as_slice()),
            (Some(3), &b"got hello\n"[..])
        );
        assert!(!format!("{answer:?}").contains("hello"));
        // One that never reads.
        let answer =
            ask(shell, ["-c", "exec <&-; echo out"], &[b'x'; 1 << 20], LONG).await.unwrap();
        assert_eq!(answer.stdout, b"out\n");
    }

    #[tokio::test]
    async fn one_that_never_answers_is_killed_at_the_deadline() {
        let shell = Path::new("/bin/sh");
        let error = ask(shell, ["-c", "exec sleep 600"], b"", Duration::from_millis(50)).await;
        assert!(matches!(error, Err(RunError::Deadline { .. })), "{error:?}");
    }
}
