//! `GET /api/vms/{vm}/exec`, a WebSocket that speaks Kubernetes' `v5.channel.k8s.io`
//! or `v4.channel.k8s.io`: messages whose first byte is the channel.
//!
//! Query: `command` (repeats), `stdin`, `stdout`, `stderr`, `tty` (booleans),
//! and of ours `shell` (a line for the guest's shell, in place of `command`),
//! `env` (`K=V`, repeats), `workdir`, `user`, `timeout` (a duration),
//! `output-limit` (bytes), `rows`, `cols`, `image-entrypoint` (puts the
//! image's entrypoint in front, and its CMD where no command is given).
//! `GET /api/vms/{vm}/execs/{exec}/attach` speaks the same, with `offset`,
//! `stdin`, `stdout`, `stderr`.
//! The VM may still be starting: the exec begins when the guest is ready.
//!
//! The header [`EXEC_ID`] of the answer names the exec. It outlives the agent
//! that started it by [`GRACE`]: whoever attaches to it in time, at the offset
//! up to which it has the output, goes on where it was. A client that asks for
//! `confirm` says on [`CHANNEL_TAKEN`] what it has, and learns there how much
//! of its input has arrived; for others the agent takes as theirs what it has
//! written to their connection.

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub const SUBPROTOCOL: &str = "v5.channel.k8s.io";
/// Older clients': the same but for [`CHANNEL_CLOSE`], which it lacks.
pub const SUBPROTOCOL_4: &str = "v4.channel.k8s.io";

/// Of the WebSockets that have no protocol of their own, for browsers, which
/// need one of those that they have offered to be taken.
pub const PLAIN_PROTOCOL: &str = "plain.innkeeper";

/// Before a token in base64url without padding: a browser offers it as one more
/// subprotocol, as Kubernetes has it.
pub const BEARER_PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";

pub const CHANNEL_STDIN: u8 = 0;
pub const CHANNEL_STDOUT: u8 = 1;
pub const CHANNEL_STDERR: u8 = 2;
/// Carries one [`Status`] as JSON when the process has ended.
pub const CHANNEL_ERROR: u8 = 3;
/// Carries [`TerminalSize`] as JSON.
pub const CHANNEL_RESIZE: u8 = 4;
/// Of ours: a signal's name such as `SIGINT`, for the process group.
pub const CHANNEL_SIGNAL: u8 = 5;
/// Of ours, where `confirm` is asked for: JSON of [`InputTaken`] from the agent,
/// first of all when the process has started, and of [`OutputTaken`] to it.
pub const CHANNEL_TAKEN: u8 = 6;
/// Followed by the number of the channel that ends (half-close).
pub const CHANNEL_CLOSE: u8 = 255;

/// Header of the answer: the exec's id.
pub const EXEC_ID: &str = "inn-exec-id";

/// How long a process goes on whose agent has ended or died, until somebody
/// attaches to it.
pub const GRACE: Duration = Duration::from_secs(60);

/// Output is confirmed at the latest after so many bytes, and after so many
/// messages: the guest keeps some multiple of it.
pub const TAKEN_BYTES: u64 = 32 * 1024;
pub const TAKEN_MESSAGES: u32 = 32;

/// How much of the input the process has been given, or will never read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InputTaken {
    pub input: u64,
    /// It was given the input's end.
    #[serde(default)]
    pub input_ended: bool,
    /// Whether the exec outlives its agent: a guest of an older make has none
    /// that does.
    #[serde(default)]
    pub lasting: bool,
}

/// The client has all output before this offset, of stdout and stderr together
/// from the process's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputTaken {
    pub output: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    #[serde(rename = "Width")]
    pub cols: u16,
    #[serde(rename = "Height")]
    pub rows: u16,
}

/// The part of `metav1.Status` that remote execution uses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// `Success` or `Failure`.
    pub status: String,
    /// `NonZeroExitCode` when the process ran and ended otherwise than with
    /// 0; any other reason is a [`crate::Code`] of ours in JSON form.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<StatusDetails>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusDetails {
    pub causes: Vec<StatusCause>,
}

/// Reasons used: `ExitCode` (decimal), `Signal` (a name; the exit code is
/// then 128 plus its number), `Timeout` (the limit that ran out), `Truncated`
/// (bytes of output cut).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusCause {
    pub reason: String,
    pub message: String,
}

impl Status {
    /// The exit code to end with: 0, the process's own, or none when the
    /// process never ran or its end is unknown.
    pub fn exit_code(&self) -> Option<i32> {
        if self.status == "Success" {
            return Some(0);
        }
        self.cause("ExitCode")?.parse().ok()
    }

    pub fn cause(&self, reason: &str) -> Option<&str> {
        let causes = &self.details.as_ref()?.causes;
        causes.iter().find(|c| c.reason == reason).map(|c| c.message.as_str())
    }
}
