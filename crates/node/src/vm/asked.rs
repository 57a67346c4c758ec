//! In which trace a VM is brought to what is desired of it.

use std::sync::{MutexGuard, PoisonError};

use inn_domain::Desired;
use inn_trace::{Context, Kind, Span};
use inn_units::Generation;

use super::handle::{VmHandle, VmShared};
use crate::node::Node;
use crate::traces;

impl VmShared {
    /// From here on this is desired, and asked for by the request at hand.
    pub(super) fn desires(&self, desired: Desired) {
        let mut asked_in = self.lock_asked_in();
        *asked_in = traces::current();
        self.modify(|view| view.desired = desired);
    }

    /// What the VM does from here on is nobody's request, unless something else
    /// was asked for since.
    pub(super) fn is_as_asked(&self, generation: Generation) {
        let mut asked_in = self.lock_asked_in();
        if self.view.borrow().desired.generation == generation {
            *asked_in = None;
        }
    }

    /// Of work for what was asked for.
    pub(super) fn begin_span(&self, node: &Node, name: &'static str) -> Span {
        let asked_in = *self.lock_asked_in();
        let mut span = node.tracer.begin(name, Kind::Internal, asked_in);
        self.name_in(&mut span);
        span
    }

    fn name_in(&self, span: &mut Span) {
        if span.context().is_some() {
            span.set("inn.vm.id", self.id.to_string());
            span.set("inn.vm.name", self.spec.name.to_string());
        }
    }

    fn lock_asked_in(&self) -> MutexGuard<'_, Option<Context>> {
        self.asked_in.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl VmHandle {
    /// Says of a span that it is about this VM.
    pub(crate) fn name_in(&self, span: &mut Span) {
        self.shared.name_in(span);
    }
}
