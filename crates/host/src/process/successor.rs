//! The program that takes this process over: execve(2), with sockets in hand.
//!
//! Everything else ends with it: threads, and all descriptors that are
//! close-on-exec, as all of ours are. The pid stays, and so do children, for
//! which nobody waits any more: see [`inherited`].

use std::ffi::OsString;
use std::io;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use super::{Process, ProcessIdentity};
use crate::init_system::HANDED_SOCKETS;

/// What this process was started with: for a successor to be the same.
pub fn arguments() -> Vec<OsString> {
    std::env::args_os().skip(1).collect()
}

/// A child of the agent that this process was before: no other part of this one
/// has started it, so it is ours to reap.
#[derive(Debug)]
pub struct Inherited(Process);

impl Inherited {
    /// Waits for its end, and reaps it. Cancel safe.
    pub async fn reap(self) -> io::Result<()> {
        self.0.wait().await?;
        reap(self.0.identity().pid);
        Ok(())
    }
}

/// To be asked for before any process is started.
pub fn inherited() -> Vec<Inherited> {
    let mut found = Vec::new();
    // proc_tid_children(5); without CONFIG_PROC_CHILDREN there are none to see.
    for task in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for pid in children.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()) {
            let identity = ProcessIdentity::of_pid(pid);
            match identity.ok().and_then(|identity| Process::open(&identity).ok()) {
                Some(process) => found.push(Inherited(process)),
                // It has ended.
                None => reap(pid),
            }
        }
    }
    found
}

/// Its pid is its own until this is done: nobody else reaps our child.
fn reap(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    if let Some(pid) = pid
        && let Err(error) = waitid(WaitId::Pid(pid), options)
    {
        tracing::warn!(?pid, %error, "a child of the agent before is not reaped");
    }
}

/// Asks a program that may become the successor, with this process's
/// environment but what its init system has said to it alone. Its stdout, or
/// what it says is wrong.
#[expect(clippy::disallowed_methods, reason = "it is no program of the table, but our own")]
pub async fn ask(program: &Path, args: &[OsString], deadline: Duration) -> Result<String, String> {
    let mut command = tokio::process::Command::new(program);
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    for name in ["NOTIFY_SOCKET", "LISTEN_FDS", HANDED_SOCKETS, "WATCHDOG_USEC"] {
        command.env_remove(name);
    }
    let output = match tokio::time::timeout(deadline, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(format!("it cannot be run: {error}")),
        Err(_) => return Err(format!("it did not answer within {} s", deadline.as_secs())),
    };
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let line = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it says nothing");
    let line: String = line.chars().filter(|c| !c.is_control()).take(500).collect();
    Err(format!("{line} ({})", output.status))
}

/// Becomes the program, which finds the sockets by
/// [`crate::init_system::passed_listeners`]. Returns only if that fails, and
/// then without the sockets.
///
/// Not as sd_listen_fds(3) has it, from descriptor 3 on: that number is
/// somebody's in this process, and a thread that is slow to end would close it
/// after it has become the socket's.
#[expect(clippy::disallowed_methods, reason = "no process is started")]
pub fn become_program(
    program: &Path,
    args: &[OsString],
    sockets: Vec<(&'static str, OwnedFd)>,
) -> io::Error {
    let mut handed = std::process::id().to_string();
    for (name, socket) in &sockets {
        // The copy is not close-on-exec.
        match rustix::io::dup(socket) {
            Ok(copy) => handed.push_str(&format!(":{name}={}", copy.into_raw_fd())),
            Err(error) => return error.into(),
        }
    }
    let mut command = Command::new(program);
    for name in ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"] {
        command.env_remove(name);
    }
    command.args(args).env(HANDED_SOCKETS, handed).exec()
}
