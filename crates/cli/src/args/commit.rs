use clap::Args;
use inn_units::ImageName;

use super::value;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  inn vm stop web && inn vm commit web --name web:1
  inn vm commit web --name web:2 -e MODE=fast --label tier=front -- /srv/start
  inn run --rm web:2

The VM is stopped, or runs with a guest agent, which then holds its file systems
still for the time of a copy: what programs have not written yet is not in it.
Its image's entrypoint, variables and labels stay. Of a VM from a disk image
comes a disk image; `inn image list` shows its SHA-256.")]
pub(crate) struct CommitArgs {
    /// The VM
    #[arg(value_name = "VM")]
    pub vm: String,
    /// What the image is called
    #[arg(long)]
    pub name: ImageName,
    /// A variable for what runs in it; without =VALUE, its value here
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = value::variable)]
    pub env: Vec<(String, String)>,
    /// A label of the image
    #[arg(long, value_name = "KEY=VALUE", value_parser = value::label)]
    pub label: Vec<(String, String)>,
    /// What it runs, in place of what the VM's image does
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<String>,
}
