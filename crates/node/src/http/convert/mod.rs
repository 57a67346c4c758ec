//! The one place where the API's types and the node's meet.

/// Variants of the same names on both sides, of what a guest tells.
macro_rules! same_names {
    ($out:ident, $name:ident { $($variant:ident),* $(,)? }) => {
        fn $out(value: crate::guest::$name) -> inn_api::$name {
            match value { $(crate::guest::$name::$variant => inn_api::$name::$variant,)* }
        }
    };
}

pub(super) mod event;
pub(super) mod exec;
pub(super) mod files;
pub(super) mod guest;
pub(in crate::http) mod limits;
pub(in crate::http) mod network;
pub(super) mod node_life;
pub(in crate::http) mod snapshot;
pub(super) mod stats;

use std::time::Duration;

use inn_api as api;
use inn_domain::network::{AddressWish, Policy};
use inn_domain::{
    ChannelChoice, CloudInit, Desired, DiskFormat, EndKind, IdleAction, KernelChoice, OnIdle,
    Pause, Power, Removal, Rest, RestartPolicy, RuntimeChoice, StableAddresses, StopKind,
    TtlAction, VmPhase, VmSource, VmSpec, WorkloadChoice,
};
use inn_image::{ImageRecord, LayerProgress, LayerState};
use inn_store::{CloudInitRecord, CloudInitState, EndRecord, FailureRecord, WorkloadRecord};
use inn_units::{Bytes, VmName};
use jiff::Timestamp;
use tokio::time::Instant;

use crate::config::VmDefaults;
use crate::guest::{GuestError, RefusedKind};
use crate::node::Node;
use crate::operations::{OperationView, Outcome};
use crate::reconcile::{OrphanKind, Reaped};
use crate::vm::{Link, VmHandle, VmView, woken_by};

/// Variants of the same names on both sides, from the API inwards and back.
macro_rules! same_variants {
    ($into:ident, $out:ident, $api:ident, $domain:ident { $($variant:ident),* $(,)? }) => {
        fn $into(value: api::$api) -> $domain {
            match value { $(api::$api::$variant => $domain::$variant,)* }
        }
        fn $out(value: $domain) -> api::$api {
            match value { $($domain::$variant => api::$api::$variant,)* }
        }
    };
}

pub(super) mod why;

same_variants!(
    runtime_in,
    runtime,
    Runtime,
    RuntimeChoice { Auto, Qemu, Firecracker, Krun, Libvirt, Sim }
);
same_variants!(channel_in, channel, Channel, ChannelChoice { Auto, Serial, Vsock });
same_variants!(_disk_format_in, disk_format, DiskFormat, DiskFormat { Raw, Qcow2 });
same_variants!(restart_in, restart, RestartPolicy, RestartPolicy { No, OnFailure, Always });
same_variants!(
    stable_addresses_in,
    stable_addresses,
    StableAddresses,
    StableAddresses { Auto, On, Off }
);
same_variants!(idle_action_in, idle_action, IdleAction, IdleAction { Pause, Snapshot, Stop });
same_variants!(ttl_action_in, ttl_action, TtlAction, TtlAction { Stop, Delete });
same_variants!(_desired_in, desired_power, Desired, Power { Running, Stopped, Deleted });
same_variants!(_end_kind_in, end_kind, EndKind, EndKind { Graceful, Forced, ByItself });
same_variants!(
    phase_in,
    phase,
    Phase,
    VmPhase { Pending, Preparing, Starting, Running, Paused, Stopping, Stopped, Failed, Deleting }
);

/// The least that a full VM gets where nothing is said: with less, a
/// distribution's first boot runs out of it.
const FULL_MEMORY: Bytes = Bytes::mib(512);

/// The time that a new VM has, and what then becomes of it.
pub(super) fn ttl(create: &api::VmCreate) -> Option<(Duration, TtlAction)> {
    Some((Duration::from_secs(create.ttl_seconds?), ttl_action_in(create.ttl_action)))
}

pub(super) fn ttl_set(set: api::TtlSet) -> (Option<Duration>, Option<TtlAction>) {
    (set.ttl_seconds.map(Duration::from_secs), set.ttl_action.map(ttl_action_in))
}

