use std::ffi::OsString;
use std::path::Path;

use inn_tests::{Fixtures, Host, Inn};

use crate::suite::host;

pub(crate) fn every_form_boots() {
    let host = host();
    let fixtures = Fixtures::get();
    for (name, path) in [
        ("from-oci-archive", fixtures.oci_archive()),
        ("from-docker-archive", fixtures.docker_archive()),
        ("from-zstd", fixtures.zstd_layout()),
    ] {
        host.inn(["image", "import", "--name", name]).args([path.as_os_str()]).ok();
        let out = host.inn(["run", "--rm", name, "--", "cat", "/etc/marker"]).ok();
        assert_eq!(out, "mini, as imported\n", "{name}");
    }
}

pub(crate) fn list_and_delete() {
    let host = Host::up();
    host.import("configured");
    let list = host.inn(["image", "list", "-o", "json"]).json();
    let images = list.as_array().unwrap();
    assert_eq!(images.len(), 2, "{list}");
    for image in images {
        assert!(image["id"].as_str().unwrap().starts_with("sha256:"), "{image}");
        assert!(image["diskBytes"].as_u64().unwrap() > 1_000_000, "{image}");
    }
    host.inn(["vm", "create", "--no-start", "--image", "mini", "--name", "user"]).ok();
    host.inn(["image", "delete", "mini"]).refused(1, &["mini", "user"]);
    host.inn(["vm", "delete", "user"]).ok();
    host.inn(["image", "delete", "mini", "configured"]).ok();
    let list = host.inn(["image", "list", "-o", "json"]).json();
    assert_eq!(list.as_array().map(Vec::len), Some(0), "{list}");
    host.inn(["run", "--rm", "--pull", "never", "mini", "--", "true"]).refused(1, &["mini"]);
    host.finish();
}

pub(crate) fn second_import_is_the_same_image() {
    let host = host();
    let args = ["image", "import", "--reference", "mini", "--name", "again"];
    host.inn(args).args([Fixtures::get().layout().as_os_str()]).ok();
    let list = host.inn(["image", "list", "-o", "json"]).json();
    let id_of = |name: &str| {
        let images = list.as_array().unwrap();
        let found = images.iter().find(|i| i["name"].as_str().unwrap().starts_with(name));
        found.unwrap_or_else(|| panic!("no {name} in {list}"))["id"].clone()
    };
    assert_eq!(id_of("again"), id_of("mini"));
    host.inn(["image", "delete", "again"]).ok();
    assert_eq!(host.inn(["run", "--rm", "mini", "--", "echo", "still"]).ok(), "still\n");
}

pub(crate) fn digest_names_an_image() {
    let host = host();
    let list = host.inn(["image", "list", "-o", "json"]).json();
    let mini = list
        .as_array()
        .unwrap()
        .iter()
        .find(|i| i["name"].as_str().is_some_and(|n| n == "mini" || n == "mini:latest"));
    let digest = mini.unwrap()["id"].as_str().unwrap().to_owned();
    let args = ["image", "import", "--reference", "mini", "--name", "pinned", "--digest", &digest];
    host.inn(args).args([Fixtures::get().layout().as_os_str()]).ok();
    assert_eq!(host.inn(["run", "--rm", &digest, "--", "echo", "by digest"]).ok(), "by digest\n");
    host.inn(["image", "delete", "pinned"]).ok();
}

pub(crate) fn a_directory_is_built_into_an_image_that_runs() {
    let host = host();
    let dir = tempfile::tempdir().unwrap();
    let bundle = dir.path().join("bundle");
    let mini = format!("{}:mini", Fixtures::get().layout().display());
    let unpack = ["unpack", "--image", &mini].map(OsString::from);
    let args = unpack.into_iter().chain([bundle.clone().into_os_string()]).collect();
    Inn::new(Path::new("umoci"), args).ok();
    let root = bundle.join("rootfs");
    std::fs::write(root.join("etc/marker"), "built here\n").unwrap();
    let build = || {
        let args = ["image", "build", "--name", "built", "--workdir", "/etc"];
        host.inn(args).args([root.as_os_str()]).args(["--", "cat", "marker"]).ok()
    };
    let first = build();
    assert_eq!(first, build(), "the same directory is the same image");
    assert_eq!(host.inn(["run", "--rm", "built"]).ok(), "built here\n");
    host.inn(["image", "delete", "built"]).ok();
}
