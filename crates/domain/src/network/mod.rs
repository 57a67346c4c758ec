//! What is declared of the host's network: networks, who is attached to them,
//! what each may reach, and which of the host's ports lead where.
//!
//! ```text
//!   NetworkSpec ─┐
//!   Policy ──────┼──▶ Declared ──▶ links, addresses      (netlink)
//!   PortMap ─────┤        └──────▶ tables, chains, maps  (nf_tables)
//!   Attachment ──┘
//! ```
//!
//! [`Declared`] is everything at one moment. It is compared with what the
//! kernel has, and the difference is applied; nobody changes the kernel's
//! network in any other way.

mod admit_network;
mod admit_policy;
mod admit_ports;
mod declared;
mod forwards;
mod policy;
mod port_map;
mod spec;
mod wish;

pub use admit_network::{
    HostPlace, HostRoute, NetworkDeniedReason, admit_network, admit_network_deletion, admit_place,
};
pub use admit_policy::{
    AttachDeniedReason, MOST_PORTS, MOST_RULES, NetworkWay, admit_attachment, admit_policy,
    admit_port_target, admit_wish,
};
pub use admit_ports::{
    HostPorts, ListeningSocket, MOST_MAPPED_PORTS, PortDeniedReason, ReservedPort, admit_ports,
};
pub use declared::{
    Attachment, Declared, DeclaredMap, DeclaredNetwork, Instance, bridge_name, gateway4, gateway6,
    tap_name,
};
pub use forwards::{MOST_FORWARDED_PORTS, admit_forwards, beyond_forwards};
pub use policy::{Action, Direction, Far, Policy, PolicyRule, PortRange, Protocol, RateLimits};
pub use port_map::{Listen, MapTarget, PortMap, Transport};
pub use spec::{NetworkKind, NetworkSpec, Uplink};
pub use wish::AddressWish;
