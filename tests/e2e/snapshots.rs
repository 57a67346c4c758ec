//! Pause, snapshots and forks of real VMs: what a clone is, and what it is not.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use inn_tests::{Host, Inn, wait};
use serde_json::Value;

use crate::bridges::ground;
use crate::suite::host;

const SLOW: Duration = Duration::from_secs(300);

/// How many clones.
const CLONES: usize = 16;

/// By how much a clone's clock may differ from the host's.
const CLOCK: f64 = 0.1;

/// What a clone tells of itself. Its TLS server and client are both its own.
const TELL: &str = r#"
import fcntl, json, os, socket, ssl, struct, threading, time
def certificate():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain('/srv/tls.pem')
    return context
def serve(listener):
    raw, _ = listener.accept()
    with certificate().wrap_socket(raw, server_side=True) as stream:
        stream.sendall(b'by TLS: ' + stream.recv(100))
def tls():
    listener = socket.create_server(('127.0.0.1', 0))
    threading.Thread(target=serve, args=[listener], daemon=True).start()
    client = ssl.create_default_context(cafile='/srv/tls.pem')
    raw = socket.create_connection(listener.getsockname(), timeout=60)
    with client.wrap_socket(raw, server_hostname='local.test') as stream:
        stream.sendall(b'hello')
        return stream.recv(100).decode()
card = next(c for c in os.listdir('/sys/class/net') if c != 'lo')
# SIOCGIFADDR: netdevice(7).
asked = fcntl.ioctl(socket.socket(), 0x8915, struct.pack('256s', card.encode()))
name = socket.gethostname()
open('/srv/own-' + name, 'w').write(name)
print(json.dumps({
    'random': os.getrandom(16).hex(),
    'machine': open('/etc/machine-id').read().strip(),
    'mac': open('/sys/class/net/' + card + '/address').read().strip(),
    'address': socket.inet_ntoa(asked[20:24]),
    'hostname': name,
    'tls': tls(),
    'files': sorted(f for f in os.listdir('/srv') if f.startswith('own-')),
    'clock': time.time(),
}))
"#;

