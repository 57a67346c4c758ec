//! What a VM may reach, which may change while it runs.

use inn_domain::Power;
use inn_domain::network::{AttachDeniedReason, Policy, admit_attachment};
use inn_fail_point::{Point, fail_point};
use inn_store::StoreError;

use super::handle::VmHandle;
use super::publish::VmView;
use crate::node::Node;

#[derive(Debug, thiserror::Error)]
pub(crate) enum PolicyError {
    #[error(transparent)]
    Denied(#[from] AttachDeniedReason),
    #[error("the policy cannot be kept")]
    Store(#[from] StoreError),
    #[error("the policy is kept and not applied: {0}")]
    NotApplied(std::sync::Arc<str>),
}

impl VmHandle {
    /// Changes what the VM may reach, at once where it runs.
    pub(crate) async fn change_policy(
        &self,
        node: &Node,
        policy: Policy,
    ) -> Result<VmView, PolicyError> {
        let shared = &self.shared;
        let _order = shared.requests.lock().await;
        if self.view().desired.power == Power::Deleted {
            return Err(AttachDeniedReason::BeingDeleted.into());
        }
        let networks = &node.networks;
        let (network, mode) = (&shared.spec.network, &networks.mode);
        let known = networks.of(network).is_some() || node.may_lend(network);
        admit_attachment(network, &policy, mode.way, &mode.why, known)?;
        node.store.set_policy(shared.id, &policy, self.durability()).await?;
        fail_point(Point::PolicyStored);
        shared.modify(|view| view.policy = policy);
        // Its task tells the VMM, where that keeps rates itself.
        shared.poke.notify_one();
        let change = networks.poke();
        networks.applied(change).await.map_err(PolicyError::NotApplied)?;
        tracing::info!(vm = %shared.spec.name, "changed its policy");
        Ok(self.view())
    }
}
