//! What the machine tells of itself. Everything comes from the kernel's own
//! counters; nothing is started and nothing is kept but the CPU's last ticks.

mod mounts;
mod parse;

use std::fs;
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use inn_guest_proto::wire::{Address, Interface, Pressure, Telemetry};
use inn_netlink::route::{Rtnetlink, with_ip};

use self::mounts::Gauge;
use self::parse::Ticks;

/// The most interfaces and addresses of one that a reading tells of.
const MAX_INTERFACES: usize = 64;
const MAX_ADDRESSES: usize = 32;

/// Over less than this the CPU's ticks, of 10 ms each, say little.
pub(crate) const SHORTEST: Duration = Duration::from_millis(200);

/// Where os-release(5) looks.
const OS_RELEASE: [&str; 2] = ["/etc/os-release", "/usr/lib/os-release"];

/// Takes one reading after the other. A reading may block for a quarter of a
/// second where a file system hangs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Meter {
    last: Option<(Instant, Ticks)>,
    permille: u32,
    os: Option<String>,
    gauge: Gauge,
}

impl Meter {
    /// How long ago the CPU was last looked at.
    pub(crate) fn age(&self) -> Option<Duration> {
        self.last.map(|(at, _)| at.elapsed())
    }

    /// Only looks at the CPU, for the next reading to have something to
    /// compare with.
    pub(crate) fn look(&mut self) {
        let stat = read("/proc/stat");
        self.last = Some((Instant::now(), parse::cpu(&stat).0));
    }

    /// The CPU's share is of the time since the reading before, or since boot.
    pub(crate) fn read(&mut self) -> Telemetry {
        let (ticks, cpus) = parse::cpu(&read("/proc/stat"));
        let before = self.last;
        if before.is_none_or(|(at, _)| at.elapsed() >= SHORTEST) {
            self.permille =
                ticks.permille_since(before.map(|(_, ticks)| ticks).unwrap_or_default());
            self.last = Some((Instant::now(), ticks));
        }
        let memory = parse::memory(&read("/proc/meminfo"));
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Telemetry {
            unix_ms: millis(since_epoch),
            uptime_ms: millis(uptime()),
            cpus,
            cpu_permille: self.permille,
            memory_total: memory.total,
            memory_available: memory.available,
            memory_free: memory.free,
            swap_total: memory.swap_total,
            swap_used: memory.swap_total.saturating_sub(memory.swap_free),
            mounts: self.gauge.read(),
            interfaces: interfaces(),
            load: parse::load(&read("/proc/loadavg")),
            processes: processes(),
            os: self.os.get_or_insert_with(os_name).clone(),
            hostname: super::process::hostname(),
            cpu_pressure: pressure("cpu"),
            memory_pressure: pressure("memory"),
            io_pressure: pressure("io"),
            frozen: false,
        }
    }
}

/// What the system calls itself, empty where it does not.
pub(crate) fn os_name() -> String {
    let names = OS_RELEASE.iter().filter_map(|path| parse::pretty_name(&read(path)));
    names.map(|name| name.chars().take(128).collect()).next().unwrap_or_default()
}

/// Since the kernel started, sleep included.
pub(crate) fn uptime() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// Empty where there is none: one counter that is missing hides no other.
fn read(path: &str) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    String::from_utf8(bytes).unwrap_or_default()
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A kernel without PSI has no such file, or one that cannot be read.
fn pressure(of: &str) -> Option<Pressure> {
    let text = fs::read_to_string(format!("/proc/pressure/{of}")).ok()?;
    Some(parse::pressure(&text))
}

fn processes() -> u32 {
    let Ok(all) = fs::read_dir("/proc") else { return 0 };
    let is_pid = |name: &std::ffi::OsStr| name.as_encoded_bytes().iter().all(u8::is_ascii_digit);
    let count = all.flatten().filter(|entry| is_pid(&entry.file_name())).count();
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn interfaces() -> Vec<Interface> {
    let Ok(mut netlink) = Rtnetlink::open() else { return Vec::new() };
    let links = netlink.links().unwrap_or_default();
    let addresses = netlink.addresses().unwrap_or_default();
    let all = links.into_iter().filter(|link| !link.loopback).take(MAX_INTERFACES);
    all.map(|link| {
        let own = addresses.iter().filter(|held| held.link == link.index);
        let own = own.filter_map(|held| Some(address(held.ip?, held.prefix))).take(MAX_ADDRESSES);
        let [rx_packets, tx_packets, rx_bytes, tx_bytes, rx_errors, tx_errors, rx_lost, tx_lost] =
            link.counters;
        Interface {
            name: link.name,
            mac: Bytes::from(link.mac),
            addresses: own.collect(),
            up: link.up,
            rx_bytes,
            tx_bytes,
            rx_packets,
            tx_packets,
            rx_errors,
            tx_errors,
            rx_dropped: rx_lost,
            tx_dropped: tx_lost,
        }
    })
    .collect()
}

fn address(ip: IpAddr, prefix: u8) -> Address {
    Address { ip: with_ip(ip, Bytes::copy_from_slice), prefix: prefix.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_tells_of_itself() {
        let mut meter = Meter::default();
        assert_eq!(meter.age(), None);
        let reading = meter.read();
        assert!(reading.cpus >= 1 && reading.cpu_permille <= 1000, "{reading:?}");
        assert!(reading.memory_total > reading.memory_available, "{reading:?}");
        assert!(reading.memory_available > 0 && reading.processes >= 1, "{reading:?}");
        assert_eq!(reading.load.len(), 3);
        assert!(reading.uptime_ms > 0 && reading.unix_ms > 1_600_000_000_000);
        assert!(reading.mounts.iter().any(|mount| mount.target == "/"), "{:?}", reading.mounts);
        assert!(meter.age().is_some());
    }
}
