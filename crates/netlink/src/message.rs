//! Messages, several of which may stand in one datagram (linux/netlink.h,
//! `struct nlmsghdr`).

use crate::Payload;
use crate::attributes::{align, attributes, text};

/// linux/netlink.h.
pub(crate) const ERROR: u16 = 2;
pub(crate) const DONE: u16 = 3;
pub(crate) const OVERRUN: u16 = 4;
pub(crate) const REQUEST: u16 = 1;
pub const ACK: u16 = 4;
/// In an answer: what was dumped changed meanwhile.
pub(crate) const INTERRUPTED: u16 = 0x10;
const CAPPED: u16 = 0x100;
const ACK_HAS_ATTRIBUTES: u16 = 0x200;
pub const DUMP: u16 = 0x300;
pub const REPLACE: u16 = 0x100;
pub const EXCLUSIVE: u16 = 0x200;
pub const CREATE: u16 = 0x400;
pub const APPEND: u16 = 0x800;

pub(crate) const HEADER: usize = 16;

/// `struct nlmsgerr`: the number and the header of what it answers.
const ERROR_FIXED: usize = 4 + HEADER;
const ATTRIBUTE_MESSAGE: u16 = 1;

/// One for the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub kind: u16,
    /// Beside the one that makes it a request.
    pub flags: u16,
    pub payload: Payload,
}

impl Message {
    pub(crate) fn write(&self, sequence: u32, out: &mut Vec<u8>) {
        write(self.kind, self.flags, self.payload.as_bytes(), sequence, out);
    }
}

pub(crate) fn write(kind: u16, flags: u16, payload: &[u8], sequence: u32, out: &mut Vec<u8>) {
    let length = HEADER + payload.len();
    let length = u32::try_from(length).expect("a message is smaller than 4 GiB");
    out.extend(length.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend((flags | REQUEST).to_ne_bytes());
    out.extend(sequence.to_ne_bytes());
    out.extend([0; 4]);
    out.extend(payload);
    out.resize(align(out.len()), 0);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    /// Of the socket that the message is for; in a group's message, of the one
    /// that made the change.
    pub port: u32,
}

/// Of a datagram; it ends with the first that is cut off.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (Header, &[u8])> {
    std::iter::from_fn(move || {
        let header: &[u8; HEADER] = bytes.first_chunk()?;
        let [l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, p0, p1, p2, p3] = *header;
        let length = usize::try_from(u32::from_ne_bytes([l0, l1, l2, l3])).ok()?;
        let payload = bytes.get(HEADER..length)?;
        bytes = bytes.get(align(length)..).unwrap_or_default();
        let header = Header {
            kind: u16::from_ne_bytes([k0, k1]),
            flags: u16::from_ne_bytes([f0, f1]),
            sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
            port: u32::from_ne_bytes([p0, p1, p2, p3]),
        };
        Some((header, payload))
    })
}

/// The number of an error, or of a dump's end, 0 for none; and what the kernel
/// says beside it.
pub(crate) fn verdict(header: Header, payload: &[u8]) -> (i32, Option<String>) {
    let number = payload.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
    if header.flags & ACK_HAS_ATTRIBUTES == 0 {
        return (number, None);
    }
    let behind = match header.kind {
        DONE => 4,
        _ if header.flags & CAPPED != 0 => ERROR_FIXED,
        // The whole of what it answers stands before them.
        _ => {
            let length = payload.get(4..).and_then(crate::word).unwrap_or(0);
            4 + align(usize::try_from(length).unwrap_or(usize::MAX / 2))
        }
    };
    let mut rest = attributes(payload.get(behind..).unwrap_or_default());
    let said = rest.find(|(kind, _)| *kind == ATTRIBUTE_MESSAGE).map(|(_, said)| text(said));
    (number, said.filter(|said| !said.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        write(kind, flags, payload, 7, &mut out);
        out
    }

    #[test]
    fn a_datagram_holds_several() {
        let mut bytes = message(20, 0, &[1, 2, 3, 4, 5]);
        bytes.extend(message(DONE, 0, &[0; 4]));
        let all: Vec<_> = messages(&bytes).collect();
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].0, Header { kind: 20, flags: REQUEST, sequence: 7, port: 0 });
        assert_eq!(all[0].1, [1, 2, 3, 4, 5]);
        assert_eq!(all[1].0.kind, DONE);
        for end in 0..bytes.len() {
            assert!(messages(&bytes[..end]).count() < 2);
        }
    }

    #[test]
    fn a_length_that_lies_ends_it() {
        let mut bytes = message(20, 0, &[0; 8]);
        for lie in [0_u32, 3, 15, 4096, u32::MAX] {
            bytes[..4].copy_from_slice(&lie.to_ne_bytes());
            assert_eq!(messages(&bytes).count(), 0, "{lie}");
        }
    }

    #[test]
    fn the_kernels_sentence_is_found_behind_what_it_answers() {
        let header = |kind, flags| Header { kind, flags, sequence: 1, port: 0 };
        let mut said = Payload::default();
        said.put_text(ATTRIBUTE_MESSAGE, "no such thing");
        let mut short = (-2_i32).to_ne_bytes().to_vec();
        short.extend(message(30, 0, &[9; 8])[..HEADER].iter());
        let mut long = (-2_i32).to_ne_bytes().to_vec();
        long.extend(message(30, 0, &[9; 8]));
        for (bytes, flags) in [(&mut short, CAPPED | ACK_HAS_ATTRIBUTES), (&mut long, 0x200)] {
            bytes.extend(said.as_bytes());
            let (number, words) = verdict(header(ERROR, flags), bytes);
            assert_eq!((number, words.as_deref()), (-2, Some("no such thing")));
            assert_eq!(verdict(header(ERROR, 0), bytes), (-2, None));
        }
        let mut done = (-4_i32).to_ne_bytes().to_vec();
        done.extend(said.as_bytes());
        let (number, words) = verdict(header(DONE, ACK_HAS_ATTRIBUTES), &done);
        assert_eq!((number, words.as_deref()), (-4, Some("no such thing")));
        assert_eq!(verdict(header(ERROR, ACK_HAS_ATTRIBUTES), &[]), (0, None));
    }
}
