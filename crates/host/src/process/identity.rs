use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitStatus;
use std::sync::OnceLock;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use super::Spawner;

/// One process for ever, unlike its pid, which is reused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessIdentity {
    pub pid: u32,
    /// Field 22 of /proc/PID/stat: clock ticks since the host booted.
    pub start_ticks: u64,
    /// [`host_boot_id`].
    pub host_boot_id: String,
}

impl ProcessIdentity {
    /// Of a process that the caller knows to exist, such as its own child.
    pub fn of_pid(pid: u32) -> io::Result<Self> {
        Ok(Self { pid, start_ticks: start_ticks(pid)?, host_boot_id: host_boot_id()?.to_owned() })
    }
}

/// A process held by a pidfd: our child, or one of an earlier life.
/// Dropping it leaves the process alone.
#[derive(Debug)]
pub struct Process {
    identity: ProcessIdentity,
    pidfd: OwnedFd,
    child: Option<ChildLink>,
}

#[derive(Debug)]
struct ChildLink {
    exited: watch::Receiver<Option<ExitStatus>>,
    /// Its thread must outlive a leased child.
    _spawner: Spawner,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Status(ExitStatus),
    /// It was not our child, so nobody told us.
    Unknown,
}

impl Process {
    /// Finds the process again, if it lives and is the very same.
    pub fn open(identity: &ProcessIdentity) -> Result<Self, OpenError> {
        let pid = identity.pid;
        let step = |source| OpenError::Io { pid, source };
        if identity.host_boot_id != host_boot_id().map_err(step)? {
            return Err(OpenError::Gone { pid });
        }
        let process = match pidfd_open(raw_pid(pid).map_err(step)?, PidfdFlags::empty()) {
            Ok(pidfd) => Self { identity: identity.clone(), pidfd, child: None },
            Err(Errno::SRCH) => return Err(OpenError::Gone { pid }),
            Err(errno) => return Err(step(errno.into())),
        };
        // In this order there is no race: the pidfd names one process, and if
        // that one still lives after the start time was read under its pid,
        // then the start time was its own.
        match start_ticks(pid) {
            Ok(ticks) if ticks == identity.start_ticks && process.is_alive() => Ok(process),
            Ok(_) => Err(OpenError::Gone { pid }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(OpenError::Gone { pid }),
            Err(error) if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => {
                Err(OpenError::Gone { pid })
            }
            Err(error) => Err(step(error)),
        }
    }

    pub(super) fn of_child(
        pid: u32,
        exited: watch::Receiver<Option<ExitStatus>>,
        spawner: Spawner,
    ) -> io::Result<Self> {
        let pidfd = pidfd_open(raw_pid(pid)?, PidfdFlags::empty())?;
        let identity = ProcessIdentity::of_pid(pid)?;
        Ok(Self { identity, pidfd, child: Some(ChildLink { exited, _spawner: spawner }) })
    }

    pub fn identity(&self) -> &ProcessIdentity {
        &self.identity
    }

    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// A process that has ended and was not reaped yet counts as dead.
    pub fn is_alive(&self) -> bool {
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(0))
    }

    /// Succeeds when the process is gone already.
    pub fn kill(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Resolves when the process has ended. Cancel safe; any number may wait.
    pub async fn wait(&self) -> io::Result<Exit> {
        if let Some(child) = &self.child {
            let mut exited = child.exited.clone();
            if let Ok(status) = exited.wait_for(Option::is_some).await
                && let Some(status) = *status
            {
                return Ok(Exit::Status(status));
            }
        }
        // One descriptor can be registered once: each waiter has its own.
        let _ = register(self.pidfd.try_clone()?)?.readable().await?;
        Ok(Exit::Unknown)
    }
}

#[allow(unsafe_code)]
fn register(pidfd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the `AsyncFd` owns the `OwnedFd`, which keeps its one descriptor
    // open for as long as it lives.
    let registered = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) };
    registered.map_err(io::Error::from)
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It has ended, or its pid belongs to another process now.
    #[error("process {pid} is gone")]
    Gone { pid: u32 },
    #[error("process {pid} could not be looked at")]
    Io { pid: u32, source: io::Error },
}

/// Names this boot of the host: /proc/sys/kernel/random/boot_id.
pub fn host_boot_id() -> io::Result<&'static str> {
    static BOOT_ID: OnceLock<String> = OnceLock::new();
    if let Some(id) = BOOT_ID.get() {
        return Ok(id);
    }
    let read = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(BOOT_ID.get_or_init(|| read.trim().to_owned()))
}

fn raw_pid(pid: u32) -> io::Result<Pid> {
    i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("{pid} is no pid")))
}

fn start_ticks(pid: u32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_start_ticks(&stat).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat has no start time"))
    })
}

/// proc(5): the second field is the command in parentheses, which may hold
/// spaces and parentheses itself; the third follows the last one.
fn parse_start_ticks(stat: &str) -> Option<u64> {
    const START_TIME: usize = 22;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(START_TIME - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_time_is_found_behind_any_command_name() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 424242 19 20";
        for command in ["sh", "a b", "a) S 1 (b", ")))", ""] {
            assert_eq!(parse_start_ticks(&format!("77 ({command}) {rest}")), Some(424_242));
        }
        assert_eq!(parse_start_ticks("77 (sh) S 1 2"), None);
        assert_eq!(parse_start_ticks(""), None);
    }
}
