//! `inn doctor`, for people and for scripts.

use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt;

use inn_tests::Host;

/// An agent tells what it has found; without one whoever asks looks, and starts
/// none. What VMs cannot be without decides on the exit code.
pub(crate) fn its_exit_code_says_whether_vms_run_here() {
    let host = Host::bare();
    let data = host.data();
    set_permissions(&data, Permissions::from_mode(0o755)).unwrap();
    let open = host.inn(["doctor"]).output().expect_code(1);
    assert!(open.stdout.contains("is open to everybody (mode 0755)"), "{open}");
    set_permissions(&data, Permissions::from_mode(0o700)).unwrap();
    let told = host.inn(["doctor", "-o", "json"]).json();
    assert_eq!((&told["healthy"], &told["byAgent"]), (&true.into(), &false.into()), "{told}");
    host.start_agent();
    let told = host.inn(["doctor", "-o", "json"]).json();
    assert_eq!((&told["healthy"], &told["byAgent"]), (&true.into(), &true.into()), "{told}");
    host.finish();

    let host = Host::bare().without_vmm();
    let alone = host.inn(["doctor"]).output().expect_code(1);
    assert!(alone.stdout.contains("VMs cannot run here as they should"), "{alone}");
    assert!(alone.stdout.contains("qemu"), "{alone}");
    host.finish();
}
