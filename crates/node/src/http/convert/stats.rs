//! What a guest tells of itself, in the API's units.

use inn_api as api;

use crate::guest::{Interface, MountUse, Pressure, Telemetry};
use crate::vm::Sample;

pub(in crate::http) fn sample(sample: &Sample) -> api::GuestSample {
    let told: &Telemetry = &sample.telemetry;
    api::GuestSample {
        at: sample.at,
        uptime_seconds: told.uptime.as_secs(),
        cpus: told.cpus,
        cpu_percent: f64::from(told.cpu_permille) / 10.0,
        memory_total_bytes: told.memory_total,
        memory_used_bytes: told.memory_total.saturating_sub(told.memory_available),
        memory_available_bytes: told.memory_available,
        swap_total_bytes: told.swap_total,
        swap_used_bytes: told.swap_used,
        mounts: told.mounts.iter().map(mount).collect(),
        interfaces: told.interfaces.iter().map(interface).collect(),
        load: told.load.map(hundredths),
        processes: told.processes,
        pressure: told.pressure.map(|[cpu, memory, io]| api::PressureSet {
            cpu: pressure(cpu),
            memory: pressure(memory),
            io: pressure(io),
        }),
        frozen: told.frozen,
    }
}

fn mount(mount: &MountUse) -> api::MountUse {
    let MountUse { target, source, kind, total, used, available, inodes_total, inodes_free } =
        mount.clone();
    api::MountUse {
        target,
        source,
        kind,
        total_bytes: total,
        used_bytes: used,
        available_bytes: available,
        inodes_total,
        inodes_free,
    }
}

fn interface(interface: &Interface) -> api::Interface {
    let Interface { name, mac, addresses, up, rx, tx } = interface;
    let mac = mac.map(|mac| mac.map(|byte| format!("{byte:02x}")).join(":"));
    api::Interface {
        name: name.clone(),
        mac: mac.unwrap_or_default(),
        addresses: addresses.iter().map(|(ip, prefix)| format!("{ip}/{prefix}")).collect(),
        up: *up,
        rx_bytes: rx.bytes,
        tx_bytes: tx.bytes,
        rx_packets: rx.packets,
        tx_packets: tx.packets,
        rx_errors: rx.errors,
        tx_errors: tx.errors,
        rx_dropped: rx.dropped,
        tx_dropped: tx.dropped,
    }
}

fn pressure(told: Pressure) -> api::Pressure {
    api::Pressure {
        some10: hundredths(told.some_10),
        some60: hundredths(told.some_60),
        full10: hundredths(told.full_10),
        full60: hundredths(told.full_60),
    }
}

fn hundredths(n: u32) -> f64 {
    f64::from(n) / 100.0
}
