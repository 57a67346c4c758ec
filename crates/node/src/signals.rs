use std::fs::File;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::AgentError;

/// What a signal asks of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    End,
    Reload,
}

/// The signals that the agent heeds.
///
/// SIGHUP is two things: a terminal that closes, which ends an agent in its
/// foreground as Ctrl-C does, and by custom the wish for a reload. The kernel
/// takes the terminal away from its processes before it signals them, so the
/// two can be told apart by looking for it.
#[derive(Debug)]
pub(crate) struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
    had_terminal: bool,
}

impl Signals {
    /// From now on these signals end nothing by themselves.
    pub(crate) fn listen() -> Result<Self, AgentError> {
        let listen = |kind| {
            signal(kind).map_err(|source| AgentError::Start { step: "listen for signals", source })
        };
        Ok(Self {
            term: listen(SignalKind::terminate())?,
            int: listen(SignalKind::interrupt())?,
            hup: listen(SignalKind::hangup())?,
            had_terminal: has_terminal(),
        })
    }

    /// Cancel safe.
    pub(crate) async fn next(&mut self) -> Asked {
        tokio::select! {
            // All three are cancel safe, and one that comes meanwhile is kept.
            _ = self.term.recv() => Asked::End,
            _ = self.int.recv() => Asked::End,
            _ = self.hup.recv() => hangup(self.had_terminal, has_terminal()),
        }
    }
}

fn hangup(had_terminal: bool, has_terminal: bool) -> Asked {
    if had_terminal && !has_terminal { Asked::End } else { Asked::Reload }
}

/// tty(4): /dev/tty is a process's controlling terminal, ENXIO without one.
fn has_terminal() -> bool {
    File::open("/dev/tty").is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_that_closes_ends_the_agent_and_else_it_reloads() {
        assert_eq!(hangup(true, false), Asked::End);
        for (had, has) in [(true, true), (false, false), (false, true)] {
            assert_eq!(hangup(had, has), Asked::Reload);
        }
    }
}
