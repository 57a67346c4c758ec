//! The one place where stored rows and domain types meet.

use std::time::Duration;

use inn_domain::network::AddressWish;
use inn_domain::{
    Backoff, ChannelChoice, CloudInit, Desired, DiskFormat, DiskPin, Down, DownReason, EndKind,
    IdleAction, ImagePin, IoRates, KernelChoice, MachineView, Motion, Observed, OnIdle, Origin,
    Pause, Power, Removal, ResourceLimits, Rest, RestartPolicy, RunDefaults, RuntimeChoice,
    StableAddresses, StopKind, TtlAction, VmSource, VmSpec, WorkloadChoice,
};
use inn_units::Generation;

use crate::records::{
    BackoffRecord, CloudInitRecord, CloudInitState, EndRecord, FailureRecord, MachineRecord,
    ReceiptRecord, TtlRecord, WorkloadRecord,
};
use crate::row::{
    StoredBackoff, StoredChannel, StoredCloudInit, StoredDesired, StoredDiskFormat, StoredDown,
    StoredDownReason, StoredEnd, StoredEndKind, StoredFailure, StoredIdentity, StoredIdleAction,
    StoredKernel, StoredLimits, StoredMachine, StoredMotion, StoredOnIdle, StoredOrigin,
    StoredPause, StoredPower, StoredReceipt, StoredRest, StoredRestart, StoredRun, StoredRuntime,
    StoredSetUp, StoredSetUpState, StoredSource, StoredSpec, StoredStableAddresses, StoredTtl,
    StoredTtlAction, StoredWorkload,
};

/// Variants of the same names on both sides.
macro_rules! same_variants {
    ($domain:ident <=> $stored:ident { $($variant:ident),* $(,)? }) => {
        impl From<$domain> for $stored {
            fn from(value: $domain) -> Self {
                match value { $($domain::$variant => Self::$variant,)* }
            }
        }
        impl From<$stored> for $domain {
            fn from(value: $stored) -> Self {
                match value { $($stored::$variant => Self::$variant,)* }
            }
        }
    };
}

mod boots;
mod guest;

same_variants!(RuntimeChoice <=> StoredRuntime { Auto, Qemu, Firecracker, Krun, Libvirt, Sim });
same_variants!(ChannelChoice <=> StoredChannel { Auto, Serial, Vsock });
same_variants!(DiskFormat <=> StoredDiskFormat { Raw, Qcow2 });
same_variants!(RestartPolicy <=> StoredRestart { No, OnFailure, Always });
same_variants!(Power <=> StoredPower { Running, Stopped, Deleted });
same_variants!(EndKind <=> StoredEndKind { Graceful, Forced, ByItself });
same_variants!(Motion <=> StoredMotion { Runs, Paused, Behind });
same_variants!(IdleAction <=> StoredIdleAction { Pause, Snapshot, Stop });
same_variants!(StableAddresses <=> StoredStableAddresses { Auto, On, Off });
same_variants!(TtlAction <=> StoredTtlAction { Stop, Delete });
same_variants!(DownReason <=> StoredDownReason {
    PoweredOff, Reset, Crashed, StartFailed, NotWoken
});

impl From<&VmSpec> for StoredSpec {
    fn from(spec: &VmSpec) -> Self {
        let spec = spec.clone();
        Self {
            name: spec.name,
            source: spec.source.into(),
            language: spec.language,
            vcpus: spec.vcpus,
            memory: spec.memory,
            disk: spec.disk,
            network: spec.network.into(),
            ipv4: spec.addresses.ipv4,
            ipv6: spec.addresses.ipv6,
            policy: (&spec.policy).into(),
            env: spec.env,
            command: spec.command,
            runs_workload: spec.workload == WorkloadChoice::Image,
            labels: spec.labels,
            runtime: spec.runtime.into(),
            channel: spec.channel.into(),
            restart: spec.restart.into(),
            kernel: spec.kernel.map(|k| StoredKernel { path: k.path, args: k.args }),
            cloud_init: spec.cloud_init.map(Into::into),
            limits: spec.limits.into(),
            persist: spec.persist,
            lease: spec.lease,
            stable_addresses: spec.stable_addresses.into(),
            from: spec.from.map(|Origin { snapshot, name }| StoredOrigin { snapshot, name }),
        }
    }
}

