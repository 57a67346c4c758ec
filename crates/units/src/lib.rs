//! Typed ids, sizes and counters: the words every other crate speaks in.
//!
//! Pure: no I/O, no clock, no randomness. Every type has one canonical text
//! form (`Display`, `FromStr`, serde) and refuses everything else with a
//! sentence that names the value.

mod architecture;
mod bytes;
mod count;
mod digest;
mod duration;
mod foreign_network;
mod id;
mod name;
mod nearest;

pub use architecture::Architecture;
pub use bytes::{Bytes, GIB, KIB, MIB, TIB};
pub use count::{EventSeq, Generation, Vcpus};
pub use digest::Digest;
pub use duration::{format_duration, parse_duration};
pub use foreign_network::ForeignNetwork;
pub use id::{ExecId, NetworkId, OperationId, PortMapId, SnapshotId, TokenId, VmId};
pub use name::{
    ImageName, InterfaceName, LibvirtNetworkName, NetworkName, NodeName, SnapshotName, VmName,
};
pub use nearest::nearest;

/// A text that is not the canonical form of what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} `{given}` {problem}")]
pub struct ParseError {
    /// What was being read: "size", "VM id".
    pub what: &'static str,
    /// The offending text, shortened to 80 characters.
    pub given: String,
    /// Why it was refused and what would be accepted.
    pub problem: String,
}

impl ParseError {
    pub fn new(what: &'static str, given: &str, problem: impl Into<String>) -> Self {
        Self { what, given: given.chars().take(80).collect(), problem: problem.into() }
    }
}

/// serde through the canonical text form.
macro_rules! serde_as_text {
    ($ty:ty) => {
        impl serde::Serialize for $ty {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> serde::Deserialize<'de> for $ty {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use serde_as_text;
