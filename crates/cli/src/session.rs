//! One command in one VM, from here to there and back.
//!
//! ```text
//!   waiting for the guest ──ready──▶ streaming ──status──▶ ended
//!     │ first interrupt: the VM        │   ▲ │ first interrupt: goes to the command
//!     ▼ never came up       broken off ▼   │ ▼ second: given up
//!                              waiting for the agent ──any interrupt──▶ given up
//! ```
//! A connection that breaks off, as with a restart of the agent, is made anew
//! underneath; here it is only told, and Ctrl-C gives up.
//! The caller's task owns the session. What goes to the command has a task of
//! its own, so that a command that does not read its input never keeps us from
//! reading its output.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use inn_client::api::exec::{Status, TerminalSize};
use inn_client::{LastingEvent, LastingReceiver, LastingSender};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::boot::{Boot, BootState};
use crate::context::complain;
use crate::failure::{Failure, TIMED_OUT};
use crate::output::Sink;
use crate::progress::Spinner;
use crate::signals::{Interrupt, Interrupts};
use crate::stdin;
use crate::terminal::{self, RawMode};
use crate::view::{bytes, phase_name};

/// Signals and resizes in flight; more than a person makes before they are
/// sent, and a lost one is made again.
const CONTROL_DEPTH: usize = 16;

/// The one note of a connection's end.
const BROKEN_OFF: &str = "the connection broke off; waiting for the agent to come back";

/// What Ctrl-C types on a terminal in raw mode.
const END_OF_TEXT: u8 = 0x03;

/// Typed while the agent is away, and kept for when it is back.
const TYPED_AHEAD: usize = 64 * 1024;

/// How far apart the two accounts of one failure may arrive on a busy host.
const ACCOUNT_FOLLOWS: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Attach {
    pub stdin: bool,
    pub tty: bool,
}

#[derive(Debug)]
pub(crate) enum Ending {
    Status(Status),
    /// The user has given up; the command may be running on.
    GivenUp(Interrupt),
    /// The user did not wait for the guest to come up.
    NeverUp(Interrupt),
}

#[derive(Debug)]
enum Control {
    Resize(TerminalSize),
    Signal(&'static str),
}

/// The side of a session where the user sits.
#[derive(Debug)]
pub(crate) struct Front<'a> {
    pub sink: &'a mut Sink,
    /// Cleared with the first output.
    pub spinner: &'a mut Spinner,
    pub interrupts: &'a mut Interrupts,
    /// No notes.
    pub quiet: bool,
}

/// Drives the command to its end.
pub(crate) async fn drive(
    (sender, mut receiver): (LastingSender, LastingReceiver),
    attach: Attach,
    boot: &mut Boot,
    front: Front<'_>,
) -> Result<Ending, Failure> {
    let Front { sink, spinner, interrupts, quiet } = front;
    let mut resized = signal(SignalKind::window_change())
        .map_err(|e| Failure::because("cannot listen for the terminal's size", &e))?;
    let (control, controls) = mpsc::channel(CONTROL_DEPTH);
    // From the first moment on, so that nothing that was typed or piped early
    // waits for an answer.
    let (away, is_away) = watch::channel(false);
    let (quit, mut quits) = mpsc::channel(1);
    tokio::spawn(send_controls(sender.clone(), controls));
    if attach.stdin {
        tokio::spawn(send_input(sender, stdin::read(), is_away, quit));
    }
    let mut up = false;
    let mut raw = None;
    let mut asked_to_end = false;
    let mut told = false;
    let mut state = boot.state();
    loop {
        match state {
            BootState::Booting(phase) => {
                spinner.say(format!("waiting for the VM ({})", phase_name(phase)));
            }
            BootState::SettingUp(ref what) => spinner.say(format!("waiting for {what}")),
            BootState::Failed(ref failure) if !up => return Err(failure.clone()),
            // The channel itself says how a command ended that was running.
            BootState::Failed(_) => {}
            BootState::Ready if !up => {
                up = true;
                spinner.clear();
                if attach.tty && attach.stdin {
                    raw = RawMode::enter()?;
                }
            }
            BootState::Ready => {}
        }
        tokio::select! {
            // Cancel safe: a message is taken whole or not at all.
            event = receiver.next() => {
                match event? {
                    Some(LastingEvent::Stdout(data)) => {
                        spinner.clear();
                        written(sink.stdout(&data).await)?;
                    }
                    Some(LastingEvent::Stderr(data)) => {
                        spinner.clear();
                        written(sink.stderr(&data).await)?;
                    }
                    Some(LastingEvent::Broken(_)) => {
                        away.send_replace(true);
                        if !std::mem::replace(&mut told, true) && !quiet {
                            // To the line's beginning in raw mode.
                            let end = if raw.is_some() { "\r" } else { "" };
                            complain(&format!("{BROKEN_OFF}{end}"));
                        }
                    }
                    Some(LastingEvent::Resumed) => {
                        away.send_replace(false);
                        if attach.tty {
                            let _ = control.try_send(Control::Resize(terminal::size()));
                        }
                    }
                    Some(LastingEvent::Status(status)) => {
                        spinner.clear();
                        drop(raw);
                        written(sink.finish().await)?;
                        if !up
                            && never_ran(&status)
                            && let Some(failure) = boot_failure(boot).await
                        {
                            return Err(failure);
                        }
                        return Ok(Ending::Status(status));
                    }
                    None => return Err(Failure::new(
                        "the connection ended before the command did; \
                         `inn vm list --all` shows what became of the VM",
                    )),
                }
            }
            // Cancel safe: the newest state is kept.
            next = boot.changed(), if !up => state = next,
            // Cancel safe: a signal that came stays to be seen.
            interrupt = interrupts.next() => {
                if !up {
                    return Ok(Ending::NeverUp(interrupt));
                }
                let sent = control.try_send(Control::Signal(interrupt.name())).is_ok();
                if asked_to_end || !sent || *away.borrow() || interrupt == Interrupt::Hup {
                    return Ok(Ending::GivenUp(interrupt));
                }
                asked_to_end = true;
            }
            // Cancel safe, as channels are.
            Some(()) = quits.recv(), if raw.is_some() && *away.borrow() => {
                return Ok(Ending::GivenUp(Interrupt::Int));
            }
            // Cancel safe, and only the newest size matters.
            _ = resized.recv(), if attach.tty => {
                let _ = control.try_send(Control::Resize(terminal::size()));
            }
        }
    }
}

