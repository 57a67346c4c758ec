use std::fs;
use std::time::Duration;

/// What a process has had of CPUs, its ended threads included; in steps of a
/// clock tick, which is 10 ms nearly everywhere (proc(5), `utime` and `stime`).
/// `None` for one that is gone.
pub fn cpu_time(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let ticks = parse_cpu_ticks(&stat)?;
    let a_second = rustix::param::clock_ticks_per_second().max(1);
    Some(Duration::from_micros(ticks.saturating_mul(1_000_000) / a_second))
}

/// Bytes of memory that are a process's, with its share of those that others
/// map too (proc_pid_smaps_rollup(5)). It goes through all that the process
/// maps, which takes about a millisecond for each 100 MiB.
pub fn proportional_memory(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib.saturating_mul(1024))
}

/// The fields behind the command, of which the first is the third.
fn parse_cpu_ticks(stat: &str) -> Option<u64> {
    const UTIME: usize = 14;
    let (_, rest) = stat.rsplit_once(')')?;
    let mut times = rest.split_ascii_whitespace().skip(UTIME - 3);
    let mut next = || times.next()?.parse::<u64>().ok();
    next()?.checked_add(next()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_command_name() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 1200 34 13";
        for command in ["sh", "a) S 1 (b"] {
            assert_eq!(parse_cpu_ticks(&format!("77 ({command}) {rest}")), Some(1234));
        }
        assert_eq!(parse_cpu_ticks("77 (sh) S 1"), None);
        assert!(cpu_time(std::process::id()).is_some());
        assert!(proportional_memory(std::process::id()).is_some_and(|bytes| bytes > 1 << 20));
        assert_eq!(proportional_memory(u32::MAX), None);
    }
}
