use std::io::{IsTerminal, Write};

use inn_client::Client;
use serde::Serialize;

use crate::args::{Globals, OutputForm};
use crate::autostart;
use crate::failure::Failure;

/// What every command is given: the global flags, and the way to the agent.
#[derive(Debug)]
pub(crate) struct Context {
    pub globals: Globals,
    /// Whether a person watches stderr.
    pub terminal: bool,
}

impl Context {
    pub(crate) fn new(globals: Globals) -> Self {
        Self { globals, terminal: std::io::stderr().is_terminal() }
    }

    /// The agent's client, after an agent has been started where none ran.
    pub(crate) async fn client(&self) -> Result<Client, Failure> {
        autostart::client(self).await
    }

    pub(crate) fn json(&self) -> bool {
        self.globals.output == OutputForm::Json
    }

    /// Whether bars and spinners may be drawn.
    pub(crate) fn draws(&self) -> bool {
        self.terminal && !self.globals.quiet
    }

    /// A note for the person at the terminal, never a result.
    pub(crate) fn note(&self, line: &str) {
        if !self.globals.quiet {
            complain(line);
        }
    }

    /// A result, as JSON or as a text.
    pub(crate) fn result(
        &self,
        json: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        if self.json() {
            let mut body = serde_json::to_string_pretty(json)
                .map_err(|e| Failure::because("cannot write the result as JSON", &e))?;
            body.push('\n');
            print(body.as_bytes())
        } else {
            print(text().as_bytes())
        }
    }
}

/// Writes to stdout.
pub(crate) fn print(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|e| Failure::output(&e))
}

/// One line to stderr, whose own failure nobody could be told.
pub(crate) fn complain(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "inn: {line}");
}
