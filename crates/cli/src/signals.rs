use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::{Failure, SIGNALLED};

/// The signals by which somebody asks us to end. While one of these lives,
/// none of them ends us by itself.
#[derive(Debug)]
pub(crate) struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    quit: Signal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interrupt {
    Int,
    Term,
    Hup,
    Quit,
}

impl Interrupts {
    pub(crate) fn listen() -> Result<Self, Failure> {
        let listen =
            |kind| signal(kind).map_err(|e| Failure::because("cannot listen for signals", &e));
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
            quit: listen(SignalKind::quit())?,
        })
    }

    /// The next one. Cancel safe.
    pub(crate) async fn next(&mut self) -> Interrupt {
        tokio::select! {
            // All of them only say that a signal came, so losing the race loses nothing.
            _ = self.interrupt.recv() => Interrupt::Int,
            _ = self.terminate.recv() => Interrupt::Term,
            _ = self.hangup.recv() => Interrupt::Hup,
            _ = self.quit.recv() => Interrupt::Quit,
        }
    }
}

impl Interrupt {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Int => "SIGINT",
            Self::Term => "SIGTERM",
            Self::Hup => "SIGHUP",
            Self::Quit => "SIGQUIT",
        }
    }

    /// What a shell makes of a program that this signal has ended.
    pub(crate) const fn exit_code(self) -> u8 {
        // signal(7): 1, 2, 3 and 15 on every architecture.
        SIGNALLED
            + match self {
                Self::Hup => 1,
                Self::Int => 2,
                Self::Quit => 3,
                Self::Term => 15,
            }
    }
}
