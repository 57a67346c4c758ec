//! Which Firecracker it is. Pure.

/// 1.7 is the first whose API has all that is sent, and whose jailer keeps its
/// hands off what is there already.
const OLDEST: (u32, u32) = (1, 7);

/// Since 1.12 what goes on from a saved machine can have another tap than that one.
const SNAPSHOTS: (u32, u32) = (1, 12);

/// Since 1.13 only what is in use of a memory is written, without a log of it.
const SPARSE: (u32, u32) = (1, 13);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Version {
    /// Such as `1.12.1`.
    pub(crate) text: String,
    number: (u32, u32),
}

impl Version {
    pub(crate) fn saves(&self) -> bool {
        self.number >= SNAPSHOTS
    }

    pub(crate) fn saves_sparsely(&self) -> bool {
        self.number >= SPARSE
    }
}

/// What `--version` says, such as `Firecracker v1.12.1`, or why it will not do.
pub(crate) fn admitted(banner: &str) -> Result<Version, String> {
    let text = banner.lines().find_map(|line| line.trim().strip_prefix("Firecracker v"));
    let Some(text) = text.and_then(|text| text.split_whitespace().next()) else {
        return Err("its --version names no version of Firecracker's".to_owned());
    };
    let mut parts = text.split(['.', '-']).map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (parts.next(), parts.next()) else {
        return Err(format!("its version {text} is none that is known"));
    };
    if (major, minor) < OLDEST {
        return Err(format!(
            "its version {text} is older than {}.{}; install a newer one",
            OLDEST.0, OLDEST.1
        ));
    }
    Ok(Version { text: text.to_owned(), number: (major, minor) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_one_is_refused_with_the_version_found() {
        let text = |banner: &str| admitted(banner).map(|version| version.text);
        assert_eq!(text("Firecracker v1.7.0\n\n"), Ok("1.7.0".to_owned()));
        assert_eq!(text("Firecracker v1.17.0-dev\n"), Ok("1.17.0-dev".to_owned()));
        assert_eq!(text("Firecracker v2.0\n"), Ok("2.0".to_owned()));
        for (banner, why) in [
            ("Firecracker v1.6.0\n", "1.6.0 is older than 1.7"),
            ("Firecracker v0.25.2\n", "older"),
            ("Firecracker v\n", "no version"),
            ("Firecracker vNext\n", "none that is known"),
            ("jailer v1.9.0", "no version"),
            ("", "no version"),
        ] {
            assert!(admitted(banner).unwrap_err().contains(why), "{banner}");
        }
    }

    #[test]
    fn what_a_version_can_do_is_told_by_its_number() {
        let can = |number: &str| {
            let version = admitted(&format!("Firecracker v{number}")).unwrap();
            (version.saves(), version.saves_sparsely())
        };
        assert_eq!(can("1.11.9"), (false, false));
        assert_eq!(can("1.12.0"), (true, false));
        assert_eq!(can("1.13.0"), (true, true));
        assert_eq!(can("2.0.0"), (true, true));
    }
}
