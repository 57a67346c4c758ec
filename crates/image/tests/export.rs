//! Images written as OCI layouts: what came goes, verified, and comes back.

#![allow(clippy::unwrap_used, reason = "test code: a panic is a failure")]

mod support;

use std::fs;
use std::path::Path;

use inn_image::{ImageError, receive_layout};
use serde_json::{Value, json};
use support::{Cache, Tar, digest, layout, request};

fn tar_of(cache: &Cache) -> Vec<u8> {
    let image = cache.store.export("test").unwrap();
    let expected = image.tar_bytes();
    let mut tar = Vec::new();
    image.write_tar(&mut tar).unwrap();
    assert_eq!(tar.len() as u64, expected);
    tar
}

fn two_layers() -> Vec<Vec<u8>> {
    vec![Tar::new().file("a", "1").end(), Tar::new().file("b", "2").end()]
}

#[test]
fn an_exported_image_is_imported_as_the_same_one() {
    let cache = Cache::new();
    let image = cache.import(layout(&two_layers()).path()).unwrap();
    let tar = tar_of(&cache);
    assert_eq!(tar, tar_of(&cache), "the same image is the same bytes");

    let dir = tempfile::tempdir().unwrap();
    let into = dir.path().join("layout");
    fs::create_dir(&into).unwrap();
    assert_eq!(receive_layout(&mut &tar[..], Some(&into)).unwrap(), image.manifest);
    let archive = dir.path().join("image.tar");
    fs::write(&archive, &tar).unwrap();
    for path in [&into, &archive] {
        let other = Cache::new();
        assert_eq!(other.import(path).unwrap().manifest, image.manifest);
    }
    let index: Value = serde_json::from_slice(&fs::read(into.join("index.json")).unwrap()).unwrap();
    let name = &index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"];
    assert_eq!(name, "latest");
}

/// Docker's words for the same: the layers stay, the manifest's digest does not.
#[test]
fn a_docker_manifest_becomes_one_of_the_image_spec() {
    let source = layout(&two_layers());
    in_docker_words(source.path());
    let cache = Cache::new();
    let image = cache.import(source.path()).unwrap();
    let tar = tar_of(&cache);
    let dir = tempfile::tempdir().unwrap();
    let digest = receive_layout(&mut &tar[..], Some(dir.path())).unwrap();
    assert_ne!(digest, image.manifest);
    let manifest = fs::read_to_string(dir.path().join("blobs/sha256").join(digest.hex())).unwrap();
    assert!(!manifest.contains("docker"), "{manifest}");
    let other = Cache::new();
    let again = other.import(dir.path()).unwrap();
    assert_eq!(fs::read(again.root_disk).unwrap().len(), fs::read(image.root_disk).unwrap().len());
}

fn in_docker_words(layout: &Path) {
    let read = |path: &Path| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let index = layout.join("index.json");
    let mut described = read(&index);
    let hex = described["manifests"][0]["digest"].as_str().unwrap()[7..].to_owned();
    let blobs = layout.join("blobs/sha256");
    let mut manifest = read(&blobs.join(hex));
    let kind = "application/vnd.docker.distribution.manifest.v2+json";
    manifest["mediaType"] = json!(kind);
    manifest["config"]["mediaType"] = json!("application/vnd.docker.container.image.v1+json");
    for layer in manifest["layers"].as_array_mut().unwrap() {
        layer["mediaType"] = json!("application/vnd.docker.image.rootfs.diff.tar");
    }
    let bytes = manifest.to_string().into_bytes();
    fs::write(blobs.join(digest(&bytes).hex()), &bytes).unwrap();
    described["manifests"][0] =
        json!({ "mediaType": kind, "digest": digest(&bytes), "size": bytes.len() });
    fs::write(index, described.to_string()).unwrap();
}

#[test]
fn what_is_damaged_or_gone_is_said_and_never_exported() {
    let cache = Cache::new();
    let source = layout(&two_layers());
    cache.import(source.path()).unwrap();
    let layer = digest(&two_layers()[1]);
    let blob = cache.dir.path().join("blobs/sha256").join(layer.hex());
    let mut bytes = fs::read(&blob).unwrap();
    bytes[600] ^= 1;
    fs::write(&blob, &bytes).unwrap();
    let mut tar = Vec::new();
    let error = cache.store.export("test").unwrap().write_tar(&mut tar).unwrap_err();
    assert!(matches!(error, ImageError::DigestMismatch { .. }), "{error}");
    assert!(receive_layout(&mut &tar[..], None).is_err(), "half a tar is none");

    fs::remove_file(&blob).unwrap();
    let error = cache.store.export("test").unwrap_err().to_string();
    assert!(error.contains(&layer.to_string()) && error.contains("get it again"), "{error}");
    let error = cache.store.export("absent").unwrap_err();
    assert!(matches!(error, ImageError::NotFound { .. }), "{error}");
    // Which is what it says.
    cache.store.delete(&request(source.path()).name, &[]).unwrap();
    cache.import(source.path()).unwrap();
    assert!(cache.store.export("test").is_ok());
}
