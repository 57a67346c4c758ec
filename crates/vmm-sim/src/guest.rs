use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use inn_guest_proto::wire::{
    ExecEnd, ExecNote, ExecStarted, ExecSummary, RestartPolicy, Supervision, exec_end, exec_note,
};
use tokio::time::Instant;

use crate::program::{Ends, Program};
use crate::session::Settings;

const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;

/// What a guest remembers across sessions.
#[derive(Debug, Default)]
pub(crate) struct GuestState {
    pub(crate) configured: bool,
    pub(crate) settings: Settings,
    /// By their ids. Those that are not retained go with their stream.
    pub(crate) execs: BTreeMap<Bytes, Exec>,
    last_pid: u32,
}

impl GuestState {
    pub(crate) fn new(configured: bool) -> Self {
        // 1 is the guest agent itself.
        Self { configured, last_pid: 1, ..Self::default() }
    }

    pub(crate) fn next_pid(&mut self) -> u32 {
        self.last_pid = self.last_pid.wrapping_add(1);
        self.last_pid
    }
}

/// A program that runs, waits to be started again, or has ended. Time passes
/// for it when somebody looks: see [`Exec::advance`].
#[derive(Debug, Clone)]
pub(crate) struct Exec {
    pub(crate) pid: u32,
    pub(crate) argv: Vec<String>,
    pub(crate) program: Program,
    /// By the guest's clock.
    pub(crate) started_unix_ms: u64,
    /// Of all runs together.
    deadline: Option<Instant>,
    pub(crate) retained: bool,
    pub(crate) user: String,
    pub(crate) tty: bool,
    /// When its stdin ended; at once where it has none.
    pub(crate) stdin_ended: Option<Instant>,
    /// The bytes that it has copied from stdin.
    pub(crate) copied: u64,
    /// Of the current run.
    killed: Option<(Instant, i32)>,
    runs: Runs,
}

/// Of one exec, that of a supervised one above all.
#[derive(Debug, Clone)]
struct Runs {
    policy: RestartPolicy,
    shortest: Duration,
    longest: Duration,
    delay: Duration,
    /// When the current run began.
    began: Instant,
    /// When the next one begins, while there is none.
    next: Option<Instant>,
    restarts: u32,
    last: Option<ExecEnd>,
    /// Ended for good while it waited.
    stopped: bool,
    stopping: bool,
    notes: VecDeque<ExecNote>,
    /// How many notes there ever were.
    noted: u64,
}

/// Of an exec, for those who follow it and are behind.
const MAX_NOTES: usize = 32;

/// As the real guest: less would never let time pass.
const SHORTEST_DELAY: Duration = Duration::from_millis(10);

/// After a run of so many times the longest delay, the next is the shortest.
const LONG_RUN: u32 = 10;

impl Runs {
    fn new(wanted: Option<&Supervision>, now: Instant) -> Self {
        let millis = |value: Option<u32>| Duration::from_millis(value.unwrap_or(0).into());
        let shortest = millis(wanted.map(|wanted| wanted.min_delay_ms)).max(SHORTEST_DELAY);
        Self {
            policy: wanted.map_or(RestartPolicy::No, Supervision::policy),
            shortest,
            longest: millis(wanted.map(|wanted| wanted.max_delay_ms)).max(shortest),
            delay: shortest,
            began: now,
            next: None,
            restarts: 0,
            last: None,
            stopped: false,
            stopping: false,
            notes: VecDeque::new(),
            noted: 0,
        }
    }

    fn wants_another(&self, end: &ExecEnd) -> bool {
        let success = end.status == Some(exec_end::Status::Code(0));
        !self.stopping
            && !end.timed_out
            && match self.policy {
                RestartPolicy::No => false,
                RestartPolicy::OnFailure => !success,
                RestartPolicy::Always => true,
            }
    }

    fn note(&mut self, kind: exec_note::Kind, next_in: Duration) {
        if self.notes.len() == MAX_NOTES {
            self.notes.pop_front();
        }
        let next_in_ms = u32::try_from(next_in.as_millis()).unwrap_or(u32::MAX);
        self.notes.push_back(ExecNote { kind: Some(kind), restarts: self.restarts, next_in_ms });
        self.noted += 1;
    }
}

