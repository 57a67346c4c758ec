use inn_api::{Distribution, Family};

use crate::Root;

pub(super) fn distribution(root: &Root) -> Distribution {
    let text = ["/etc/os-release", "/usr/lib/os-release"].iter().find_map(|path| root.text(path));
    parse(&text.unwrap_or_default())
}

/// os-release(5).
fn parse(text: &str) -> Distribution {
    let of = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or_default().trim_matches(['"', '\'']).to_owned()
    };
    let (id, like) = (of("ID"), of("ID_LIKE"));
    let families = std::iter::once(id.as_str()).chain(like.split_whitespace());
    let family = families
        .filter_map(|id| match id {
            "debian" | "ubuntu" | "raspbian" => Some(Family::Debian),
            "fedora" | "rhel" | "centos" => Some(Family::Fedora),
            "suse" | "opensuse" | "opensuse-leap" | "opensuse-tumbleweed" => Some(Family::Suse),
            "alpine" => Some(Family::Alpine),
            "arch" => Some(Family::Arch),
            _ => None,
        })
        .next();
    let name = Some(of("PRETTY_NAME")).filter(|name| !name.is_empty());
    Distribution {
        name: name.unwrap_or_else(|| of("NAME")),
        version: of("VERSION_ID"),
        family: family.unwrap_or_default(),
        id,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_that_of_what_a_distribution_is_like() {
        for (text, family) in [
            ("ID=debian\n", Family::Debian),
            ("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n", Family::Debian),
            ("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n", Family::Fedora),
            ("ID=alpine", Family::Alpine),
            ("ID=manjaro\nID_LIKE=arch\n", Family::Arch),
            ("ID=nixos\n", Family::Other),
            ("", Family::Other),
        ] {
            assert_eq!(parse(text).family, family, "{text}");
        }
        assert_eq!(parse("ID=x\nPRETTY_NAME='An X 3'\nVERSION_ID=\"3\"").name, "An X 3");
    }
}
