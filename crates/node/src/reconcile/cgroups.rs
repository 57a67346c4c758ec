use std::collections::HashSet;
use std::time::Duration;

use inn_units::VmId;

use crate::node::Node;

/// For what is left in orphans' groups to end, once it is killed.
const DEADLINE: Duration = Duration::from_secs(10);

/// Removes the control groups of VMs that are in no record, with whatever
/// runs in them: only those below this agent's own group.
pub(crate) async fn reap_cgroups(node: &Node, known: &HashSet<VmId>) {
    let (cgroups, known) = (node.cgroups.clone(), known.clone());
    let reaping = tokio::task::spawn_blocking(move || {
        // What is no id is not of our making.
        cgroups.reap(&|name| name.parse().map_or(true, |id| known.contains(&id)), DEADLINE)
    });
    match reaping.await {
        Ok(reaped) if reaped.is_empty() => {}
        Ok(reaped) => tracing::warn!(vms = ?reaped, "removed control groups that are nobody's"),
        Err(error) => tracing::error!(%error, "control groups are not reaped"),
    }
}
