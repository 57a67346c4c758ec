//! TLS over TCP, with certificates that change while the agent runs.
//!
//! ```text
//!   files ─▶ read, checked ─▶ Served ─▶ each new connection
//!     │ changed, or SIGHUP         ▲
//!     └──▶ read, checked ──good────┘
//!                    └──bad: said once, and the old ones stay
//! ```
//! Whether the files have changed is looked at when a connection comes, once a
//! second at most: nothing runs while nobody comes.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::time::Instant;

use crate::config::TlsConfig;
use crate::error::Chain;

/// Between two looks at the files.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{0}")]
    Together(&'static str),
    #[error("cannot read the certificates in {}; they must be PEM", path.display())]
    Certificates { path: PathBuf, source: rustls::pki_types::pem::Error },
    #[error("{} holds no certificate", path.display())]
    None { path: PathBuf },
    #[error("cannot read the private key in {}; it must be PEM", path.display())]
    Key { path: PathBuf, source: rustls::pki_types::pem::Error },
    #[error("{} cannot be served with the key in {}", cert.display(), key.display())]
    Pair { cert: PathBuf, key: PathBuf, source: rustls::Error },
    #[error("{} cannot sign clients' certificates: {why}", path.display())]
    ClientCa { path: PathBuf, why: String },
}

/// Certificates, as they are in their files now.
#[derive(Debug)]
pub(crate) struct Tls {
    cert: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
    served: Mutex<Served>,
}

#[derive(Debug)]
struct Served {
    config: Arc<ServerConfig>,
    /// Of the files that were read last, good or bad.
    stamps: Vec<Option<Stamp>>,
    looked_at: Instant,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
}

impl Tls {
    /// `None` where there is no certificate to serve.
    pub(super) fn open(config: &TlsConfig) -> Result<Option<Arc<Self>>, TlsError> {
        together(config).map_err(TlsError::Together)?;
        let (Some(cert), Some(key)) = (&config.cert, &config.key) else { return Ok(None) };
        let client_ca = config.client_ca.clone();
        let stamps = stamps(cert, key, client_ca.as_deref());
        let served = Served {
            config: read(cert, key, client_ca.as_deref())?,
            stamps,
            looked_at: Instant::now(),
        };
        let (cert, key) = (cert.clone(), key.clone());
        Ok(Some(Arc::new(Self { cert, key, client_ca, served: Mutex::new(served) })))
    }

    /// Reads the files anew. Bad ones change nothing.
    pub(crate) fn reload(&self) -> Result<(), TlsError> {
        let stamps = self.stamps();
        let fresh = read(&self.cert, &self.key, self.client_ca.as_deref());
        let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        served.stamps = stamps;
        served.config = fresh?;
        Ok(())
    }

    /// What the next connection is served with.
    pub(super) fn current(&self) -> Arc<ServerConfig> {
        if self.have_changed(Instant::now()) {
            match self.reload() {
                Ok(()) => tracing::info!(cert = %self.cert.display(), "serves new certificates"),
                Err(error) => tracing::error!(
                    error = %Chain(&error),
                    "the new certificates are not used; the old ones still are"
                ),
            }
        }
        Arc::clone(&self.served.lock().unwrap_or_else(PoisonError::into_inner).config)
    }

    fn have_changed(&self, now: Instant) -> bool {
        let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(served.looked_at) < LOOK_AGAIN {
            return false;
        }
        served.looked_at = now;
        served.stamps != self.stamps()
    }

    fn stamps(&self) -> Vec<Option<Stamp>> {
        stamps(&self.cert, &self.key, self.client_ca.as_deref())
    }
}

/// What only the keys together can have wrong.
fn together(config: &TlsConfig) -> Result<(), &'static str> {
    match config {
        TlsConfig { cert: Some(_), key: None, .. } => Err("tls.cert needs tls.key, too"),
        TlsConfig { cert: None, key: Some(_), .. } => Err("tls.key needs tls.cert, too"),
        TlsConfig { cert: None, client_ca: Some(_), .. } => {
            Err("tls.client_ca needs tls.cert and tls.key, too")
        }
        TlsConfig { client_ca: None, client_scope: Some(_), .. } => {
            Err("tls.client_scope needs tls.client_ca, which signs the clients' certificates")
        }
        _ => Ok(()),
    }
}

fn stamps(cert: &Path, key: &Path, client_ca: Option<&Path>) -> Vec<Option<Stamp>> {
    let stamp = |path: &Path| {
        let metadata = std::fs::metadata(path).ok()?;
        Some(Stamp { modified: metadata.modified().ok(), length: metadata.len() })
    };
    [Some(cert), Some(key), client_ca].into_iter().flatten().map(stamp).collect()
}

fn read(cert: &Path, key: &Path, client_ca: Option<&Path>) -> Result<Arc<ServerConfig>, TlsError> {
    let unusable = |source| TlsError::Pair { cert: cert.to_owned(), key: key.to_owned(), source };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = certificates(cert)?;
    let secret = PrivateKeyDer::from_pem_file(key)
        .map_err(|source| TlsError::Key { path: key.to_owned(), source })?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(unusable)?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let refuse = |why: String| TlsError::ClientCa { path: path.to_owned(), why };
            let mut roots = RootCertStore::empty();
            for root in certificates(path)? {
                roots.add(root).map_err(|error| refuse(error.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|error| refuse(error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, secret).map_err(unusable)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |source| TlsError::Certificates { path: path.to_owned(), source };
    let all = CertificateDer::pem_file_iter(path).map_err(failed)?;
    let all = all.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    if all.is_empty() { Err(TlsError::None { path: path.to_owned() }) } else { Ok(all) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use inn_domain::Scope;

    #[test]
    fn keys_of_tls_need_each_other() {
        let says = |config: &TlsConfig| Tls::open(config).unwrap_err().to_string();
        let mut tls = TlsConfig { client_scope: Some(Scope::Read), ..TlsConfig::default() };
        assert!(says(&tls).starts_with("tls.client_scope needs"));
        tls.client_ca = Some("/nonexistent/ca".into());
        assert!(says(&tls).starts_with("tls.client_ca needs"));
        tls.cert = Some("/nonexistent/cert".into());
        assert!(says(&tls).starts_with("tls.cert needs"));
        tls.key = Some("/nonexistent/key".into());
        assert!(says(&tls).contains("/nonexistent/cert"));
        tls.cert = None;
        assert!(says(&tls).starts_with("tls.key needs"));
        assert!(Tls::open(&TlsConfig::default()).unwrap().is_none());
    }
}
