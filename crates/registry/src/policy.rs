use crate::fetch::{FailureClass, FetchError};
use crate::reference::{Reference, is_host};
use crate::signature::PublicKey;

/// What may be pulled at all. Pure.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// `host[:port]`, with a path perhaps (`quay.io/team`); empty: all.
    pub registries: Vec<String>,
    /// Only what a digest names, which nobody can change behind it.
    pub digests_only: bool,
    /// Only what one of these has signed; empty: signatures are not asked for.
    pub signed_by: Vec<PublicKey>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyDeniedReason {
    #[error("images of {registry} are not accepted, only those of {accepted}")]
    Registry { registry: String, accepted: String },
    #[error("only images by digest are accepted, and {given} names a tag alone")]
    NoDigest { given: String },
    #[error("nobody has signed it, where one of {keys} must have")]
    Unsigned { keys: String },
    #[error("none of its signatures is good: {why}")]
    NotSignedBy { why: String },
}

impl Policy {
    /// Reads one of [`Policy::registries`].
    pub fn registry(text: &str) -> Result<String, String> {
        let host = text.split('/').next().unwrap_or_default();
        let path = text.strip_prefix(host).unwrap_or_default().trim_end_matches('/');
        let is_path =
            path.is_empty() || format!("host.invalid{path}:x").parse::<Reference>().is_ok();
        if is_host(host) && is_path {
            Ok(format!("{}{path}", host.to_ascii_lowercase()))
        } else {
            Err(format!("`{text}` is no registry, as in docker.io/library or quay.io"))
        }
    }

    /// Whether a reference may be asked for.
    pub fn admit(&self, reference: &Reference) -> Result<(), PolicyDeniedReason> {
        let name = format!("{}/{}", reference.registry(), reference.repository());
        let below = |accepted: &String| {
            name.strip_prefix(accepted.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        if !self.registries.is_empty() && !self.registries.iter().any(below) {
            return Err(PolicyDeniedReason::Registry {
                registry: reference.registry().to_owned(),
                accepted: self.registries.join(", "),
            });
        }
        if self.digests_only && reference.digest().is_none() {
            return Err(PolicyDeniedReason::NoDigest { given: reference.familiar() });
        }
        Ok(())
    }
}

impl PolicyDeniedReason {
    pub(crate) fn into_error(self, reference: &Reference) -> FetchError {
        let next = match &self {
            Self::Registry { .. } => {
                "have whoever looks after this host add it to registries.accept"
            }
            Self::Unsigned { .. } => {
                "have it signed (`cosign sign`), or have registries.signed_by changed"
            }
            Self::NotSignedBy { .. } => {
                "don't use it unless you know why; have it signed, or registries.signed_by changed"
            }
            Self::NoDigest { .. } => {
                "name the image as NAME@sha256:…, or have registries.digests_only set to false"
            }
        };
        FetchError::new(
            format!("pull {}", reference.familiar()),
            reference.registry().to_owned(),
            FailureClass::Policy,
            self.to_string(),
        )
        .next(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(registries: &[&str], digests_only: bool) -> Policy {
        let registries = registries.iter().map(|r| Policy::registry(r).unwrap()).collect();
        Policy { registries, digests_only, signed_by: Vec::new() }
    }

    #[test]
    fn only_what_is_accepted_is_asked_for() {
        let some = policy(&["docker.io/library", "Quay.example:5000/"], false);
        for good in ["debian", "quay.example:5000/a/b"] {
            assert_eq!(some.admit(&good.parse().unwrap()), Ok(()), "{good}");
        }
        for bad in ["me/debian", "quay.example/a", "quay.example:50001/a", "libraryx/y"] {
            let reason = some.admit(&bad.parse().unwrap()).unwrap_err();
            assert!(matches!(reason, PolicyDeniedReason::Registry { .. }), "{bad}");
        }
        assert_eq!(Policy::default().admit(&"any.example/x".parse().unwrap()), Ok(()));
    }

    #[test]
    fn tags_can_be_refused() {
        let digests = policy(&[], true);
        let tag = "debian:12".parse().unwrap();
        let error = digests.admit(&tag).unwrap_err().into_error(&tag);
        assert_eq!(error.class, FailureClass::Policy);
        assert!(error.to_string().contains("NAME@sha256:"), "{error}");
        let digest = format!("debian:12@sha256:{}", "0".repeat(64)).parse().unwrap();
        assert_eq!(digests.admit(&digest), Ok(()));
    }

    #[test]
    fn what_is_no_registry_is_refused() {
        for bad in ["", "a b", "https://x", "x.example/A", "x.example/../y"] {
            assert!(Policy::registry(bad).is_err(), "{bad}");
        }
    }
}
