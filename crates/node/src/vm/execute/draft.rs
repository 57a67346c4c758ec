//! A machine that is nobody's yet: a template's, or a clone that waits for
//! whoever comes next.
//!
//! ```text
//!   template:  disks ▶ launch ▶ handshake ▶ configure ▶ rehearsed ▶ stands still ▶ saved ▶ ended
//!   clone:     disks ▶ from the template ▶ handshake ▶ itself, for now ▶ rehearsed ▶ stands still
//!                                                        a VM's: goes on, becomes that one ◀┘
//! ```
//!
//! It is made by the very steps by which a VM's is, under an id that nobody else
//! gets, but no record of it is stored: what an agent that died has left of one
//! is nobody's, and goes. Rehearsed is what a start waits for: under emulation
//! code that has run once runs much faster the second time.

use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use inn_api::exec::GRACE;
use inn_domain::{Desired, Motion, Observed, Origin, Removal, StopKind, VmSpec, VmStep};
use inn_store::{ObservedRecord, VmRecord};
use inn_units::{Generation, VmId};
use inn_vmm::Machine;
use jiff::Timestamp;
use tokio::time::timeout;

use super::super::attach::mac;
use super::super::capture::{Capture, CaptureError};
use super::super::confine::Confinement;
use super::super::failure::{StepError, end_in_words};
use super::super::handle::{VmHandle, VmShared};
use super::super::program::program;
use super::super::task::{Booted, VmTask};
use crate::error::Chain;
use crate::guest::{ExecSpec, GuestError, GuestResume, GuestSession, GuestSetup};
use crate::node::Node;
use crate::runtime::AnyMachine;
use crate::snapshots::Held;

/// Who it is meanwhile, so often what a start does is done before. What is
/// right already a guest does not write again, and so has not rehearsed: no two
/// neighbours are the same, and their lengths differ as well.
const REHEARSED_AS: [&str; 4] = ["rehearsal", "dress-rehearsal", "run-through", "nobody"];

/// Enough for one that is nobody's: its VM's follows.
const ENTROPY: usize = 48;

/// Most images have it, and one that doesn't has the way to it rehearsed.
const REHEARSED: &str = "true";

/// Ends with [`Draft::end`], or is a VM's; one that is dropped is nobody's, and
/// the node's next look for orphans ends it.
pub(crate) struct Draft {
    task: Box<VmTask>,
    id: DraftId,
}

impl std::fmt::Debug for Draft {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Draft").field("id", &self.id.id).finish_non_exhaustive()
    }
}

/// An id that counts as a VM's for as long as this lives.
struct DraftId {
    node: Arc<Node>,
    id: VmId,
}

impl Drop for DraftId {
    fn drop(&mut self) {
        self.node.vms.draft_is_over(self.id);
    }
}

/// What a VM gets of a clone that has waited for it.
pub(crate) struct HandedOver {
    pub(crate) machine: Arc<AnyMachine>,
    pub(crate) booted: Booted,
    pub(crate) confinement: Confinement,
    pub(crate) between_frames: bool,
}

impl Draft {
    /// Of such a VM; it goes on from `origin`, or boots.
    pub(crate) fn new(
        node: &Arc<Node>,
        spec: VmSpec,
        origin: Option<&Arc<Held>>,
    ) -> Result<Self, getrandom::Error> {
        let mut bytes = [0; VmId::BYTES];
        getrandom::fill(&mut bytes)?;
        let id = VmId::from_bytes(bytes);
        node.vms.draft_begins(id);
        let id = DraftId { node: Arc::clone(node), id };
        let name = spec.name.to_string();
        let record = VmRecord {
            id: id.id,
            desired: Desired::first(true, StopKind::Force),
            grown_disk: None,
            changed_limits: None,
            changed_policy: None,
            created_at: Timestamp::now(),
            ttl: None,
            spec: VmSpec { from: origin.map(|held| Origin { snapshot: held.id, name }), ..spec },
        };
        let shared = Arc::new(VmShared::new(node, record, &ObservedRecord::default(), None));
        *shared.origin.lock().unwrap_or_else(PoisonError::into_inner) = origin.cloned();
        let vm = VmHandle { shared };
        let mut task = VmTask::new(Arc::clone(node), &vm, Observed::default());
        task.is_draft = true;
        Ok(Self { task: Box::new(task), id })
    }

    pub(crate) fn id(&self) -> VmId {
        self.id.id
    }

    /// The process that its machine is, where it is one.
    pub(crate) fn pid(&self) -> Option<u32> {
        let machine = self.task.machine.as_ref()?.identity();
        (machine.runtime != "sim").then_some(machine.pid)
    }

