//! The logs of a machine's processes, and the process that writes them.
//!
//! ```text
//!   start ──▶ inn log-writer ◀──pipes── QEMU: console, what it says, its trace
//!                 │                  ◀── the vsock's bridge: what it says
//!                 ▼
//!   vmm.log  trace.log  vsock.log  console.log      each with a NAME.1, and
//!                                                   vmm and console a NAME.times
//! ```
//!
//! It is the first of a machine's processes to start, beside the others, and the
//! last to end: by itself, once the others have closed their pipes. See
//! [`inn_host::log_writer`].

use std::fs::File;
use std::io;
use std::path::Path;

use inn_host::log_writer::LogWriter;
use inn_host::process::Confined;
use inn_vmm::{ChannelKind, Isolation, LaunchError, MachineConfig, StartingWriter, io_error};
use rustix::fs::{Gid, Uid, fchown};

use crate::discover::Found;
use crate::machine::Files;

/// The pipes' ends to write to.
#[derive(Debug)]
pub(crate) struct Outlets {
    pub(crate) vmm: File,
    pub(crate) trace: File,
    pub(crate) console: File,
    /// Where the channel has a bridge.
    pub(crate) bridge: Option<File>,
}

/// Starts the machine's log writer. Without outlets it ends.
pub(crate) fn start(
    found: &Found,
    config: &MachineConfig,
    files: &Files,
) -> Result<(StartingWriter, Outlets), LaunchError> {
    let (vmm, limit) = (files.vmm_log(), config.console.log_limit.get());
    let program = &found.log_writer;
    let mut writer = LogWriter::new(program, limit, &vmm).map_err(io_error("opening", &vmm))?;
    let mut timed = |log: &Path| writer.timed_stream(log).map_err(io_error("opening", log));
    let (vmm, console) = (timed(&vmm)?, timed(&config.console.log)?);
    let mut stream = |log: &Path| writer.stream(log).map_err(io_error("opening", log));
    let outlets = Outlets {
        vmm,
        trace: stream(&files.trace_log())?,
        console,
        bridge: match config.channel {
            ChannelKind::Serial => None,
            ChannelKind::Vsock => Some(stream(&files.bridge_log())?),
        },
    };
    if let Some(user) = &config.isolation.user {
        // The one that QEMU opens again, by its name in /proc.
        let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.uid));
        fchown(&outlets.trace, Some(uid), Some(gid))
            .map_err(io::Error::from)
            .map_err(io_error("giving away the pipe of", &files.trace_log()))?;
    }
    let spec = writer.spec().confined(writers(found, &config.isolation)?);
    Ok((StartingWriter::start(&found.log_spawner, program, spec), outlets))
}

/// In the machine's groups, since the guest has it work; as somebody else than
/// its VMM, which could rule it otherwise and fill the disk through it.
fn writers(found: &Found, isolation: &Isolation) -> Result<Confined, LaunchError> {
    isolation.confined(isolation.log_writer(), || found.jail())
}