impl StoredSpec {
    pub(crate) fn into_spec(self) -> Result<VmSpec, String> {
        let row = self;
        Ok(VmSpec {
            name: row.name,
            source: row.source.into(),
            language: row.language,
            vcpus: row.vcpus,
            memory: row.memory,
            disk: row.disk,
            network: row.network.into(),
            addresses: AddressWish { ipv4: row.ipv4, ipv6: row.ipv6 },
            policy: row.policy.into_policy()?,
            env: row.env,
            command: row.command,
            workload: if row.runs_workload { WorkloadChoice::Image } else { WorkloadChoice::None },
            labels: row.labels,
            runtime: row.runtime.into(),
            channel: row.channel.into(),
            restart: row.restart.into(),
            kernel: row.kernel.map(|k| KernelChoice { path: k.path, args: k.args }),
            cloud_init: row.cloud_init.map(Into::into),
            limits: row.limits.into(),
            persist: row.persist,
            lease: row.lease,
            stable_addresses: row.stable_addresses.into(),
            from: row.from.map(|StoredOrigin { snapshot, name }| Origin { snapshot, name }),
        })
    }
}

impl From<CloudInit> for StoredCloudInit {
    fn from(wanted: CloudInit) -> Self {
        let CloudInit { user, password_hash, ssh_keys, packages, user_data } = wanted;
        Self { user, password_hash, ssh_keys, packages, user_data }
    }
}

impl From<StoredCloudInit> for CloudInit {
    fn from(row: StoredCloudInit) -> Self {
        let StoredCloudInit { user, password_hash, ssh_keys, packages, user_data } = row;
        Self { user, password_hash, ssh_keys, packages, user_data }
    }
}

impl From<ResourceLimits> for StoredLimits {
    fn from(limits: ResourceLimits) -> Self {
        let ResourceLimits { cpu_percent, cpu_weight, memory, pids, io } = limits;
        Self {
            cpu_percent,
            cpu_weight,
            memory,
            pids,
            io_read: io.read,
            io_write: io.write,
            io_read_ops: io.read_ops,
            io_write_ops: io.write_ops,
        }
    }
}

impl From<StoredLimits> for ResourceLimits {
    fn from(row: StoredLimits) -> Self {
        let StoredLimits { cpu_percent, cpu_weight, memory, pids, .. } = row;
        let io = IoRates {
            read: row.io_read,
            write: row.io_write,
            read_ops: row.io_read_ops,
            write_ops: row.io_write_ops,
        };
        Self { cpu_percent, cpu_weight, memory, pids, io }
    }
}

impl From<VmSource> for StoredSource {
    fn from(source: VmSource) -> Self {
        match source {
            VmSource::Image(image) => Self::Image {
                image_name: image.name,
                image_digest: image.digest,
                image_root_disk: image.root_disk,
                image_run: image.run.into(),
            },
            VmSource::Disk(disk) => Self::Disk {
                disk_url: disk.url,
                disk_path: disk.path,
                disk_format: disk.format.into(),
                disk_digest: disk.digest,
                disk_cached: disk.cached,
                disk_size: disk.size,
                disk_architecture: disk.architecture,
            },
        }
    }
}

impl From<StoredSource> for VmSource {
    fn from(row: StoredSource) -> Self {
        match row {
            StoredSource::Image { image_name, image_digest, image_root_disk, image_run } => {
                Self::Image(ImagePin {
                    name: image_name,
                    digest: image_digest,
                    root_disk: image_root_disk,
                    run: image_run.into(),
                })
            }
            StoredSource::Disk {
                disk_url,
                disk_path,
                disk_format,
                disk_digest,
                disk_cached,
                disk_size,
                disk_architecture,
            } => Self::Disk(DiskPin {
                url: disk_url,
                path: disk_path,
                format: disk_format.into(),
                digest: disk_digest,
                cached: disk_cached,
                size: disk_size,
                architecture: disk_architecture,
            }),
        }
    }
}

