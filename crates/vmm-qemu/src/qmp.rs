//! A small client of QMP, QEMU's control protocol (docs/interop/qmp-spec).
//!
//! One JSON object per line. The peer is QEMU with a hostile guest inside, so
//! it is believed nothing: a line has a limit, an answer a deadline, and
//! events that nobody asked about are dropped.

mod descriptor;
mod forwards;
mod migration;
mod screen;

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use inn_units::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longer than any answer to what is asked here, by far.
const LONGEST_LINE: usize = 1 << 20;

/// Events kept while an answer is awaited. Each kind that is kept happens once
/// in a machine's life; more is a peer that floods.
const KEPT_EVENTS: usize = 16;

/// A connection past its handshake. After an error it is of no use any more.
#[derive(Debug)]
pub(crate) struct Qmp<S> {
    stream: S,
    received: Vec<u8>,
    /// How much of `received` is known to hold no line's end.
    searched: usize,
    last_id: u64,
    events: VecDeque<Event>,
    /// What was last told of a migration that somebody here waits for.
    migration: Option<String>,
}

/// What QEMU tells unasked, of what matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// The machine is going down; the reason is a ShutdownCause (qapi/run-state.json).
    Shutdown {
        reason: String,
    },
    GuestPanicked,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum QmpError {
    #[error("its QMP socket failed")]
    Io(#[from] io::Error),
    #[error("it closed its QMP socket")]
    Closed,
    #[error("no answer to {command} within {deadline:?}")]
    Deadline { command: &'static str, deadline: Duration },
    #[error("its answer is not QMP: {0}")]
    Garbled(String),
    #[error("it refused {command}: {reason}")]
    Refused { command: &'static str, reason: String },
}

/// One line from the peer, in whichever of its shapes.
#[derive(Debug, Deserialize)]
struct Line {
    #[serde(rename = "QMP")]
    greeting: Option<Value>,
    event: Option<String>,
    data: Option<Value>,
    id: Option<u64>,
    #[serde(rename = "return")]
    answer: Option<Value>,
    error: Option<Refusal>,
}

#[derive(Debug, Deserialize)]
struct Refusal {
    #[serde(default)]
    desc: String,
}

#[derive(Debug, Deserialize)]
struct ShutdownData {
    #[serde(default)]
    reason: String,
}

#[derive(Debug, Deserialize)]
struct MigrationData {
    status: String,
}

#[derive(Debug, Deserialize)]
struct NameInfo {
    name: Option<String>,
}

#[derive(Debug, Deserialize)]
struct StatusInfo {
    status: String,
}

/// A BlockDeviceInfo (qapi/block-core.json).
#[derive(Debug, Deserialize)]
struct NodeInfo {
    #[serde(rename = "node-name")]
    name: Option<String>,
    image: ImageInfo,
}

#[derive(Debug, Deserialize)]
struct ImageInfo {
    #[serde(rename = "virtual-size")]
    virtual_size: u64,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Qmp<S> {
    /// Waits for the greeting and leaves negotiation mode.
    pub(crate) async fn handshake(stream: S, deadline: Duration) -> Result<Self, QmpError> {
        let mut qmp = Self {
            stream,
            received: Vec::new(),
            searched: 0,
            last_id: 0,
            events: VecDeque::new(),
            migration: None,
        };
        within("the connection", deadline, async {
            let first = qmp.read_line().await?;
            if first.greeting.is_none() {
                return Err(QmpError::Garbled("it does not greet".to_owned()));
            }
            qmp.execute::<Value>("qmp_capabilities", deadline).await
        })
        .await?;
        Ok(qmp)
    }

    /// The machine's name, as given on its command line.
    pub(crate) async fn query_name(
        &mut self,
        deadline: Duration,
    ) -> Result<Option<String>, QmpError> {
        Ok(self.execute::<NameInfo>("query-name", deadline).await?.name)
    }

    /// A RunState (qapi/run-state.json): `running`, `shutdown`, `guest-panicked`, …
    pub(crate) async fn query_status(&mut self, deadline: Duration) -> Result<String, QmpError> {
        Ok(self.execute::<StatusInfo>("query-status", deadline).await?.status)
    }

    /// The size of a disk by its node's name.
    pub(crate) async fn disk_size(
        &mut self,
        node: &str,
        deadline: Duration,
    ) -> Result<Bytes, QmpError> {
        const COMMAND: &str = "query-named-block-nodes";
        let nodes: Vec<NodeInfo> =
            self.execute_with(COMMAND, json!({ "flat": true }), deadline).await?;
        let found = nodes.into_iter().find(|info| info.name.as_deref() == Some(node));
        match found {
            Some(info) => Ok(Bytes(info.image.virtual_size)),
            None => {
                let reason = format!("there is no {node}");
                Err(QmpError::Refused { command: COMMAND, reason })
            }
        }
    }

    /// Tells the guest that a disk is larger now. Refuses to make it smaller.
    pub(crate) async fn grow_disk(
        &mut self,
        node: &str,
        size: Bytes,
        deadline: Duration,
    ) -> Result<(), QmpError> {
        const COMMAND: &str = "block_resize";
        let now = self.disk_size(node, deadline).await?;
        if size < now {
            let reason = format!("{node} has {now} already");
            return Err(QmpError::Refused { command: COMMAND, reason });
        }
        let arguments = json!({ "node-name": node, "size": size.get() });
        self.execute_with::<Value>(COMMAND, arguments, deadline).await.map(drop)
    }

    pub(crate) async fn press_power_button(&mut self, deadline: Duration) -> Result<(), QmpError> {
        self.execute::<Value>("system_powerdown", deadline).await.map(drop)
    }

    /// Asks QEMU to flush its disks and end.
    pub(crate) async fn quit(&mut self, deadline: Duration) -> Result<(), QmpError> {
        self.execute::<Value>("quit", deadline).await.map(drop)
    }

    /// The next event that matters. Cancel safe.
    pub(crate) async fn next_event(&mut self) -> Result<Event, QmpError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            let line = self.read_line().await?;
            self.keep_event(line);
        }
    }

    async fn execute<T: DeserializeOwned>(
        &mut self,
        command: &'static str,
        deadline: Duration,
    ) -> Result<T, QmpError> {
        self.execute_with(command, json!({}), deadline).await
    }

    /// Not cancel safe: a command half written spoils the connection.
    async fn execute_with<T: DeserializeOwned>(
        &mut self,
        command: &'static str,
        arguments: Value,
        deadline: Duration,
    ) -> Result<T, QmpError> {
        within(command, deadline, async {
            let request = self.request(command, &arguments);
            self.stream.write_all(request.as_bytes()).await?;
            self.answer(command).await
        })
        .await
    }

    fn request(&mut self, command: &str, arguments: &Value) -> String {
        self.last_id += 1;
        let request = json!({ "execute": command, "arguments": arguments, "id": self.last_id });
        let mut request = request.to_string();
        request.push('\n');
        request
    }

    /// To the last request.
    async fn answer<T: DeserializeOwned>(&mut self, command: &'static str) -> Result<T, QmpError> {
        loop {
            let line = self.read_line().await?;
            // An answer without an id is to a line that was not JSON, and
            // one with another id to nothing of ours.
            if line.id != Some(self.last_id) {
                self.keep_event(line);
                continue;
            }
            if let Some(refusal) = line.error {
                return Err(QmpError::Refused { command, reason: refusal.desc });
            }
            return serde_json::from_value(line.answer.unwrap_or(Value::Null))
                .map_err(|e| QmpError::Garbled(format!("{command}: {e}")));
        }
    }

    fn keep_event(&mut self, line: Line) {
        let event = match line.event.as_deref() {
            Some("SHUTDOWN") => {
                let data: Option<ShutdownData> =
                    line.data.and_then(|data| serde_json::from_value(data).ok());
                Event::Shutdown { reason: data.map(|d| d.reason).unwrap_or_default() }
            }
            Some("GUEST_PANICKED") => Event::GuestPanicked,
            Some("MIGRATION") => {
                let data: Option<MigrationData> =
                    line.data.and_then(|data| serde_json::from_value(data).ok());
                self.migration = data.map(|data| data.status);
                return;
            }
            _ => return,
        };
        if self.events.len() < KEPT_EVENTS {
            self.events.push_back(event);
        }
    }

    /// Cancel safe: what was received stays.
    async fn read_line(&mut self) -> Result<Line, QmpError> {
        loop {
            if let Some(at) = self.received[self.searched..].iter().position(|b| *b == b'\n') {
                let rest = self.received.split_off(self.searched + at + 1);
                let line = std::mem::replace(&mut self.received, rest);
                self.searched = 0;
                return serde_json::from_slice(&line).map_err(|e| QmpError::Garbled(e.to_string()));
            }
            self.searched = self.received.len();
            if self.received.len() > LONGEST_LINE {
                return Err(QmpError::Garbled(format!("a line has over {LONGEST_LINE} bytes")));
            }
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Err(QmpError::Closed);
            }
        }
    }
}

async fn within<T>(
    command: &'static str,
    deadline: Duration,
    work: impl Future<Output = Result<T, QmpError>>,
) -> Result<T, QmpError> {
    tokio::time::timeout(deadline, work)
        .await
        .unwrap_or(Err(QmpError::Deadline { command, deadline }))
}

#[cfg(test)]
#[path = "qmp_tests.rs"]
mod tests;
