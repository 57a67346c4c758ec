//! What all tasks of the agent share.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use inn_guest_proto::capability;
use inn_guest_proto::wire::Hello;

use crate::console;
use crate::exec::ExecTable;
use crate::machine::Machine;
use crate::os::freeze::{self, Freezer};
use crate::os::programs::Programs;
use crate::os::reaper::Reaper;
use crate::os::telemetry::{self, Meter};
use crate::os::{kernel, process};
use crate::session::Wire;

/// What this process is to its machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// PID 1: hostname, network, mounts and shutdown are ours.
    Init,
    /// A service of a full VM, whose own init and cloud-init do all that.
    Resident,
    /// An ordinary process on somebody's machine, serving a socket: the
    /// machine is not ours to change or to end.
    Bare,
}

#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) role: Role,
    pub(crate) wire: Rc<Wire>,
    pub(crate) reaper: Rc<Reaper>,
    pub(crate) execs: ExecTable,
    pub(crate) configured: Cell<bool>,
    /// Programs run without address space randomisation.
    pub(crate) stable_addresses: Cell<bool>,
    /// The role does not let us end the machine: the process ends instead.
    pub(crate) stop: tokio::sync::Notify,
    pub(crate) machine: Machine,
    pub(crate) freezer: Arc<Freezer>,
    /// The last reading's, for the next to compare with.
    pub(crate) meter: RefCell<Meter>,
}

/// What this version can do beyond the first. Whether it may is another matter:
/// who is [`Role::Bare`] refuses what concerns the machine, and says why.
const CAPABILITIES: [&str; 7] = [
    capability::TELEMETRY,
    capability::EXEC_2,
    capability::EXEC_3,
    capability::FILES_2,
    capability::MACHINE,
    capability::RESUME,
    capability::RESUME_2,
];

impl Agent {
    /// Within the set of tasks that it is to run in.
    pub(crate) fn new(role: Role) -> Rc<Self> {
        if role == Role::Resident && freeze::recover() {
            console::say("thawed what the agent before this one had frozen");
        }
        let reaper = Rc::<Reaper>::default();
        let ends = Rc::clone(&reaper);
        let programs = Programs::start(move |pid| ends.expect(pid));
        Rc::new(Self {
            role,
            wire: Rc::default(),
            machine: Machine::new(programs),
            reaper,
            execs: ExecTable::default(),
            configured: Cell::new(false),
            stable_addresses: Cell::new(false),
            stop: tokio::sync::Notify::new(),
            freezer: Arc::default(),
            meter: RefCell::default(),
        })
    }

    pub(crate) fn hello(&self) -> Hello {
        Hello {
            version: None,
            agent: concat!("inn-guest ", env!("CARGO_PKG_VERSION")).to_owned(),
            capabilities: CAPABILITIES.map(str::to_owned).to_vec(),
            boot_id: kernel::boot_id(),
            kernel: kernel::release(),
            is_init: self.role == Role::Init,
            configured: self.configured.get(),
            uptime_ns: u64::try_from(telemetry::uptime().as_nanos()).unwrap_or(u64::MAX),
            os: telemetry::os_name(),
            hostname: process::hostname(),
            frozen: self.freezer.is_frozen(),
        }
    }
}
