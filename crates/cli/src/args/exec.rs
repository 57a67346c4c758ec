use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use inn_units::{Bytes, ExecId};

use super::{OneVm, VmSelection, value};

/// What to run in a VM that is there, and how.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Program options")]
pub(crate) struct ProgramArgs {
    /// A command line for the VM's shell
    #[arg(long, value_name = "STRING", allow_hyphen_values = true)]
    pub cmd: Option<String>,
    /// A program: put at /in, which is where the command runs; without a
    /// command its language's interpreter runs it
    #[arg(long, value_name = "PATH")]
    pub file: Option<PathBuf>,
    /// Bring what the command leaves in /out to this directory
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// End the command when it runs longer, such as 30s or 5m
    #[arg(long, value_name = "DURATION", value_parser = value::duration)]
    pub timeout: Option<Duration>,
    /// A variable for the command; without =VALUE, its value here
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = value::variable)]
    pub env: Vec<(String, String)>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  inn vm run --vm web --cmd 'python3 main.py' --file ./main.py
  inn vm run --vm py --file ./main.py --timeout 30 --out ./results
  inn vm run --all --cmd 'uptime'

With one VM the exit code is the command's own; with several it is 1 when any
of them failed.")]
pub(crate) struct VmRunArgs {
    #[command(flatten)]
    pub vms: VmSelection,
    #[command(flatten)]
    pub program: ProgramArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  inn vm exec web -- cat /etc/os-release
  inn vm exec web --cmd 'ps | wc -l'
  inn vm exec -i -t web -- bash
  inn vm exec --all --cmd uptime              lines are labelled by VM
  inn vm exec --vm a --vm b --file ./main.py
  inn vm exec -d web -- ./backup              prints an id for `inn vm attach`
  inn vm exec py --hello

With one VM the exit code is the command's own: 128+N when signal N ended it,
124 when --timeout or the node's own maximum ran out. With several it is 1 when
any of them failed.")]
pub(crate) struct ExecArgs {
    #[command(flatten)]
    pub vms: VmSelection,
    #[command(flatten)]
    pub program: ProgramArgs,
    /// Run a hello world that fits the VM's language
    #[arg(long, conflicts_with_all = ["cmd", "file", "command"])]
    pub hello: bool,
    /// The user to run as, by name or number, with a group after a colon
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// The directory to run in
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// Hand our stdin to the command
    #[arg(short, long)]
    pub interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Leave the command running by itself and print its id
    #[arg(short, long, conflicts_with = "out")]
    pub detach: bool,
    /// Drop what the command prints beyond so much, and say how much that was
    #[arg(long, value_name = "SIZE")]
    pub output_limit: Option<Bytes>,
    /// The command, without a shell
    #[arg(last = true, value_name = "ARGV", conflicts_with = "cmd")]
    pub command: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  inn vm execs web
  inn vm execs web -o json

Those that have ended are kept for a while, so that their output and exit code
can still be had with `inn vm attach`.")]
pub(crate) struct ExecsArgs {
    #[command(flatten)]
    pub vm: OneVm,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  id=$(inn vm exec -d web -- ./backup) && inn vm attach web $id
  inn vm attach web 0123456789abcdef --offset 4096
  inn vm attach -i web 0123456789abcdef

Prints what is kept of the command's output and goes on with what comes. The
exit code is the command's own. Ctrl-C leaves, and the command goes on; with -i
on a command that has a terminal, Ctrl-C is the command's and Ctrl-] leaves.
When the agent restarts meanwhile, the output goes on where it was.")]
pub(crate) struct AttachArgs {
    /// A VM's name or id
    #[arg(value_name = "VM")]
    pub vm: String,
    /// The command's id, as `inn vm execs` lists it
    #[arg(value_name = "EXEC")]
    pub exec: ExecId,
    /// Leave out so many bytes of the output's beginning
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub offset: u64,
    /// Hand our stdin to the command
    #[arg(short, long)]
    pub interactive: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  inn vm kill web 0123456789abcdef
  inn vm kill web 0123456789abcdef --signal KILL
  inn vm kill web 0123456789abcdef -s 10

The signal goes to the command and to all that it has started.")]
pub(crate) struct KillArgs {
    /// A VM's name or id
    #[arg(value_name = "VM")]
    pub vm: String,
    /// The command's id, as `inn vm execs` lists it
    #[arg(value_name = "EXEC")]
    pub exec: ExecId,
    /// A signal's name, with or without SIG, or its number
    #[arg(short, long, value_name = "SIGNAL", default_value = "TERM", value_parser = value::signal)]
    pub signal: String,
}
