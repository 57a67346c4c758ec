//! What outlives an agent's restart: for how long, and after which errors.

use std::time::Duration;

use inn_client::ClientError;
use inn_client::api::Code;
use tokio::time::Instant;

use crate::context::Context;
use crate::failure::Failure;

/// An agent is back within seconds of its restart, with the VMs that it takes
/// over; a guest's agent within those that its system manager waits.
const PATIENCE: Duration = Duration::from_secs(60);
const BETWEEN: Duration = Duration::from_millis(250);

/// How long somebody has waited for the other end to come back.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    since: Option<Instant>,
}

impl Patience {
    /// The other end was heard of.
    pub(crate) fn renew(&mut self) {
        self.since = None;
    }

    /// Returns after a while, when another try makes sense; the failure where
    /// it does not or has not for too long.
    pub(crate) async fn wait(
        &mut self,
        context: &Context,
        error: ClientError,
    ) -> Result<(), Failure> {
        if !passes(&error) {
            return Err(error.into());
        }
        let now = Instant::now();
        match self.since {
            None => {
                self.since = Some(now);
                context.note("the connection broke off; waiting for the agent to come back");
            }
            Some(since) if now.duration_since(since) >= PATIENCE => return Err(error.into()),
            Some(_) => {}
        }
        tokio::time::sleep(BETWEEN).await;
        Ok(())
    }
}

/// Whether the same request may be answered a little later.
pub(crate) fn passes(error: &ClientError) -> bool {
    match error {
        ClientError::Broken { .. } | ClientError::Silent { .. } => true,
        ClientError::Unreachable { source, .. } => {
            source.kind() != std::io::ErrorKind::PermissionDenied
        }
        ClientError::Problem(problem) => code_passes(problem.code),
        ClientError::Protocol { .. } | ClientError::Address { .. } => false,
    }
}

pub(crate) const fn code_passes(code: Code) -> bool {
    matches!(code, Code::GuestUnavailable | Code::Timeout)
}

#[cfg(test)]
mod tests {
    use super::*;
    use inn_client::api::Problem;

    #[test]
    fn only_what_may_come_back_is_waited_for() {
        let problem = |code| ClientError::from(Problem::new(code, "why"));
        assert!(passes(&problem(Code::GuestUnavailable)));
        for code in [Code::NotFound, Code::Conflict, Code::GuestError, Code::InvalidRequest] {
            assert!(!passes(&problem(code)), "{code:?}");
        }
        let unreachable = |kind: std::io::ErrorKind| ClientError::Unreachable {
            target: "x".into(),
            source: kind.into(),
        };
        assert!(passes(&unreachable(std::io::ErrorKind::ConnectionRefused)));
        assert!(!passes(&unreachable(std::io::ErrorKind::PermissionDenied)));
    }
}
