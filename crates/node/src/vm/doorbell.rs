//! Who connects to a VM that rests paused wakes it.
//!
//! ```text
//!   a rest by a pause ─▶ attended ─┬─ on a bridge: what goes into its tap (inn_net::knock)
//!                                  └─ on the VMM's network: its forwards, asked again and again
//!                        somebody knocks ─▶ woken    woken otherwise, stopped, … ─▶ attended no more
//! ```
//!
//! What was sent meanwhile waits in the tap or the VMM, or is sent again: the
//! connection that wakes a VM is served by it.

use std::sync::Arc;
use std::time::Duration;

use inn_domain::network::tap_name;
use inn_domain::{Desired, IdleAction};
use inn_net::knock::Door;
use inn_vmm::Machine;
use tokio::time::sleep;

use super::attach::mac;
use super::handle::VmHandle;
use crate::error::Chain;
use crate::node::Node;

/// Between two questions to a VMM, 0.2 ms each: so late a connection is heard.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// Before a tap that could not be watched is tried again, or a VM that could
/// not be woken is woken again.
const TRY_AGAIN: Duration = Duration::from_secs(5);

pub(super) fn can_be_knocked_at(desired: &Desired) -> bool {
    desired.rest.is_some_and(|rest| rest.action == IdleAction::Pause)
}

impl VmHandle {
    /// Until its rest is over.
    pub(super) async fn attend(&self, node: &Arc<Node>) {
        let mut views = self.watch();
        // An error is a VM that is gone.
        let over = views.wait_for(|view| view.gone || !can_be_knocked_at(&view.desired));
        tokio::select! {
            // Nothing is lost with any: a wake is carried out by itself.
            _ = over => {}
            () = node.closing.cancelled() => {}
            () = self.answer_the_door(node) => {}
        }
    }

    async fn answer_the_door(&self, node: &Arc<Node>) {
        loop {
            let knocked = match node.networks.is_attached(self.id()) {
                true => self.knocked_on_its_tap(node).await,
                false => self.knocked_by_a_forward(node).await,
            };
            let name = &self.spec().name;
            match knocked {
                Ok(()) => match self.wake(node, "a connection to it").await {
                    Ok(()) => return,
                    Err(error) => {
                        let error = Chain(&error).to_string();
                        tracing::warn!(vm = %name, error, "somebody connects, and it is not woken");
                    }
                },
                Err(error) => {
                    tracing::debug!(vm = %name, %error, "who connects to it is not seen");
                }
            }
            sleep(TRY_AGAIN).await;
        }
    }

    async fn knocked_on_its_tap(&self, node: &Node) -> std::io::Result<()> {
        let id = self.id();
        let tap = tap_name(id);
        let mut door = Door::watch(tap.as_str(), mac(id), node.networks.addresses(id))?;
        door.knocked().await
    }

    async fn knocked_by_a_forward(&self, node: &Node) -> std::io::Result<()> {
        loop {
            if !node.networks.maps_of(self.id()).is_empty()
                && self.view().observed.is_paused()
                && let Some(machine) = self.machine()
                && machine.is_knocked_at().await?
            {
                return Ok(());
            }
            sleep(ASK_AGAIN).await;
        }
    }
}
