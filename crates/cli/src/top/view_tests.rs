use super::*;
use crate::top::rates::Rates;
use inn_client::api::{Interface, MountUse};

const MIB: u64 = 1 << 20;

fn sample(second: i64, rx: u64) -> GuestSample {
    let interface = |name: &str, rx_bytes| Interface {
        name: name.into(),
        mac: String::new(),
        addresses: Vec::new(),
        up: true,
        rx_bytes,
        tx_bytes: 0,
        rx_packets: 0,
        tx_packets: 0,
        rx_errors: 0,
        tx_errors: 0,
        rx_dropped: 0,
        tx_dropped: 0,
    };
    GuestSample {
        at: Timestamp::from_second(second).unwrap(),
        uptime_seconds: 7_500,
        cpus: 2,
        cpu_percent: 12.34,
        memory_total_bytes: 512 * MIB,
        memory_used_bytes: 128 * MIB,
        memory_available_bytes: 384 * MIB,
        swap_total_bytes: 0,
        swap_used_bytes: 0,
        mounts: vec![MountUse {
            target: "/".into(),
            source: "overlay".into(),
            kind: "overlay".into(),
            total_bytes: 1000,
            used_bytes: 333,
            available_bytes: 667,
            inodes_total: 0,
            inodes_free: 0,
        }],
        interfaces: vec![interface("lo", 1 << 40), interface("eth0", rx)],
        load: [0.5, 0.25, 0.1],
        processes: 42,
        pressure: None,
        frozen: false,
    }
}

fn vm(number: u8, name: &str, stats: Option<GuestSample>) -> Vm {
    let mut vm: Vm = serde_json::from_value(serde_json::json!({
        "id": format!("{number:010x}"), "name": name, "vcpus": 1,
        "memoryBytes": 268_435_456u64, "diskBytes": 0, "network": "none", "runtime": "auto",
        "channel": "auto", "restartPolicy": "no", "persist": false, "lease": false, "labels": {},
        "desired": "running", "phase": "running", "generation": 1, "observedGeneration": 1,
        "guest": { "link": "ready" }, "createdAt": "2026-01-01T00:00:00Z",
        "limits": { "layout": "none", "applied": [], "notApplied": [] },
    }))
    .unwrap();
    vm.stats = stats;
    vm
}

fn row(name: &str, cpu: Option<f64>) -> Row {
    let stats = cpu.map(|cpu_percent| GuestSample { cpu_percent, ..sample(0, 0) });
    Row::new(&vm(1, name, stats), None, Timestamp::UNIX_EPOCH)
}

fn size(cols: u16, rows: u16) -> TerminalSize {
    TerminalSize { cols, rows }
}

const BY_CPU: Status<'_> = Status { sort: SortArg::Cpu, trouble: None };

#[test]
fn rates_come_from_two_readings_and_stay_until_the_next() {
    let mut rates = Rates::default();
    assert_eq!(rates.of(&vm(1, "web", Some(sample(100, 1_000)))), None);
    let rate = rates.of(&vm(1, "web", Some(sample(105, 11_000)))).unwrap();
    assert!((rate.rx - 2_000.0).abs() < 1e-6 && rate.tx == 0.0, "{rate:?}");
    assert_eq!(rates.of(&vm(1, "web", Some(sample(105, 11_000)))), Some(rate));
    assert_eq!(rates.of(&vm(1, "web", Some(sample(110, 5)))), None, "it has begun anew");
    assert_eq!(rates.of(&vm(1, "web", None)), None);
    assert_eq!(rates.of(&vm(1, "web", Some(sample(115, 10)))), None, "nothing to compare with");
}

#[test]
fn a_row_has_what_the_guest_tells() {
    let mut rates = Rates::default();
    rates.of(&vm(1, "web", Some(sample(100, 0))));
    let web = vm(1, "web", Some(sample(110, 10 * MIB)));
    let rows = [
        Row::new(&web, rates.of(&web), Timestamp::from_second(111).unwrap()),
        Row::new(&vm(2, "db", None), None, Timestamp::UNIX_EPOCH),
    ];
    assert_eq!(
        table(&rows, usize::MAX),
        "NAME  STATUS   GUEST  CPU%            MEM  MEM%  DISK%  RX/S  TX/S  LOAD  PROCS  UPTIME\n\
         web   running  ready  12.3  128MiB/512MiB    25     33  1MiB    0B  0.50     42   2h 5m\n\
         db    running  ready     -       -/256MiB     -      -     -     -     -      -       -\n"
    );
    let json = serde_json::to_value(&rows).unwrap();
    assert_eq!((&json[0]["memoryPercent"], &json[0]["ageSeconds"]), (&25.0.into(), &1.into()));
    assert!(json[1].get("cpuPercent").is_none());
}

#[test]
fn most_use_comes_first_and_no_reading_last() {
    let mut rows = vec![row("d", None), row("c", Some(1.0)), row("b", Some(9.0)), row("a", None)];
    let mut names = |by| {
        sort(&mut rows, by);
        rows.iter().map(|row| row.name.clone()).collect::<String>()
    };
    assert_eq!(names(SortArg::Cpu), "bcad");
    assert_eq!(names(SortArg::Name), "abcd");
    assert_eq!(names(SortArg::Memory), "bcad");
}

#[test]
fn a_narrow_screen_keeps_what_matters() {
    let rows = [row("web", Some(5.0))];
    for width in [10, 40, 60, 80, 200] {
        let table = table(&rows, width);
        assert!(table.starts_with("NAME") && table.contains("CPU%"), "{width}: {table}");
        assert!(table.lines().all(|line| line.chars().count() <= width), "{width}: {table}");
    }
    assert!(!table(&rows, 40).contains("PROCS"));
    assert!(table(&rows, 200).contains("PROCS"));
}

#[test]
fn a_frame_fits_its_screen() {
    let rows: Vec<_> = (0..50).map(|n| row(&format!("vm-{n}"), Some(1.0))).collect();
    let drawn = frame(&rows, &BY_CPU, size(80, 10));
    assert!(drawn.starts_with("\x1b[H50 VMs, 50 with a reading, by CPU"), "{drawn:?}");
    assert!(drawn.ends_with("43 more\x1b[K\x1b[J"), "{drawn:?}");
    assert_eq!(drawn.matches("\r\n").count(), 9);
    assert!(!drawn.ends_with('\n'), "the last line must not scroll the screen");
    for (cols, height) in [(1, 1), (5, 2), (80, 3), (300, 200)] {
        let drawn = frame(&rows, &BY_CPU, size(cols, height));
        assert!(drawn.matches("\r\n").count() < usize::from(height), "{cols}x{height}");
    }
}

#[test]
fn trouble_stands_above_what_was_seen() {
    let status = Status { sort: SortArg::Name, trouble: Some("no agent\x1b[2J answers") };
    let drawn = frame(&[row("web", Some(5.0))], &status, size(80, 24));
    assert!(drawn.starts_with("\x1b[Has it was last seen: no agent[2J answers"), "{drawn:?}");
    assert!(drawn.contains("web"));
}
