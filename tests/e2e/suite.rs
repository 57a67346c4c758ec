//! What many tests share: one host with all images, and one running VM.

use std::sync::{Mutex, OnceLock};

use inn_tests::Host;

/// The VM that tests share; made from the image `mini`, none of them stops it.
pub(crate) const SHARED_VM: &str = "shared";

static HOST: OnceLock<Mutex<Option<&'static Host>>> = OnceLock::new();
static VM: OnceLock<()> = OnceLock::new();

/// A host with the images mini, configured and base.
pub(crate) fn host() -> &'static Host {
    let shared = HOST.get_or_init(|| {
        let host = Host::up();
        host.import("configured");
        host.import("base");
        Mutex::new(Some(Box::leak(Box::new(host))))
    });
    shared.lock().unwrap().expect("the suite has not ended")
}

/// The shared host, with [`SHARED_VM`] running on it.
pub(crate) fn host_with_vm() -> &'static Host {
    let host = host();
    VM.get_or_init(|| {
        host.inn(["vm", "create", "--image", "mini", "--name", SHARED_VM]).ok();
    });
    host
}

/// Ends the shared host, if any test has used it, and asserts that it leaves
/// nothing.
pub(crate) fn finish() {
    if let Some(host) = HOST.get().and_then(|shared| shared.lock().unwrap().take()) {
        host.end_and_check();
    }
}
