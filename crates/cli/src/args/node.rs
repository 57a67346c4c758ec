use std::time::Duration;

use clap::{Args, Subcommand};

use super::value;

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Show what this node is, has and lends its VMs
    #[command(after_help = "Examples:\n  inn node show\n  inn node show -o json")]
    Show,
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
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  inn node drain
  inn node drain --stop-vms --timeout 2m

Running VMs run on, unless --stop-vms asks each to shut down, the newest first.
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
