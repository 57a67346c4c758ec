//! What the node lends its VMs, and how many of them it works on at a time.

use inn_domain::Overcommit;
use inn_units::Bytes;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdmissionConfig {
    pub memory_overcommit: Overcommit,
    pub cpu_overcommit: Overcommit,
    pub disk_overcommit: Overcommit,
    /// Memory that is the host's own; a sixteenth, and 256 MiB at least,
    /// unless given.
    pub host_memory: Option<Bytes>,
    pub max_vms: u64,
}

impl Default for AdmissionConfig {
    fn default() -> Self {
        Self {
            memory_overcommit: Overcommit::NONE,
            // vCPUs are mostly idle, and share what there is where they aren't.
            cpu_overcommit: Overcommit(1600),
            // Disks are sparse: few fill what they were given.
            disk_overcommit: Overcommit(400),
            host_memory: None,
            max_vms: 10_000,
        }
    }
}

/// How many machines start at the same time, where it is not said: two for
/// each CPU, and 4 at least.
pub(crate) fn starts_for(asked: Option<usize>) -> usize {
    asked.unwrap_or_else(|| {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        // One boots while the other waits for its disk.
        (2 * cpus).max(4)
    })
}

impl AdmissionConfig {
    /// Of a host with so much.
    pub fn kept_memory(&self, total: Bytes) -> Bytes {
        const LEAST: u64 = 256 << 20;
        self.host_memory.unwrap_or_else(|| Bytes((total.get() / 16).max(LEAST)))
    }
}

pub(super) fn size_or_auto(text: &str) -> Result<Option<Bytes>, String> {
    if text == "auto" { Ok(None) } else { super::values::parsed(text).map(Some) }
}

/// At least one, or nothing would ever go on.
pub(super) fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n @ 1..=100_000) => Ok(n),
        _ => Err("must be a whole number from 1 to 100000".to_owned()),
    }
}

/// `1`, `1.5` or `16`: from 0.01 to 10000, in hundredths.
pub(super) fn factor(text: &str) -> Result<Overcommit, String> {
    let wrong = || "must be a number from 0.01 to 10000, such as 1.5".to_owned();
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |s: &str| s.len() <= 5 && s.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(part) {
        return Err(wrong());
    }
    let hundredths = format!("{part:0<2}");
    let (hundredths, rest) = hundredths.split_at(2);
    if rest.bytes().any(|b| b != b'0') {
        return Err("must have no more than two digits behind the point".to_owned());
    }
    let whole: u32 = whole.parse().map_err(|_| wrong())?;
    let part: u32 = hundredths.parse().map_err(|_| wrong())?;
    match whole.saturating_mul(100).saturating_add(part) {
        n @ 1..=1_000_000 => Ok(Overcommit(n)),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_are_read_to_the_hundredth() {
        for (text, hundredths) in
            [("1", 100), ("1.0", 100), ("1.5", 150), ("0.25", 25), ("16", 1600), ("2.500", 250)]
        {
            assert_eq!(factor(text), Ok(Overcommit(hundredths)), "{text}");
        }
        for text in ["", "0", "0.0", ".5", "-1", "1.234", "1e3", "10001", "one", "1.2.3"] {
            assert!(factor(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_host_keeps_its_share() {
        let config = AdmissionConfig::default();
        assert_eq!(config.kept_memory(Bytes::gib(64)), Bytes::gib(4));
        assert_eq!(config.kept_memory(Bytes::gib(1)), Bytes::mib(256));
        let config = AdmissionConfig { host_memory: Some(Bytes(0)), ..config };
        assert_eq!(config.kept_memory(Bytes::gib(1)), Bytes(0));
    }
}
