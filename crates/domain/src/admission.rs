//! Whether a request is accepted: pure, with a named reason where not.

use inn_units::{Architecture, Bytes, ForeignNetwork, Generation, Vcpus, VmName};

use crate::cloud_init::{CloudInitDeniedReason, admit_cloud_init};
use crate::idle::{IdleAction, OnIdle, Rest};
use crate::{
    ChannelChoice, Desired, LimitsDeniedReason, Network, Observed, Pause, Power, Removal,
    RestartPolicy, RuntimeChoice, StopKind, VmSpec, WorkloadChoice, admit_limits,
};

/// Below this a distribution's kernel does not get to its init.
pub const MIN_MEMORY: Bytes = Bytes::mib(64);

/// The smallest writable disk: an ext4 with a journal of 4 MiB and room.
pub const MIN_DISK: Bytes = Bytes::mib(16);

/// virtio spec 1.2, 5.2: what a virtio disk's size is a multiple of.
const SECTOR: u64 = 512;

/// What this node can give to one VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub min_memory: Bytes,
    /// All of the node's memory.
    pub max_memory: Bytes,
    pub max_vcpus: Vcpus,
    pub max_disk: Bytes,
    /// Whether simulated machines are allowed.
    pub sim: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CreateDeniedReason {
    #[error("{given} of memory is too small to boot; give it at least {least}")]
    MemoryTooSmall { given: Bytes, least: Bytes },
    #[error("{given} of memory is more than this node has ({most}); give it less")]
    MemoryTooLarge { given: Bytes, most: Bytes },
    #[error("{given} vCPUs are more than a VM can have here ({most})")]
    TooManyVcpus { given: Vcpus, most: Vcpus },
    #[error("a disk of {given} is too small for a file system; give it at least {least}")]
    DiskTooSmall { given: Bytes, least: Bytes },
    #[error("a disk of {given} is too large; give it at most {most}")]
    DiskTooLarge { given: Bytes, most: Bytes },
    #[error(
        "the VM name {name} is in use; choose another one, delete that VM, or ask for it to be replaced (--replace)"
    )]
    NameInUse { name: VmName },
    #[error("simulated machines are off on this node; set sim.enabled to allow them")]
    SimOff,
    #[error("{what} `{name}` {why}")]
    Malformed { what: &'static str, name: String, why: &'static str },
    #[error("a leased VM cannot have the restart policy {policy:?}; its end is the lease's end")]
    LeasedRestarts { policy: RestartPolicy },
    #[error("a command is given and the workload is none; leave one of them out")]
    CommandWithoutWorkload,
    #[error(
        "a disk of {given} cannot hold the disk image, which is {least}; give it at least that"
    )]
    DiskBelowImage { given: Bytes, least: Bytes },
    #[error("a disk image brings a kernel of its own; leave the kernel's path and arguments out")]
    KernelOfDisk,
    #[error(
        "the runtime {runtime} boots no disk images; choose another one, or make the VM from an image"
    )]
    NoFirmware { runtime: &'static str },
    #[error(
        "the runtime {runtime} has guests of {guests} on this node, for which there is neither a kernel nor a guest agent; make the VM from a disk image, or choose another runtime"
    )]
    NoKernels { runtime: &'static str, guests: Architecture },
    #[error(
        "the runtime {runtime} has guests of {guests} on this node, for which there is no guest agent to run a command; leave the command out, or choose another runtime"
    )]
    NoCommands { runtime: &'static str, guests: Architecture },
    #[error(
        "the disk image is of a system for {disk}, and the runtime {runtime} has guests of {guests} on this node; choose another image, or another runtime (runtimes.libvirt.architecture says which guests libvirt has)"
    )]
    OtherArchitecture { runtime: &'static str, guests: Architecture, disk: Architecture },
    #[error(transparent)]
    Limits(#[from] LimitsDeniedReason),
    #[error(transparent)]
    CloudInit(#[from] CloudInitDeniedReason),
    #[error("the runtime {runtime} has no {channel} channel to its guests; leave the channel out")]
    NoChannel { runtime: &'static str, channel: &'static str },
    #[error(
        "the runtime {runtime} has no network of its own, and this node has no bridges; choose another one, or leave the network out (--network none)"
    )]
    NoUserNetwork { runtime: &'static str },
    #[error(
        "the runtime {runtime} has no way to {network}; choose libvirt (--runtime libvirt), or put the VM on a network of the node's"
    )]
    NoForeignNetwork { runtime: &'static str, network: ForeignNetwork },
}

/// What of a runtime's abilities decides whether it takes a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuntimeOffer {
    pub name: &'static str,
    /// What its guests' CPUs are.
    pub architecture: Architecture,
    pub firmware: bool,
    pub serial: bool,
    pub vsock: bool,
    /// Whether it has a network of its own, where the node has no bridges.
    pub user_network: bool,
    /// Whether it puts cards on networks that are not the node's.
    pub foreign_networks: bool,
}

