//! VMs of an earlier life of the agent.
//!
//! ```text
//!   stored machine ──adopt──▶ found: its session is opened again
//!         │                ├▶ gone with the host's last boot: what is desired decides
//!         │                ├▶ gone in this one: it has ended by itself, and what it left is reaped
//!         │                └▶ lives and does not answer: reaped
//!   none stored ──▶ reaped: the agent may have died between launch and store
//! ```

use std::sync::Arc;
use std::time::Duration;

use inn_domain::{Guest, MachineView, Motion, Power, RuntimeChoice};
use inn_fail_point::{Point, fail_point};
use inn_host::process::host_boot_id;
use inn_store::{MachineRecord, ObservedRecord, VmRecord};
use inn_vmm::{AdoptError, MachineEnd, MachineIdentity, Runtime};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::Instrument;

use super::VmHandle;
use super::card::Card;
use super::failure::Failure;
use super::task::{Booted, VmTask};
use crate::error::Chain;
use crate::node::Node;
use crate::runtime::AnyMachine;

/// How often a machine that lives is asked before it is given up: a host
/// that swaps is slow and not broken.
const ATTEMPTS: u32 = 3;

/// Between two of them.
const PAUSE: Duration = Duration::from_secs(2);

/// A VM as the store has it.
#[derive(Debug)]
pub(crate) struct Restored {
    pub(crate) record: VmRecord,
    pub(crate) observed: ObservedRecord,
    /// Who takes its place once it is gone.
    pub(crate) successor: Option<VmRecord>,
}

impl VmTask {
    /// Adopts first and tells so by `adopted`, then lives on.
    pub(super) async fn run_restored(
        mut self,
        stored: Option<MachineRecord>,
        adopted: oneshot::Sender<()>,
    ) {
        match stored {
            Some(stored) => {
                let identity = MachineIdentity {
                    runtime: stored.runtime,
                    pid: stored.pid,
                    start_ticks: stored.start_ticks,
                    host_boot_id: stored.host_boot_id,
                };
                let booted = Booted {
                    kvm: stored.kvm,
                    kernel: stored.kernel,
                    foreign_architecture: stored.foreign_architecture,
                };
                self.adopt(&identity, booted, adopted).await;
            }
            None => {
                self.node.metering.lost(self.shared.id);
                self.observed.machine = None;
                if self.shared.paths.run_dir.exists() {
                    self.reap(None).await;
                    self.leave_groups().await;
                    fail_point(Point::AdoptReaped);
                }
                // The receiver may have given up.
                let _ = adopted.send(());
            }
        }
        self.run().await;
    }

