use super::*;

use std::time::Duration;

use inn_host::process::{ask, find_program};
use serde_json::json;

/// Keys of real openssl, in a directory of their own.
pub(crate) struct Openssl {
    program: std::path::PathBuf,
    dir: tempfile::TempDir,
}

impl Openssl {
    pub(crate) fn find(test: &str) -> Option<Self> {
        let program = find_program("openssl");
        if program.is_none() {
            println!("SKIPPED {test}: openssl is not installed");
        }
        Some(Self { program: program?, dir: tempfile::tempdir().unwrap() })
    }

    async fn run(&self, args: &str) -> Vec<u8> {
        let dir = self.dir.path().to_str().unwrap();
        let args: Vec<String> =
            args.split(' ').map(|arg| arg.replace('@', &format!("{dir}/"))).collect();
        let answer = ask(&self.program, &args, b"", Duration::from_secs(60)).await.unwrap();
        assert!(answer.status.success(), "openssl {args:?}");
        answer.stdout
    }

    pub(crate) async fn key(&self, name: &str, options: &str) -> PublicKey {
        self.run(&format!("genpkey {options} -out @{name}.key")).await;
        let pem = self.run(&format!("pkey -in @{name}.key -pubout")).await;
        PublicKey::from_pem(name, &pem).unwrap()
    }

    /// By an elliptic curve's digest, or the whole of it for Ed25519.
    pub(crate) async fn sign(&self, name: &str, message: &[u8]) -> String {
        std::fs::write(self.dir.path().join("message"), message).unwrap();
        let signature = if name.starts_with("ed") {
            self.run(&format!("pkeyutl -sign -rawin -inkey @{name}.key -in @message")).await
        } else {
            self.run(&format!("dgst -sha256 -sign @{name}.key @message")).await
        };
        STANDARD.encode(signature)
    }
}

pub(crate) const P256_OPTIONS: &str = "-algorithm EC -pkeyopt ec_paramgen_curve:P-256";
pub(crate) const ED_OPTIONS: &str = "-algorithm ED25519";

fn image(byte: u8) -> Digest {
    Digest::from_sha256([byte; 32])
}

pub(crate) fn payload(image: Digest, kind: &str) -> Vec<u8> {
    json!({
        "critical": {
            "identity": { "docker-reference": "registry.example/a" },
            "image": { "docker-manifest-digest": image.to_string() },
            "type": kind,
        },
        "optional": null,
    })
    .to_string()
    .into_bytes()
}

pub(crate) const KIND: &str = "cosign container image signature";

#[tokio::test]
async fn simple_signatures_of_openssl_s_keys_are_verified() {
    let Some(openssl) = Openssl::find("simple_signatures_of_openssl_s_keys_are_verified") else {
        return;
    };
    let keys = [openssl.key("ec", P256_OPTIONS).await, openssl.key("ed", ED_OPTIONS).await];
    let stranger = [openssl.key("other", P256_OPTIONS).await];
    for name in ["ec", "ed"] {
        let good = payload(image(1), KIND);
        let signature = openssl.sign(name, &good).await;
        let signed = Signed::Simple { payload: good.clone(), signature: signature.clone() };
        assert_eq!(signed.signs(&keys, image(1)), Ok(()), "{name}");
        assert_eq!(signed.signs(&keys, image(2)), Err("one is of another image"));
        assert_eq!(signed.signs(&stranger, image(1)), Err("one is by another key"));
        assert_eq!(signed.signs(&[], image(1)), Err("one is by another key"));

        let changed = Signed::Simple { payload: payload(image(2), KIND), signature };
        assert_eq!(changed.signs(&keys, image(2)), Err("one is by another key"));
        let odd = payload(image(1), "another thing");
        let signature = openssl.sign(name, &odd).await;
        let odd = Signed::Simple { payload: odd, signature };
        assert_eq!(odd.signs(&keys, image(1)), Err("one is of what is no image's signature"));
    }
    for bad in ["", "!", "AAAA"] {
        let signed = Signed::Simple { payload: payload(image(1), KIND), signature: bad.to_owned() };
        assert!(signed.signs(&keys, image(1)).is_err());
    }
}

/// What cosign puts into a bundle, as far as it counts.
async fn bundle(openssl: &Openssl, key: &str, payload_type: &str, statement: &str) -> Signed {
    let message =
        format!("DSSEv1 {} {payload_type} {} {statement}", payload_type.len(), statement.len());
    let signature = openssl.sign(key, message.as_bytes()).await;
    Signed::Bundle(
        json!({
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": { "publicKey": { "hint": "x" } },
            "dsseEnvelope": {
                "payload": STANDARD.encode(statement),
                "payloadType": payload_type,
                "signatures": [{ "sig": signature }],
            },
        })
        .to_string()
        .into_bytes(),
    )
}

fn statement(image: Digest, predicate: &str) -> String {
    json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{ "digest": { "sha256": image.hex() } }],
        "predicateType": predicate,
        "predicate": {},
    })
    .to_string()
}

/// One that is good.
pub(crate) async fn signed_bundle(openssl: &Openssl, key: &str, image: Digest) -> Vec<u8> {
    let statement = statement(image, SIGNATURE_PREDICATE);
    match bundle(openssl, key, PAYLOAD_TYPE, &statement).await {
        Signed::Bundle(bundle) => bundle,
        Signed::Simple { .. } => unreachable!(),
    }
}

#[tokio::test]
async fn bundles_are_verified_and_other_statements_are_no_signature() {
    let Some(openssl) = Openssl::find("bundles_are_verified_and_other_statements_are_no_signature")
    else {
        return;
    };
    let keys = [openssl.key("ec", P256_OPTIONS).await];
    let stranger = [openssl.key("ed", ED_OPTIONS).await];
    let good = statement(image(1), SIGNATURE_PREDICATE);
    let signed = bundle(&openssl, "ec", PAYLOAD_TYPE, &good).await;
    assert_eq!(signed.signs(&keys, image(1)), Ok(()));
    assert_eq!(signed.signs(&keys, image(2)), Err("one is of another image"));
    assert_eq!(signed.signs(&stranger, image(1)), Err("one is by another key"));
    let other = statement(image(1), "https://slsa.dev/provenance/v1");
    let other = bundle(&openssl, "ec", PAYLOAD_TYPE, &other).await;
    assert_eq!(other.signs(&keys, image(1)), Err("one states something else about it"));
    let typed = bundle(&openssl, "ec", "text/plain", &good).await;
    assert_eq!(typed.signs(&keys, image(1)), Err("one states something else about it"));
    for odd in
        ["", "{}", "{\"dsseEnvelope\":{\"payload\":\"!\",\"payloadType\":\"\",\"signatures\":[]}}"]
    {
        assert!(Signed::Bundle(odd.into()).signs(&keys, image(1)).is_err());
    }
}

#[tokio::test]
async fn other_kinds_of_keys_are_refused_by_name() {
    assert!(PublicKey::from_pem("x", b"").unwrap_err().contains("no public key"));
    let error = PublicKey::read(Path::new("/nonexistent/cosign.pub")).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/cosign.pub"), "{error}");
    let Some(openssl) = Openssl::find("other_kinds_of_keys_are_refused_by_name") else { return };
    openssl.run("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out @p384.key").await;
    let pem = openssl.run("pkey -in @p384.key -pubout").await;
    assert!(PublicKey::from_pem("x", &pem).unwrap_err().contains("neither"));
    let private = openssl.run("pkey -in @p384.key").await;
    assert!(PublicKey::from_pem("x", &private).unwrap_err().contains("no public key"));
}
