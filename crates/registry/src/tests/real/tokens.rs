use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::{CertificateParams, KeyPair};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::json;

use super::super::server::{Reply, Request, Server};
use super::daemon::Access;

pub(super) const PASSWORD: &str = "to the realm";

/// A host that hands out tokens which a registry verifies by a certificate
/// (distribution's token specification, "JSON Web Token"), for a password.
pub(super) struct Realm {
    server: Server,
    certificate: String,
}

impl Realm {
    pub(super) async fn start() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["realm.invalid".to_owned()]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        let chain = STANDARD.encode(certificate.der());
        let signer = key.serialize_der();
        let server = Server::start(move |request| answer(request, &signer, &chain)).await;
        Self { server, certificate: certificate.pem() }
    }

    pub(super) fn access(&self) -> Access<'_> {
        Access::Token { realm: self.server.url("/token"), certificate: &self.certificate }
    }

    pub(super) fn handed_out(&self) -> usize {
        self.server.requests().len()
    }
}

fn answer(request: &Request, key: &[u8], chain: &str) -> Reply {
    let wanted = format!("Basic {}", STANDARD.encode(format!("me:{PASSWORD}")));
    if request.header("authorization") != Some(&wanted) {
        return Reply::status(401);
    }
    let url = url::Url::parse(&format!("http://realm.invalid{}", request.target)).unwrap();
    let access: Vec<_> = url
        .query_pairs()
        .filter(|(name, _)| name == "scope")
        .filter_map(|(_, scope)| {
            let mut parts = scope.split(':').map(str::to_owned);
            let (kind, name) = (parts.next()?, parts.next()?);
            let actions: Vec<_> = parts.next()?.split(',').map(str::to_owned).collect();
            Some(json!({ "type": kind, "name": name, "actions": actions }))
        })
        .collect();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let part = |json: serde_json::Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let head = part(json!({ "typ": "JWT", "alg": "ES256", "x5c": [chain] }));
    let body = part(json!({
        "iss": "realm", "sub": "me", "aud": "test", "jti": "1", "access": access,
        "iat": now, "nbf": now - 60, "exp": now + 300,
    }));
    let rng = SystemRandom::new();
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key, &rng).unwrap();
    let signed = format!("{head}.{body}");
    let signature = URL_SAFE_NO_PAD.encode(key.sign(&rng, signed.as_bytes()).unwrap());
    let token = json!({ "token": format!("{signed}.{signature}"), "expires_in": 300 });
    Reply::ok(token.to_string()).header("Content-Type", "application/json")
}
