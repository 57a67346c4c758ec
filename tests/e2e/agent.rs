use std::io::{Read, Write};
use std::net::TcpStream;

use inn_tests::{Host, leftovers, wait};

use crate::suite::host;

pub(crate) fn second_agent_on_one_data_directory() {
    let host = Host::up();
    let second = host.inn(["agent"]).env("INN_RUNTIME_DIR", host.home().join("other-run")).output();
    assert_eq!(second.code, Some(1), "{second}");
    assert!(second.stderr.contains(&*host.data().to_string_lossy()), "{second}");
    assert!(second.stderr.contains("agent"), "{second}");
    host.inn(["vm", "list"]).ok();
    host.finish();
}

pub(crate) fn unknown_configuration_key_suggests_the_nearest() {
    let host = Host::bare();
    let refuse = |file: &str, words: &[&str]| {
        std::fs::write(host.config(), file).unwrap();
        let inn = host.inn(["agent", "--config"]).args([host.config().as_os_str()]);
        let output = inn.output();
        assert!(matches!(output.code, Some(1 | 2)), "{output}");
        for word in words {
            assert!(output.stderr.contains(word), "{output}");
        }
    };
    refuse("api_lisen = \"127.0.0.1:0\"\n", &["`api_lisen`", "`api_listen`", "agent.toml"]);
    refuse("this is not toml\n", &["agent.toml"]);
    refuse("start_deadline = \"soon\"\n", &["start_deadline", "soon", "agent.toml"]);
    host.finish();
}

pub(crate) fn cli_starts_an_agent() {
    let host = Host::bare();
    host.inn(["vm", "list", "--no-autostart"]).env("INN_AUTOSTART", "1").refused(1, &["inn agent"]);
    assert!(leftovers::processes_of(host.path()).is_empty());
    host.inn(["vm", "list"]).env("INN_AUTOSTART", "1").ok();
    // Programs that it asks for their versions come and go.
    let agents = || {
        let mut all = leftovers::processes_of(host.path());
        all.retain(|p| p.cmdline.trim_end().ends_with(" agent"));
        all
    };
    assert_eq!(agents().len(), 1, "{:?}", agents());
    let pid = agents()[0].pid;
    host.inn(["vm", "list"]).env("INN_AUTOSTART", "1").ok();
    assert_eq!(agents().len(), 1, "{:?}", agents());
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    wait::until("the agent ends", || leftovers::processes_of(host.path()).is_empty().then_some(()));
    host.finish();
}

/// A request as plain as it gets: status line and body.
fn get(address: &str, path: &str, token: Option<&str>) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    let credentials = token.map_or(String::new(), |t| format!("Authorization: Bearer {t}\r\n"));
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{credentials}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok());
    (status.unwrap_or_else(|| panic!("no answer: {answer}")), answer)
}

pub(crate) fn api_wants_its_token() {
    use std::os::unix::fs::PermissionsExt;

    let host = host();
    let token_file = host.data().join("token");
    let mode = std::fs::metadata(&token_file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let token = std::fs::read_to_string(token_file).unwrap();
    let token = token.trim();
    let address = host.api_address();

    let (status, body) = get(&address, "/api/vms", None);
    assert_eq!(status, 401, "{body}");
    assert!(
        body.contains("application/problem+json") && body.contains("\"unauthorized\""),
        "{body}"
    );
    assert_eq!(get(&address, "/api/vms", Some("wrong")).0, 401);
    assert_eq!(get(&address, "/api/vms", Some(token)).0, 200);
    let (status, body) = get(&address, "/api/vms/nobody", Some(token));
    assert_eq!(status, 404, "{body}");
    assert!(body.contains("\"not-found\""), "{body}");
    let (status, body) = get(&address, "/api/openapi.json", Some(token));
    assert_eq!(status, 200);
    assert!(body.contains("\"openapi\""), "{body}");
    assert_eq!(get(&address, "/health", None).0, 200);
    assert!(matches!(get(&address, "/swagger/", None).0, 200), "Swagger UI");
}

pub(crate) fn logs_are_json() {
    let host = Host::bare();
    let log = host.home().join("agent.log");
    let agent = host
        .inn(["agent", "--log-level", "info", "--log-file"])
        .args([log.as_os_str()])
        .env("INN_LOG_FORMAT", "json")
        .start();
    wait::until("the agent answers", || {
        (host.inn(["vm", "list"]).output().code == Some(0)).then_some(())
    });
    agent.signal(rustix::process::Signal::TERM);
    agent.wait(wait::PATIENCE).expect_code(0);
    let lines = std::fs::read_to_string(&log).unwrap();
    assert!(!lines.is_empty());
    for line in lines.lines() {
        let json: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(json["level"].is_string() && json["timestamp"].is_string(), "{line}");
    }
    host.finish();
}

/// packaging/agent.example.toml with every line in force.
pub(crate) fn example_configuration_is_accepted() {
    let host = Host::bare();
    let example = include_str!("../../packaging/agent.example.toml");
    let settings: String = example
        .lines()
        .filter(|l| l.starts_with('#') && !l.starts_with("# ") && l.contains(" = "))
        // Files that this host has not, a log and a cache that are not this test's,
        // and what a default build leaves out.
        .filter(|l| {
            let left_out = ["#kernel.path", "#log_file", "#image_cache_dir", "#tls.", "#traces."];
            !left_out.iter().any(|key| l.starts_with(key))
        })
        .map(|l| format!("{}\n", &l[1..]))
        .collect();
    assert!(settings.lines().count() > 15, "{settings}");
    std::fs::write(host.config(), settings).unwrap();
    host.start_agent();
    assert_eq!(host.node()["id"], "node-1");
    host.finish();
}

/// Whatever the probe says here, the machine that follows boots.
pub(crate) fn kvm_is_probed_and_the_verdict_kept() {
    let host = Host::bare().probing_kvm();
    host.start_agent();
    host.import("mini");
    host.inn(["vm", "create", "--image", "mini", "--name", "probed"]).ok();
    let first = host.show("probed");
    assert!(matches!(first["accelerator"].as_str(), Some("kvm" | "tcg")), "{first}");
    host.inn(["vm", "exec", "probed", "--", "true"]).ok();
    host.stop_agent();
    host.start_agent();
    host.inn(["vm", "restart", "probed"]).ok();
    assert_eq!(host.show("probed")["accelerator"], first["accelerator"]);
    host.finish();
}
