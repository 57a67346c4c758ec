use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::process::{ExitStatus, Stdio};

use super::spawn::clean_environment;
use super::{Program, RunError};

/// What a program that was attached to our terminal has come to.
#[derive(Debug)]
pub struct Attached {
    pub status: ExitStatus,
    /// All that it wrote to stdout, up to 64 KiB.
    pub stdout: Vec<u8>,
}

const MOST: u64 = 64 << 10;

/// Runs a program that a person watches and that shares their configuration:
/// it has our whole environment, and what it writes goes to our stderr. Nothing
/// of it is a result but its status. Blocks.
#[expect(clippy::disallowed_methods, reason = "one of the wrappers that all others use")]
pub fn run_watched(
    program: Program,
    args: impl IntoIterator<Item = impl AsRef<OsStr>>,
) -> Result<ExitStatus, RunError> {
    let name = || program.name().to_owned();
    let start = |source| RunError::Start { program: name(), source };
    let stderr = io::stderr().as_fd().try_clone_to_owned().map_err(start)?;
    std::process::Command::new(program.find()?)
        .args(args)
        .stdin(Stdio::null())
        .stdout(stderr)
        .stderr(Stdio::inherit())
        .status()
        .map_err(start)
}

/// Runs a program that a person watches: its stderr is ours, its stdout is the
/// result, and it may take as long as it takes. An interrupt reaches it as it
/// reaches us: it is of our process group. Blocks.
#[expect(clippy::disallowed_methods, reason = "one of the wrappers that all others use")]
pub fn run_attached(
    program: Program,
    args: impl IntoIterator<Item = impl AsRef<OsStr>>,
) -> Result<Attached, RunError> {
    let name = || program.name().to_owned();
    let mut child = std::process::Command::new(program.find()?)
        .args(args)
        .env_clear()
        .envs(clean_environment())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(|source| RunError::Start { program: name(), source })?;
    let mut stdout = Vec::new();
    let read = child.stdout.take().map_or(Ok(0), |mut from| {
        io::Read::read_to_end(&mut io::Read::take(&mut from, MOST), &mut stdout)
    });
    let status = child.wait().map_err(|source| RunError::Io { program: name(), source })?;
    read.map_err(|source| RunError::Io { program: name(), source })?;
    Ok(Attached { status, stdout })
}
