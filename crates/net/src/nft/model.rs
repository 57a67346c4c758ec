use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use inn_domain::network::Instance;

use super::part::Part;

/// All that is ours in nf_tables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tables {
    pub instance: Instance,
    /// At most one of each family; none, where nothing is declared.
    pub tables: BTreeMap<Family, Table>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4 and IPv6, as the host routes them.
    Inet,
    /// Frames, as a bridge hands them on.
    Bridge,
}

impl Family {
    /// linux/netfilter.h.
    pub(super) fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Bridge => 7,
        }
    }

    pub(super) const ALL: [Self; 2] = [Self::Inet, Self::Bridge];
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inet => "inet",
            Self::Bridge => "bridge",
        })
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    pub sets: BTreeMap<String, Set>,
    pub chains: BTreeMap<String, Chain>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chain {
    /// None, where only other rules lead to it.
    pub hook: Option<Hook>,
    pub rules: Vec<Rule>,
}

/// Where packets enter a chain; what it does not judge is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hook {
    pub point: HookPoint,
    pub nat: bool,
    pub priority: i32,
}

/// The same numbers in every family that we use (linux/netfilter.h,
/// netfilter_bridge.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookPoint {
    Prerouting,
    Input,
    Forward,
    Output,
    Postrouting,
}

impl HookPoint {
    pub(super) fn number(self) -> u32 {
        match self {
            Self::Prerouting => 0,
            Self::Input => 1,
            Self::Forward => 2,
            Self::Output => 3,
            Self::Postrouting => 4,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What it is for, in a few words; what is counted is told by it.
    pub label: String,
    pub parts: Vec<Part>,
}

/// nft's limit for a comment (its include/rule.h) less the digest's part.
const LABEL: usize = 128 - 18;

impl Rule {
    pub fn new(label: impl Into<String>, parts: Vec<Part>) -> Self {
        let mut label = label.into();
        label.truncate(label.floor_char_boundary(LABEL));
        Self { label, parts }
    }

    /// In nft's words.
    pub(super) fn text(&self) -> String {
        let parts: Vec<String> = self.parts.iter().map(ToString::to_string).collect();
        parts.join(" ")
    }

    /// By which it is known again: two that say different things have
    /// different ones.
    pub fn comment(&self) -> String {
        format!("{} #{:016x}", self.label, digest(self.text().as_bytes()))
    }

    /// Of a comment that was made here.
    pub(crate) fn label_of(comment: &str) -> Option<&str> {
        let (label, digest) = comment.rsplit_once(" #")?;
        (digest.len() == 16).then_some(label)
    }
}

/// FNV-1a, 64 bits: the same in every build, which std's hashers are not.
fn digest(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    pub shape: Shape,
    /// Of a set with timeouts none stand here: they come and go by themselves.
    pub elements: BTreeMap<ElementKey, Value>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    pub key: Vec<Type>,
    /// None for a set, which has keys alone.
    pub data: Option<Data>,
    /// Whether keys may be ranges.
    pub interval: bool,
    /// Whether elements end by themselves.
    pub timeout: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    Verdict,
    Values(Vec<Type>),
}

impl Set {
    pub fn of(key: &[Type]) -> Self {
        let shape = Shape { key: key.to_vec(), data: None, interval: false, timeout: false };
        Self { shape, elements: BTreeMap::new() }
    }

    pub fn verdicts(key: &[Type]) -> Self {
        let mut set = Self::of(key);
        set.shape.data = Some(Data::Verdict);
        set
    }

    pub fn map(key: &[Type], data: &[Type]) -> Self {
        let mut set = Self::of(key);
        set.shape.data = Some(Data::Values(data.to_vec()));
        set
    }

    pub fn with_intervals(mut self) -> Self {
        self.shape.interval = true;
        self
    }

    pub fn with_timeouts(mut self) -> Self {
        self.shape.timeout = true;
        self
    }
}

/// As the kernel keeps it: each field in network order, filled up with zeros
/// to a multiple of four bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ElementKey {
    pub from: Vec<u8>,
    /// The last that still belongs to it; none if it is a single one.
    pub to: Option<Vec<u8>>,
}

impl ElementKey {
    pub fn single(from: Vec<u8>) -> Self {
        Self { from, to: None }
    }

    pub fn range(from: Vec<u8>, to: Vec<u8>) -> Self {
        Self { from, to: Some(to) }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Nothing,
    Bytes(Vec<u8>),
    /// The chain decides, and does not come back to the map's.
    Goto(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    Ipv4,
    Ipv6,
    Ether,
    Port,
    IfName,
}

impl Type {
    pub(super) fn id(self) -> u32 {
        match self {
            Self::Ipv4 => 7,
            Self::Ipv6 => 8,
            Self::Ether => 9,
            Self::Port => 13,
            Self::IfName => 41,
        }
    }

    pub(super) fn length(self) -> usize {
        match self {
            Self::Ipv4 => 4,
            Self::Ipv6 | Self::IfName => 16,
            Self::Ether => 6,
            Self::Port => 2,
        }
    }

    pub(super) fn padded(self) -> usize {
        self.length().next_multiple_of(4)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4_addr",
            Self::Ipv6 => "ipv6_addr",
            Self::Ether => "ether_addr",
            Self::Port => "inet_service",
            Self::IfName => "ifname",
        }
    }

    /// Of at least as many bytes as it has.
    pub(super) fn text(self, bytes: &[u8]) -> String {
        match self {
            Self::Ipv4 => bytes
                .first_chunk()
                .map_or_else(String::new, |b: &[u8; 4]| Ipv4Addr::from(*b).to_string()),
            Self::Ipv6 => bytes
                .first_chunk()
                .map_or_else(String::new, |b: &[u8; 16]| Ipv6Addr::from(*b).to_string()),
            Self::Ether => {
                let bytes: Vec<String> = bytes.iter().take(6).map(|b| format!("{b:02x}")).collect();
                bytes.join(":")
            }
            Self::Port => inn_netlink::be16(bytes).unwrap_or(0).to_string(),
            Self::IfName => format!("\"{}\"", inn_netlink::text(bytes)),
        }
    }
}

/// One key or value of several fields.
#[derive(Debug, Clone, Default)]
pub struct Fields(Vec<u8>);

impl Fields {
    pub fn ip(mut self, ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => self.0.extend(ip.octets()),
            IpAddr::V6(ip) => self.0.extend(ip.octets()),
        }
        self
    }

    pub fn port(mut self, port: u16) -> Self {
        self.0.extend(port.to_be_bytes());
        self.0.extend([0; 2]);
        self
    }

    pub fn mac(mut self, mac: [u8; 6]) -> Self {
        self.0.extend(mac);
        self.0.extend([0; 2]);
        self
    }

    pub fn name(mut self, name: &str) -> Self {
        self.0.extend(interface(name));
        self
    }

    pub fn bytes(self) -> Vec<u8> {
        self.0
    }
}

/// As the kernel compares it: 16 bytes, zeros behind (linux/if.h, IFNAMSIZ).
pub(super) fn interface(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().take(15).zip(name.bytes()) {
        *to = from;
    }
    bytes
}