    /// Whether its machine is still there.
    pub(crate) fn lives(&self) -> bool {
        use futures_util::FutureExt;
        let machine = self.task.machine.as_ref();
        machine.is_some_and(|machine| machine.wait().now_or_never().is_none())
    }

    /// Brings it to where it waits: up, rehearsed, and standing still.
    pub(crate) async fn prepare(&mut self) -> Result<(), String> {
        let saved = self.task.shared.spec.from.is_some();
        let launch = VmStep::Launch { run: Generation::FIRST, full: false, saved };
        for step in [VmStep::MakeDisks, launch, VmStep::Handshake, VmStep::Configure] {
            self.task.execute(&step).await.map_err(|error| in_words(&step, error))?;
            self.task.observed = std::mem::take(&mut self.task.observed).after(&step);
        }
        if let Some(session) = self.task.session.clone() {
            for hostname in REHEARSED_AS {
                self.rehearse(&session, hostname).await?;
            }
        }
        self.task.execute(&VmStep::Pause).await.map_err(|e| in_words(&VmStep::Pause, e))?;
        self.task.observed.set_motion(Motion::Paused);
        Ok(())
    }

    /// What its VM's start will ask of the guest.
    async fn rehearse(&self, session: &GuestSession, hostname: &str) -> Result<(), String> {
        let mut entropy = [0; ENTROPY];
        let filled = getrandom::fill(&mut entropy);
        let emulated = self.task.shared.view.borrow().is_emulated();
        let program =
            filled.and_then(|()| program(&self.task.shared.spec, emulated, vec![REHEARSED.into()]));
        let program = program.map_err(|error| error.to_string())?;
        let resume = GuestResume {
            entropy: entropy.to_vec(),
            mac: self.task.shared.has_card().then(|| mac(self.id.id)),
            setup: GuestSetup { hostname: hostname.to_owned(), ..self.task.setup(emulated) },
            // They are its owner's, and there is none yet.
            hooks: Duration::ZERO,
        };
        // What it has for its start it has for this, too.
        let limit = self.task.node.config.live().start_deadline;
        let rehearsing = async {
            let report = session.resume(resume).await?;
            if let Some((_, what)) = report.failure() {
                return Err(GuestError::closed(format!("it cannot {what}")));
            }
            // As one that is asked for by the API, to its last word.
            let exec = ExecSpec { lasting: Some(GRACE), ..program };
            let id = exec.id;
            // Whatever comes of it: the image may have no such program.
            if let Ok(mut exec) = session.exec(exec).await {
                while let Ok(Some(_)) = exec.next().await {}
                let _ = session.forget(id).await;
            }
            Ok(())
        };
        match timeout(limit, rehearsing).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(format!("its guest: {}", Chain(&error))),
            Err(_) => Err("its guest fell silent".to_owned()),
        }
    }

    /// What others begin from, its disk as a file in the directory `to`.
    pub(crate) async fn capture(&mut self, to: &Path) -> Result<Capture, CaptureError> {
        self.task.try_capture(to).await
    }

    /// It is a VM's from here on.
    pub(crate) fn hand_over(mut self) -> Option<HandedOver> {
        let machine = self.task.machine.take()?;
        let view = self.task.shared.view.borrow();
        let kernel = view.machine.as_ref().and_then(|machine| machine.kernel.clone());
        let foreign_architecture = view.foreign_architecture();
        let booted = Booted { kvm: !view.is_emulated(), kernel, foreign_architecture };
        let confinement = view.confinement.as_deref().cloned().unwrap_or_default();
        let between_frames = self.task.way.between_frames;
        Some(HandedOver { machine, booted, confinement, between_frames })
    }

    /// Nothing of it stays.
    pub(crate) async fn end(mut self) {
        let id = self.id.id;
        self.task.hang_up().await;
        if let Some(machine) = self.task.machine.take()
            && let Err(error) = machine.kill().await
        {
            // The node's next look for orphans ends it.
            tracing::warn!(%id, %error, "a machine that is nobody's lives on");
            return;
        }
        let node = Arc::clone(&self.task.node);
        if let Err(error) = self.task.remove_files(Removal::default()).await {
            let why = in_words(&VmStep::Forget, error);
            tracing::warn!(%id, why, "files of a machine that was nobody's stay");
        }
        node.vmm_users.give_back(id);
    }
}

fn in_words(step: &VmStep, error: StepError) -> String {
    match error {
        StepError::Superseded => "the agent ends".to_owned(),
        StepError::Ended(end) => format!("at {}: {}", step.name(), end_in_words(&end)),
        StepError::Failed(failure) => format!("at {}: {}", step.name(), failure.cause),
    }
}
