use std::fmt;
use std::str::FromStr;

use inn_units::{Digest, ParseError};

/// Longest name (registry and repository) that registries take
/// (distribution/reference, `RepositoryNameTotalLengthMax`).
const LONGEST_NAME: usize = 255;
const LONGEST_TAG: usize = 128;

const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_TAG: &str = "latest";

/// What names an image in a registry, by docker's rules
/// (distribution/reference, `ParseNormalizedNamed`): `debian` is
/// `docker.io/library/debian:latest`.
///
/// With a tag and a digest, the digest says which image it is; the tag is for
/// those who read it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// The registry's host, with its port if the reference has one; `docker.io`
    /// for docker's own.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// `library/debian`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// `latest` where neither a tag nor a digest is given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// The same repository's image of that digest.
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { digest: Some(digest), ..self.clone() }
    }

    /// As people write it: without what docker's rules add.
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        let Some(short) = full.strip_prefix("docker.io/") else { return full };
        short.strip_prefix("library/").unwrap_or(short).to_owned()
    }

    /// What stands behind `/manifests/`: the digest, else the tag.
    pub(crate) fn identifier(&self) -> String {
        match self.digest {
            Some(digest) => digest.to_string(),
            None => self.tag.clone().unwrap_or_else(|| DEFAULT_TAG.to_owned()),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = self.tag() {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let refuse = |why: &str| ParseError::new("image reference", text, why);
        if text.contains("://") {
            return Err(refuse("has a scheme: leave it out, as in debian:12 or host:5000/name"));
        }
        let (name, digest) = match text.split_once('@') {
            None => (text, None),
            Some((name, digest)) => {
                if digest.starts_with("sha512:") {
                    return Err(refuse("has a sha512 digest: only sha256 is supported"));
                }
                let digest = digest
                    .parse()
                    .map_err(|_| refuse("must have sha256: and 64 hex digits behind the @"))?;
                (name, Some(digest))
            }
        };
        // A colon before the last slash is a port's.
        let (name, tag) = match name.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (name, None),
        };
        if let Some(tag) = tag
            && !is_tag(tag)
        {
            return Err(refuse(
                "has a bad tag: letters, digits, `_`, `.` and `-`, at most 128, and no `.` or `-` first",
            ));
        }
        let (registry, repository) = split_registry(name);
        if name.is_empty() || repository.is_empty() {
            return Err(refuse("names no repository, as in debian:12 or host:5000/name"));
        }
        if !is_host(&registry) {
            return Err(refuse("has a registry that is no host, as in registry.example:5000/name"));
        }
        if repository.bytes().any(|c| c.is_ascii_uppercase()) {
            return Err(refuse(
                "has upper case in its repository: registries only know lower case",
            ));
        }
        if !repository.split('/').all(is_component) {
            return Err(refuse(
                "has a bad repository: parts of lower-case letters and digits, joined by `.`, `_`, `__` or `-`, with slashes between",
            ));
        }
        if registry.len() + 1 + repository.len() > LONGEST_NAME {
            return Err(refuse("is too long: a name has at most 255 characters"));
        }
        // Docker takes such a word for an image's id.
        if !name.contains('/') && name.len() == 64 && name.bytes().all(is_lower_hex) {
            return Err(refuse("is an image's id: give a name, or name@sha256:… for a digest"));
        }
        let tag = tag.or(digest.is_none().then_some(DEFAULT_TAG)).map(str::to_owned);
        Ok(Self { registry, repository, tag, digest })
    }
}

/// distribution/reference, `splitDockerDomain`.
fn split_registry(name: &str) -> (String, String) {
    let hub = |rest: &str| {
        let library = if rest.contains('/') { "" } else { "library/" };
        (DEFAULT_REGISTRY.to_owned(), format!("{library}{rest}"))
    };
    match name.split_once('/') {
        None if name.is_empty() => (DEFAULT_REGISTRY.to_owned(), String::new()),
        None => hub(name),
        Some((first, rest)) => {
            let is_registry = first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|c| c.is_ascii_uppercase());
            let host = first.to_ascii_lowercase();
            match host.as_str() {
                _ if !is_registry => hub(name),
                "docker.io" | "index.docker.io" | "registry-1.docker.io" if rest.is_empty() => {
                    (host, String::new())
                }
                "docker.io" | "index.docker.io" | "registry-1.docker.io" => hub(rest),
                _ => (host, rest.to_owned()),
            }
        }
    }
}

fn is_tag(tag: &str) -> bool {
    let word = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    (1..=LONGEST_TAG).contains(&tag.len())
        && tag.bytes().all(|c| word(c) || matches!(c, b'.' | b'-'))
        && tag.bytes().next().is_some_and(word)
}

/// `[a-z0-9]+` parts joined by one `.`, one or two `_`, or any number of `-`.
fn is_component(component: &str) -> bool {
    let alnum = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = component.as_bytes();
    if !bytes.first().is_some_and(|c| alnum(*c)) || !bytes.last().is_some_and(|c| alnum(*c)) {
        return false;
    }
    component.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()).all(|between| {
        matches!(between, "" | "." | "_" | "__") || between.bytes().all(|c| c == b'-')
    })
}

