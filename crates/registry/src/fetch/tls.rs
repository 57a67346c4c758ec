use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use super::{FailureClass, FetchError};

/// Trusts the system's authorities (`SSL_CERT_FILE` and `SSL_CERT_DIR` name
/// others) and those of the file.
pub(crate) fn config(ca_file: Option<&Path>) -> Result<ClientConfig, FetchError> {
    let mut roots = RootCertStore::empty();
    // Certificates that cannot be read are no reason to trust none: without
    // any, each connection fails and says so.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = ca_file {
        let refuse = |why: String| {
            FetchError::new(
                "read the authorities' certificates",
                path.display().to_string(),
                FailureClass::Tls,
                why,
            )
            .next("have registries.ca_file name a file of PEM certificates")
        };
        let read = CertificateDer::pem_file_iter(path).map_err(|e| refuse(e.to_string()))?;
        let mut some = false;
        for certificate in read {
            let certificate = certificate.map_err(|e| refuse(e.to_string()))?;
            roots.add(certificate).map_err(|e| refuse(e.to_string()))?;
            some = true;
        }
        if !some {
            return Err(refuse("it holds no certificate".to_owned()));
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring knows the default protocol versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}
