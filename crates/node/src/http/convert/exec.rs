//! What a process in a guest is asked for, and what becomes of it.

use std::time::Duration;

use inn_api as api;
use inn_units::parse_duration;
use jiff::Timestamp;

use super::millis;
use crate::guest::{ExecEnd, ExecStatus, ExecSummary, GuestError, RefusedKind};
use crate::vm::WORKLOAD;

/// How long a process may run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::http) struct TimeLimit {
    /// What who started it asked for, as far as that is known.
    pub(in crate::http) asked: Option<Duration>,
    /// The node's own: also of those that ask for none.
    pub(in crate::http) most: Option<Duration>,
}

impl TimeLimit {
    pub(in crate::http) fn timeout(self) -> Option<Duration> {
        match (self.asked, self.most) {
            (Some(asked), Some(most)) => Some(asked.min(most)),
            (asked, most) => asked.or(most),
        }
    }

    /// Whether it was the node's that ended what ran so long.
    fn is_the_node_s(self, took: Duration) -> bool {
        let above = |most| took >= most && self.asked.is_none_or(|asked| asked > most);
        self.most.is_some_and(above)
    }
}

/// A process's end as Kubernetes puts it.
pub(in crate::http) fn exec_status(end: &ExecEnd, limit: TimeLimit) -> api::exec::Status {
    use api::exec::{Status, StatusCause, StatusDetails};
    let mut causes = Vec::new();
    let mut cause = |reason: &str, message: String| {
        causes.push(StatusCause { reason: reason.to_owned(), message });
    };
    let mut message = String::new();
    if end.exit_code() != 0 || end.timed_out {
        cause("ExitCode", end.exit_code().to_string());
        message = format!("the command ended with exit code {}", end.exit_code());
    }
    if let ExecStatus::Signal(number) = end.status {
        cause("Signal", signal_name(number));
        message = format!("the command was ended by {}", signal_name(number));
    }
    if end.timed_out {
        let ran_out = limit.timeout().filter(|timeout| *timeout <= end.took).unwrap_or(end.took);
        let ran_out = duration_text(ran_out);
        message = if limit.is_the_node_s(end.took) {
            format!("the node's maximum of {ran_out} (exec.max_timeout) ended the command")
        } else {
            format!("the command ran into its timeout of {ran_out}")
        };
        cause("Timeout", ran_out);
    }
    if end.truncated > 0 {
        cause("Truncated", end.truncated.to_string());
        if !message.is_empty() {
            message.push_str("; ");
        }
        message.push_str(&format!("{} bytes of its output were cut", end.truncated));
    }
    let failed = end.exit_code() != 0 || end.timed_out;
    let details = (!causes.is_empty()).then_some(StatusDetails { causes });
    Status {
        status: if failed { "Failure" } else { "Success" }.to_owned(),
        reason: if failed { "NonZeroExitCode".to_owned() } else { String::new() },
        message,
        details,
    }
}

/// As the API takes durations.
fn duration_text(d: Duration) -> String {
    match d.subsec_millis() {
        0 => format!("{}s", d.as_secs()),
        _ => format!("{}ms", d.as_millis()),
    }
}

pub(in crate::http) fn exec_info(summary: ExecSummary) -> api::ExecInfo {
    let started = summary.started.and_then(|started| Timestamp::try_from(started).ok());
    api::ExecInfo {
        id: summary.id,
        name: summary.id.to_string(),
        command: summary.argv,
        pid: summary.pid,
        user: if summary.user.is_empty() { "root".to_owned() } else { summary.user },
        workload: summary.id == WORKLOAD,
        detached: summary.retained,
        tty: summary.tty,
        running: summary.ended.is_none(),
        started_at: started,
        restarts: summary.restarts,
        output_start: summary.output_start,
        output_end: summary.output_end,
        ended: summary.ended.as_ref().map(exec_ended),
    }
}

