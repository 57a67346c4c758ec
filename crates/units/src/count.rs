use std::fmt;
use std::str::FromStr;

use crate::ParseError;

/// How many virtual CPUs a VM has: 1 to 255.
///
/// 255 is what an 8-bit x86 APIC id leaves once the I/O APIC has taken one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct Vcpus(u8);

impl Vcpus {
    pub const ONE: Self = Self(1);

    pub fn new(n: u32) -> Result<Self, ParseError> {
        match u8::try_from(n) {
            Ok(n) if n >= 1 => Ok(Self(n)),
            _ => Err(ParseError::new("vCPU count", &n.to_string(), "is not between 1 and 255")),
        }
    }

    pub const fn get(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Vcpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for Vcpus {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let n: u32 = text.trim().parse().map_err(|_| {
            ParseError::new("vCPU count", text, "is not a number between 1 and 255")
        })?;
        Self::new(n)
    }
}

impl<'de> serde::Deserialize<'de> for Vcpus {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::new(u32::deserialize(d)?).map_err(serde::de::Error::custom)
    }
}

/// Counts the changes of one resource's desired state, from 1. What has been
/// observed carries the generation it was observed for; equal means settled.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl Generation {
    pub const NONE: Self = Self(0);
    pub const FIRST: Self = Self(1);

    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// An event's place in the order of all events of a node, from 1. Numbers are
/// never used again; some may be left out.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(transparent)]
pub struct EventSeq(pub u64);

impl EventSeq {
    /// Before the first one.
    pub const NONE: Self = Self(0);

    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for EventSeq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vcpus_are_bounded_on_every_way_in() {
        assert_eq!("4".parse::<Vcpus>().unwrap().get(), 4);
        for text in ["0", "256", "-1", "", "two"] {
            assert!(text.parse::<Vcpus>().is_err(), "{text}");
        }
        assert!(Vcpus::new(0).is_err());
    }
}
