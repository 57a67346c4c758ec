use std::time::{Duration, Instant};

use inn_tests::{Fixtures, Host, wait};
use rustix::process::Signal;

/// From before the first request to well after the command has begun: a cold
/// boot takes one to two seconds where there is no KVM.
const MOMENTS_MS: [u64; 8] = [0, 30, 100, 250, 500, 900, 1_500, 2_500];

pub(crate) fn ctrl_c_at_any_moment_leaves_nothing() {
    let host = Host::up();
    for moment in MOMENTS_MS {
        let begun = Instant::now();
        let mut run = host.inn(["run", "--rm", "mini", "--", "sleep", "100000"]).start();
        // The moment is the test's subject; nothing is awaited by it.
        let _ = wait::within(Duration::from_millis(moment), || run.has_ended().then_some(()));
        run.signal(Signal::INT);
        let output = run.wait(wait::PATIENCE);
        let interrupted = output.code == Some(130) || output.signal() == Some(2);
        assert!(interrupted, "after {:?}: {output}", begun.elapsed());
        host.until_empty();
    }
    host.finish();
}

pub(crate) fn ctrl_c_during_an_import_leaves_nothing() {
    let host = Host::bare();
    host.start_agent();
    let before = host.kept_files();
    for moment in [20, 200, 600] {
        let args = ["image", "import", "--reference", "base", "--name", "base"];
        let mut import = host.inn(args).args([Fixtures::get().layout().as_os_str()]).start();
        let ended =
            wait::within(Duration::from_millis(moment), || import.has_ended().then_some(()));
        if ended.is_some() {
            // A host so fast that there was nothing left to interrupt.
            import.wait(wait::PATIENCE).expect_code(0);
            host.inn(["image", "delete", "base"]).ok();
            continue;
        }
        import.signal(Signal::INT);
        import.wait(wait::PATIENCE);
        wait::until("nothing of the import is left", || {
            (host.kept_files() == before).then_some(())
        });
        let list = host.inn(["image", "list", "-o", "json"]).json();
        assert_eq!(list.as_array().map(Vec::len), Some(0), "{list}");
    }
    host.finish();
}
