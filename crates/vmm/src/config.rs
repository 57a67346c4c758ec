use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use inn_units::{Bytes, ForeignNetwork, Vcpus, VmId};
use serde::{Deserialize, Serialize};

use crate::{CardLimits, Saved};

/// Everything a runtime needs to launch one machine. All paths are absolute;
/// files exist already, sockets and logs are made by the runtime in `run_dir`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineConfig {
    pub id: VmId,
    pub vcpus: Vcpus,
    pub memory: Bytes,
    pub accel: Accel,
    pub boot: Boot,
    /// What it goes on from in place of booting: a machine of the same
    /// configuration, but for files, addresses and what is behind its network
    /// card. It is paused until somebody resumes it.
    pub from: Option<Saved>,
    /// In the order in which the guest sees them: vda, vdb, …
    pub disks: Vec<Disk>,
    pub nic: Option<Nic>,
    /// Whether it has a screen with a keyboard and a pointer, to be seen by
    /// VNC; only where the runtime has them.
    pub screen: bool,
    /// Whether its guest is told a number that is another one in each machine
    /// (vmgenid), of which a kernel that knows it makes its random numbers anew;
    /// only where firmware boots it and the runtime has them.
    pub generation_id: bool,
    /// Whether a guest that firmware has booted reboots within this machine; else
    /// that ends it by its reset.
    pub reboots_within: bool,
    pub console: Console,
    pub channel: ChannelKind,
    /// Sockets, pid file and the VMM's own log; mode 0700, this VM's alone.
    pub run_dir: PathBuf,
    pub lifetime: Lifetime,
    pub isolation: Isolation,
}

/// What the VMM and its helpers are kept in on the host. The default is nothing:
/// a runtime without processes has no use for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Isolation {
    /// The `cgroup.procs` of the control groups that they enter before they
    /// run.
    pub groups: Vec<PathBuf>,
    /// Whom they run as; the agent's own user otherwise. Given one, they get
    /// by descriptor what they need of the host's files, and own `run_dir`.
    pub user: Option<VmmUser>,
    /// Whether they have a root directory of their own, with nothing in it but
    /// what they need to start.
    pub jailed: bool,
    /// Whom the process is that writes their logs, its uid and its gid: one
    /// that owns nothing and that they have no power over.
    pub log_uid: Option<u32>,
}

/// A user without a name, whose uid is its gid too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmmUser {
    pub uid: u32,
    /// Further groups, such as /dev/kvm's.
    pub groups: Vec<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    Kvm,
    Tcg,
}

impl fmt::Display for Accel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        })
    }
}

/// How the guest agent is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChannelKind {
    /// The virtio-serial port `innkeeper.agent.0`.
    Serial,
    /// Port 5161 of a vsock. A kernel that is booted directly is told
    /// `inn.channel=vsock`.
    Vsock,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Boot {
    Kernel(KernelBoot),
    /// The machine's firmware starts what the first disk holds. A guest that
    /// reboots does so within the same machine, as it would on a real one, if
    /// [`MachineConfig::reboots_within`] and its channel outlives that; else the
    /// machine ends by its reset.
    Firmware,
}

/// Direct boot of a Linux kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelBoot {
    /// An uncompressed ELF vmlinux (with a PVH note) or a bzImage.
    pub kernel: PathBuf,
    pub initramfs: Option<PathBuf>,
    /// Complete but for what only the runtime knows (its console device, its
    /// clock), which it adds.
    pub cmdline: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    pub source: DiskSource,
    pub read_only: bool,
    /// How the guest finds it, and unique in its machine: 1 to 20 letters,
    /// digits, `-` or `_` (virtio spec 1.2, 5.2.6.1 for the length).
    pub serial: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskSource {
    /// A raw image. Never probed for other formats: a guest could write a
    /// qcow2 header that names a host file.
    Raw(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nic {
    pub mac: [u8; 6],
    pub backend: NicBackend,
}

impl Nic {
    /// What its VMM is to hold it to.
    pub fn limits(&self) -> CardLimits {
        match &self.backend {
            NicBackend::Tap(tap) => tap.limits,
            NicBackend::User | NicBackend::Nothing | NicBackend::Foreign(_) => {
                CardLimits::default()
            }
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NicBackend {
    /// The VMM's own user-mode network with its own DHCP and DNS: outgoing
    /// connections only.
    User,
    /// Nothing: no packet leaves, and none comes. For a machine that is saved
    /// to begin others from, whatever theirs have.
    Nothing,
    /// A tap of the host's, opened by the agent and handed over by descriptor.
    /// Only where the runtime has them.
    Tap(Tap),
    /// A network that is not the node's, which the runtime connects it to itself.
    /// Only where the runtime has a way to such.
    Foreign(ForeignNetwork),
}

/// An open tap. Whoever holds the last clone keeps the device, so the agent
/// keeps none beyond the launch.
#[derive(Debug, Clone)]
pub struct Tap {
    /// `None` once it was taken.
    device: Arc<Mutex<Option<OwnedFd>>>,
    /// What the guest is told of the largest packet, beside what DHCP says.
    pub mtu: u16,
    /// None but where the runtime has them.
    pub limits: CardLimits,
}

impl Tap {
    /// Without limits.
    pub fn new(device: OwnedFd, mtu: u16) -> Self {
        Self { device: Arc::new(Mutex::new(Some(device))), mtu, limits: CardLimits::default() }
    }

    #[must_use]
    pub fn limited(self, limits: CardLimits) -> Self {
        Self { limits, ..self }
    }

    /// A descriptor of its own.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        match &*self.device.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(device) => device.try_clone(),
            None => Err(Self::taken()),
        }
    }

    /// The descriptor itself, for a VMM that attaches by name: all clones are
    /// without one then.
    pub fn take(&self) -> io::Result<OwnedFd> {
        let device = self.device.lock().unwrap_or_else(PoisonError::into_inner).take();
        device.ok_or_else(Self::taken)
    }

    fn taken() -> io::Error {
        io::Error::other("a launch has taken it already")
    }
}

/// The same device, and not only one like it.
impl PartialEq for Tap {
    fn eq(&self, other: &Self) -> bool {
        let same = Arc::ptr_eq(&self.device, &other.device);
        same && self.mtu == other.mtu && self.limits == other.limits
    }
}

impl Eq for Tap {}

/// Where the guest's serial console goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Console {
    /// Everything the console prints is appended here.
    pub log: PathBuf,
    /// What is kept of each of the machine's logs, before a half that is full
    /// is put aside as `NAME.1`: the runtime sees to it, whether an agent runs
    /// or not.
    pub log_limit: Bytes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// Outlives the agent and is adopted by its next life.
    Detached,
    /// Ends when the agent's process ends, however it ends.
    Leased,
}
