use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use inn_units::{
    Architecture, Bytes, Digest, ForeignNetwork, Generation, NetworkName, SnapshotId, Vcpus, VmName,
};

use crate::cloud_init::CloudInit;
use crate::idle::{IdleAction, OnIdle, Rest};
use crate::limits::ResourceLimits;
use crate::network::{AddressWish, Policy};
use crate::plan::Rules;

/// What a VM is made of. Never changes after its creation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmSpec {
    pub name: VmName,
    pub source: VmSource,
    /// What the VM speaks, for clients that run programs in it.
    pub language: Option<String>,
    pub vcpus: Vcpus,
    pub memory: Bytes,
    /// Size of its own writable disk, as it was made.
    pub disk: Bytes,
    pub network: Network,
    /// What it was made with; it may have others since.
    pub addresses: AddressWish,
    /// As it was made; it may have changed since.
    pub policy: Policy,
    pub env: BTreeMap<String, String>,
    /// In place of the image's CMD; its ENTRYPOINT stays in front.
    pub command: Option<Vec<String>>,
    pub workload: WorkloadChoice,
    pub labels: BTreeMap<String, String>,
    pub runtime: RuntimeChoice,
    pub channel: ChannelChoice,
    pub restart: RestartPolicy,
    pub kernel: Option<KernelChoice>,
    /// How a disk image's operating system is set up; not at all without.
    pub cloud_init: Option<CloudInit>,
    /// As it was made; they may have changed since.
    pub limits: ResourceLimits,
    /// Whether it has a disk at /persist that outlives it, by its name.
    pub persist: bool,
    /// Whether it lives only as long as somebody holds its lease.
    pub lease: bool,
    pub stable_addresses: StableAddresses,
    /// What it begins from in place of its first boot.
    pub from: Option<Origin>,
}

/// A saved machine that the node holds, in memory or in its snapshots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    pub snapshot: SnapshotId,
    /// For people: the snapshot's name, or that of the VM that was forked.
    pub name: String,
}

/// Where a VM's root file system comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VmSource {
    /// An OCI image: a microVM with our kernel, our guest agent as its PID 1.
    Image(ImagePin),
    /// A disk with an operating system of its own: a full VM, booted by its
    /// firmware, in which the guest agent is a service or absent.
    Disk(DiskPin),
}

/// A disk image as it was when the VM was made. The VM gets a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskPin {
    /// As the creator wrote it.
    pub url: String,
    pub path: PathBuf,
    pub format: DiskFormat,
    /// What its content must be, where the creator said it.
    pub digest: Option<Digest>,
    /// `path` is the node's unpacked copy of what has this digest.
    pub cached: bool,
    /// What the guest sees of it.
    pub size: Bytes,
    /// What its system is for, where its partitions say so.
    pub architecture: Option<Architecture>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskFormat {
    Raw,
    /// Without a backing file: one could name any file of the host's.
    Qcow2,
}

/// An image as the creator named it, and which one that was then: another
/// image may have the name by the time that the VM starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImagePin {
    pub name: String,
    pub digest: Digest,
    /// Its root disk, shared by all its VMs.
    pub root_disk: PathBuf,
    pub run: RunDefaults,
}

/// What the image says of how to run programs in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunDefaults {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    pub working_dir: Option<String>,
    pub user: Option<String>,
}

/// Of a disk nothing is known.
static NO_DEFAULTS: RunDefaults = RunDefaults {
    entrypoint: Vec::new(),
    cmd: Vec::new(),
    env: Vec::new(),
    working_dir: None,
    user: None,
};

impl VmSpec {
    pub fn image(&self) -> Option<&ImagePin> {
        match &self.source {
            VmSource::Image(image) => Some(image),
            VmSource::Disk(_) => None,
        }
    }

    pub fn disk_image(&self) -> Option<&DiskPin> {
        match &self.source {
            VmSource::Image(_) => None,
            VmSource::Disk(disk) => Some(disk),
        }
    }

    /// Whether it has an operating system of its own, in which the guest agent
    /// is a service or absent.
    pub fn is_full(&self) -> bool {
        self.disk_image().is_some()
    }

    pub fn rules(&self) -> Rules {
        Rules {
            restart: self.restart,
            full: self.is_full(),
            cloud_init: self.cloud_init.is_some(),
            saved: self.from.is_some(),
        }
    }

    /// Whether programs in it lie at the same addresses each time, where its
    /// CPUs are emulated or not.
    pub fn has_stable_addresses(&self, emulated: bool) -> bool {
        match self.stable_addresses {
            StableAddresses::Auto => emulated && self.lease,
            StableAddresses::On => true,
            StableAddresses::Off => false,
        }
    }

    /// The image's name, or the disk image's URL.
    pub fn source_name(&self) -> &str {
        match &self.source {
            VmSource::Image(image) => &image.name,
            VmSource::Disk(disk) => &disk.url,
        }
    }