    async fn adopt(
        &mut self,
        identity: &MachineIdentity,
        booted: Booted,
        adopted: oneshot::Sender<()>,
    ) {
        let mut adopted = Some(adopted);
        let name = self.shared.spec.name.clone();
        for attempt in 1..=ATTEMPTS {
            let found = self.try_adopt(identity).await;
            match found {
                Ok(machine) => {
                    tracing::info!(vm = %name, pid = identity.pid, "adopted");
                    fail_point(Point::AdoptFound);
                    self.tell_adopted(identity.pid);
                    self.take_over(machine, booted);
                    self.node.networks.has_machine(self.shared.id).await;
                    self.read_confinement(&identity.runtime, identity.pid).await;
                    return;
                }
                Err(AdoptError::Gone { pid }) => {
                    tracing::info!(vm = %name, pid, "its machine has ended meanwhile");
                    fail_point(Point::AdoptGone);
                    self.node.metering.lost(self.shared.id);
                    // Its sockets, and the process that served its vsock.
                    self.reap(Some(identity)).await;
                    let this_boot = host_boot_id().is_ok_and(|id| id == identity.host_boot_id);
                    if this_boot && self.desired().power == Power::Running {
                        let how = format!("its machine (pid {pid}) ended while no agent ran");
                        self.machine_ended(MachineEnd::Died(how)).await;
                    }
                    // Where a write has failed before, the one that was stored
                    // is not the last one there was.
                    if self.shared.paths.run_dir.exists() {
                        self.reap(None).await;
                    }
                    self.machine_was_lost();
                    self.leave_groups().await;
                    self.persist().await;
                    return;
                }
                Err(error @ AdoptError::Unresponsive { .. }) => {
                    tracing::warn!(vm = %name, attempt, error = %Chain(&error), "not adopted yet");
                    // The others need not wait for this one.
                    if let Some(adopted) = adopted.take() {
                        let _ = adopted.send(());
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        self.give_up(identity).await;
    }

    async fn try_adopt(&self, identity: &MachineIdentity) -> Result<AnyMachine, AdoptError> {
        let pid = identity.pid;
        let unresponsive = |reason: String| AdoptError::Unresponsive { pid, reason };
        let runtime = self.node.runtimes.named(&identity.runtime).await;
        match runtime.map_err(|error| unresponsive(Chain(&error).to_string()))? {
            Some(runtime) => {
                runtime.adopt(self.shared.id, identity, &self.shared.paths.run_dir).await
            }
            None => Err(unresponsive(format!("its runtime is {}", identity.runtime))),
        }
    }

    async fn reap(&self, identity: Option<&MachineIdentity>) {
        let (id, run_dir) = (self.shared.id, &self.shared.paths.run_dir);
        let runtime = match (identity, self.shared.spec.runtime) {
            (Some(identity), _) => self.node.runtimes.named(&identity.runtime).await,
            (None, RuntimeChoice::Auto) => Ok(None),
            (None, choice) => self.node.runtimes.choose(choice).await.map(Some),
        };
        let reaped = match runtime {
            Ok(Some(runtime)) => runtime.reap(id, identity, run_dir).await,
            Ok(None) => self.node.runtimes.reap_any(id, run_dir).await,
            Err(error) => Err(std::io::Error::other(Chain(&error).to_string())),
        };
        if let Err(error) = reaped {
            tracing::error!(vm = %self.shared.spec.name, %error, "its machine may live on");
        }
    }

    fn take_over(&mut self, machine: AnyMachine, booted: Booted) {
        let record = Arc::new(Self::machine_record(&machine, booted));
        let machine = Arc::new(machine);
        self.machine = Some(Arc::clone(&machine));
        self.card = Card::default();
        let run = self.desired().run;
        let full = self.shared.spec.is_full();
        let (guest, motion) = (Guest::Booting, Motion::Runs);
        let booting = MachineView { run, guest, full, set_up: false, motion, unconfirmed: false };
        self.observed.machine.get_or_insert(booting);
        self.observed.adopted();
        if self.observed.machine.is_some_and(|machine| machine.counts_as_up()) {
            self.up_since = Some(Instant::now());
        }
        // It has what is left of a start's time all over again.
        self.launched_at = Instant::now();
        self.boot_deadline = self.launched_at + self.node.config.live().start_deadline;
        self.shared.live.send_modify(|live| live.machine = Some(machine));
        self.shared.modify(|view| view.machine = Some(record));
        self.meter();
    }

    /// Nobody has seen it end, so nobody knows how.
    fn machine_was_lost(&mut self) {
        self.node.metering.lost(self.shared.id);
        self.node.networks.detach(self.shared.id);
        self.observed.machine = None;
        self.shared.modify(|view| {
            view.machine = None;
            view.cloud_init = None;
            view.started_at = None;
            if let Some(workload) = &mut view.workload
                && workload.running
            {
                let workload = Arc::make_mut(workload);
                workload.running = false;
                workload.reason = Some("ended with its VM".to_owned());
            }
        });
    }

    /// A machine that nobody can talk to is no VM any more.
    async fn give_up(&mut self, identity: &MachineIdentity) {
        self.reap(Some(identity)).await;
        fail_point(Point::AdoptGivenUp);
        self.machine_was_lost();
        if self.desired().power == Power::Running {
            let failure = Failure::new(
                format!("its machine (pid {}) did not answer the restarted agent", identity.pid),
                "it was ended and is started again",
            );
            let record =
                failure.record("adopt", &self.shared.spec.name, Vec::new(), jiff::Timestamp::now());
            self.tell_failure(&record);
            self.shared.modify(|view| view.failure = Some(Arc::new(record)));
        }
        self.persist().await;
    }
}

/// Brings a VM of an earlier life back. The receiver resolves once its
/// machine is adopted or known to be gone.
pub(super) fn restore(
    node: &Arc<Node>,
    vm: &VmHandle,
    restored: Restored,
) -> oneshot::Receiver<()> {
    let (adopted, done) = oneshot::channel();
    let observed = restored.observed;
    let task = VmTask::new(Arc::clone(node), vm, observed.observed);
    let span = vm.log_span();
    node.tasks.spawn(task.run_restored(observed.machine, adopted).instrument(span));
    done
}
