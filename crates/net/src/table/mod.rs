//! Our tables, as what is declared wants them: pure.
//!
//! ```text
//!  frames (bridge)        a VM's card ─▶ between-checks: who it says it is
//!                                   └─▶ handed to the host, or from port to port
//!  host (inet)
//!   prerouting ─▶ ports: a port map's target, by hash
//!   forward ─▶ rates ─▶ known connections ─▶ arrivals ─▶ departures
//!                                              │             │
//!                                          in-VM chain   out-VM chain ─▶ leave-NETWORK
//!   input ─▶ to-host: DHCP, DNS, ping of the gateway
//!   postrouting ─▶ masquerade: out of the uplink, hairpins, where asked
//! ```
//!
//! A packet finds its VM's chain, and a port its target, by one look-up in a
//! hash: what it costs does not grow with the number of VMs or maps. Who a
//! packet is from is told by its source address, which the bridge's table has
//! proved to be its card's.

mod desired;
mod edit;
mod frames;
mod host;
mod names;
mod policy;
mod ports;
mod tally;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;

use inn_domain::network::Declared;

use crate::nft::{Hook, HookPoint, Tables};

pub use desired::Desired;
pub use names::domain_sets;
pub use policy::{burst_of_bytes, burst_of_packets};
pub use tally::{Counted, Tally, VmTally, tally};

/// From nothing.
pub fn tables(declared: &Declared) -> Tables {
    let mut desired = Desired::default();
    desired.follow(&Arc::new(declared.clone()));
    desired.into_tables()
}

fn filter(point: HookPoint, priority: i32) -> Option<Hook> {
    Some(Hook { point, nat: false, priority })
}

fn nat(point: HookPoint, priority: i32) -> Option<Hook> {
    Some(Hook { point, nat: true, priority })
}
