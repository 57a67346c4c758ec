use std::io;
use std::path::PathBuf;

use inn_node::config::{KEYS, Kind};
use inn_node::{Config, ConfigSource, Parts};

use crate::args::{AgentAction, AgentArgs, Globals, OutputForm};
use crate::context;
use crate::failure::Failure;
use crate::guest_binary::GUEST_BINARY;

/// `inn agent`: the daemon, in the foreground until it is told to end.
pub(crate) fn run(globals: &Globals, args: &AgentArgs) -> Result<u8, Failure> {
    inn_fail_point::arm_from_environment().map_err(|e| Failure::of(&e))?;
    let source = source(globals, args)
        .map_err(|e| Failure::because("cannot tell the current directory", &e))?;
    match args.action {
        AgentAction::PrintExample => return print(&inn_node::config::example()),
        AgentAction::PrintDocumentation => return print(&inn_node::config::documentation()),
        AgentAction::PrintStateSchema => return print(&format!("{}\n", inn_node::STATE_SCHEMA)),
        AgentAction::Serve | AgentAction::Check => {}
        // It is the client's, and `main` has seen to it.
        AgentAction::Reload | AgentAction::Upgrade => {
            return Err(Failure::new("this command has no agent side"));
        }
    }
    let config = Config::load(&source).map_err(|e| Failure::of(&e))?;
    if args.action == AgentAction::Check {
        return check(&config, globals.output);
    }
    let log = inn_node::init_logging(&config).map_err(|e| Failure::of(&e))?;
    let successor = inn_node::run_blocking(config, Parts { guest_binary: GUEST_BINARY }, &log)
        .map_err(|e| Failure::of(&e))?;
    match successor {
        Some(successor) => Err(Failure::of(&successor.take_over())),
        None => Ok(0),
    }
}

/// `--check-config`: the configuration that an agent would run with.
fn check(config: &Config, form: OutputForm) -> Result<u8, Failure> {
    let effective: Vec<_> = config.effective().collect();
    if form == OutputForm::Json {
        let values: Vec<_> = effective
            .iter()
            .map(|e| {
                serde_json::json!({
                    "key": e.key.name,
                    "value": e.value,
                    "origin": e.origin.to_string(),
                    "variable": e.key.variable(),
                    "reloads": e.key.is_live(),
                })
            })
            .collect();
        let text = serde_json::to_string_pretty(&values)
            .map_err(|e| Failure::because("cannot write the configuration", &e))?;
        return print(&format!("{text}\n"));
    }
    let lines: Vec<_> = effective
        .iter()
        .map(|e| match &e.value {
            Some(value) => format!("{} = {}", e.key.name, e.key.toml(value)),
            None => format!("#{} is not set", e.key.name),
        })
        .collect();
    let width = lines.iter().map(|line| line.chars().count()).max().unwrap_or_default();
    let rows = lines.iter().zip(&effective);
    let text: String = rows.map(|(l, e)| format!("{l:width$}  # {}\n", e.origin)).collect();
    print(&text)
}

fn print(text: &str) -> Result<u8, Failure> {
    context::print(text.as_bytes()).map(|()| 0)
}

/// Flags as the configuration's keys; a relative path is of this directory.
fn source(globals: &Globals, args: &AgentArgs) -> io::Result<ConfigSource> {
    let absolute = |path: &PathBuf| -> io::Result<String> {
        Ok(std::path::absolute(path)?.to_string_lossy().into_owned())
    };
    let mut flags = Vec::new();
    for (key, value) in &args.settings {
        let is_path = KEYS.iter().any(|known| known.name == key && known.kind == Kind::Path);
        let value = if is_path { absolute(&value.into())? } else { value.clone() };
        flags.push((key.clone(), value));
    }
    if let Some(level) = &globals.log_level {
        flags.push(("log".to_owned(), level.clone()));
    }
    if let Some(path) = &globals.log_file {
        flags.push(("log_file".to_owned(), absolute(path)?));
    }
    Ok(ConfigSource { file: args.config.clone(), flags })
}

/// `inn openapi`: what docs/openapi.json holds.
pub(crate) fn print_openapi() -> Result<u8, Failure> {
    let mut text = inn_node::openapi()
        .to_pretty_json()
        .map_err(|e| Failure::because("cannot write the API's description", &e))?;
    text.push('\n');
    context::print(text.as_bytes()).map(|()| 0)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command, Deferred};

    fn parsed(line: &str) -> ConfigSource {
        let cli = Cli::try_parse_from(line.split_whitespace()).unwrap();
        let Command::Agent(Deferred(args)) = cli.command else { panic!("another command") };
        source(&cli.globals, &args).unwrap()
    }

    #[test]
    fn every_key_has_its_flag_and_paths_are_made_absolute() {
        let line = "inn agent --config a.toml --data-dir here --kernel-path /k --api-listen none \
                    --log-level debug --log-file agent.log --sim-enabled true";
        let source = parsed(line);
        let here = std::env::current_dir().unwrap();
        let value = |key: &str| {
            source.flags.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
        };
        assert_eq!(source.file.as_deref(), Some("a.toml".as_ref()));
        assert_eq!(value("data_dir"), here.join("here").to_str());
        assert_eq!(value("log_file"), here.join("agent.log").to_str());
        assert_eq!(value("kernel.path"), Some("/k"));
        assert_eq!(value("api_listen"), Some("none"));
        assert_eq!(value("log"), Some("debug"));
        assert_eq!(value("sim.enabled"), Some("true"));
        for key in inn_node::config::KEYS.iter().map(|key| key.name) {
            let flag = match key {
                "log" => "log-level".to_owned(),
                key => key.replace(['_', '.'], "-"),
            };
            let line = format!("inn agent --{flag} /1");
            assert!(parsed(&line).flags.iter().any(|(k, _)| k == key), "{key}");
        }
    }
}
