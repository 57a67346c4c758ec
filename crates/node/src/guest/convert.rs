//! Between the node's words and the wire's. What comes from the guest is
//! checked and clipped here, and nowhere else.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use inn_guest_proto::wire::{self, end};
use inn_guest_proto::{ProtocolError, Version};
use inn_units::ExecId;

use super::{
    DirEntry, ExecEnd, ExecSpec, ExecStatus, ExecSummary, FileInfo, FileKind, GuestError,
    GuestHello, GuestMount, GuestNetwork, GuestSetup, RefusedKind, SetupReport, ShutdownKind,
    TtySize,
};

/// Entries of a directory and execs that are listed at most: a hostile guest
/// could go on for ever.
pub const MAX_LISTED: usize = 100_000;

/// Execs in one answer: each takes more memory here than on the wire.
const MAX_EXECS: usize = 4096;

/// A guest's words in our errors, logs and records: so many characters.
const MAX_TEXT: usize = 300;

pub(super) fn hello(hello: wire::Hello, version: Version) -> GuestHello {
    GuestHello {
        protocol: (version.major, version.minor),
        version: clip(&hello.agent),
        boot_id: clip(&hello.boot_id),
        kernel: clip(&hello.kernel),
        capabilities: hello.capabilities.iter().take(64).map(|name| clip(name)).collect(),
        is_init: hello.is_init,
        configured: hello.configured,
        uptime: Duration::from_nanos(hello.uptime_ns),
        os: (!hello.os.is_empty()).then(|| clip(&hello.os)),
        frozen: hello.frozen,
    }
}

pub(super) fn configure(setup: GuestSetup) -> Result<wire::Configure, GuestError> {
    let clock_unix_ns = match setup.clock {
        None => 0,
        Some(time) => time
            .duration_since(UNIX_EPOCH)
            .ok()
            .and_then(|since| u64::try_from(since.as_nanos()).ok())
            .ok_or_else(|| GuestError::Refused {
                what: "be set to a time before 1970 or after 2554".to_owned(),
                kind: RefusedKind::Invalid,
                errno: None,
            })?,
    };
    Ok(wire::Configure {
        hostname: setup.hostname,
        machine_id: setup.machine_id,
        network: setup.network.map(|network| network_to_wire(&network)),
        clock_unix_ns,
        mounts: setup.mounts.into_iter().map(mount_to_wire).collect(),
        stable_addresses: setup.stable_addresses,
    })
}

fn network_to_wire(network: &GuestNetwork) -> wire::Network {
    let octets = |address: std::net::Ipv4Addr| Bytes::copy_from_slice(&address.octets());
    wire::Network {
        address: octets(network.address),
        prefix: network.prefix.into(),
        gateway: network.gateway.map(octets).unwrap_or_default(),
        dns: network.dns.iter().copied().map(octets).collect(),
    }
}

fn mount_to_wire(mount: GuestMount) -> wire::Mount {
    wire::Mount { serial: mount.serial, target: mount.target, read_only: mount.read_only }
}

pub(super) fn setup_report(done: wire::Configured) -> SetupReport {
    SetupReport { problems: done.problems.iter().take(64).map(|text| clip(text)).collect() }
}

pub(super) fn exec_id(id: ExecId) -> Bytes {
    Bytes::copy_from_slice(id.as_bytes())
}

pub(super) fn exec(spec: ExecSpec) -> wire::Exec {
    wire::Exec {
        id: exec_id(spec.id),
        argv: spec.argv,
        env: spec.env,
        cwd: spec.cwd.unwrap_or_default(),
        make_cwd: spec.make_cwd,
        user: spec.user.unwrap_or_default(),
        tty: spec.tty.map(tty),
        stdin: spec.stdin,
        timeout_ms: spec.timeout.map_or(0, |limit| {
            // 0 is no timeout: the shortest one there is, is a millisecond.
            u64::try_from(limit.as_millis()).unwrap_or(u64::MAX).max(1)
        }),
        output_limit: spec.output_limit,
        retain_bytes: spec.retain,
        ..wire::Exec::default()
    }
}

pub(super) fn tty(size: TtySize) -> wire::TtySize {
    wire::TtySize { rows: size.rows.into(), cols: size.cols.into() }
}

pub(super) fn shutdown(kind: ShutdownKind, grace: Duration) -> wire::Shutdown {
    let kind = match kind {
        ShutdownKind::PowerOff => wire::ShutdownKind::PowerOff,
        ShutdownKind::Reboot => wire::ShutdownKind::Reboot,
    };
    let grace_ms = u32::try_from(grace.as_millis()).unwrap_or(u32::MAX);
    wire::Shutdown { kind: kind.into(), grace_ms }
}

