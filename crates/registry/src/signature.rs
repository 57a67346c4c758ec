//! Whether a key has signed an image. Pure.
//!
//! Two forms, both of cosign's: *simple signing* (a JSON payload that names the
//! manifest's digest, its signature beside it: cosign's SIGNATURE_SPEC.md, and
//! containers-signature(5) for the payload) and, since cosign 3, a Sigstore
//! bundle with a DSSE envelope around an in-toto statement (DSSE protocol 1.0,
//! in-toto statement v1). Certificates and transparency logs are not looked
//! at: who names a key trusts that key.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use inn_units::Digest;
use ring::signature::{ECDSA_P256_SHA256_ASN1, ED25519, UnparsedPublicKey, VerificationAlgorithm};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;

use crate::fetch::{FailureClass, FetchError};

/// SubjectPublicKeyInfo up to the key itself: RFC 5480 for P-256 (65 bytes of
/// an uncompressed point follow), RFC 8410 for Ed25519 (32 bytes).
const P256: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
const ED25519_KEY: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// Largest file of a key.
const LARGEST_KEY: u64 = 64 << 10;

/// A key that signs images, and the file it is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    name: String,
    kind: Kind,
    bytes: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    EcdsaP256,
    Ed25519,
}

impl PublicKey {
    /// Reads a file. Blocks.
    pub fn read(path: &Path) -> Result<Self, FetchError> {
        let name = path.display().to_string();
        let text = match std::fs::metadata(path) {
            Ok(meta) if meta.len() > LARGEST_KEY => Err("it is too large".to_owned()),
            Ok(_) => std::fs::read(path).map_err(|e| e.to_string()),
            Err(e) => Err(e.to_string()),
        };
        text.and_then(|text| Self::from_pem(&name, &text)).map_err(|why| {
            FetchError::new("read the key that signs images", name, FailureClass::Policy, why)
                .next("have registries.signed_by name files of PEM public keys, such as cosign.pub")
        })
    }

    /// `name` is how messages call it.
    pub fn from_pem(name: &str, pem: &[u8]) -> Result<Self, String> {
        let key = SubjectPublicKeyInfoDer::from_pem_slice(pem)
            .map_err(|_| "it holds no public key in PEM".to_owned())?;
        let (kind, bytes) = match (key.strip_prefix(&P256), key.strip_prefix(&ED25519_KEY)) {
            (Some(point), _) if point.len() == 65 => (Kind::EcdsaP256, point),
            (_, Some(bytes)) if bytes.len() == 32 => (Kind::Ed25519, bytes),
            _ => return Err("its key is neither of ECDSA on P-256 nor of Ed25519".to_owned()),
        };
        Ok(Self { name: name.to_owned(), kind, bytes: bytes.to_vec() })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let algorithm: &dyn VerificationAlgorithm = match self.kind {
            Kind::EcdsaP256 => &ECDSA_P256_SHA256_ASN1,
            Kind::Ed25519 => &ED25519,
        };
        UnparsedPublicKey::new(algorithm, &self.bytes).verify(message, signature).is_ok()
    }
}

/// A signature as it lies in a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Signed {
    /// The payload, and the base64 of its signature.
    Simple {
        payload: Vec<u8>,
        signature: String,
    },
    Bundle(Vec<u8>),
}

impl Signed {
    /// Whether one of the keys has signed `image` by it; the error says why
    /// not, as a clause.
    pub(crate) fn signs(&self, keys: &[PublicKey], image: Digest) -> Result<(), &'static str> {
        match self {
            Self::Simple { payload, signature } => simple(payload, signature, keys, image),
            Self::Bundle(bundle) => in_bundle(bundle, keys, image),
        }
    }
}

#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    image: PayloadImage,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct PayloadImage {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

fn simple(
    payload: &[u8],
    signature: &str,
    keys: &[PublicKey],
    image: Digest,
) -> Result<(), &'static str> {
    let signature = STANDARD.decode(signature.trim()).map_err(|_| "one is no base64")?;
    // The key first: nothing else of it is looked at before.
    if !keys.iter().any(|key| key.verifies(payload, &signature)) {
        return Err("one is by another key");
    }
    let payload: Payload =
        serde_json::from_slice(payload).map_err(|_| "one is of what is no image's signature")?;
    if payload.critical.kind != "cosign container image signature" {
        return Err("one is of what is no image's signature");
    }
    if payload.critical.image.digest != image.to_string() {
        return Err("one is of another image");
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bundle {
    dsse_envelope: Envelope,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<EnvelopeSignature>,
}

#[derive(Deserialize)]
struct EnvelopeSignature {
    sig: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Statement {
    #[serde(rename = "_type")]
    kind: String,
    predicate_type: String,
    subject: Vec<Subject>,
}

#[derive(Deserialize)]
struct Subject {
    digest: std::collections::BTreeMap<String, String>,
}

/// What `cosign sign` states of an image; other statements about it
/// (provenance, bills of material) are no signature of it.
const SIGNATURE_PREDICATE: &str = "https://sigstore.dev/cosign/sign/v1";
const STATEMENTS: [&str; 2] =
    ["https://in-toto.io/Statement/v1", "https://in-toto.io/Statement/v0.1"];
const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";

fn in_bundle(bundle: &[u8], keys: &[PublicKey], image: Digest) -> Result<(), &'static str> {
    let Bundle { dsse_envelope: envelope } =
        serde_json::from_slice(bundle).map_err(|_| "one is a bundle without an envelope")?;
    let decode = |text: &str| {
        STANDARD.decode(text).or_else(|_| URL_SAFE.decode(text)).map_err(|_| "one is no base64")
    };
    let payload = decode(&envelope.payload)?;
    // DSSE's pre-authentication encoding: what is signed is the type, too.
    let mut message = format!(
        "DSSEv1 {} {} {} ",
        envelope.payload_type.len(),
        envelope.payload_type,
        payload.len()
    )
    .into_bytes();
    message.extend_from_slice(&payload);
    let mut by_key = false;
    for signature in &envelope.signatures {
        let signature = decode(&signature.sig)?;
        by_key |= keys.iter().any(|key| key.verifies(&message, &signature));
    }
    if !by_key {
        return Err("one is by another key");
    }
    let statement: Statement =
        serde_json::from_slice(&payload).map_err(|_| "one is of what is no statement")?;
    let is_signature = envelope.payload_type == PAYLOAD_TYPE
        && STATEMENTS.contains(&statement.kind.as_str())
        && statement.predicate_type == SIGNATURE_PREDICATE;
    if !is_signature {
        return Err("one states something else about it");
    }
    let hex = image.hex();
    if !statement.subject.iter().any(|subject| subject.digest.get("sha256") == Some(&hex)) {
        return Err("one is of another image");
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
