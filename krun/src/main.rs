//! One machine: libkrun in a process of its own, and the one that keeps it.
//!
//! ```text
//!   inn ──orders──▶ keeper ──fork──▶ VMM: its disks, then its user, then the guest
//!                     │  ▲             │ started (a pipe)        its console (two pipes)
//!                     │  └─────────────┘                         its card (a socket pair)
//!                     └──lifeline────▶ the VMM ends when the keeper does
//! ```
//!
//! The keeper never runs a guest's instructions: it moves the bytes of console
//! and card, says on its control socket how the machine is, and how it ended
//! for as long as nobody has asked. It is also the log writer of its machine.
//!
//! Both begin as whoever started them, in the machine's control groups and
//! root directory, and become the machine's user: the keeper at once, the VMM
//! when it has opened its disks.

mod card;
mod sandbox;
mod vmm;

use std::io::{self, Read, Seek};
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use inn_host::log_writer;
use inn_host::process::{become_user, inherited};
use inn_vmm::kept::{Keeper, NOT_STARTED, REFUSED};
use inn_vmm_krun::protocol::{COMMAND, Orders, PROGRAM, VERSION};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    DumpableBehavior, Pid, Signal, fchdir, set_dumpable_behavior, set_parent_process_death_signal,
};

use crate::vmm::Inside;

fn main() -> ExitCode {
    if let Some(code) = log_writer::if_asked() {
        return code;
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{PROGRAM}: {error}");
            ExitCode::from(u8::try_from(REFUSED).unwrap_or(u8::MAX))
        }
    }
}

fn run() -> io::Result<()> {
    let orders = read_orders()?;
    let named = |number| inherited(number).map(OwnedFd::from);
    let descriptors = orders.descriptors;
    let run_dir = named(descriptors.run_dir)?;
    let (control, console) = (named(descriptors.control)?, named(descriptors.console)?);
    let console_log = named(descriptors.console_log)?;
    let tap = orders.card.and_then(|card| card.tap).map(named).transpose()?;
    fchdir(&run_dir)?;

    let pipe = || pipe_with(PipeFlags::CLOEXEC);
    let (output, serial_out) = pipe()?;
    let (serial_in, input) = pipe()?;
    let (started, starting) = pipe()?;
    let (lifeline, alive) = pipe()?;
    let (ours, theirs) = match orders.card {
        Some(_) => {
            let kind = SocketType::SEQPACKET;
            let (a, b) = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
            (Some(a), Some(b))
        }
        None => (None, None),
    };
    let Some(child) = fork()? else {
        drop((control, console, console_log, tap, output, input, started, alive, ours));
        let inside = Inside { serial_in, serial_out, starting, lifeline, card: theirs };
        let error = vmm::enter(&orders, inside);
        eprintln!("{PROGRAM}: {error}");
        std::process::exit(NOT_STARTED);
    };
    drop((serial_in, serial_out, starting, lifeline, theirs));
    // It has all that it needs.
    match &orders.user {
        Some(user) => become_user(user.uid)?,
        None => set_dumpable_behavior(DumpableBehavior::NotDumpable)?,
    }
    if let Some(link) = ours {
        card::carry(link, tap)?;
    }
    let (vm, status) = (orders.vm, None);
    let keeper = Keeper { vm, child, control, console, console_log, output, input, status };
    keeper.keep(Some(started))?;
    // Until here: its end is what the VMM hears.
    drop(alive);
    Ok(())
}

fn read_orders() -> io::Result<Orders> {
    let strange = || {
        let why = "an agent starts this for its machines; nobody else has a use for it";
        io::Error::new(io::ErrorKind::InvalidInput, why)
    };
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() != Some(COMMAND) {
        return Err(strange());
    }
    let number = args.nth(1).and_then(|fd| fd.parse().ok()).ok_or_else(strange)?;
    let mut file = inherited(number)?;
    file.rewind()?;
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    let orders: Orders = serde_json::from_slice(&text).map_err(io::Error::other)?;
    if orders.version != VERSION {
        return Err(io::Error::other(format!(
            "its orders are of version {}, and it knows {VERSION}: install inn and {PROGRAM} of \
             the same version",
            orders.version
        )));
    }
    Ok(orders)
}

/// `None` in the child, which is killed when its parent ends.
#[allow(unsafe_code)]
fn fork() -> io::Result<Option<Pid>> {
    let parent = rustix::process::getpid();
    // SAFETY: this process has one thread as yet, so the child has all of its
    // state, with no lock held.
    let pid = unsafe { libc::fork() };
    match pid {
        ..0 => Err(io::Error::last_os_error()),
        0 => {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            if rustix::process::getppid() != Some(parent) {
                std::process::exit(NOT_STARTED);
            }
            Ok(None)
        }
        pid => Ok(Pid::from_raw(pid)),
    }
}
