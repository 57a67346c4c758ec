use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;

use super::{
    AttachArgs, CloudInitArgs, CommitArgs, CopyArgs, Deferred, ExecArgs, ExecsArgs, FilesCommand,
    ForkArgs, GuestCommand, IdleActionArg, IpArgs, KillArgs, MachineArgs, OneVm, ReceiptArgs,
    SnapshotArgs, SourceArgs, StatsArgs, TopArgs, TtlActionArg, VmLimitsArgs, VmPolicyArgs,
    VmRunArgs, VmSelection, value,
};

#[derive(Debug, Subcommand)]
pub(crate) enum VmCommand {
    /// Make a VM and start it
    Create(Deferred<Box<CreateArgs>>),
    /// Start VMs; a running one is left alone
    Start(StartArgs),
    /// Stop VMs; their disks stay
    Stop(ChangeArgs),
    /// Stop VMs and start them again
    Restart(ChangeArgs),
    /// Have VMs stand still, with all of their memory
    Pause(PauseArgs),
    /// Let paused VMs go on
    Resume(ResumeArgs),
    /// Give a VM another time to live
    Ttl(TtlArgs),
    /// Say what becomes of a VM when nobody uses it
    Idle(IdleArgs),
    /// Delete VMs with their disks
    Delete(DeleteArgs),
    /// List VMs
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Show all that is known of VMs
    Show(ShowArgs),
    /// Explain why a VM is as it is, and what to do next
    Why(WhyArgs),
    /// Watch what VMs use, live
    Top(TopArgs),
    /// Show what a VM's guest uses, now and over a time
    Stats(StatsArgs),
    /// Show and change what a VM's machine may use of the node
    Limits(Box<VmLimitsArgs>),
    /// Save a VM's memory and disk, for others to begin from
    Snapshot(SnapshotArgs),
    /// Make VMs that begin from one that runs, or from a snapshot
    Fork(ForkArgs),
    /// Show what the guest of a forked or restored VM has confirmed
    Receipt(ReceiptArgs),
    /// Make an image of a VM's disk
    Commit(CommitArgs),
    /// Print a VM's address
    Ip(IpArgs),
    /// Show or change what a VM may reach
    Policy(VmPolicyArgs),
    /// Run a program in a VM, files in and out
    Run(VmRunArgs),
    /// Run a command in one VM or in many
    Exec(Box<ExecArgs>),
    /// List the commands that run in a VM or have ended there
    Execs(ExecsArgs),
    /// Take up the output of a command that runs in a VM
    Attach(AttachArgs),
    /// Send a signal to a command that runs in a VM
    Kill(KillArgs),
    /// Print a VM's log
    Logs(LogsArgs),
    /// Attach to a VM's serial console
    Console(ConsoleArgs),
    /// Show a VM's screen at a local address, by VNC
    Vnc(VncArgs),
    /// Copy files into and out of a VM
    Cp(CopyArgs),
    /// Look at and change single files in a VM
    #[command(subcommand, arg_required_else_help = true)]
    Files(FilesCommand),
    /// Change what is inside a VM: password, network, clock, disks and more
    #[command(subcommand, arg_required_else_help = true)]
    Guest(GuestCommand),
    /// Stop and delete VMs with all they have
    Clean(CleanArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  inn vm create --image base --name web --cpus 2 --memory 512MiB
  inn vm create --language python --persist
  inn vm create --from-snapshot golden --name web-2
  inn vm create --image base --name web --replace --network none -- sleep infinity
  inn vm create --image base --kernel ./vmlinux --kernel-args 'quiet'
  inn vm create --disk-image ./debian-12.qcow2 --disk 10GiB --memory 1GiB --cloud-init
  inn vm create --disk-image ./debian-12.qcow2 --name db --user ada \\
      --ssh-key ~/.ssh/id_ed25519.pub --package postgresql --cloud-init ./user-data

The VM is started, unless --no-start says otherwise, and its name is printed
once its guest agent has answered.")]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    pub source: SourceArgs,
    #[command(flatten)]
    pub machine: MachineArgs,
    #[command(flatten)]
    pub cloud_init: CloudInitArgs,
    /// What happens when the VM, or the workload in it, ends by itself
    #[arg(
        long,
        value_enum,
        default_value_t,
        value_name = "POLICY",
        conflicts_with = "from_snapshot"
    )]
    pub restart_policy: RestartArg,
    /// Leave it stopped
    #[arg(long, conflicts_with = "from_snapshot")]
    pub no_start: bool,
    /// The VM's workload, in place of the image's CMD
    #[arg(last = true, value_name = "CMD", conflicts_with = "from_snapshot")]
    pub command: Vec<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum RestartArg {
    /// It stays stopped
    #[default]
    No,
    /// It is started again unless it ended in order
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
  inn vm pause web
  inn vm pause --all

Its CPUs stop and its memory stays, until it is resumed, started or stopped. It
stays paused whatever becomes of the agent; a restart of the host ends it.")]
pub(crate) struct PauseArgs {
    #[command(flatten)]
    pub vms: VmSelection,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  inn vm resume web
  inn vm resume --all")]
pub(crate) struct ResumeArgs {
    #[command(flatten)]
    pub vms: VmSelection,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  inn vm stop web            inn vm restart web
  inn vm stop --all --force  inn vm restart web --force

All VMs to be stopped are those that run and those that rest, being idle: whoever
needed these would wake them. One that is asleep loses the memory that was saved.
The guest is asked to shut down first. Where it does not in time the machine is
ended; which of the two it was is said for each VM.")]
pub(crate) struct ChangeArgs {
    #[command(flatten)]
    pub vms: VmSelection,
    /// End the machine without asking the guest
    #[arg(short, long)]
    pub force: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  inn vm ttl web 30m               half an hour from now on
  inn vm ttl web 8h --action stop
  inn vm ttl web none              it stays")]
pub(crate) struct TtlArgs {
    /// The VM's name or id
    #[arg(value_name = "VM")]
    pub vm: String,
    /// How long it lives from now on, or none
    #[arg(value_name = "TIME", value_parser = time_or_none)]
    pub ttl: TimeOrNone,
    /// What becomes of it then; as it was, or delete, unless given
    #[arg(long, value_enum, value_name = "ACTION")]
    pub action: Option<TtlActionArg>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  inn vm idle web pause                 ten minutes after its last use it stands still
  inn vm idle web snapshot --after 1h   its memory is saved, and taken up again
  inn vm idle web stop --after 1h
  inn vm idle web never

Used is a VM with a command that runs or is attached, a file call, an open
console, or traffic of its own; what its CPUs do is no use. One that rests is
woken by whoever needs its guest, and by `inn vm start`.")]
pub(crate) struct IdleArgs {
    /// The VM's name or id
    #[arg(value_name = "VM")]
    pub vm: String,
    /// What becomes of it, or never
    #[arg(value_name = "ACTION", value_parser = action_or_never)]
    pub action: ActionOrNever,
    /// After how long without use
    #[arg(long, value_name = "TIME", value_parser = value::duration, default_value = "10m")]
    pub after: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ActionOrNever(pub Option<IdleActionArg>);

fn action_or_never(text: &str) -> Result<ActionOrNever, String> {
    match text {
        "never" => Ok(ActionOrNever(None)),
        text => IdleActionArg::from_str(text, false)
            .map(|action| ActionOrNever(Some(action)))
            .map_err(|_| format!("{text} is none of pause, snapshot, stop and never")),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimeOrNone(pub Option<Duration>);

fn time_or_none(text: &str) -> Result<TimeOrNone, String> {
    match text {
        "none" => Ok(TimeOrNone(None)),
        text => value::duration(text).map(|d| TimeOrNone(Some(d))).map_err(|e| e.to_string()),
    }
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

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  inn vm why web
  inn vm why web -o json

What is desired and what is there, the step that it is at or failed in with its
causes, how long each phase of its last start took against its budget, the
console's last lines, and what to do next as a command to paste.")]
pub(crate) struct WhyArgs {
    #[command(flatten)]
    pub vm: OneVm,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  inn vm logs web
  inn vm logs -f --tail 20 web
  inn vm logs --source console --since 10m web")]
pub(crate) struct LogsArgs {
    #[command(flatten)]
    pub vm: OneVm,
    /// Go on with what comes
    #[arg(short, long)]
    pub follow: bool,
    /// Only the last so many lines
    #[arg(short = 'n', long, value_name = "N")]
    pub tail: Option<u64>,
    /// Only what is as young as this, such as 10m, or was written after this
    /// time; begins up to a second early, or a hundredth of its age
    #[arg(long, value_name = "TIME", value_parser = super::events::since)]
    pub since: Option<Timestamp>,
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
    /// What the agent has done with the VM, and why
    Agent,
}

impl From<LogSourceArg> for inn_client::LogSource {
    fn from(source: LogSourceArg) -> Self {
        match source {
            LogSourceArg::Workload => Self::Workload,
            LogSourceArg::Console => Self::Console,
            LogSourceArg::Vmm => Self::Vmm,
            LogSourceArg::Agent => Self::Agent,
        }
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  inn vm console web

Ctrl-] leaves; the VM goes on.")]
pub(crate) struct ConsoleArgs {
    #[command(flatten)]
    pub vm: OneVm,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  inn vm vnc deb                          then: vncviewer 127.0.0.1::5901
  inn vm vnc deb --listen 127.0.0.1:0     at any free port
  inn vm vnc deb -o json

Full VMs have a screen. The address and a password are printed; each call makes
another password. Ctrl-C ends it, and the VM goes on.")]
pub(crate) struct VncArgs {
    #[command(flatten)]
    pub vm: OneVm,
    /// Where viewers connect to
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:5901")]
    pub listen: SocketAddr,
}
