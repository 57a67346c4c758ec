//! Names for VMs: their own in `NETWORK.inn.internal`, and the world's.
//!
//! ```text
//!   request ──decide (pure)──▶ Reply, of our own zone or a refusal
//!                         └──▶ Forward ──cache, or one of the host's resolvers──▶ response
//!                                 judge (pure), where its policy has domain rules:
//!                                   a private address ──▶ refused
//!                                   else each rule's addresses ──Resolved──▶ the tables, first
//! ```
//!
//! Only attached VMs are answered, by their addresses, which the network's
//! tables hold them to. What they ask goes to a resolver as a new message with
//! nothing of theirs in it but the question.

mod cache;
mod decide;
mod policy;
pub(crate) mod upstream;
mod wire;
mod zone;

use std::net::IpAddr;
use std::time::Duration;

use inn_units::VmId;
use tokio::sync::oneshot;

pub(crate) use cache::Cache;
pub(crate) use decide::{Decision, Question, decide, error_reply, truncated};
pub(crate) use policy::{Verdict, judge};
pub(crate) use upstream::Resolvers;
pub(crate) use wire::set_id;

/// The domain of all VMs' names. `internal` is nobody's: ICANN has set it aside
/// for such (resolution 2024.07.29.06).
pub const ZONE: &str = "inn.internal";

/// What a rule's name stands for at present. The VM gets its answer when
/// `applied` is sent, or a moment later.
#[derive(Debug)]
pub struct Resolved {
    pub vm: VmId,
    /// Which of its policy's rules.
    pub rule: usize,
    pub addresses: Vec<IpAddr>,
    /// For how long; no shorter than the VM may keep the answer.
    pub lifetime: Duration,
    pub applied: oneshot::Sender<()>,
}
