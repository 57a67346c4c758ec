//! Finds the agent, and starts one in the background where none runs.
//!
//! ```text
//!   connect ──somebody listens──▶ client
//!      │ nobody there
//!      ▼
//!   spawn `inn agent` ──▶ try to connect until it answers ──▶ client
//!                            │ it has ended
//!                            ▼
//!                 another holds the lock? ──yes──▶ go on trying
//!                            │ no: once more, if ours lost to one that has ended
//!                            ▼
//!                    its last line says why
//! ```
//! Two command lines may do this at once: the agent's lock decides between
//! their two agents, and the loser's command line waits for the winner's.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use inn_client::{Client, ClientError, TlsFiles};
use inn_host::process::{Process, ProcessIdentity, SpawnSpec, spawn_detached};
use tokio::net::UnixStream;
use tokio::time::Instant;

use crate::context::Context;
use crate::failure::Failure;
use crate::place::AgentPlace;
use crate::progress::Spinner;

/// Between two attempts. A start takes tens of milliseconds, and an attempt
/// some 10 µs.
const RETRY: Duration = Duration::from_millis(1);
/// What an agent may take to open its socket on a host that is short of CPU.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often an agent is started that another one, itself on its way out,
/// keeps from starting.
const ATTEMPTS: u32 = 5;
/// What an agent says that found the data directory taken (inn_host's lock).
const LOST: &str = "uses this data directory";
/// When agent.log is begun anew.
const LOG_LIMIT: u64 = 4 << 20;
/// How much of its end is searched for the last line.
const LOG_TAIL: u64 = 16 << 10;

pub(crate) async fn client(context: &Context) -> Result<Client, Failure> {
    if let Some(url) = &context.globals.host {
        return over_tcp(url);
    }
    let place = AgentPlace::find(&context.globals)?;
    let missing = match reach(&place.socket).await {
        Ok(()) => return Ok(over_unix(place.socket)),
        Err(e) => e,
    };
    let nobody_there =
        matches!(missing.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused);
    match place.data_dir {
        Some(ref data_dir) if nobody_there && allowed(context) => {
            let _spinner = Spinner::start(context, "starting the agent");
            let mut attempt = 1;
            while !start(&place.socket, data_dir, attempt).await? {
                attempt += 1;
            }
            Ok(over_unix(place.socket))
        }
        _ => Err(ClientError::Unreachable {
            target: place.socket.display().to_string(),
            source: missing,
        }
        .into()),
    }
}

/// The client of an agent that runs; none is started.
pub(crate) async fn running(context: &Context) -> Result<Option<Client>, Failure> {
    if let Some(url) = &context.globals.host {
        return over_tcp(url).map(Some);
    }
    let place = AgentPlace::find(&context.globals)?;
    match reach(&place.socket).await {
        Ok(()) => Ok(Some(over_unix(place.socket))),
        // Who names a socket means an agent's.
        Err(source) if place.data_dir.is_none() => {
            let target = place.socket.display().to_string();
            Err(ClientError::Unreachable { target, source }.into())
        }
        Err(_) => Ok(None),
    }
}

fn over_unix(socket: PathBuf) -> Client {
    in_trace(Client::unix(socket))
}

/// Of whoever has started us, as OpenTelemetry puts it into the environment
/// (its specification's "Environment Variables as Context Propagation
/// Carriers").
fn in_trace(client: Client) -> Client {
    match std::env::var("TRACEPARENT") {
        Ok(traceparent) => client.in_trace(&traceparent),
        Err(_) => client,
    }
}

/// Secrets and files are in the environment: arguments are everybody's to see.
fn over_tcp(url: &str) -> Result<Client, Failure> {
    let token = std::env::var("INN_TOKEN").ok().filter(|token| !token.is_empty());
    let file = |name| std::env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from);
    let client = if url.starts_with("https:") {
        let (ca, cert, key) = (file("INN_CA"), file("INN_CLIENT_CERT"), file("INN_CLIENT_KEY"));
        Client::tls(url, token, &TlsFiles { ca, cert, key })
    } else {
        Client::tcp(url, token)
    };
    client.map(in_trace).map_err(Failure::from)
}

fn allowed(context: &Context) -> bool {
    !context.globals.no_autostart
        && std::env::var_os("INN_AUTOSTART").is_none_or(|value| value != "0")
}

