//! The cache: names, sharing, deletion, archives, writable disks.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "test code: a panic is a failure"
)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use inn_image::{ImageError, ImageStore, ImportRequest, Unwatched};
use inn_units::{Bytes, MIB};
use support::debugfs::{assert_clean, available};
use support::{Cache, Tar, digest, host_architecture, layout, request, write_layout};

fn named(path: &Path, name: &str) -> ImportRequest {
    ImportRequest { name: name.parse().unwrap(), ..request(path) }
}

#[test]
fn an_image_is_found_by_name_and_by_digest() {
    let (one, two) =
        (layout(&[Tar::new().file("a", "1").end()]), layout(&[Tar::new().file("a", "2").end()]));
    let cache = Cache::new();
    let first = cache.store.import(&named(one.path(), "base"), &Unwatched).unwrap();
    let second =
        cache.store.import(&named(two.path(), "localhost:5000/team/base:12"), &Unwatched).unwrap();
    let find = |text: &str| cache.store.find(text).unwrap();
    assert_eq!(find("base"), Some(first.clone()));
    assert_eq!(find("base:latest"), Some(first.clone()));
    assert_eq!(find("localhost:5000/team/base:12"), Some(second.clone()));
    assert_eq!(find(&second.manifest.to_string()), Some(second.clone()));
    assert_eq!(find(&second.manifest.short()), Some(second.clone()));
    assert_eq!(find(&second.manifest.hex()[..6]), Some(second.clone()));
    for absent in
        ["base:12", "localhost:5000/team/base", "ba", "", "../records", &second.manifest.hex()[..5]]
    {
        assert_eq!(find(absent), None, "{absent}");
    }
    assert_eq!(cache.store.list().unwrap(), [first.clone(), second]);
    // Another process sees the same.
    let other = ImageStore::open(cache.dir.path()).unwrap();
    assert_eq!(other.find("base").unwrap(), Some(first.clone()));

    fs::remove_file(&first.root_disk).unwrap();
    let error = cache.store.find("base").unwrap_err().to_string();
    assert!(error.contains("base") && error.contains("import the image again"), "{error}");
    assert_eq!(
        cache.store.import(&named(one.path(), "base"), &Unwatched).unwrap().root_disk,
        first.root_disk
    );
    assert!(cache.store.find("base").unwrap().is_some());
}

#[test]
fn importing_again_makes_nothing_anew() {
    use std::os::unix::fs::MetadataExt;
    let image = layout(&[Tar::new().file("a", "1").end()]);
    let cache = Cache::new();
    let first = cache.import(image.path()).unwrap();
    let inode = fs::metadata(&first.root_disk).unwrap().ino();
    let again = cache.store.import(&named(image.path(), "other"), &Unwatched).unwrap();
    assert_eq!((again.root_disk.clone(), again.manifest), (first.root_disk, first.manifest));
    assert_eq!(fs::metadata(&again.root_disk).unwrap().ino(), inode);
    assert_eq!(cache.store.list().unwrap().len(), 2);
}

#[test]
fn imports_of_one_image_at_once_make_it_once() {
    let image = layout(&[Tar::new().file("a", &"x".repeat(3_000_000)).end()]);
    let cache = Cache::new();
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..4).map(|_| scope.spawn(|| cache.import(image.path()).unwrap())).collect();
        let mut made: Vec<_> =
            threads.into_iter().map(|thread| thread.join().unwrap().root_disk).collect();
        made.dedup();
        assert_eq!(made.len(), 1);
    });
    assert_eq!(cache.files("disks").len(), 1);
    cache.assert_no_leftovers();
}

#[test]
fn the_same_image_is_the_same_bytes_everywhere() {
    let image = layout(&[Tar::new().dir("d").file("d/a", "1").symlink("s", "d").end()]);
    let disks: Vec<Vec<u8>> = (0..2)
        .map(|_| {
            let cache = Cache::new();
            fs::read(cache.import(image.path()).unwrap().root_disk).unwrap()
        })
        .collect();
    assert!(disks[0] == disks[1]);
}

#[test]
fn deleting_keeps_what_others_need() {
    let shared = Tar::new().file("shared", "s").end();
    let images = [
        layout(&[shared.clone(), Tar::new().file("a", "").end()]),
        layout(std::slice::from_ref(&shared)),
    ];
    let cache = Cache::new();
    let one = cache.store.import(&named(images[0].path(), "one"), &Unwatched).unwrap();
    cache.store.import(&named(images[0].path(), "also-one"), &Unwatched).unwrap();
    let two = cache.store.import(&named(images[1].path(), "two"), &Unwatched).unwrap();
    let delete = |name: &str, in_use: &[_]| cache.store.delete(&name.parse().unwrap(), in_use);

    delete("one", &[]).unwrap();
    assert!(one.root_disk.exists() && cache.store.find("also-one").unwrap().is_some());
    delete("also-one", &[one.manifest]).unwrap();
    assert!(one.root_disk.exists(), "a VM runs from it");
    let shared_blob = cache.dir.path().join("blobs/sha256").join(digest(&shared).hex());
    assert!(shared_blob.exists());

    let error = delete("twoo", &[]).unwrap_err();
    assert!(
        matches!(error, ImageError::NotFound { .. })
            && error.to_string().contains("did you mean two"),
        "{error}"
    );
    delete("two", &[]).unwrap();
    assert!(!one.root_disk.exists() && !two.root_disk.exists() && !shared_blob.exists());
    assert!(cache.store.list().unwrap().is_empty() && cache.files("blobs/sha256").is_empty());
    assert!(delete("two", &[]).is_err());
}

