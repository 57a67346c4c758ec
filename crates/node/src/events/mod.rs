//! What happens on the node, told once and kept.
//!
//! ```text
//!   anybody ──tell──▶ queue ──a batch──▶ store ──▶ `written` ──▶ whoever follows
//!                       └ full: counted, and told as `events-dropped`
//! ```
//!
//! [`EventLog::tell`] never waits. One task writes what has gathered, in one
//! transaction that survives the agent; only then is it shown to anybody, so
//! that nobody has seen what the next life of the agent does not know. While
//! the disk is full events wait in the queue, and are written once it is not.

mod kind;
mod writer;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use inn_store::{EventPage, EventQuery, EventRecord, EventWindow, Store, StoreError};
use inn_units::{EventSeq, VmId, VmName};
use jiff::Timestamp;
use serde_json::{Map, Value};
use tokio::sync::{Notify, watch};

use crate::vm::VmHandle;

pub(crate) use kind::EventKind;

/// Events that wait to be written: what a thousand VMs tell while they are
/// started at once, several times over. Some 3 MiB.
const QUEUED: usize = 8_192;

/// The longest sentence that is kept. A guest has a say in some of them.
const MESSAGE_CHARS: usize = 500;

/// Something that has happened.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    kind: EventKind,
    vm: Option<(VmId, VmName)>,
    actor: Option<String>,
    message: String,
    detail: Map<String, Value>,
}

/// All events. There is one, and everybody may tell it something.
#[derive(Debug)]
pub(crate) struct EventLog {
    store: Store,
    keep: u64,
    queue: Mutex<Queue>,
    gathered: Notify,
    /// In this life of the agent, by kind.
    told: [AtomicU64; EventKind::ALL.len()],
    dropped: AtomicU64,
    /// The last event that is in the store.
    written: watch::Sender<EventSeq>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<EventRecord>,
    /// Since the last that were written.
    dropped: u64,
}

impl Event {
    /// `message` is one sentence for people, without the VM's id and the actor.
    pub(crate) fn new(kind: EventKind, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { kind, vm: None, actor: None, message, detail: Map::new() }
    }

    #[must_use]
    pub(crate) fn of(self, vm: &VmHandle) -> Self {
        self.of_vm(vm.id(), &vm.spec().name)
    }

    #[must_use]
    pub(crate) fn of_vm(mut self, id: VmId, name: &VmName) -> Self {
        self.vm = Some((id, name.clone()));
        self
    }

    /// Who asked for it.
    #[must_use]
    pub(crate) fn by(mut self, actor: impl Into<String>) -> Self {
        self.actor = Some(actor.into());
        self
    }

    /// A fact for programs. Names are camelCase; never a secret.
    #[must_use]
    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.detail.insert(name.to_owned(), value.into());
        self
    }

    fn into_record(self, at: Timestamp) -> EventRecord {
        let (vm_id, vm_name) = self.vm.unzip();
        let message = match self.message.char_indices().nth(MESSAGE_CHARS) {
            Some((end, _)) => format!("{}…", &self.message[..end]),
            None => self.message,
        };
        EventRecord {
            at,
            kind: self.kind.as_str().to_owned(),
            vm_id,
            vm_name: vm_name.map(|name| name.to_string()),
            actor: self.actor,
            message,
            detail: Value::Object(self.detail).to_string(),
        }
    }
}

impl EventLog {
    pub(crate) async fn open(store: Store, keep: u64) -> Result<Arc<Self>, StoreError> {
        // Without it every start counts as the first after a crash of the host.
        let boot = match inn_host::process::host_boot_id() {
            Ok(boot) => boot.to_owned(),
            Err(_) => format!("unknown, agent {} of {}", std::process::id(), Timestamp::now()),
        };
        let window = store.begin_events(boot).await?;
        Ok(Arc::new(Self {
            store,
            keep,
            queue: Mutex::default(),
            gathered: Notify::new(),
            told: std::array::from_fn(|_| AtomicU64::new(0)),
            dropped: AtomicU64::new(0),
            written: watch::channel(window.last).0,
        }))
    }

    /// Of this life of the agent, in the order of [`EventKind::ALL`].
    pub(crate) fn counts(&self) -> impl Iterator<Item = u64> {
        self.told.iter().map(|count| count.load(Ordering::Relaxed))
    }

    /// Of this life of the agent: events that no room was left for.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Never waits.
    pub(crate) fn tell(&self, event: Event) {
        self.told[event.kind as usize].fetch_add(1, Ordering::Relaxed);
        let record = event.into_record(Timestamp::now());
        let mut queue = self.queue();
        if queue.waiting.len() >= QUEUED {
            queue.dropped += 1;
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        queue.waiting.push_back(record);
        drop(queue);
        self.gathered.notify_one();
    }

    pub(crate) async fn page(
        &self,
        query: EventQuery,
        limit: u32,
    ) -> Result<EventPage, StoreError> {
        self.store.events(query, limit).await
    }

    /// After which number the last `count` of them are.
    pub(crate) async fn tail(&self, query: EventQuery, count: u32) -> Result<EventSeq, StoreError> {
        self.store.events_tail(query, count).await
    }

    /// Changes whenever there are more.
    pub(crate) fn written(&self) -> watch::Receiver<EventSeq> {
        self.written.subscribe()
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Whole records only: a panic elsewhere spoils none.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether somebody who has seen all up to `after` has missed what is gone, or
/// has seen what this log never held.
pub(crate) fn is_gap(after: EventSeq, window: EventWindow) -> bool {
    let gone = window.first.map_or(window.last > after, |first| first > after.next());
    gone || after > window.last
}

#[cfg(test)]
mod tests;