fn told(host: &Host, vm: &str) -> Value {
    let text = host.inn(["vm", "exec", vm, "--", "python3", "-c", TELL]).limit(SLOW).ok();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// By how much the VM's clock is off, at least.
fn clock_is_off(host: &Host, vm: &str) -> f64 {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let before = now();
    let text = host.inn(["vm", "exec", vm, "--", "date", "+%s.%N"]).limit(SLOW).ok();
    let (after, guest) = (now(), text.trim().parse::<f64>().unwrap());
    (before - guest).max(guest - after).max(0.0)
}

/// Sixteen machines that were one, and are not any more.
pub(crate) fn sixteen_clones_are_sixteen_vms() {
    let Some((host, _here, _outside)) = ground("sixteen_clones_are_sixteen_vms", "") else {
        return;
    };
    host.import("base");
    let vm = ["vm", "create", "--image", "base", "--name", "web", "--memory", "160MiB"];
    host.inn(vm).limit(SLOW).ok();
    let pem = host.home().join("tls.pem");
    make_certificate(&pem);
    let pem = pem.display().to_string();
    host.inn(["vm", "cp", &*pem, "web:/srv/tls.pem"]).ok();
    // A program of the parent's, which counts on in each clone.
    let count = "import time\nn = 0\nwhile True:\n n += 1; open('/run/count', 'w').write(str(n)); time.sleep(0.2)";
    host.inn(["vm", "exec", "-d", "web", "--", "python3", "-c", count]).ok();
    host.inn([
        "vm",
        "exec",
        "web",
        "--",
        "sh",
        "-c",
        "while ! [ -s /run/count ]; do sleep 0.1; done",
    ])
    .limit(SLOW)
    .ok();
    let before = host.show("web");

    let count = CLONES.to_string();
    host.inn(["vm", "fork", "web", "--count", &*count]).limit(SLOW).ok();

    let names: Vec<String> = (1..=CLONES).map(|n| format!("web-{n}")).collect();
    let mut seen: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for name in &names {
        let off = clock_is_off(&host, name);
        assert!(off <= CLOCK, "the clock of {name} is off by {off} s");
        let said = told(&host, name);
        assert_eq!(said["hostname"], **name, "{said}");
        assert_eq!(said["tls"], "by TLS: hello", "{said}");
        assert_eq!(said["files"], serde_json::json!([format!("own-{name}")]), "{said}");
        for what in ["random", "machine", "mac", "address"] {
            seen.entry(what).or_default().insert(said[what].as_str().unwrap().to_owned());
        }
        let leased = host.inn(["vm", "ip", &**name]).ok();
        let address = said["address"].as_str().unwrap();
        assert_eq!(address, leased.trim());
        let shown = host.show(name);
        let session = shown["receipt"]["bootSession"].as_str().unwrap_or_default();
        seen.entry("session").or_default().insert(session.to_owned());
        assert_eq!(shown["guest"]["bootId"], before["guest"]["bootId"], "it never booted");
        host.inn(["vm", "receipt", &**name, "--verify"]).ok();
    }
    for (what, values) in &seen {
        assert_eq!(values.len(), CLONES, "{what}: {values:?}");
    }
    // The counter goes on in a clone, and the parent is undisturbed.
    for vm in ["web", "web-1"] {
        let at = || host.inn(["vm", "exec", vm, "--", "cat", "/run/count"]).limit(SLOW).ok();
        let first = at();
        wait::until("the counter counts on", || (at() != first).then_some(()));
    }
    let after = host.show("web");
    assert_eq!(
        (&after["pid"], &after["guest"]["bootId"]),
        (&before["pid"], &before["guest"]["bootId"])
    );
    let said = told(&host, "web");
    assert_eq!(said["files"], serde_json::json!(["own-web"]), "{said}");
    assert!(!seen["address"].contains(said["address"].as_str().unwrap()));
    assert!(clock_is_off(&host, "web") <= CLOCK, "the parent's clock");
    host.inn(["vm", "delete", "--all", "--force"]).limit(SLOW).ok();
    host.stop_agent();
    host.finish();
}

/// Self-signed, for `local.test`.
fn make_certificate(pem: &Path) {
    let certificate = pem.with_extension("crt");
    let (key, out) = (pem.display().to_string(), certificate.display().to_string());
    let args = [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "3650",
        "-subj",
        "/CN=local.test",
        "-addext",
        "subjectAltName=DNS:local.test",
        "-keyout",
        &key,
        "-out",
        &out,
    ];
    Inn::new(Path::new("/usr/bin/openssl"), args.map(Into::into).into()).ok();
    let mut both = std::fs::read(pem).unwrap();
    both.extend(std::fs::read(&certificate).unwrap());
    std::fs::write(pem, both).unwrap();
}

/// A snapshot serves after the agent has died and the parent is deleted; what
/// a clone has of a command that was running is what it had.
pub(crate) fn a_snapshot_outlives_its_vm_and_its_agent() {
    let host = Host::up();
    host.import("base");
    host.inn(["vm", "create", "--image", "base", "--name", "web", "--memory", "160MiB"])
        .limit(SLOW)
        .ok();
    let loads = "exec 3>/srv/open; echo kept >&3; i=0; while true; do i=$((i+1)); echo line $i; echo $i >&3; sleep 0.2; done";
    let detached =
        host.inn(["vm", "exec", "-d", "web", "-o", "json", "--", "sh", "-c", loads]).json();
    let exec = detached["id"].as_str().unwrap_or_else(|| panic!("{detached}")).to_owned();
    host.inn([
        "vm",
        "exec",
        "web",
        "--",
        "sh",
        "-c",
        "while ! [ -s /srv/open ]; do sleep 0.1; done",
    ])
    .limit(SLOW)
    .ok();
    let paused = host.inn(["vm", "pause", "web"]).ok();
    assert!(paused.contains("web paused"), "{paused}");
    assert_eq!(host.show("web")["phase"], "paused");
    host.inn(["vm", "resume", "web"]).ok();
    host.inn(["vm", "snapshot", "web", "--name", "golden"]).limit(SLOW).ok();
    host.inn(["vm", "delete", "web", "--force"]).ok();
    host.kill_agent();
    host.start_agent();
    let listed = host.inn(["snapshot", "list", "-o", "json"]).json();
    assert_eq!(listed[0]["name"], "golden", "{listed}");

    host.inn(["snapshot", "restore", "golden", "--name", "web-2"]).limit(SLOW).ok();
    // Its open file, its process and its exec's record are the clone's own.
    let lines = || {
        let text =
            host.inn(["vm", "exec", "web-2", "--", "wc", "-l", "/srv/open"]).limit(SLOW).ok();
        text.split_whitespace().next().unwrap().parse::<u64>().unwrap()
    };
    let first = lines();
    wait::until("its program writes on", || (lines() > first).then_some(()));
    let execs = host.inn(["vm", "execs", "web-2", "-o", "json"]).json();
    let known = execs.as_array().unwrap().iter().any(|known| known["id"] == *exec);
    assert!(known, "{execs}");
    host.inn(["vm", "kill", "web-2", &*exec]).ok();
    host.inn(["vm", "restart", "web-2", "--force"]).limit(SLOW).ok();
    assert!(host.show("web-2")["receipt"].is_null(), "it has booted");
    host.inn(["snapshot", "delete", "golden"]).ok();
    host.inn(["vm", "delete", "web-2", "--force"]).ok();
    host.end_and_check();
}

/// What a router told the parent is the clone's, too, by its own MAC and at once:
/// nobody has to be asked for it.
pub(crate) fn a_clone_takes_along_what_a_router_told() {
    let host = host();
    host.inn(["vm", "create", "--image", "mini", "--name", "told", "--memory", "128MiB"])
        .limit(SLOW)
        .ok();
    // QEMU's own network has a router for fec0::/64.
    let of = |vm: &str| {
        let text = host.inn(["vm", "exec", vm, "--", "cat", "/proc/net/if_inet6"]).limit(SLOW).ok();
        let own = |net: &str| {
            text.lines().find(|line| line.starts_with(net)).map(|line| line[16..32].to_owned())
        };
        (own("fe80"), own("fec0"), text.lines().filter(|line| line.ends_with("eth0")).count())
    };
    wait::until("a router answers", || of("told").1);
    let (parents, ..) = of("told");
    host.inn(["vm", "fork", "told"]).limit(SLOW).ok();
    let (local, routed, all) = of("told-1");
    assert!(local.is_some() && local != parents, "{local:?} is its parent's");
    assert_eq!((&local, all), (&routed, 2), "both are of its MAC, and none of its parent's");
    let routes = host.inn(["vm", "exec", "told-1", "--", "cat", "/proc/net/ipv6_route"]).ok();
    let gateway = "fe800000000000000000000000000002";
    assert!(routes.lines().any(|line| line.contains(gateway)), "{routes}");
    host.inn(["vm", "delete", "told", "told-1", "--force"]).ok();
}

/// A fork while a command floods its output: both go on.
pub(crate) fn a_fork_amid_a_flood_of_output() {
    let host = host();
    let create = ["vm", "create", "--image", "mini", "--name", "flood", "--memory", "128MiB"];
    host.inn(create).args(["--persist"]).limit(SLOW).ok();
    let sh = |vm: &str, script: &str| {
        host.inn(["vm", "exec", vm, "--", "sh", "-c", script]).limit(SLOW).ok()
    };
    sh("flood", "echo parent >/persist/note");
    let mut flood = host.inn(["vm", "exec", "flood", "--", "yes", "flood of output"]).start();
    assert!(flood.stdout_has("flood of output", SLOW));
    host.inn(["vm", "fork", "flood", "--count", "2", "--name-prefix", "child"]).limit(SLOW).ok();
    assert!(!flood.has_ended(), "the parent's command goes on");
    for child in ["child-1", "child-2"] {
        assert_eq!(sh(child, "hostname").trim(), child);
        // What it has there is its own.
        assert_eq!(sh(child, "cat /persist/note; hostname >/persist/note"), "parent\n");
    }
    let notes = ["flood", "child-1", "child-2"].map(|vm| sh(vm, "cat /persist/note"));
    assert_eq!(notes, ["parent\n", "child-1\n", "child-2\n"]);
    flood.signal(rustix::process::Signal::KILL);
    flood.wait(SLOW);
    host.inn(["vm", "clean", "flood", "child-1", "child-2"]).ok();
}

/// `--from-snapshot` on either command, and a leased VM's fork.
pub(crate) fn a_snapshot_is_begun_from_where_vms_are_made_and_run() {
    let host = host();
    let parent = ["vm", "create", "--image", "mini", "--name", "origin", "--memory", "128MiB"];
    host.inn(parent).limit(SLOW).ok();
    let leave =
        "echo from the parent > /srv/left; sleep 100000 >/dev/null 2>&1 & echo $! > /srv/pid";
    host.inn(["vm", "exec", "origin", "--", "sh", "-c", leave]).limit(SLOW).ok();
    host.inn(["vm", "snapshot", "origin", "--name", "begun-from"]).limit(SLOW).ok();
    host.inn(["vm", "delete", "origin", "--force"]).ok();
    let shown = host.inn(["snapshot", "show", "begun-from", "-o", "json"]).json();
    let kernel = shown[0]["madeBy"]["kernel"].as_str().unwrap_or_default();
    assert!(kernel.starts_with("sha256:"), "{shown}");

    let look = "cat /srv/left; hostname; tr '\\0' ' ' < /proc/$(cat /srv/pid)/cmdline";
    let made = host.inn(["vm", "create", "--from-snapshot", "begun-from", "--name", "made"]);
    made.limit(SLOW).ok();
    let said = host.inn(["vm", "exec", "made", "--", "sh", "-c", look]).limit(SLOW).ok();
    assert_eq!(said, "from the parent\nmade\nsleep 100000 ");
    assert_eq!(host.show("made")["receipt"]["origin"], "begun-from");

    let run = ["run", "--rm", "--from-snapshot", "begun-from", "--name", "ran", "--"];
    let said = host.inn(run.into_iter().chain(["sh", "-c", look])).limit(SLOW).ok();
    assert_eq!(said, "from the parent\nran\nsleep 100000 ");
    host.inn(run.into_iter().chain(["sh", "-c", "exit 7"])).limit(SLOW).output().expect_code(7);
    assert!(host.list().iter().all(|vm| vm["name"] != "ran"), "{:?}", host.list());

    // A child of one whose life is its client's has a life of its own.
    let mut client = host.inn(run.into_iter().chain(["sh", "-c", "echo up; sleep 1000"])).start();
    assert!(client.stdout_has("up", SLOW));
    let fork = ["vm", "fork", "ran", "--count", "1", "--name-prefix", "heir"];
    host.inn(fork).limit(SLOW).ok();
    client.signal(rustix::process::Signal::KILL);
    client.wait(SLOW);
    wait::until("it goes with its client", || {
        host.list().iter().all(|vm| vm["name"] != "ran").then_some(())
    });
    let said = host.inn(["vm", "exec", "heir-1", "--", "sh", "-c", look]).limit(SLOW).ok();
    assert_eq!(said, "from the parent\nheir-1\nsleep 100000 ");
    host.inn(["snapshot", "delete", "begun-from"]).ok();
    host.inn(["vm", "delete", "made", "heir-1", "--force"]).ok();
}

/// From one agent to another, which vouches for what it has made of it.
pub(crate) fn a_snapshot_goes_to_another_agent() {
    let (here, there) = (Host::up(), Host::bare());
    there.start_agent();
    let parent = ["vm", "create", "--image", "mini", "--name", "web", "--memory", "128MiB"];
    here.inn(parent).limit(SLOW).ok();
    let leave = "echo travels > /srv/left; sleep 100000 >/dev/null 2>&1 & echo $! > /srv/pid";
    here.inn(["vm", "exec", "web", "--", "sh", "-c", leave]).limit(SLOW).ok();
    here.inn(["vm", "snapshot", "web", "--name", "golden"]).limit(SLOW).ok();
    let file = here.home().join("golden.snapshot").display().to_string();
    here.inn(["snapshot", "export", "golden", &*file]).limit(SLOW).ok();
    here.inn(["vm", "delete", "web", "--force"]).ok();

    // It needs the image that it is of.
    there.inn(["snapshot", "import", &*file]).limit(SLOW).refused(1, &["image"]);
    there.import("mini");
    there.inn(["snapshot", "import", &*file]).limit(SLOW).ok();
    there.inn(["snapshot", "restore", "golden", "--name", "web-2"]).limit(SLOW).ok();
    let look = "cat /srv/left; hostname; tr '\\0' ' ' < /proc/$(cat /srv/pid)/cmdline";
    let said = there.inn(["vm", "exec", "web-2", "--", "sh", "-c", look]).limit(SLOW).ok();
    assert_eq!(said, "travels\nweb-2\nsleep 100000 ");
    let verified = there.inn(["vm", "receipt", "web-2", "--verify"]).ok();
    assert!(verified.contains("begun from golden") && verified.contains("(good)"), "{verified}");
    let key = |host: &Host, vm: &str| {
        let receipt = host.inn(["vm", "receipt", vm, "-o", "json"]).json();
        receipt["publicKey"].as_str().unwrap_or_else(|| panic!("{receipt}")).to_owned()
    };
    here.inn(["snapshot", "restore", "golden", "--name", "web-2"]).limit(SLOW).ok();
    let (own, other) = (key(&there, "web-2"), key(&here, "web-2"));
    there.inn(["vm", "receipt", "web-2", "--verify", "--key", &*own]).ok();
    let verify = ["vm", "receipt", "web-2", "--verify", "--key", &*other];
    there.inn(verify).refused(1, &["another key"]);
    for host in [here, there] {
        host.inn(["vm", "delete", "--all", "--force"]).ok();
        host.inn(["snapshot", "delete", "golden"]).ok();
        host.stop_agent();
        host.finish();
    }
}

/// What `--stable-addresses` asks for is what programs of a real VM have.
pub(crate) fn addresses_are_stable_where_that_was_asked_for() {
    let host = host();
    let tell = ["sh", "-c", "cat /proc/self/personality"];
    // ADDR_NO_RANDOMIZE (personality(2)).
    let stable = |said: &str| said.trim().ends_with("40000");
    let run = |how: &'static [&'static str]| {
        let run = ["run", "--rm"].into_iter().chain(how.iter().copied()).chain(["mini", "--"]);
        host.inn(run.chain(tell)).limit(SLOW).ok()
    };
    // Where it is to be fast, unless it is said, and only where that costs nothing else.
    host.inn(["vm", "create", "--image", "mini", "--name", "random"]).limit(SLOW).ok();
    if host.show("random")["accelerator"] != "tcg" {
        println!("SKIPPED addresses_are_stable_where_that_was_asked_for: VMs are not emulated");
        host.inn(["vm", "delete", "random", "--force"]).ok();
        return;
    }
    assert!(stable(&run(&[])), "it is short-lived");
    assert!(!stable(&run(&["--stable-addresses", "off"])));
    assert!(stable(&run(&["--stable-addresses", "on"])));
    let fixed = ["vm", "create", "--image", "mini", "--name", "fixed", "--stable-addresses", "on"];
    host.inn(fixed.into_iter().chain(["--", "sh", "-c", "cat /proc/self/personality; sleep 9999"]))
        .limit(SLOW)
        .ok();
    for (vm, wanted) in [("random", false), ("fixed", true)] {
        let said = host.inn(["vm", "exec", vm, "--"].into_iter().chain(tell)).limit(SLOW).ok();
        assert_eq!(stable(&said), wanted, "{vm}: {said}");
    }
    wait::until("its workload has said so", || {
        stable(&host.inn(["vm", "logs", "fixed"]).ok()).then_some(())
    });
    host.inn(["vm", "delete", "random", "fixed", "--force"]).ok();
}