/// Why the VM did not come up, if it did not: two connections tell of it, and
/// only the VM's own account has the console's last lines.
async fn boot_failure(boot: &mut Boot) -> Option<Failure> {
    let account = async {
        let mut state = boot.state();
        loop {
            match state {
                BootState::Failed(failure) => return Some(failure),
                BootState::Ready => return None,
                BootState::Booting(_) | BootState::SettingUp(_) => state = boot.changed().await,
            }
        }
    };
    // Cancel safe: nobody asks a second time.
    tokio::time::timeout(ACCOUNT_FOLLOWS, account).await.ok().flatten()
}

/// Whether a status is of a command that was never started.
fn never_ran(status: &Status) -> bool {
    !status.reason.is_empty() && status.reason != NON_ZERO
}

/// Ends with the session. Signals do not wait behind the input, which may be
/// without end.
async fn send_controls(sender: LastingSender, mut controls: mpsc::Receiver<Control>) {
    while let Some(control) = controls.recv().await {
        let sent = match control {
            Control::Signal(name) => sender.signal(name).await,
            Control::Resize(size) => sender.resize(size).await,
        };
        if !sent {
            return;
        }
    }
}

/// Ends with the session. While the agent is away it goes on listening for
/// Ctrl-C, which a terminal in raw mode types.
async fn send_input(
    sender: LastingSender,
    mut input: mpsc::Receiver<Bytes>,
    is_away: watch::Receiver<bool>,
    quit: mpsc::Sender<()>,
) {
    while let Some(data) = input.recv().await {
        let mut waiting = BytesMut::from(data);
        while !waiting.is_empty() {
            if *is_away.borrow() && waiting.contains(&END_OF_TEXT) {
                // Heeded where it was typed at a terminal.
                let _heeded = quit.try_send(());
            }
            tokio::select! {
                // Cancel safe: it is sent whole, or not at all.
                sent = sender.stdin(waiting.clone().freeze()) => {
                    if !sent {
                        return;
                    }
                    waiting.clear();
                }
                // Cancel safe, as channels are.
                Some(more) = input.recv(), if *is_away.borrow() && waiting.len() < TYPED_AHEAD => {
                    waiting.extend_from_slice(&more);
                }
            }
        }
    }
    let _over = sender.close_stdin().await;
}

fn written(result: std::io::Result<()>) -> Result<(), Failure> {
    result.map_err(|e| Failure::output(&e))
}

/// The reason of a process that ran and ended by itself; see `inn_api::exec`.
const NON_ZERO: &str = "NonZeroExitCode";

/// The agent's setting that caps every command's time.
const MAX_TIMEOUT: &str = "exec.max_timeout";

