//! The connections to a libvirtd, made again whenever they are lost.
//!
//! ```text
//!              a call, or a machine to listen for
//!   Apart ───────────────────────────────────────▶ Connected
//!     ▲                                                │ libvirtd restarts, or is silent
//!     └──────────── the keeper tries again ◀───────────┘ for three keepalives
//! ```
//!
//! One connection is for events alone. Owner of it: a lock, held while it is
//! made; the keeper is a task that makes it again for the machines that are
//! listened for. Calls have others, each one call's at a time: in a library
//! before 10.1 a call that another thread queues on its connection may wait for
//! the next packet, some seconds (the wakeup of its event loop is lost when it
//! comes too early).
//!
//! Each call is made on a thread of the runtime's pool and has a deadline: one
//! that is late is left to end by itself, as it does when keepalives end its
//! connection.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::Settings;
use crate::library::{CallError, Connection, Library, Listener};
use crate::monitor::shutdown_reason;

/// For a connection to be made.
const CONNECT: Duration = Duration::from_secs(10);

/// At a time: as many machines start at once on a large host, and libvirtd has
/// 20 workers for all of its clients (libvirtd.conf, max_workers).
const CALLS: usize = 8;

/// Between two attempts at a libvirtd that is away.
const RECONNECT: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("{uri} cannot be reached; is libvirtd running?")]
    Unreachable { uri: String, source: CallError },
    #[error("{uri} does not answer: {step} took more than {} s", .limit.as_secs())]
    Late { uri: String, step: &'static str, limit: Duration },
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("the thread that called libvirt ended early")]
    Thread(#[source] io::Error),
}

impl From<LinkError> for io::Error {
    fn from(error: LinkError) -> Self {
        match &error {
            LinkError::Late { .. } => Self::new(io::ErrorKind::TimedOut, error),
            _ => Self::other(error),
        }
    }
}

/// Clones share their connections.
#[derive(Debug, Clone)]
pub(crate) struct Link(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: Settings,
    library: &'static Library,
    heard: Arc<Heard>,
    events: tokio::sync::Mutex<Events>,
    turns: Arc<Semaphore>,
    /// Those of calls, that nobody uses now.
    idle: Arc<Mutex<Vec<Connection>>>,
}

#[derive(Debug, Default)]
struct Events {
    connection: Option<Connection>,
    /// An attempt that took too long is waited for by whoever comes next: there
    /// is never more than one.
    opening: Option<JoinHandle<Result<Connection, CallError>>>,
    keeper: Option<JoinHandle<()>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        let events = self.events.get_mut();
        if let Some(keeper) = &events.keeper {
            keeper.abort();
        }
        let mut all: Vec<Connection> = events.connection.take().into_iter().collect();
        all.append(&mut self.idle.lock().unwrap_or_else(PoisonError::into_inner));
        close(all);
    }
}

/// Blocks where libvirtd does, so not here.
fn close(connections: Vec<Connection>) {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(move || drop(connections))),
        Err(_) => drop(connections),
    }
}

impl Link {
    pub(crate) fn new(settings: Settings, library: &'static Library) -> Self {
        let turns = Arc::new(Semaphore::new(CALLS));
        let (heard, events, idle) = (Arc::default(), tokio::sync::Mutex::default(), Arc::default());
        Self(Arc::new(Inner { settings, library, heard, events, turns, idle }))
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// Makes a call, on a connection of its own for as long as it takes.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        step: &'static str,
        limit: Duration,
        work: impl FnOnce(&Connection) -> Result<T, CallError> + Send + 'static,
    ) -> Result<T, LinkError> {
        self.connected().await?;
        let (library, uri) = (self.0.library, self.0.settings.uri.clone());
        let (turns, idle) = (Arc::clone(&self.0.turns), Arc::clone(&self.0.idle));
        let working = async move {
            // Never closed.
            let turn = turns.acquire_owned().await.ok();
            let working = tokio::task::spawn_blocking(move || {
                let _turn = turn;
                let connection = match living(&idle) {
                    Some(connection) => connection,
                    None => library.connect(&uri, None)?,
                };
                let done = work(&connection);
                if connection.is_alive() {
                    idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
                }
                done
            });
            working.await
        };
        match timeout(limit, working).await {
            Ok(Ok(done)) => Ok(done?),
            Ok(Err(error)) => Err(LinkError::Thread(io::Error::other(error))),
            Err(_) => Err(self.late(step, limit)),
        }
    }

    fn late(&self, step: &'static str, limit: Duration) -> LinkError {
        LinkError::Late { uri: self.0.settings.uri.clone(), step, limit }
    }

    /// Sees to it that events are heard.
    async fn connected(&self) -> Result<(), LinkError> {
        let connected = timeout(CONNECT, self.connect()).await;
        connected.unwrap_or_else(|_| Err(self.late("connecting", CONNECT)))
    }

