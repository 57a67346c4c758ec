//! Where images come from, and what may.

use std::path::PathBuf;

use inn_registry::{
    CredentialFiles, FetchSettings, Mirrors, PlainHttp, Policy, Proxies, PublicKey, Registry,
    RegistryError, RegistrySettings,
};

use super::values::absolute;

/// The defaults stand in the keys' rows: TLS everywhere, the system's
/// authorities, credentials from where docker and podman keep them, and no
/// policy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegistriesConfig {
    pub mirrors: Mirrors,
    pub plain_http: PlainHttp,
    pub ca_file: Option<PathBuf>,
    pub auth_file: Option<PathBuf>,
    /// Empty: all.
    pub accept: Vec<String>,
    pub digests_only: bool,
    /// Files of public keys; empty: no signature is asked for.
    pub signed_by: Vec<PathBuf>,
}

impl RegistriesConfig {
    /// How hosts are reached, those of disk images, too.
    pub fn fetch(&self) -> FetchSettings {
        FetchSettings {
            ca_file: self.ca_file.clone(),
            plain_http: self.plain_http.clone(),
            proxies: Proxies::from_environment(),
            ..FetchSettings::default()
        }
    }

    /// The registries as they are to be reached now. Reads certificates and
    /// keys: blocks, and fails where they cannot be read.
    pub fn open(&self) -> Result<Registry, RegistryError> {
        let keys = self.signed_by.iter().map(|path| PublicKey::read(path));
        Registry::new(RegistrySettings {
            fetch: self.fetch(),
            credentials: CredentialFiles::find(self.auth_file.clone()),
            mirrors: self.mirrors.clone(),
            policy: Policy {
                registries: self.accept.clone(),
                digests_only: self.digests_only,
                signed_by: keys.collect::<Result<_, _>>()?,
            },
        })
    }
}

pub(super) fn mirrors(text: &str) -> Result<Mirrors, String> {
    if text == "none" {
        Ok(Mirrors::default())
    } else {
        Mirrors::parse(text).map_err(|e| e.to_string())
    }
}

pub(super) fn plain_http(text: &str) -> Result<PlainHttp, String> {
    list(text, PlainHttp::host).map(PlainHttp::new)
}

pub(super) fn accept(text: &str) -> Result<Vec<String>, String> {
    list(text, Policy::registry)
}

pub(super) fn files(text: &str) -> Result<Vec<PathBuf>, String> {
    list(text, absolute)
}

pub(super) fn file(text: &str) -> Result<Option<PathBuf>, String> {
    if text == "none" { Ok(None) } else { absolute(text).map(Some) }
}

/// Things with a comma between them, or none.
fn list<T>(text: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    if text == "none" {
        return Ok(Vec::new());
    }
    text.split(',').map(str::trim).filter(|entry| !entry.is_empty()).map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_bad_entries_refused() {
        assert_eq!(plain_http("none"), Ok(PlainHttp::default()));
        let hosts = plain_http("127.0.0.1:5000, registry.example,").unwrap();
        assert!(hosts.allows("registry.example:80") && !hosts.allows("127.0.0.1:5001"));
        assert!(plain_http("http://x").unwrap_err().contains("no host"));
        assert_eq!(accept("docker.io/library, quay.io").unwrap().len(), 2);
        assert!(accept("a b").unwrap_err().contains("no registry"));
        assert!(files("/a.pem,b.pem").unwrap_err().contains("absolute"));
        assert_eq!((file("none"), file("/a").unwrap()), (Ok(None), Some("/a".into())));
        assert!(mirrors("x").unwrap_err().contains("REGISTRY=MIRROR"));
        assert_eq!(mirrors("none"), Ok(Mirrors::default()));
    }

    #[test]
    fn files_that_cannot_be_read_are_named() {
        let missing = PathBuf::from("/nonexistent/key.pem");
        for config in [
            RegistriesConfig { signed_by: vec![missing.clone()], ..RegistriesConfig::default() },
            RegistriesConfig { ca_file: Some(missing), ..RegistriesConfig::default() },
        ] {
            let error = config.open().unwrap_err();
            assert!(error.to_string().contains("/nonexistent/key.pem"), "{error}");
        }
        RegistriesConfig::default().open().unwrap();
    }
}
