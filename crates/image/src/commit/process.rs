//! The process that reads what a guest has written.
//!
//! ```text
//!   agent ─spawns─▶ inn layer-writer ──tar──▶ pipe ──▶ agent
//!                     │ two disks, read-only, and the pipe: all as descriptors
//!                     └ no user's rights, no files of the host, no more than 1 GiB of memory
//! ```
//! It is the agent's own program, started again for each layer. What it says on
//! stderr is why it has failed.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufWriter, ErrorKind};
use std::os::fd::RawFd;
use std::path::Path;
use std::process::ExitCode;

use inn_host::process::{Confined, SpawnSpec, inherited};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Resource, Rlimit, setrlimit};

use super::LayerScope;
use super::layer::pack;
use crate::ext4::read::Volume;

/// The first argument of a process that is to write a layer.
const COMMAND: &str = "layer-writer";

/// Names and places of two million files, and then some.
const MEMORY: u64 = 1 << 30;
const BUFFER: usize = 256 << 10;

/// A layer to be written.
#[derive(Debug)]
pub struct LayerWriter {
    pub scope: LayerScope,
    /// What the guest has written; nobody writes to it any more.
    pub writable: File,
    /// The root disk that it was written over.
    pub root: File,
}

impl LayerWriter {
    /// The process to be started, and where its tar comes from. It says on
    /// `log` what goes wrong. `program` hands its arguments to [`if_asked`].
    pub fn spec(
        self,
        program: &Path,
        log: File,
        confined: Confined,
    ) -> io::Result<(SpawnSpec, File)> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        let mut spec = SpawnSpec::new(program, log).leased(true).confined(confined);
        let scope = match self.scope {
            LayerScope::Changes => "changes",
            LayerScope::Whole => "whole",
        };
        let numbers = [self.writable.into(), self.root.into(), write].map(|fd| spec.inherit(fd));
        let words = [COMMAND.to_owned(), scope.to_owned()];
        Ok((spec.args(words).args(numbers.map(|number| number.to_string())), read.into()))
    }
}

/// Writes a layer if this process was started for that, and says how it went.
pub fn if_asked() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    if args.next()? != COMMAND {
        return None;
    }
    Some(match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = error.to_string();
            let mut at = error.source();
            while let Some(cause) = at {
                text = format!("{text}: {cause}");
                at = cause.source();
            }
            // Nobody is left to be told if that fails.
            let _ = io::Write::write_all(&mut io::stderr(), format!("{text}\n").as_bytes());
            ExitCode::FAILURE
        }
    })
}

fn run(args: impl Iterator<Item = OsString>) -> Result<(), Box<dyn std::error::Error>> {
    let strange = || io::Error::new(ErrorKind::InvalidInput, "only an agent can use it");
    let args: Vec<String> = args.filter_map(|arg| arg.into_string().ok()).collect();
    let [scope, numbers @ ..] = &args[..] else { return Err(strange().into()) };
    let scope = match scope.as_str() {
        "changes" => LayerScope::Changes,
        "whole" => LayerScope::Whole,
        _ => return Err(strange().into()),
    };
    let numbers: Vec<RawFd> = numbers.iter().filter_map(|text| text.parse().ok()).collect();
    let &[writable, root, out] = &numbers[..] else { return Err(strange().into()) };
    let (writable, root, out) = (inherited(writable)?, inherited(root)?, inherited(out)?);
    let at_most = |bytes| Rlimit { current: Some(bytes), maximum: Some(bytes) };
    setrlimit(Resource::As, at_most(MEMORY))?;
    // It has all that it will ever have, and starts nobody.
    setrlimit(Resource::Fsize, at_most(0))?;
    setrlimit(Resource::Core, at_most(0))?;
    let lower = Volume::open(root)?;
    let upper = Volume::open(writable)?;
    pack(&upper, &lower, scope, BufWriter::with_capacity(BUFFER, out))?;
    Ok(())
}
