//! Which image a reference is, and what is none.

use super::*;
use crate::FailureClass;

fn failure(result: Result<Resolved, RegistryError>) -> RegistryError {
    match result {
        Err(error) => error,
        Ok(resolved) => panic!("{} was taken", resolved.manifest_digest),
    }
}

#[tokio::test]
async fn an_image_is_found_by_tag_and_by_digest() {
    let mut shelf = Shelf::default();
    let image = shelf.image("1", &noise(1000));
    let server = registry(shelf, |_, _| None).await;
    for name in ["a/b:1".to_owned(), format!("a/b@{image}"), format!("a/b:old@{image}")] {
        let resolved = resolve(&server, &name).await.unwrap();
        assert_eq!((resolved.digest, resolved.manifest_digest), (image, image), "{name}");
        assert_eq!(digest(&resolved.manifest), image);
        assert_eq!(digest(&resolved.config), resolved.config_digest);
        assert_eq!(resolved.layers.len(), 1);
        assert_eq!(pull(&resolved, &resolved.layers[0]).await.unwrap(), noise(1000));
    }
    let error = failure(resolve(&server, "a/b:2").await);
    assert_eq!(error.class, FailureClass::NotFound);
    assert!(error.to_string().contains("manifest unknown"), "{error}");
    assert!(error.to_string().contains("a/b:2"), "{error}");
}

#[tokio::test]
async fn an_index_leads_to_this_host_s_image() {
    let mut shelf = Shelf::default();
    let ours = shelf.image("ours", &noise(10));
    let size = serde_json::to_vec(&0).unwrap().len();
    let entry = |digest: &Digest, os: &str, architecture: &str| {
        json!({ "mediaType": OCI_MANIFEST, "digest": digest.to_string(), "size": size,
                "platform": { "os": os, "architecture": architecture } })
    };
    let other = digest(b"other");
    let arch = Platform::host().architecture;
    let index = shelf.manifest("multi", OCI_INDEX, &json!({
        "schemaVersion": 2, "mediaType": OCI_INDEX,
        "manifests": [entry(&other, "linux", "s390x"), entry(&ours, "linux", &arch), entry(&other, "unknown", "unknown")],
    }));
    shelf.manifest("others", OCI_INDEX, &json!({
        "schemaVersion": 2,
        "manifests": [entry(&other, "linux", "s390x"), entry(&other, "windows", &arch), entry(&other, "unknown", "unknown")],
    }));
    let server = registry(shelf, |_, _| None).await;
    let resolved = resolve(&server, "a:multi").await.unwrap();
    assert_eq!((resolved.digest, resolved.manifest_digest), (index, ours));
    let error = failure(resolve(&server, "a:others").await);
    assert_eq!(error.class, FailureClass::Unsupported);
    assert!(error.to_string().contains(&format!("linux/s390x, windows/{arch}")), "{error}");
}

#[tokio::test]
async fn what_is_no_image_is_refused_in_one_sentence() {
    let arch = Platform::host().architecture;
    let mut shelf = Shelf::default();
    let (config, layer) = (shelf.config(&arch, 1), shelf.layer(b"layer"));
    let foreign_config = shelf.config("mips", 1);
    let two = shelf.config(&arch, 2);
    let with = |layer: &Value, key: &str, value: Value| {
        let mut changed = layer.clone();
        changed[key] = value;
        changed
    };
    let image = |config: &Value, layer: &Value| json!({ "schemaVersion": 2, "config": config, "layers": [layer] });
    use FailureClass::{Broken, Unsupported};
    let cases = [
        ("schema1", json!({ "schemaVersion": 1, "fsLayers": [] }), Unsupported, "schema 1"),
        (
            "helm",
            image(
                &with(&config, "mediaType", json!("application/vnd.cncf.helm.config.v1+json")),
                &layer,
            ),
            Unsupported,
            "cncf.helm",
        ),
        (
            "typed",
            with(&image(&config, &layer), "artifactType", json!("application/x")),
            Unsupported,
            "artifact",
        ),
        (
            "urls",
            image(&config, &with(&layer, "urls", json!(["https://elsewhere.example/x"]))),
            Unsupported,
            "address of its own",
        ),
        (
            "foreign",
            image(
                &config,
                &with(
                    &layer,
                    "mediaType",
                    json!("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"),
                ),
            ),
            Unsupported,
            "address of its own",
        ),
        (
            "xz",
            image(
                &config,
                &with(&layer, "mediaType", json!("application/vnd.oci.image.layer.v1.tar+xz")),
            ),
            Unsupported,
            "tar+xz",
        ),
        (
            "sha512",
            image(&config, &with(&layer, "digest", json!("sha512:00"))),
            Unsupported,
            "sha512",
        ),
        ("elsewhere", image(&foreign_config, &layer), Unsupported, "linux/mips"),
        ("two", image(&two, &layer), Broken, "2 layers"),
        (
            "both",
            json!({ "schemaVersion": 2, "config": config, "layers": [], "manifests": [] }),
            Broken,
            "at once",
        ),
        ("neither", json!({ "schemaVersion": 2 }), Broken, "neither"),
        ("version", json!({ "layers": [] }), Broken, "schema version"),
        ("text", json!("text"), Broken, "cannot be read"),
        (
            "digest",
            image(&config, &with(&layer, "digest", json!("sha256:../../etc"))),
            Broken,
            "no digest",
        ),
        ("size", image(&with(&config, "size", json!(1)), &layer), Broken, "1"),
        ("huge", image(&with(&config, "size", json!(1u64 << 40)), &layer), Broken, "1TiB"),
    ];
    for (tag, manifest, _, _) in &cases {
        shelf.manifest(tag, OCI_MANIFEST, manifest);
    }
    let server = registry(shelf, |_, _| None).await;
    for (tag, _, class, says) in cases {
        let error = failure(resolve(&server, &format!("a:{tag}")).await);
        assert_eq!(error.class, class, "{tag}: {error}");
        assert!(error.to_string().contains(says), "{tag}: {error}");
    }
}

