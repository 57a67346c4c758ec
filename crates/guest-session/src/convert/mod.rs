//! Between the node's words and the wire's. What comes from the guest is
//! checked, bounded and clipped here, and nowhere else.

mod exec;
mod files;
mod machine;
mod resume;
mod telemetry;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use inn_guest_proto::wire::{self, end};
use inn_guest_proto::{ProtocolError, Version};

use super::{
    GuestAddressing, GuestError, GuestHello, GuestMount, GuestSetup, RefusedKind, SetupReport,
    ShutdownKind,
};

pub(super) use exec::{exec, exec_end, exec_id, exec_list, input_taken, note, tty};
pub use files::MAX_LISTED;
pub(super) use files::{
    Listing, attributes, file_changes, file_info, read_file, upload_id, upload_offset, write_file,
};
pub(super) use machine::{
    disk_grown, disk_mount, frozen, network_applied, network_setup, password, ssh_keys,
};
pub(super) use resume::{resume, resumed};
pub(super) use telemetry::telemetry;

/// A guest's words in our errors, logs and records: so many characters.
const MAX_TEXT: usize = 300;

/// Sentences in one report.
const MAX_PROBLEMS: usize = 64;

/// off_t is signed: nothing in a guest is larger than this.
const MAX_BYTES: u64 = i64::MAX.unsigned_abs();

pub(super) fn hello(hello: wire::Hello, version: Version) -> GuestHello {
    GuestHello {
        protocol: (version.major, version.minor),
        version: clip(&hello.agent),
        boot_id: clip(&hello.boot_id),
        kernel: clip(&hello.kernel),
        capabilities: hello.capabilities.iter().take(64).map(clip).collect(),
        is_init: hello.is_init,
        configured: hello.configured,
        uptime: Duration::from_nanos(hello.uptime_ns),
        os: (!hello.os.is_empty()).then(|| clip(&hello.os)),
        frozen: hello.frozen,
    }
}

pub(super) fn configure(setup: GuestSetup) -> Result<wire::Configure, GuestError> {
    let clock_unix_ns = setup.clock.map(clock).transpose()?.unwrap_or(0);
    Ok(wire::Configure {
        hostname: setup.hostname,
        machine_id: setup.machine_id,
        network: setup.network.map(|network| network_to_wire(&network)),
        clock_unix_ns,
        mounts: setup.mounts.into_iter().map(mount_to_wire).collect(),
        stable_addresses: setup.stable_addresses,
    })
}

/// Nanoseconds since the epoch.
pub(super) fn clock(time: SystemTime) -> Result<u64, GuestError> {
    time.duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| u64::try_from(since.as_nanos()).ok())
        .ok_or_else(|| GuestError::Refused {
            what: "be set to a time before 1970 or after 2554".to_owned(),
            kind: RefusedKind::Invalid,
            errno: None,
        })
}

fn network_to_wire(network: &GuestAddressing) -> wire::Network {
    let network = match network {
        GuestAddressing::Static(network) => network,
        GuestAddressing::Dhcp => return wire::Network { dhcp4: true, ..wire::Network::default() },
    };
    let octets = |address: std::net::Ipv4Addr| Bytes::copy_from_slice(&address.octets());
    let octets6 = |address: std::net::Ipv6Addr| Bytes::copy_from_slice(&address.octets());
    let ipv6 = network.ipv6;
    wire::Network {
        address6: ipv6.map(|ipv6| octets6(ipv6.address)).unwrap_or_default(),
        prefix6: ipv6.map_or(0, |ipv6| ipv6.prefix.into()),
        gateway6: ipv6.and_then(|ipv6| ipv6.gateway).map(octets6).unwrap_or_default(),
        address: octets(network.address),
        prefix: network.prefix.into(),
        gateway: network.gateway.map(octets).unwrap_or_default(),
        dns: network.dns.iter().copied().map(octets).collect(),
        dhcp4: false,
    }
}

fn mount_to_wire(mount: GuestMount) -> wire::Mount {
    wire::Mount { serial: mount.serial, target: mount.target, read_only: mount.read_only }
}

pub(super) fn setup_report(done: wire::Configured) -> SetupReport {
    SetupReport { problems: problems(&done.problems) }
}

fn problems(told: &[String]) -> Vec<String> {
    told.iter().take(MAX_PROBLEMS).map(clip).collect()
}

pub(super) fn shutdown(kind: ShutdownKind, grace: Duration) -> wire::Shutdown {
    let kind = match kind {
        ShutdownKind::PowerOff => wire::ShutdownKind::PowerOff,
        ShutdownKind::Reboot => wire::ShutdownKind::Reboot,
    };
    wire::Shutdown { kind: kind.into(), grace_ms: millis(grace) }
}

/// At most the longest that the wire can say: 49 days.
pub(super) fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

/// The outcome, with a failure as the error it is.
pub(super) fn outcome(end: Box<wire::End>) -> Result<end::Outcome, GuestError> {
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

/// Of one message within a stream's data.
pub(super) fn undecodable(error: ProtocolError) -> GuestError {
    GuestError::Protocol(Arc::new(error))
}

pub(super) fn misdirected(message: &'static str) -> GuestError {
    GuestError::Protocol(Arc::new(ProtocolError::Misdirected { message, stream: 0 }))
}

fn clip<'a>(text: impl Into<Cow<'a, str>>) -> String {
    let text = text.into();
    // As good as all that guests say: taken as it is.
    if text.len() <= MAX_TEXT && !text.chars().any(char::is_control) {
        return text.into_owned();
    }
    text.chars().filter(|c| !c.is_control()).take(MAX_TEXT).collect()
}
