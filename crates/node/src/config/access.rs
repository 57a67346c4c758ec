//! What bounds and guards the API.

use std::path::PathBuf;
use std::time::Duration;

use inn_domain::Scope;

use super::values::{choice, number};

/// The defaults stand in the keys' rows: a rate that a client which starts a
/// thousand VMs at once stays below, as many strangers' requests as a browser
/// makes that loads the Swagger UI, connections of some 20 KiB each, and heads
/// with room for an exec's command line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccessConfig {
    /// Names, besides localhost and addresses of ours, that a request over TCP
    /// may say it is for.
    pub hosts: Vec<String>,
    pub rate: u32,
    pub strangers_rate: u32,
    pub connections: u32,
    pub connections_per_peer: u32,
    pub header_timeout: Duration,
    pub header_size: u32,
    pub headers: u32,
    /// Of waiting for a client that sends a body.
    pub body_timeout: Duration,
}

/// TLS over TCP, where there is a certificate to serve. All files are PEM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsConfig {
    /// The chain, ours first.
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
    /// Who signs the certificates that clients need then.
    pub client_ca: Option<PathBuf>,
    /// What such a certificate is good for without a token.
    pub client_scope: Option<Scope>,
}

pub(super) fn scope(text: &str) -> Result<Option<Scope>, String> {
    let [read, operate, admin] = Scope::ALL.map(|scope| (scope.as_str(), Some(scope)));
    choice(text, &[("none", None), read, operate, admin])
}

pub(super) fn at_least(least: u32, text: &str) -> Result<u32, String> {
    let n: u32 = number(text)?;
    if n >= least { Ok(n) } else { Err(format!("must be {least} at least")) }
}

/// Names with a comma between them, or none.
pub(super) fn hosts(text: &str) -> Result<Vec<String>, String> {
    if text == "none" {
        return Ok(Vec::new());
    }
    let names: Vec<String> = text
        .split(',')
        .map(|name| name.trim().to_ascii_lowercase())
        .filter(|name| !name.is_empty())
        .collect();
    let is_name = |name: &String| {
        name.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_'))
    };
    match names.iter().find(|name| !is_name(name)) {
        Some(bad) => Err(format!("{bad} is no host's name; give names alone, with commas between")),
        None => Ok(names),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_read_and_bad_ones_refused() {
        let names = hosts("Node-1.example, inn.example,").unwrap();
        assert_eq!(names, ["node-1.example", "inn.example"]);
        assert_eq!(hosts("none"), Ok(Vec::new()));
        assert!(hosts("http://x").unwrap_err().contains("no host's name"));
        assert_eq!(at_least(1, "5"), Ok(5));
        assert_eq!(at_least(16, "5").unwrap_err(), "must be 16 at least");
        assert!(at_least(1, "many").is_err());
    }

    #[test]
    fn a_client_s_scope_may_be_none() {
        assert_eq!((scope("none"), scope("admin")), (Ok(None), Ok(Some(Scope::Admin))));
        assert!(scope("all").unwrap_err().contains("must be none or read"));
    }
}
