//! What changes from second to second.

use std::time::Duration;

use inn_api::{FileSystem, HostNow};

use super::{file_systems, memory};
use crate::Root;

/// What the CPUs have done since the host booted, in ticks of all together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuTicks {
    busy: u64,
    all: u64,
}

impl CpuTicks {
    /// Per cent of the time since `before` in which CPUs had work.
    pub fn percent_since(self, before: Self) -> Option<f64> {
        let all = self.all.checked_sub(before.all).filter(|all| *all > 0)?;
        let busy = self.busy.saturating_sub(before.busy);
        // Ticks of a second are far below 2^53.
        #[allow(clippy::cast_precision_loss)]
        let percent = busy as f64 * 100.0 / all as f64;
        Some(percent.min(100.0))
    }
}

/// Without a percentage, which takes two measurements.
pub fn host_now(root: &Root) -> (HostNow, CpuTicks) {
    let loads = root.text("/proc/loadavg").unwrap_or_default();
    let mut load = [0.0; 3];
    for (place, text) in load.iter_mut().zip(loads.split_whitespace()) {
        *place = text.parse().unwrap_or(0.0);
    }
    let now = HostNow {
        load,
        cpu_percent: None,
        memory: memory::memory(root),
        file_systems: file_systems(root),
    };
    (now, cpu_ticks(&root.text("/proc/stat").unwrap_or_default()))
}

/// Those that are mounted, with their sizes of now.
pub fn file_systems(root: &Root) -> Vec<FileSystem> {
    file_systems::mounted(root)
}

/// proc(5), /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal;
/// what guests take is in user and nice already.
fn cpu_ticks(stat: &str) -> CpuTicks {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu ")).unwrap_or_default();
    let ticks: Vec<u64> = line.split_whitespace().take(8).flat_map(str::parse).collect();
    let all = ticks.iter().sum();
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    CpuTicks { busy: all - idle, all }
}

/// What a process takes of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessUse {
    pub cpu: Duration,
    pub resident_bytes: u64,
}

/// `None` where there is no such process any more: a pid alone is another
/// one's sooner or later, `start_ticks` is when it began.
pub fn process_use(root: &Root, pid: u32, start_ticks: u64) -> Option<ProcessUse> {
    let stat = root.text(format!("/proc/{pid}/stat"))?;
    let page = u64::try_from(rustix::param::page_size()).ok()?;
    parse_stat(&stat, start_ticks, rustix::param::clock_ticks_per_second(), page)
}

/// proc(5), /proc/PID/stat: fields 14 and 15 are the time in user and system
/// mode, 22 when it began, 24 the resident pages. The name may hold anything.
fn parse_stat(stat: &str, start_ticks: u64, hertz: u64, page: u64) -> Option<ProcessUse> {
    let (_, rest) = stat.rsplit_once(')')?;
    // The first field of the rest is the third of all.
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    if field(22)? != start_ticks {
        return None;
    }
    let ticks = field(14)?.checked_add(field(15)?)?;
    let millis = ticks.saturating_mul(1000).checked_div(hertz)?;
    Some(ProcessUse {
        cpu: Duration::from_millis(millis),
        resident_bytes: field(24)?.saturating_mul(page),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_is_none_of_the_work() {
        let before = cpu_ticks("cpu  10 0 10 80 20 0 0 0 5 0\ncpu0 1 1 1 1\n");
        let after = cpu_ticks("cpu  40 0 10 130 40 0 0 0 35 0\n");
        assert_eq!((before.busy, before.all), (20, 120));
        assert_eq!(after.percent_since(before), Some(30.0));
        assert_eq!(before.percent_since(before), None);
        assert_eq!(cpu_ticks(""), CpuTicks::default());
    }

    #[test]
    fn a_process_is_told_by_when_it_began() {
        let stat = "42 (a) b (x) S 1 42 42 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 1 0 777 1000 25 1";
        let told = parse_stat(stat, 777, 100, 4096).unwrap();
        assert_eq!((told.cpu, told.resident_bytes), (Duration::from_secs(2), 25 * 4096));
        assert_eq!(parse_stat(stat, 778, 100, 4096), None);
        assert_eq!(parse_stat("42 (a", 777, 100, 4096), None);
    }
}