#[test]
fn a_damaged_blob_in_the_cache_is_taken_in_anew() {
    let shared = Tar::new().file("shared", "content").end();
    let cache = Cache::new();
    cache
        .store
        .import(&named(layout(std::slice::from_ref(&shared)).path(), "one"), &Unwatched)
        .unwrap();
    let blob = cache.dir.path().join("blobs/sha256").join(digest(&shared).hex());
    let mut bytes = fs::read(&blob).unwrap();
    bytes[0] ^= 1;
    fs::write(&blob, &bytes).unwrap();
    // Otherwise it would not be read: its disk begins as a copy of the first.
    fs::remove_file(&cache.files("journals")[0]).unwrap();
    let two = layout(&[shared.clone(), Tar::new().file("b", "").end()]);
    cache.store.import(&named(two.path(), "two"), &Unwatched).unwrap();
    assert_eq!(fs::read(&blob).unwrap(), shared);
}

#[test]
fn what_a_dead_import_left_is_reaped_and_a_living_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let living = ImageStore::open(dir.path()).unwrap();
    let dead = dir.path().join("tmp/new-dead");
    fs::create_dir(&dead).unwrap();
    fs::write(dead.join("lock"), "1\n").unwrap();
    fs::write(dead.join("half a disk"), "x").unwrap();
    let next = ImageStore::open(dir.path()).unwrap();
    assert!(!dead.exists());
    let image = layout(&[Tar::new().file("a", "").end()]);
    living.import(&request(image.path()), &Unwatched).unwrap();
    drop((living, next));
    assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
}

/// A `docker save` as it was before Docker 25, of several images.
fn docker_save(images: &[(&str, Vec<Vec<u8>>)], architecture: &str) -> Vec<u8> {
    let mut tar = Tar::new();
    let mut manifest = Vec::new();
    for (number, (tag, layers)) in images.iter().enumerate() {
        let ids: Vec<String> =
            layers.iter().map(|layer| format!("\"{}\"", digest(&plain(layer)))).collect();
        let config = format!(
            r#"{{"architecture":"{architecture}","os":"linux","config":{{"User":"7","WorkingDir":"/w","Cmd":null,"Labels":null}},"rootfs":{{"type":"layers","diff_ids":[{}]}},"history":null}}"#,
            ids.join(",")
        );
        let config_name = format!("{}.json", digest(config.as_bytes()).hex());
        tar = tar.file(&config_name, &config);
        let mut names = Vec::new();
        for (i, layer) in layers.iter().enumerate() {
            let name = format!("{number}-{i}/layer.tar");
            tar = tar.entry(tar::EntryType::Regular, name.as_bytes(), b"", layer);
            // The same layer is a link in the second image.
            let linked = format!("{number}-{i}/link.tar");
            tar = tar.symlink(&linked, &format!("../{name}"));
            names.push(format!("\"{linked}\""));
        }
        manifest.push(format!(
            r#"{{"Config":"{config_name}","RepoTags":["{tag}"],"Layers":[{}]}}"#,
            names.join(",")
        ));
    }
    tar.file("manifest.json", &format!("[{}]", manifest.join(","))).end()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, bytes).unwrap();
    encoder.finish().unwrap()
}

fn plain(bytes: &[u8]) -> Vec<u8> {
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return bytes.to_vec();
    }
    let mut out = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(bytes), &mut out).unwrap();
    out
}

