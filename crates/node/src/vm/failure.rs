use std::io;
use std::path::Path;

use inn_image::ImageError;
use inn_image::kernel::KernelError;
use inn_store::FailureRecord;
use inn_units::VmName;
use inn_vmm::{LaunchError, MachineEnd, read_tail};
use jiff::Timestamp;

use crate::error::Chain;
use crate::guest::GuestError;

/// How many of the console's last lines go with a failure.
const CONSOLE_LINES: usize = 20;

/// How much of the console's log is looked at for them.
const CONSOLE_BYTES: usize = 16 << 10;

/// The longest line that is shown: a guest may print without end.
const LINE_CHARS: usize = 400;

/// Why a step did not get done.
#[derive(Debug)]
pub(super) enum StepError {
    /// Something else is desired by now, or the agent ends: plan again.
    Superseded,
    /// The machine has ended under it.
    Ended(MachineEnd),
    Failed(Failure),
}

/// A failure without its step and its time.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) cause: String,
    pub(super) next: String,
    /// Whether the console may say more.
    pub(super) console: bool,
}

impl Failure {
    pub(super) fn new(cause: impl Into<String>, next: impl Into<String>) -> Self {
        Self { cause: cause.into(), next: next.into(), console: false }
    }

    pub(super) fn with_console(self) -> Self {
        Self { console: true, ..self }
    }

    pub(super) fn record(self, step: &str, console: Vec<String>, now: Timestamp) -> FailureRecord {
        let Self { cause, next, .. } = self;
        FailureRecord { step: step.to_owned(), cause, next, console, at: now }
    }
}

impl From<Failure> for StepError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<ImageError> for StepError {
    fn from(error: ImageError) -> Self {
        Failure::new(Chain(&error).to_string(), "start the VM again once that is put right").into()
    }
}

impl From<KernelError> for StepError {
    fn from(error: KernelError) -> Self {
        match full_disk(&error) {
            true => Failure::new(
                format!("the host's disk is full: {}", Chain(&error)),
                "free some space, then start the VM again",
            ),
            false => Failure::new(
                Chain(&error).to_string(),
                "install a kernel package such as linux-image-cloud-amd64, or set kernel.path",
            ),
        }
        .into()
    }
}

impl From<LaunchError> for StepError {
    fn from(error: LaunchError) -> Self {
        let mut cause = Chain(&error).to_string();
        let next = match &error {
            LaunchError::MissingProgram { .. } => "install it, then start the VM again",
            LaunchError::Refused { .. } => "delete the VM and create it within that limit",
            LaunchError::Failed { log, .. } => {
                if let Some(line) = log.last() {
                    cause = format!("{cause} ({line})");
                }
                "read `inn vm logs NAME --source vmm`"
            }
            LaunchError::Io { .. } => "start the VM again once that is put right",
        };
        Failure::new(cause, next).into()
    }
}

impl From<GuestError> for StepError {
    fn from(error: GuestError) -> Self {
        let next = "read the console below, then start the VM again";
        Failure::new(Chain(&error).to_string(), next).with_console().into()
    }
}

/// Whether a write failed for want of space, however deep in the chain.
fn full_disk(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source())
        .filter_map(|error| error.downcast_ref::<io::Error>())
        .any(|error| {
            matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        })
}

/// An end that nobody asked for, in words.
pub(super) fn of_end(end: &MachineEnd, name: &VmName, booting: bool) -> Failure {
    let while_booting = if booting { " before the guest agent answered" } else { "" };
    let cause = format!("{}{while_booting}", end_in_words(end));
    let next = format!("read `inn vm logs {name} --source console`, then `inn vm start {name}`");
    Failure::new(cause, next).with_console()
}

pub(super) fn end_in_words(end: &MachineEnd) -> String {
    match end {
        MachineEnd::PoweredOff => "the guest powered off",
        MachineEnd::Reset => "the guest asked for a reset",
        MachineEnd::Panicked => "the guest's kernel panicked",
        MachineEnd::Killed => "the machine was killed",
        MachineEnd::Died(why) => why,
    }
    .to_owned()
}

/// The last lines of the console's log past `from`, where this boot began.
/// Blocks briefly.
pub(super) fn console_tail(log: &Path, from: u64) -> Vec<String> {
    let length = std::fs::metadata(log).map_or(0, |m| m.len());
    // A log that was cut meanwhile is all of this boot.
    let of_this_boot = if length >= from { length - from } else { length };
    let most = usize::try_from(of_this_boot).unwrap_or(usize::MAX).min(CONSOLE_BYTES);
    let tail = read_tail(log, most).unwrap_or_default();
    let text = String::from_utf8_lossy(&tail);
    let mut lines: Vec<String> = text
        .lines()
        .map(printable)
        .filter(|line| !line.trim().is_empty())
        .rev()
        .take(CONSOLE_LINES)
        .collect();
    lines.reverse();
    lines
}

/// Without what could steer the terminal that it is shown on.
fn printable(line: &str) -> String {
    let mut out = String::new();
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' && chars.peek() == Some(&'[') {
            // ECMA-48, 5.4: a control sequence ends with @ to ~.
            chars.next();
            for c in chars.by_ref() {
                if ('@'..='~').contains(&c) {
                    break;
                }
            }
        } else if !c.is_control() || c == '\t' {
            out.push(c);
        }
        if out.len() >= LINE_CHARS {
            break;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_console_s_tail_is_bounded_and_harmless() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("console.log");
        let old = "old boot\n";
        let new: String =
            (0..50).map(|n| format!("\u{1b}[31mline\u{7} {n}\u{1b}[0m\r\n")).collect();
        std::fs::write(&log, format!("{old}{new}{}", "x".repeat(5_000))).unwrap();
        let lines = console_tail(&log, old.len() as u64);
        assert_eq!(lines.len(), CONSOLE_LINES);
        assert_eq!(lines[0], "line 31");
        assert_eq!(lines[CONSOLE_LINES - 1].len(), LINE_CHARS);

        std::fs::write(&log, format!("{old}new\n")).unwrap();
        assert_eq!(console_tail(&log, old.len() as u64), ["new"]);
        assert_eq!(console_tail(&dir.path().join("none"), 5), [""; 0]);
    }
}