/// `false`: ours lost to an agent that has ended meanwhile, and the next
/// attempt may do better.
async fn start(socket: &Path, data_dir: &Path, attempt: u32) -> Result<bool, Failure> {
    let refuse = |what: String| move |e: io::Error| Failure::because(what, &e);
    DirBuilder::new().recursive(true).mode(0o700).create(data_dir).map_err(refuse(format!(
        "cannot make the agent's data directory {}",
        data_dir.display()
    )))?;
    let log_path = data_dir.join("agent.log");
    let (log, written) = open_log(&log_path)
        .map_err(refuse(format!("cannot open the agent's log {}", log_path.display())))?;
    let program = std::env::current_exe()
        .map_err(refuse("cannot tell which program this is, to start an agent".to_owned()))?;
    let spec = SpawnSpec::new(program, log).args(["agent"]).keep_environment();
    let child = spawn_detached(spec).map_err(refuse("cannot start an agent".to_owned()))?;

    tracing::info!(pid = child.pid, log = %log_path.display(), "started an agent");

    let deadline = Instant::now() + PATIENCE;
    loop {
        let refused = match reach(socket).await {
            Ok(()) => return Ok(true),
            Err(e) => e,
        };
        if !lives(&child) && !another_lives(data_dir, child.pid) {
            // It may have been another's agent, whose socket came meanwhile.
            if reach(socket).await.is_ok() {
                return Ok(true);
            }
            let line = last_line(&log_path, written);
            if attempt < ATTEMPTS && line.as_ref().is_some_and(|line| line.contains(LOST)) {
                return Ok(false);
            }
            return Err(match line {
                Some(line) => Failure::new(format!("the agent did not start: {line}")),
                None => Failure::new(format!(
                    "the agent ended at once and left nothing in {}; run `inn agent` to see why",
                    log_path.display()
                )),
            });
        }
        if Instant::now() >= deadline {
            return Err(Failure::because(
                format!(
                    "the agent (pid {}) opened no socket at {} within {} s; its log is {}",
                    child.pid,
                    socket.display(),
                    PATIENCE.as_secs(),
                    log_path.display()
                ),
                &refused,
            ));
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// The log, and how long it was.
fn open_log(path: &Path) -> io::Result<(File, u64)> {
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    let mut written = log.metadata()?.len();
    if written > LOG_LIMIT {
        log.set_len(0)?;
        written = 0;
    }
    Ok((log, written))
}

/// Whether an agent listens. A child that it started holds its socket as well
/// until it has become another program: of an agent that was killed meanwhile,
/// such a socket still takes connections, and resets them soon after.
async fn reach(socket: &Path) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let stream = inn_client::socket::connect(socket).await?;
        if listener_lives(&stream) || Instant::now() >= deadline {
            return Ok(());
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// The kernel keeps who listened (unix(7), SO_PEERCRED), not who accepts.
fn listener_lives(stream: &UnixStream) -> bool {
    let pid = stream.peer_cred().ok().and_then(|peer| peer.pid()?.try_into().ok());
    match pid.filter(|pid| *pid != 0).map(ProcessIdentity::of_pid) {
        Some(Ok(listener)) => lives(&listener),
        Some(Err(error)) => error.kind() != io::ErrorKind::NotFound,
        // One of another pid namespace is none that we can look at.
        None => true,
    }
}

fn lives(process: &ProcessIdentity) -> bool {
    // Where we cannot look (no pidfd before Linux 5.3), the deadline decides.
    !matches!(Process::open(process), Err(inn_host::process::OpenError::Gone { .. }))
}

/// Whether a process other than `ours` stands in the data directory's lock
/// file. A pid that was reused only makes us wait for the deadline.
fn another_lives(data_dir: &Path, ours: u32) -> bool {
    let holder = fs::read_to_string(data_dir.join("agent.lock")).ok();
    let pid: Option<u32> = holder.and_then(|text| text.trim().parse().ok());
    pid.is_some_and(|pid| pid != ours && ProcessIdentity::of_pid(pid).is_ok())
}

/// The last line written since `from`, without what a logger or we ourselves
/// put in front of a sentence.
fn last_line(path: &Path, from: u64) -> Option<String> {
    let mut log = File::open(path).ok()?;
    let end = log.seek(SeekFrom::End(0)).ok()?;
    log.seek(SeekFrom::Start(from.max(end.saturating_sub(LOG_TAIL)))).ok()?;
    let mut bytes = Vec::new();
    log.take(LOG_TAIL).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty())?;
    Some(line.strip_prefix("inn: ").unwrap_or(line).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_this_start_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.log");
        fs::write(&path, "inn: an old failure\n").unwrap();
        let (_, written) = open_log(&path).unwrap();
        assert_eq!(last_line(&path, written), None);
        fs::write(&path, "inn: an old failure\nstarting\ninn: unknown key `x`\n\n").unwrap();
        assert_eq!(last_line(&path, written).as_deref(), Some("unknown key `x`"));
    }

    #[test]
    fn only_another_process_counts_as_the_lock_s_holder() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!another_lives(dir.path(), 1));
        let me = std::process::id();
        fs::write(dir.path().join("agent.lock"), format!("{me}\n")).unwrap();
        assert!(!another_lives(dir.path(), me));
        assert!(another_lives(dir.path(), me + 1));
    }

    #[test]
    fn a_log_that_has_grown_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.log");
        File::create(&path).unwrap().set_len(LOG_LIMIT + 1).unwrap();
        let (log, written) = open_log(&path).unwrap();
        assert_eq!((log.metadata().unwrap().len(), written), (0, 0));
    }
}
