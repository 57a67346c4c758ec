//! The task that owns the host's network.
//!
//! ```text
//!   a change of what is declared ─┐
//!   a change by somebody else ────┼─▶ pass: read ▶ plan ▶ apply ─▶ Applied ─▶ who waits
//!   every minute ─────────────────┘     │              └─▶ Declared ─▶ DHCP, DNS
//!                                       └ only what somebody else may have changed:
//!                                         links, others' tables; all every minute
//!   a name of a policy resolved ──▶ its addresses let through
//! ```

use std::sync::Arc;
use std::time::Duration;

use inn_domain::network::{Declared, NetworkWay};
use inn_net::Resolved;
use inn_net::link::Monitor;
use inn_net::nft;
use inn_net::serve::Servers;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::forwards::ForwardTask;
use super::kernel::{Kernel, Look, Passed};
use super::state::Applied;
use super::zone::{Seen, Zone};
use crate::error::{AgentError, Chain};
use crate::node::Node;

/// Between two passes that nothing has called for: what no monitor tells.
const EVERY: Duration = Duration::from_secs(60);

/// Between two passes that others' changes call for, so that whoever changes
/// something without end has us look ten times a second and no more.
const CALM: Duration = Duration::from_millis(100);

/// Of a pass that failed, unless something changes before.
const AGAIN: Duration = Duration::from_secs(2);

/// Names in policies that are being resolved: each waits in its DNS answer,
/// and a guest that asks for more waits for its turn.
const RESOLVED: usize = 64;

/// What is applied is shown in words up to so many.
const WORDS: usize = 200;

struct NetworkTask {
    node: Arc<Node>,
    kernel: Kernel,
    zone: Zone,
    links: Monitor,
    tables: nft::Monitor,
    declared: watch::Sender<Arc<Declared>>,
    resolved: mpsc::Receiver<Resolved>,
    count: mpsc::Receiver<oneshot::Sender<()>>,
}

/// Makes the network of VMs that name none, at the first start.
pub(crate) async fn prepare(node: &Arc<Node>) {
    if let Err(error) = node.networks.make_default(node).await {
        // Networks that have a name can be had all the same.
        tracing::error!(error = %Chain(&error), "there is no network for VMs that name none");
    }
}

/// Brings the host's network to what is declared, and keeps it there; VMs that
/// start wait for it. Without bridges there is nothing to keep. All VMs of
/// earlier lives are known: what is another's is removed.
pub(crate) async fn start(node: &Arc<Node>) -> Result<(), AgentError> {
    let networks = &node.networks;
    if !networks.mode.is_bridge() {
        if networks.mode.way == NetworkWay::User {
            let task = ForwardTask::new(Arc::clone(node));
            node.tasks.spawn(node.closing.clone().run_until_cancelled_owned(task.run()));
        }
        return Ok(());
    }
    let cannot = |source| AgentError::Start { step: "look after the host's network", source };
    let kernel = Kernel::open(networks.instance.clone()).await.map_err(cannot)?;
    let links = Monitor::open().map_err(cannot)?;
    let tables = kernel.monitor(&networks.instance).map_err(cannot)?;
    let (declared, feed) = watch::channel(Arc::default());
    let (tell, resolved) = mpsc::channel(RESOLVED);
    let (servers, problems) = Servers::new(feed, tell);
    networks.served(problems);
    let count = networks.counting();
    let zone = Zone::default();
    let node_of_task = Arc::clone(node);
    let mut task =
        NetworkTask { node: node_of_task, kernel, zone, links, tables, declared, resolved, count };
    task.pass(Look::ALL).await;
    let closing = node.closing.clone();
    node.tasks.spawn(closing.clone().run_until_cancelled_owned(async move {
        if let Err(error) = servers.run().await {
            tracing::error!(%error, "no DHCP and no DNS for VMs");
        }
    }));
    node.tasks.spawn(closing.run_until_cancelled_owned(task.run()));
    Ok(())
}

