//! Guests that go down, and stay down, while the host does.
//!
//! ```text
//!   free ──shutdown──▶ held: no VM runs, whatever is desired ──start──▶ free
//!                        │                                        ▲
//!                        └── the host boots again ────────────────┘
//! ```
//! What is desired does not change: after the host's boot, or once they are
//! let go, those that are desired to run start again, and those that a user
//! has stopped do not. The hold is kept under the host's boot id, so that it
//! outlives the agent and never the host.

use std::time::Duration;

use inn_domain::Power;
use inn_fail_point::{Point, fail_point};
use inn_host::process::host_boot_id;
use inn_store::StoreError;
use tokio::time::Instant;

use crate::error::{AgentError, Chain};
use crate::go_down::{Way, WentDown, go_down};
use crate::node::Node;
use crate::vm::VmHandle;

const KEY: &str = "guests-held";

/// Why a VM that is to run does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the host goes down and its guests were shut down; they start at its next boot, or now by \
     `inn node start-guests`"
)]
pub(crate) struct Held;

/// Whether an earlier life held the guests in this boot of the host.
pub(crate) async fn restore(node: &Node) -> Result<(), AgentError> {
    let Some(held) = node.store.node_value(KEY).await? else { return Ok(()) };
    let boot = boot_id().map_err(|source| AgentError::Start {
        step: "tell whether the host has booted since its guests were shut down",
        source,
    })?;
    if held == boot {
        node.hold();
        tracing::warn!("guests stay down until the host boots, or until `inn node start-guests`");
    } else if !held.is_empty() {
        node.store.set_node_value(KEY, String::new()).await?;
    }
    Ok(())
}

/// Shuts all guests down, group by group, within the time, and by force what
/// is left of them; holds them until [`release`] or the host's next boot.
pub(crate) async fn shutdown(node: &Node, within: Duration) -> Result<Vec<WentDown>, StoreError> {
    let deadline = Instant::now() + within;
    match boot_id() {
        Ok(boot) => node.store.set_node_value(KEY, boot).await?,
        // They are held as long as the agent lives, which is what is left.
        Err(error) => tracing::warn!(error = %Chain(&error), "the hold is not kept"),
    }
    fail_point(Point::HoldStored);
    node.hold();
    Ok(go_down(node, Way::Hold, deadline, || node.holds()).await)
}

/// Lets go of all guests: those that are desired to run start. They are told.
pub(crate) async fn release(node: &Node) -> Result<Vec<VmHandle>, StoreError> {
    node.store.set_node_value(KEY, String::new()).await?;
    fail_point(Point::HoldReleased);
    let held = node.release();
    let mut starting = Vec::new();
    for vm in node.vms.all() {
        vm.release();
        if held && vm.view().desired.power == Power::Running {
            starting.push(vm);
        }
    }
    Ok(starting)
}

fn boot_id() -> std::io::Result<String> {
    host_boot_id().map(|id| id.to_string())
}