impl From<RunDefaults> for StoredRun {
    fn from(run: RunDefaults) -> Self {
        let RunDefaults { entrypoint, cmd, env, working_dir, user } = run;
        Self { entrypoint, cmd, env, working_dir, user }
    }
}

impl From<StoredRun> for RunDefaults {
    fn from(row: StoredRun) -> Self {
        let StoredRun { entrypoint, cmd, env, working_dir, user } = row;
        Self { entrypoint, cmd, env, working_dir, user }
    }
}

impl From<&Desired> for StoredDesired {
    fn from(desired: &Desired) -> Self {
        Self {
            power: desired.power.into(),
            run: desired.run,
            grace_ms: match desired.stop {
                StopKind::Graceful { grace } => Some(millis(grace)),
                StopKind::Force => None,
            },
            keep_disk: desired.removal.keep_disk,
            purge_persist: desired.removal.purge_persist,
            paused: desired
                .paused
                .as_ref()
                .map(|pause| StoredPause { by: pause.by.clone(), since_ms: millis(pause.since) }),
            rest: desired.rest.map(|Rest { action, since }| StoredRest {
                action: action.into(),
                since_ms: millis(since),
            }),
            on_idle: desired.on_idle.map(|OnIdle { action, after }| StoredOnIdle {
                action: action.into(),
                after_ms: millis(after),
            }),
        }
    }
}

impl StoredDesired {
    pub(crate) fn into_desired(self, generation: Generation) -> Desired {
        Desired {
            power: self.power.into(),
            generation,
            run: self.run,
            stop: match self.grace_ms {
                Some(ms) => StopKind::Graceful { grace: Duration::from_millis(ms) },
                None => StopKind::Force,
            },
            removal: Removal { keep_disk: self.keep_disk, purge_persist: self.purge_persist },
            paused: self.paused.map(|StoredPause { by, since_ms }| Pause {
                by,
                since: Duration::from_millis(since_ms),
            }),
            rest: self.rest.map(|StoredRest { action, since_ms }| Rest {
                action: action.into(),
                since: Duration::from_millis(since_ms),
            }),
            on_idle: self.on_idle.map(|StoredOnIdle { action, after_ms }| OnIdle {
                action: action.into(),
                after: Duration::from_millis(after_ms),
            }),
        }
    }
}

same_variants!(CloudInitState <=> StoredSetUpState { Waiting, Done, Failed });

impl From<&CloudInitRecord> for StoredSetUp {
    fn from(record: &CloudInitRecord) -> Self {
        let CloudInitRecord { state, stage, errors, output } = record.clone();
        Self { state: state.into(), stage, errors, output }
    }
}

impl From<StoredSetUp> for CloudInitRecord {
    fn from(row: StoredSetUp) -> Self {
        let StoredSetUp { state, stage, errors, output } = row;
        Self { state: state.into(), stage, errors, output }
    }
}

/// A machine, how to find it again, and how cloud-init stands in it.
pub(crate) type MachineParts = (MachineView, Option<MachineRecord>, Option<CloudInitRecord>);

impl StoredMachine {
    pub(crate) fn new(
        view: MachineView,
        record: Option<&MachineRecord>,
        cloud_init: Option<&CloudInitRecord>,
    ) -> Self {
        let identity = record.map(|record| StoredIdentity {
            runtime: record.runtime.clone(),
            pid: record.pid,
            start_ticks: record.start_ticks,
            host_boot_id: record.host_boot_id.clone(),
            kvm: record.kvm,
            kernel: record.kernel.clone(),
            architecture: record.foreign_architecture,
        });
        let MachineView { run, guest, full, set_up, motion, unconfirmed: woken } = view;
        let cloud_init = cloud_init.map(Into::into);
        let (guest, motion) = (guest.into(), motion.into());
        Self { identity, run, guest, full, set_up, motion, woken, cloud_init }
    }

