//! The guest's own programs, for what only they can do (`netplan apply`): each
//! under a deadline, its output bounded, its last word kept for the error.
//!
//! Jobs are on threads, and children are reaped by one loop on the agent's
//! own: so a job asks that one to run a program, and waits.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use inn_guest_proto::wire::FailureKind;
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::pipes::{self, Drain};
use super::process::{self, DEFAULT_PATH, Family, Program, SIGKILL};
use super::reaper::Ended;
use super::users::User;
use crate::refusal::Refusal;

/// Programs asked for and not started yet: jobs wait for their one each.
const MAX_WAITING: usize = 4;

/// What is kept of an output.
const MAX_OUTPUT: usize = 16 * 1024;

/// For output that is under way when a program ends. A daemon that it started
/// may hold the pipe for ever.
const AFTER_END: Duration = Duration::from_millis(200);

#[derive(Debug, thiserror::Error)]
pub(crate) enum ProgramError {
    #[error("the guest has no {program}")]
    Missing { program: String },
    #[error("{program} does not start")]
    Start { program: String, source: io::Error },
    #[error("{program} was not done within {} s", limit.as_secs())]
    Late { program: String, limit: Duration },
    #[error("{program} {how}{}{last_line}", if last_line.is_empty() { "" } else { ": " })]
    Failed { program: String, how: String, last_line: String },
}

impl ProgramError {
    /// `what` completes "the guest cannot …".
    pub(crate) fn refuse(&self, what: &str) -> Refusal {
        let kind = match self {
            Self::Missing { .. } => FailureKind::Unsupported,
            _ => FailureKind::Failed,
        };
        let why = match self {
            Self::Start { source, .. } => format!("{self}: {source}"),
            _ => self.to_string(),
        };
        Refusal::new(kind, format!("{what}: {why}"))
    }
}

#[derive(Debug)]
struct Order {
    argv: Vec<String>,
    limit: Duration,
    answer: oneshot::Sender<Result<String, ProgramError>>,
}

/// Runs programs for jobs on other threads.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    orders: mpsc::Sender<Order>,
}

impl Programs {
    /// On the agent's thread. `expect` is asked right after each launch, and
    /// tells how the process ends.
    pub(crate) fn start(expect: impl Fn(i32) -> oneshot::Receiver<Ended> + 'static) -> Self {
        let (orders, mut arriving) = mpsc::channel::<Order>(MAX_WAITING);
        let expect = Rc::new(expect);
        drop(spawn_local(async move {
            while let Some(order) = arriving.recv().await {
                let expect = Rc::clone(&expect);
                drop(spawn_local(async move {
                    let result = run(&*expect, order.argv, order.limit).await;
                    let _gave_up = order.answer.send(result);
                }));
            }
        }));
        Self { orders }
    }

    /// Blocks until the program has ended well, and gives what it wrote to
    /// stdout. Not on the agent's own thread.
    pub(crate) fn run(&self, argv: &[&str], limit: Duration) -> Result<String, ProgramError> {
        let (answer, answered) = oneshot::channel();
        let argv: Vec<String> = argv.iter().map(|&word| word.to_owned()).collect();
        let program = argv.first().cloned().unwrap_or_default();
        let gone = || ProgramError::Start {
            program: program.clone(),
            source: io::ErrorKind::BrokenPipe.into(),
        };
        let order = Order { argv, limit, answer };
        self.orders.blocking_send(order).map_err(|_| gone())?;
        answered.blocking_recv().map_err(|_| gone())?
    }
}

