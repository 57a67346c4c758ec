use std::collections::BTreeMap;

use inn_units::ParseError;
use url::Url;

use crate::fetch::PlainHttp;
use crate::reference::{Reference, is_host};

/// Hosts that have what other registries have, and are asked first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mirrors(BTreeMap<String, Vec<Mirror>>);

/// `host[:port][/prefix]`: repositories of the registry are below the prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mirror {
    host: String,
    prefix: Option<String>,
}

impl Mirrors {
    /// `docker.io=mirror.example,quay.io=cache.example:5000/quay`; a registry
    /// may stand several times, and its mirrors are asked in that order.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let refuse = |entry: &str, why: &str| Err(ParseError::new("mirror", entry, why));
        let mut mirrors = Self::default();
        for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            let Some((registry, place)) = entry.split_once('=') else {
                return refuse(entry, "is not REGISTRY=MIRROR, as in docker.io=mirror.example");
            };
            let (registry, place) = (registry.trim(), place.trim().trim_end_matches('/'));
            if place.contains("://") {
                return refuse(
                    entry,
                    "has a scheme: leave it out, and name a mirror without TLS in registries.plain_http",
                );
            }
            let (host, prefix) = match place.split_once('/') {
                Some((host, prefix)) => (host, Some(prefix)),
                None => (place, None),
            };
            if !is_host(registry) || !is_host(host) {
                return refuse(
                    entry,
                    "is not of hosts, as in docker.io=mirror.example:5000/prefix",
                );
            }
            // The same rules as for a repository, which it is the beginning of.
            if let Some(prefix) = prefix
                && format!("registry.invalid/{prefix}:x").parse::<Reference>().is_err()
            {
                return refuse(entry, "has a prefix that no repository can begin with");
            }
            mirrors.0.entry(registry.to_ascii_lowercase()).or_default().push(Mirror {
                host: host.to_ascii_lowercase(),
                prefix: prefix.map(str::to_owned),
            });
        }
        Ok(mirrors)
    }

    /// The places that may have the image, in the order to ask them.
    pub(crate) fn places(&self, reference: &Reference, plain_http: &PlainHttp) -> Vec<Place> {
        let repository = reference.repository();
        let mirrors = self.0.get(reference.registry()).into_iter().flatten().map(|mirror| {
            let repository = match &mirror.prefix {
                Some(prefix) => format!("{prefix}/{repository}"),
                None => repository.to_owned(),
            };
            Place::new(&mirror.host, repository, plain_http)
        });
        let own = Place::new(reference.registry(), repository.to_owned(), plain_http);
        mirrors.chain([own]).flatten().collect()
    }
}

/// One repository at one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// As references name it; credentials are for it.
    pub(crate) registry: String,
    pub(crate) repository: String,
    base: Url,
}

impl Place {
    fn new(registry: &str, repository: String, plain_http: &PlainHttp) -> Option<Self> {
        let host = match registry {
            // docker's name for it, and where it is.
            "docker.io" => "registry-1.docker.io",
            other => other,
        };
        let scheme =
            if plain_http.allows(host) || plain_http.allows(registry) { "http" } else { "https" };
        let base = Url::parse(&format!("{scheme}://{host}/v2/{repository}/")).ok()?;
        Some(Self { registry: registry.to_owned(), repository, base })
    }

    /// `kind` is `manifests`, `blobs`, `referrers`.
    pub(crate) fn url(&self, kind: &str, name: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("/v2/{}/{kind}/{name}", self.repository));
        url
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(mirrors: &str, plain: &[&str], reference: &str) -> Vec<String> {
        let reference = reference.parse().unwrap();
        let plain = PlainHttp::new(plain.iter().copied());
        let places = Mirrors::parse(mirrors).unwrap().places(&reference, &plain);
        places.iter().map(|place| place.url("manifests", "x").to_string()).collect()
    }

    #[test]
    fn mirrors_are_asked_in_their_order_and_the_registry_last() {
        assert_eq!(
            urls(
                "docker.io=one.example, docker.io=two.example:5000/hub,quay.io=q.example",
                &["two.example:5000"],
                "debian",
            ),
            [
                "https://one.example/v2/library/debian/manifests/x",
                "http://two.example:5000/v2/hub/library/debian/manifests/x",
                "https://registry-1.docker.io/v2/library/debian/manifests/x",
            ]
        );
        assert_eq!(
            urls("docker.io=one.example", &["127.0.0.1"], "127.0.0.1:5000/a/b"),
            ["http://127.0.0.1:5000/v2/a/b/manifests/x"]
        );
        assert_eq!(urls("", &[], "[::1]:5000/a"), ["https://[::1]:5000/v2/a/manifests/x"]);
    }

    #[test]
    fn what_is_no_mirror_is_refused() {
        for (bad, says) in [
            ("mirror.example", "REGISTRY=MIRROR"),
            ("docker.io=https://m.example", "leave it out"),
            ("docker.io=m example", "of hosts"),
            ("docker.io=m.example/../x", "prefix"),
            ("docker.io=m.example/A", "prefix"),
        ] {
            let error = Mirrors::parse(bad).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
