use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::middleware;
use inn_fail_point::{Point, fail_point};
use inn_host::init_system::PassedListeners;
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::audit;
use super::auth::{self, GROUP};
use super::door::Door;
use super::limits::Limits;
use super::metrics;
use super::tls::Tls;
use super::traces;
use super::{ApiState, router};
use crate::access::Users;
use crate::config::{ApiListen, Reloaded};
use crate::error::AgentError;
use crate::node::Node;
use crate::reload::{ReloadError, reload};
use crate::upgrade::{OWN_SOCKET, PASSED_SOCKET, TCP_SOCKET};

/// For requests that are at work at the agent's end.
const LAST_ANSWERS: Duration = Duration::from_secs(3);

/// For requests that wait for nothing, ahead of an upgrade.
const QUICK_ANSWERS: Duration = Duration::from_millis(300);

/// The listeners at work.
#[derive(Debug)]
pub(crate) struct Api {
    socket: PathBuf,
    /// It is somebody else's, who has it wait for the next agent.
    passed: bool,
    door: Arc<Door>,
    listeners: Vec<JoinHandle<()>>,
    /// The sockets once more, for a successor.
    sockets: Vec<(&'static str, OwnedFd)>,
}

/// What decides who gets in.
#[derive(Debug, Clone)]
pub(super) struct Gate {
    pub(super) node: Arc<Node>,
    pub(super) users: Arc<Users>,
    pub(super) limits: Arc<Limits>,
    pub(super) group_may_connect: bool,
    pub(super) listens_at: Option<SocketAddr>,
}

/// Listens at the configured socket, or takes over those that were passed.
pub(crate) async fn serve(node: &Arc<Node>, passed: PassedListeners) -> Result<Api, AgentError> {
    let (passed, passed_tcp) = (passed.unix.into_iter().next(), passed.tcp);
    // Of an agent before, that had made it itself, it is ours to remove.
    let was_passed = passed.as_ref().is_some_and(|(name, _)| name != OWN_SOCKET);
    let passed = passed.map(|(_, listener)| listener);
    let configured = node.config.paths.api_socket();
    let socket = passed.as_ref().and_then(path_of).unwrap_or_else(|| configured.clone());
    if socket != configured {
        tracing::warn!(
            passed = %socket.display(), configured = %configured.display(),
            "the socket that was passed is not the one where clients look: make runtime_dir and \
             ListenStream= agree"
        );
    }
    let stop = CancellationToken::new();

    // First, so that what fails leaves no socket behind.
    let tls = Tls::open(&node.config.tls)?;
    let state = ApiState {
        node: Arc::clone(node),
        replays: Arc::default(),
        uploads: Arc::default(),
        tls: tls.clone(),
    };
    let tcp = listen_tcp(node.config.api_listen, passed_tcp).await?;
    let listens_at = match &tcp {
        Some(tcp) => {
            let step = "tell the address of the API";
            Some(tcp.local_addr().map_err(|source| AgentError::Start { step, source })?)
        }
        None => None,
    };
    if let Some(at) = listens_at {
        let _ = node.listens_at.set(at);
        let scheme = if tls.is_some() { "https" } else { "http" };
        tracing::info!(url = %format_args!("{scheme}://{at}/swagger"), "the API is at");
    }
    let unix = listen_unix(passed, &socket).map_err(AgentError::io("listen at", &socket))?;
    fail_point(Point::AgentListens);
    let group_may_connect =
        open_to_group(&socket).map_err(AgentError::io("set the owner of", &socket))?;

    let gate = Gate {
        node: Arc::clone(node),
        users: Arc::default(),
        limits: Arc::new(Limits::default()),
        group_may_connect,
        listens_at,
    };
    let app = router(state)
        .layer(middleware::from_fn_with_state(gate.clone(), auth::check))
        .layer(middleware::from_fn_with_state(gate, audit::record))
        .layer(middleware::from_fn_with_state(Arc::clone(node), metrics::count))
        .layer(middleware::from_fn_with_state(Arc::clone(node), traces::follow));
    let keep = |socket: BorrowedFd<'_>| {
        let step = "keep a socket for an upgrade";
        socket.try_clone_to_owned().map_err(|source| AgentError::Start { step, source })
    };
    let name = if was_passed { PASSED_SOCKET } else { OWN_SOCKET };
    let mut sockets = vec![(name, keep(unix.as_fd())?)];
    if let Some(tcp) = &tcp {
        sockets.push((TCP_SOCKET, keep(tcp.as_fd())?));
    }
    let door = Door::new(app, Arc::clone(&node.config), tls, stop);
    let mut listeners = vec![tokio::spawn(Arc::clone(&door).accept(unix))];
    if let Some(tcp) = tcp {
        listeners.push(tokio::spawn(Arc::clone(&door).accept(tcp)));
    }
    Ok(Api { socket, passed: was_passed, door, listeners, sockets })
}

