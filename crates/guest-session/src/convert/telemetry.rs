use std::net::IpAddr;
use std::time::Duration;

use inn_guest_proto::wire;

use super::{MAX_BYTES, clip};
use crate::{
    Interface, MAX_ADDRESSES, MAX_INTERFACES, MAX_MOUNTS, MountUse, Pressure, Telemetry, Traffic,
};

/// More than any kernel is built for (CONFIG_NR_CPUS of x86_64 ends at 8192).
const MAX_CPUS: u32 = 8192;

/// The last millisecond of the year 9999: what a date can say.
const MAX_CLOCK_MS: u64 = 253_402_300_799_999;

/// Hundredths of a per cent.
const WHOLE: u32 = 10_000;

/// A reading whose parts fit together: no part is larger than its whole.
pub(crate) fn telemetry(told: wire::Telemetry) -> Telemetry {
    let memory_total = told.memory_total.min(MAX_BYTES);
    let swap_total = told.swap_total.min(MAX_BYTES);
    let mut load = [0; 3];
    for (ours, theirs) in load.iter_mut().zip(&told.load) {
        *ours = *theirs;
    }
    let pressure = match (told.cpu_pressure, told.memory_pressure, told.io_pressure) {
        (Some(cpu), Some(memory), Some(io)) => Some([cpu, memory, io].map(pressure)),
        _ => None,
    };
    Telemetry {
        clock: Duration::from_millis(told.unix_ms.min(MAX_CLOCK_MS)),
        uptime: Duration::from_millis(told.uptime_ms.min(MAX_CLOCK_MS)),
        cpus: told.cpus.min(MAX_CPUS),
        cpu_permille: told.cpu_permille.min(1000),
        memory_total,
        memory_available: told.memory_available.min(memory_total),
        memory_free: told.memory_free.min(memory_total),
        swap_total,
        swap_used: told.swap_used.min(swap_total),
        mounts: told.mounts.into_iter().take(MAX_MOUNTS).map(mount_use).collect(),
        interfaces: told.interfaces.into_iter().take(MAX_INTERFACES).map(interface).collect(),
        load,
        processes: told.processes,
        os: clip(told.os),
        hostname: clip(told.hostname),
        pressure,
        frozen: told.frozen,
    }
}

fn mount_use(told: wire::MountUse) -> MountUse {
    let total = told.total.min(MAX_BYTES);
    MountUse {
        target: clip(told.target),
        source: clip(told.source),
        kind: clip(told.kind),
        total,
        used: told.used.min(total),
        available: told.available.min(total),
        inodes_total: told.inodes_total,
        inodes_free: told.inodes_free.min(told.inodes_total),
    }
}

fn interface(told: wire::Interface) -> Interface {
    Interface {
        name: clip(told.name),
        mac: <[u8; 6]>::try_from(told.mac.as_ref()).ok(),
        addresses: told.addresses.iter().filter_map(address).take(MAX_ADDRESSES).collect(),
        up: told.up,
        rx: Traffic {
            bytes: told.rx_bytes,
            packets: told.rx_packets,
            errors: told.rx_errors,
            dropped: told.rx_dropped,
        },
        tx: Traffic {
            bytes: told.tx_bytes,
            packets: told.tx_packets,
            errors: told.tx_errors,
            dropped: told.tx_dropped,
        },
    }
}

/// `None` is no address: of another length, or with a prefix beyond it.
fn address(told: &wire::Address) -> Option<(IpAddr, u8)> {
    let ip = match told.ip.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(told.ip.as_ref()).ok()?),
        16 => IpAddr::from(<[u8; 16]>::try_from(told.ip.as_ref()).ok()?),
        _ => return None,
    };
    let bits = told.ip.len() * 8;
    let prefix = u8::try_from(told.prefix).ok()?;
    (usize::from(prefix) <= bits).then_some((ip, prefix))
}

fn pressure(told: wire::Pressure) -> Pressure {
    Pressure {
        some_10: told.some_10.min(WHOLE),
        some_60: told.some_60.min(WHOLE),
        full_10: told.full_10.min(WHOLE),
        full_60: told.full_60.min(WHOLE),
    }
}
