use std::fmt;
use std::str::FromStr;

use crate::ParseError;

/// Declares a name type around a pure check of its text.
macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:path) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseError;

            fn from_str(text: &str) -> Result<Self, ParseError> {
                match $check(text) {
                    Ok(()) => Ok(Self(text.to_owned())),
                    Err(problem) => Err(ParseError::new($what, text, problem)),
                }
            }
        }

        crate::serde_as_text!($name);
    };
}

name!(
    /// A VM's name: a DNS label (RFC 1123), since it is the guest's host name.
    VmName, "VM name", check_dns_label
);
name!(
    /// A node's name: a DNS label.
    NodeName, "node name", check_dns_label
);
name!(
    /// A network's name: a DNS label, since its VMs are found at
    /// `VM.NETWORK.inn.internal`.
    NetworkName, "network name", check_dns_label
);
name!(
    /// A snapshot's name: a DNS label, as VMs have.
    SnapshotName, "snapshot name", check_dns_label
);
name!(
    /// A network interface of the host's, as the kernel allows it.
    InterfaceName, "interface name", check_interface_name
);
name!(
    /// A network of libvirt's, by the name that it has there.
    LibvirtNetworkName, "name of a network of libvirt's", check_libvirt_network
);
name!(
    /// A local image's name: an OCI reference without digest, such as
    /// `base`, `base:12` or `registry.example/team/base:12`.
    ImageName, "image name", check_image_name
);

fn check_dns_label(text: &str) -> Result<(), String> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if text.is_empty() || text.len() > 63 {
        return Err("must have 1 to 63 characters".into());
    }
    if !text.chars().all(inner) {
        return Err("may only have lowercase letters, digits and hyphens".into());
    }
    if text.starts_with('-') || text.ends_with('-') {
        return Err("must not begin or end with a hyphen".into());
    }
    Ok(())
}

/// `dev_valid_name` (net/core/dev.c), and no quotes, since rules are printed.
fn check_interface_name(text: &str) -> Result<(), String> {
    if text.is_empty() || text.len() > 15 {
        return Err("must have 1 to 15 characters".into());
    }
    if text == "." || text == ".." {
        return Err("must not be a directory's name".into());
    }
    if !text.chars().all(|c| c.is_ascii_alphanumeric() || "._-@".contains(c)) {
        return Err("may only have letters, digits and . _ - @".into());
    }
    Ok(())
}

/// libvirt itself refuses `/` and line ends (src/conf/network_conf.c), and takes
/// names of files' length.
fn check_libvirt_network(text: &str) -> Result<(), String> {
    if text.is_empty() || text.len() > 200 {
        return Err("must have 1 to 200 bytes".into());
    }
    if text.contains('/') || text.chars().any(char::is_control) || text.trim() != text {
        return Err("must not hold `/` or control characters, nor begin or end with a blank".into());
    }
    Ok(())
}

/// The grammar of the OCI distribution spec 1.1 ("Pulling manifests"), with
/// an optional host and port before the first slash.
fn check_image_name(text: &str) -> Result<(), String> {
    if text.is_empty() || text.len() > 255 {
        return Err("must have 1 to 255 characters".into());
    }
    let (path, tag) = match text.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
        _ => (text, None),
    };
    if let Some(tag) = tag {
        let first_ok = tag.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        let rest_ok = tag.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
        if !first_ok || !rest_ok || tag.len() > 128 {
            return Err("has a tag that is not [A-Za-z0-9_][A-Za-z0-9_.-]*".into());
        }
    }
    for (i, part) in path.split('/').enumerate() {
        let body = if i == 0 && path.contains('/') {
            part.split_once(':').map_or(part, |(host, _port)| host)
        } else {
            part
        };
        let edge =
            |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
        if !edge(body.chars().next()) || !edge(body.chars().last()) || !body.chars().all(inner) {
            return Err(
                "is not a reference such as base, base:12 or host/team/base:12 (lowercase letters, digits, . _ -)"
                    .into(),
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vm_names_are_dns_labels() {
        for good in ["a", "web-1", "0day", &"a".repeat(63)] {
            assert!(good.parse::<VmName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", "ä", "a/b", "..", &"a".repeat(64)] {
            assert!(bad.parse::<VmName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn interface_names_are_the_kernels() {
        for good in ["eth0", "enp3s0.100", "br-lan", "wg_0", "a@b"] {
            assert!(good.parse::<InterfaceName>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a b", "a/b", "a:0", "a\"b", "sixteen-letters0"] {
            assert!(bad.parse::<InterfaceName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn image_names_are_references() {
        for good in [
            "base",
            "base:12",
            "team/base:v1.2_x",
            "localhost:5000/team/base",
            "r.example/a/b:latest",
        ] {
            assert!(good.parse::<ImageName>().is_ok(), "{good}");
        }
        for bad in ["", "Base", "a//b", "../etc", "a:", "a:b:c/", "/a", "a/", "-a", "a b", "a:-x"] {
            assert!(bad.parse::<ImageName>().is_err(), "{bad}");
        }
    }
}
