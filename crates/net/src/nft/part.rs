//! What a rule is made of, and how `nft` writes it.

use std::fmt;
use std::net::IpAddr;

use super::model::{Type, interface};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    Match(Field, Test),
    /// The fields together are in a set, or are not.
    In {
        fields: Vec<Field>,
        set: String,
        not: bool,
    },
    /// What the map says of the fields together is done; nothing, if it says
    /// nothing.
    Verdicts {
        fields: Vec<Field>,
        map: String,
    },
    /// To where the map says, for the fields together; with its port, or with
    /// the one the packet has.
    Dnat {
        to: IpFamily,
        fields: Vec<Field>,
        map: String,
        port: bool,
    },
    Masquerade,
    /// It is for an address that the host has.
    ForThisHost,
    /// Frames: the bridge hands it to the host, to be routed.
    HandToHost {
        bridge: [u8; 6],
    },
    Counter,
    /// More than so much in a second, after a burst.
    Above {
        rate: u64,
        burst: u32,
        bytes: bool,
    },
    Do(Verdict),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum IpFamily {
    V4,
    V6,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Accept,
    Drop,
    Return,
    /// And back, if it decides nothing.
    Jump(String),
    Goto(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Test {
    Is(Vec<u8>),
    Not(Vec<u8>),
    /// The same first bits.
    Within(Vec<u8>, u8),
    NotWithin(Vec<u8>, u8),
    /// From the first to the last, both included.
    Between(Vec<u8>, Vec<u8>),
    /// Has one of the bits.
    AnyOf(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    IifName,
    OifName,
    /// IPv4 or IPv6, in the family `inet`.
    Protocol,
    L4Protocol,
    CtState,
    CtStatus,
    /// For whom the frame is.
    PacketType,
    EtherType,
    EtherSource,
    Ip4Source,
    Ip4Target,
    Ip6Source,
    Ip6Target,
    TcpTarget,
    UdpTarget,
    UdpSource,
    IcmpType,
    Icmp6Type,
    ArpSenderEther,
    ArpSenderIp,
    /// The address that a neighbour discovery message is about (RFC 4861, 4.3
    /// and 4.4), and its first 16 bits.
    NdTarget,
    NdTargetHead,
}

/// linux/in.h, if_ether.h, and the bits of nf_conntrack_common.h.
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMP: u8 = 1;
pub(crate) const ICMP6: u8 = 58;
pub(crate) const NFPROTO_IPV4: u8 = 2;
pub(crate) const NFPROTO_IPV6: u8 = 10;
pub(crate) const ETHER_IP: u16 = 0x0800;
pub(crate) const ETHER_ARP: u16 = 0x0806;
pub(crate) const ETHER_IP6: u16 = 0x86DD;
pub(crate) const CT_ESTABLISHED: u32 = 2;
pub(crate) const CT_RELATED: u32 = 4;
pub(crate) const CT_INVALID: u32 = 1;
/// linux/if_packet.h, PACKET_BROADCAST, _MULTICAST and _OTHERHOST.
pub(crate) const BROADCAST: u8 = 1;
pub(crate) const MULTICAST: u8 = 2;
pub(crate) const OTHER_HOST: u8 = 3;
pub(crate) const STATUS_DNAT: u32 = 0x20;

/// From where a field is read.
#[derive(Debug, Clone, Copy)]
pub(super) enum Load {
    /// A key of nf_tables.h, `enum nft_meta_keys`.
    Meta(u32),
    Ct(u32),
    Link(u32),
    Network(u32),
    Transport(u32),
}

impl Field {
    /// From where, how many bytes, and nft's words for it.
    pub(super) fn facts(self) -> (Load, usize, &'static str) {
        match self {
            Self::IifName => (Load::Meta(6), 16, "iifname"),
            Self::OifName => (Load::Meta(7), 16, "oifname"),
            Self::Protocol => (Load::Meta(15), 1, "meta nfproto"),
            Self::L4Protocol => (Load::Meta(16), 1, "meta l4proto"),
            Self::CtState => (Load::Ct(0), 4, "ct state"),
            Self::CtStatus => (Load::Ct(2), 4, "ct status"),
            Self::EtherType => (Load::Link(12), 2, "ether type"),
            Self::EtherSource => (Load::Link(6), 6, "ether saddr"),
            Self::PacketType => (Load::Meta(19), 1, "meta pkttype"),
            Self::Ip4Source => (Load::Network(12), 4, "ip saddr"),
            Self::Ip4Target => (Load::Network(16), 4, "ip daddr"),
            Self::Ip6Source => (Load::Network(8), 16, "ip6 saddr"),
            Self::Ip6Target => (Load::Network(24), 16, "ip6 daddr"),
            Self::TcpTarget => (Load::Transport(2), 2, "tcp dport"),
            Self::UdpTarget => (Load::Transport(2), 2, "udp dport"),
            Self::UdpSource => (Load::Transport(0), 2, "udp sport"),
            Self::IcmpType => (Load::Transport(0), 1, "icmp type"),
            Self::Icmp6Type => (Load::Transport(0), 1, "icmpv6 type"),
            Self::ArpSenderEther => (Load::Network(8), 6, "arp saddr ether"),
            Self::ArpSenderIp => (Load::Network(14), 4, "arp saddr ip"),
            Self::NdTarget => (Load::Transport(8), 16, "@th,64,128"),
            Self::NdTargetHead => (Load::Transport(8), 2, "@th,64,16"),
        }
    }

    pub(super) fn length(self) -> usize {
        self.facts().1
    }

    fn value(self, bytes: &[u8]) -> String {
        let one = bytes.first().copied().unwrap_or(0);
        match self {
            Self::IifName | Self::OifName => Type::IfName.text(bytes),
            Self::Protocol if one == NFPROTO_IPV4 => "ipv4".into(),
            Self::Protocol => "ipv6".into(),
            Self::PacketType => match one {
                BROADCAST => "broadcast".into(),
                MULTICAST => "multicast".into(),
                _ => "other".into(),
            },
            Self::L4Protocol => match one {
                TCP => "tcp".into(),
                UDP => "udp".into(),
                ICMP => "icmp".into(),
                ICMP6 => "ipv6-icmp".into(),
                other => other.to_string(),
            },
            Self::EtherType => match inn_netlink::be16(bytes) {
                Some(ETHER_IP) => "ip".into(),
                Some(ETHER_ARP) => "arp".into(),
                Some(ETHER_IP6) => "ip6".into(),
                other => format!("0x{:04x}", other.unwrap_or(0)),
            },
            Self::EtherSource | Self::ArpSenderEther => Type::Ether.text(bytes),
            Self::Ip4Source | Self::Ip4Target | Self::ArpSenderIp => Type::Ipv4.text(bytes),
            Self::Ip6Source | Self::Ip6Target => Type::Ipv6.text(bytes),
            Self::TcpTarget | Self::UdpTarget | Self::UdpSource => Type::Port.text(bytes),
            Self::IcmpType | Self::Icmp6Type => one.to_string(),
            Self::NdTarget | Self::NdTargetHead => {
                let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("0x{hex}")
            }
            Self::CtState | Self::CtStatus => {
                bits(self, inn_netlink::word(bytes).unwrap_or(0)).join(",")
            }
        }
    }
}

fn bits(field: Field, bits: u32) -> Vec<&'static str> {
    let names: &[(u32, &'static str)] = match field {
        Field::CtState => {
            &[(CT_INVALID, "invalid"), (CT_ESTABLISHED, "established"), (CT_RELATED, "related")]
        }
        _ => &[(STATUS_DNAT, "dnat")],
    };
    names.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect()
}

fn together(fields: &[Field]) -> String {
    let names: Vec<&str> = fields.iter().map(|field| field.facts().2).collect();
    names.join(" . ")
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Match(field, test) => {
                let name = field.facts().2;
                match test {
                    // Bytes that nft has no name for have no prefix notation.
                    Test::Within(value, length) if *field == Field::NdTargetHead => {
                        let bits = u16::MAX.checked_shl(16 - u32::from(*length)).unwrap_or(0);
                        write!(f, "{name} & 0x{bits:04x} == {}", field.value(value))
                    }
                    Test::Is(value) => write!(f, "{name} {}", field.value(value)),
                    Test::Not(value) => write!(f, "{name} != {}", field.value(value)),
                    Test::Within(value, length) => {
                        write!(f, "{name} {}/{length}", field.value(value))
                    }
                    Test::NotWithin(value, length) => {
                        write!(f, "{name} != {}/{length}", field.value(value))
                    }
                    Test::Between(from, to) => {
                        write!(f, "{name} {}-{}", field.value(from), field.value(to))
                    }
                    Test::AnyOf(mask) => write!(f, "{name} {}", bits(*field, *mask).join(",")),
                }
            }
            Self::In { fields, set, not } => {
                write!(f, "{} {}@{set}", together(fields), if *not { "!= " } else { "" })
            }
            Self::Verdicts { fields, map } => write!(f, "{} vmap @{map}", together(fields)),
            Self::Dnat { to, fields, map, port: _ } => {
                let family = match to {
                    IpFamily::V4 => "ip",
                    IpFamily::V6 => "ip6",
                };
                write!(f, "dnat {family} to {} map @{map}", together(fields))
            }
            Self::Masquerade => f.write_str("masquerade"),
            Self::ForThisHost => f.write_str("fib daddr type local"),
            Self::HandToHost { bridge } => {
                let mac = Type::Ether.text(bridge);
                write!(f, "ether daddr set {mac} meta pkttype set host")
            }
            Self::Counter => f.write_str("counter"),
            Self::Above { rate, burst, bytes } => {
                let (per, of) = if *bytes { (" bytes", "bytes") } else { ("", "packets") };
                write!(f, "limit rate over {rate}{per}/second burst {burst} {of}")
            }
            Self::Do(Verdict::Accept) => f.write_str("accept"),
            Self::Do(Verdict::Drop) => f.write_str("drop"),
            Self::Do(Verdict::Return) => f.write_str("return"),
            Self::Do(Verdict::Jump(chain)) => write!(f, "jump {chain}"),
            Self::Do(Verdict::Goto(chain)) => write!(f, "goto {chain}"),
        }
    }
}

/// Parts that many rules have.
impl Part {
    pub fn ip(family: IpFamily) -> Self {
        let number = match family {
            IpFamily::V4 => NFPROTO_IPV4,
            IpFamily::V6 => NFPROTO_IPV6,
        };
        Self::Match(Field::Protocol, Test::Is(vec![number]))
    }

    pub fn l4(number: u8) -> Self {
        Self::Match(Field::L4Protocol, Test::Is(vec![number]))
    }

    pub fn ether(number: u16) -> Self {
        Self::Match(Field::EtherType, Test::Is(number.to_be_bytes().to_vec()))
    }

    pub fn is(field: Field, value: &[u8]) -> Self {
        Self::Match(field, Test::Is(value.to_vec()))
    }

    pub fn not(field: Field, value: &[u8]) -> Self {
        Self::Match(field, Test::Not(value.to_vec()))
    }

    pub fn interface(field: Field, name: &str) -> Self {
        Self::Match(field, Test::Is(interface(name).to_vec()))
    }

    pub fn address(field: Field, ip: IpAddr) -> Self {
        inn_netlink::route::with_ip(ip, |bytes| Self::is(field, bytes))
    }

    /// None, where it is everything.
    pub fn within(field: Field, net: ipnet::IpNet) -> Option<Self> {
        let length = net.prefix_len();
        if length == 0 {
            return None;
        }
        if length == net.max_prefix_len() {
            return Some(Self::address(field, net.addr()));
        }
        let bytes = inn_netlink::route::with_ip(net.network(), <[u8]>::to_vec);
        Some(Self::Match(field, Test::Within(bytes, length)))
    }
}
