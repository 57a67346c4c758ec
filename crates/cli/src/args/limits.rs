use clap::Args;
use inn_api::{VmLimits, VmLimitsChange};
use inn_units::Bytes;

use super::OneVm;

/// What a new VM's machine may use of the node.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Limits on the node")]
pub(crate) struct LimitArgs {
    /// CPU time, in percent of one CPU: 150% is one and a half
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    pub cpu_quota: Option<u32>,
    /// Share beside others that want the CPU, 1 to 10000; 100 unless given
    #[arg(long, value_name = "N")]
    pub cpu_weight: Option<u32>,
    /// Memory of the VM's monitor process, the guest's included
    #[arg(long, value_name = "SIZE")]
    pub memory_limit: Option<Bytes>,
    /// Threads of the VM's monitor process
    #[arg(long, value_name = "N")]
    pub pids_limit: Option<u32>,
    /// Bytes a second that are read from the node's disk, such as 20MiB
    #[arg(long, value_name = "SIZE")]
    pub io_read_bps: Option<Bytes>,
    /// Bytes a second that are written to it
    #[arg(long, value_name = "SIZE")]
    pub io_write_bps: Option<Bytes>,
    /// Reads a second
    #[arg(long, value_name = "N")]
    pub io_read_iops: Option<u64>,
    /// Writes a second
    #[arg(long, value_name = "N")]
    pub io_write_iops: Option<u64>,
}

impl LimitArgs {
    pub(crate) fn request(&self) -> VmLimits {
        VmLimits {
            cpu_quota_percent: self.cpu_quota,
            cpu_weight: self.cpu_weight,
            memory_bytes: self.memory_limit,
            pids: self.pids_limit,
            io_read_bps: self.io_read_bps,
            io_write_bps: self.io_write_bps,
            io_read_iops: self.io_read_iops,
            io_write_iops: self.io_write_iops,
        }
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  inn vm limits web                                     what holds, and what does not
  inn vm limits web --cpu-quota 150% --memory-limit 1GiB
  inn vm limits web --cpu-quota default

A machine that runs is changed at once. What the node cannot limit is said with
the reason. `default` takes a limit back.")]
pub(crate) struct VmLimitsArgs {
    #[command(flatten)]
    pub vm: OneVm,
    /// CPU time, in percent of one CPU: 150% is one and a half
    #[arg(long, value_name = "PERCENT", value_parser = setting::<Percent>)]
    pub cpu_quota: Option<Setting<Percent>>,
    /// Share beside others that want the CPU, 1 to 10000; 100 unless given
    #[arg(long, value_name = "N", value_parser = setting::<u32>)]
    pub cpu_weight: Option<Setting<u32>>,
    /// Memory of the VM's monitor process, the guest's included
    #[arg(long, value_name = "SIZE", value_parser = setting::<Bytes>)]
    pub memory_limit: Option<Setting<Bytes>>,
    /// Threads of the VM's monitor process
    #[arg(long, value_name = "N", value_parser = setting::<u32>)]
    pub pids_limit: Option<Setting<u32>>,
    /// Bytes a second that are read from the node's disk, such as 20MiB
    #[arg(long, value_name = "SIZE", value_parser = setting::<Bytes>)]
    pub io_read_bps: Option<Setting<Bytes>>,
    /// Bytes a second that are written to it
    #[arg(long, value_name = "SIZE", value_parser = setting::<Bytes>)]
    pub io_write_bps: Option<Setting<Bytes>>,
    /// Reads a second
    #[arg(long, value_name = "N", value_parser = setting::<u64>)]
    pub io_read_iops: Option<Setting<u64>>,
    /// Writes a second
    #[arg(long, value_name = "N", value_parser = setting::<u64>)]
    pub io_write_iops: Option<Setting<u64>>,
}

/// A limit, or its default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Setting<T> {
    Default,
    To(T),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Percent(u32);

impl<T> Setting<T> {
    fn value(self) -> Option<T> {
        match self {
            Self::Default => None,
            Self::To(value) => Some(value),
        }
    }
}

impl VmLimitsArgs {
    /// `None` where nothing is to be changed.
    pub(crate) fn request(&self) -> Option<VmLimitsChange> {
        let change = VmLimitsChange {
            cpu_quota_percent: self.cpu_quota.map(|quota| quota.value().map(|Percent(n)| n)),
            cpu_weight: self.cpu_weight.map(Setting::value),
            memory_bytes: self.memory_limit.map(Setting::value),
            pids: self.pids_limit.map(Setting::value),
            io_read_bps: self.io_read_bps.map(Setting::value),
            io_write_bps: self.io_write_bps.map(Setting::value),
            io_read_iops: self.io_read_iops.map(Setting::value),
            io_write_iops: self.io_write_iops.map(Setting::value),
        };
        (change != VmLimitsChange::default()).then_some(change)
    }
}

fn setting<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<Setting<T>, String> {
    match text {
        "default" => Ok(Setting::Default),
        text => text.parse().map(Setting::To).map_err(|error| format!("{error}; or `default`")),
    }
}

impl std::str::FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        percent(text).map(Self)
    }
}

fn percent(text: &str) -> Result<u32, String> {
    let number = text.strip_suffix('%').unwrap_or(text);
    number.parse().map_err(|_| format!("{text} is no percentage; write it as in 150%"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_value_or_the_default() {
        assert_eq!(setting::<Percent>("150%"), Ok(Setting::To(Percent(150))));
        assert_eq!(setting::<Percent>("50"), Ok(Setting::To(Percent(50))));
        assert_eq!(setting::<Bytes>("1GiB"), Ok(Setting::To(Bytes::gib(1))));
        assert_eq!(setting::<u32>("default"), Ok(Setting::Default));
        assert!(setting::<Percent>("1.5").unwrap_err().contains("150%"));
    }
}
