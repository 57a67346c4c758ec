//! An ordinary user's own libvirtd (`qemu:///session`), by that user's agent.

use std::fs;

use inn_tests::libvirtd::Libvirtd;
use inn_tests::{leftovers, wait};
use rustix::process::Signal;

use crate::user::{NOBODY, User};

pub(crate) fn an_ordinary_users_session_serves_its_agent() {
    let user = User::new();
    let libvirtd = match Libvirtd::of_user(user.dir(), NOBODY) {
        Ok(libvirtd) => libvirtd,
        Err(why) => return eprintln!("SKIPPED a session of libvirt's: {why}"),
    };
    let config = user.path("agent.toml");
    fs::write(&config, libvirtd.config()).unwrap();
    let start = || {
        let agent = user.inn(&["agent", "--config", config.to_str().unwrap()]).start();
        wait::until("the agent answers", || {
            (user.inn(&["vm", "list"]).output().code == Some(0)).then_some(())
        });
        agent
    };
    let first = start();
    user.inn(&["image", "import", "mini.tar", "--name", "mini"]).ok();
    user.inn(&["vm", "create", "--image", "mini", "--name", "v", "--runtime", "libvirt"]).ok();
    let exec = |script: &str| user.inn(&["vm", "exec", "v", "--", "sh", "-c", script]).ok();
    assert_eq!(exec("echo kept | tee /note"), "kept\n");
    let show = || user.inn(&["vm", "show", "v", "-o", "json"]).json()[0].clone();
    let before = show();
    let status = fs::read_to_string(format!("/proc/{}/status", before["pid"])).unwrap();
    assert!(status.contains(&format!("Uid:\t{NOBODY}\t{NOBODY}\t")), "{status}");
    // A session has no networks of its own.
    let networked = user.inn(&["vm", "create", "--image", "mini", "--name", "w"]);
    networked.args(["--network", "libvirt:default"]).refused(1, &["no network default"]);
    user.inn(&["vm", "delete", "w"]).ok();

    first.signal(Signal::KILL);
    first.wait(wait::PATIENCE);
    let second = start();
    assert_eq!(show()["pid"], before["pid"]);
    assert_eq!(exec("cat /note"), "kept\n");
    user.inn(&["vm", "clean", "--all"]).ok();
    assert_eq!(libvirtd.domains(), "");
    second.signal(Signal::TERM);
    second.wait(wait::PATIENCE).expect_code(0);
    drop(libvirtd);
    assert_eq!(
        leftovers::files_below(&user.path("run/innkeeper")),
        Vec::<std::path::PathBuf>::new()
    );
}
