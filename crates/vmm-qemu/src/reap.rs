//! Ending what is left of a machine that nobody can speak for any more.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::Duration;

use inn_fail_point::{Point, fail_point};
use inn_host::process::{OpenError, Process, ProcessIdentity, Signal};
use inn_host::socket;
use inn_vmm::{MachineIdentity, complete_logs, find_log_writer};
use tokio::net::UnixStream;

use crate::bridge;
use crate::launch::NAME;
use crate::machine::Files;

/// For a process's end after SIGKILL.
const END: Duration = Duration::from_secs(60);

pub(crate) async fn reap(identity: Option<&MachineIdentity>, run_dir: &Path) -> io::Result<()> {
    let files = Files::new(run_dir);
    if let Some(identity) = identity.filter(|identity| identity.runtime == NAME)
        && let Some(process) = found(identity.process())?
    {
        end(&process).await?;
    }
    if let Some(process) = behind(&files.qmp()).await? {
        tracing::info!(pid = process.identity().pid, "ending a QEMU that nobody had recorded");
        end(&process).await?;
        fail_point(Point::ReapKilled);
    }
    // After QEMU, whose device it serves. Nobody ever records it.
    if let Some(process) = bridge::find(&files).await? {
        bridge::end(&process).await?;
    }
    // Ends by itself now that those have.
    if let Some(writer) = find_log_writer(&files.vmm_log()).await? {
        complete_logs(&writer).await;
    }
    files.remove_sockets();
    Ok(())
}

/// The process that listens at a socket, if one does.
///
/// The kernel tells its pid: unix(7), SO_PEERCRED, as of its listen(2), and
/// QEMU calls that itself on the socket it inherits. While the connection
/// stands the process lives, so the pid is its own still.
async fn behind(path: &Path) -> io::Result<Option<Process>> {
    let stream = match socket::connect(path).await {
        Ok(stream) => stream,
        Err(error) => {
            return match error.kind() {
                ErrorKind::NotFound | ErrorKind::ConnectionRefused => Ok(None),
                _ => Err(error),
            };
        }
    };
    let pid = stream.peer_cred()?.pid().and_then(|pid| u32::try_from(pid).ok());
    let Some(pid) = pid.filter(|pid| *pid != std::process::id()) else {
        return Err(io::Error::other(format!("nobody is known to listen at {}", path.display())));
    };
    let identity = match ProcessIdentity::of_pid(pid) {
        Ok(identity) => identity,
        Err(_) if !stands(&stream) => return Ok(None),
        Err(error) => return Err(error),
    };
    let process = found(Process::open(&identity))?;
    Ok(process.filter(|_| stands(&stream)))
}

fn stands(stream: &UnixStream) -> bool {
    match stream.try_read(&mut [0; 1]) {
        Ok(read) => read > 0,
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}

fn found(opened: Result<Process, OpenError>) -> io::Result<Option<Process>> {
    match opened {
        Ok(process) => Ok(Some(process)),
        Err(OpenError::Gone { .. }) => Ok(None),
        Err(OpenError::Io { source, .. }) => Err(source),
    }
}

async fn end(process: &Process) -> io::Result<()> {
    process.kill(Signal::KILL)?;
    match tokio::time::timeout(END, process.wait()).await {
        Ok(ended) => ended.map(drop),
        Err(_) => Err(io::Error::new(
            ErrorKind::TimedOut,
            format!("QEMU (pid {}) is still there after SIGKILL", process.identity().pid),
        )),
    }
}
