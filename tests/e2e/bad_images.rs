use std::fs;
use std::path::Path;

use inn_tests::hostile::{TarEntry, layout_of, tar_of};
use inn_tests::{Fixtures, Host, leftovers};

/// Imports `layer` as an image on a fresh host, which must refuse it with each
/// of `words` and keep nothing.
fn refuse_layer(layer: &[u8], words: &[&str]) {
    let host = Host::bare();
    host.start_agent();
    let layout = layout_of(&host.home(), layer);
    refuse(&host, &layout, &[], words);
    host.finish();
}

fn refuse(host: &Host, path: &Path, more: &[&str], words: &[&str]) {
    let before = host.kept_files();
    host.inn(["image", "import", "--name", "bad"])
        .args([path.as_os_str()])
        .args(more)
        .refused(1, words);
    assert_eq!(host.kept_files(), before, "a refused image leaves files");
    let list = host.inn(["image", "list", "-o", "json"]).json();
    assert_eq!(list.as_array().map(Vec::len), Some(0), "{list}");
}

pub(crate) fn layer_with_dot_dot() {
    for path in ["../escape", "a/../../escape", "a/.."] {
        refuse_layer(&tar_of(&[TarEntry::file(path, b"x")]), &[".."]);
    }
}

pub(crate) fn hard_link_out_of_the_root() {
    // Without a leading slash it points above; with one, tools differ on what
    // it means. Neither may ever reach a file of the host's.
    for to in ["../../../../etc/shadow", "/etc/shadow"] {
        let layer = tar_of(&[TarEntry::file("a", b"x"), TarEntry::hard_link("b", to)]);
        refuse_layer(&layer, &["b", "etc/shadow"]);
    }
}

pub(crate) fn entry_through_a_symlink_stays_inside() {
    let outside = tempfile::tempdir().unwrap();
    let to = outside.path().to_str().unwrap();
    let layer = tar_of(&[TarEntry::symlink("door", to), TarEntry::file("door/file", b"x")]);
    let host = Host::bare();
    host.start_agent();
    let layout = layout_of(&host.home(), &layer);
    // Refusing it and making a directory in the link's place are both right.
    host.inn(["image", "import", "--name", "bad"]).args([layout.as_os_str()]).output();
    assert_eq!(leftovers::entries_of(outside.path()), [""; 0], "written outside the image");
    host.finish();
}

pub(crate) fn truncated_archive() {
    let host = Host::bare();
    host.start_agent();
    for archive in [Fixtures::get().oci_archive(), Fixtures::get().docker_archive()] {
        let whole = fs::read(archive).unwrap();
        for part in [whole.len() / 2, whole.len() * 9 / 10, 700] {
            let cut = host.home().join("cut.tar");
            fs::write(&cut, &whole[..part]).unwrap();
            refuse(&host, &cut, &[], &["cut.tar"]);
        }
    }
    host.finish();
}

pub(crate) fn damaged_blob() {
    let host = Host::bare();
    host.start_agent();
    let layer = tar_of(&[TarEntry::file("etc/os-release", b"ID=x\n")]);
    let layout = layout_of(&host.home(), &layer);
    let blobs = layout.join("blobs/sha256");
    for entry in fs::read_dir(&blobs).unwrap() {
        let blob = entry.unwrap().path();
        let whole = fs::read(&blob).unwrap();
        let mut damaged = whole.clone();
        damaged[whole.len() / 3] ^= 1;
        fs::write(&blob, damaged).unwrap();
        refuse(&host, &layout, &[], &["sha256"]);
        fs::remove_file(&blob).unwrap();
        refuse(&host, &layout, &[], &["sha256"]);
        fs::write(&blob, whole).unwrap();
    }
    host.finish();
}

pub(crate) fn wrong_digest() {
    let host = Host::bare();
    host.start_agent();
    let digest = format!("sha256:{}", "0".repeat(64));
    let more = ["--reference", "mini", "--digest", &digest];
    refuse(&host, &Fixtures::get().layout(), &more, &[&digest]);
    refuse(&host, &Fixtures::get().layout(), &["--reference", "minni"], &["minni", "mini"]);
    host.finish();
}

pub(crate) fn not_an_image() {
    let host = Host::bare();
    host.start_agent();
    let text = host.home().join("notes.txt");
    fs::write(&text, "no image at all").unwrap();
    refuse(&host, &text, &[], &["notes.txt"]);
    let empty = host.home().join("empty");
    fs::create_dir(&empty).unwrap();
    refuse(&host, &empty, &[], &["empty"]);
    refuse(&host, Path::new("/no/such/path"), &[], &["/no/such/path"]);
    // A tar of something else.
    let other = host.home().join("other.tar");
    fs::write(&other, tar_of(&[TarEntry::file("hello", b"world")])).unwrap();
    refuse(&host, &other, &[], &["other.tar"]);
    host.finish();
}