    /// Cancel safe: an attempt goes on, and the next caller has it.
    async fn connect(&self) -> Result<(), LinkError> {
        let mut events = self.0.events.lock().await;
        if events.connection.as_ref().is_some_and(Connection::is_alive) {
            return Ok(());
        }
        close(events.connection.take().into_iter().collect());
        let opening = events.opening.get_or_insert_with(|| {
            let (library, uri) = (self.0.library, self.0.settings.uri.clone());
            let listener: Arc<dyn Listener> = Arc::clone(&self.0.heard) as _;
            tokio::task::spawn_blocking(move || library.connect(&uri, Some(&listener)))
        });
        let opened = opening.await;
        events.opening = None;
        let opened = opened.map_err(|error| LinkError::Thread(io::Error::other(error)))?;
        let connection = opened.map_err(|source| LinkError::Unreachable {
            uri: self.0.settings.uri.clone(),
            source,
        })?;
        self.0.heard.lost.send_replace(false);
        if events.keeper.as_ref().is_none_or(JoinHandle::is_finished) {
            events.keeper = Some(tokio::spawn(keep(Arc::downgrade(&self.0))));
        }
        events.connection = Some(connection);
        Ok(())
    }

    /// What is heard of a domain from now on.
    pub(crate) fn listen(&self, domain: &str) -> Ear {
        self.0.heard.listen(domain)
    }
}

/// One that nobody uses. The dead are closed, on the caller's thread.
fn living(idle: &Mutex<Vec<Connection>>) -> Option<Connection> {
    loop {
        let connection = idle.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
        if connection.is_alive() {
            return Some(connection);
        }
    }
}

/// Connects again for whoever listens. Boxed: a connection starts its keeper,
/// which makes connections.
fn keep(inner: Weak<Inner>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(keeper(inner))
}

async fn keeper(inner: Weak<Inner>) {
    let Some(mut lost) = inner.upgrade().map(|inner| inner.heard.lost.subscribe()) else { return };
    // Only looks at a value; ends with the last handle's drop of the sender.
    while lost.wait_for(|lost| *lost).await.is_ok() {
        sleep(RECONNECT).await;
        let Some(inner) = inner.upgrade() else { return };
        if inner.heard.domains().is_empty() {
            continue;
        }
        match Link(inner).connected().await {
            Ok(()) => tracing::info!("connected to libvirt again"),
            Err(error) => tracing::debug!(%error, "libvirt is away"),
        }
    }
}

/// What libvirt tells, for those who listen.
#[derive(Debug, Default)]
struct Heard {
    domains: Mutex<HashMap<String, Arc<Domain>>>,
    /// Whether the connection has been lost, and not made again.
    lost: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Domain {
    /// Carries nothing: whoever is poked looks for itself.
    poke: watch::Sender<()>,
    /// The first reason that QEMU gave for its end.
    reason: Mutex<Option<String>>,
}

impl Heard {
    fn domains(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Domain>>> {
        // Every change is one insertion or removal.
        self.domains.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listen(self: &Arc<Self>, name: &str) -> Ear {
        let domain = Arc::<Domain>::default();
        self.domains().insert(name.to_owned(), Arc::clone(&domain));
        let pokes = domain.poke.subscribe();
        Ear { heard: Arc::clone(self), name: name.to_owned(), domain, pokes }
    }

    fn of(&self, name: &str) -> Option<Arc<Domain>> {
        self.domains().get(name).cloned()
    }
}

impl Listener for Heard {
    fn changed(&self, domain: &str) {
        if let Some(domain) = self.of(domain) {
            domain.poke.send_replace(());
        }
    }

    fn shut_down(&self, domain: &str, details: &str) {
        if let Some(domain) = self.of(domain) {
            let mut reason = domain.reason.lock().unwrap_or_else(PoisonError::into_inner);
            // libvirt ends QEMU after its guest's end, which is told as well.
            if reason.is_none() {
                *reason = shutdown_reason(details);
            }
        }
    }

    fn closed(&self) {
        self.lost.send_replace(true);
    }
}

/// One machine's. Dropped, nobody listens for it any more.
#[derive(Debug)]
pub(crate) struct Ear {
    heard: Arc<Heard>,
    name: String,
    domain: Arc<Domain>,
    pokes: watch::Receiver<()>,
}

impl Ear {
    /// Why QEMU ended, if it said so.
    pub(crate) fn reason(&self) -> Option<String> {
        self.domain.reason.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until something has changed since the last time. Cancel safe.
    pub(crate) async fn changed(&mut self) {
        if self.pokes.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        let mut domains = self.heard.domains();
        // The machine of another life may listen under the same name by now.
        if domains.get(&self.name).is_some_and(|domain| Arc::ptr_eq(domain, &self.domain)) {
            domains.remove(&self.name);
        }
    }
}
