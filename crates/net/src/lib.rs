//! The host's network: what `inn_domain::network` declares, made and kept.
//!
//! ```text
//!   ipam    which address a VM has, and which a network   (pure)
//!   link    bridges, taps and addresses: Declared and what is there ──▶ steps
//!   table   policies and port maps: Declared ──▶ tables   (pure)
//!   foreign what others' tables would drop of it, and the way out   (pure)
//!   firewalld   our bridges in its zone, where that is asked for
//!   br_netfilter   what the kernel does to bridges that tables cannot undo
//!   connections   those that the kernel is to forget
//!   nft     tables and what is there ──▶ one batch of nf_tables' messages
//!   serve   DHCP, router advertisements and DNS on every bridge
//!             dhcp, ra, dns: what is asked and Declared ──▶ what is answered   (pure)
//! ```

pub mod br_netfilter;
pub mod connections;
mod dhcp;
mod dns;
pub mod firewalld;
#[cfg(test)]
mod firewalld_tests;
pub mod foreign;
pub mod ipam;
pub mod knock;
pub mod link;
#[cfg(test)]
mod namespace;
pub mod nft;
mod ra;
mod rate;
pub mod sent;
pub mod serve;
pub mod table;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod traffic;

pub use dns::{Resolved, ZONE};
