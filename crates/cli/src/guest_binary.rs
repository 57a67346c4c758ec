//! `inn-guest`, the binary that lives inside each VM, as build.rs made it.

/// A static ELF executable for the architecture that `inn` is built for.
pub(crate) static GUEST_BINARY: &[u8] = include_bytes!(env!("INN_GUEST_BINARY"));