/// The exit code that stands for how a command ended.
pub(crate) fn exit_code(status: &Status, vm: &str) -> Result<u8, Failure> {
    if let Some(limit) = status.cause("Timeout") {
        // The agent's sentence names the setting where the limit was its own.
        let sentence = if status.message.contains(MAX_TIMEOUT) {
            format!(
                "the command in {vm} was ended after the node's maximum of {limit}; {MAX_TIMEOUT} in its configuration sets that"
            )
        } else {
            format!(
                "the time limit of the command in {vm} ran out and it was ended after {limit}; --timeout sets another"
            )
        };
        return Err(Failure::new(sentence).with_code(TIMED_OUT));
    }
    match status.exit_code() {
        // It has a code and yet never ran, as with a program that is not there.
        Some(code) if code != 0 && !status.message.is_empty() && status.reason != NON_ZERO => {
            let code = u8::try_from(code).unwrap_or(u8::MAX);
            Err(Failure::new(status.message.clone()).with_code(code))
        }
        // Exit codes have eight bits (wait(2)); anything else is the guest's invention.
        Some(code) => Ok(u8::try_from(code).unwrap_or(u8::MAX)),
        None if status.message.is_empty() => Err(Failure::new(format!(
            "the command in {vm} could not be run ({}); `inn vm show {vm}` has the VM's state",
            status.reason
        ))),
        None => Err(Failure::new(status.message.clone())),
    }
}

/// How much output a limit has cut, if any.
pub(crate) fn cut(status: &Status) -> Option<String> {
    let dropped: u64 = status.cause("Truncated")?.parse().ok()?;
    (dropped > 0).then(|| {
        format!(
            "{} of output were dropped: the command printed more than its limit",
            bytes(dropped)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use inn_client::api::exec::{StatusCause, StatusDetails};

    fn status(reason: &str, message: &str, causes: &[(&str, &str)]) -> Status {
        let cause = |(reason, message): &(&str, &str)| StatusCause {
            reason: (*reason).into(),
            message: (*message).into(),
        };
        Status {
            status: "Failure".into(),
            reason: reason.into(),
            message: message.into(),
            details: Some(StatusDetails { causes: causes.iter().map(cause).collect() }),
        }
    }

    #[test]
    fn exit_codes_are_the_command_s_own() {
        let success = Status { status: "Success".into(), ..Status::default() };
        assert_eq!(exit_code(&success, "web"), Ok(0));
        let three = status("NonZeroExitCode", "", &[("ExitCode", "3")]);
        assert_eq!(exit_code(&three, "web"), Ok(3));
        let killed = status("NonZeroExitCode", "", &[("ExitCode", "137"), ("Signal", "SIGKILL")]);
        assert_eq!(exit_code(&killed, "web"), Ok(137));
        let absurd = status("NonZeroExitCode", "", &[("ExitCode", "70000")]);
        assert_eq!(exit_code(&absurd, "web"), Ok(255));
    }

    #[test]
    fn dropped_output_is_told() {
        let whole = status("", "", &[("ExitCode", "0")]);
        assert_eq!(cut(&whole), None);
        // What was cut is told by `cut`, and is no failure.
        let told = status("", "5 bytes of its output were cut", &[("Truncated", "5")]);
        let short = Status { status: "Success".into(), ..told };
        assert_eq!(exit_code(&short, "web"), Ok(0));
        let note = cut(&status("", "", &[("Truncated", "2048")])).unwrap();
        assert!(note.starts_with("2KiB of output"), "{note}");
    }

    #[test]
    fn what_never_ran_is_a_failure_of_ours() {
        let late = status("NonZeroExitCode", "", &[("ExitCode", "137"), ("Timeout", "2s")]);
        let failure = exit_code(&late, "web").unwrap_err();
        assert_eq!(failure.code, 124);
        let sentence = failure.sentence();
        assert!(sentence.contains("2s") && sentence.contains("--timeout"), "{sentence}");
        let by_node = Status {
            message: "the node's maximum of 2s (exec.max_timeout) ended the command".into(),
            ..late
        };
        let failure = exit_code(&by_node, "web").unwrap_err();
        assert_eq!(failure.code, 124);
        let sentence = failure.sentence();
        assert!(sentence.contains("maximum of 2s; exec.max_timeout"), "{sentence}");
        let missing = status("guest-error", "no such program: frobnicate", &[]);
        let failure = exit_code(&missing, "web").unwrap_err();
        assert_eq!((failure.code, failure.sentence()), (1, "no such program: frobnicate"));
        let missing = status("guest-error", "no such program: x", &[("ExitCode", "127")]);
        let failure = exit_code(&missing, "web").unwrap_err();
        assert_eq!((failure.code, failure.sentence()), (127, "no such program: x"));
        let silent = exit_code(&status("vm-failed", "", &[]), "web").unwrap_err();
        assert!(silent.sentence().contains("vm-failed"));
    }
}
