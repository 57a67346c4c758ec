//! Images that must be signed, and where signatures lie.

use super::*;
use crate::signature::tests::{ED_OPTIONS, KIND, Openssl, P256_OPTIONS, payload, signed_bundle};
use crate::{FailureClass, Policy, PublicKey};

async fn pull_signed(
    server: &Server,
    tag: &str,
    keys: &[PublicKey],
) -> Result<Resolved, RegistryError> {
    let policy = Policy { signed_by: keys.to_vec(), ..Policy::default() };
    let reference = format!("{}/a:{tag}", server.host()).parse().unwrap();
    client(RegistrySettings { policy, ..settings() }).resolve(&reference, &Platform::host()).await
}

/// An artifact of one layer, as cosign pushes it.
fn artifact(
    shelf: &mut Shelf,
    tag: &str,
    kind: &str,
    content: &[u8],
    annotations: Value,
) -> Digest {
    let digest = shelf.blob(content);
    let layer = json!({
        "mediaType": kind, "digest": digest.to_string(), "size": content.len(),
        "annotations": annotations,
    });
    let config = shelf.config("amd64", 1);
    let manifest = json!({ "schemaVersion": 2, "config": config, "layers": [layer] });
    shelf.manifest(tag, OCI_MANIFEST, &manifest)
}

#[tokio::test]
async fn only_what_is_signed_by_a_given_key_is_taken() {
    let Some(openssl) = Openssl::find("only_what_is_signed_by_a_given_key_is_taken") else {
        return;
    };
    let keys = [openssl.key("ec", P256_OPTIONS).await];
    let stranger = [openssl.key("ed", ED_OPTIONS).await];
    let mut shelf = Shelf::default();
    let simple = shelf.image("simple", b"one");
    let bundled = shelf.image("bundled", b"two");
    let copied = shelf.image("copied", b"three");
    shelf.image("unsigned", b"four");

    let signed = payload(simple, KIND);
    let annotations =
        json!({ "dev.cosignproject.cosign/signature": openssl.sign("ec", &signed).await });
    let kind = "application/vnd.dev.cosign.simplesigning.v1+json";
    for image in [simple, copied] {
        let tag = format!("sha256-{}.sig", image.hex());
        artifact(&mut shelf, &tag, kind, &signed, annotations.clone());
    }
    let kind = "application/vnd.dev.sigstore.bundle.v0.3+json";
    let bundle = signed_bundle(&openssl, "ec", bundled).await;
    let bundle = artifact(&mut shelf, "bundle", kind, &bundle, json!({}));
    let referrers = json!({ "schemaVersion": 2, "manifests": [{
        "mediaType": OCI_MANIFEST, "digest": bundle.to_string(), "size": 1, "artifactType": kind,
    }] });
    shelf.manifest(&format!("sha256-{}", bundled.hex()), OCI_INDEX, &referrers);

    let server = registry(shelf, |_, _| None).await;
    for tag in ["simple", "bundled"] {
        pull_signed(&server, tag, &keys).await.unwrap();
        pull_signed(&server, tag, &[]).await.unwrap();
        let both = [stranger[0].clone(), keys[0].clone()];
        pull_signed(&server, tag, &both).await.unwrap();
        let error = pull_signed(&server, tag, &stranger).await.unwrap_err();
        assert_eq!(error.class, FailureClass::Policy);
        assert!(error.to_string().contains("by another key"), "{error}");
    }
    let error = pull_signed(&server, "copied", &keys).await.unwrap_err();
    assert!(error.to_string().contains("of another image"), "{error}");
    let error = pull_signed(&server, "unsigned", &keys).await.unwrap_err();
    assert_eq!(error.class, FailureClass::Policy);
    assert!(
        error.to_string().contains("nobody has signed it") && error.to_string().contains("ec"),
        "{error}"
    );
}

#[tokio::test]
async fn a_registry_that_lists_referrers_is_asked_for_them() {
    let Some(openssl) = Openssl::find("a_registry_that_lists_referrers_is_asked_for_them") else {
        return;
    };
    let keys = [openssl.key("ec", P256_OPTIONS).await];
    let mut shelf = Shelf::default();
    let image = shelf.image("1", b"one");
    let kind = "application/vnd.dev.sigstore.bundle.v0.3+json";
    let bundle = signed_bundle(&openssl, "ec", image).await;
    let bundle = artifact(&mut shelf, "bundle", kind, &bundle, json!({}));
    let other = digest(b"a bill of materials");
    let entry = |digest: Digest, kind: &str| json!({ "mediaType": OCI_MANIFEST, "digest": digest.to_string(), "size": 1, "artifactType": kind });
    let index = json!({
        "schemaVersion": 2, "mediaType": OCI_INDEX,
        "manifests": [entry(other, "application/spdx+json"), entry(other, kind), entry(bundle, kind)],
    });
    let path = format!("/v2/a/referrers/{image}");
    let server = registry(shelf, move |request, _| {
        (request.path() == path)
            .then(|| Reply::ok(index.to_string()).header("Content-Type", OCI_INDEX))
    })
    .await;
    pull_signed(&server, "1", &keys).await.unwrap();
}

#[tokio::test]
async fn signatures_that_cannot_be_had_are_no_proof_of_their_absence() {
    let Some(openssl) =
        Openssl::find("signatures_that_cannot_be_had_are_no_proof_of_their_absence")
    else {
        return;
    };
    let keys = [openssl.key("ec", P256_OPTIONS).await];
    let mut shelf = Shelf::default();
    shelf.image("1", b"one");
    let server = registry(shelf, |request, _| {
        request.path().contains("/manifests/sha256-").then(|| Reply::status(500))
    })
    .await;
    let error = pull_signed(&server, "1", &keys).await.unwrap_err();
    assert_eq!(error.class, FailureClass::Unreachable, "{error}");
}
