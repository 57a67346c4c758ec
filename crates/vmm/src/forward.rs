use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;

/// A port of the host's that leads to one of the guest's, by the VMM's own
/// user-mode network. The guest sees its gateway there, not the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Forward {
    pub transport: ForwardTransport,
    /// Where the host listens; unspecified for all of its addresses.
    pub address: Ipv4Addr,
    pub port: u16,
    pub to: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ForwardTransport {
    Tcp,
    Udp,
}

/// What has become of a machine's forwards.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forwarded {
    pub made: Vec<Forward>,
    pub removed: Vec<Forward>,
    /// Those that cannot be had, with why.
    pub refused: Vec<(Forward, String)>,
}

/// From what a machine has to what it should: first what goes, so that a port
/// is free for whatever it leads to next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ForwardPlan {
    pub remove: Vec<Forward>,
    pub make: Vec<Forward>,
}

impl ForwardPlan {
    pub fn new(there: &BTreeSet<Forward>, wanted: &BTreeSet<Forward>) -> Self {
        Self {
            remove: there.difference(wanted).copied().collect(),
            make: wanted.difference(there).copied().collect(),
        }
    }
}

impl fmt::Display for ForwardTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// `127.0.0.1:8080/tcp to 80`.
impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { transport, address, port, to } = self;
        write!(f, "{address}:{port}/{transport} to {to}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_is_not_touched() {
        let forward = |port, to| Forward {
            transport: ForwardTransport::Tcp,
            address: Ipv4Addr::UNSPECIFIED,
            port,
            to,
        };
        let there = BTreeSet::from([forward(1, 80), forward(2, 80), forward(3, 80)]);
        let wanted = BTreeSet::from([forward(1, 80), forward(2, 81), forward(4, 80)]);
        let plan = ForwardPlan::new(&there, &wanted);
        assert_eq!(plan.remove, [forward(2, 80), forward(3, 80)]);
        assert_eq!(plan.make, [forward(2, 81), forward(4, 80)]);
        assert_eq!(ForwardPlan::new(&wanted, &wanted), ForwardPlan::default());
        assert_eq!(forward(8080, 80).to_string(), "0.0.0.0:8080/tcp to 80");
    }
}
