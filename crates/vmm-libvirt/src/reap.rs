//! Ending what is left of a machine that nobody can speak for any more, and
//! finding its processes.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::Duration;

use inn_host::process::{OpenError, Process, ProcessIdentity, Signal};
use inn_host::socket;
use inn_units::VmId;
use inn_vmm::{MachineIdentity, complete_logs, find_log_writer};
use tokio::time::timeout;

use crate::definition::{Maker, NAMESPACE, domain_name};
use crate::files::Files;
use crate::launch::NAME;
use crate::library::{CallError, Connection, Domain};
use crate::link::{Link, LinkError};

/// For libvirt to end a domain: it gives QEMU 15 s before SIGKILL
/// (virProcessKillPainfully). After that it is ended by its pidfd.
pub(crate) const DESTROY: Duration = Duration::from_secs(20);

/// For a definition to be removed.
const UNDEFINE: Duration = Duration::from_secs(10);

/// For a process's end after SIGKILL.
const END: Duration = Duration::from_secs(60);

pub(crate) async fn reap(
    link: &Link,
    id: VmId,
    identity: Option<&MachineIdentity>,
    run_dir: &Path,
) -> io::Result<()> {
    let files = Files::new(run_dir);
    let recorded =
        match identity.filter(|identity| identity.runtime == NAME).map(MachineIdentity::process) {
            None | Some(Err(OpenError::Gone { .. })) => None,
            Some(Ok(process)) => Some(process),
            Some(Err(OpenError::Io { source, .. })) => return Err(source),
        };
    // Of a machine that nobody has recorded, too.
    let listening = match behind(&files.console()).await {
        // A launch that did not get as far as to hand its console over, or whose
        // QEMU cannot be seen from here: libvirt ends it.
        Err(error) if files.definition().exists() => {
            tracing::debug!(vm = %id, %error, "its process is not known");
            None
        }
        listening => listening?,
    };
    for process in recorded.into_iter().chain(listening) {
        process.kill(Signal::KILL)?;
        ended(&process).await?;
    }
    // Where there is no definition of ours libvirt is not even asked.
    if files.definition().exists() {
        remove_domain(link, id, run_dir).await?;
        files.forget_definition();
    }
    if let Some(writer) = find_log_writer(&files.vmm_log()).await? {
        complete_logs(&writer).await;
    }
    files.remove_sockets();
    Ok(())
}

/// Ends the domain and removes its definition, if it is there and ours.
pub(crate) async fn remove_domain(link: &Link, id: VmId, run_dir: &Path) -> Result<(), LinkError> {
    let run_dir = run_dir.to_owned();
    link.call("removing the domain", DESTROY + UNDEFINE, move |connection| {
        let Some(domain) = ours(connection, id, &run_dir)? else { return Ok(()) };
        // It has ended already, mostly.
        if domain.state()? == crate::library::DomainState::Active {
            gone_is_well(domain.destroy())?;
        }
        gone_is_well(domain.undefine())
    })
    .await
}

/// It may have ended, or somebody else removed it, a moment ago.
fn gone_is_well(done: Result<(), CallError>) -> Result<(), CallError> {
    match done {
        Err(error) if error.is_no_domain() || error.is_not_running() => Ok(()),
        done => done,
    }
}

/// The domain of this machine. One that has its name and is somebody else's is
/// none.
pub(crate) fn ours(
    connection: &Connection,
    id: VmId,
    run_dir: &Path,
) -> Result<Option<Domain>, CallError> {
    let Some(domain) = connection.find(&domain_name(id))? else { return Ok(None) };
    let maker = match domain.metadata(NAMESPACE) {
        Ok(metadata) => metadata.as_deref().and_then(Maker::read),
        Err(error) if error.is_no_domain() => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok((maker == Some(Maker::of(id, run_dir))).then_some(domain))
}

/// The process that listens at a socket, if one does: unix(7), SO_PEERCRED, as
/// of its listen(2), which QEMU calls itself on a socket that it is given.
pub(crate) async fn behind(path: &Path) -> io::Result<Option<Process>> {
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
    let Some(pid) = pid.filter(|pid| *pid != 0 && *pid != std::process::id()) else {
        return Err(io::Error::other(format!(
            "nobody is known to listen at {}: is QEMU in another process namespace?",
            path.display()
        )));
    };
    // While the connection stands the process lives, so the pid is its own.
    let Ok(identity) = ProcessIdentity::of_pid(pid) else { return Ok(None) };
    match Process::open(&identity) {
        Ok(process) => Ok(Some(process)),
        Err(OpenError::Gone { .. }) => Ok(None),
        Err(OpenError::Io { source, .. }) => Err(source),
    }
}

/// Waits for the end of a process that was killed.
pub(crate) async fn ended(process: &Process) -> io::Result<()> {
    match timeout(END, process.wait()).await {
        Ok(ended) => ended.map(drop),
        Err(_) => Err(io::Error::new(
            ErrorKind::TimedOut,
            format!("QEMU (pid {}) is still there after SIGKILL", process.identity().pid),
        )),
    }
}
