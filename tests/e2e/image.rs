use std::ffi::OsString;
use std::fs;
use std::path::Path;

use inn_tests::{Fixtures, Host, Inn, tree};

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

/// What skopeo and umoci make of it is what they make of the image itself.
pub(crate) fn an_exported_image_is_a_layout_to_others() {
    let host = host();
    host.import("multi");
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).into_os_string();
    let export = |to: &str, more: &[&str]| {
        host.inn(["image", "export", "multi", "--to"]).args([at(to)]).args(more)
    };
    let said = export("layout", &[]).ok();
    export("layout", &[]).refused(1, &["layout", "--force"]);
    assert_eq!(said, export("layout", &["--force"]).ok());
    export("image.tar", &[]).ok();
    export("again.tar", &[]).ok();
    assert!(fs::read(at("image.tar")).unwrap() == fs::read(at("again.tar")).unwrap());

    let digest = said.split_whitespace().last().unwrap().to_owned();
    let skopeo = |source: String| {
        let args = ["inspect", "--format", "{{.Digest}}", &source].map(OsString::from);
        Inn::new(Path::new("skopeo"), args.into()).ok().trim().to_owned()
    };
    let layout = dir.path().join("layout");
    assert_eq!(skopeo(format!("oci:{}:latest", layout.display())), digest);
    let archive = dir.path().join("image.tar");
    assert_eq!(skopeo(format!("oci-archive:{}:latest", archive.display())), digest);

    let image = format!("{}:latest", layout.display());
    let args = ["unpack", "--image", &image].map(OsString::from);
    Inn::new(Path::new("umoci"), args.into_iter().chain([at("bundle")]).collect()).ok();
    let seen = tree::list(&dir.path().join("bundle/rootfs"));
    let expected = tree::list(&Fixtures::get().unpacked_multi());
    let differences = tree::differences(&expected, &seen, &[]);
    assert!(differences.is_empty(), "{}", differences.join("\n"));

    // Of docker's words, too, and of what was built here.
    host.inn(["image", "import", "--name", "saved"])
        .args([Fixtures::get().docker_archive().as_os_str()])
        .ok();
    host.inn(["image", "export", "saved", "--to"]).args([at("saved")]).ok();
    host.inn(["image", "import", "--name", "back"]).args([at("saved")]).ok();
    let marker = host.inn(["run", "--rm", "back", "--", "cat", "/etc/marker"]).ok();
    assert_eq!(marker, "mini, as imported\n");
    host.inn(["image", "delete", "saved", "back"]).ok();
}
