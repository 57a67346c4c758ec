use inn_tests::{Host, leftovers, wait};
use rustix::process::Signal;

pub(crate) fn killed_cli_takes_its_vm_along() {
    let host = Host::up();
    let mut run =
        host.inn(["run", "--rm", "mini", "--", "sh", "-c", "echo up; exec sleep 100000"]).start();
    run.until_stdout("up");
    assert_eq!(host.list().len(), 1);
    run.signal(Signal::KILL);
    run.wait(wait::PATIENCE);
    host.until_empty();
    host.finish();
}

pub(crate) fn killed_agent_takes_leased_machines_along() {
    let host = Host::up();
    host.inn(["vm", "create", "--image", "mini", "--name", "stays"]).ok();
    let mut run =
        host.inn(["run", "--rm", "mini", "--", "sh", "-c", "echo up; exec sleep 100000"]).start();
    run.until_stdout("up");
    assert_eq!(leftovers::machines_of(host.path()).len(), 2);
    host.kill_agent();
    wait::until("the leased machine is gone, the other runs on", || {
        (leftovers::machines_of(host.path()).len() == 1).then_some(())
    });
    let cut = run.wait(wait::PATIENCE);
    assert_eq!(cut.code, Some(1), "{cut}");
    // The next agent removes what was recorded of it.
    host.start_agent();
    wait::until("only the VM that stays is known", || {
        let names: Vec<_> = host.list().iter().map(|vm| vm["name"].clone()).collect();
        (names == ["stays"]).then_some(())
    });
    host.finish();
}
