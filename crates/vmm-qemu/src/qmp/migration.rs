//! Standing still, and the state of CPUs and devices: QEMU's migration to and
//! from a file.
//!
//! ```text
//!   running ──stop──▶ paused ──migrate──▶ postmigrate ──cont──▶ running
//!   inmigrate ──migrate-incoming──▶ paused ──cont──▶ running
//! ```
//!
//! Memory that is shared with us can be left out of the file
//! (`x-ignore-shared`): it is copied beside it, and mapped as it is. Both ends
//! have to agree on that.

use std::os::fd::{BorrowedFd, RawFd};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::UnixStream;

use super::{Qmp, QmpError, within};

/// What QEMU calls the file: it is taken at once.
const NAME: &str = "state";

/// Bytes a second: as fast as it goes. QEMU's default is 128 MiB.
const BANDWIDTH: u64 = 1 << 40;

impl Qmp<UnixStream> {
    /// Returns once the CPUs stand still and the disks are flushed.
    pub(crate) async fn pause(&mut self, deadline: Duration) -> Result<(), QmpError> {
        self.execute::<Value>("stop", deadline).await.map(drop)
    }

    /// Never revives a guest that has ended.
    pub(crate) async fn resume(&mut self, deadline: Duration) -> Result<(), QmpError> {
        let status = self.query_status(deadline).await?;
        match status.as_str() {
            "running" => Ok(()),
            "paused" | "postmigrate" | "prelaunch" => {
                self.execute::<Value>("cont", deadline).await.map(drop)
            }
            other => Err(QmpError::Refused { command: "cont", reason: format!("it is {other}") }),
        }
    }

    /// Of a paused machine, `with_memory` or without.
    pub(crate) async fn save_state(
        &mut self,
        file: BorrowedFd<'_>,
        with_memory: bool,
        deadline: Duration,
    ) -> Result<(), QmpError> {
        const COMMAND: &str = "migrate";
        let status = self.query_status(deadline).await?;
        if status != "paused" {
            let reason = format!("it is {status}, and not paused");
            return Err(QmpError::Refused { command: COMMAND, reason });
        }
        self.prepare_migration(with_memory, deadline).await?;
        let bandwidth = json!({ "max-bandwidth": BANDWIDTH });
        self.execute_with::<Value>("migrate-set-parameters", bandwidth, deadline).await?;
        self.hand_over(NAME, file, deadline).await?;
        let arguments = json!({ "uri": format!("fd:{NAME}") });
        self.execute_taking(NAME, COMMAND, arguments, deadline).await?;
        self.migrated(COMMAND, deadline).await
    }

    /// Of a QEMU that was started with `-incoming defer` and has inherited the
    /// file, at its beginning. The machine is paused then, as it was saved.
    pub(crate) async fn load_state(
        &mut self,
        file: RawFd,
        with_memory: bool,
        deadline: Duration,
    ) -> Result<(), QmpError> {
        const COMMAND: &str = "migrate-incoming";
        self.prepare_migration(with_memory, deadline).await?;
        let arguments = json!({ "uri": format!("fd:{file}") });
        self.execute_with::<Value>(COMMAND, arguments, deadline).await?;
        self.migrated(COMMAND, deadline).await
    }

    async fn prepare_migration(
        &mut self,
        with_memory: bool,
        deadline: Duration,
    ) -> Result<(), QmpError> {
        let set = |capability: &str, state| json!({ "capability": capability, "state": state });
        let capabilities =
            json!({ "capabilities": [set("x-ignore-shared", !with_memory), set("events", true)] });
        self.migration = None;
        self.execute_with::<Value>("migrate-set-capabilities", capabilities, deadline)
            .await
            .map(drop)
    }

    /// Waits for its end, which QEMU tells by events (qapi/migration.json,
    /// MigrationStatus).
    async fn migrated(
        &mut self,
        command: &'static str,
        deadline: Duration,
    ) -> Result<(), QmpError> {
        within(command, deadline, async {
            loop {
                match self.migration.take().as_deref() {
                    Some("completed") => return Ok(()),
                    Some("failed" | "cancelled") => break,
                    _ => {
                        let line = self.read_line().await?;
                        self.keep_event(line);
                    }
                }
            }
            let info: MigrationInfo = self.execute("query-migrate", deadline).await?;
            let reason = info.error_desc.unwrap_or_else(|| "it does not say why".to_owned());
            Err(QmpError::Refused { command, reason })
        })
        .await
    }
}

#[derive(Debug, serde::Deserialize)]
struct MigrationInfo {
    #[serde(rename = "error-desc")]
    error_desc: Option<String>,
}