impl NetworkTask {
    async fn run(mut self) {
        let mut last = Instant::now();
        let mut failed = false;
        // What others have told of, and is looked at when they are calm.
        let mut told_of = Look::default();
        loop {
            let wait = if failed { AGAIN } else { EVERY };
            let due = last + if told_of == Look::default() { wait } else { CALM };
            let networks = &self.node.networks;
            let look = tokio::select! {
                // Cancel safe: the permit stays.
                () = networks.changed.notified() => {
                    if networks.looks_closely() { Look::ALL } else { Look::default() }
                }
                // Cancel safe: what is not yet read stays.
                told = self.links.changed(), if !told_of.links => {
                    if let Err(error) = told {
                        tracing::warn!(%error, "changes of the host's interfaces are not told");
                    }
                    told_of.links = true;
                    continue;
                }
                // Cancel safe: what was told is not lost.
                told = self.tables.next(), if !told_of.foreign => {
                    match told {
                        Ok(change) => tracing::debug!(?change, "nf_tables were changed"),
                        Err(error) => tracing::warn!(%error, "changes of nf_tables are not told"),
                    }
                    told_of.foreign = true;
                    continue;
                }
                // Receiving is cancel safe.
                Some(resolved) = self.resolved.recv() => {
                    self.learn(resolved).await;
                    continue;
                }
                // Receiving is cancel safe.
                Some(answer) = self.count.recv() => {
                    self.pass(Look { counters: true, ..Look::default() }).await;
                    // Whoever asked may have gone.
                    let _ = answer.send(());
                    continue;
                }
                // It only waits.
                () = sleep_until(due) => {
                    if told_of == Look::default() { Look::ALL } else { told_of }
                }
            };
            failed = self.pass(look).await;
            // A change of what is declared does not wait for others to be calm,
            // nor make them be looked at later.
            if look != Look::default() || failed {
                told_of = Look::default();
                last = Instant::now();
            }
        }
    }

    /// Whether something could not be done.
    async fn pass(&mut self, look: Look) -> bool {
        let networks = &self.node.networks;
        let change = networks.wanted();
        let passed = self.kernel.pass(Arc::clone(&self.node), look).await;
        let Passed { declared, mended, failed, blocked, foreign, hairpins, .. } = passed;
        let Passed { shut_by_firewalld, tally, .. } = passed;
        for what in &mended {
            tracing::debug!(what, "changed the host's network");
        }
        for why in &failed {
            tracing::warn!(why, "the host's network is not as declared");
        }
        if let Some(tally) = tally {
            networks.tallied(tally);
        }
        self.declared.send_if_modified(|before| {
            let news = **before != *declared;
            *before = Arc::clone(&declared);
            news
        });
        for why in &blocked {
            if !networks.applied.borrow().blocked.contains(why) {
                tracing::warn!(why, "something else of the host's is in the way of VMs");
            }
        }
        for blocker in &foreign {
            if !networks.applied.borrow().foreign.contains(blocker) {
                tracing::warn!(why = %blocker, "somebody else's rules are in the way of VMs");
            }
        }
        if let Some(why) = &hairpins
            && networks.applied.borrow().hairpins.is_none()
        {
            tracing::info!(why, "VMs of one network do not reach each other by mapped ports");
        }
        let error = (!failed.is_empty()).then(|| failed.join("; ").into());
        let failed = error.is_some();
        networks.applied.send_modify(|now| {
            // What was mended for a change that nobody has asked of yet adds up.
            let mut all =
                if now.change == change { std::mem::take(&mut now.mended) } else { vec![] };
            all.extend(mended);
            all.truncate(WORDS);
            let untold = self.zone.troubles.clone();
            let applied = Applied { change, error, blocked, foreign, ..Applied::default() };
            *now = Applied { mended: all, declared, untold, hairpins, ..applied };
        });
        failed | self.tell_firewalld(Seen { anew: look.foreign, shut: shut_by_firewalld }).await
    }

    /// After the rest, which waits for no program of others. Whether that is to
    /// be tried again soon.
    async fn tell_firewalld(&mut self, seen: Seen) -> bool {
        let networks = &self.node.networks;
        let declared = Arc::clone(&networks.applied.borrow().declared);
        let before = self.zone.troubles.clone();
        let done = match self.zone.keep(&self.node, &declared, seen).await {
            Ok(done) => done,
            Err(error) => {
                tracing::warn!(error = %Chain(&error), "firewalld is not told of bridges");
                return true;
            }
        };
        for why in self.zone.troubles.iter().filter(|why| !before.contains(why)) {
            tracing::warn!(why, "firewalld does not let VMs' packets through");
        }
        if !done.is_empty() || before != self.zone.troubles {
            networks.applied.send_modify(|now| {
                now.untold.clone_from(&self.zone.troubles);
                now.mended.extend(done);
            });
        }
        // It has its tables before it answers.
        seen.shut && self.zone.silent
    }

    async fn learn(&self, resolved: Resolved) {
        let Some(vm) = self.node.vms.of_id(resolved.vm) else { return };
        if let Err(error) = self.kernel.learn(&resolved, vm.policy()).await {
            tracing::warn!(vm = %vm.spec().name, %error, "a name of its policy is not let through");
        }
        // Its DNS answer waits for it no more.
        let _ = resolved.applied.send(());
    }
}
