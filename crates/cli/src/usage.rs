//! A wrong command line, said in one sentence.

use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::args::Cli;
use crate::failure::Failure;

/// What to do with what the parser returned in place of a command.
pub(crate) enum Instead {
    /// Help or version, for stdout.
    Print(clap::Error),
    Fail(Failure),
}

pub(crate) fn explain(error: clap::Error) -> Instead {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Instead::Print(error),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            let command = command_path(&error);
            Instead::Fail(Failure::usage(format!(
                "`{command}` needs a command; `{command} --help` lists them"
            )))
        }
        _ => Instead::Fail(Failure::usage(sentence(&error))),
    }
}

/// Folds clap's paragraphs (what is wrong, tips, usage) into one line.
fn sentence(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let mut parts: Vec<String> = Vec::new();
    for block in text.replace("\n  tip: ", "\n\n").split("\n\n") {
        let block = block.trim();
        if block.starts_with("Usage:") || block.starts_with("For more information") {
            continue;
        }
        let line = block.split_whitespace().collect::<Vec<_>>().join(" ");
        let line = line.trim_start_matches("error: ");
        if !line.is_empty() {
            parts.push(line.to_owned());
        }
    }
    format!("{}; see `{} --help`", parts.join("; "), command_path(error))
}

/// The command that was being read, as in `inn vm create`.
fn command_path(error: &clap::Error) -> String {
    let usage = match error.get(ContextKind::Usage) {
        Some(ContextValue::StyledStr(usage)) => usage.to_string(),
        _ => error.render().to_string(),
    };
    let words = usage
        .lines()
        .find_map(|line| line.trim().strip_prefix("Usage:"))
        .unwrap_or("inn")
        .split_whitespace()
        .take_while(|word| word.chars().all(|c| c.is_ascii_lowercase()));
    let path = words.collect::<Vec<_>>().join(" ");
    if path.is_empty() { named_in(std::env::args().skip(1)) } else { path }
}

/// The same by the words that were given: of a bad value clap does not say
/// whose it is.
fn named_in(words: impl Iterator<Item = String>) -> String {
    let mut command = Cli::command();
    // What is below is made only then.
    command.build();
    let mut path = "inn".to_owned();
    for word in words {
        match command.find_subcommand(&word) {
            Some(found) => {
                path = format!("{path} {}", found.get_name());
                command = found.clone();
            }
            // A flag before the command, or its value.
            None if path == "inn" => {}
            None => break,
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_found_by_its_words() {
        for (line, path) in [
            ("token create --scope all", "inn token create"),
            ("-o json events --since yesterday", "inn events"),
            ("token rm", "inn token revoke"),
            ("--nope", "inn"),
            ("vm exec web -- vm list", "inn vm exec"),
        ] {
            let words = line.split_whitespace().map(str::to_owned);
            assert_eq!(named_in(words), path, "{line}");
        }
    }
}
