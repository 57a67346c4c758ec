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

use std::collections::BTreeMap;
use std::time::Duration;

use inn_domain::Power;
use inn_host::process::host_boot_id;
use inn_store::StoreError;
use tokio::time::Instant;

use crate::error::{AgentError, Chain};
use crate::node::Node;
use crate::vm::VmHandle;

/// The label by which guests are shut down one group after the other, lowest
/// number first; 0 without it.
pub(crate) const ORDER: &str = "stop-order";

const KEY: &str = "guests-held";

/// For machines to be gone after the guest's time: they are killed then.
const FORCED: Duration = Duration::from_secs(10);

/// What a group gets at least, however late it is.
const LEAST: Duration = Duration::from_secs(1);

/// Why a VM that is to run does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the host goes down and its guests were shut down; they start at its next boot, or now by \
     `inn node start-guests`"
)]
pub(crate) struct Held;

/// One guest's way down.
#[derive(Debug)]
pub(crate) struct WentDown {
    pub(crate) vm: VmHandle,
    /// It had a machine when it was told.
    pub(crate) ran: bool,
    /// It has none any more.
    pub(crate) down: bool,
}

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
    node.hold();
    let groups = groups(node.vms.all());
    let mut left = u32::try_from(groups.len()).unwrap_or(u32::MAX);
    let mut all = Vec::new();
    for (order, group) in groups {
        if !node.holds() {
            tracing::warn!("guests were let go before all of them were down");
            break;
        }
        let rest = deadline.saturating_duration_since(Instant::now());
        let grace = grace(rest, left, node.config.live().stop_timeout);
        left = left.saturating_sub(1);
        tracing::info!(order, guests = group.len(), ?grace, "shutting guests down");
        let ran: Vec<bool> = group.iter().map(VmHandle::has_machine).collect();
        let until = Instant::now() + grace + FORCED;
        group.iter().for_each(|vm| vm.keep_down(grace));
        for (vm, ran) in group.into_iter().zip(ran) {
            let down = vm.wait_down(until).await;
            if !down && node.holds() {
                tracing::warn!(vm = %vm.spec().name, "its machine is still there");
            }
            all.push(WentDown { vm, ran, down });
        }
    }
    Ok(all)
}

/// Lets go of all guests: those that are desired to run start. They are told.
pub(crate) async fn release(node: &Node) -> Result<Vec<VmHandle>, StoreError> {
    node.store.set_node_value(KEY, String::new()).await?;
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

/// Each group's equal share of the time, and no more than a stop gets.
fn grace(rest: Duration, groups: u32, stop_timeout: Duration) -> Duration {
    (rest / groups.max(1)).min(stop_timeout).max(LEAST)
}

/// By the order in which they go down, each group as old as it was.
pub(crate) fn groups(vms: Vec<VmHandle>) -> BTreeMap<i64, Vec<VmHandle>> {
    let mut groups: BTreeMap<i64, Vec<VmHandle>> = BTreeMap::new();
    for vm in vms {
        groups.entry(order(vm.spec().labels.get(ORDER).map(String::as_str))).or_default().push(vm);
    }
    groups
}

/// What is no number counts as none.
fn order(label: Option<&str>) -> i64 {
    label.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_group_has_its_share_of_the_time() {
        let s = Duration::from_secs;
        assert_eq!(grace(s(90), 3, s(60)), s(30));
        assert_eq!(grace(s(90), 1, s(30)), s(30), "no more than a stop");
        assert_eq!(grace(s(0), 2, s(30)), LEAST);
        assert_eq!([order(None), order(Some("-3")), order(Some("x"))], [0, -3, 0]);
    }
}
