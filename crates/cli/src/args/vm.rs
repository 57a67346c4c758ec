use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::{MachineArgs, Place, SourceArgs, VmSelection, parse_place, value};

#[derive(Debug, Subcommand)]
pub(crate) enum VmCommand {
    /// Make a VM and start it
    Create(Box<CreateArgs>),
    /// Start VMs; a running one is left alone
    Start(StartArgs),
    /// Stop VMs; their disks stay
    Stop(ChangeArgs),
    /// Stop VMs and start them again
    Restart(ChangeArgs),
    /// Delete VMs with their disks
    Delete(DeleteArgs),
    /// List VMs
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Show all that is known of VMs
    Show(ShowArgs),
    /// Run a program in a VM, files in and out
    Run(VmRunArgs),
    /// Run a command in one VM or in many
    Exec(Box<ExecArgs>),
    /// Print a VM's log
    Logs(LogsArgs),
    /// Attach to a VM's serial console
    Console(ConsoleArgs),
    /// Copy files into and out of a VM
    Cp(CopyArgs),
    /// Stop and delete VMs with all they have
    Clean(CleanArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  inn vm create --image base --name web --cpus 2 --memory 512MiB
  inn vm create --language python --persist
  inn vm create --image base --name web --replace --network none -- sleep infinity
  inn vm create --image base --kernel ./vmlinux --kernel-args 'quiet'

The VM is started, unless --no-start says otherwise, and its name is printed
once its guest agent has answered.")]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    pub source: SourceArgs,
    #[command(flatten)]
    pub machine: MachineArgs,
    /// What happens when the VM ends by itself
    #[arg(long, value_enum, default_value_t, value_name = "POLICY")]
    pub restart_policy: RestartArg,
    /// Leave it stopped
    #[arg(long)]
    pub no_start: bool,
    /// The VM's workload, in place of the image's CMD
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum RestartArg {
    /// It stays stopped
    #[default]
    No,
    /// It is started again unless it was shut down in order
    OnFailure,
    /// It is started again
    Always,
}

impl From<RestartArg> for inn_api::RestartPolicy {
    fn from(policy: RestartArg) -> Self {
        match policy {
            RestartArg::No => Self::No,
            RestartArg::OnFailure => Self::OnFailure,
            RestartArg::Always => Self::Always,
        }
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  inn vm start web
  inn vm start --vm web --vm db
  inn vm start --all")]
pub(crate) struct StartArgs {
    #[command(flatten)]
    pub vms: VmSelection,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  inn vm stop web            inn vm restart web
  inn vm stop --all --force  inn vm restart web --force")]
pub(crate) struct ChangeArgs {
    #[command(flatten)]
    pub vms: VmSelection,
    /// End the machine without asking the guest
    #[arg(short, long)]
    pub force: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  inn vm delete web
  inn vm delete --all --force
  inn vm delete web --keep-disk

A /persist disk outlives its VM; `inn vm clean` removes that too.")]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    pub vms: VmSelection,
    /// End a running machine without asking the guest
    #[arg(short, long)]
    pub force: bool,
    /// Leave the VM's writable disk where it is
    #[arg(long)]
    pub keep_disk: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  inn vm clean --all
  inn vm clean --vm web --keep-persist

Ends VMs at once and removes them with their disks, the /persist disk included.")]
pub(crate) struct CleanArgs {
    #[command(flatten)]
    pub vms: VmSelection,
    /// Leave /persist disks for VMs of the same names to come
    #[arg(long)]
    pub keep_persist: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  inn vm list                     active VMs
  inn vm list --all               stopped and failed ones too
  inn vm list --status failed
  inn vm list -o json")]
pub(crate) struct ListArgs {
    /// Also those that are stopped or failed
    #[arg(short, long)]
    pub all: bool,
    /// Only those in this state
    #[arg(short, long, value_enum, value_name = "STATUS")]
    pub status: Option<StatusArg>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum StatusArg {
    Pending,
    Preparing,
    Starting,
    Running,
    Stopping,
    Stopped,
    Failed,
    Deleting,
}

impl From<StatusArg> for inn_api::Phase {
    fn from(status: StatusArg) -> Self {
        match status {
            StatusArg::Pending => Self::Pending,
            StatusArg::Preparing => Self::Preparing,
            StatusArg::Starting => Self::Starting,
            StatusArg::Running => Self::Running,
            StatusArg::Stopping => Self::Stopping,
            StatusArg::Stopped => Self::Stopped,
            StatusArg::Failed => Self::Failed,
            StatusArg::Deleting => Self::Deleting,
        }
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  inn vm show web
  inn vm show web -o json")]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    pub vms: VmSelection,
}

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
  inn vm exec py --hello

With one VM the exit code is the command's own: 128+N when signal N ended it,
124 when --timeout ran out. With several it is 1 when any of them failed.")]
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
    /// The command, without a shell
    #[arg(last = true, value_name = "ARGV", conflicts_with = "cmd")]
    pub command: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  inn vm logs web
  inn vm logs -f --tail 20 web
  inn vm logs --source console web")]
pub(crate) struct LogsArgs {
    /// A VM's name or id
    #[arg(value_name = "VM", required_unless_present = "flagged", conflicts_with = "flagged")]
    pub positional: Option<String>,
    /// The same as a flag
    #[arg(id = "flagged", long = "vm", value_name = "VM")]
    pub flagged: Option<String>,
    /// Go on with what comes
    #[arg(short, long)]
    pub follow: bool,
    /// Only the last so many lines
    #[arg(short = 'n', long, value_name = "N")]
    pub tail: Option<u64>,
    /// Which log
    #[arg(long, value_enum, default_value_t, value_name = "SOURCE")]
    pub source: LogSourceArg,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogSourceArg {
    /// What the image's command prints
    #[default]
    Workload,
    /// The serial console: the kernel and the guest agent
    Console,
    /// The VM's monitor process on the host
    Vmm,
}

impl From<LogSourceArg> for inn_client::LogSource {
    fn from(source: LogSourceArg) -> Self {
        match source {
            LogSourceArg::Workload => Self::Workload,
            LogSourceArg::Console => Self::Console,
            LogSourceArg::Vmm => Self::Vmm,
        }
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  inn vm console web

Ctrl-] leaves; the VM goes on.")]
pub(crate) struct ConsoleArgs {
    /// A VM's name or id
    #[arg(value_name = "VM", required_unless_present = "flagged", conflicts_with = "flagged")]
    pub positional: Option<String>,
    /// The same as a flag
    #[arg(id = "flagged", long = "vm", value_name = "VM")]
    pub flagged: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  inn vm cp ./main.py web:/root/main.py
  inn vm cp ./site web:/srv/                  makes /srv/site
  inn vm cp web:/var/log ./logs
  inn vm cp web:/etc/hostname -               to stdout
  tar c . | gzip | inn vm cp - web:/tmp/all.tar.gz

A destination that ends in / is a directory to copy into; any other is the
copy's own path. Directories are copied whole.")]
pub(crate) struct CopyArgs {
    /// A path here, VM:/PATH, or - for stdin
    #[arg(value_name = "SRC", value_parser = parse_place)]
    pub source: Place,
    /// A path here, VM:/PATH, or - for stdout
    #[arg(value_name = "DST", value_parser = parse_place)]
    pub destination: Place,
}