impl Exec {
    /// Starts it.
    pub(crate) fn new(
        request: inn_guest_proto::wire::Exec,
        program: Program,
        pid: u32,
        now: Instant,
    ) -> Self {
        let argv = match request.command_line.is_empty() {
            true => request.argv,
            false => vec![request.command_line],
        };
        Self {
            pid,
            argv,
            program,
            started_unix_ms: 0,
            deadline: (request.timeout_ms > 0)
                .then(|| now.checked_add(Duration::from_millis(request.timeout_ms)))
                .flatten(),
            retained: request.retain_bytes.is_some(),
            user: request.user,
            tty: request.tty.is_some(),
            stdin_ended: (!request.stdin).then_some(now),
            copied: 0,
            killed: None,
            runs: Runs::new(request.supervision.as_ref(), now),
        }
    }

    /// Lets it end and start as often as it has up to now.
    pub(crate) fn advance(&mut self, now: Instant) {
        loop {
            if let Some(next) = self.runs.next {
                let over = self.deadline.filter(|deadline| *deadline < next);
                self.runs.stopped |= over.is_some_and(|deadline| deadline <= now);
                if self.runs.stopped || next > now {
                    return;
                }
                self.runs.next = None;
                self.runs.began = next;
                self.runs.restarts = self.runs.restarts.saturating_add(1);
                self.killed = None;
                self.pid = self.pid.wrapping_add(1);
                let started = exec_note::Kind::RunStarted(ExecStarted {
                    pid: self.pid,
                    ..ExecStarted::default()
                });
                self.runs.note(started, Duration::ZERO);
            }
            let Some((at, end)) = self.run_end(now) else { return };
            if !self.runs.wants_another(&end) {
                return;
            }
            let runs = &mut self.runs;
            if at.saturating_duration_since(runs.began) >= runs.longest.saturating_mul(LONG_RUN) {
                runs.delay = runs.shortest;
            }
            let delay = runs.delay;
            runs.delay = delay.saturating_mul(2).min(runs.longest);
            runs.next = Some(at + delay);
            runs.last = Some(end);
            runs.note(exec_note::Kind::RunEnded(end), delay);
        }
    }

    /// SIGTERM and SIGKILL are meant for the exec and not only for its run.
    pub(crate) fn kill(&mut self, now: Instant, signal: i32) {
        self.advance(now);
        if [SIGTERM, SIGKILL].contains(&signal) {
            self.runs.stopping = true;
            self.runs.stopped = self.runs.next.is_some();
        }
        if self.runs.next.is_none() && self.run_end(now).is_none() {
            self.killed = Some((now, signal));
        }
    }

    /// When something becomes of it by itself, as far as that is known.
    pub(crate) fn due(&self) -> Option<Instant> {
        match (self.runs.next, self.deadline) {
            (Some(next), deadline) => Some(deadline.map_or(next, |deadline| next.min(deadline))),
            (None, _) => self.run_due(),
        }
    }

    fn run_due(&self) -> Option<Instant> {
        let began = self.runs.began;
        let itself = match self.program.ends {
            Ends::After(time) => began.checked_add(time),
            Ends::WithStdin => self.stdin_ended.map(|ended| ended.max(began)),
            Ends::Never => None,
        };
        [itself, self.deadline].into_iter().flatten().min()
    }

    /// How it has ended, if it has for good.
    pub(crate) fn end(&mut self, now: Instant) -> Option<ExecEnd> {
        self.advance(now);
        match self.runs.next {
            Some(_) if self.runs.stopped => self.runs.last,
            Some(_) => None,
            None => self.run_end(now).map(|(_, end)| end),
        }
    }

    /// When and how the current run has ended.
    fn run_end(&self, now: Instant) -> Option<(Instant, ExecEnd)> {
        let began = self.runs.began;
        let (at, status, timed_out) = match (self.killed, self.run_due()) {
            (Some((at, signal)), _) => (at, exec_end::Status::Signal(signal), false),
            (None, Some(due)) if due <= now => {
                // What ends just at its timeout has ended in time.
                let in_time = match self.program.ends {
                    Ends::After(time) => began.checked_add(time) == Some(due),
                    Ends::WithStdin => self.stdin_ended.is_some_and(|ended| ended <= due),
                    Ends::Never => false,
                };
                match self.deadline {
                    Some(deadline) if deadline == due && !in_time => {
                        (due, exec_end::Status::Signal(SIGKILL), true)
                    }
                    _ => (due, exec_end::Status::Code(self.program.code), false),
                }
            }
            _ => return None,
        };
        let took = at.saturating_duration_since(began);
        let end = ExecEnd {
            timed_out,
            truncated: 0,
            output: self.output(),
            took_ns: u64::try_from(took.as_nanos()).unwrap_or(u64::MAX),
            status: Some(status),
        };
        Some((at, end))
    }

