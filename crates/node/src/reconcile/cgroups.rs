use std::sync::Arc;
use std::time::Duration;

use super::orphans::{OrphanKind, Reaped};
use crate::node::Node;

/// For what is left in orphans' groups to end, once it is killed.
const DEADLINE: Duration = Duration::from_secs(10);

/// Removes the control groups of VMs that are nobody's, with whatever runs in
/// them: only those below this agent's own group.
pub(super) async fn control_groups(node: &Arc<Node>) -> Vec<Reaped> {
    let owner = Arc::clone(node);
    let reaping = tokio::task::spawn_blocking(move || {
        // What is no id is not of our making.
        let is_known = |name: &str| name.parse().map_or(true, |id| owner.vms.owns(id));
        owner.cgroups.reap(&is_known, DEADLINE)
    });
    let reaped = reaping.await.unwrap_or_else(|error| {
        tracing::error!(%error, "control groups are not reaped");
        Vec::new()
    });
    let ids = reaped.iter().filter_map(|id| id.parse().ok());
    ids.map(|vm| Reaped { kind: OrphanKind::ControlGroup, vm, error: None }).collect()
}
