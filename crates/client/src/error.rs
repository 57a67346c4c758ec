use std::error::Error;
use std::io;

use inn_api::{Code, Problem};

/// Why a request brought no answer of the kind it asked for.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The agent refused or failed, and said why.
    #[error("{0}")]
    Problem(Box<Problem>),
    /// Nothing listens there, or it may not be reached.
    #[error("no agent can be reached at {target}")]
    Unreachable {
        /// The socket's path, or host and port.
        target: String,
        source: io::Error,
    },
    /// The connection ended in the middle, as it does when an agent is killed.
    #[error("the connection to the agent broke off during {during}")]
    Broken { during: String, source: Box<dyn Error + Send + Sync> },
    /// What answers is not an agent of ours, or one of another age.
    #[error("the agent's answer to {during} makes no sense: {what}")]
    Protocol { during: String, what: String },
    /// The agent took the request and then said nothing.
    #[error("the agent did not answer {during} within {seconds} s")]
    Silent { during: String, seconds: u64 },
    /// The address itself is unusable.
    #[error("`{given}` is not the address of an agent: {what}")]
    Address { given: String, what: String },
}

impl ClientError {
    /// The agent's own name for what went wrong, if it was the agent's answer.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Problem(problem) => Some(problem.code),
            _ => None,
        }
    }

    pub fn is_not_found(&self) -> bool {
        self.code() == Some(Code::NotFound)
    }

    pub(crate) fn broken(during: &str, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Broken { during: during.to_owned(), source: source.into() }
    }

    pub(crate) fn protocol(during: &str, what: impl Into<String>) -> Self {
        Self::Protocol { during: during.to_owned(), what: what.into() }
    }
}

impl From<Problem> for ClientError {
    fn from(problem: Problem) -> Self {
        Self::Problem(Box::new(problem))
    }
}
