//! A Prometheus that we did not write watches a node, by the files that
//! packaging/ has for it, and is asked all that the dashboard asks.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};

use inn_tests::process::Inn;
use inn_tests::{Host, api, wait};
use serde_json::Value;

use crate::suite::{SHARED_VM, host_with_vm};

/// What of packaging/ has words for the shell of one that installs it.
const CONFIG: &str = include_str!("../../packaging/prometheus/prometheus.yml");
const ALERTS: &str = include_str!("../../packaging/prometheus/alerts.yml");
const DASHBOARD: &str = include_str!("../../packaging/grafana/innkeeper.json");

/// The directory of Debian's programs, unpacked.
fn programs(test: &str) -> Option<PathBuf> {
    let found = std::env::var_os("INN_TEST_PROMETHEUS").map(PathBuf::from);
    let found = found.filter(|dir| dir.join("prometheus").exists());
    if found.is_none() {
        println!("SKIPPED {test}: prometheus is not there; scripts/test unpacks it");
    }
    found
}

fn promtool(programs: &Path, args: &[&str]) -> Inn {
    Inn::new(&programs.join("promtool"), args.iter().map(OsString::from).collect())
}

fn scrape(host: &Host, accept: &str) -> String {
    let headers = format!("Accept: {accept}\r\n");
    let answer = api::request_with(&host.socket(), "GET", "/metrics", &headers, b"").unwrap();
    String::from_utf8(answer.ok().body).unwrap()
}

pub(crate) fn promtool_finds_nothing_to_say() {
    let Some(programs) = programs("metrics::promtool_finds_nothing_to_say") else { return };
    let host = host_with_vm();
    let text = scrape(host, "text/plain");
    assert!(text.contains("inn_vm_up{vm="), "{text}");
    let check = promtool(&programs, &["check", "metrics"]).stdin(text).output();
    assert_eq!((check.code, check.stderr.as_str()), (Some(0), ""), "{check}");
    let dir = tempfile::tempdir().unwrap();
    let alerts = dir.path().join("alerts.yml");
    std::fs::write(&alerts, ALERTS).unwrap();
    promtool(&programs, &["check", "rules", "--lint-fatal", alerts.to_str().unwrap()]).ok();
    let open = scrape(host, "application/openmetrics-text; version=1.0.0");
    assert!(open.ends_with("\n# EOF\n"), "{open}");
}

pub(crate) fn prometheus_watches_a_node_at_work() {
    let test = "metrics::prometheus_watches_a_node_at_work";
    let Some(programs) = programs(test) else { return };
    let host = host_with_vm();
    let own = tempfile::tempdir().unwrap();
    let dir = own.path();
    let token = host.inn(["token", "create", "--scope", "read", "--name", "prometheus"]).ok();
    let token_file = dir.join("token");
    std::fs::write(&token_file, token.lines().last().unwrap()).unwrap();
    let config = CONFIG
        .replace("15s", "1s")
        .replace("/etc/prometheus/innkeeper.token", token_file.to_str().unwrap())
        .replace("127.0.0.1:5100", &host.api_address());
    assert_ne!(config, CONFIG);
    std::fs::write(dir.join("prometheus.yml"), config).unwrap();
    std::fs::write(dir.join("alerts.yml"), ALERTS).unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let flags = [
        format!("--config.file={}", dir.join("prometheus.yml").display()),
        format!("--storage.tsdb.path={}", dir.join("data").display()),
        format!("--web.listen-address={free}"),
    ];
    let prometheus = Inn::new(&programs.join("prometheus"), flags.map(OsString::from).into());
    let running = prometheus.start();

    let ask = |query: &str| query_of(&free.to_string(), query);
    let work = || drop(host.inn(["vm", "exec", SHARED_VM, "--", "true"]).ok());
    wait::until("Prometheus has seen the node several times", || {
        work();
        let seen = ask("count_over_time(up{job=\"innkeeper\"}[1m])").ok()?;
        let up = ask("up{job=\"innkeeper\"} == 1").ok()?;
        (value(&seen)? >= 3.0 && value(&up).is_some()).then_some(())
    });
    let running_vms = value(&ask("inn_vms{phase=\"running\"}").unwrap()).unwrap();
    assert!(running_vms >= 1.0, "{running_vms}");

    // All that the dashboard asks has an answer, and nearly all a figure.
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let queries = queries(&dashboard);
    assert!(queries.len() > 15, "{queries:?}");
    let mut empty = BTreeSet::new();
    for query in &queries {
        let query = query.replace("$instance", ".*").replace("$vm", ".*");
        let answer = ask(&query).unwrap_or_else(|why| panic!("{query}: {why}"));
        if value(&answer).is_none() {
            empty.insert(query);
        }
    }
    // Nothing has failed, and this host's VMs have no card on a bridge.
    let may_be = |query: &&String| query.contains("_failures_") || query.contains("_network_");
    let missing: Vec<_> = empty.iter().filter(|query| !may_be(query)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    for name in used_in(ALERTS) {
        let known = ask(&format!("count({{__name__=\"{name}\"}})")).unwrap();
        assert!(value(&known).is_some(), "alerts.yml asks for {name}, which nobody tells");
    }
    running.signal(rustix::process::Signal::TERM);
    running.wait(wait::PATIENCE);
    host.inn(["token", "revoke", "prometheus"]).ok();
}

/// Each expression of its panels.
fn queries(dashboard: &Value) -> BTreeSet<String> {
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.filter_map(|panel| panel["targets"].as_array()).flatten();
    targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect()
}

/// The metrics of ours that rules name.
fn used_in(rules: &str) -> BTreeSet<&str> {
    let expressions = rules.lines().filter_map(|line| line.trim().strip_prefix("expr: "));
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = expressions.flat_map(move |line| line.split(move |c| !is_word(c)));
    words.filter(|word| word.starts_with("inn_")).collect()
}

fn value(answer: &Value) -> Option<f64> {
    answer["data"]["result"].get(0)?["value"][1].as_str()?.parse().ok()
}

/// prometheus.io, "HTTP API", instant queries.
fn query_of(address: &str, query: &str) -> Result<Value, String> {
    let bytes = query.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
    let told = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        let head = format!(
            "GET /api/v1/query?query={bytes} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = told().map_err(|error| error.to_string())?;
    let (_, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
    let answer: Value = serde_json::from_str(body).map_err(|error| format!("{error}: {body}"))?;
    if answer["status"] == "success" { Ok(answer) } else { Err(answer.to_string()) }
}
