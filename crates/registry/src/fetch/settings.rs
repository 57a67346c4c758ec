use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// How hosts are reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchSettings {
    /// PEM, trusted besides the system's authorities.
    pub ca_file: Option<PathBuf>,
    pub plain_http: PlainHttp,
    pub proxies: Proxies,
    pub connect_timeout: Duration,
    /// How long a host may send nothing.
    pub idle_timeout: Duration,
    /// How often something is tried before it is given up, without progress.
    pub tries: u32,
}

impl Default for FetchSettings {
    fn default() -> Self {
        Self {
            ca_file: None,
            plain_http: PlainHttp::default(),
            proxies: Proxies::default(),
            connect_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(30),
            tries: 6,
        }
    }
}

/// The hosts that are spoken to without TLS: nobody else is, loopback neither.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlainHttp(BTreeSet<String>);

impl PlainHttp {
    /// Hosts as `name`, which means each of its ports, or `name:port`.
    pub fn new(hosts: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self(hosts.into_iter().map(|host| host.into().to_ascii_lowercase()).collect())
    }

    /// Reads one of them.
    pub fn host(text: &str) -> Result<String, String> {
        if crate::reference::is_host(text) {
            Ok(text.to_ascii_lowercase())
        } else {
            Err(format!("`{text}` is no host, as in registry.example or 127.0.0.1:5000"))
        }
    }

    pub fn insert(&mut self, host: &str) {
        self.0.insert(host.to_ascii_lowercase());
    }

    /// Whether `host`, with its port if it has one, is among them.
    pub fn allows(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        let with_port = |host: &str| match port(host) {
            Some(_) => host.to_owned(),
            None => format!("{host}:80"),
        };
        let bare = port(&host).map_or(host.as_str(), |p| &host[..host.len() - p.len() - 1]);
        self.0.contains(bare)
            || self.0.iter().any(|entry| port(entry).is_some() && *entry == with_port(&host))
    }
}

/// The port behind a host, which may be an IPv6 address in brackets.
fn port(host: &str) -> Option<&str> {
    let (name, port) = host.rsplit_once(':')?;
    (!name.contains(':') || name.ends_with(']')).then_some(port)
}

/// Who is asked in place of the host itself.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    pub(crate) http: Option<String>,
    pub(crate) https: Option<String>,
    pub(crate) except: Option<String>,
}

impl Proxies {
    /// As the environment has them: `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY`
    /// and `NO_PROXY`, in lower case too, which wins.
    pub fn from_environment() -> Self {
        Self::from_variables(&|name| std::env::var(name).ok())
    }

    pub fn from_variables(variable: &dyn Fn(&str) -> Option<String>) -> Self {
        let read = |name: &str| {
            variable(&name.to_ascii_lowercase())
                .or_else(|| variable(name))
                .filter(|value| !value.trim().is_empty())
        };
        let all = read("ALL_PROXY");
        Self {
            http: read("HTTP_PROXY").or_else(|| all.clone()),
            https: read("HTTPS_PROXY").or(all),
            except: read("NO_PROXY").map(|list| exceptions(&list)),
        }
    }
}

/// As curl and Go read the list, in the words of the client below: there a
/// name means all that is below it too, and ports are not told apart.
fn exceptions(list: &str) -> String {
    let entries = list.split(',').map(|entry| {
        let entry = entry.trim();
        let entry = entry.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(entry);
        match entry.rsplit_once(':') {
            Some((name, port)) if !name.contains(':') && port.parse::<u16>().is_ok() => name,
            _ => entry,
        }
    });
    entries.filter(|entry| !entry.is_empty()).collect::<Vec<_>>().join(",")
}

/// A proxy's address may hold a password.
impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxies")
            .field("http", &self.http.is_some())
            .field("https", &self.https.is_some())
            .field("except", &self.except)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_named_hosts_go_without_tls() {
        let hosts = PlainHttp::new(["Registry.example", "127.0.0.1:5000", "[::1]:5000", "a:80"]);
        for allowed in [
            "registry.example",
            "registry.example:5000",
            "REGISTRY.example",
            "127.0.0.1:5000",
            "[::1]:5000",
            "a",
            "a:80",
        ] {
            assert!(hosts.allows(allowed), "{allowed}");
        }
        for refused in
            ["127.0.0.1", "127.0.0.1:5001", "localhost", "x.registry.example", "[::1]", "a:81"]
        {
            assert!(!hosts.allows(refused), "{refused}");
        }
        assert!(!PlainHttp::default().allows("127.0.0.1:5000"));
    }

    #[test]
    fn proxies_come_from_the_environment_and_are_not_printed() {
        let proxies = Proxies::from_variables(&|name| match name {
            "HTTP_PROXY" => Some("http://upper:1".to_owned()),
            "http_proxy" => Some("http://user:secret@lower:1".to_owned()),
            "ALL_PROXY" => Some("http://all:1".to_owned()),
            "no_proxy" => Some(" ".to_owned()),
            _ => None,
        });
        assert_eq!(proxies.http.as_deref(), Some("http://user:secret@lower:1"));
        assert_eq!(proxies.https.as_deref(), Some("http://all:1"));
        assert_eq!(proxies.except, None);
        assert!(!format!("{proxies:?}").contains("secret"));
        let list = "a.example, *.b.example,c.example:5000 ,,10.0.0.0/8,::1,*";
        assert_eq!(exceptions(list), "a.example,.b.example,c.example,10.0.0.0/8,::1,*");
    }
}
