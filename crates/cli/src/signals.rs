use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::{Failure, SIGNALLED};

/// The signals by which somebody asks us to end. While one of these lives,
/// none of them ends us by itself.
#[derive(Debug)]
pub(crate) struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interrupt {
    Int,
    Term,
    Hup,
}

impl Interrupts {
    pub(crate) fn listen() -> Result<Self, Failure> {
        let listen =
            |kind| signal(kind).map_err(|e| Failure::because("cannot listen for signals", &e));
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// The next one. Cancel safe.
    pub(crate) async fn next(&mut self) -> Interrupt {
        tokio::select! {
            // All three only say that a signal came, so losing the race loses nothing.
            _ = self.interrupt.recv() => Interrupt::Int,
            _ = self.terminate.recv() => Interrupt::Term,
            _ = self.hangup.recv() => Interrupt::Hup,
        }
    }
}

impl Interrupt {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Int => "SIGINT",
            Self::Term => "SIGTERM",
            Self::Hup => "SIGHUP",
        }
    }

    /// What a shell makes of a program that this signal has ended.
    pub(crate) const fn exit_code(self) -> u8 {
        // signal(7): 1, 2 and 15 on every architecture.
        SIGNALLED
            + match self {
                Self::Hup => 1,
                Self::Int => 2,
                Self::Term => 15,
            }
    }
}
