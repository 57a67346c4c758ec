use ipnet::IpNet;

/// What a VM may reach and who may reach it, beyond what its network allows
/// anyway. Answers to what was allowed are always let through.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Policy {
    /// Nothing but its own DHCP.
    None,
    #[default]
    AllowAll,
    /// The first rule that fits decides; what fits none is denied, and counted
    /// as such.
    Rules { rules: Vec<PolicyRule>, rates: RateLimits },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyRule {
    pub direction: Direction,
    pub action: Action,
    /// Any, if it is `None`.
    pub protocol: Option<Protocol>,
    /// Of the receiving end; any, if there is none. Only with TCP or UDP.
    pub ports: Vec<PortRange>,
    pub far: Far,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// From the VM.
    Egress,
    /// To the VM.
    Ingress,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Allow,
    Deny,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
    /// ICMP, and ICMPv6 beyond the neighbour discovery that IPv6 lives by.
    Icmp,
}

/// The end that is not the VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Far {
    Any,
    Net(IpNet),
    /// Egress only: a name, or `*.NAME` for all below it. As our DNS answers
    /// for it, for as long as the answer lives. An answer that is a private
    /// address is refused.
    Domain(String),
}

/// From the first to the last, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    pub first: u16,
    pub last: u16,
}

impl PortRange {
    pub fn single(port: u16) -> Self {
        Self { first: port, last: port }
    }

    pub fn count(self) -> u32 {
        u32::from(self.last.saturating_sub(self.first)) + 1
    }

    pub fn is_single(self) -> bool {
        self.first == self.last
    }

    pub fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// What is above them is dropped, or held back in the VM by a VMM that can. No
/// limit where there is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RateLimits {
    /// Bytes in a second, from the VM.
    pub egress_bytes: Option<u64>,
    /// Bytes in a second, to the VM.
    pub ingress_bytes: Option<u64>,
    /// Packets in a second, from the VM.
    pub egress_packets: Option<u64>,
    /// Packets in a second, to the VM.
    pub ingress_packets: Option<u64>,
}
