//! Messages as bytes (RFC 1035, 4): what a resolver said is passed on as it
//! is, but for its number and its records' ages.

/// A message's first part, and what stands behind a name in each record.
const HEADER: usize = 12;
const RECORD: usize = 10;
const QUESTION: usize = 4;

/// EDNS' own, whose TTL is none (RFC 6891, 6.1.3).
const OPT: u16 = 41;

pub(crate) fn set_id(message: &mut [u8], id: u16) {
    if let Some(place) = message.first_chunk_mut() {
        *place = id.to_be_bytes();
    }
}

/// Makes every record this much older. Whether the message is one.
pub(super) fn age(message: &mut [u8], seconds: u32) -> bool {
    let Some(places) = ttls(message) else { return false };
    for place in places {
        let Some(ttl) = message.get_mut(place..).and_then(|rest| rest.first_chunk_mut()) else {
            return false;
        };
        *ttl = u32::from_be_bytes(*ttl).saturating_sub(seconds).to_be_bytes();
    }
    true
}

/// The smallest age that a record may still reach; none without records.
pub(super) fn least_ttl(message: &[u8]) -> Option<u32> {
    let ttl = |place: usize| Some(u32::from_be_bytes(*message.get(place..)?.first_chunk()?));
    ttls(message)?.into_iter().filter_map(ttl).min()
}

/// Where each record's TTL stands. A list no longer than the message: a record
/// takes eleven bytes.
fn ttls(message: &[u8]) -> Option<Vec<usize>> {
    let count = |at: usize| number(message, at).map(usize::from);
    let (questions, records) = (count(4)?, count(6)? + count(8)? + count(10)?);
    let mut at = HEADER;
    for _ in 0..questions {
        at = behind_name(message, at)? + QUESTION;
    }
    let mut places = Vec::new();
    for _ in 0..records {
        at = behind_name(message, at)?;
        if number(message, at)? != OPT {
            places.push(at + 4);
        }
        at += RECORD + usize::from(number(message, at + 8)?);
        if at > message.len() {
            return None;
        }
    }
    Some(places)
}

fn behind_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            // A pointer ends it.
            length if length & 0xC0 == 0xC0 => return Some(at + 2),
            length if length & 0xC0 == 0 => at += 1 + usize::from(length),
            _ => return None,
        }
    }
}

fn number(message: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*message.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `example.com A`, answered by two records, one with a pointer, and OPT.
    fn response() -> Vec<u8> {
        let mut bytes = vec![0xab, 0xcd, 0x81, 0x80, 0, 1, 0, 2, 0, 0, 0, 1];
        bytes.extend(b"\x07example\x03com\x00\x00\x01\x00\x01");
        bytes.extend(b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x01\x2c\x00\x04\xc0\x00\x02\x01");
        bytes.extend(b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\xc0\x00\x02\x02");
        bytes.extend(b"\x00\x00\x29\x04\xd0\x00\x00\x80\x00\x00\x00");
        bytes
    }

    #[test]
    fn records_grow_old_together_and_edns_does_not() {
        let mut bytes = response();
        assert_eq!(least_ttl(&bytes), Some(60));
        assert!(age(&mut bytes, 45));
        assert_eq!(least_ttl(&bytes), Some(15));
        assert!(age(&mut bytes, 300));
        assert_eq!(least_ttl(&bytes), Some(0));
        assert!(bytes.ends_with(b"\x00\x00\x80\x00\x00\x00"));
        set_id(&mut bytes, 7);
        assert_eq!(bytes[..2], [0, 7]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_looked_at_and_no_more(
            mut noise in prop::collection::vec(any::<u8>(), 0..300),
            at in 0..80_usize,
            byte: u8,
        ) {
            age(&mut noise, 1);
            let mut bytes = response();
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
            age(&mut bytes, 1);
            let _ = least_ttl(&bytes);
        }
    }
}