pub(super) fn exec_end(end: wire::ExecEnd) -> Result<ExecEnd, GuestError> {
    let status = match end.status {
        Some(wire::exec_end::Status::Code(code)) => ExecStatus::Code(code & 0xff),
        // Linux has 64 signals (signal(7)).
        Some(wire::exec_end::Status::Signal(number @ 1..=64)) => ExecStatus::Signal(number),
        _ => return Err(misdirected("an exec's end without a status")),
    };
    Ok(ExecEnd {
        status,
        timed_out: end.timed_out,
        truncated: end.truncated,
        output: end.output,
        took: Duration::from_nanos(end.took_ns),
    })
}

pub(super) fn exec_list(list: wire::ExecList) -> Result<Vec<ExecSummary>, GuestError> {
    if list.execs.len() > MAX_EXECS {
        return Err(misdirected("an endless list of execs"));
    }
    list.execs.into_iter().map(exec_summary).collect()
}

fn exec_summary(summary: wire::ExecSummary) -> Result<ExecSummary, GuestError> {
    let id = <[u8; ExecId::BYTES]>::try_from(summary.id.as_ref())
        .map_err(|_| misdirected("an exec's id of another length"))?;
    Ok(ExecSummary {
        id: ExecId::from_bytes(id),
        pid: summary.pid,
        argv: summary.argv,
        retained: summary.retained,
        output_start: summary.output_start,
        output_end: summary.output_end,
        ended: summary.ended.map(exec_end).transpose()?,
        started: (summary.started_unix_ms != 0)
            .then(|| UNIX_EPOCH.checked_add(Duration::from_millis(summary.started_unix_ms)))
            .flatten(),
        user: clip(&summary.user),
        tty: summary.tty,
        stdin_open: summary.stdin_open,
        restarts: summary.restarts,
        last_run: summary.last_run.map(exec_end).transpose()?,
    })
}

pub(super) fn file_info(info: wire::FileInfo) -> FileInfo {
    let kind = match info.kind() {
        wire::FileKind::File => FileKind::File,
        wire::FileKind::Directory => FileKind::Directory,
        wire::FileKind::Symlink => FileKind::Symlink,
        wire::FileKind::Other => FileKind::Other,
    };
    FileInfo {
        kind,
        size: info.size,
        mode: info.mode & 0o7777,
        uid: info.uid,
        gid: info.gid,
        modified: (info.mtime_s, info.mtime_ns.min(999_999_999)),
        target: (!info.target.is_empty()).then_some(info.target),
        inode: info.inode,
        allocated: info.allocated,
        links: info.links,
    }
}

/// Refuses names that no directory can hold: they become paths on the host.
pub(super) fn extend_entries(
    entries: &mut Vec<DirEntry>,
    page: wire::DirPage,
    path: &str,
) -> Result<(), GuestError> {
    for entry in page.entries {
        let name = entry.name;
        if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
            return Err(misdirected("a directory entry that is no name"));
        }
        if entries.len() >= MAX_LISTED {
            return Err(GuestError::TooLarge {
                what: format!("the directory {path}"),
                size: entries.len() + 1,
                limit: MAX_LISTED,
            });
        }
        let info = file_info(entry.info.unwrap_or_default());
        entries.push(DirEntry { name, info });
    }
    Ok(())
}

/// The outcome, with a failure as the error it is.
pub(super) fn outcome(end: wire::End) -> Result<end::Outcome, GuestError> {
    match end.outcome {
        Some(end::Outcome::Failure(failure)) => Err(refused(&failure)),
        Some(outcome) => Ok(outcome),
        None => Err(misdirected("an end without an outcome")),
    }
}

fn refused(failure: &wire::Failure) -> GuestError {
    let kind = match failure.kind() {
        wire::FailureKind::Failed => RefusedKind::Failed,
        wire::FailureKind::NotFound => RefusedKind::NotFound,
        wire::FailureKind::Denied => RefusedKind::Denied,
        wire::FailureKind::AlreadyExists => RefusedKind::AlreadyExists,
        wire::FailureKind::Invalid => RefusedKind::Invalid,
        wire::FailureKind::Unsupported => RefusedKind::Unsupported,
        wire::FailureKind::Exhausted => RefusedKind::Exhausted,
        wire::FailureKind::NoSpace => RefusedKind::NoSpace,
        wire::FailureKind::Changed => RefusedKind::Changed,
    };
    // Linux's numbers end at 4095 (include/linux/err.h, MAX_ERRNO).
    let errno = (1..=4095).contains(&failure.errno).then_some(failure.errno);
    GuestError::Refused { what: clip(&failure.what), kind, errno }
}

pub(super) fn misdirected(message: &'static str) -> GuestError {
    GuestError::Protocol(Arc::new(ProtocolError::Misdirected { message, stream: 0 }))
}

fn clip(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_TEXT).collect()
}
