//! The command line's grammar: one struct for each command, nothing done here.

mod agent;
mod benchmark;
mod build;
mod cloud_init;
mod commit;
mod deferred;
mod doctor;
mod events;
mod exec;
mod export;
mod files;
mod guest;
mod guest_binary;
mod image;
mod limits;
mod machine;
mod network;
mod node;
mod pull;
mod run;
mod select;
mod snapshot;
mod stats;
mod token;
mod value;
mod vm;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use agent::{AgentAction, AgentArgs};
pub(crate) use benchmark::BenchmarkArgs;
pub(crate) use build::BuildArgs;
pub(crate) use cloud_init::CloudInitArgs;
pub(crate) use commit::CommitArgs;
pub(crate) use deferred::Deferred;
pub(crate) use doctor::DoctorArgs;
pub(crate) use events::EventsArgs;
pub(crate) use exec::{AttachArgs, ExecArgs, ExecsArgs, KillArgs, ProgramArgs, VmRunArgs};
pub(crate) use export::ExportArgs;
pub(crate) use files::{CopyArgs, FilesCommand, SameVmPath};
pub(crate) use guest::{GuestCommand, NetworkArgs, SshKeysArgs};
pub(crate) use guest_binary::GuestBinaryCommand;
pub(crate) use image::{
    BuildKernelArgs, GcArgs, ImageCommand, ImportArgs, KernelCommand, LanguageCommand,
};
pub(crate) use limits::{LimitArgs, VmLimitsArgs};
pub(crate) use machine::{
    IdleActionArg, MachineArgs, SourceArgs, TtlActionArg, disk_image_url, file_url, on_idle,
};
pub(crate) use network::{
    IpArgs, KindArg, NetworkCommand, NetworkCreateArgs, PolicyModeArg, PortAddArgs, PortCommand,
    VmPolicyArgs,
};
pub(crate) use node::{
    DrainArgs, NodeCommand, ShutdownGuestsArgs, UsageArgs, UsageCommand, VerifyUsageArgs,
};
pub(crate) use pull::{PullArgs, PullWhen};
pub(crate) use run::RunArgs;
pub(crate) use select::{OneVm, VmSelection, VmTargets};
pub(crate) use snapshot::{ForkArgs, ReceiptArgs, RestoreArgs, SnapshotArgs, SnapshotCommand};
pub(crate) use stats::{SortArg, StatsArgs, TopArgs};
pub(crate) use token::{ScopeArg, TokenCommand, TokenCreateArgs};
pub(crate) use value::seconds_up;
pub(crate) use value::{GuestPath, Place, parse_place};
pub(crate) use vm::{
    ChangeArgs, CleanArgs, ConsoleArgs, CreateArgs, DeleteArgs, IdleArgs, ListArgs, LogsArgs,
    PauseArgs, ResumeArgs, ShowArgs, StartArgs, TtlArgs, VmCommand, VncArgs, WhyArgs,
};

/// Innkeeper: virtual machines from OCI images, on this host.
#[derive(Debug, Parser)]
#[command(
    name = "inn",
    version,
    subcommand_required = true,
    arg_required_else_help = true,
    infer_subcommands = false,
    after_help = "Examples:
  inn image import ./base.tar --name base     make an image bootable
  inn run --rm base -- uname -a               run one command in a fresh VM
  inn vm create --image base --name web       make a VM that stays
  inn vm exec web -- cat /etc/os-release      run a command in it
  inn vm list --all                           what is there

An agent does the work; the first command starts one when none runs."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub globals: Globals,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Globals {
    /// How results are printed
    #[arg(short, long, global = true, value_enum, default_value_t, value_name = "FORM")]
    pub output: OutputForm,
    /// The agent's socket; nothing is started when it does not answer
    #[arg(long, global = true, env = "INN_SOCKET", hide_env_values = true, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// An agent over TCP, as in https://node-1:5100; the token is in INN_TOKEN
    #[arg(long, global = true, env = "INN_API_URL", hide_env_values = true, value_name = "URL")]
    pub host: Option<String>,
    /// Fails when no agent runs; INN_AUTOSTART=0 does the same
    #[arg(long, global = true)]
    pub no_autostart: bool,
    /// Prints results and errors, no progress and no notes
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// error, warn, info, debug or trace, or a filter such as inn_node=debug
    #[arg(long, global = true, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// Where log lines go, as JSON; stderr otherwise
    #[arg(long, global = true, value_name = "PATH")]
    pub log_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputForm {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
    /// For spreadsheets: of `inn node usage` alone
    Csv,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a command in a fresh VM
    Run(Deferred<Box<RunArgs>>),
    /// Make, use and remove VMs
    #[command(
        subcommand,
        arg_required_else_help = true,
        after_help = "Examples:
  inn vm create --image base --name web
  inn vm exec web -- cat /etc/os-release
  inn vm list
  inn vm why web                              why it is not as it should be
  inn vm delete web"
    )]
    Vm(Deferred<VmCommand>),
    /// Bring, list and delete images
    #[command(
        subcommand,
        arg_required_else_help = true,
        after_help = "Examples:
  inn image import ./base.tar --name base
  inn image list
  inn image delete base"
    )]
    Image(Deferred<ImageCommand>),
    /// Show this node and its host, and take it out of service for a while
    #[command(
        subcommand,
        arg_required_else_help = true,
        after_help = "Examples:
  inn node show                               what it has and lends its VMs
  inn node resources                          what its host is
  inn node benchmark                          how fast its disk is
  inn node drain --stop-vms                   before work on the host
  inn node undrain"
    )]
    Node(Deferred<NodeCommand>),
    /// Say what this host lacks, what follows from it, and what mends it
    Doctor(DoctorArgs),
    /// Make, list and delete networks that VMs can be on
    #[command(
        subcommand,
        arg_required_else_help = true,
        after_help = "Examples:
  inn network create web --peers
  inn run --network web base
  inn network list"
    )]
    Network(Deferred<NetworkCommand>),
    /// Work with snapshots: VMs' memory and disk, saved
    #[command(subcommand, arg_required_else_help = true)]
    Snapshot(Deferred<SnapshotCommand>),
    /// Map ports of this host to VMs
    #[command(
        subcommand,
        arg_required_else_help = true,
        after_help = "Examples:
  inn port add 8080:80 --vm web
  inn port list
  inn port delete 8080/tcp"
    )]
    Port(Deferred<PortCommand>),
    /// Bring the agent for full VMs, which answers from within them
    #[command(
        subcommand,
        arg_required_else_help = true,
        after_help = "Examples:
  inn guest export ./guest"
    )]
    Guest(Deferred<GuestBinaryCommand>),
    /// Show what has happened on the node, and what happens
    Events(EventsArgs),
    /// Say who may use the API over TCP
    #[command(
        subcommand,
        arg_required_else_help = true,
        after_help = "Examples:
  inn token create --scope read --name dashboard --ttl 30d
  inn token list
  inn token revoke dashboard"
    )]
    Token(Deferred<TokenCommand>),
    /// Run the agent in the foreground
    Agent(Deferred<Box<AgentArgs>>),
    /// Print a completion script for a shell
    #[command(after_help = "Examples:
  inn completion bash > /etc/bash_completion.d/inn
  inn completion zsh > ~/.zfunc/_inn
  inn completion fish > ~/.config/fish/completions/inn.fish")]
    Completion {
        #[arg(value_name = "SHELL")]
        shell: clap_complete::Shell,
    },
    /// Print the description of the agent's API
    #[command(hide = true, after_help = "Examples:\n  inn openapi > docs/openapi.json")]
    Openapi,
}
