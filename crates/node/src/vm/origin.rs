//! What a VM begins from: found once, and let go of when it is up.

use std::sync::{Arc, PoisonError};

use inn_domain::{VmSpec, begins_from_saved};
use inn_units::{Generation, VmName};

use super::failure::{Failure, StepError};
use super::registry::{CreateError, NewVm, Vms};
use super::task::VmTask;
use super::{RequestError, VmHandle};
use crate::node::Node;
use crate::snapshots::Held;

impl VmTask {
    /// The saved machine that its next one goes on from, if it does.
    pub(super) async fn origin(&self) -> Result<Option<Arc<Held>>, StepError> {
        if let Some(held) = self.own_memory() {
            return Ok(Some(held));
        }
        if !begins_from_saved(&self.observed, self.rules()) {
            return Ok(None);
        }
        if let Some(held) = self.lock_origin().clone() {
            return Ok(Some(held));
        }
        let (name, held) = match (&self.shared.spec.from, self.template()) {
            (Some(origin), _) => {
                (origin.name.as_str(), self.node.snapshots.hold(origin.snapshot).await)
            }
            (None, Some(template)) => ("its template", self.node.templates.hold(template).await),
            (None, None) => return Ok(None),
        };
        let held = held.map_err(|error| {
            let what = format!("it cannot begin from {name}");
            Failure::caused(what, &error, "delete it, and make it anew from what is there")
                .try_this("inn vm delete {vm}")
        })?;
        *self.lock_origin() = Some(Arc::clone(&held));
        Ok(Some(held))
    }

    /// It is up, or will not be.
    pub(super) fn let_go_of_origin(&self) {
        *self.lock_origin() = None;
        self.shared.lock_warm().take();
    }

    pub(super) fn lock_origin(&self) -> std::sync::MutexGuard<'_, Option<Arc<Held>>> {
        // One value is replaced.
        self.shared.origin.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl VmHandle {
    /// Whether it still needs what it begins from.
    pub(crate) fn awaits_origin(&self) -> bool {
        begins_from_saved(&self.view().observed, self.spec().rules())
    }
}

impl Vms {
    /// Makes one VM for each name, all like `spec`, all beginning from `held`:
    /// all of them, or none.
    pub(crate) async fn fork(
        &self,
        node: &Arc<Node>,
        (held, spec): (&Arc<Held>, &VmSpec),
        names: Vec<VmName>,
    ) -> Result<Vec<VmHandle>, CreateError> {
        if spec.persist {
            // It would be overwritten: nobody else is to have one of that name.
            let there = |name: &&VmName| node.config.paths.persist_disk(name).exists();
            if let Some(name) = names.iter().find(there) {
                let (name, disk) = (name.clone(), node.config.paths.persist_disk(name));
                return Err(CreateError::PersistThere { name, disk });
            }
        }
        let mut made: Vec<VmHandle> = Vec::new();
        for name in names {
            let new = NewVm {
                spec: VmSpec { name, ..spec.clone() },
                start: true,
                replace: false,
                ttl: None,
                on_idle: None,
                ports: Vec::new(),
                held: Some(Arc::clone(held)),
                cold: false,
                mark: None,
            };
            match self.create(node, new).await {
                Ok(vm) => made.push(vm),
                Err(error) => {
                    for vm in made {
                        let gone = vm.end(node).await;
                        if let Err(error) = gone {
                            tracing::error!(vm = %vm.spec().name, %error, "it stays");
                        }
                    }
                    return Err(error);
                }
            }
        }
        Ok(made)
    }
}

impl VmHandle {
    async fn end(&self, node: &Node) -> Result<(), RequestError> {
        use inn_domain::{Removal, Request, StopKind};
        let removal = Removal { purge_persist: self.spec().persist, ..Removal::default() };
        let delete = Request::Delete(StopKind::Force, removal);
        self.request(&node.store, delete).await.map(drop)
    }

    /// Once all of it is up, or has failed to come up.
    pub(crate) async fn settled(&self, wait: std::time::Duration) {
        self.wait_for(Generation::FIRST, wait).await;
    }
}
