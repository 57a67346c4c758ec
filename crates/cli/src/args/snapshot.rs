use std::path::PathBuf;

use clap::{Args, Subcommand};
use inn_units::{SnapshotName, VmName};

#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotCommand {
    /// List the node's snapshots
    #[command(
        visible_alias = "ls",
        after_help = "Examples:\n  inn snapshot list\n  inn snapshot list -o json"
    )]
    List,
    /// Show snapshots: what made them, and what they consist of
    #[command(
        after_help = "Examples:\n  inn snapshot show golden\n  inn snapshot show golden -o json"
    )]
    Show {
        /// Names or ids of snapshots
        #[arg(value_name = "SNAPSHOT", required = true)]
        snapshots: Vec<String>,
    },
    /// Make a VM that begins from a snapshot
    Restore(RestoreArgs),
    /// Write a snapshot to a file, for another node
    #[command(after_help = "Examples:
  inn snapshot export golden golden.snapshot
  zstd golden.snapshot

It has what the VM's memory had, and all but the image's disk: the other node
has to have the image.")]
    Export {
        /// The snapshot, by name or id
        #[arg(value_name = "SNAPSHOT")]
        snapshot: String,
        /// The file, which must not be there yet
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Take in what an export has written
    #[command(after_help = "Examples:
  inn snapshot import golden.snapshot
  inn snapshot import /srv/golden.snapshot --name golden-2")]
    Import {
        /// The file, on the node
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// What it is called here; as it was unless given
        #[arg(long)]
        name: Option<SnapshotName>,
    },
    /// Delete snapshots; VMs that have begun from them run on
    #[command(visible_alias = "rm", after_help = "Examples:\n  inn snapshot delete golden")]
    Delete {
        /// Names or ids of snapshots
        #[arg(value_name = "SNAPSHOT", required = true)]
        snapshots: Vec<String>,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  inn vm snapshot web --name golden
  inn snapshot restore golden --name web-2

Memory and disk are those of one moment, at which the VM stands still for some
tens of milliseconds; it runs on. Only who may read the node's data directory can
read them: they hold whatever the VM's memory held.")]
pub(crate) struct SnapshotArgs {
    /// The VM
    #[arg(value_name = "VM")]
    pub vm: String,
    /// What the snapshot is called
    #[arg(long)]
    pub name: SnapshotName,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  inn snapshot restore golden
  inn snapshot restore golden --name web-2")]
pub(crate) struct RestoreArgs {
    /// The snapshot, by name or id
    #[arg(value_name = "SNAPSHOT")]
    pub snapshot: String,
    /// What the VM is called; made up from the snapshot's name unless given
    #[arg(long)]
    pub name: Option<VmName>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  inn vm fork web --count 8
  inn vm fork web --count 2 --name-prefix worker
  inn vm fork --snapshot golden --count 8

Each goes on where the VM was, with its programs and its memory, and has a disk,
a name, addresses, a machine id and random numbers of its own: its guest has
confirmed that before anybody is let in (inn vm receipt).")]
pub(crate) struct ForkArgs {
    /// The VM, which runs or is paused
    #[arg(value_name = "VM", required_unless_present = "snapshot", conflicts_with = "snapshot")]
    pub vm: Option<String>,
    /// A snapshot in place of a VM
    #[arg(long)]
    pub snapshot: Option<String>,
    /// How many
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub count: u32,
    /// They are called PREFIX-1 and so on
    #[arg(long, value_name = "PREFIX")]
    pub name_prefix: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  inn vm receipt web-1
  inn vm receipt web-1 --verify
  inn vm receipt web-1 --verify --key 5f1c…
  inn vm receipt web-1 -o json

Of a VM that began from another one's memory: what its guest has done before
anybody was let in, as the node has signed it.")]
pub(crate) struct ReceiptArgs {
    /// The VM
    #[arg(value_name = "VM")]
    pub vm: String,
    /// Fail unless the signature is good
    #[arg(long)]
    pub verify: bool,
    /// The node's public key in hex, as it is known from elsewhere
    #[arg(long, value_name = "HEX", requires = "verify")]
    pub key: Option<String>,
}
