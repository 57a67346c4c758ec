//! The host's network: what `inn_domain::network` declares, made and kept.
//!
//! ```text
//!   ipam    which address a VM has, and which a network   (pure)
//!   link    bridges, taps and addresses: Declared and what is there ──▶ steps
//!   serve   DHCP, router advertisements and DNS on every bridge
//!             dhcp, ra, dns: what is asked and Declared ──▶ what is answered   (pure)
//! ```

mod dhcp;
mod dns;
pub mod ipam;
pub mod link;
mod ra;
mod rate;
pub mod serve;
#[cfg(test)]
mod testing;

pub use dns::{Resolved, ZONE};