#[test]
fn archives_of_docker_save_old_compressed_and_of_several_images() {
    let layer = Tar::new().file("a", "1").end();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("saved");
    let import = |bytes: &[u8], reference: Option<&str>| {
        fs::write(&path, bytes).unwrap();
        let cache = Cache::new();
        let reference = reference.map(str::to_owned);
        let result = cache.store.import(&ImportRequest { reference, ..request(&path) }, &Unwatched);
        cache.assert_no_leftovers();
        result
    };
    let one = docker_save(&[("base:1", vec![layer.clone()])], host_architecture());
    let record = import(&one, None).unwrap();
    assert_eq!(
        (record.config.user.as_deref(), record.config.working_dir.as_deref()),
        (Some("7"), Some("/w"))
    );
    // The whole archive compressed is the same image; a compressed layer is
    // another manifest with the same disk.
    assert_eq!(import(&gzip(&one), None).unwrap().manifest, record.manifest);
    assert_eq!(
        import(&zstd::encode_all(&one[..], 1).unwrap(), None).unwrap().manifest,
        record.manifest
    );
    let packed = docker_save(&[("base:1", vec![gzip(&layer)])], host_architecture());
    let other = import(&packed, None).unwrap();
    assert_eq!(other.disk_bytes, record.disk_bytes);
    assert_ne!(other.manifest, record.manifest);

    let two = docker_save(
        &[("base:1", vec![layer.clone()]), ("other:latest", vec![Tar::new().file("b", "").end()])],
        host_architecture(),
    );
    let error = import(&two, None).unwrap_err().to_string();
    assert!(error.contains("base:1") && error.contains("other:latest"), "{error}");
    assert_eq!(import(&two, Some("base:1")).unwrap().manifest, record.manifest);
    assert!(import(&two, Some("docker.io/library/other")).is_ok());
    let error = import(&two, Some("third")).unwrap_err().to_string();
    assert!(error.contains("`third`") && error.contains("base:1"), "{error}");

    let foreign = docker_save(&[("base:1", vec![layer.clone()])], "s390x");
    assert!(import(&foreign, None).unwrap_err().to_string().contains("s390x"));
    let lying = docker_save(&[("base:1", vec![layer])], host_architecture());
    let at = lying.windows(2).position(|pair| pair == b"a\0").unwrap();
    let mut changed = lying;
    changed[at + 512] = b'2';
    assert!(matches!(import(&changed, None).unwrap_err(), ImageError::DigestMismatch { .. }));
}

#[test]
fn a_layout_of_several_images_is_chosen_from_by_reference_digest_or_machine() {
    let dir = tempfile::tempdir().unwrap();
    let mut found = BTreeMap::new();
    let mut descriptors = Vec::new();
    for (name, architecture) in
        [("one", host_architecture()), ("two", host_architecture()), ("three", "s390x")]
    {
        let layer = Tar::new().file(name, "").end();
        write_layout(dir.path(), &[(layer.clone(), layer)], architecture);
        let index = fs::read_to_string(dir.path().join("index.json")).unwrap();
        let descriptor =
            index.split_once("\"manifests\":[").unwrap().1.strip_suffix("}]}").unwrap().to_owned();
        found.insert(
            name,
            descriptor.split('"').find(|text| text.starts_with("sha256:")).unwrap().to_owned(),
        );
        let platform = format!(r#""platform":{{"os":"linux","architecture":"{architecture}"}}"#);
        descriptors.push((name, descriptor, platform));
    }
    let write = |list: Vec<String>| {
        fs::write(
            dir.path().join("index.json"),
            format!(r#"{{"manifests":[{}]}}"#, list.join(",")),
        )
        .unwrap();
    };
    let cache = Cache::new();
    let import = |reference: Option<&str>, digest: Option<&String>| {
        let reference = reference.map(str::to_owned);
        let digest = digest.map(|digest| digest.parse().unwrap());
        let record = cache
            .store
            .import(&ImportRequest { reference, digest, ..request(dir.path()) }, &Unwatched);
        record.map(|record| record.manifest.to_string()).map_err(|error| error.to_string())
    };
    write(
        descriptors
            .iter()
            .map(|(name, d, _)| {
                format!(r#"{d},"annotations":{{"org.opencontainers.image.ref.name":"{name}"}}}}"#)
            })
            .collect(),
    );
    let error = import(None, None).unwrap_err();
    assert!(error.contains("one") && error.contains("two") && error.contains("three"), "{error}");
    assert_eq!(import(Some("two"), None), Ok(found["two"].clone()));
    assert_eq!(import(None, Some(&found["one"])), Ok(found["one"].clone()));
    assert!(import(Some("two"), Some(&found["one"])).unwrap_err().contains("has the digest"));
    assert!(import(Some("three"), None).unwrap_err().contains("s390x"));

    // One image for several machines, listed without names.
    write(descriptors[1..].iter().map(|(_, d, platform)| format!("{d},{platform}}}")).collect());
    assert_eq!(import(None, None), Ok(found["two"].clone()));
}

#[test]
fn scratch_disks_are_clean_sparse_and_of_the_size() {
    use std::os::unix::fs::MetadataExt;
    if !available("scratch_disks_are_clean_sparse_and_of_the_size") {
        return;
    }
    let cache = Cache::new();
    let path = cache.dir.path().join("rw.img");
    fs::write(&path, vec![0xff; 4096]).unwrap();
    for (size, expected) in
        [(Bytes(16 * MIB), 16 * MIB), (Bytes(16 * MIB + 1), 17 * MIB), (Bytes::gib(2), 2048 * MIB)]
    {
        cache.store.make_scratch_disk(&path, size).unwrap();
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!(metadata.len(), expected);
        assert!(
            metadata.blocks() * 512 < 4 * MIB,
            "{} bytes are allocated",
            metadata.blocks() * 512
        );
        assert_clean(&path);
    }
    let templates = cache.files("scratch");
    assert_eq!(templates.len(), 3);
    for template in templates {
        assert!(fs::metadata(template).unwrap().blocks() * 512 < 4 * MIB);
    }
    cache.assert_no_leftovers();
}
