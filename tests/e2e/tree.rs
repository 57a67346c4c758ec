use std::process::Command;
use std::time::Duration;

use inn_tests::{Fixtures, tree};

use crate::suite::host;

/// What the agent writes in every guest, whatever its image holds, and where
/// the guest mounts what is its kernel's.
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

pub(crate) fn guest_sees_what_umoci_unpacks() {
    let host = host();
    host.import("multi");
    let listing = host
        .inn(["run", "--rm", "-i", "--memory", "512MiB", "multi", "--", "python3", "-"])
        .stdin(tree::LISTER)
        .limit(Duration::from_secs(300))
        .ok();
    let seen = tree::parse(&listing);
    let expected = tree::list(&Fixtures::get().unpacked_multi());
    assert!(expected.len() > 5_000, "only {} entries: that is no root file system", expected.len());
    let differences = tree::differences(&expected, &seen, &OURS);
    let shown = differences.iter().take(40).cloned().collect::<Vec<_>>().join("\n");
    assert!(differences.is_empty(), "{} differences:\n{shown}", differences.len());

    // What the comparison must have covered to be worth its name.
    let entry = |path: &str| {
        seen.iter().find(|e| e.shown() == path).unwrap_or_else(|| panic!("{path} is not there"))
    };
    assert_eq!(entry("t/hard2").same_as.as_deref(), Some(&*entry("t/hard1").path));
    assert_eq!(entry("t/setuid").mode, 0o4755);
    assert_eq!((entry("t/far-owner").uid, entry("t/far-owner").gid), (3_000_000_000, 100_000));
    assert_eq!(entry("t/block").device, Some((259, 1_048_575)));
    assert!(entry("t/capable").xattrs.contains_key("security.capability"));
    assert!(entry("t/xattrs").xattrs.contains_key("user.long"));
    assert!(seen.iter().all(|e| !e.shown().contains(".wh.")), "a whiteout is seen as a file");
}

/// The listers on both sides say the same of the same tree, so that what
/// differs above is the guest's.
#[expect(clippy::disallowed_methods, reason = "the lister runs in a chroot, not in a guest")]
pub(crate) fn both_listers_agree() {
    let root = Fixtures::get().unpacked_multi();
    let listed = Command::new("chroot")
        .arg(&root)
        .args(["/usr/bin/python3", "-c", tree::LISTER])
        .output()
        .unwrap();
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let seen = tree::parse(&String::from_utf8(listed.stdout).unwrap());
    let differences = tree::differences(&tree::list(&root), &seen, &[]);
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
