//! The keeper's process: starts Firecracker and looks after it.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use inn_host::process::{ChildSpec, become_user, fork, inherited, unshare_pids};
use inn_vmm::kept::{Keeper, REFUSED};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::fchdir;

use crate::jail::{self, Inside};
use crate::kind::COMMAND;
use crate::orders::Orders;

/// Keeps a machine to its end, if that is what this process was started for.
/// Called before anything else is set up: each machine has such a process.
pub fn if_asked() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    if args.next()? != COMMAND {
        return None;
    }
    Some(match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{COMMAND}: {error}");
            ExitCode::from(u8::try_from(REFUSED).unwrap_or(u8::MAX))
        }
    })
}

fn run() -> io::Result<()> {
    let orders = read_orders()?;
    let named = |number| inherited(number).map(OwnedFd::from);
    let descriptors = orders.descriptors;
    let run_dir = named(descriptors.run_dir)?;
    let (control, console) = (named(descriptors.control)?, named(descriptors.console)?);
    let console_log = named(descriptors.console_log)?;
    let netns = descriptors.netns.map(named).transpose()?;
    fchdir(&run_dir)?;

    let pipe = || pipe_with(PipeFlags::CLOEXEC);
    let (output, serial_out) = pipe()?;
    let (serial_in, input) = pipe()?;
    // A jailed one is left no other descriptors than these; it is its log that it
    // talks to.
    let says = match descriptors.memory {
        Some(memory) => named(memory)?,
        None => io::stderr().as_fd().try_clone_to_owned()?,
    };
    let stdio = [serial_in, serial_out, says];
    let vm = orders.vm.clone();
    let (child, status, alive) = match &orders.jail {
        None => {
            let mut args = vec!["--id".into(), orders.instance().into()];
            args.extend(orders.args.iter().cloned());
            let program = orders.firecracker.clone();
            let descriptors_at = None;
            let spec =
                ChildSpec { program, args, stdio, netns, dies_with_us: true, descriptors_at };
            (spec.start()?, None, None)
        }
        Some(order) => {
            let (lifeline, alive) = pipe()?;
            let (told, telling) = pipe()?;
            unshare_pids()?;
            let Some(child) = fork()? else {
                drop((control, console, console_log, output, input, alive, told));
                let inside = Inside { stdio, netns, lifeline, telling };
                jail::keep(&orders, order, inside)?;
                std::process::exit(0);
            };
            drop((stdio, lifeline, telling, netns));
            become_user(order.uid)?;
            (child, Some(told), Some(alive))
        }
    };
    let keeper = Keeper { vm, child, control, console, console_log, output, input, status };
    keeper.keep(None)?;
    // Until here: its end is what the jail hears.
    drop(alive);
    Ok(())
}

fn read_orders() -> io::Result<Orders> {
    let strange = || {
        let why = "an agent starts this for its machines; nobody else has a use for it";
        io::Error::new(io::ErrorKind::InvalidInput, why)
    };
    let number = std::env::args().nth(3).and_then(|fd| fd.parse().ok()).ok_or_else(strange)?;
    let mut file: File = inherited(number)?;
    file.rewind()?;
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    serde_json::from_slice(&text).map_err(|_| strange())
}
