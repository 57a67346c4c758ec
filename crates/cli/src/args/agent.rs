use std::path::PathBuf;

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, value_parser};
use inn_node::config::KEYS;

/// A flag for each key of the configuration, made from the agent's own list,
/// so that none can be missing here. Values are read where the file's are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct AgentArgs {
    /// The file in place of the system's.
    pub config: Option<PathBuf>,
    /// Keys and values.
    pub settings: Vec<(String, String)>,
}

/// Keys that have a global flag already.
const GLOBAL: [&str; 2] = ["log", "log_file"];

/// `kernel.path` is --kernel-path.
fn flag(key: &str) -> String {
    key.replace(['_', '.'], "-")
}

fn keys() -> impl Iterator<Item = (&'static str, &'static str)> {
    KEYS.iter().copied().filter(|(key, _)| !GLOBAL.contains(key))
}

impl Args for AgentArgs {
    fn augment_args(command: Command) -> Command {
        let config = Arg::new("config")
            .long("config")
            .value_name("PATH")
            .value_parser(value_parser!(PathBuf))
            .help("The configuration, in place of /etc/innkeeper/agent.toml");
        let command = command.arg(config).after_help(
            "Examples:
  inn agent
  inn agent --data-dir /srv/inn --api-listen none
  inn agent --config ./agent.toml --log-level debug

Each setting is also a key of the configuration (kernel.path for --kernel-path)
and a variable (INN_KERNEL_PATH): a flag comes before the environment, that
before the file. SIGTERM ends the agent; VMs run on, but for leased ones.",
        );
        keys().fold(command, |command, (key, what)| {
            let mut about = what.to_owned();
            if let Some(first) = about.get_mut(..1) {
                first.make_ascii_uppercase();
            }
            command.arg(
                Arg::new(key)
                    .long(flag(key))
                    .value_name("VALUE")
                    .help(about)
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
            .filter_map(|(key, _)| {
                let value = matches.get_one::<String>(key)?;
                Some((key.to_owned(), value.clone()))
            })
            .collect();
        Ok(Self { config: matches.get_one::<PathBuf>("config").cloned(), settings })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
