use std::error::Error;
use std::io;
use std::path::Path;

use inn_host::process::Program;
use inn_image::ImageError;
use inn_image::disk_image::DiskImageError;
use inn_image::kernel::KernelError;
use inn_store::{BootRecords, FailureRecord};
use inn_units::VmName;
use inn_vmm::{LaunchError, MachineEnd, read_tail};
use jiff::Timestamp;

use crate::guest::GuestError;
use crate::paths::VmPaths;

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

/// A failure without its step and its time. In `next` and `command` stands
/// `{vm}` for the VM's name.
#[derive(Debug)]
pub(super) struct Failure {
    /// The causes in one sentence.
    pub(super) cause: String,
    causes: Vec<String>,
    next: String,
    /// What to type for that, where it is not to start the VM again.
    command: Option<String>,
    /// Whether the console may say more.
    pub(super) console: bool,
}

impl Failure {
    pub(super) fn new(cause: impl Into<String>, next: impl Into<String>) -> Self {
        Self::with(vec![cause.into()], next)
    }

    /// An error that says what failed, with its causes.
    pub(super) fn of(error: &(dyn Error + 'static), next: impl Into<String>) -> Self {
        Self::with(causes_of(error), next)
    }

    /// What failed, and the error that it failed by.
    pub(super) fn caused(
        what: impl Into<String>,
        error: &(dyn Error + 'static),
        next: impl Into<String>,
    ) -> Self {
        let causes = std::iter::once(what.into()).chain(causes_of(error)).collect();
        Self::with(causes, next)
    }

    /// Of what the agent does with a file of a VM.
    pub(super) fn of_file(what: &str, path: &Path, error: &io::Error) -> Self {
        let what = format!("cannot {what} {}", path.display());
        match full_disk(error) {
            true => Self::caused(what, error, "free some space on that disk, then try again")
                .try_this(format!("df -h {}", existing(path).display())),
            false => Self::caused(what, error, "put that right, then try again")
                .try_this(format!("ls -ld {}", existing(path).display())),
        }
    }

    fn with(causes: Vec<String>, next: impl Into<String>) -> Self {
        let cause = causes.join(": ");
        Self { cause, causes, next: next.into(), command: None, console: false }
    }

    /// With the panic that the console tells of, where it does: a guest that
    /// stays in one neither answers nor ends.
    pub(super) fn explained_by_console(mut self, console: &[String]) -> Self {
        let Some(panic) = console.iter().rev().find_map(|line| panic_in(line)) else { return self };
        if !self.causes.iter().any(|cause| cause.contains("kernel panicked")) {
            self.causes.push("its kernel panicked".to_owned());
        }
        self.causes.push(panic.to_owned());
        self.cause = self.causes.join(": ");
        self
    }

    /// The command that helps.
    pub(super) fn try_this(self, command: impl Into<String>) -> Self {
        Self { command: Some(command.into()), ..self }
    }

    pub(super) fn with_console(self) -> Self {
        Self { console: true, ..self }
    }

    pub(super) fn record(
        self,
        step: &str,
        vm: &VmName,
        console: Vec<String>,
        now: Timestamp,
    ) -> FailureRecord {
        let Self { cause, causes, next, command, .. } = self;
        let named = |text: String| text.replace("{vm}", vm.as_str());
        FailureRecord {
            step: step.to_owned(),
            cause,
            causes,
            next: named(next),
            command: command.map(named),
            console,
            at: now,
        }
    }
}

/// An error and its causes, each by itself. Some libraries repeat a source in
/// their own text.
fn causes_of(error: &(dyn Error + 'static)) -> Vec<String> {
    let mut causes: Vec<String> = Vec::new();
    for error in std::iter::successors(Some(error), |&error| error.source()) {
        let text = error.to_string();
        if causes.last().is_none_or(|last| !last.ends_with(&text)) {
            causes.push(text);
        }
    }
    causes
}

/// The nearest that is there, to be looked at.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|at| at.exists()).unwrap_or(path)
}

/// How a program that is missing gets there.
fn installs(program: &str) -> Option<String> {
    let program = Program::ALL.iter().find(|known| known.name() == program)?;
    Some(program.install())
}

impl From<Failure> for StepError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<ImageError> for StepError {
    fn from(error: ImageError) -> Self {
        match &error {
            ImageError::Cancelled => Self::Superseded,
            ImageError::DiskFull { path, .. } => {
                Failure::of(&error, "free some space there, then start the VM again")
                    .try_this(format!("df -h {}", existing(path).display()))
                    .into()
            }
            ImageError::MissingProgram { program, .. } => {
                missing(&error, program, "start the VM again once it is there").into()
            }
            _ => Failure::of(&error, "put that right, then start the VM again").into(),
        }
    }
}

impl From<DiskImageError> for StepError {
    fn from(error: DiskImageError) -> Self {
        match &error {
            DiskImageError::Cancelled => Self::Superseded,
            DiskImageError::DiskFull { path, .. } => {
                Failure::of(&error, "free some space there, then start the VM again")
                    .try_this(format!("df -h {}", existing(path).display()))
                    .into()
            }
            DiskImageError::DigestMismatch { .. } | DiskImageError::Invalid { .. } => {
                Failure::of(&error, "delete the VM and make it anew, from an image that is whole")
                    .try_this("inn vm delete {vm}")
                    .into()
            }
            DiskImageError::Io { path, .. } => {
                Failure::of(&error, "put that right, then start the VM again")
                    .try_this(format!("ls -l {}", existing(path).display()))
                    .into()
            }
        }
    }
}

impl From<KernelError> for StepError {
    fn from(error: KernelError) -> Self {
        if full_disk(&error) {
            let next = "free some space, then start the VM again";
            return Failure::caused("the host's disk is full", &error, next)
                .try_this("df -h")
                .into();
        }
        let next = "fetch one (on Debian and its like), install a kernel package, or set \
                    kernel.path; then start the VM again";
        Failure::of(&error, next).try_this("inn image kernel fetch && inn vm start {vm}").into()
    }
}

impl From<LaunchError> for StepError {
    fn from(error: LaunchError) -> Self {
        match &error {
            LaunchError::MissingProgram { program, .. } => {
                missing(&error, program, "start the VM again once it is there")
            }
            LaunchError::Refused { .. } => {
                Failure::of(&error, "delete the VM and create it within that limit")
                    .try_this("inn vm delete {vm}")
            }
            LaunchError::Failed { log, .. } => {
                let mut causes = causes_of(&error);
                causes.extend(log.last().cloned());
                Failure::with(causes, "read what the VMM says, then start the VM again")
                    .try_this("inn vm logs {vm} --source vmm")
            }
            LaunchError::Io { .. } if full_disk(&error) => {
                Failure::of(&error, "free some space, then start the VM again").try_this("df -h")
            }
            LaunchError::Io { .. } => {
                Failure::of(&error, "put that right, then start the VM again")
            }
        }
        .into()
    }
}

fn missing(error: &(dyn Error + 'static), program: &str, next: &str) -> Failure {
    let failure = Failure::of(error, next);
    match installs(program) {
        Some(command) => failure.try_this(command),
        None => failure,
    }
}

impl From<GuestError> for StepError {
    fn from(error: GuestError) -> Self {
        Failure::of(&error, "see what its console says, then start the VM again")
            .try_this("inn vm logs {vm} --source console")
            .with_console()
            .into()
    }
}

/// Whether a write failed for want of space, however deep in the chain.
fn full_disk(error: &(dyn Error + 'static)) -> bool {
    std::iter::successors(Some(error), |&error| error.source())
        .filter_map(|error| error.downcast_ref::<io::Error>())
        .any(|error| {
            matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        })
}

/// An end that nobody asked for, in words.
pub(super) fn of_end(end: &MachineEnd, booting: bool) -> Failure {
    let while_booting = if booting { " before the guest agent answered" } else { "" };
    let cause = format!("{}{while_booting}", end_in_words(end));
    let next = "see what its console says, then start the VM again with `inn vm start {vm}`";
    Failure::new(cause, next).try_this("inn vm logs {vm} --source console").with_console()
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

/// What the console said last, of the VM's last boot.
pub(crate) async fn console_of_boot(paths: &VmPaths, boots: &BootRecords) -> Vec<String> {
    let (log, from) = (paths.console_log(), boots.last.as_ref().map_or(0, |b| b.console_from));
    let tail = tokio::task::spawn_blocking(move || console_tail(&log, from)).await;
    // It only fails by a panic, which the log has.
    tail.unwrap_or_default()
}

/// What a kernel says that it panics of (kernel/panic.c): once before the
/// trace and, in brackets, once behind it.
fn panic_in(line: &str) -> Option<&str> {
    const SAYS: &str = "Kernel panic - not syncing: ";
    let (_, what) = line.split_once(SAYS)?;
    let what = what.trim_end_matches(" ]---").trim();
    (!what.is_empty()).then_some(what)
}

/// The last lines of the console's log past `from`, where this boot began.
/// Blocks briefly.
fn console_tail(log: &Path, from: u64) -> Vec<String> {
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
    fn a_panic_on_the_console_is_named() {
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        let console = lines(
            "[    0.61] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)\n\
             [    0.61] CPU: 0 PID: 1 Comm: swapper/0\n\
             [    0.62] ---[ end Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0) ]---",
        );
        let silent = || Failure::new("the guest agent did not answer within 8.00 s", "look");
        assert_eq!(
            silent().explained_by_console(&console).cause,
            "the guest agent did not answer within 8.00 s: its kernel panicked: VFS: Unable to \
             mount root fs on unknown-block(0,0)"
        );
        let ended = of_end(&MachineEnd::Panicked, true).explained_by_console(&console);
        assert_eq!(
            ended.causes,
            [
                "the guest's kernel panicked before the guest agent answered",
                "VFS: Unable to mount root fs on unknown-block(0,0)"
            ]
        );
        let quiet = silent().explained_by_console(&lines("booting\nKernel panic? no"));
        assert_eq!(quiet.causes.len(), 1);
    }

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
