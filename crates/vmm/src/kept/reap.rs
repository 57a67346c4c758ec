//! Ending what is left of a machine that nobody can speak for any more, and
//! finding processes that nobody has recorded.

use std::fs::{self, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use inn_host::process::{OpenError, Process, ProcessIdentity, Signal};
use rustix::process::{Pid, getsid};
use tokio::time::timeout;

use super::{KeptFiles, Kind};
use crate::{MachineIdentity, Stray, complete_logs, find_log_writer};

/// For a process's end after SIGKILL; a vCPU may be deep in the kernel.
const END: Duration = Duration::from_secs(60);

impl Kind {
    /// As [`crate::Runtime::reap`].
    pub async fn reap(
        &'static self,
        identity: Option<&MachineIdentity>,
        run_dir: &Path,
    ) -> io::Result<()> {
        let files = KeptFiles::new(self, run_dir);
        let recorded = identity.filter(|identity| identity.runtime == self.runtime);
        let recorded = match recorded.map(MachineIdentity::process) {
            None | Some(Err(OpenError::Gone { .. })) => None,
            Some(Ok(process)) => Some(process),
            Some(Err(OpenError::Io { source, .. })) => return Err(source),
        };
        // Found first: a VMM whose keeper has ended is still known by its
        // directory.
        let mut all = holders(self, run_dir).await?;
        all.extend(recorded);
        for process in &all {
            process.kill(Signal::KILL)?;
        }
        for process in &all {
            ended(self, process).await?;
        }
        // Ends by itself now that those have.
        if let Some(writer) = find_log_writer(&files.vmm_log()).await? {
            complete_logs(&writer).await;
        }
        files.remove_sockets();
        Ok(())
    }
}

impl Kind {
    /// All of this host whose run directories lie below one of `dirs`, which hold
    /// a directory for each VM; also where those were removed. Blocks.
    pub fn strays(&self, dirs: &[PathBuf]) -> io::Result<Vec<Stray>> {
        // A working directory has no links in its path.
        let dirs: Vec<PathBuf> =
            dirs.iter().map(|dir| dir.canonicalize().unwrap_or_else(|_| dir.clone())).collect();
        let all = fs::read_dir("/proc")?.flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        Ok(pids.filter_map(|pid| self.stray(pid, &dirs)).collect())
    }

    /// Whatever cannot be read has ended, or is not ours.
    fn stray(&self, pid: u32, dirs: &[PathBuf]) -> Option<Stray> {
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        if !(self.is_ours)(&line) {
            return None;
        }
        let identity = ProcessIdentity::of_pid(pid).ok()?;
        let vm = Stray::owner(&fs::read_link(format!("/proc/{pid}/cwd")).ok()?, dirs)?;
        // A keeper leads a session; what it has started is in that.
        let session = i32::try_from(pid).ok().and_then(Pid::from_raw).map(|pid| getsid(Some(pid)));
        let is_bridge = session?.ok()?.as_raw_nonzero().get().cast_unsigned() != pid;
        // The pid may have become another process's in between.
        let same = ProcessIdentity::of_pid(pid).is_ok_and(|now| now == identity);
        let identity = MachineIdentity::of(self.runtime, &identity);
        same.then_some(Stray { vm, identity, is_bridge })
    }
}

/// Waits for the end of a process that was killed.
pub(super) async fn ended(kind: &Kind, process: &Process) -> io::Result<()> {
    match timeout(END, process.wait()).await {
        Ok(ended) => ended.map(drop),
        Err(_) => Err(io::Error::new(
            ErrorKind::TimedOut,
            format!(
                "{} (pid {}) is still there after SIGKILL",
                kind.keeper,
                process.identity().pid
            ),
        )),
    }
}

/// The processes of the machine that has this run directory, by their working
/// directory.
pub(super) async fn holders(kind: &'static Kind, run_dir: &Path) -> io::Result<Vec<Process>> {
    let place = match run_dir.metadata() {
        Ok(metadata) => Place::of(&metadata),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    // One read for each process of the host.
    tokio::task::spawn_blocking(move || look(kind, place)).await.map_err(io::Error::other)?
}

/// One directory, whatever its path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    device: u64,
    inode: u64,
}

impl Place {
    fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

fn look(kind: &Kind, run_dir: Place) -> io::Result<Vec<Process>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if !is_in(kind, pid, run_dir) {
            continue;
        }
        // Gone since, or not ours to look at: in neither case one of ours.
        let Ok(identity) = ProcessIdentity::of_pid(pid) else { continue };
        match Process::open(&identity) {
            // Asked again, now that the pid cannot become another's.
            Ok(process) if is_in(kind, pid, run_dir) && process.is_alive() => found.push(process),
            Ok(_) | Err(OpenError::Gone { .. }) => {}
            Err(OpenError::Io { source, .. }) => return Err(source),
        }
    }
    Ok(found)
}

/// Whether a process is one that works in this directory; a person's shell
/// there is none.
fn is_in(kind: &Kind, pid: u32, run_dir: Place) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| (kind.is_ours)(&line))
        && fs::metadata(format!("/proc/{pid}/cwd"))
            .is_ok_and(|metadata| Place::of(&metadata) == run_dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kept::KRUN_LIKE;

    #[tokio::test]
    async fn a_directory_that_nobody_works_in_has_no_processes() {
        let dir = tempfile::tempdir().unwrap();
        assert!(holders(&KRUN_LIKE, dir.path()).await.unwrap().is_empty());
        assert!(holders(&KRUN_LIKE, &dir.path().join("none")).await.unwrap().is_empty());
    }
}
