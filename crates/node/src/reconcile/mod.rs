//! What the agent puts in order before it serves.
//!
//! ```text
//!   records ───── wanted ──▶ adopt, or bring to what is desired
//!   machines ─┬── nobody's ─▶ reap
//!   files ────┘
//! ```
//!
//! Everything that we make for a VM has its id in its name and its record in
//! the store before that, so whatever has no record is nobody's.

mod cgroups;
mod directories;
mod orphans;
mod reboot;
mod strays;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use inn_fail_point::{Point, fail_point};

use crate::drain;
use crate::error::AgentError;
use crate::metering::watch_usage;
use crate::network;
use crate::node::Node;
use crate::templates;
use crate::vm::{Restored, watch_idle, watch_ttls};

pub(crate) use directories::{make_directories, sync_parent};
pub(crate) use orphans::{OrphanKind, Reaped, reap};

/// Brings back all VMs of earlier lives, and removes what is nobody's.
pub(crate) async fn restore(node: &Arc<Node>) -> Result<(), AgentError> {
    let stored = reboot::find_lost_disks(node, node.store.vms().await?).await?;
    fail_point(Point::RestoreRead);
    strays::end_unrecorded(node, &stored).await;
    for (record, observed) in &stored {
        // Their taps are there, and stay.
        if observed.observed.machine.is_some() {
            node.networks.attach(record.id);
        }
    }
    network::prepare(node).await;
    let mut adopting = Vec::new();
    let mut successors: HashMap<_, _> = node.store.successors().await?.into_iter().collect();
    for (record, observed) in stored {
        let successor = successors.remove(&record.id);
        let restored = Restored { record, observed, successor };
        adopting.push(node.vms.restore(node, restored).await?);
    }
    fail_point(Point::RestoreTasks);
    network::start(node).await?;
    orphans::reap(node).await;
    fail_point(Point::RestoreFiles);
    for adopted in adopting {
        // A task that has ended by then has adopted nothing, and said so.
        let _ = adopted.await;
    }
    node.adopted.store(true, Ordering::Relaxed);
    orphans::sweep_images(node);
    orphans::reap_again_and_again(node);
    watch_ttls(node);
    node.tasks.spawn(templates::keep(Arc::clone(node)));
    watch_idle(node);
    watch_usage(node);
    drain::go_on(node);
    fail_point(Point::RestoreDone);
    Ok(())
}
