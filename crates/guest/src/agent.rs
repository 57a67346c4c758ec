//! What all tasks of the agent share.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use inn_guest_proto::capability;
use inn_guest_proto::wire::Hello;

use crate::exec::ExecTable;
use crate::os::reaper::Reaper;
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
}

/// What this version can do beyond the first.
const CAPABILITIES: [&str; 2] = [capability::EXEC_2, capability::FILES_2];

impl Agent {
    pub(crate) fn new(role: Role) -> Rc<Self> {
        Rc::new(Self {
            role,
            wire: Rc::default(),
            reaper: Rc::default(),
            execs: ExecTable::default(),
            configured: Cell::new(false),
            stable_addresses: Cell::new(false),
            stop: tokio::sync::Notify::new(),
        })
    }

    pub(crate) fn hello(&self) -> Hello {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        Hello {
            version: None,
            agent: concat!("inn-guest ", env!("CARGO_PKG_VERSION")).to_owned(),
            capabilities: CAPABILITIES.map(str::to_owned).to_vec(),
            boot_id: boot_id.unwrap_or_default().trim_end().to_owned(),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            is_init: self.role == Role::Init,
            configured: self.configured.get(),
            uptime_ns: u64::try_from(uptime().as_nanos()).unwrap_or(u64::MAX),
            ..Hello::default()
        }
    }
}

fn uptime() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}