/// A DNS name or an IPv4 address, or an IPv6 address in brackets; and a port
/// perhaps.
pub(crate) fn is_host(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if address.parse::<std::net::Ipv6Addr>().is_ok() => {
                return match port.strip_prefix(':') {
                    Some(port) => port.parse::<u16>().is_ok(),
                    None => port.is_empty(),
                };
            }
            _ => return false,
        },
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
    };
    host.split('.').all(label)
        && port.is_none_or(|p| p.bytes().all(|c| c.is_ascii_digit()) && p.parse::<u16>().is_ok())
}

fn is_lower_hex(c: u8) -> bool {
    c.is_ascii_digit() || (b'a'..=b'f').contains(&c)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn read(text: &str) -> Reference {
        text.parse().unwrap()
    }

    fn refusal(text: &str) -> String {
        text.parse::<Reference>().unwrap_err().to_string()
    }

    #[test]
    fn docker_s_rules_fill_in_what_is_missing() {
        for (given, full) in [
            ("debian", "docker.io/library/debian:latest"),
            ("debian:12", "docker.io/library/debian:12"),
            ("me/tool", "docker.io/me/tool:latest"),
            ("docker.io/debian", "docker.io/library/debian:latest"),
            ("index.docker.io/a/b:c", "docker.io/a/b:c"),
            ("localhost/a", "localhost/a:latest"),
            ("localhost:5000/a/b/c:d", "localhost:5000/a/b/c:d"),
            ("HOST/a", "host/a:latest"),
            ("quay.example/x__y/z-1.2--b", "quay.example/x__y/z-1.2--b:latest"),
            ("[::1]:5000/a", "[::1]:5000/a:latest"),
            ("10.0.0.1:80/a:B_c", "10.0.0.1:80/a:B_c"),
        ] {
            assert_eq!(read(given).to_string(), full, "{given}");
        }
        let both = read(&format!("debian:12@sha256:{HEX}"));
        assert_eq!(both.tag(), Some("12"));
        assert_eq!(both.identifier(), format!("sha256:{HEX}"));
        assert_eq!(both.to_string(), format!("docker.io/library/debian:12@sha256:{HEX}"));
        let digest = read(&format!("debian@sha256:{HEX}"));
        assert_eq!(digest.tag(), None);
        assert_eq!(read("debian").identifier(), "latest");
    }

    #[test]
    fn the_familiar_form_leaves_them_out() {
        assert_eq!(read("docker.io/library/debian:12").familiar(), "debian:12");
        assert_eq!(read("me/tool:1").familiar(), "me/tool:1");
        assert_eq!(read("quay.example/library/x:1").familiar(), "quay.example/library/x:1");
    }

    #[test]
    fn each_refusal_says_what_would_be_right() {
        for (given, says) in [
            ("", "names no repository"),
            (":tag", "names no repository"),
            ("host.example/", "names no repository"),
            ("docker.io/", "names no repository"),
            ("docker://debian", "leave it out"),
            ("https://host/x", "leave it out"),
            ("Debian", "upper case"),
            ("a/Debian", "upper case"),
            ("a//b", "bad repository"),
            ("a/-b", "bad repository"),
            ("a/b_", "bad repository"),
            ("a/b___c", "bad repository"),
            ("a/b..c", "bad repository"),
            ("a b", "bad repository"),
            ("../x", "no host"),
            ("-x.example/a", "no host"),
            ("x.example:99999/a", "no host"),
            ("[::1/a", "no host"),
            ("debian:", "bad tag"),
            ("debian:.a", "bad tag"),
            ("debian@sha256:12", "64 hex digits"),
            ("debian@12", "64 hex digits"),
            ("debian@sha512:12", "only sha256"),
        ] {
            assert!(refusal(given).contains(says), "{given}: {}", refusal(given));
        }
        assert!(refusal(HEX).contains("image's id"));
        assert!(refusal(&format!("debian:{}", "a".repeat(129))).contains("at most 128"));
        assert!(refusal(&format!("h.example/{}", "a".repeat(250))).contains("too long"));
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(
            host in "([a-z0-9]{1,8}\\.){1,2}[a-z]{2,4}(:[1-9][0-9]{0,3})?",
            path in "[a-z0-9]{1,6}([._-][a-z0-9]{1,4}){0,2}(/[a-z0-9]{1,6}){0,3}",
            tag in proptest::option::of("[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}"),
            digest in proptest::option::of(any::<[u8; 32]>()),
        ) {
            let tag = tag.map(|t| format!(":{t}")).unwrap_or_default();
            let digest = digest.map(|d| format!("@{}", Digest::from_sha256(d))).unwrap_or_default();
            let reference = read(&format!("{host}/{path}{tag}{digest}"));
            prop_assert_eq!(reference.registry(), host);
            prop_assert_eq!(reference.repository(), path);
            prop_assert_eq!(&read(&reference.to_string()), &reference.clone());
            prop_assert_eq!(read(&reference.familiar()).to_string(), reference.to_string());
        }

        #[test]
        fn any_text_is_read_or_refused_and_never_leaves_its_path(text in "\\PC{0,60}") {
            if let Ok(reference) = text.parse::<Reference>() {
                let safe = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
                prop_assert!(reference.repository().chars().all(safe));
                prop_assert!(!reference.repository().split('/').any(|p| p.is_empty() || p.starts_with('.')));
                prop_assert_eq!(read(&reference.to_string()).to_string(), reference.to_string());
            }
        }
    }
}
