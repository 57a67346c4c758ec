use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{OneVm, value};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  inn vm top                      all VMs, until q is pressed
  inn vm top web db --sort memory
  inn vm top --once
  inn vm top -o json              once, as an array

Keys: c, m and n sort by CPU, memory and name; q leaves. Where stdout is no
terminal one table is printed. The numbers are the guests' own.")]
pub(crate) struct TopArgs {
    /// Names or ids of VMs; all where none is given
    #[arg(value_name = "VM")]
    positional: Vec<String>,
    /// The same as a flag; repeats
    #[arg(long = "vm", value_name = "VM")]
    flagged: Vec<String>,
    /// Print one table and end
    #[arg(long)]
    pub once: bool,
    /// Time from one look to the next
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = value::duration)]
    pub interval: Duration,
    /// What stands at the top
    #[arg(long, value_enum, default_value_t, value_name = "BY")]
    pub sort: SortArg,
}

impl TopArgs {
    /// None: all VMs.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.positional.iter().chain(&self.flagged).map(String::as_str).collect()
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum SortArg {
    /// Those that use most CPU
    #[default]
    Cpu,
    /// Those that use most memory
    Memory,
    /// By name
    Name,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  inn vm stats web
  inn vm stats web --last 10m
  inn vm stats web --fresh -o json

The guest tells it every few seconds, and the node keeps some half an hour of
it. The numbers are the guest's own.")]
pub(crate) struct StatsArgs {
    #[command(flatten)]
    pub vm: OneVm,
    /// Also what was told within this time, such as 10m
    #[arg(long, value_name = "DURATION", value_parser = value::duration)]
    pub last: Option<Duration>,
    /// Ask the guest now, and don't take what it told last
    #[arg(long)]
    pub fresh: bool,
}
