use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use inn_units::parse_duration;

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token
    Create(TokenCreateArgs),
    /// List tokens, and those that are good no more
    #[command(
        visible_alias = "ls",
        after_help = "Examples:\n  inn token list\n  inn token list -o json"
    )]
    List,
    /// Take tokens' powers away, at once
    #[command(
        visible_alias = "rm",
        after_help = "Examples:\n  inn token revoke ci\n  inn token revoke 5f0c9a1be2d34407 old-laptop"
    )]
    Revoke {
        /// Names or ids of tokens
        #[arg(value_name = "TOKEN", required = true)]
        tokens: Vec<String>,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  inn token create --scope read --name dashboard
  inn token create --scope operate --vm web --vm db --ttl 30d
  TOKEN=$(inn token create --scope operate --name ci | tail -n 1)

The last line of the output is the token; nobody can tell it a second time.
With --vm there are no other VMs for it, and nothing that is about the whole
node: it cannot make VMs. It keeps to these very VMs: one that replaces them,
under their name, is another.")]
pub(crate) struct TokenCreateArgs {
    /// What it is good for: looking, working with VMs, or everything
    #[arg(long, value_enum)]
    pub scope: ScopeArg,
    /// A VM that it is limited to; repeats
    #[arg(long = "vm", value_name = "VM")]
    pub vms: Vec<String>,
    /// What it is called; made up unless given
    #[arg(long)]
    pub name: Option<String>,
    /// How long it is good, as in 12h or 30d; for ever unless given
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    pub ttl: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ScopeArg {
    /// Looks, and sees no secret
    Read,
    /// Makes, changes and enters VMs
    Operate,
    /// Everything, such as making tokens
    Admin,
}