    /// How many bytes it has written so far without its stdin's: each run
    /// writes its own at once.
    pub(crate) fn written(&self) -> u64 {
        self.program.stdout.len() as u64 * (u64::from(self.runs.restarts) + 1)
    }

    /// How many bytes it has written so far.
    pub(crate) fn output(&self) -> u64 {
        self.written() + self.copied
    }

    /// How many notes there ever were.
    pub(crate) fn noted(&self) -> u64 {
        self.runs.noted
    }

    /// The first note from `number` on that is still kept, with the number of
    /// the one that follows.
    pub(crate) fn note(&self, number: u64) -> Option<(u64, &ExecNote)> {
        let first = self.runs.noted - self.runs.notes.len() as u64;
        let number = number.max(first);
        let index = usize::try_from(number - first).ok()?;
        Some((number + 1, self.runs.notes.get(index)?))
    }

    pub(crate) fn summary(&mut self, id: &Bytes, now: Instant) -> ExecSummary {
        let ended = self.end(now);
        ExecSummary {
            id: id.clone(),
            pid: self.pid,
            argv: self.argv.clone(),
            retained: self.retained,
            output_start: 0,
            output_end: self.output(),
            ended,
            started_unix_ms: self.started_unix_ms,
            user: self.user.clone(),
            tty: self.tty,
            stdin_open: self.stdin_ended.is_none(),
            restarts: self.runs.restarts,
            last_run: self.runs.last,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn supervised(line: &str, policy: RestartPolicy, now: Instant) -> Exec {
        let argv: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let program = Program::find(&argv).unwrap();
        let supervision =
            Supervision { policy: policy.into(), min_delay_ms: 1000, max_delay_ms: 4000 };
        let request = inn_guest_proto::wire::Exec {
            argv,
            supervision: Some(supervision),
            ..Default::default()
        };
        Exec::new(request, program, 10, now)
    }

    #[tokio::test(start_paused = true)]
    async fn a_supervised_program_runs_again_and_tells_it() {
        let start = Instant::now();
        let mut exec = supervised("echo hi", RestartPolicy::Always, start);
        // It begins at 0 s, 1 s, 3 s, 7 s and 11 s.
        assert_eq!(exec.end(start + SECOND * 8), None);
        assert_eq!((exec.runs.restarts, exec.written(), exec.noted()), (3, 12, 7));
        assert_eq!(exec.due(), Some(start + SECOND * 11));
        let (next, note) = exec.note(0).unwrap();
        assert_eq!((next, note.restarts, note.next_in_ms), (1, 0, 1000));
        assert!(exec.note(7).is_none());
        exec.kill(start + SECOND * 9, 1);
        assert_eq!(exec.end(start + SECOND * 10), None, "a hangup while it waits is nothing");
        exec.kill(start + SECOND * 10, SIGTERM);
        let end = exec.end(start + SECOND * 100).unwrap();
        assert_eq!(end.status, Some(exec_end::Status::Code(0)));
    }

    #[tokio::test(start_paused = true)]
    async fn success_is_enough_for_a_policy_of_failures() {
        let start = Instant::now();
        let mut good = supervised("true", RestartPolicy::OnFailure, start);
        assert!(good.end(start).is_some());
        let mut bad = supervised("false", RestartPolicy::OnFailure, start);
        assert!(bad.end(start + SECOND * 100).is_none());
        assert!(bad.runs.last.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_timeout_is_of_all_runs() {
        let start = Instant::now();
        for (line, signal) in [("sleep infinity", Some(SIGKILL)), ("false", None)] {
            let mut exec = supervised(line, RestartPolicy::Always, start);
            exec.deadline = Some(start + SECOND * 2);
            assert!(exec.end(start + SECOND).is_none());
            let end = exec.end(start + SECOND * 50).unwrap();
            let killed = signal.map(exec_end::Status::Signal);
            assert_eq!(end.status, killed.or(Some(exec_end::Status::Code(1))));
            assert_eq!(exec.runs.restarts, u32::from(signal.is_none()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_killed_run_ends_it_for_good() {
        let start = Instant::now();
        let mut exec = supervised("sleep infinity", RestartPolicy::Always, start);
        exec.kill(start + SECOND, SIGKILL);
        let end = exec.end(start + SECOND).unwrap();
        assert_eq!(end.status, Some(exec_end::Status::Signal(SIGKILL)));
    }
}