    pub(crate) fn into_parts(self) -> MachineParts {
        let record = self.identity.map(|identity| MachineRecord {
            runtime: identity.runtime,
            pid: identity.pid,
            start_ticks: identity.start_ticks,
            host_boot_id: identity.host_boot_id,
            kvm: identity.kvm,
            kernel: identity.kernel,
            foreign_architecture: identity.architecture,
        });
        let Self { run, guest, full, set_up, motion, woken, cloud_init, .. } = self;
        let (guest, motion) = (guest.into(), motion.into());
        let view = MachineView { run, guest, full, set_up, motion, unconfirmed: woken };
        (view, record, cloud_init.map(Into::into))
    }
}

impl From<&TtlRecord> for StoredTtl {
    fn from(ttl: &TtlRecord) -> Self {
        let TtlRecord { ends_at, granted, action } = *ttl;
        Self { ends_at, granted_ms: millis(granted), action: action.into() }
    }
}

impl From<StoredTtl> for TtlRecord {
    fn from(row: StoredTtl) -> Self {
        let StoredTtl { ends_at, granted_ms, action } = row;
        Self { ends_at, granted: Duration::from_millis(granted_ms), action: action.into() }
    }
}

impl From<Down> for StoredDown {
    fn from(down: Down) -> Self {
        Self { generation: down.generation, reason: down.reason.into() }
    }
}

impl From<StoredDown> for Down {
    fn from(row: StoredDown) -> Self {
        Self { generation: row.generation, reason: row.reason.into() }
    }
}

pub(crate) fn observed(
    disks: bool,
    machine: Option<MachineView>,
    down: Option<StoredDown>,
    up_run: Option<Generation>,
) -> Observed {
    Observed {
        disks,
        machine,
        // Beside what was saved, and not here.
        asleep: None,
        down: down.map(Into::into),
        up_run,
        backoff: Backoff::default(),
        removed: false,
        forgotten: false,
    }
}

impl From<BackoffRecord> for StoredBackoff {
    fn from(record: BackoffRecord) -> Self {
        let BackoffRecord { failures, not_before } = record;
        Self { failures, not_before }
    }
}

impl From<StoredBackoff> for BackoffRecord {
    fn from(row: StoredBackoff) -> Self {
        let StoredBackoff { failures, not_before } = row;
        Self { failures, not_before }
    }
}

impl From<&FailureRecord> for StoredFailure {
    fn from(f: &FailureRecord) -> Self {
        let FailureRecord { step, cause, causes, next, command, console, at } = f.clone();
        Self { step, cause, causes, next, command, console, at }
    }
}

impl From<StoredFailure> for FailureRecord {
    fn from(row: StoredFailure) -> Self {
        let StoredFailure { step, cause, causes, next, command, console, at } = row;
        Self { step, cause, causes, next, command, console, at }
    }
}

impl From<&WorkloadRecord> for StoredWorkload {
    fn from(w: &WorkloadRecord) -> Self {
        let WorkloadRecord { command, running, exit_code, reason, log_base, restarts } = w.clone();
        Self { command, running, exit_code, reason, log_base, restarts }
    }
}

impl From<StoredWorkload> for WorkloadRecord {
    fn from(row: StoredWorkload) -> Self {
        let StoredWorkload { command, running, exit_code, reason, log_base, restarts } = row;
        Self { command, running, exit_code, reason, log_base, restarts }
    }
}

impl From<&EndRecord> for StoredEnd {
    fn from(end: &EndRecord) -> Self {
        let EndRecord { how, reason, took, at } = end.clone();
        Self { how: how.into(), reason, took_ms: took.map(millis), at }
    }
}

impl From<StoredEnd> for EndRecord {
    fn from(row: StoredEnd) -> Self {
        let StoredEnd { how, reason, took_ms, at } = row;
        Self { how: how.into(), reason, took: took_ms.map(Duration::from_millis), at }
    }
}

impl From<&ReceiptRecord> for StoredReceipt {
    fn from(receipt: &ReceiptRecord) -> Self {
        let ReceiptRecord { statement, signature, key } = receipt.clone();
        Self { statement, signature, key }
    }
}

impl From<StoredReceipt> for ReceiptRecord {
    fn from(row: StoredReceipt) -> Self {
        let StoredReceipt { statement, signature, key } = row;
        Self { statement, signature, key }
    }
}

/// Durations on disk are whole milliseconds.
pub(crate) fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}