fn exec_ended(end: &ExecEnd) -> api::ExecEnded {
    api::ExecEnded {
        exit_code: end.exit_code(),
        signal: match end.status {
            ExecStatus::Signal(number) => Some(signal_name(number)),
            ExecStatus::Code(_) => None,
        },
        timed_out: end.timed_out,
        truncated_bytes: end.truncated,
        took_ms: millis(end.took),
    }
}

/// The words of a request for a process.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::http) struct Words {
    pub(in crate::http) env: Vec<String>,
    pub(in crate::http) timeout: Option<Duration>,
}

/// What JSON alone does not refuse of a detached exec.
pub(in crate::http) fn exec_words(create: &api::ExecCreate) -> Result<Words, String> {
    if create.command.is_empty() == create.shell.is_none() {
        return Err("give one of command and shell".to_owned());
    }
    if let Some(workdir) = create.workdir.as_ref().filter(|workdir| !workdir.starts_with('/')) {
        return Err(format!("the workdir `{workdir}` is not absolute"));
    }
    let texts = create.command.iter().chain(&create.shell).chain(&create.workdir);
    if texts.chain(&create.user).any(|text| text.contains('\0')) {
        return Err("a text holds a zero byte".to_owned());
    }
    let mut env = Vec::with_capacity(create.env.len());
    for (name, value) in &create.env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(format!("the environment's `{name}` is no name with a value"));
        }
        env.push(format!("{name}={value}"));
    }
    let timeout = create.timeout.as_deref().map(parse_duration).transpose();
    Ok(Words { env, timeout: timeout.map_err(|error| error.to_string())? })
}

/// A process that never ran, or whose end nobody will learn.
pub(in crate::http) fn exec_failure(problem: &api::Problem) -> api::exec::Status {
    api::exec::Status {
        status: "Failure".to_owned(),
        reason: problem.code.as_str(),
        message: problem.detail.clone(),
        details: None,
    }
}

/// Adds the exit code by which a shell says that there is no such program, or
/// that it cannot be executed (POSIX.1-2024, XCU 2.8.2).
pub(in crate::http) fn with_shell_code(
    mut status: api::exec::Status,
    error: &GuestError,
) -> api::exec::Status {
    let code = match error {
        GuestError::Refused { kind: RefusedKind::NotFound, .. } => "127",
        GuestError::Refused { kind: RefusedKind::Denied, .. } => "126",
        _ => return status,
    };
    let cause = api::exec::StatusCause { reason: "ExitCode".to_owned(), message: code.to_owned() };
    status.details = Some(api::exec::StatusDetails { causes: vec![cause] });
    status
}

/// Linux's numbers on x86-64 and arm64 (signal(7)).
const SIGNALS: [(&str, i32); 26] = [
    ("SIGHUP", 1),
    ("SIGINT", 2),
    ("SIGQUIT", 3),
    ("SIGILL", 4),
    ("SIGTRAP", 5),
    ("SIGABRT", 6),
    ("SIGBUS", 7),
    ("SIGFPE", 8),
    ("SIGKILL", 9),
    ("SIGUSR1", 10),
    ("SIGSEGV", 11),
    ("SIGUSR2", 12),
    ("SIGPIPE", 13),
    ("SIGALRM", 14),
    ("SIGTERM", 15),
    ("SIGCHLD", 17),
    ("SIGCONT", 18),
    ("SIGSTOP", 19),
    ("SIGTSTP", 20),
    ("SIGTTIN", 21),
    ("SIGTTOU", 22),
    ("SIGXCPU", 24),
    ("SIGXFSZ", 25),
    ("SIGWINCH", 28),
    ("SIGPWR", 30),
    ("SIGSYS", 31),
];

/// `SIGTERM`, `TERM` or `15`.
pub(in crate::http) fn signal_number(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse() {
        return (1..=64).contains(&number).then_some(number);
    }
    let known = |known: &str| known == name || known.strip_prefix("SIG") == Some(name);
    SIGNALS.iter().find(|(name, _)| known(name)).map(|(_, number)| *number)
}