async fn run(
    expect: &impl Fn(i32) -> oneshot::Receiver<Ended>,
    argv: Vec<String>,
    limit: Duration,
) -> Result<String, ProgramError> {
    let name = argv.first().cloned().unwrap_or_default();
    let cannot = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => ProgramError::Missing { program: name.clone() },
        _ => ProgramError::Start { program: name.clone(), source },
    };
    let env = vec![format!("PATH={DEFAULT_PATH}"), "LC_ALL=C".into(), "HOME=/root".into()];
    let program = Program::new(argv, env, DEFAULT_PATH, "/", root())
        .map_err(|error| cannot(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
    let (ours, theirs) = pipes::open(None, false).map_err(cannot)?;
    let pid = process::launch(&program, &theirs).map_err(|error| cannot(error.source))?;
    let ended = expect(pid);
    drop(theirs);
    let (mut stdout, mut stderr) = (BytesMut::new(), BytesMut::new());
    let done = {
        let output = async {
            // Both to their ends: neither arm is dropped half way.
            tokio::join!(
                collect(Some(&ours.stdout), &mut stdout),
                collect(ours.stderr.as_ref(), &mut stderr)
            );
        };
        timeout(limit, finish(ended, output)).await
    };
    let ended = match done {
        Ok(ended) => ended,
        Err(_) => {
            Family::new(pid).signal(SIGKILL);
            return Err(ProgramError::Late { program: name, limit });
        }
    };
    let how = match ended {
        Some(Ended::Code(0)) => return Ok(String::from_utf8_lossy(&stdout).into_owned()),
        Some(Ended::Code(code)) => format!("ended with {code}"),
        Some(Ended::Signal(signal)) => format!("was ended by signal {signal}"),
        None => "ended, nobody knows how".into(),
    };
    let last_line = last_line(if stderr.is_empty() { &stdout } else { &stderr });
    Err(ProgramError::Failed { program: name, how, last_line })
}

/// Its end, and all output that comes soon after it.
async fn finish(
    ended: oneshot::Receiver<Ended>,
    output: impl Future<Output = ()>,
) -> Option<Ended> {
    let mut output = std::pin::pin!(output);
    let mut ended = std::pin::pin!(ended);
    // Both arms may be cancelled: each is polled again below.
    let end = tokio::select! {
        end = &mut ended => {
            let _held_by_a_daemon = timeout(AFTER_END, &mut output).await;
            end
        }
        () = &mut output => ended.await,
    };
    end.ok()
}

async fn collect(from: Option<&Drain>, into: &mut BytesMut) {
    let Some(from) = from else { return };
    while from.read(into, MAX_OUTPUT).await.is_ok_and(|count| count > 0) {
        // The last word counts.
        let too_much = into.len().saturating_sub(MAX_OUTPUT);
        drop(into.split_to(too_much));
    }
}

fn last_line(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty());
    line.unwrap_or_default().chars().filter(|letter| !letter.is_control()).take(200).collect()
}

fn root() -> User {
    User {
        uid: 0,
        gid: 0,
        groups: vec![0],
        name: "root".into(),
        home: "/root".into(),
        shell: "/bin/sh".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::raw;

    /// The tests' own way to learn of an end: a reaper of all children would
    /// take those of other tests.
    fn expect(pid: i32) -> oneshot::Receiver<Ended> {
        let (tell, told) = oneshot::channel();
        std::thread::spawn(move || {
            let pid = rustix::process::Pid::from_raw(pid);
            let ended = rustix::process::waitpid(pid, rustix::process::WaitOptions::empty());
            let (_, status) = ended.unwrap().unwrap();
            let signal = status.terminating_signal().map(Ended::Signal);
            tell.send(status.exit_status().map(Ended::Code).or(signal).unwrap())
        });
        told
    }

    /// Runs them one after the other.
    fn try_all(programs: Vec<(Vec<&'static str>, Duration)>) -> Vec<Result<String, ProgramError>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let runner = Programs::start(expect);
            let job = move || {
                programs.iter().map(|(argv, limit)| runner.run(argv, *limit)).collect::<Vec<_>>()
            };
            crate::apart::apart("programs", job).await.unwrap()
        })
    }

    #[test]
    fn ends_are_told_with_the_last_word() {
        if !rustix::process::getuid().is_root() {
            return;
        }
        let patient = Duration::from_secs(60);
        let results = try_all(vec![
            (vec!["echo", "all well"], patient),
            (vec!["sh", "-c", "echo first >&2; echo '  what it was ' >&2; exit 3"], patient),
            (vec!["inn-no-such-program"], patient),
            (vec!["sleep", "600"], Duration::from_millis(50)),
            // A daemon keeps the pipe; the program's end counts.
            (vec!["sh", "-c", "sleep 600 & echo $!"], patient),
        ]);
        let texts: Vec<String> = results
            .iter()
            .map(|result| match result {
                Ok(text) => text.clone(),
                Err(error) => error.to_string(),
            })
            .collect();
        assert_eq!(texts[0], "all well\n");
        assert_eq!(texts[1], "sh ended with 3: what it was");
        assert_eq!(texts[2], "the guest has no inn-no-such-program");
        assert_eq!(texts[3], "sleep was not done within 0 s");
        let daemon: i32 = texts[4].trim().parse().unwrap();
        raw::send_signal(daemon, SIGKILL).unwrap();
    }

    #[test]
    fn the_last_line_is_clean_and_short() {
        assert_eq!(last_line(b"one\n\x1b[31mtwo\n\n"), "[31mtwo");
        assert_eq!(last_line(b""), "");
        assert_eq!(last_line("ü".repeat(500).as_bytes()).chars().count(), 200);
    }
}
