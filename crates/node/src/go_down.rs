//! Guests going down in waves: the one loop behind a drain that stops VMs and
//! behind the shutdown of the guests with their host.
//!
//! ```text
//!   waves ──▶ told ──▶ waited for, within their share of the time ──▶ the next wave ─┐
//!               ▲                                                                    │
//!               └──────── the time is over: all that are left, by force ◀────────────┘
//!
//!   Stop  a drain's: each VM is a wave, the newest of its group first; what is desired
//!         of it is Stopped from then on
//!   Hold  a shutdown's: each group is a wave; what is desired stays
//! ```
//!
//! Groups go down by the label [`ORDER`], lowest number first: who came later,
//! or has the lower number, may lean on the others. Whoever called a loop into
//! life may end it between two waves by `goes_on`; what was told by then is
//! carried out.

use std::collections::BTreeMap;
use std::time::Duration;

use inn_domain::{Power, Request, StopKind};
use inn_fail_point::{Point, fail_point};
use tokio::time::Instant;

use crate::error::Chain;
use crate::node::Node;
use crate::vm::{VmHandle, VmView};

/// The label by which guests go down one group after the other, lowest number
/// first; 0 without it.
const ORDER: &str = "stop-order";

/// For machines to be gone after the guest's time: they are killed then.
const FORCED: Duration = Duration::from_secs(10);

/// What a wave gets at least, as long as there is time at all.
const LEAST: Duration = Duration::from_secs(1);

/// What the guests are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Stop,
    Hold,
}

/// One guest's way down.
#[derive(Debug)]
pub(crate) struct WentDown {
    pub(crate) vm: VmHandle,
    /// It had a machine when it was told.
    pub(crate) ran: bool,
    /// It has none any more.
    pub(crate) down: bool,
}

/// All VMs, wave by wave, within the time, and by force what is left of them.
pub(crate) async fn go_down(
    node: &Node,
    way: Way,
    deadline: Instant,
    goes_on: impl Fn() -> bool,
) -> Vec<WentDown> {
    let mut waves = waves(node.vms.all(), way);
    let mut all = Vec::new();
    while !waves.is_empty() {
        if !goes_on() {
            tracing::warn!("guests were let go before all of them were down");
            break;
        }
        let rest = deadline.saturating_duration_since(Instant::now());
        let left = u32::try_from(waves.len()).unwrap_or(u32::MAX);
        let grace = grace(rest, left, node.config.live().stop_timeout);
        let wave = match rest {
            // Nobody is worth waiting for any more.
            Duration::ZERO => waves.drain(..).flatten().collect(),
            _ => waves.remove(0),
        };
        let mut told = Vec::new();
        for vm in wave {
            if way == Way::Hold || runs(&vm) {
                let ran = vm.has_machine();
                way.tell(node, &vm, grace).await;
                told.push((vm, ran));
            }
        }
        if told.is_empty() {
            continue;
        }
        tracing::info!(guests = told.len(), ?way, ?grace, "told to go down");
        fail_point(Point::DownTold);
        let until = Instant::now() + grace + FORCED;
        for (vm, ran) in told {
            let down = vm.wait_down(until, |view| way.counts(view)).await;
            if !down && way.counts(&vm.view()) {
                tracing::warn!(vm = %vm.spec().name, "its machine is still there");
            }
            all.push(WentDown { vm, ran, down });
        }
        fail_point(Point::DownReached);
    }
    all
}

impl Way {
    async fn tell(self, node: &Node, vm: &VmHandle, grace: Duration) {
        let stop = match grace {
            Duration::ZERO => StopKind::Force,
            grace => StopKind::Graceful { grace },
        };
        match self {
            Self::Hold => vm.keep_down(grace),
            Self::Stop => {
                if let Err(error) = vm.request(&node.store, Request::Stop(stop)).await {
                    tracing::warn!(vm = %vm.spec().name, error = %Chain(&error), "not stopped");
                }
            }
        }
    }

    /// Whether a VM still has been told so. One that was let go is not waited
    /// for.
    fn counts(self, view: &VmView) -> bool {
        match self {
            Self::Hold => view.held.is_some(),
            Self::Stop => view.desired.power != Power::Running,
        }
    }
}

fn waves(vms: Vec<VmHandle>, way: Way) -> Vec<Vec<VmHandle>> {
    let groups = groups(vms).into_values();
    match way {
        Way::Hold => groups.collect(),
        Way::Stop => groups
            .flat_map(|group| group.into_iter().rev())
            .filter(runs)
            .map(|vm| vec![vm])
            .collect(),
    }
}

/// Whether it has a machine, or waits for one.
fn runs(vm: &VmHandle) -> bool {
    let view = vm.view();
    view.observed.machine.is_some() || view.desired.power == Power::Running
}

/// Each wave's equal share of the time, and no more than a stop gets; nothing
/// once the time is over.
fn grace(rest: Duration, waves: u32, stop_timeout: Duration) -> Duration {
    match rest {
        Duration::ZERO => Duration::ZERO,
        rest => (rest / waves.max(1)).min(stop_timeout).max(LEAST),
    }
}

/// By the order in which they go down, each group as old as it was.
fn groups(vms: Vec<VmHandle>) -> BTreeMap<i64, Vec<VmHandle>> {
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
    fn each_wave_has_its_share_of_the_time() {
        let s = Duration::from_secs;
        assert_eq!(grace(s(90), 3, s(60)), s(30));
        assert_eq!(grace(s(90), 1, s(30)), s(30), "no more than a stop");
        assert_eq!(grace(s(1), 9, s(30)), LEAST);
        assert_eq!(grace(s(0), 2, s(30)), Duration::ZERO, "by force");
        assert_eq!([order(None), order(Some("-3")), order(Some("x"))], [0, -3, 0]);
    }
}