    pub fn run_defaults(&self) -> &RunDefaults {
        self.image().map_or(&NO_DEFAULTS, |image| &image.run)
    }

    /// What runs as the VM's workload; empty where nothing does.
    pub fn workload_argv(&self) -> Vec<String> {
        match self.workload {
            WorkloadChoice::None => Vec::new(),
            WorkloadChoice::Image => self.argv_of(self.command.as_deref()),
        }
    }

    /// The image's entrypoint, and `command` or else the image's CMD.
    pub fn argv_of(&self, command: Option<&[String]>) -> Vec<String> {
        let run = self.run_defaults();
        let command = command.unwrap_or(&run.cmd);
        run.entrypoint.iter().chain(command).cloned().collect()
    }

    /// The environment of a program in the VM: the image's, then the VM's,
    /// then `more`; of a name that comes twice the last value counts.
    pub fn environment(&self, more: &[String]) -> Vec<String> {
        let own = self.env.iter().map(|(name, value)| format!("{name}={value}"));
        let all: Vec<String> = self
            .run_defaults()
            .env
            .iter()
            .cloned()
            .chain(own)
            .chain(more.iter().cloned())
            .collect();
        let mut merged: Vec<String> = Vec::with_capacity(all.len());
        for entry in all {
            let name = entry.split('=').next().unwrap_or_default();
            match merged.iter_mut().find(|e| e.split('=').next() == Some(name)) {
                Some(slot) => *slot = entry,
                None => merged.push(entry),
            }
        }
        merged
    }
}

/// What a VM boots in place of the node's kernel, or says to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelChoice {
    /// A kernel of the user's own, with all that it needs built in.
    pub path: Option<PathBuf>,
    /// What comes last on the kernel's command line.
    pub args: Option<String>,
}

/// What a VM's network card is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Network {
    /// It has none.
    None,
    /// The node's own network, or the VMM's where the node has no bridges.
    AllowAll,
    /// A network that stays as long as there is a VM on it.
    Named(NetworkName),
    /// One that is not the node's: it knows neither its addresses nor its rules.
    Foreign(ForeignNetwork),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkloadChoice {
    /// The image's command runs once the VM is up.
    Image,
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuntimeChoice {
    Auto,
    Qemu,
    Firecracker,
    Krun,
    Libvirt,
    Sim,
}

/// Whether a guest's programs are loaded without address randomisation. An
/// emulator then translates a library once, and not anew for each process; who
/// attacks a program in the guest knows where its code lies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum StableAddresses {
    /// In a VM of a lease whose CPUs are emulated: it runs one command, shortly.
    #[default]
    Auto,
    On,
    Off,
}

/// How the node talks to the guest agent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ChannelChoice {
    /// What the runtime does best.
    #[default]
    Auto,
    Serial,
    Vsock,
}

/// Whether a VM, or its workload, that ended by itself is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    No,
    OnFailure,
    Always,
}

/// What somebody wants of a VM. Each change has a generation of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    pub power: Power,
    pub generation: Generation,
    /// A machine launched for an earlier generation than this one is replaced:
    /// that is what a restart is.
    pub run: Generation,
    /// How a machine that has to go is ended.
    pub stop: StopKind,
    /// What a deletion leaves.
    pub removal: Removal,
    /// Of one that runs: it stands still as long as this is there.
    pub paused: Option<Pause>,
    /// Since nobody used it: whoever needs it wakes it.
    pub rest: Option<Rest>,
    /// What becomes of it when nobody uses it. It may change, without a new
    /// generation: by itself it changes nothing.
    pub on_idle: Option<OnIdle>,
}

/// Who wanted a VM to stand still.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pause {
    pub by: String,
    /// Since the epoch, by the host's clock.
    pub since: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Power {
    Running,
    Stopped,
    Deleted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopKind {
    /// The guest is asked, and gets so long before its machine is ended.
    Graceful { grace: Duration },
    /// The machine is ended at once.
    Force,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removal {
    /// The VM's writable disk is set aside instead of removed.
    pub keep_disk: bool,
    /// The disk at /persist goes too.
    pub purge_persist: bool,
}

impl Desired {
    /// Of a VM that was just accepted.
    pub fn first(start: bool, stop: StopKind) -> Self {
        Self {
            power: if start { Power::Running } else { Power::Stopped },
            generation: Generation::FIRST,
            run: Generation::FIRST,
            stop,
            removal: Removal::default(),
            paused: None,
            rest: None,
            on_idle: None,
        }
    }

    /// Whether its machine's CPUs are to stand still.
    pub fn stands_still(&self) -> bool {
        self.paused.is_some() || self.rest.is_some_and(|rest| rest.action == IdleAction::Pause)
    }
}
