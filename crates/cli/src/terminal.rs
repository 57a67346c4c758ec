//! The terminal in raw mode, and back whatever happens.
//!
//! ```text
//!   cooked ──enter_raw()──▶ raw ──restore()──▶ cooked
//! ```
//! The settings to go back to stand in one static, because several ends must
//! find them: the guard's drop, a panic's hook, and the end of the process by
//! `exit`, which drops nothing.

use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};

use inn_api::exec::TerminalSize;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use crate::failure::Failure;

static COOKED: Mutex<Option<Termios>> = Mutex::new(None);

/// Raw mode for as long as it lives.
#[derive(Debug)]
pub(crate) struct RawMode(());

impl RawMode {
    /// None where stdin is no terminal: then there is nothing to switch.
    pub(crate) fn enter() -> Result<Option<Self>, Failure> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let refuse = |e: rustix::io::Errno| {
            Failure::because("cannot switch the terminal to raw mode", &std::io::Error::from(e))
        };
        let cooked = tcgetattr(&stdin).map_err(refuse)?;
        let mut raw = cooked.clone();
        raw.make_raw();
        *COOKED.lock().unwrap_or_else(PoisonError::into_inner) = Some(cooked);
        tcsetattr(&stdin, OptionalActions::Flush, &raw).map_err(refuse)?;
        Ok(Some(Self(())))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Back to what the terminal was; does nothing when it was never switched.
pub(crate) fn restore() {
    let cooked = COOKED.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(cooked) = cooked {
        // Nothing is left to do when even this fails.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &cooked);
    }
}

/// Has a panic restore the terminal before it prints.
pub(crate) fn restore_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        restore();
        print(info);
    }));
}

/// The size of the terminal we are on; the usual 80 by 24 where none is.
pub(crate) fn size() -> TerminalSize {
    let known = [tcgetwinsize(std::io::stdout()), tcgetwinsize(std::io::stdin())];
    known.into_iter().flatten().find(|size| size.ws_col > 0 && size.ws_row > 0).map_or(
        TerminalSize { cols: 80, rows: 24 },
        |size| TerminalSize { cols: size.ws_col, rows: size.ws_row },
    )
}