/// Whether the runtime that a VM would have can do what is asked of it.
/// `user_network` is whether a card would be on the runtime's own network.
pub fn admit_runtime(
    spec: &VmSpec,
    offer: RuntimeOffer,
    user_network: bool,
) -> Result<(), CreateDeniedReason> {
    use CreateDeniedReason as Denied;
    let runtime = offer.name;
    if spec.is_full() && !offer.firmware {
        return Err(Denied::NoFirmware { runtime });
    }
    admit_architecture(spec, offer)?;
    match &spec.network {
        Network::Foreign(network) if !offer.foreign_networks => {
            return Err(Denied::NoForeignNetwork { runtime, network: network.clone() });
        }
        Network::AllowAll | Network::Named(_) if user_network && !offer.user_network => {
            return Err(Denied::NoUserNetwork { runtime });
        }
        _ => {}
    }
    match spec.channel {
        ChannelChoice::Serial if !offer.serial => {
            Err(Denied::NoChannel { runtime, channel: "serial" })
        }
        ChannelChoice::Vsock if !offer.vsock => {
            Err(Denied::NoChannel { runtime, channel: "vsock" })
        }
        _ => Ok(()),
    }
}

/// What boots by its firmware alone is an image's affair where its system's
/// architecture is not known.
fn admit_architecture(spec: &VmSpec, offer: RuntimeOffer) -> Result<(), CreateDeniedReason> {
    use CreateDeniedReason as Denied;
    let RuntimeOffer { name: runtime, architecture: guests, .. } = offer;
    let Some(disk) = spec.disk_image() else {
        return match guests.has_our_agent() {
            true => Ok(()),
            false => Err(Denied::NoKernels { runtime, guests }),
        };
    };
    if let Some(disk) = disk.architecture.filter(|disk| *disk != guests) {
        return Err(Denied::OtherArchitecture { runtime, guests, disk });
    }
    if !guests.has_our_agent() && spec.command.is_some() {
        return Err(Denied::NoCommands { runtime, guests });
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GrowDeniedReason {
    #[error("its disk is {now}, and a disk never shrinks; ask for that or more")]
    Shrinks { now: Bytes },
    #[error("a disk of {given} is too large; ask for at most {most}")]
    TooLarge { given: Bytes, most: Bytes },
    #[error("a disk is made of whole sectors; {given} is no multiple of 512 bytes")]
    NoWholeSectors { given: Bytes },
    #[error("it is being deleted")]
    BeingDeleted,
}

/// Whether a VM's disk, which is `now` large, may become as large as `given`.
pub fn admit_growth(
    desired: &Desired,
    limits: &Limits,
    now: Bytes,
    given: Bytes,
) -> Result<(), GrowDeniedReason> {
    use GrowDeniedReason as Denied;
    if desired.power == Power::Deleted {
        Err(Denied::BeingDeleted)
    } else if given < now {
        Err(Denied::Shrinks { now })
    } else if given > limits.max_disk {
        Err(Denied::TooLarge { given, most: limits.max_disk })
    } else if !given.get().is_multiple_of(SECTOR) {
        Err(Denied::NoWholeSectors { given })
    } else {
        Ok(())
    }
}

/// Whether a VM may be made so.
pub fn admit_create(
    spec: &VmSpec,
    limits: &Limits,
    name_taken: bool,
) -> Result<(), CreateDeniedReason> {
    use CreateDeniedReason as Denied;
    let least = limits.min_memory.max(MIN_MEMORY);
    if spec.memory < least {
        return Err(Denied::MemoryTooSmall { given: spec.memory, least });
    }
    if spec.memory > limits.max_memory {
        return Err(Denied::MemoryTooLarge { given: spec.memory, most: limits.max_memory });
    }
    if spec.vcpus > limits.max_vcpus {
        return Err(Denied::TooManyVcpus { given: spec.vcpus, most: limits.max_vcpus });
    }
    if spec.disk < MIN_DISK {
        return Err(Denied::DiskTooSmall { given: spec.disk, least: MIN_DISK });
    }
    if spec.disk > limits.max_disk {
        return Err(Denied::DiskTooLarge { given: spec.disk, most: limits.max_disk });
    }
    if let Some(image) = spec.disk_image() {
        if spec.disk < image.size {
            return Err(Denied::DiskBelowImage { given: spec.disk, least: image.size });
        }
        if spec.kernel.is_some() {
            return Err(Denied::KernelOfDisk);
        }
    }
    admit_limits(&spec.limits, spec.memory, spec.vcpus)?;
    admit_cloud_init(spec)?;
    if spec.runtime == RuntimeChoice::Sim && !limits.sim {
        return Err(Denied::SimOff);
    }
    if spec.lease && spec.restart != RestartPolicy::No {
        return Err(Denied::LeasedRestarts { policy: spec.restart });
    }
    if spec.workload == WorkloadChoice::None && spec.command.is_some() {
        return Err(Denied::CommandWithoutWorkload);
    }
    if let Some(name) = spec.env.keys().find(|k| k.is_empty() || k.contains(['=', '\0'])) {
        let why = "must not be empty nor hold `=` or a zero byte";
        return Err(Denied::Malformed { what: "the variable", name: name.clone(), why });
    }
    let strings = spec.env.values().chain(spec.command.iter().flatten());
    if let Some(text) = strings.into_iter().find(|text| text.contains('\0')) {
        let name = text.replace('\0', "\u{fffd}");
        return Err(Denied::Malformed { what: "the text", name, why: "must not hold a zero byte" });
    }
    if let Some(path) = spec.kernel.as_ref().and_then(|kernel| kernel.path.as_ref())
        && !path.is_absolute()
    {
        let name = path.display().to_string();
        return Err(Denied::Malformed {
            what: "the kernel",
            name,
            why: "must be an absolute path",
        });
    }
    if name_taken {
        return Err(Denied::NameInUse { name: spec.name.clone() });
    }
    Ok(())
}

/// What somebody asks of a VM that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    Start,
    Stop(StopKind),
    Restart(StopKind),
    Delete(StopKind, Removal),
    Pause(Pause),
    Resume,
    /// Nobody has used it for long enough.
    Rest(Rest, StopKind),
    /// Somebody needs it.
    Wake,
    /// What becomes of it when nobody uses it.
    SetOnIdle(Option<OnIdle>),
}

/// What a request does to what is desired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It asks for what is desired already: that is a success.
    Nothing,
    To(Desired),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChangeDeniedReason {
    #[error("it is being deleted")]
    BeingDeleted,
    #[error("it does not run; start it first")]
    NotRunning,
}

pub fn decide(
    desired: &Desired,
    observed: &Observed,
    request: Request,
) -> Result<Change, ChangeDeniedReason> {
    let next = desired.generation.next();
    let to = |power, run: Generation, stop, removal| {
        let (paused, rest, on_idle) = (None, None, desired.on_idle);
        let generation = next;
        Ok(Change::To(Desired { power, generation, run, stop, removal, paused, rest, on_idle }))
    };
    let same_down = observed.down.is_some_and(|down| down.generation == desired.generation);
    let stands_still = desired.stands_still();
    // A machine that is still there from before a stop goes on: the stop has
    // not been carried out. So does one that was saved.
    let there = observed.machine.is_some() || observed.asleep == Some(desired.run);
    let goes_on = if there { desired.run } else { next };
    match (desired.power, request) {
        (Power::Deleted, Request::Delete(StopKind::Force, removal))
            if desired.stop != StopKind::Force =>
        {
            to(Power::Deleted, desired.run, StopKind::Force, removal)
        }
        (Power::Deleted, Request::Delete(..)) => Ok(Change::Nothing),
        (Power::Deleted, _) => Err(ChangeDeniedReason::BeingDeleted),
        (_, Request::SetOnIdle(on_idle)) if desired.on_idle == on_idle => Ok(Change::Nothing),
        (_, Request::SetOnIdle(on_idle)) => Ok(Change::To(Desired { on_idle, ..desired.clone() })),
        (Power::Running, Request::Rest(rest, stop)) if !same_down && !stands_still => {
            let rests = Desired { generation: next, rest: Some(rest), ..desired.clone() };
            Ok(Change::To(match rest.action {
                IdleAction::Pause => rests,
                IdleAction::Snapshot | IdleAction::Stop => {
                    Desired { power: Power::Stopped, stop, ..rests }
                }
            }))
        }
        (_, Request::Rest(..)) => Ok(Change::Nothing),
        (_, Request::Wake) if desired.rest.is_none() => Ok(Change::Nothing),
        // Up, or on its way: the machine it has or will have is what is asked for.
        (Power::Running, Request::Start | Request::Resume) if !same_down && !stands_still => {
            Ok(Change::Nothing)
        }
        (Power::Running, Request::Start | Request::Resume | Request::Wake) if !same_down => {
            to(Power::Running, desired.run, desired.stop, desired.removal)
        }
        (Power::Running, Request::Pause(_)) if !same_down && desired.paused.is_some() => {
            Ok(Change::Nothing)
        }
        (Power::Running, Request::Pause(pause)) if !same_down => {
            let (paused, rest) = (Some(pause), None);
            Ok(Change::To(Desired { generation: next, paused, rest, ..desired.clone() }))
        }
        (_, Request::Pause(_) | Request::Resume) => Err(ChangeDeniedReason::NotRunning),
        (_, Request::Start | Request::Wake) => {
            to(Power::Running, goes_on, desired.stop, desired.removal)
        }
        (Power::Stopped, Request::Stop(StopKind::Force)) if desired.stop != StopKind::Force => {
            to(Power::Stopped, desired.run, StopKind::Force, desired.removal)
        }
        (Power::Stopped, Request::Stop(_)) if desired.rest.is_none() => Ok(Change::Nothing),
        (Power::Running | Power::Stopped, Request::Stop(stop)) => {
            to(Power::Stopped, desired.run, stop, desired.removal)
        }
        (_, Request::Restart(stop)) => to(Power::Running, next, stop, desired.removal),
        (_, Request::Delete(stop, removal)) => to(Power::Deleted, desired.run, stop, removal),
    }
}

#[cfg(test)]
#[path = "admission_tests.rs"]
pub(crate) mod tests;
