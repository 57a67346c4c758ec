//! Images made from a directory or a tar.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "test code: a panic is a failure"
)]

mod support;

use std::fs;
use std::path::Path;

use inn_image::{RunConfig, write_layout};
use support::debugfs::{assert_clean, available, read_tree};
use support::{Cache, Tar};

fn build(source: &Path, cmd: &[&str]) -> (tempfile::TempDir, inn_units::Digest) {
    let dir = tempfile::tempdir().unwrap();
    let run = RunConfig {
        cmd: cmd.iter().map(|&word| word.to_owned()).collect(),
        working_dir: Some("/srv".into()),
        ..RunConfig::default()
    };
    let digest = write_layout(source, &run, dir.path()).unwrap();
    (dir, digest)
}

#[test]
fn a_directory_is_an_image_and_the_same_one_each_time() {
    if !available("a_directory_is_an_image_and_the_same_one_each_time") {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let long = "n".repeat(200);
    fs::create_dir_all(root.path().join("etc").join(&long)).unwrap();
    fs::write(root.path().join("etc").join(&long).join("hosts"), "localhost").unwrap();
    fs::write(root.path().join("run"), "#!/bin/sh\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o4755);
    fs::set_permissions(root.path().join("run"), mode).unwrap();
    fs::hard_link(root.path().join("run"), root.path().join("same")).unwrap();
    std::os::unix::fs::symlink("etc", root.path().join("link")).unwrap();
    let name = "user.note";
    let flags = rustix::fs::XattrFlags::empty();
    let noted = rustix::fs::lsetxattr(root.path().join("run"), name, b"kept", flags).is_ok();

    let (layout, digest) = build(root.path(), &["/run"]);
    assert_eq!(build(root.path(), &["/run"]).1, digest);
    assert_ne!(build(root.path(), &["/other"]).1, digest);
    let cache = Cache::new();
    let record = cache.import(layout.path()).unwrap();
    assert_eq!(record.manifest, digest);
    assert_eq!(record.config.cmd, ["/run"]);
    assert_eq!(record.config.working_dir.as_deref(), Some("/srv"));
    assert_clean(&record.root_disk);
    let tree = read_tree(&record.root_disk);
    assert_eq!((tree["run"].mode, tree["run"].links), (0o104_755, 2));
    assert_eq!(tree["link"].content, b"etc");
    assert_eq!(tree[&format!("etc/{long}/hosts")].content, b"localhost");
    println!("with an attribute: {noted}");
}

#[test]
fn a_tar_becomes_the_layer_as_it_is() {
    let tar = Tar::new().file("a", "1").end();
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in
        [("plain.tar", tar.clone()), ("packed.tar.zst", zstd::encode_all(&tar[..], 1).unwrap())]
    {
        let path = dir.path().join(name);
        fs::write(&path, &bytes).unwrap();
        let (layout, digest) = build(&path, &[]);
        let blob = layout.path().join("blobs/sha256").join(support::digest(&bytes).hex());
        assert_eq!(fs::read(blob).unwrap(), bytes);
        assert_eq!(Cache::new().import(layout.path()).unwrap().manifest, digest);
    }
    let missing = write_layout(&dir.path().join("none"), &RunConfig::default(), dir.path());
    assert!(missing.unwrap_err().to_string().contains("a directory or of a tar"));
}
