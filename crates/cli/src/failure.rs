use std::error::Error;
use std::fmt::Write;

use inn_client::ClientError;

/// Why a command ends otherwise than well: one sentence for stderr, and the
/// exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub code: u8,
    sentence: String,
    /// The guest console's last lines, where they help.
    console: Vec<String>,
}

pub(crate) const FAILED: u8 = 1;
pub(crate) const USAGE: u8 = 2;
/// What coreutils' timeout(1) ends with when the time is over.
pub(crate) const TIMED_OUT: u8 = 124;
/// 128 and SIGPIPE's 13: whoever read our stdout has gone, as `head` does.
const UNHEARD: u8 = 141;
/// A shell's code for what a signal ended is this plus the signal's number.
pub(crate) const SIGNALLED: u8 = 128;

impl Failure {
    pub(crate) fn new(sentence: impl Into<String>) -> Self {
        Self { code: FAILED, sentence: sentence.into(), console: Vec::new() }
    }

    /// Nobody reads what we write. Said by the exit code alone, as programs do
    /// that SIGPIPE ends.
    pub(crate) fn unheard() -> Self {
        Self { code: UNHEARD, ..Self::new(String::new()) }
    }

    /// Of writing to stdout.
    pub(crate) fn output(error: &std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self::unheard(),
            _ => Self::because("cannot write to stdout", error),
        }
    }

    pub(crate) fn usage(sentence: impl Into<String>) -> Self {
        Self { code: USAGE, ..Self::new(sentence) }
    }

    /// An error whose own text says what failed, with the chain of its causes.
    pub(crate) fn of(error: &(dyn Error + 'static)) -> Self {
        match error.source() {
            Some(cause) => Self::because(error.to_string(), cause),
            None => Self::new(error.to_string()),
        }
    }

    /// What failed and the whole chain of its causes.
    pub(crate) fn because(what: impl Into<String>, cause: &(dyn Error + 'static)) -> Self {
        let mut sentence = what.into();
        append_chain(&mut sentence, cause);
        Self::new(sentence)
    }

    #[must_use]
    pub(crate) fn with_code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    #[must_use]
    pub(crate) fn with_console(mut self, lines: &[String]) -> Self {
        self.console = lines.to_vec();
        self
    }

    pub(crate) fn sentence(&self) -> &str {
        &self.sentence
    }

    /// For stderr. The console's lines come from a guest: they are shown
    /// without the escapes that could take over a terminal.
    pub(crate) fn report(&self) -> String {
        let mut text = String::new();
        for line in &self.console {
            let _ = writeln!(text, "  console | {}", harmless(line));
        }
        if !self.sentence.is_empty() {
            let _ = writeln!(text, "inn: {}", harmless(&self.sentence));
        }
        text
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Problem(problem) => {
                Self::new(problem.detail.clone()).with_console(&problem.console)
            }
            ClientError::Broken { .. } => {
                let mut failure = Self::because(error.to_string(), error.source_or_self());
                failure.sentence.push_str("; the VMs go on, try again");
                failure
            }
            ClientError::Unreachable { ref target, ref source } => match source.kind() {
                std::io::ErrorKind::PermissionDenied => Self::new(format!(
                    "no permission to talk to the agent at {target}: be root, or in the group innkeeper"
                )),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => {
                    Self::new(format!("no agent answers at {target}; start one with `inn agent`"))
                }
                _ => Self::because(
                    format!("cannot reach an agent at {target}, try `inn agent`"),
                    source,
                ),
            },
            other => Self::new(other.to_string()),
        }
    }
}

/// The part of an error that its `Display` leaves out.
trait SourceOrSelf {
    fn source_or_self(&self) -> &(dyn Error + 'static);
}

impl SourceOrSelf for ClientError {
    fn source_or_self(&self) -> &(dyn Error + 'static) {
        self.source().unwrap_or(self)
    }
}

fn append_chain(sentence: &mut String, cause: &(dyn Error + 'static)) {
    let mut next = Some(cause);
    while let Some(error) = next {
        let text = error.to_string();
        // Some libraries repeat their source in their own text.
        if !sentence.ends_with(&text) {
            let _ = write!(sentence, ": {text}");
        }
        next = error.source();
    }
}

/// Text without control characters but the tab.
pub(crate) fn harmless(text: &str) -> String {
    text.chars().filter(|c| *c == '\t' || !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use inn_client::api::{Code, Problem};

    #[test]
    fn a_problem_is_its_sentence_under_what_the_console_said() {
        let mut problem = Problem::new(Code::VmFailed, "VM web did not come up; try again");
        problem.console = vec!["Kernel panic\x1b[2J".into()];
        let failure = Failure::from(ClientError::from(problem));
        assert_eq!(failure.code, 1);
        assert_eq!(
            failure.report(),
            "  console | Kernel panic[2J\ninn: VM web did not come up; try again\n"
        );
    }

    #[test]
    fn a_reader_that_has_gone_is_no_news() {
        let gone = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        let failure = Failure::output(&gone);
        assert_eq!((failure.code, failure.report().as_str()), (141, ""));
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        assert_eq!(Failure::output(&full).code, 1);
    }

    #[test]
    fn causes_follow_what_failed() {
        let inner = std::io::Error::other("no such thing");
        assert_eq!(
            Failure::because("cannot read ./x", &inner).sentence(),
            "cannot read ./x: no such thing"
        );
    }
}
