//! The host's network: what `inn_domain::network` declares, made and kept.

pub mod ipam;
