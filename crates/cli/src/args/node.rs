use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use inn_meter::Head;
use jiff::Timestamp;

use super::events::since;
use super::{BenchmarkArgs, value};

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Show what this node is, has and lends its VMs
    #[command(after_help = "Examples:\n  inn node show\n  inn node show -o json")]
    Show,
    /// Show what its host is: CPUs, memory, disks, cards, GPUs, and what VMs may have
    #[command(after_help = "Examples:
  inn node resources
  inn node resources -o json | jq .kvm

What cannot be seen is told at the end; nothing of it needs root. KVM is proved
by a guest that boots, which the first VM's start tries.")]
    Resources,
    /// Show what the node is at: its load, its VMs, its templates and clones
    #[command(after_help = "Examples:\n  inn node snapshot\n  inn node snapshot -o json")]
    Snapshot,
    /// Measure its disk, CPU and memory
    Benchmark(BenchmarkArgs),
    /// Take and start no VMs any more, until `inn node undrain`
    Drain(DrainArgs),
    /// Remove what VMs have left behind, as the node does every so often
    #[command(after_help = "Examples:\n  inn node reap\n  inn node reap -o json")]
    Reap,
    /// Show what VMs have used, and prove it
    Usage(UsageArgs),
    /// Take and start VMs again
    #[command(after_help = "Examples:\n  inn node undrain

VMs that had to wait for it are started now; those that the drain has stopped
stay stopped.")]
    Undrain,
    /// Shut all guests down, before the host goes down
    ShutdownGuests(ShutdownGuestsArgs),
    /// Start the guests again that were shut down for the host
    #[command(after_help = "Examples:\n  inn node start-guests")]
    StartGuests,
}

#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  inn node usage                                    each VM, from the beginning to now
  inn node usage --from 2026-01-01T00:00:00Z --to 2026-02-01T00:00:00Z --by team -o csv
  inn node usage --from 24h --by all
  inn node usage verify

--by is vm, all, or a label: VMs that have it with the same value are one row.
A label that is called vm or all is label:vm."
)]
pub(crate) struct UsageArgs {
    #[command(subcommand)]
    pub verify: Option<UsageCommand>,
    /// From this time on, or from so long ago, such as 24h
    #[arg(long, value_name = "TIME", value_parser = since)]
    pub from: Option<Timestamp>,
    /// Up to this time, or to so long ago
    #[arg(long, value_name = "TIME", value_parser = since)]
    pub to: Option<Timestamp>,
    /// What is a row
    #[arg(long, value_name = "LABEL", default_value = "vm")]
    pub by: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum UsageCommand {
    /// Find what was changed in the ledger of usage, is missing or there twice
    Verify(VerifyUsageArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  inn node usage verify
  inn node usage verify --head 4711:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
  inn node usage verify --dir usage-copy --key d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a

Prints the last block. Kept where nobody of this host can write, and given as
--head the next time, it shows also that the ledger was not written anew.
Exits with 1 where anything is wrong.")]
pub(crate) struct VerifyUsageArgs {
    /// A block that was the last one once: its number, a colon and its hash
    #[arg(long, value_name = "BLOCK:HASH")]
    pub head: Option<Head>,
    /// A copy of a node's directory `usage`, in place of the agent's own
    #[arg(long, value_name = "DIR", requires = "key")]
    pub dir: Option<PathBuf>,
    /// The node's public key, in hex
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  inn node shutdown-guests
  inn node shutdown-guests --timeout 3m

Guests go down one group after the other by their label stop-order, lowest
number first (0 without it), and by force what is left at its time. They stay
down until the host boots again, or until `inn node start-guests`: those that
are to run start then, and those that somebody has stopped do not.
innkeeper-guests.service does both with the host's shutdown and boot.")]
pub(crate) struct ShutdownGuestsArgs {
    /// For all of them together
    #[arg(long, value_name = "TIME", default_value = "90s", value_parser = value::duration)]
    pub timeout: Duration,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  inn node drain
  inn node drain --stop-vms --timeout 2m

Running VMs run on, unless --stop-vms asks each to shut down, by
its label stop-order and the newest first.
A drain holds over restarts of the agent and of the host.")]
pub(crate) struct DrainArgs {
    /// Stop every VM, too, and wait for that
    #[arg(long)]
    pub stop_vms: bool,
    /// End at once what still runs after so long
    #[arg(
        long,
        value_name = "TIME",
        default_value = "5m",
        value_parser = value::duration,
        requires = "stop_vms"
    )]
    pub timeout: Duration,
}
