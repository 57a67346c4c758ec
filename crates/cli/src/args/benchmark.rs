use std::time::Duration;

use clap::Args;
use inn_units::Bytes;

use super::value;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  inn node benchmark
  inn node benchmark --size 4GiB --time 10s -o json
  inn node benchmark --last

It reads and writes, in order and at random, past the page cache, on a file in
the data directory that has no name and is gone with the agent at the latest.
At least a tenth of the disk, and 1GiB, stay free; at most nine times the
file's size is written. VMs that run are slowed down meanwhile, and slow it down.")]
pub(crate) struct BenchmarkArgs {
    /// Of the file; larger than what a disk itself caches
    #[arg(long, value_name = "SIZE", default_value = "1GiB")]
    pub size: Bytes,
    /// Of each of the ten measurements
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = value::duration)]
    pub time: Duration,
    /// Show the last one, and measure nothing
    #[arg(long)]
    pub last: bool,
}
