//! Ending what is left of a machine that nobody can speak for any more, and
//! finding processes that nobody has recorded.

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use inn_host::log_writer;
use inn_host::process::{OpenError, Process, ProcessIdentity, Signal};
use inn_vmm::MachineIdentity;
use tokio::time::timeout;

use crate::files::Files;
use crate::launch::NAME;
use crate::machine::{complete, open};
use crate::protocol::{COMMAND, PROGRAM};

/// For a process's end after SIGKILL; a vCPU may be deep in the kernel.
const END: Duration = Duration::from_secs(60);

pub(crate) async fn reap(identity: Option<&MachineIdentity>, run_dir: &Path) -> io::Result<()> {
    let files = Files::new(run_dir);
    let recorded = match identity.filter(|identity| identity.runtime == NAME).map(open) {
        None | Some(Err(OpenError::Gone { .. })) => None,
        Some(Ok(process)) => Some(process),
        Some(Err(OpenError::Io { source, .. })) => return Err(source),
    };
    // Found first: a VMM whose keeper has ended is still known by its directory.
    let mut all = holders(run_dir).await?;
    all.extend(recorded);
    for process in &all {
        process.kill(Signal::KILL)?;
    }
    for process in &all {
        ended(process).await?;
    }
    // Ends by itself now that those have.
    if let Some(writer) = log_writer(&files).await? {
        complete(&writer).await;
    }
    files.remove_sockets();
    Ok(())
}

/// Waits for the end of a process that was killed.
pub(crate) async fn ended(process: &Process) -> io::Result<()> {
    match timeout(END, process.wait()).await {
        Ok(ended) => ended.map(drop),
        Err(_) => Err(io::Error::new(
            ErrorKind::TimedOut,
            format!("{PROGRAM} (pid {}) is still there after SIGKILL", process.identity().pid),
        )),
    }
}

/// Of a machine of an earlier life.
pub(crate) async fn log_writer(files: &Files) -> io::Result<Option<Process>> {
    let vmm = files.vmm_log();
    tokio::task::spawn_blocking(move || log_writer::find(&vmm)).await.map_err(io::Error::other)?
}

/// The processes of the machine that has this run directory, by their working
/// directory.
pub(crate) async fn holders(run_dir: &Path) -> io::Result<Vec<Process>> {
    let place = match run_dir.metadata() {
        Ok(metadata) => Place::of(&metadata),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    // One read for each process of the host.
    tokio::task::spawn_blocking(move || look(place)).await.map_err(io::Error::other)?
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

fn look(run_dir: Place) -> io::Result<Vec<Process>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if !is_in(pid, run_dir) {
            continue;
        }
        // Gone since, or not ours to look at: in neither case one of ours.
        let Ok(identity) = ProcessIdentity::of_pid(pid) else { continue };
        match Process::open(&identity) {
            // Asked again, now that the pid cannot become another's.
            Ok(process) if is_in(pid, run_dir) && process.is_alive() => found.push(process),
            Ok(_) | Err(OpenError::Gone { .. }) => {}
            Err(OpenError::Io { source, .. }) => return Err(source),
        }
    }
    Ok(found)
}

/// Whether a process is a helper that works in this directory; a person's shell
/// there is none.
fn is_in(pid: u32, run_dir: Place) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| is_helper(&line))
        && fs::metadata(format!("/proc/{pid}/cwd"))
            .is_ok_and(|metadata| Place::of(&metadata) == run_dir)
}

/// By its command line (proc(5): arguments ended by zeros).
fn is_helper(line: &[u8]) -> bool {
    let mut words = line.split(|byte| *byte == 0);
    let program = words.next().map(|path| Path::new(OsStr::from_bytes(path)).file_name());
    program.flatten().is_some_and(|name| name == PROGRAM)
        && words.next() == Some(COMMAND.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_helper_is_known_by_its_command_line() {
        assert!(is_helper(b"/usr/bin/inn-krun\0machine\0inn-0102030405\x0012\0"));
        for line in [
            &b""[..],
            b"inn-krun",
            b"/usr/bin/inn-krun\0log-writer\x00100\0",
            b"vi\0machine\0",
            b"\xff\0machine\0",
        ] {
            assert!(!is_helper(line), "{line:?}");
        }
    }

    #[tokio::test]
    async fn a_directory_that_nobody_works_in_has_no_processes() {
        let dir = tempfile::tempdir().unwrap();
        assert!(holders(dir.path()).await.unwrap().is_empty());
        assert!(holders(&dir.path().join("none")).await.unwrap().is_empty());
    }
}
