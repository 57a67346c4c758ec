use std::fmt;
use std::str::FromStr;

use crate::ParseError;

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;
pub const TIB: u64 = 1 << 40;

/// A size in bytes. JSON form: a plain number of bytes. Human form: a binary
/// unit when it divides evenly (`256MiB`), one decimal otherwise (`1.5GiB`).
///
/// Text input takes `B`, `K`/`KiB`, `M`/`MiB`, `G`/`GiB`, `T`/`TiB` (binary)
/// and `KB`, `MB`, `GB`, `TB` (decimal), with at most three decimals.
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
pub struct Bytes(pub u64);

impl Bytes {
    pub const ZERO: Self = Self(0);

    pub const fn kib(n: u64) -> Self {
        Self(n * KIB)
    }

    pub const fn mib(n: u64) -> Self {
        Self(n * MIB)
    }

    pub const fn gib(n: u64) -> Self {
        Self(n * GIB)
    }

    pub const fn get(self) -> u64 {
        self.0
    }

    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    pub fn checked_mul(self, n: u64) -> Option<Self> {
        self.0.checked_mul(n).map(Self)
    }

    pub fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// Rounded up to a multiple of `unit`; `None` when that overflows.
    pub fn checked_round_up(self, unit: u64) -> Option<Self> {
        self.0.checked_next_multiple_of(unit).map(Self)
    }

    /// The number of whole MiB, rounded up.
    pub fn whole_mib(self) -> u64 {
        self.0.div_ceil(MIB)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, name) = match self.0 {
            n if n >= TIB => (TIB, "TiB"),
            n if n >= GIB => (GIB, "GiB"),
            n if n >= MIB => (MIB, "MiB"),
            n if n >= KIB => (KIB, "KiB"),
            n => return f.pad(&format!("{n}B")),
        };
        let text = if self.0.is_multiple_of(unit) {
            format!("{}{name}", self.0 / unit)
        } else {
            // Tenths, rounded down: a size is never shown larger than it is.
            let tenths = u128::from(self.0) * 10 / u128::from(unit);
            format!("{}.{}{name}", tenths / 10, tenths % 10)
        };
        f.pad(&text)
    }
}

impl FromStr for Bytes {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let refuse = |why: &str| ParseError::new("size", text, why);
        let hint = "is not a size such as 256MiB, 2GiB or 1048576";
        let trimmed = text.trim();
        let split =
            trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(split);
        let factor = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "kib" => KIB,
            "m" | "mib" => MIB,
            "g" | "gib" => GIB,
            "t" | "tib" => TIB,
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            "tb" => 1_000_000_000_000,
            _ => return Err(refuse(hint)),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty()
            || fraction.len() > 3
            || fraction.contains('.')
            || (number.ends_with('.'))
        {
            return Err(refuse(hint));
        }
        let whole: u64 = whole.parse().map_err(|_| refuse("is too large"))?;
        let thousandths: u64 = if fraction.is_empty() {
            0
        } else {
            format!("{fraction:0<3}").parse().map_err(|_| refuse(hint))?
        };
        let total = u128::from(whole) * u128::from(factor)
            + u128::from(thousandths) * u128::from(factor) / 1000;
        u64::try_from(total).map(Self).map_err(|_| refuse("is too large"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_people_write() {
        for (text, bytes) in [
            ("0", 0),
            ("256MiB", 256 * MIB),
            ("256m", 256 * MIB),
            ("2GiB", 2 * GIB),
            ("1.5G", 3 * GIB / 2),
            ("10 KB", 10_000),
            ("1t", TIB),
        ] {
            assert_eq!(text.parse::<Bytes>().unwrap(), Bytes(bytes), "{text}");
        }
    }

    #[test]
    fn refuses_with_the_value_in_the_sentence() {
        for text in [
            "",
            "MiB",
            "1.",
            ".5G",
            "1.2.3G",
            "-1",
            "12 parsecs",
            "99999999999999999999",
            "18446744073709551615T",
        ] {
            let err = text.parse::<Bytes>().unwrap_err().to_string();
            assert!(err.contains(text), "{err}");
        }
    }

    proptest! {
        #[test]
        fn whole_units_survive_the_human_form(n in 0u64..1023, unit in prop::sample::select(vec![1, KIB, MIB, GIB])) {
            let size = Bytes(n * unit);
            prop_assert_eq!(size.to_string().parse::<Bytes>().unwrap(), size);
        }

        #[test]
        fn human_form_never_shows_more_than_there_is(n in any::<u64>()) {
            let shown: Bytes = Bytes(n).to_string().parse().unwrap();
            prop_assert!(shown.0 <= n);
        }

        #[test]
        fn arbitrary_text_never_panics(text in ".{0,40}") {
            let _ = text.parse::<Bytes>();
        }
    }
}
