//! What a file that comes from elsewhere has to be: a SHA-256 or a SHA-512,
//! given, or found in a list as distributions publish them beside their images.

use std::fmt;

use sha2::{Digest as _, Sha256, Sha512};

/// The longest list that is read. Ubuntu's have some tens of lines.
pub const LONGEST_LIST: usize = 1 << 20;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Checksum {
    Sha256([u8; 32]),
    Sha512([u8; 64]),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChecksumError {
    #[error("{0:?} is neither a SHA-256 of 64 hex digits nor a SHA-512 of 128")]
    NoChecksum(String),
    #[error("there is no checksum of {name} in it; it has those of {}", .known.join(", "))]
    NotListed { name: String, known: Vec<String> },
    #[error("there is no line with a SHA-256 or SHA-512 in it")]
    NoList,
    #[error("it has two different checksums of {name}")]
    Ambiguous { name: String },
}

impl Checksum {
    /// Hex digits; of which kind, their number says.
    pub fn parse(hex: &str) -> Result<Self, ChecksumError> {
        let bare = hex.strip_prefix("sha256:").or(hex.strip_prefix("sha512:")).unwrap_or(hex);
        let none = || ChecksumError::NoChecksum(hex.chars().take(140).collect());
        match bare.len() {
            64 => bytes_of(bare).map(Self::Sha256).ok_or_else(none),
            128 => bytes_of(bare).map(Self::Sha512).ok_or_else(none),
            _ => Err(none()),
        }
    }

    pub fn hex(&self) -> String {
        let bytes: &[u8] = match self {
            Self::Sha256(bytes) => bytes,
            Self::Sha512(bytes) => bytes,
        };
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// That of the file `name` in a list: of GNU's form (`HEX  NAME`,
    /// `HEX *NAME`) or BSD's (`SHA256 (NAME) = HEX`). All else in it, such as
    /// comments and a signature around it, is passed over.
    pub fn find(list: &str, name: &str) -> Result<Self, ChecksumError> {
        let mut known = Vec::new();
        let mut found: Option<Self> = None;
        for (of, checksum) in list.lines().filter_map(entry) {
            let of = of.rsplit('/').next().unwrap_or(&of).to_owned();
            if of == name || of.is_empty() {
                match found {
                    // The stronger of two kinds.
                    Some(Self::Sha256(_)) if matches!(checksum, Self::Sha512(_)) => {}
                    Some(Self::Sha512(_)) if matches!(checksum, Self::Sha256(_)) => continue,
                    Some(before) if before != checksum => {
                        return Err(ChecksumError::Ambiguous { name: name.to_owned() });
                    }
                    _ => {}
                }
                found = Some(checksum);
            } else if known.len() < 5 && !known.contains(&of) {
                known.push(of);
            }
        }
        match found {
            Some(checksum) => Ok(checksum),
            None if known.is_empty() => Err(ChecksumError::NoList),
            None => Err(ChecksumError::NotListed { name: name.to_owned(), known }),
        }
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if matches!(self, Self::Sha256(_)) { "sha256" } else { "sha512" };
        write!(f, "{kind}:{}", self.hex())
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One line's file, without a name where it has none, and checksum.
fn entry(line: &str) -> Option<(String, Checksum)> {
    let line = line.trim_end();
    // sha256sum(1): a backslash in front says that the name is escaped.
    let (line, escaped) = match line.strip_prefix('\\') {
        Some(rest) => (rest, true),
        None => (line, false),
    };
    let unescaped = |name: &str| match escaped {
        true => unescape(name),
        false => name.to_owned(),
    };
    if let Some(rest) = line.strip_prefix("SHA256 (").or(line.strip_prefix("SHA512 (")) {
        let (name, hex) = rest.rsplit_once(") = ")?;
        return Some((unescaped(name), Checksum::parse(hex).ok()?));
    }
    let (hex, name) = line.split_once(' ').unwrap_or((line, ""));
    let name = name.strip_prefix([' ', '*']).unwrap_or(name);
    Some((unescaped(name), Checksum::parse(hex).ok()?))
}

fn unescape(name: &str) -> String {
    let mut plain = String::with_capacity(name.len());
    let mut chars = name.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('n') => plain.push('\n'),
                Some('r') => plain.push('\r'),
                Some(other) => plain.push(other),
                None => plain.push('\\'),
            },
            c => plain.push(c),
        }
    }
    plain
}

fn bytes_of<const N: usize>(hex: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let digits = hex.as_bytes();
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    for (slot, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *slot = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    (digits.len() == 2 * N).then_some(bytes)
}

/// Both kinds at once, for what is to be known by its SHA-256 whatever its
/// publisher has given.
#[derive(Clone, Default)]
pub struct Hasher {
    sha256: Sha256,
    sha512: Option<Sha512>,
}

impl Hasher {
    pub fn for_expected(expected: Option<&Checksum>) -> Self {
        let sha512 = matches!(expected, Some(Checksum::Sha512(_))).then(Sha512::new);
        Self { sha256: Sha256::new(), sha512 }
    }

    pub fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        if let Some(sha512) = &mut self.sha512 {
            sha512.update(bytes);
        }
    }

    /// The SHA-256, and the one that was asked for.
    pub fn finish(self) -> (inn_units::Digest, Checksum) {
        let sha256: [u8; 32] = self.sha256.finalize().into();
        let asked = match self.sha512 {
            Some(sha512) => Checksum::Sha512(sha512.finalize().into()),
            None => Checksum::Sha256(sha256),
        };
        (inn_units::Digest::from_sha256(sha256), asked)
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_both_forms_are_understood() {
        let (a, b, c) = ("aa".repeat(32), "BB".repeat(32), "cc".repeat(64));
        let list = format!(
            "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n\
             # Debian: 423 bytes\n\
             {a}  debian-12.qcow2\n{b} *./images/debian-12.raw\n\
             SHA512 (fedora.qcow2) = {c}\nSHA256 (fedora.qcow2) = {a}\n\
             \\{a}  odd\\\\name\n\
             -----BEGIN PGP SIGNATURE-----\n\nabc\n"
        );
        let find = |name: &str| Checksum::find(&list, name);
        assert_eq!(find("debian-12.qcow2"), Ok(Checksum::Sha256([0xaa; 32])));
        assert_eq!(find("debian-12.raw"), Ok(Checksum::Sha256([0xbb; 32])));
        assert_eq!(find("fedora.qcow2"), Ok(Checksum::Sha512([0xcc; 64])), "the stronger one");
        assert_eq!(find("odd\\name"), Ok(Checksum::Sha256([0xaa; 32])));
        let missing = find("debian-13.qcow2").unwrap_err().to_string();
        assert!(missing.contains("debian-13.qcow2") && missing.contains("debian-12.qcow2"));
        // A file with nothing but the sum is about whatever it lies beside.
        assert_eq!(Checksum::find(&format!("{a}\n"), "any"), Ok(Checksum::Sha256([0xaa; 32])));
        assert_eq!(Checksum::find("<html>\n", "any"), Err(ChecksumError::NoList));
        let twice = format!("{a}  x\n{b}  x\n");
        assert_eq!(Checksum::find(&twice, "x"), Err(ChecksumError::Ambiguous { name: "x".into() }));
    }

    #[test]
    fn a_checksum_is_told_by_its_length() {
        let hex = "0f".repeat(32);
        assert_eq!(Checksum::parse(&hex).unwrap().to_string(), format!("sha256:{hex}"));
        assert_eq!(Checksum::parse(&format!("sha256:{hex}")), Checksum::parse(&hex));
        for bad in ["", "0f", &"0g".repeat(32), &"é".repeat(32), &"+f".repeat(32)] {
            assert!(Checksum::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_sha256_is_known_whatever_was_asked_for() {
        let of = |expected: Option<&Checksum>| {
            let mut hasher = Hasher::for_expected(expected);
            hasher.update(b"abc");
            hasher.finish()
        };
        let (digest, plain) = of(None);
        // FIPS 180-4's example.
        assert!(digest.hex().starts_with("ba7816bf8f01cfea"));
        assert_eq!(plain.hex(), digest.hex());
        let (same, long) = of(Some(&Checksum::Sha512([0; 64])));
        assert_eq!(same, digest);
        assert!(long.hex().starts_with("ddaf35a193617aba"));
    }
}
