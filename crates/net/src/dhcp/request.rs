//! What clients send, read by hand: they are hostile, and dhcproto's decoder
//! asserts what they say of their options' lengths, where it should refuse it
//! (0.15, `decode_inner`). Replies, which are ours, it writes.

use std::net::{Ipv4Addr, Ipv6Addr};

use dhcproto::v4::MAGIC;

/// RFC 2131, figure 1: all before the options.
const FIXED: usize = 236;

/// A BOOTP message with DHCP's options.
#[derive(Debug)]
pub(super) struct Request4<'a> {
    pub(super) op: u8,
    pub(super) hardware: (u8, u8),
    pub(super) xid: u32,
    pub(super) flags: u16,
    pub(super) ciaddr: Ipv4Addr,
    pub(super) giaddr: Ipv4Addr,
    /// The first six bytes of where it stands.
    pub(super) mac: [u8; 6],
    options: &'a [u8],
}

impl<'a> Request4<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let (fixed, rest) = bytes.split_first_chunk::<FIXED>()?;
        let options = rest.strip_prefix(&MAGIC)?;
        let four = |at: usize| fixed[at..].first_chunk::<4>().copied();
        Some(Self {
            op: fixed[0],
            hardware: (fixed[1], fixed[2]),
            xid: u32::from_be_bytes(four(4)?),
            flags: u16::from_be_bytes([fixed[10], fixed[11]]),
            ciaddr: four(12)?.into(),
            giaddr: four(24)?.into(),
            mac: *fixed[28..].first_chunk()?,
            options,
        })
    }

    /// The first of this code.
    pub(super) fn option(&self, code: u8) -> Option<&'a [u8]> {
        let mut rest = self.options;
        loop {
            match *rest {
                // Padding, and the end (RFC 2132, 3).
                [0, ..] => rest = &rest[1..],
                [255, ..] | [] | [_] => return None,
                [found, length, ..] => {
                    let content = rest.get(2..2 + usize::from(length))?;
                    if found == code {
                        return Some(content);
                    }
                    rest = &rest[2 + usize::from(length)..];
                }
            }
        }
    }

    pub(super) fn address(&self, code: u8) -> Option<Ipv4Addr> {
        let bytes: [u8; 4] = self.option(code)?.try_into().ok()?;
        Some(bytes.into())
    }
}

/// Of DHCPv6: a code and a length of two bytes each (RFC 8415, 21.1). It ends
/// with the first that is cut off.
pub(super) fn options6(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let [a, b, c, d] = *bytes.first_chunk()?;
        let length = usize::from(u16::from_be_bytes([c, d]));
        let content = bytes.get(4..4 + length)?;
        bytes = &bytes[4 + length..];
        Some((u16::from_be_bytes([a, b]), content))
    })
}

/// Of one that a client has only one of.
pub(super) fn option6(bytes: &[u8], code: u16) -> Option<&[u8]> {
    options6(bytes).find(|(found, _)| *found == code).map(|(_, content)| content)
}

/// An identity association for addresses, and what the client has by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Association {
    pub(super) id: u32,
    pub(super) addresses: Vec<Ipv6Addr>,
}

const IA_NA: u16 = 3;
const IA_ADDRESS: u16 = 5;

/// The first few of them, with the first few addresses of each.
pub(super) fn associations(options: &[u8], few: usize) -> Vec<Association> {
    let read = |content: &[u8]| {
        let id = u32::from_be_bytes(*content.first_chunk()?);
        // Two times stand before its options, one of them an address's.
        let inner = options6(content.get(12..)?);
        let of = |content: &[u8]| Some(Ipv6Addr::from(*content.first_chunk::<16>()?));
        let addresses = inner.filter(|(code, _)| *code == IA_ADDRESS);
        let addresses = addresses.filter_map(|(_, content)| of(content)).take(few).collect();
        Some(Association { id, addresses })
    };
    let all = options6(options).filter(|(code, _)| *code == IA_NA);
    all.filter_map(|(_, content)| read(content)).take(few).collect()
}
