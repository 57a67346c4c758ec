use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::suite::{SHARED_VM, host_with_vm};

fn in_vm(path: &str) -> String {
    format!("{SHARED_VM}:{path}")
}

pub(crate) fn files_both_ways() {
    let host = host_with_vm();
    let dir = host.home().join("cp-files");
    fs::create_dir(&dir).unwrap();
    let data: Vec<u8> = (0u32..700_000).flat_map(u32::to_le_bytes).collect();
    fs::write(dir.join("data"), &data).unwrap();
    fs::set_permissions(dir.join("data"), fs::Permissions::from_mode(0o640)).unwrap();
    host.inn(["vm", "cp", "data", &in_vm("/root/copied")]).dir(&dir).ok();
    let seen =
        host.inn(["vm", "exec", SHARED_VM, "--", "stat", "-c", "%s %a", "/root/copied"]).ok();
    assert_eq!(seen, "2800000 640\n");
    host.inn(["vm", "cp", &in_vm("/root/copied"), "back"]).dir(&dir).ok();
    assert!(fs::read(dir.join("back")).unwrap() == data, "the file came back another");
    assert_eq!(fs::metadata(dir.join("back")).unwrap().permissions().mode() & 0o777, 0o640);
}

pub(crate) fn directories_both_ways() {
    let host = host_with_vm();
    let dir = host.home().join("cp-dirs");
    fs::create_dir_all(dir.join("site/deep/er")).unwrap();
    fs::write(dir.join("site/index"), "index").unwrap();
    fs::write(dir.join("site/deep/er/leaf"), "leaf").unwrap();
    std::os::unix::fs::symlink("deep/er/leaf", dir.join("site/link")).unwrap();
    host.inn(["vm", "cp", "./site", &in_vm("/srv/")]).dir(&dir).ok();
    let script = "cd /srv/site && cat index deep/er/leaf && readlink link && cat link";
    let seen = host.inn(["vm", "exec", SHARED_VM, "--", "sh", "-c", script]).ok();
    assert_eq!(seen, "indexleafdeep/er/leaf\nleaf");
    host.inn(["vm", "cp", &in_vm("/srv/site"), "./back"]).dir(&dir).ok();
    assert_eq!(fs::read_to_string(dir.join("back/deep/er/leaf")).unwrap(), "leaf");
    assert_eq!(fs::read_link(dir.join("back/link")).unwrap().to_str(), Some("deep/er/leaf"));
}

pub(crate) fn streams() {
    let host = host_with_vm();
    host.inn(["vm", "cp", "-", &in_vm("/root/streamed")]).stdin("through a pipe").ok();
    assert_eq!(host.inn(["vm", "cp", &in_vm("/root/streamed"), "-"]).ok(), "through a pipe");
    let hostname = host.inn(["vm", "cp", &in_vm("/etc/hostname"), "-"]).ok();
    assert_eq!(hostname.trim(), SHARED_VM);
}

pub(crate) fn missing_source_is_named() {
    let host = host_with_vm();
    host.inn(["vm", "cp", &in_vm("/no/such/file"), "here"]).refused(1, &["/no/such/file"]);
    assert!(!host.home().join("here").exists(), "a failed copy leaves nothing");
    host.inn(["vm", "cp", "not-there", &in_vm("/root/x")]).refused(1, &["not-there"]);
    host.inn(["vm", "cp", "a", "b"]).refused(2, &["VM:"]);
}
