//! What is changed inside a guest, by its agent.

pub(super) mod disks;
pub(super) mod identity;
pub(super) mod network;
