//! Bounds the logs that guests fill: one pass for all VMs, since a timer and a
//! blocking call for each of a thousand would be most of what an idle agent
//! does.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use inn_units::VmName;
use inn_vmm::bound_log;
use tokio::time::sleep;

use crate::node::Node;

/// How often they are looked at. An emulated UART prints a few MB/s at best,
/// so a log outgrows its limit by no more than some MiB in between.
const ROUND: Duration = Duration::from_secs(5);

/// Goes on until the agent ends.
pub(super) fn watch(node: &Arc<Node>) {
    let rounds = {
        let node = Arc::clone(node);
        async move {
            loop {
                sleep(ROUND).await;
                round(&node).await;
            }
        }
    };
    node.tasks.spawn(node.closing.clone().run_until_cancelled_owned(rounds));
}

async fn round(node: &Node) {
    let logs: Vec<(VmName, [PathBuf; 2])> = node
        .vms
        .all()
        .into_iter()
        .filter(|vm| vm.machine().is_some())
        .map(|vm| (vm.spec().name.clone(), [vm.paths().console_log(), vm.paths().vmm_log()]))
        .collect();
    let limit = node.config.live().log_limit;
    let bounded = tokio::task::spawn_blocking(move || {
        for (vm, logs) in logs {
            for log in logs {
                if let Err(error) = bound_log(&log, limit) {
                    tracing::warn!(%vm, log = %log.display(), %error, "a log is not cut");
                }
            }
        }
    });
    // It only fails by a panic, which the log has.
    let _ = bounded.await;
}
