use std::time::Duration;

use clap::{Args, Subcommand};

use super::value;

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Show what this node is, has and lends its VMs
    #[command(after_help = "Examples:\n  inn node show\n  inn node show -o json")]
    Show,
    /// Show what the node is at: its VMs, its templates and the clones that wait
    #[command(after_help = "Examples:\n  inn node snapshot\n  inn node snapshot -o json")]
    Snapshot,
    /// Take and start no VMs any more, until `inn node undrain`
    Drain(DrainArgs),
    /// Remove what VMs have left behind, as the node does every so often
    #[command(after_help = "Examples:\n  inn node reap\n  inn node reap -o json")]
    Reap,
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
