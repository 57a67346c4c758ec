use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::ClientError;

/// Whom a client trusts, and what it shows; all files are PEM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Who signs the agents' certificates; the system's authorities unless
    /// given.
    pub ca: Option<PathBuf>,
    /// Our own certificate, for agents that ask for one, and its key.
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

/// A way to one agent by TLS.
#[derive(Clone)]
pub(crate) struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl Tls {
    /// Reads the files.
    pub(crate) fn open(host: &str, files: &TlsFiles) -> Result<Self, ClientError> {
        let refuse = |given: &dyn Display, what: String| ClientError::Address {
            given: given.to_string(),
            what,
        };
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(bare)
            .map_err(|_| refuse(&host, "no certificate can be for it".to_owned()))?;
        let mut roots = RootCertStore::empty();
        match &files.ca {
            Some(path) => {
                for root in certificates(path)? {
                    roots.add(root).map_err(|e| refuse(&path.display(), e.to_string()))?;
                }
            }
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| refuse(&host, e.to_string()))?
            .with_root_certificates(roots);
        let config = match (&files.cert, &files.key) {
            (Some(cert), Some(key)) => {
                let chain = certificates(cert)?;
                let secret = PrivateKeyDer::from_pem_file(key)
                    .map_err(|e| refuse(&key.display(), e.to_string()))?;
                builder
                    .with_client_auth_cert(chain, secret)
                    .map_err(|e| refuse(&cert.display(), e.to_string()))?
            }
            (None, None) => builder.with_no_client_auth(),
            _ => {
                let what = "a certificate and its key go together".to_owned();
                return Err(refuse(&host, what));
            }
        };
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), name })
    }

    pub(crate) async fn connect(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        self.connector.connect(self.name.clone(), stream).await
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ClientError> {
    let refuse = |e: rustls::pki_types::pem::Error| ClientError::Address {
        given: path.display().to_string(),
        what: format!("it holds no certificates that can be read: {e}"),
    };
    CertificateDer::pem_file_iter(path).map_err(refuse)?.collect::<Result<_, _>>().map_err(refuse)
}