fn signal_name(number: i32) -> String {
    match SIGNALS.iter().find(|(_, known)| *known == number) {
        Some((name, _)) => (*name).to_owned(),
        None => format!("signal {number}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(status: ExecStatus) -> ExecEnd {
        ExecEnd { status, timed_out: false, truncated: 0, output: 0, took: Duration::ZERO }
    }

    #[test]
    fn an_end_says_the_exit_code_and_why() {
        let status = |end: &ExecEnd| exec_status(end, TimeLimit::default());
        let success = status(&end(ExecStatus::Code(0)));
        assert_eq!((success.exit_code(), success.details.is_none()), (Some(0), true));
        let code = status(&end(ExecStatus::Code(7)));
        assert_eq!(code.exit_code(), Some(7));
        let signal = status(&end(ExecStatus::Signal(9)));
        assert_eq!((signal.exit_code(), signal.cause("Signal")), (Some(137), Some("SIGKILL")));
        let cut = status(&ExecEnd { truncated: 5, ..end(ExecStatus::Code(0)) });
        assert_eq!((cut.exit_code(), cut.cause("Truncated")), (Some(0), Some("5")));
        assert_eq!(cut.message, "5 bytes of its output were cut");
    }

    #[test]
    fn a_timeout_says_whose_it_was() {
        let secs = Duration::from_secs;
        let took = secs(300) + Duration::from_millis(40);
        let late = ExecEnd { timed_out: true, took, ..end(ExecStatus::Signal(15)) };
        for (asked, most, limit, by_node) in [
            (Some(secs(300)), None, "300s", false),
            (None, Some(secs(300)), "300s", true),
            (Some(secs(301)), Some(secs(300)), "300s", true),
            (Some(secs(7)), Some(secs(300)), "7s", false),
            // Of one that somebody else started: only its end is known.
            (None, Some(secs(400)), "300040ms", false),
            (None, None, "300040ms", false),
        ] {
            let status = exec_status(&late, TimeLimit { asked, most });
            assert_eq!(status.cause("Timeout"), Some(limit), "{asked:?} {most:?}");
            assert_eq!(status.message.contains("exec.max_timeout"), by_node, "{}", status.message);
        }
        assert_eq!(TimeLimit { asked: None, most: Some(secs(9)) }.timeout(), Some(secs(9)));
        assert_eq!(
            TimeLimit { asked: Some(secs(10)), most: Some(secs(9)) }.timeout(),
            Some(secs(9))
        );
        assert_eq!(TimeLimit { asked: Some(secs(10)), most: None }.timeout(), Some(secs(10)));
    }

    #[test]
    fn signals_have_names_and_numbers() {
        for name in ["SIGTERM", "TERM", "15"] {
            assert_eq!(signal_number(name), Some(15));
        }
        for name in ["SIGNAL", "SIG", "0", "65", "-9", ""] {
            assert_eq!(signal_number(name), None, "{name}");
        }
    }

    #[test]
    fn a_detached_exec_needs_one_command() {
        let command = || vec!["true".to_owned()];
        let good = api::ExecCreate {
            command: command(),
            env: [("K".to_owned(), "a=b".to_owned())].into(),
            timeout: Some("30s".into()),
            ..api::ExecCreate::default()
        };
        let timeout = Some(Duration::from_secs(30));
        assert_eq!(exec_words(&good), Ok(Words { env: vec!["K=a=b".into()], timeout }));
        for bad in [
            api::ExecCreate::default(),
            api::ExecCreate { shell: Some("true".into()), ..good.clone() },
            api::ExecCreate { workdir: Some("x".into()), ..good.clone() },
            api::ExecCreate { user: Some("a\0".into()), ..good.clone() },
            api::ExecCreate { env: [("=".to_owned(), String::new())].into(), ..good.clone() },
            api::ExecCreate { timeout: Some("soon".into()), ..good.clone() },
        ] {
            assert!(exec_words(&bad).is_err(), "{bad:?}");
        }
    }
}
