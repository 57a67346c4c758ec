use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{MachineArgs, value};
use crate::language::Language;

/// Makes a VM, runs a command in it and ends with that command's exit code.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  inn run --rm base -- python3 -c 'print(6 * 7)'
  inn run --rm -i -t base -- bash             a shell; the VM goes with it
  echo hello | inn run --rm -i base -- wc -c
  inn run --rm --language python --file ./main.py --out ./results
  inn run --rm --from-snapshot golden -- ./job
  inn run --rm --network none --timeout 30s --memory 256MiB base -- ./untrusted

Exit codes: the command's own; 128+N when signal N ended it; 124 when --timeout
ran out; 2 for a wrong command line; 1 when the VM could not run it.")]
pub(crate) struct RunArgs {
    /// A local image, by name or digest
    #[arg(value_name = "IMAGE", required_unless_present_any = ["language", "from_snapshot"])]
    pub image: Option<String>,
    /// A snapshot that it goes on from, with the memory, disk and settings of
    /// the VM that was saved
    #[arg(long, value_name = "SNAPSHOT", conflicts_with_all = super::machine::NOT_RESTORED)]
    pub from_snapshot: Option<String>,
    /// Delete the VM with the command's end; it lives no longer than this program
    #[arg(long)]
    pub rm: bool,
    /// Hand our stdin to the command
    #[arg(short, long)]
    pub interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// End the command when it runs longer, such as 30s or 5m
    #[arg(long, value_name = "DURATION", value_parser = value::duration)]
    pub timeout: Option<Duration>,
    /// What the VM speaks; picks the configured image unless IMAGE does
    #[arg(long, value_enum)]
    pub language: Option<Language>,
    /// A program: put at /in and run by its language's interpreter
    #[arg(long, value_name = "PATH")]
    pub file: Option<PathBuf>,
    /// Bring what the command leaves in /out to this directory
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    #[command(flatten)]
    pub machine: MachineArgs,
    /// The command; the image's own when there is none
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<String>,
}