#[tokio::test]
async fn an_index_of_itself_ends() {
    // Its own digest can stand in no document: a registry that answers
    // anything with the same index comes nearest.
    let index = json!({ "schemaVersion": 2, "manifests": [{
        "digest": digest(b"").to_string(), "size": 2,
        "platform": { "os": "linux", "architecture": Platform::host().architecture } }] })
    .to_string();
    let server = Server::start(move |_| Reply::ok(&index)).await;
    let error = failure(resolve(&server, "a").await);
    assert_eq!(error.class, FailureClass::Broken);
    assert!(server.requests().len() < 5);
}

#[tokio::test]
async fn a_manifest_that_is_not_what_it_says_is_refused() {
    let mut shelf = Shelf::default();
    let image = shelf.image("1", b"layer");
    let server = registry(shelf, |request, shelf| {
        let wrong = digest(b"wrong").to_string();
        if request.path().ends_with("manifests/1") {
            // The header lies.
            let honest = shelf.answer(request);
            return Some(Reply::ok(honest.content()).header("Docker-Content-Digest", &wrong));
        }
        request.path().contains("manifests/sha256").then(|| Reply::ok(b"{\"schemaVersion\":2}"))
    })
    .await;
    let error = failure(resolve(&server, "a:1").await);
    assert!(
        error.class == FailureClass::Broken && error.what.contains("announces another"),
        "{error}"
    );
    let error = failure(resolve(&server, &format!("a@{image}")).await);
    assert!(error.class == FailureClass::Broken && error.what.contains(&image.short()), "{error}");
}

#[tokio::test]
async fn a_configuration_that_changed_since_its_manifest_is_refused() {
    let mut shelf = Shelf::default();
    shelf.image("1", b"layer");
    let server = registry(shelf, |request, _| {
        request.path().contains("/blobs/").then(|| Reply::ok(b"{\"os\":\"changed\"}"))
    })
    .await;
    let error = failure(resolve(&server, "a:1").await);
    assert!(error.class == FailureClass::Broken && error.what.contains("was asked for"), "{error}");
}

#[tokio::test]
async fn an_endless_manifest_ends_at_the_limit() {
    let server = Server::start(|_| Reply::ok(b"").endless()).await;
    let error = failure(resolve(&server, "a").await);
    assert!(error.class == FailureClass::Broken && error.what.contains("more than"), "{error}");
    // One that announces it is not even begun.
    let server = Server::start(|_| Reply::ok(b"{}").length(Some(1 << 40))).await;
    let error = failure(resolve(&server, "a").await);
    assert!(error.what.contains("more than"), "{error}");
}

#[tokio::test]
async fn mirrors_come_first_and_their_failures_count_for_nothing() {
    let mut shelf = Shelf::default();
    let image = shelf.image("1", b"layer");
    let mut copy = Shelf::default();
    copy.image("1", b"layer");
    let own = registry(shelf, |_, _| None).await;
    let good = Server::start(move |request| copy.answer(request)).await;
    let empty = Server::start(|_| Reply::status(404)).await;
    let broken = Server::start(|_| Reply::ok(b"<html>")).await;
    let closed = "127.0.0.1:1";
    let name = format!("{}/team/app:1", own.host());

    let to = |mirror: &str| format!("{}={mirror}", own.host());
    let all =
        [to(closed), to(&broken.host()), to(&empty.host()), to(&format!("{}/hub", good.host()))];
    let reference = name.parse().unwrap();
    let settings = mirrored(&all.join(","));
    let resolved = client(settings).resolve(&reference, &Platform::host()).await.unwrap();
    assert_eq!(resolved.manifest_digest, image);
    assert!(own.requests().is_empty());
    assert_eq!(good.requests()[0].path(), "/v2/hub/team/app/manifests/1");

    let settings = mirrored(&all[..3].join(","));
    let resolved = client(settings).resolve(&reference, &Platform::host()).await.unwrap();
    assert_eq!(resolved.manifest_digest, image);
    assert!(!own.requests().is_empty() && !empty.requests().is_empty());
}

#[tokio::test]
async fn the_policy_is_asked_before_anybody_else() {
    let server = Server::start(|_| Reply::status(404)).await;
    let settings = RegistrySettings {
        policy: crate::Policy {
            registries: vec!["docker.io".to_owned()],
            ..crate::Policy::default()
        },
        ..settings()
    };
    let reference = format!("{}/a", server.host()).parse().unwrap();
    let error = failure(client(settings).resolve(&reference, &Platform::host()).await);
    assert_eq!(error.class, FailureClass::Policy);
    assert!(server.requests().is_empty());
}