pub(super) fn on_idle(wanted: Option<api::OnIdle>) -> Option<OnIdle> {
    wanted.map(|api::OnIdle { action, after_seconds }| OnIdle {
        action: idle_action_in(action),
        after: Duration::from_secs(after_seconds),
    })
}

fn on_idle_out(OnIdle { action, after }: OnIdle) -> api::OnIdle {
    api::OnIdle { action: idle_action(action), after_seconds: after.as_secs() }
}

fn rest(rest: Rest) -> api::Rest {
    api::Rest {
        action: idle_action(rest.action),
        since: time(rest.since),
        woken_by: woken_by(rest.action).to_owned(),
    }
}

pub(super) fn reaped(reaped: Reaped) -> api::Reaped {
    let kind = match reaped.kind {
        OrphanKind::Machine => api::ReapedKind::Machine,
        OrphanKind::RunDirectory => api::ReapedKind::RunDirectory,
        OrphanKind::VmFiles => api::ReapedKind::VmFiles,
        OrphanKind::UnfinishedDisk => api::ReapedKind::UnfinishedDisk,
        OrphanKind::ControlGroup => api::ReapedKind::ControlGroup,
    };
    api::Reaped { kind, vm: reaped.vm.to_string(), error: reaped.error }
}

/// A phase as a list is filtered by it.
pub(super) fn phase_of(wanted: api::Phase) -> VmPhase {
    phase_in(wanted)
}

pub(super) fn vm_spec(
    create: api::VmCreate,
    name: VmName,
    source: VmSource,
    (defaults, policy): (VmDefaults, Policy),
) -> VmSpec {
    // A full VM has a whole distribution to boot, and a disk to hold it. Of
    // its own it has no command to run.
    let (memory, disk, own_workload) = match &source {
        VmSource::Image(_) => (defaults.memory, defaults.disk, true),
        VmSource::Disk(image) => (
            defaults.memory.max(FULL_MEMORY),
            defaults.disk.max(image.size),
            create.command.is_some(),
        ),
    };
    VmSpec {
        name,
        source,
        language: create.language,
        vcpus: create.vcpus.unwrap_or(defaults.vcpus),
        memory: create.memory_bytes.unwrap_or(memory),
        disk: create.disk_bytes.unwrap_or(disk),
        network: network::network_in(create.network),
        addresses: AddressWish { ipv4: create.ipv4, ipv6: create.ipv6 },
        policy,
        env: create.env,
        command: create.command,
        workload: match create.workload {
            api::Workload::Image if own_workload => WorkloadChoice::Image,
            api::Workload::Image | api::Workload::None => WorkloadChoice::None,
        },
        labels: create.labels,
        runtime: runtime_in(create.runtime),
        channel: channel_in(create.channel),
        restart: restart_in(create.restart_policy),
        kernel: create.kernel.map(|k| KernelChoice { path: k.path.map(Into::into), args: k.args }),
        cloud_init: cloud_init(create.cloud_init, create.ssh_public_keys),
        limits: limits::limits_in(&create.limits),
        persist: create.persist,
        lease: create.lease,
        stable_addresses: stable_addresses_in(create.stable_addresses),
        from: None,
    }
}

fn cloud_init_state(record: &CloudInitRecord) -> api::CloudInitState {
    let CloudInitRecord { state, stage, errors, output } = record.clone();
    let status = match state {
        CloudInitState::Waiting => api::CloudInitStatus::Waiting,
        CloudInitState::Done => api::CloudInitStatus::Done,
        CloudInitState::Failed => api::CloudInitStatus::Failed,
    };
    api::CloudInitState { status, stage, errors, output }
}

/// Ssh keys alone are enough to be set up with.
fn cloud_init(wanted: Option<api::CloudInit>, ssh_keys: Vec<String>) -> Option<CloudInit> {
    (wanted.is_some() || !ssh_keys.is_empty()).then(|| {
        let api::CloudInit { user, password_hash, packages, user_data } =
            wanted.unwrap_or_default();
        CloudInit { user, password_hash, ssh_keys, packages, user_data }
    })
}

