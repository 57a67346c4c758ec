//! Bridges, taps and addresses, and the little of the host's own settings that
//! they need.
//!
//! ```text
//!   Declared ──┐
//!              ├─▶ plan (pure) ──▶ LinkStep, LinkStep, … ──apply──▶ kernel
//!   Observed ──┘                                                      │
//!       ▲──────────────────── read ◀──── Monitor: something changed ──┘
//! ```
//!
//! A bridge has its network's addresses; a tap is its port once a VM's start
//! has opened it (see `inn_host::tap`), and until its VMM ends. What is ours
//! says so in its alias, with the instance and the owner; nothing else is ever
//! changed or removed.
//!
//! A port neither learns nor floods: where a VM is, is written down, in the
//! bridge's table of stations and in the host's of neighbours. So nobody takes
//! another's frames by claiming its address, and a DHCP answer reaches a VM
//! that has no address yet.

mod kernel;
mod message;
mod monitor;
mod observed;
mod plan;
mod settings;
mod step;
mod uplink;

pub use kernel::{ApplyError, Converged, Links};
pub use monitor::Monitor;
pub use observed::{Address, Link, Neighbour, Observed, Port, Route, Station};
pub use plan::{LinkPlan, bridge_mac, plan};
pub use step::LinkStep;
pub use uplink::{mtu, routed, uplink4, uplink6};

#[cfg(test)]
#[path = "plan_tests.rs"]
mod plan_tests;

#[cfg(test)]
#[path = "kernel_tests.rs"]
mod kernel_tests;
