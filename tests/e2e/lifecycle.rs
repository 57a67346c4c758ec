use inn_tests::{Host, leftovers, wait};

pub(crate) fn create_stop_start_restart_delete() {
    let host = Host::up();
    host.inn(["vm", "create", "--image", "mini", "--name", "life"]).ok();
    let first = host.show("life");
    assert_eq!(first["phase"], "running", "{first}");
    assert_eq!(first["guest"]["link"], "ready", "{first}");
    assert!(first["bootMs"].as_u64().unwrap() > 0, "{first}");
    host.inn(["vm", "exec", "life", "--", "sh", "-c", "echo mine > /root/note"]).ok();

    host.inn(["vm", "stop", "life"]).ok();
    assert_eq!(host.show("life")["phase"], "stopped");
    assert!(leftovers::machines_of(host.path()).is_empty(), "a machine of a stopped VM");
    host.inn(["vm", "stop", "life"]).ok();
    host.inn(["vm", "exec", "life", "--", "true"]).refused(1, &["life"]);

    host.inn(["vm", "start", "life"]).ok();
    host.inn(["vm", "start", "life"]).ok();
    let second = host.show("life");
    assert_ne!(first["guest"]["bootId"], second["guest"]["bootId"]);
    assert_eq!(host.inn(["vm", "exec", "life", "--", "cat", "/root/note"]).ok(), "mine\n");

    host.inn(["vm", "restart", "life"]).ok();
    let third = host.show("life");
    assert_ne!(second["guest"]["bootId"], third["guest"]["bootId"]);
    assert_ne!(second["pid"], third["pid"]);
    assert_eq!(host.inn(["vm", "exec", "life", "--", "cat", "/root/note"]).ok(), "mine\n");

    host.inn(["vm", "delete", "--force", "life"]).ok();
    host.until_empty();
    host.inn(["vm", "show", "life"]).refused(1, &["life"]);
    host.finish();
}

pub(crate) fn list_filters() {
    let host = Host::up();
    host.inn(["vm", "create", "--image", "mini", "--name", "up"]).ok();
    host.inn(["vm", "create", "--image", "mini", "--name", "down", "--no-start"]).ok();
    let names = |args: &[&str]| -> Vec<String> {
        let list = host.inn(["vm", "list", "-o", "json"]).args(args).json();
        let mut names: Vec<_> = list
            .as_array()
            .unwrap()
            .iter()
            .map(|vm| vm["name"].as_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(&[]), ["up"]);
    assert_eq!(names(&["--all"]), ["down", "up"]);
    assert_eq!(names(&["--status", "stopped"]), ["down"]);
    assert_eq!(names(&["--status", "running"]), ["up"]);
    assert_eq!(names(&["--status", "failed"]), [""; 0]);
    host.finish();
}

pub(crate) fn stop_all_and_clean() {
    let host = Host::up();
    for name in ["a", "b"] {
        host.inn(["vm", "create", "--image", "mini", "--persist", "--name", name]).ok();
    }
    host.inn(["vm", "stop", "--all"]).ok();
    assert!(host.list().iter().all(|vm| vm["phase"] == "stopped"));
    let persist = host.data().join("persist");
    host.inn(["vm", "clean", "--keep-persist", "--vm", "a"]).ok();
    assert_eq!(leftovers::entries_of(&persist).len(), 2);
    host.inn(["vm", "clean", "--all"]).ok();
    host.until_empty();
    assert_eq!(leftovers::entries_of(&persist), ["a.img"], "a's was to be kept, b's not");
    std::fs::remove_file(persist.join("a.img")).unwrap();
    host.finish();
}

pub(crate) fn persist_outlives_its_vm() {
    let host = Host::up();
    let create = ["vm", "create", "--image", "mini", "--persist", "--name", "keeper"];
    host.inn(create).ok();
    host.inn([
        "vm",
        "exec",
        "keeper",
        "--",
        "sh",
        "-c",
        "echo kept > /persist/note; echo gone > /root/note",
    ])
    .ok();
    host.inn(["vm", "delete", "keeper"]).ok();
    host.inn(create).ok();
    let script = "cat /persist/note; ls /root/note";
    let output = host.inn(["vm", "exec", "keeper", "--", "sh", "-c", script]).output();
    assert_eq!(output.stdout, "kept\n", "{output}");
    host.inn(["vm", "clean", "--all"]).ok();
    assert_eq!(leftovers::entries_of(&host.data().join("persist")), [""; 0]);
    host.finish();
}

pub(crate) fn replace_takes_the_name() {
    let host = Host::up();
    host.inn(["vm", "create", "--image", "mini", "--name", "web"]).ok();
    let first = host.show("web");
    host.inn(["vm", "create", "--image", "mini", "--name", "web", "--replace"]).ok();
    let second = host.show("web");
    assert_ne!(first["id"], second["id"]);
    assert_eq!(host.list().len(), 1);
    assert_eq!(leftovers::machines_of(host.path()).len(), 1);
    host.finish();
}

pub(crate) fn logs_and_console() {
    let host = Host::up();
    let args = ["vm", "create", "--image", "mini", "--name", "talker", "--"];
    let script = "echo from the workload; echo its stderr >&2; echo to the console > /dev/console; sleep 100000";
    host.inn(args).args(["sh", "-c", script]).ok();
    wait::until("the workload's output is in the log", || {
        let log = host.inn(["vm", "logs", "talker"]).ok();
        (log.contains("from the workload") && log.contains("its stderr")).then_some(())
    });
    wait::until("the console's log has what was printed there", || {
        let log = host.inn(["vm", "logs", "--source", "console", "talker"]).ok();
        log.contains("to the console").then_some(())
    });
    let tail = host.inn(["vm", "logs", "--tail", "1", "talker"]).ok();
    assert_eq!(tail.lines().count(), 1, "{tail}");

    let mut follower = host.inn(["vm", "logs", "-f", "talker"]).start();
    follower.until_stdout("from the workload");
    let mut console = host.inn(["vm", "console", "talker"]).start();
    // Again and again: nothing tells when the console is being looked at.
    let script = "while echo live line > /dev/console; do sleep 1; done";
    host.inn(["vm", "exec", "-d", "talker", "--", "sh", "-c", script]).ok();
    console.until_stdout("live line");
    console.signal(rustix::process::Signal::INT);
    follower.signal(rustix::process::Signal::INT);
    console.wait(wait::PATIENCE);
    follower.wait(wait::PATIENCE);
    host.finish();
}

pub(crate) fn workload_s_end_is_not_the_vm_s() {
    let host = Host::up();
    let args = ["vm", "create", "--image", "mini", "--name", "brief", "--"];
    host.inn(args).args(["sh", "-c", "exit 9"]).ok();
    wait::until("the workload's end is known", || {
        (host.show("brief")["workload"]["exitCode"] == 9).then_some(())
    });
    assert_eq!(host.show("brief")["phase"], "running");
    host.inn(["vm", "exec", "brief", "--", "true"]).ok();
    host.finish();
}

pub(crate) fn guest_that_powers_off_is_stopped() {
    let host = Host::up();
    host.inn(["vm", "create", "--image", "mini", "--name", "off"]).ok();
    // The answer may be cut off by the very thing that it asks for.
    host.inn(["vm", "exec", "off", "--", "poweroff", "-f"]).output();
    wait::until("the VM is seen as stopped", || {
        (host.show("off")["phase"] == "stopped").then_some(())
    });
    assert!(leftovers::machines_of(host.path()).is_empty());
    host.inn(["vm", "start", "off"]).ok();
    host.finish();
}
