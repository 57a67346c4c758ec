use std::fmt;

/// A version of the protocol; `VERSIONING.md` says what each part means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub major: u32,
    pub minor: u32,
}

/// What this crate speaks.
pub const VERSION: Version = Version { major: 1, minor: 4 };

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The version that two ends speak with each other: the older one, where they
/// are at most one minor version apart.
pub fn agree(ours: Version, theirs: Version) -> Option<Version> {
    (ours.major == theirs.major && ours.minor.abs_diff(theirs.minor) <= 1).then(|| ours.min(theirs))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn v(major: u32, minor: u32) -> Version {
        Version { major, minor }
    }

    #[test]
    fn neighbours_agree_on_the_older() {
        assert_eq!(agree(v(1, 3), v(1, 2)), Some(v(1, 2)));
        assert_eq!(agree(v(1, 2), v(1, 3)), Some(v(1, 2)));
        assert_eq!(agree(v(1, 3), v(1, 3)), Some(v(1, 3)));
    }

    #[test]
    fn others_do_not() {
        assert_eq!(agree(v(1, 3), v(1, 1)), None);
        assert_eq!(agree(v(1, 1), v(1, 3)), None);
        assert_eq!(agree(v(1, 3), v(2, 3)), None);
        assert_eq!(agree(v(0, u32::MAX), v(0, 0)), None);
    }
}
