use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Args, Command, FromArgMatches, value_parser};
use inn_node::config::{KEYS, Key, Kind};

/// A flag for each key of the configuration, made from the agent's own list,
/// so that none can be missing here. Values are read where the file's are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct AgentArgs {
    /// The file in place of the system's.
    pub config: Option<PathBuf>,
    /// Keys and values.
    pub settings: Vec<(String, String)>,
    pub action: AgentAction,
    /// Of an upgrade: the new program.
    pub program: Option<PathBuf>,
    /// Of an upgrade: leased VMs may end.
    pub end_leased: bool,
}

/// What is done with the configuration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum AgentAction {
    /// An agent runs with it.
    #[default]
    Serve,
    /// It is read and shown.
    Check,
    /// The example file is printed.
    PrintExample,
    /// What docs/configuration.md holds is printed.
    PrintDocumentation,
    /// The newest schema of the state that this program knows is printed.
    PrintStateSchema,
    /// The agent that runs is asked to read it again.
    Reload,
    /// The agent that runs is to go on as another program.
    Upgrade,
}

/// Keys that have a global flag already.
const GLOBAL: [&str; 2] = ["log", "log_file"];

const RELOAD: &str = "reload";
const UPGRADE: &str = "upgrade";
const PROGRAM: &str = "program";
const END_LEASED: &str = "end-leased";
const SCHEMA: &str = "print-state-schema";
const CHECK: &str = "check-config";
const EXAMPLE: &str = "print-config-example";
const DOCUMENTATION: &str = "print-config-documentation";

/// `kernel.path` is --kernel-path.
fn flag(key: &str) -> String {
    key.replace(['_', '.'], "-")
}

fn keys() -> impl Iterator<Item = &'static Key> {
    KEYS.iter().filter(|key| !GLOBAL.contains(&key.name))
}

/// The key's sentences as clap shows them: without the last full stop, and with
/// the default that counts for root.
fn help(key: &Key) -> String {
    let about = key.about.strip_suffix('.').unwrap_or(key.about);
    match key.default_text() {
        Some(default) => format!("{about} [default: {default}]"),
        None => about.to_owned(),
    }
}

fn value_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "VALUE",
        Kind::Path => "PATH",
        Kind::Duration => "DURATION",
        Kind::Size => "SIZE",
        Kind::Number => "N",
        Kind::Switch => "true|false",
    }
}

impl Args for AgentArgs {
    fn augment_args(command: Command) -> Command {
        let config = Arg::new("config")
            .long("config")
            .value_name("PATH")
            .value_parser(value_parser!(PathBuf))
            .help("The configuration, in place of /etc/innkeeper/agent.toml");
        let action = |name: &'static str, help: &'static str| {
            Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
        };
        let check = action(CHECK, "Read the configuration and show each value with its origin");
        let example = action(EXAMPLE, "Print an agent.toml with every key and its default");
        let documentation = action(DOCUMENTATION, "Print docs/configuration.md").hide(true);
        let schema =
            action(SCHEMA, "Print the newest schema of the state that is known").hide(true);
        let actions = ArgGroup::new("action").args([CHECK, EXAMPLE, DOCUMENTATION, SCHEMA]);
        let command = command.args([config, check, example, documentation, schema]).group(actions);
        let reload = Command::new(RELOAD)
            .about("Have the agent that runs read its configuration again")
            .after_help("Examples:\n  inn agent reload\n\nSIGHUP does the same.");
        let program = Arg::new(PROGRAM)
            .long(PROGRAM)
            .value_name("PATH")
            .value_parser(value_parser!(PathBuf))
            .help("The new program, in place of the file that the agent was started from");
        let end_leased = action(END_LEASED, "Let leased VMs (`inn run --rm`) end with it");
        let upgrade = Command::new(UPGRADE)
            .about("Have the agent that runs go on as the program that has replaced it")
            .args([program, end_leased])
            .after_help(
                "Examples:
  inn agent upgrade
  inn agent upgrade --program /opt/inn-next/inn

The new program is tried first: whether it runs, takes the configuration and
knows the state. Where it does not, the agent goes on. VMs and what runs in them
go on, `inn vm exec` with it, and requests that come meanwhile wait.",
            );
        let command = command.subcommands([reload, upgrade]).args_conflicts_with_subcommands(true);
        let command = command.after_help(
            "Examples:
  inn agent
  inn agent --check-config --config ./agent.toml
  inn agent --print-config-example > /etc/innkeeper/agent.toml
  inn agent --data-dir /srv/inn --api-listen none
  inn agent --config ./agent.toml --log-level debug

Each setting is also a key of the configuration (kernel.path for --kernel-path)
and a variable (INN_KERNEL_PATH): a flag comes before the environment, that
before the file. SIGTERM ends the agent; VMs run on, but for leased ones.
SIGHUP reads the configuration again, unless the agent's terminal has closed.",
        );
        keys().fold(command, |command, key| {
            command.arg(
                Arg::new(key.name)
                    .long(flag(key.name))
                    .value_name(value_name(key.kind))
                    .help(help(key))
                    .help_heading("Settings"),
            )
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for AgentArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let settings = keys()
            .filter_map(|key| {
                let value = matches.get_one::<String>(key.name)?;
                Some((key.name.to_owned(), value.clone()))
            })
            .collect();
        let upgrade = matches.subcommand_matches(UPGRADE);
        let action = if matches.subcommand_name() == Some(RELOAD) {
            AgentAction::Reload
        } else if upgrade.is_some() {
            AgentAction::Upgrade
        } else if matches.get_flag(SCHEMA) {
            AgentAction::PrintStateSchema
        } else if matches.get_flag(CHECK) {
            AgentAction::Check
        } else if matches.get_flag(EXAMPLE) {
            AgentAction::PrintExample
        } else if matches.get_flag(DOCUMENTATION) {
            AgentAction::PrintDocumentation
        } else {
            AgentAction::Serve
        };
        Ok(Self {
            config: matches.get_one::<PathBuf>("config").cloned(),
            settings,
            action,
            program: upgrade.and_then(|matches| matches.get_one::<PathBuf>(PROGRAM).cloned()),
            end_leased: upgrade.is_some_and(|matches| matches.get_flag(END_LEASED)),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
