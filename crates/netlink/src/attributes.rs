//! What stands in a message behind its header: attributes, each with its
//! length and type (linux/netlink.h, `struct nlattr`), some holding others.

/// linux/netlink.h.
const NESTED: u16 = 0x8000;
const TYPE: u16 = 0x3FFF;
const ATTRIBUTE: usize = 4;

/// A message's content, being written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Payload(Vec<u8>);

impl Payload {
    /// Behind the fixed part that the message's kind has.
    pub fn new(fixed: &[u8]) -> Self {
        let mut bytes = fixed.to_vec();
        bytes.resize(align(bytes.len()), 0);
        Self(bytes)
    }

    pub fn put(&mut self, kind: u16, content: &[u8]) -> &mut Self {
        let length = u16::try_from(ATTRIBUTE + content.len()).expect("attributes are small");
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(content);
        self.pad();
        self
    }

    pub fn put_u8(&mut self, kind: u16, number: u8) -> &mut Self {
        self.put(kind, &[number])
    }

    pub fn put_u32(&mut self, kind: u16, number: u32) -> &mut Self {
        self.put(kind, &number.to_ne_bytes())
    }

    pub fn put_be16(&mut self, kind: u16, number: u16) -> &mut Self {
        self.put(kind, &number.to_be_bytes())
    }

    pub fn put_be32(&mut self, kind: u16, number: u32) -> &mut Self {
        self.put(kind, &number.to_be_bytes())
    }

    pub fn put_be64(&mut self, kind: u16, number: u64) -> &mut Self {
        self.put(kind, &number.to_be_bytes())
    }

    /// With the zero that ends it.
    pub fn put_text(&mut self, kind: u16, text: &str) -> &mut Self {
        let length = u16::try_from(ATTRIBUTE + text.len() + 1).expect("names are short");
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(text.as_bytes());
        self.0.push(0);
        self.pad();
        self
    }

    /// An attribute that holds others; all of them together take at most
    /// 64 KiB, which is for the caller to see to.
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.0.len();
        self.0.extend([0; 2]);
        self.0.extend((kind | NESTED).to_ne_bytes());
        fill(self);
        let length = u16::try_from(self.0.len() - start).expect("long lists are split");
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn pad(&mut self) {
        self.0.resize(align(self.0.len()), 0);
    }
}

/// Type and content of each attribute.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header = bytes.get(..ATTRIBUTE)?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let content = bytes.get(ATTRIBUTE..length)?;
        // The two highest bits are flags.
        let kind = u16::from_ne_bytes([header[2], header[3]]) & TYPE;
        bytes = bytes.get(align(length)..).unwrap_or_default();
        Some((kind, content))
    })
}

pub fn word(content: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(*content.first_chunk()?))
}

pub fn be16(content: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(*content.first_chunk()?))
}

pub fn be32(content: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(*content.first_chunk()?))
}

pub fn be64(content: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(*content.first_chunk()?))
}

/// Up to the zero that ends it.
pub fn text(content: &[u8]) -> String {
    let text = content.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

pub(crate) fn align(length: usize) -> usize {
    length.next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_survive_both_ways() {
        let mut payload = Payload::default();
        payload.put_text(3, "eth0").put(1, &[1, 2, 3, 4, 5, 6]);
        assert_eq!(payload.len() % 4, 0);
        let all: Vec<_> = attributes(payload.as_bytes()).collect();
        assert_eq!(all, [(3, &b"eth0\0"[..]), (1, &[1, 2, 3, 4, 5, 6][..])]);
        // Cut anywhere, nothing is made up.
        for end in 0..payload.len() {
            assert!(attributes(&payload.as_bytes()[..end]).count() <= 2);
        }
    }

    #[test]
    fn one_holds_others() {
        let mut payload = Payload::new(&[7]);
        payload.put_be32(1, 0x0102_0304).nest(2, |inner| {
            inner.put_u32(1, 5).nest(3, |_| {}).put_be64(4, 6).put_be16(5, 7).put_u8(6, 8);
        });
        assert_eq!(payload.as_bytes()[..8], [7, 0, 0, 0, 8, 0, 1, 0]);
        let outer: Vec<_> = attributes(&payload.as_bytes()[4..]).collect();
        assert_eq!(be32(outer[0].1), Some(0x0102_0304));
        let inner: Vec<_> = attributes(outer[1].1).collect();
        assert_eq!(inner.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [1, 3, 4, 5, 6]);
        assert_eq!(word(inner[0].1), Some(5));
        assert!(inner[1].1.is_empty());
        assert_eq!(be64(inner[2].1), Some(6));
        assert_eq!(be16(inner[3].1), Some(7));
        assert_eq!(inner[4].1, [8]);
    }

    #[test]
    fn short_contents_are_no_numbers() {
        assert_eq!(word(&[1, 2, 3]), None);
        assert_eq!(be16(&[1]), None);
        assert_eq!(be64(&[1; 7]), None);
        assert_eq!(text(b"lo\0junk"), "lo");
        assert_eq!(text(b""), "");
    }
}
