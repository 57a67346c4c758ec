//! The one place where the API's types and the node's meet.

pub(super) mod stats;

use std::time::Duration;

use inn_api as api;
use inn_domain::{
    ChannelChoice, Desired, DiskFormat, EndKind, KernelChoice, Network, Power, Removal,
    RestartPolicy, RuntimeChoice, StopKind, VmPhase, VmSource, VmSpec, WorkloadChoice,
};
use inn_image::ImageRecord;
use inn_store::{EndRecord, FailureRecord, WorkloadRecord};
use inn_units::{Bytes, VmName};
use jiff::Timestamp;
use tokio::time::Instant;

use crate::config::VmDefaults;
use crate::guest::{ExecEnd, ExecStatus, GuestError, RefusedKind};
use crate::operations::{OperationView, Outcome};
use crate::vm::{Link, VmHandle, VmView};

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

same_variants!(network_in, network, Network, Network { None, AllowAll });
same_variants!(runtime_in, runtime, Runtime, RuntimeChoice { Auto, Qemu, Sim });
same_variants!(channel_in, channel, Channel, ChannelChoice { Auto, Serial, Vsock });
same_variants!(_disk_format_in, disk_format, DiskFormat, DiskFormat { Raw, Qcow2 });
same_variants!(restart_in, restart, RestartPolicy, RestartPolicy { No, OnFailure, Always });
same_variants!(_desired_in, desired_power, Desired, Power { Running, Stopped, Deleted });
same_variants!(_end_kind_in, end_kind, EndKind, EndKind { Graceful, Forced, ByItself });
same_variants!(
    phase_in,
    phase,
    Phase,
    VmPhase { Pending, Preparing, Starting, Running, Stopping, Stopped, Failed, Deleting }
);

/// The least that a full VM gets where nothing is said: with less, a
/// distribution's first boot runs out of it.
const FULL_MEMORY: Bytes = Bytes::mib(512);

/// A phase as a list is filtered by it.
pub(super) fn phase_of(wanted: api::Phase) -> VmPhase {
    phase_in(wanted)
}

pub(super) fn vm_spec(
    create: api::VmCreate,
    name: VmName,
    source: VmSource,
    defaults: VmDefaults,
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
        network: network_in(create.network),
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
        persist: create.persist,
        lease: create.lease,
    }
}

pub(super) fn vm(handle: &VmHandle, view: &VmView) -> api::Vm {
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
        network: network(spec.network),
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
        labels: spec.labels.clone(),
        desired: desired_power(power),
        phase: phase(view.phase),
        generation,
        observed_generation: view.observed_generation,
        guest: api::GuestState {
            link: match view.link {
                Link::Absent => api::GuestLink::Absent,
                Link::Connecting => api::GuestLink::Connecting,
                Link::Ready => api::GuestLink::Ready,
                Link::Degraded => api::GuestLink::Degraded,
                Link::Lost => api::GuestLink::Lost,
            },
            reason: view
                .link_reason
                .as_ref()
                .map(|reason| reason.sentence(Instant::now()).to_string()),
            since: view.link_since,
            protocol: view.hello.as_ref().map(|hello| {
                let (major, minor) = hello.protocol;
                format!("{major}.{minor}")
            }),
            is_init: view.hello.as_ref().map(|hello| hello.is_init),
            os: view.hello.as_ref().and_then(|hello| hello.os.clone()),
            agent_version: view.hello.as_ref().map(|hello| hello.version.clone()),
            boot_id: view.hello.as_ref().map(|hello| hello.boot_id.clone()),
        },
        workload: view.workload.as_deref().map(workload),
        failure: view.failure.as_deref().map(failure),
        last_end: view.last_end.as_deref().map(last_end),
        stats: handle.telemetry().latest().map(|latest| stats::sample(&latest)),
        // A simulated machine has no process.
        pid: view.machine.as_ref().map(|machine| machine.pid).filter(|pid| *pid != 0),
        created_at: handle.created_at(),
        started_at: view.started_at,
        boot_ms: view.boot.map(millis),
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
    let FailureRecord { step, cause, next, console, at } = record.clone();
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
        }),
        result,
        problem,
        created_at: view.created_at,
    }
}

pub(super) fn code_of_guest(error: &GuestError) -> api::Code {
    match error {
        GuestError::Refused { kind: RefusedKind::NotFound, .. } => api::Code::NotFound,
        GuestError::Refused { kind: RefusedKind::Invalid, .. } | GuestError::TooLarge { .. } => {
            api::Code::InvalidRequest
        }
        GuestError::Refused { .. } | GuestError::Damaged { .. } => api::Code::GuestError,
        GuestError::Closed { .. }
        | GuestError::Protocol(_)
        | GuestError::Timeout { .. }
        | GuestError::Io { .. } => api::Code::GuestUnavailable,
    }
}