impl Api {
    /// Where the unix socket is.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Takes no new connections.
    pub(crate) fn stop(&self) {
        // Whoever comes now shall start another agent, not wait for this one.
        // At a socket that was passed it waits, and the next agent answers.
        if !self.passed
            && let Err(error) = inn_host::socket::remove(&self.socket)
        {
            tracing::warn!(socket = %self.socket.display(), %error, "the socket stays behind");
        }
        self.door.stop.cancel();
    }

    /// Takes no new connections: they wait at the sockets, which are the
    /// caller's now. What can be answered at once is, such as the request for
    /// this.
    pub(crate) async fn hand_over(&mut self) -> Vec<(&'static str, OwnedFd)> {
        self.door.stop.cancel();
        self.door.tasks.close();
        // Others end with the node, as at its end.
        let _ = tokio::time::timeout(QUICK_ANSWERS, self.door.tasks.wait()).await;
        std::mem::take(&mut self.sockets)
    }

    /// Reads the configuration and the certificates again.
    pub(crate) async fn reload(&self, node: &Arc<Node>) -> Result<Reloaded, ReloadError> {
        reload(node, self.door.tls.as_deref()).await
    }

    #[cfg(test)]
    pub(crate) fn abort(self) {
        self.listeners.iter().for_each(JoinHandle::abort);
        self.door.stop.cancel();
    }

    /// Lets requests that are at work end, for a while.
    pub(crate) async fn close(self) {
        for listener in self.listeners {
            // It has been told, and has nothing in hand.
            let _ = listener.await;
        }
        self.door.tasks.close();
        // Those that take longer end with the agent.
        let _ = tokio::time::timeout(LAST_ANSWERS, self.door.tasks.wait()).await;
    }
}

async fn listen_tcp(
    listen: ApiListen,
    passed: Vec<std::net::TcpListener>,
) -> Result<Option<TcpListener>, AgentError> {
    let ApiListen::At { address, asked_for } = listen else { return Ok(None) };
    // Port 0 is any, and so the one that the agent before had picked.
    let is_it = |at: SocketAddr| {
        at.ip() == address.ip() && (at.port() == address.port() || address.port() == 0)
    };
    let passed = passed.into_iter().find(|tcp| tcp.local_addr().is_ok_and(is_it));
    if let Some(passed) = passed {
        let taken = passed.set_nonblocking(true).and_then(|()| TcpListener::from_std(passed));
        return taken.map(Some).map_err(|source| AgentError::Listen { address, source });
    }
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(Some(listener)),
        Err(source) if !asked_for && source.kind() == io::ErrorKind::AddrInUse => {
            tracing::warn!(%address, "in use by another: the API is on the unix socket only");
            Ok(None)
        }
        Err(source) => Err(AgentError::Listen { address, source }),
    }
}

fn path_of(listener: &std::os::unix::net::UnixListener) -> Option<PathBuf> {
    Some(listener.local_addr().ok()?.as_pathname()?.to_owned())
}

fn listen_unix(
    passed: Option<std::os::unix::net::UnixListener>,
    path: &Path,
) -> io::Result<UnixListener> {
    let listener = match passed {
        Some(listener) => listener,
        None => inn_host::socket::listen(path)?,
    };
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// Gives the socket to the group that may operate the node, if there is one.
fn open_to_group(socket: &Path) -> io::Result<bool> {
    let group = if rustix::process::geteuid().is_root() { group_id()? } else { None };
    let mode = if group.is_some() { 0o660 } else { 0o600 };
    if let Some(group) = group {
        std::os::unix::fs::chown(socket, None, Some(group))?;
    }
    fs::set_permissions(socket, fs::Permissions::from_mode(mode))?;
    Ok(group.is_some())
}

/// group(5): `name:password:gid:members`.
fn group_id() -> io::Result<Option<u32>> {
    let groups = match fs::read_to_string("/etc/group") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read?,
    };
    Ok(groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(GROUP)).then(|| fields.nth(1)?.parse().ok()).flatten()
    }))
}
