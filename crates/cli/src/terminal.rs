//! The terminal in raw mode, without echo or with a screen of its own, and back
//! whatever happens.
//!
//! ```text
//!   cooked ──RawMode::enter()──▶ raw ─────┐
//!          ──NoEcho::enter()───▶ no echo ─┼─restore()──▶ cooked
//!   screen ──Screen::enter()───▶ another ─┘              screen
//! ```
//! What to go back to stands in statics, because several ends must find it:
//! the guard's drop, a panic's hook, and the end of the process by `exit`,
//! which drops nothing.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use inn_api::exec::TerminalSize;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use crate::failure::Failure;

static COOKED: Mutex<Option<Termios>> = Mutex::new(None);
/// Whether stdout shows the alternate screen.
static SCREEN: AtomicBool = AtomicBool::new(false);

/// xterm's control sequences: the alternate screen (DECSET 1049), and the
/// cursor hidden (DECTCEM).
const ENTER_SCREEN: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE_SCREEN: &str = "\x1b[?25h\x1b[?1049l";

/// Raw mode for as long as it lives.
#[derive(Debug)]
pub(crate) struct RawMode(());

impl RawMode {
    /// None where stdin is no terminal: then there is nothing to switch.
    pub(crate) fn enter() -> Result<Option<Self>, Failure> {
        let switched = switch("cannot switch the terminal to raw mode", Termios::make_raw)?;
        Ok(switched.then_some(Self(())))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Lines as they are typed, but unseen, for as long as it lives.
#[derive(Debug)]
pub(crate) struct NoEcho(());

impl NoEcho {
    /// None where stdin is no terminal.
    pub(crate) fn enter() -> Result<Option<Self>, Failure> {
        let switched = switch("cannot switch the terminal's echo off", |termios| {
            termios.local_modes.remove(LocalModes::ECHO);
            termios.local_modes.insert(LocalModes::ICANON | LocalModes::ECHONL);
        })?;
        Ok(switched.then_some(Self(())))
    }
}

impl Drop for NoEcho {
    fn drop(&mut self) {
        restore();
    }
}

fn switch(what: &'static str, change: impl FnOnce(&mut Termios)) -> Result<bool, Failure> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Ok(false);
    }
    let refuse = |e: rustix::io::Errno| Failure::because(what, &std::io::Error::from(e));
    let cooked = tcgetattr(&stdin).map_err(refuse)?;
    let mut changed = cooked.clone();
    change(&mut changed);
    *COOKED.lock().unwrap_or_else(PoisonError::into_inner) = Some(cooked);
    tcsetattr(&stdin, OptionalActions::Flush, &changed).map_err(refuse)?;
    Ok(true)
}

/// A screen of stdout's own, for as long as it lives.
#[derive(Debug)]
pub(crate) struct Screen(());

impl Screen {
    pub(crate) fn enter() -> Result<Self, Failure> {
        SCREEN.store(true, Ordering::SeqCst);
        crate::context::print(ENTER_SCREEN.as_bytes())?;
        Ok(Self(()))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore_screen();
    }
}

fn restore_screen() {
    if SCREEN.swap(false, Ordering::SeqCst) {
        // Nothing is left to do when even this fails.
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(LEAVE_SCREEN.as_bytes()).and_then(|()| out.flush());
    }
}

/// Back to what the terminal was; does nothing when it was never switched.
pub(crate) fn restore() {
    restore_screen();
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
