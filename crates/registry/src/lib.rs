//! Registries: what an image reference means, and the bytes behind it, by the
//! OCI distribution specification 1.1 and docker's registry API v2. Knows the
//! wire and nothing of disks.
//!
//! ```text
//!   Reference ──▶ Registry::resolve ──▶ Resolved { manifest, config, layers, repository }
//!                  │ policy                            │
//!                  │ mirrors, then the registry        └─ Repository::blob(layer, from) ──▶ bytes
//!                  │ index ─▶ this host's image
//!                  └ digests, sizes, kinds checked
//! ```
//!
//! Invariants: a manifest and a configuration are verified here; a layer has
//! exactly its size, and its digest is for whoever writes it ([`Verifier`]).
//! A registry is hostile: all that it sends is bounded, every wait has a
//! deadline. Secrets are in no error, log or `Debug`. Nothing goes without TLS
//! but to hosts that are configured so ([`PlainHttp`]).
//!
//! [`fetch`] is the layer below, for anything that comes by URL.

mod auth;
mod blob;
pub mod fetch;
mod manifest;
mod mirrors;

mod policy;
mod reference;
mod registry;
mod resolve;
mod signature;
mod signed;
mod source;

pub use self::auth::CredentialFiles;
pub use self::blob::{BlobStream, Verifier};
pub use self::fetch::{FailureClass, FetchSettings, PlainHttp, Proxies};
pub use self::manifest::{Compression, LARGEST_DOCUMENT, LayerDescriptor, Platform};
pub use self::mirrors::Mirrors;
pub use self::policy::{Policy, PolicyDeniedReason};
pub use self::reference::Reference;
pub use self::registry::{Registry, RegistrySettings, Repository};
pub use self::resolve::Resolved;
pub use self::signature::PublicKey;

/// Why an image did not come; [`FailureClass`] says of which kind it is.
pub type RegistryError = fetch::FetchError;

#[cfg(test)]
mod tests;