/// A process's end as Kubernetes puts it.
pub(super) fn exec_status(end: &ExecEnd) -> api::exec::Status {
    use api::exec::{Status, StatusCause, StatusDetails};
    let mut causes = Vec::new();
    let mut cause = |reason: &str, message: String| {
        causes.push(StatusCause { reason: reason.to_owned(), message });
    };
    let mut message = String::new();
    if end.exit_code() != 0 || end.timed_out {
        cause("ExitCode", end.exit_code().to_string());
        message = format!("the command ended with exit code {}", end.exit_code());
    }
    if let ExecStatus::Signal(number) = end.status {
        cause("Signal", signal_name(number));
        message = format!("the command was ended by {}", signal_name(number));
    }
    if end.timed_out {
        let ran = inn_units::format_duration(end.took);
        message = format!("the command ran into its timeout after {ran}");
        cause("Timeout", ran);
    }
    if end.truncated > 0 {
        cause("Truncated", end.truncated.to_string());
    }
    let failed = end.exit_code() != 0 || end.timed_out;
    let details = (!causes.is_empty()).then_some(StatusDetails { causes });
    Status {
        status: if failed { "Failure" } else { "Success" }.to_owned(),
        reason: if failed { "NonZeroExitCode".to_owned() } else { String::new() },
        message,
        details,
    }
}

/// A process that never ran, or whose end nobody will learn.
pub(super) fn exec_failure(problem: &api::Problem) -> api::exec::Status {
    api::exec::Status {
        status: "Failure".to_owned(),
        reason: problem.code.as_str(),
        message: problem.detail.clone(),
        details: None,
    }
}

/// Adds the exit code by which a shell says that there is no such program, or
/// that it cannot be executed (POSIX.1-2024, XCU 2.8.2).
pub(super) fn with_shell_code(
    mut status: api::exec::Status,
    error: &GuestError,
) -> api::exec::Status {
    let code = match error {
        GuestError::Refused { kind: RefusedKind::NotFound, .. } => "127",
        GuestError::Refused { kind: RefusedKind::Denied, .. } => "126",
        _ => return status,
    };
    let cause = api::exec::StatusCause { reason: "ExitCode".to_owned(), message: code.to_owned() };
    status.details = Some(api::exec::StatusDetails { causes: vec![cause] });
    status
}

/// Linux's numbers on x86-64 and arm64 (signal(7)).
const SIGNALS: [(&str, i32); 26] = [
    ("SIGHUP", 1),
    ("SIGINT", 2),
    ("SIGQUIT", 3),
    ("SIGILL", 4),
    ("SIGTRAP", 5),
    ("SIGABRT", 6),
    ("SIGBUS", 7),
    ("SIGFPE", 8),
    ("SIGKILL", 9),
    ("SIGUSR1", 10),
    ("SIGSEGV", 11),
    ("SIGUSR2", 12),
    ("SIGPIPE", 13),
    ("SIGALRM", 14),
    ("SIGTERM", 15),
    ("SIGCHLD", 17),
    ("SIGCONT", 18),
    ("SIGSTOP", 19),
    ("SIGTSTP", 20),
    ("SIGTTIN", 21),
    ("SIGTTOU", 22),
    ("SIGXCPU", 24),
    ("SIGXFSZ", 25),
    ("SIGWINCH", 28),
    ("SIGPWR", 30),
    ("SIGSYS", 31),
];

pub(super) fn signal_number(name: &str) -> Option<i32> {
    SIGNALS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

fn signal_name(number: i32) -> String {
    match SIGNALS.iter().find(|(_, known)| *known == number) {
        Some((name, _)) => (*name).to_owned(),
        None => format!("signal {number}"),
    }
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(status: ExecStatus) -> ExecEnd {
        ExecEnd { status, timed_out: false, truncated: 0, output: 0, took: Duration::ZERO }
    }

    #[test]
    fn an_end_says_the_exit_code_and_why() {
        let success = exec_status(&end(ExecStatus::Code(0)));
        assert_eq!((success.exit_code(), success.details.is_none()), (Some(0), true));
        let code = exec_status(&end(ExecStatus::Code(7)));
        assert_eq!(code.exit_code(), Some(7));
        let signal = exec_status(&end(ExecStatus::Signal(9)));
        assert_eq!((signal.exit_code(), signal.cause("Signal")), (Some(137), Some("SIGKILL")));
        let late = ExecEnd { timed_out: true, truncated: 5, ..end(ExecStatus::Signal(15)) };
        let late = exec_status(&late);
        assert!(late.cause("Timeout").is_some());
        assert_eq!(late.cause("Truncated"), Some("5"));
        assert_eq!(signal_number("SIGTERM"), Some(15));
        assert_eq!(signal_number("SIGNAL"), None);
    }
}
