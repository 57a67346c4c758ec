use inn_domain::network::{AttachDeniedReason, NetworkDeniedReason, PortDeniedReason};
use inn_net::ipam::NoSubnet;
use inn_store::StoreError;

use super::leases::LeaseDeniedReason;

/// Why a network is not made, or does not go.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkError {
    #[error(transparent)]
    Denied(#[from] NetworkDeniedReason),
    #[error(transparent)]
    Attach(#[from] AttachDeniedReason),
    #[error(transparent)]
    NoSubnet(#[from] NoSubnet),
    #[error(transparent)]
    Lease(#[from] LeaseDeniedReason),
    #[error("the network cannot be kept")]
    Store(#[from] StoreError),
    #[error("there is no randomness to name it with: {0}")]
    NoRandomness(getrandom::Error),
    #[error("what the host has of networks cannot be read")]
    Host(#[from] std::io::Error),
}

/// Why ports are not mapped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PortsError {
    #[error("{0}")]
    Denied(String),
    /// Somebody has the port.
    #[error("{0}")]
    Taken(String),
    #[error(transparent)]
    Attach(#[from] AttachDeniedReason),
    #[error("the port maps cannot be kept")]
    Store(#[from] StoreError),
    #[error("there is no randomness to name it with: {0}")]
    NoRandomness(getrandom::Error),
}

impl PortsError {
    /// With a VM's name in place of its id.
    pub(super) fn of(
        reason: &PortDeniedReason,
        name_of: impl FnOnce(inn_units::VmId) -> Option<String>,
    ) -> Self {
        let sentence = reason.sentence(name_of);
        match reason {
            PortDeniedReason::Mapped { .. }
            | PortDeniedReason::Reserved { .. }
            | PortDeniedReason::ListenedOn { .. } => Self::Taken(sentence),
            _ => Self::Denied(sentence),
        }
    }
}
