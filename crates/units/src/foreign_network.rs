use std::fmt;
use std::str::FromStr;

use crate::{InterfaceName, LibvirtNetworkName, ParseError};

/// A network that the node neither makes nor guards, for VMs whose runtime has a
/// way to it: `libvirt:NAME` or `bridge:NAME`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ForeignNetwork {
    /// One that libvirt makes.
    Libvirt(LibvirtNetworkName),
    /// A bridge of the host's, made by whoever looks after the host.
    Bridge(InterfaceName),
}

impl ForeignNetwork {
    /// Nothing where the text has no such beginning.
    pub fn parse(text: &str) -> Option<Result<Self, ParseError>> {
        let (kind, name) = text.split_once(':')?;
        match kind {
            "libvirt" => Some(name.parse().map(Self::Libvirt)),
            "bridge" => Some(name.parse().map(Self::Bridge)),
            _ => None,
        }
    }
}

impl fmt::Display for ForeignNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Libvirt(name) => write!(f, "libvirt:{name}"),
            Self::Bridge(name) => write!(f, "bridge:{name}"),
        }
    }
}

impl FromStr for ForeignNetwork {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let unknown = || ParseError::new("network", text, "must be libvirt:NAME or bridge:NAME");
        Self::parse(text).unwrap_or_else(|| Err(unknown()))
    }
}

crate::serde_as_text!(ForeignNetwork);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_network_is_stands_before_its_name() {
        for text in ["libvirt:default", "libvirt:Team A: lab", "bridge:br0.7"] {
            assert_eq!(text.parse::<ForeignNetwork>().unwrap().to_string(), text);
        }
        for bad in ["libvirt:", "libvirt:a/b", "libvirt: a", "bridge:", "bridge:a b", "web", "x:y"]
        {
            assert!(bad.parse::<ForeignNetwork>().is_err(), "{bad}");
        }
        assert!(ForeignNetwork::parse("web").is_none());
    }
}
