//! Standing still, and the state of CPUs and devices: written to a file by a
//! command of its own, and read from one by a migration.
//!
//! ```text
//!   running ──stop──▶ paused ──xen-save-devices-state──▶ paused ──cont──▶ running
//!   running ──stop──▶ paused ──migrate, memory and all─▶ postmigrate ──cont──▶ running
//!   inmigrate ──migrate-incoming──▶ paused ──cont──▶ running
//! ```
//!
//! Memory is copied beside it. A migration leaves out only what the machine shares
//! with others (`x-ignore-shared`), and so not what a clone sees privately; the
//! command that was made for Xen, and is there for all, writes devices alone
//! (qapi/migration.json). What it writes is a migration without a configuration
//! before it, which the QEMU that loads it is told not to look for. States that
//! were saved by a migration are loaded still.

use std::os::fd::{BorrowedFd, RawFd};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::UnixStream;

use super::{Qmp, QmpError, within};

const SAVE_DEVICES: &str = "xen-save-devices-state";

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

    /// Of a paused machine, with memory that it shares with others, or with all other
    /// memory alone. It is not saved so again before it has run (migrate_prepare in
    /// migration/migration.c).
    pub(crate) async fn migrate_to(
        &mut self,
        file: BorrowedFd<'_>,
        with_shared: bool,
        deadline: Duration,
    ) -> Result<(), QmpError> {
        const COMMAND: &str = "migrate";
        self.must_be_paused(COMMAND, deadline).await?;
        self.prepare_migration(with_shared, deadline).await?;
        let bandwidth = json!({ "max-bandwidth": BANDWIDTH });
        self.execute_with::<Value>("migrate-set-parameters", bandwidth, deadline).await?;
        self.hand_over(NAME, file, deadline).await?;
        let arguments = json!({ "uri": format!("fd:{NAME}") });
        self.execute_taking(NAME, COMMAND, arguments, deadline).await?;
        self.migrated(COMMAND, deadline).await
    }

    /// Of a paused machine, without its memory, to a file that is open for
    /// writing alone. It stays paused.
    pub(crate) async fn save_devices(
        &mut self,
        file: BorrowedFd<'_>,
        deadline: Duration,
    ) -> Result<(), QmpError> {
        self.must_be_paused(SAVE_DEVICES, deadline).await?;
        let lent = self.lend(file, deadline).await?;
        // Its disks stay its own.
        let arguments = json!({ "filename": lent.name(), "live": false });
        let saved = self.execute_with::<Value>(SAVE_DEVICES, arguments, deadline).await;
        self.take_back(lent, deadline).await;
        saved.map(drop)
    }

    async fn must_be_paused(
        &mut self,
        command: &'static str,
        deadline: Duration,
    ) -> Result<(), QmpError> {
        match (self.query_status(deadline).await?.as_str(), command) {
            ("paused", _) | ("postmigrate", SAVE_DEVICES) => Ok(()),
            ("postmigrate", _) => {
                let reason = "it was saved since it was paused, and is saved once for each pause; \
                              resume it first";
                Err(QmpError::Refused { command, reason: reason.to_owned() })
            }
            (status, _) => {
                let reason = format!("it is {status}, and not paused");
                Err(QmpError::Refused { command, reason })
            }
        }
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
        // It announces its card afterwards, and has to: with `announce-rounds` 0 a
        // virtio-net frees the timer for it, which its next reset uses (QEMU's
        // hw/net/virtio-net.c: virtio_net_post_load_device, virtio_net_reset).
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
