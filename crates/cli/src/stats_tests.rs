use super::*;
use inn_client::api::PressureSet;

fn sample(second: i64, rx_bytes: u64) -> GuestSample {
    serde_json::from_value(serde_json::json!({
        "at": Timestamp::from_second(second).unwrap(),
        "uptimeSeconds": 65, "cpus": 2, "cpuPercent": 12.34,
        "memoryTotalBytes": 1_048_576, "memoryUsedBytes": 262_144,
        "memoryAvailableBytes": 786_432, "swapTotalBytes": 0, "swapUsedBytes": 0,
        "mounts": [{
            "target": "/\u{1b}[2J", "source": "/dev/vda", "kind": "ext4", "totalBytes": 2048,
            "usedBytes": 1024, "availableBytes": 1024, "inodesTotal": 100, "inodesFree": 25,
        }],
        "interfaces": [{
            "name": "eth0", "mac": "02:00:00:00:00:01", "addresses": ["10.0.2.15/24"], "up": true,
            "rxBytes": rx_bytes, "txBytes": 0, "rxPackets": 0, "txPackets": 0, "rxErrors": 1,
            "txErrors": 2, "rxDropped": 0, "txDropped": 0,
        }],
        "load": [0.5, 0.25, 0.1], "processes": 42, "frozen": false,
    }))
    .unwrap()
}

#[test]
fn a_reading_is_a_block_with_its_tables() {
    let mut now = sample(100, 4096);
    now.pressure = Some(PressureSet::default());
    let shown = block(&now, Timestamp::from_second(103).unwrap());
    for line in [
        "read            3s ago\n",
        "cpu             12.3 % of 2\n",
        "memory          256KiB of 1MiB (25 %)\n",
        "swap            none\n",
        "io pressure     some 0.0 % 0.0 %, all 0.0 % 0.0 % (10 s, 60 s)\n",
        "/[2J   /dev/vda  ext4  2KiB  1KiB  1KiB  50 %    75 %\n",
        "eth0       up     02:00:00:00:00:01  4KiB  0B       3        0  10.0.2.15/24\n",
    ] {
        assert!(shown.contains(line), "{line:?} in\n{shown}");
    }
}

#[test]
fn a_time_is_a_table_with_rates_between_its_readings() {
    let samples = vec![sample(100, 0), sample(105, 5 * 2048)];
    let shown = text(&Stats { now: None, samples }, true, Timestamp::UNIX_EPOCH);
    assert_eq!(
        shown,
        "TIME       CPU%     MEM  MEM%  DISK%  RX/S  TX/S  LOAD  PROCS\n\
         00:01:40Z  12.3  256KiB    25      -     -     -  0.50     42\n\
         00:01:45Z  12.3  256KiB    25      -  2KiB    0B  0.50     42\n"
    );
}
