//! nf_tables without its program: a model as large as our tables need, its
//! messages, its text, and what the kernel has of it.
//!
//! ```text
//!   Tables (as declared) ──┬──▶ script()               for people, and `nft -f`
//!   in Wanted, with what   │
//!   was touched last       │
//!                          │
//!   Observed (as it is) ───┴──▶ plan() ──▶ Transaction ──▶ Kernel::apply
//!        ▲                                                    │ one batch:
//!        └──────────────── Kernel::read ◀─────────────────────┘ all or nothing
//! ```
//!
//! A rule is known again by its comment: what it is for, and a digest of what
//! it says. Layouts and numbers are those of linux/netfilter/nf_tables.h and
//! nfnetlink.h; where `nft` has a choice (registers, what goes before what) we
//! do as it does, so that it lists ours as if it had made them.

mod decode;
mod docker;
mod encode;
mod expression;
mod foreign;
mod kernel;
mod model;
mod monitor;
mod numbers;
mod part;
mod plan;
#[cfg(test)]
pub(crate) mod plan_tests;
#[cfg(test)]
pub(crate) mod pretend;
mod script;
#[cfg(test)]
mod tests;
mod wanted;

pub use decode::{Observed, ObservedChain, ObservedRule, ObservedSet, ObservedTable};
pub use foreign::{ForeignChain, foreign};
pub use kernel::{Kernel, KernelError};
pub use model::{
    Chain, Data, ElementKey, Family, Fields, Hook, HookPoint, Rule, Set, Shape, Table, Tables,
    Type, Value,
};
pub use monitor::{Change, Monitor};
pub(crate) use part::{
    BROADCAST, CT_ESTABLISHED, CT_INVALID, CT_RELATED, ETHER_ARP, ETHER_IP, ETHER_IP6, ICMP, ICMP6,
    MULTICAST, OTHER_HOST, STATUS_DNAT, TCP, UDP,
};
pub use part::{Field, IpFamily, Part, Test, Verdict};
#[cfg(test)]
pub(crate) use plan::plan_touched;
pub use plan::{Place, Step, Transaction, plan};
pub use wanted::Wanted;