pub(super) fn vm(node: &Node, handle: &VmHandle, view: &VmView) -> api::Vm {
    let spec = handle.spec();
    let Desired { power, generation, .. } = view.desired;
    api::Vm {
        id: handle.id(),
        name: spec.name.clone(),
        image: spec
            .image()
            .map(|image| api::ImageRef { name: image.name.clone(), digest: image.digest }),
        disk_image: spec.disk_image().map(|disk| api::DiskImageRef {
            url: disk.url.clone(),
            format: disk_format(disk.format),
            sha256: disk.digest.map(|digest| digest.hex()),
        }),
        language: spec.language.clone(),
        vcpus: spec.vcpus,
        memory_bytes: spec.memory,
        disk_bytes: handle.disk_size(),
        network: network::network(&spec.network),
        policy: network::policy_state(node, handle),
        addresses: node.networks.addresses(handle.id()),
        ports: node
            .networks
            .maps_of(handle.id())
            .iter()
            .map(|map| network::port_map(node, map))
            .collect(),
        runtime: runtime(spec.runtime),
        channel: channel(spec.channel),
        accelerator: view.machine.as_ref().map(|machine| match machine.runtime.as_str() {
            "sim" => api::Accelerator::None,
            _ if machine.kvm => api::Accelerator::Kvm,
            _ => api::Accelerator::Tcg,
        }),
        restart_policy: restart(spec.restart),
        persist: spec.persist,
        lease: spec.lease,
        stable_addresses: stable_addresses(spec.stable_addresses),
        limits: limits::limits(view, node.cgroups.layout()),
        ttl: handle.ttl().map(|ttl| api::Ttl {
            seconds_left: ttl.left().as_secs(),
            ends_at: ttl.ends_at(),
            action: ttl_action(ttl.action()),
        }),
        on_idle: view.desired.on_idle.map(on_idle_out),
        labels: spec.labels.clone(),
        waits: view.waits.as_ref().map(|waits| waits.sentence()),
        desired: desired_power(power),
        paused: view.desired.paused.as_ref().map(paused),
        rest: view.desired.rest.map(rest),
        phase: phase(view.phase),
        generation,
        observed_generation: view.observed_generation,
        guest: guest_state(view),
        cloud_init: view.cloud_init.as_deref().map(cloud_init_state),
        workload: view.workload.as_deref().map(workload),
        failure: view.failure.as_deref().map(failure),
        last_end: view.last_end.as_deref().map(last_end),
        receipt: view.receipt.as_deref().and_then(snapshot::receipt),
        stats: handle.telemetry().latest().map(|latest| stats::sample(&latest)),
        // A simulated machine has no process.
        pid: view.machine.as_ref().map(|machine| machine.pid).filter(|pid| *pid != 0),
        created_at: handle.created_at(),
        started_at: view.started_at,
        boot_ms: view.boot.map(millis),
    }
}

fn paused(pause: &Pause) -> api::Paused {
    api::Paused { by: pause.by.clone(), since: time(pause.since) }
}

fn time(since_epoch: Duration) -> Timestamp {
    let millis = i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MAX)
}

fn guest_state(view: &VmView) -> api::GuestState {
    api::GuestState {
        link: match view.link {
            Link::Absent => api::GuestLink::Absent,
            Link::Connecting => api::GuestLink::Connecting,
            Link::Ready => api::GuestLink::Ready,
            Link::Degraded => api::GuestLink::Degraded,
            Link::Lost => api::GuestLink::Lost,
        },
        reason: view.link_reason.as_ref().map(|reason| reason.sentence(Instant::now()).to_string()),
        since: view.link_since,
        protocol: view.hello.as_ref().map(|hello| {
            let (major, minor) = hello.protocol;
            format!("{major}.{minor}")
        }),
        is_init: view.hello.as_ref().map(|hello| hello.is_init),
        os: view.hello.as_ref().and_then(|hello| hello.os.clone()),
        agent_version: view.hello.as_ref().map(|hello| hello.version.clone()),
        boot_id: view.hello.as_ref().map(|hello| hello.boot_id.clone()),
    }
}

fn workload(record: &WorkloadRecord) -> api::WorkloadState {
    api::WorkloadState {
        command: record.command.clone(),
        running: record.running,
        exit_code: record.exit_code,
        reason: record.reason.clone(),
        restarts: record.restarts,
    }
}

