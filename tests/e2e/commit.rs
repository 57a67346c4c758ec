//! Images of VMs' disks: what the VM had is what the image has.

use std::time::Duration;

use inn_tests::{Fixtures, Host, tree};

use crate::suite::host;

/// What the agent writes in every guest, and where the guest mounts what is
/// its kernel's.
const OURS: [&str; 9] = [
    "etc/hostname",
    "etc/hosts",
    "etc/resolv.conf",
    "etc/machine-id",
    "proc",
    "sys",
    "dev",
    "run",
    "tmp",
];

const SLOW: Duration = Duration::from_secs(300);

/// One of each that overlayfs and ext4 have: removed, replaced, renamed with
/// all that is below, opaque, linked, sparse, with attributes and odd names.
const CHANGES: &str = r#"
import os
os.remove("/etc/marker") if os.path.exists("/etc/marker") else None
os.rename("/usr/share/misc" if os.path.isdir("/usr/share/misc") else "/usr/share/base-files", "/srv/renamed")
open("/srv/renamed/added", "w").write("beside what was renamed")
os.rename("/t", "/srv/t")
import shutil
shutil.rmtree("/usr/share/doc", ignore_errors=True)
os.makedirs("/usr/share/doc/new")
os.makedirs("/srv/deep/" + "/".join("x" * 40 for _ in range(20)))
open("/srv/one", "w").write("one")
os.link("/srv/one", "/srv/two")
os.symlink("one", "/srv/short")
os.symlink("y" * 500, "/srv/long")
os.mkfifo("/srv/fifo")
os.mknod("/srv/null", 0o20640, os.makedev(1, 3))
os.setxattr("/srv/one", "user.note", b"kept" * 300)
os.setxattr("/srv/one", "security.capability", bytes.fromhex("0000000200040000000000000000000000000000"))
with open("/srv/sparse", "wb") as f:
    for n in range(30):
        f.seek(n * 3_000_000)
        f.write(b"part %d" % n)
    f.truncate(200_000_000)
open(b"/srv/odd \xff name", "w").write("not UTF-8")
os.chmod("/srv/one", 0o4751)
os.chown("/srv/one", 3000000, 12)
os.utime("/srv/two", (1, 2_000_000_000))
open("/etc/passwd", "a").write("x:x:4242:4242::/:/bin/false\n")
for n in range(1500):
    open(f"/srv/deep/a name of some length {n}", "w").write(str(n))
os.sync()
"#;

fn list(host: &Host, args: &[&str]) -> Vec<tree::Entry> {
    let listing = host.inn(args).stdin(tree::LISTER).limit(SLOW).ok();
    tree::parse(&listing)
}

fn assert_same(expected: &[tree::Entry], seen: &[tree::Entry]) {
    assert!(expected.len() > 5_000, "only {} entries", expected.len());
    let differences = tree::differences(expected, seen, &OURS);
    let shown = differences.iter().take(40).cloned().collect::<Vec<_>>().join("\n");
    assert!(differences.is_empty(), "{} differences:\n{shown}", differences.len());
}

/// Stopped by force, so that the disk's journal has what the disk has not; and
/// once more while it runs.
pub(crate) fn an_image_of_a_vm_has_what_the_vm_had() {
    let host = host();
    host.import("multi");
    host.inn(["vm", "create", "--image", "multi", "--name", "origin", "--memory", "512MiB"])
        .limit(SLOW)
        .ok();
    let python = ["vm", "exec", "-i", "origin", "--", "python3", "-"];
    host.inn(python).stdin(CHANGES).limit(SLOW).ok();
    let had = list(host, &python);
    let entry = |path: &str| had.iter().find(|e| e.shown() == path);
    assert!(entry("srv/renamed/added").is_some() && entry("srv/t/setuid").is_some());

    let commit = |name: &str, more: &[&str]| {
        let args = ["vm", "commit", "origin", "--name", name];
        host.inn(args).args(more).limit(SLOW).ok()
    };
    let running = commit("running", &[]);
    assert!(running.starts_with("running sha256:"), "{running}");
    // It goes on as if nothing had been.
    host.inn(["vm", "exec", "origin", "--", "sh", "-c", "echo later >/srv/later; sync"]).ok();
    host.inn(["vm", "stop", "--force", "origin"]).ok();
    commit("stopped", &["-e", "MODE=new", "--label", "tier=test", "--", "cat", "/srv/later"]);

    let run = ["run", "--rm", "-i", "--memory", "512MiB"];
    let python = |image| [&run[..], &[image, "--", "python3", "-"]].concat();
    assert_same(&had, &list(host, &python("running")));
    let seen = list(host, &python("stopped"));
    let (later, before): (Vec<_>, Vec<_>) =
        seen.into_iter().partition(|e| e.shown() == "srv/later");
    assert_eq!(later.len(), 1);
    assert_same(&had, &before);
    let said = host.inn([&run[..], &["stopped"]].concat()).limit(SLOW).ok();
    assert_eq!(said, "later\n", "what it runs was said at the commit");

    // Its layers are those of the image that it was made from, and one more.
    let images = host.inn(["image", "list", "-o", "json"]).json();
    let named = |name: &str| {
        let all = images.as_array().unwrap();
        all.iter().find(|i| i["name"].as_str().unwrap().starts_with(name)).unwrap().clone()
    };
    assert_eq!(named("stopped")["config"]["labels"]["tier"], "test");
    let (own, base) =
        (named("stopped")["blobBytes"].as_u64(), named("multi")["blobBytes"].as_u64());
    assert!(own > base, "{own:?} {base:?}");

    host.inn(["vm", "start", "origin"]).limit(SLOW).ok();
    host.inn(["vm", "commit", "absent", "--name", "x"]).refused(1, &["absent"]);
    host.inn(["vm", "delete", "--force", "origin"]).ok();
    host.inn(["image", "delete", "running", "stopped"]).ok();
    assert!(Fixtures::get().layout().exists());
}
