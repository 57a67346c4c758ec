//! Long pieces of work that clients start, watch and cancel.
//!
//! ```text
//!   begin ──▶ Running ──finish──▶ Succeeded | Failed | Cancelled
//!                └── cancel: the work is told, and finishes by itself
//! ```
//! They live as long as the agent: what they have made is durable, they are not.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use inn_image::{ImportProgress, ImportStep, ImportWatch, LayerProgress};
use inn_trace::Kind;
use inn_units::OperationId;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::node::Node;
use crate::traces;

/// How many are remembered: the oldest that has ended makes room.
const REMEMBERED: usize = 256;

/// How many may run at a time.
const RUNNING: usize = 16;

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct OperationView {
    pub(crate) id: OperationId,
    pub(crate) kind: &'static str,
    pub(crate) version: u64,
    pub(crate) progress: Option<ProgressView>,
    /// `None` while it runs.
    pub(crate) outcome: Option<Outcome>,
    pub(crate) created_at: Timestamp,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ProgressView {
    pub(crate) step: String,
    pub(crate) done: u64,
    /// 0 while unknown.
    pub(crate) total: u64,
    /// Of an image's layers; empty before they are known, and elsewhere.
    pub(crate) layers: Vec<LayerProgress>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outcome {
    Succeeded { result: String },
    Failed(inn_api::Problem),
    Cancelled,
}

#[derive(Debug)]
pub(crate) struct Operation {
    view: watch::Sender<OperationView>,
    cancelled: CancellationToken,
}

#[derive(Debug, Default)]
pub(crate) struct Operations {
    all: Mutex<VecDeque<Arc<Operation>>>,
}

impl Operations {
    /// `None` when too many run already.
    pub(crate) fn begin(
        &self,
        id: OperationId,
        kind: &'static str,
        now: Timestamp,
    ) -> Option<Arc<Operation>> {
        let view =
            OperationView { id, kind, version: 1, progress: None, outcome: None, created_at: now };
        let operation = Arc::new(Operation {
            view: watch::channel(view).0,
            cancelled: CancellationToken::new(),
        });
        let mut all = self.lock();
        if all.iter().filter(|o| o.is_running()).count() >= RUNNING {
            return None;
        }
        while all.len() >= REMEMBERED {
            let oldest = all.iter().position(|o| !o.is_running())?;
            all.remove(oldest);
        }
        all.push_back(Arc::clone(&operation));
        Some(operation)
    }

    pub(crate) fn find(&self, id: OperationId) -> Option<Arc<Operation>> {
        self.lock().iter().find(|o| o.view.borrow().id == id).cloned()
    }

    /// Tells all work to end, for the agent's own end.
    pub(crate) fn cancel_all(&self) {
        self.lock().iter().for_each(|o| o.cancel());
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<Operation>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Operation {
    /// Does `work` for it, by which the log knows it.
    pub(crate) fn spawn_on(
        self: &Arc<Self>,
        node: &Node,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        let (id, kind) = {
            let view = self.view.borrow();
            (view.id, view.kind)
        };
        let span = tracing::info_span!("operation", operation = %id, kind);
        let mut traced = node.tracer.begin(kind, Kind::Internal, traces::current());
        traced.set("inn.operation.id", id.to_string());
        let this = Arc::clone(self);
        let work = async move {
            traces::within(traced.context(), work).await;
            if let Some(Outcome::Failed(problem)) = &this.view.borrow().outcome {
                traced.fail(problem.detail.clone());
            }
        };
        node.tasks.spawn(work.instrument(span));
    }

    pub(crate) fn view(&self) -> OperationView {
        self.view.borrow().clone()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<OperationView> {
        self.view.subscribe()
    }

    pub(crate) fn cancel(&self) {
        self.cancelled.cancel();
    }

    /// For work that looks now and then whether it is still wanted.
    pub(crate) fn given_up(&self) -> CancellationToken {
        self.cancelled.clone()
    }

    /// Until somebody has cancelled it.
    pub(crate) async fn until_cancelled(&self) {
        self.cancelled.cancelled().await;
    }

    /// Says what it is about, where no bytes are counted.
    pub(crate) fn step(&self, step: &str) {
        self.change(|progress| {
            *progress = ProgressView { step: step.to_owned(), ..ProgressView::default() };
        });
    }

    fn change(&self, change: impl FnOnce(&mut ProgressView)) {
        self.view.send_if_modified(|view| {
            let mut next = view.progress.clone().unwrap_or_default();
            change(&mut next);
            if view.progress.as_ref() == Some(&next) {
                return false;
            }
            view.version += 1;
            view.progress = Some(next);
            true
        });
    }

    pub(crate) fn finish(&self, outcome: Outcome) {
        self.view.send_modify(|view| {
            view.version += 1;
            view.outcome = Some(outcome);
        });
    }

    fn is_running(&self) -> bool {
        self.view.borrow().outcome.is_none()
    }
}

impl ImportWatch for Operation {
    fn progress(&self, p: ImportProgress) {
        self.change(|progress| {
            step_name(p.step).clone_into(&mut progress.step);
            (progress.done, progress.total) = (p.done.get(), p.total.get());
        });
    }

    fn layers(&self, layers: &[LayerProgress]) {
        self.change(|progress| layers.clone_into(&mut progress.layers));
    }

    fn cancelled(&self) -> bool {
        self.cancelled.is_cancelled()
    }
}

fn step_name(step: ImportStep) -> &'static str {
    match step {
        ImportStep::Decompressing => "decompressing",
        ImportStep::Downloading => "downloading",
        ImportStep::Verifying => "verifying",
        ImportStep::Unpacking => "unpacking",
        ImportStep::Finishing => "finishing",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ended_ones_make_room_and_running_ones_are_bounded() {
        let operations = Operations::default();
        let now = Timestamp::UNIX_EPOCH;
        let id = |n: u16| {
            let [a, b] = n.to_be_bytes();
            OperationId::from_bytes([a, b, 0, 0, 0, 0, 0, 0])
        };
        for n in 0..1_000 {
            let operation = operations.begin(id(n), "image-import", now).unwrap();
            operation.finish(Outcome::Cancelled);
        }
        assert!(operations.find(id(0)).is_none());
        assert_eq!(operations.find(id(999)).unwrap().view().version, 2);
        for n in 2_000..2_016 {
            assert!(operations.begin(id(n), "image-import", now).is_some());
        }
        assert!(operations.begin(id(3_000), "image-import", now).is_none());
        operations.cancel_all();
        assert!(operations.find(id(2_000)).unwrap().cancelled());
    }
}