fn last_end(record: &EndRecord) -> api::LastEnd {
    api::LastEnd {
        how: end_kind(record.how),
        reason: record.reason.clone(),
        took_ms: record.took.map(millis),
        at: record.at,
    }
}

fn failure(record: &FailureRecord) -> api::Failure {
    let FailureRecord { step, cause, causes: _, next, command: _, console, at } = record.clone();
    api::Failure { step, cause, next, console, at }
}

pub(super) fn lease_event(view: &VmView) -> api::LeaseEvent {
    api::LeaseEvent { phase: phase(view.phase), failure: view.failure.as_deref().map(failure) }
}

/// How to stop: at once, or within the given time or else the node's.
pub(super) fn stop(force: bool, timeout: Option<Duration>, default: Duration) -> StopKind {
    match (force, timeout) {
        (true, _) | (false, Some(Duration::ZERO)) => StopKind::Force,
        (false, timeout) => StopKind::Graceful { grace: timeout.unwrap_or(default) },
    }
}

pub(super) fn removal(keep_disk: bool, purge_persist: bool) -> Removal {
    Removal { keep_disk, purge_persist }
}

pub(super) fn image(record: ImageRecord, used_by: &[VmName]) -> api::Image {
    let seconds = i64::try_from(record.created_unix).unwrap_or(i64::MAX);
    api::Image {
        id: record.manifest,
        name: record.name,
        disk_bytes: record.disk_bytes,
        blob_bytes: record.blob_bytes,
        architecture: record.architecture,
        config: api::ImageConfig {
            entrypoint: record.config.entrypoint,
            cmd: record.config.cmd,
            env: record.config.env,
            working_dir: record.config.working_dir,
            user: record.config.user,
            labels: record.config.labels,
        },
        used_by: used_by.iter().map(ToString::to_string).collect(),
        created_at: Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH),
    }
}

pub(super) fn operation(view: OperationView) -> api::Operation {
    let (state, result, problem) = match view.outcome {
        None => (api::OperationState::Running, None, None),
        Some(Outcome::Succeeded { result }) => (api::OperationState::Succeeded, Some(result), None),
        Some(Outcome::Failed(problem)) => (api::OperationState::Failed, None, Some(problem)),
        Some(Outcome::Cancelled) => (api::OperationState::Cancelled, None, None),
    };
    api::Operation {
        id: view.id,
        kind: view.kind.to_owned(),
        state,
        version: view.version,
        progress: view.progress.map(|p| api::Progress {
            step: p.step,
            done_bytes: p.done,
            total_bytes: p.total,
            layers: p.layers.into_iter().map(layer).collect(),
        }),
        result,
        problem,
        created_at: view.created_at,
    }
}

fn layer(layer: LayerProgress) -> api::LayerProgress {
    api::LayerProgress {
        digest: layer.digest,
        size_bytes: layer.size.get(),
        arrived_bytes: layer.arrived.get(),
        unpacked_bytes: layer.unpacked.get(),
        state: match layer.state {
            LayerState::Waiting => api::LayerState::Waiting,
            LayerState::Arriving => api::LayerState::Downloading,
            LayerState::Arrived => api::LayerState::Downloaded,
            LayerState::Unpacking => api::LayerState::Unpacking,
            LayerState::Done => api::LayerState::Done,
            LayerState::Shared => api::LayerState::Shared,
        },
    }
}

pub(super) fn code_of_guest(error: &GuestError) -> api::Code {
    match error {
        GuestError::Refused { kind: RefusedKind::NotFound, .. } => api::Code::NotFound,
        GuestError::Refused { kind: RefusedKind::Invalid, .. } | GuestError::TooLarge { .. } => {
            api::Code::InvalidRequest
        }
        GuestError::Refused { kind: RefusedKind::NoSpace, .. } => api::Code::GuestDiskFull,
        GuestError::Refused { kind: RefusedKind::Changed, .. } => api::Code::GuestFileChanged,
        GuestError::Refused { .. } | GuestError::Damaged { .. } => api::Code::GuestError,
        GuestError::Closed { .. }
        | GuestError::Protocol(_)
        | GuestError::Timeout { .. }
        | GuestError::Io { .. } => api::Code::GuestUnavailable,
    }
}

pub(super) fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}
