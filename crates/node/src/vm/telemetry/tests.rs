use std::net::{IpAddr, Ipv4Addr};

use super::*;
use crate::guest::{Interface, MountUse, Pressure, Traffic};

const KEEP: Duration = Duration::from_secs(1_800);

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).unwrap()
}

fn mount(n: u64) -> MountUse {
    MountUse {
        target: format!("/mnt/{n}"),
        source: format!("/dev/vd{n}"),
        kind: "ext4".into(),
        total: 8 << 30,
        used: (3 << 30) + n,
        available: 5 << 30,
        inodes_total: 500_000,
        inodes_free: 400_000 - n,
    }
}

fn interface(n: u64) -> Interface {
    let traffic = Traffic { bytes: n << 20, packets: n, errors: 0, dropped: 1 };
    Interface {
        name: format!("eth{n}"),
        mac: Some([2, 0, 0, 0, 0, 1]),
        addresses: vec![(IpAddr::V4(Ipv4Addr::new(10, 0, 2, 15)), 24)],
        up: true,
        rx: traffic,
        tx: traffic,
    }
}

/// Of a guest with three mounts and two interfaces that has been busy.
fn reading(n: u64) -> Telemetry {
    Telemetry {
        clock: Duration::from_millis(1_700_000_000_000 + n),
        uptime: Duration::from_millis(86_400_000 + n),
        cpus: 2,
        cpu_permille: 437,
        memory_total: 4 << 30,
        memory_available: (3 << 30) - n,
        memory_free: 2 << 30,
        swap_total: 1 << 30,
        swap_used: 1 << 20,
        mounts: (0..3).map(mount).collect(),
        interfaces: (0..2).map(|i| interface(i + n)).collect(),
        load: [125, 80, 33],
        processes: 141,
        os: "Debian GNU/Linux 12 (bookworm)".into(),
        hostname: "web-1".into(),
        pressure: Some([Pressure { some_10: 1_234, some_60: 700, full_10: 3, full_60: 0 }; 3]),
        frozen: false,
    }
}

#[test]
fn half_an_hour_fits_the_ring() {
    let ring = TelemetryRing::default();
    let fixed = |n: u64| Telemetry { interfaces: vec![interface(0), interface(1)], ..reading(n) };
    for n in 0..1_000 {
        ring.push(at(5 * n), fixed(n.unsigned_abs()), KEEP);
    }
    let all = ring.range(at(0), at(5_000));
    assert_eq!(all.len(), 361, "those of 1800 s, both ends included");
    assert_eq!(all[0].at, at(5 * 999 - 1_800));
    assert_eq!(*all[360].telemetry, fixed(999));
    assert_eq!(ring.latest().as_ref(), all.last());
    let some = ring.range(at(4_000), at(4_010));
    assert_eq!(some.iter().map(|s| s.at).collect::<Vec<_>>(), [at(4_000), at(4_005), at(4_010)]);
    assert!(ring.lock().bytes <= RING_BYTES);

    ring.machine_is_gone();
    assert_eq!(ring.latest(), None);
    assert_eq!(ring.range(at(0), at(5_000)).len(), 361);
}

#[test]
fn a_guest_that_tells_ever_new_tales_costs_no_more() {
    let ring = TelemetryRing::default();
    for n in 0..300u64 {
        let mut tale = reading(n);
        tale.hostname = format!("{n}").repeat(500);
        tale.mounts = (0..64).map(|i| mount(i * n)).collect();
        ring.push(at(n.cast_signed()), tale, KEEP);
        let inner = ring.lock();
        let heaps: usize = inner.readings.iter().map(|r| r.cost() + r.shape_cost()).sum();
        assert!(heaps <= RING_BYTES, "{heaps}");
    }
    assert!(ring.range(at(0), at(300)).len() > 5);
    // One that is larger than the whole ring is told once, and not kept.
    let huge = Telemetry { os: "x".repeat(RING_BYTES), ..reading(0) };
    ring.push(at(301), huge.clone(), KEEP);
    assert_eq!(*ring.latest().unwrap().telemetry, huge);
    assert_eq!(ring.range(at(0), at(400)), []);
    assert_eq!(ring.lock().bytes, 0);
    ring.push(at(302), reading(1), KEEP);
    assert_eq!(ring.range(at(0), at(400)).len(), 1);
}

#[test]
fn a_reading_comes_back_as_it_was() {
    for (n, small) in [(0, 0), (127, 128), (128, 127), (u64::MAX, u32::MAX), (u64::MAX >> 1, 1)] {
        let traffic = Traffic { bytes: n, packets: n >> 3, errors: n >> 60, dropped: 1 };
        let pressure = Pressure { some_10: small, some_60: 1, full_10: small >> 1, full_60: 0 };
        for pressure in [Some([pressure; 3]), None] {
            let told = Telemetry {
                clock: Duration::from_millis(n),
                cpu_permille: small,
                memory_total: n,
                swap_used: n >> 1,
                load: [small, 0, small >> 9],
                mounts: vec![MountUse { used: n, inodes_free: n >> 7, ..mount(1) }; 2],
                interfaces: vec![Interface { rx: traffic, mac: None, ..interface(1) }],
                frozen: pressure.is_none(),
                pressure,
                ..reading(0)
            };
            let ring = TelemetryRing::default();
            ring.push(at(0), reading(1), KEEP);
            ring.push(at(1), told.clone(), KEEP);
            assert_eq!(*ring.range(at(1), at(1))[0].telemetry, told);
        }
    }
}

/// Whatever two readings differ in, the second does not come back as the first.
#[test]
fn a_reading_after_a_similar_one_keeps_what_is_its_own() {
    let changes: [fn(&mut Telemetry); 10] = [
        |it| it.cpus = 3,
        |it| it.os.push('x'),
        |it| it.hostname.push('x'),
        |it| it.mounts[1].source.push('x'),
        |it| drop(it.mounts.pop()),
        |it| it.interfaces[1].up = false,
        |it| it.interfaces[0].mac = None,
        |it| it.interfaces[0].addresses.clear(),
        |it| it.pressure = None,
        |it| it.frozen = true,
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let ring = TelemetryRing::default();
        let mut other = reading(1);
        change(&mut other);
        for telemetry in [reading(1), other.clone(), reading(1)] {
            ring.push(at(0), telemetry, KEEP);
        }
        let told: Vec<_> =
            ring.range(at(0), at(0)).into_iter().map(|it| (*it.telemetry).clone()).collect();
        assert_eq!(told, [reading(1), other, reading(1)], "change {number}");
    }
}
