use std::collections::HashMap;
use std::process::Stdio;

use axum::body::Body;
use axum::extract::{Path, Query};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::agent::{Agent, Output, Seen, finish, problem, vm};

fn sample(at: &str, cpu: f64, rx: u64) -> Value {
    json!({
        "at": at, "uptimeSeconds": 65, "cpus": 2, "cpuPercent": cpu,
        "memoryTotalBytes": 1_048_576, "memoryUsedBytes": 262_144,
        "memoryAvailableBytes": 786_432, "swapTotalBytes": 0, "swapUsedBytes": 0, "mounts": [],
        "interfaces": [{
            "name": "eth0", "mac": "", "addresses": ["10.0.2.15/24"], "up": true, "rxBytes": rx,
            "txBytes": 0, "rxPackets": 0, "txPackets": 0, "rxErrors": 0, "txErrors": 0,
            "rxDropped": 0, "txDropped": 0,
        }],
        "load": [0.5, 0.25, 0.1], "processes": 42, "frozen": false,
    })
}

fn telling(number: u32, name: &str, cpu: f64) -> Value {
    let mut vm = vm(number, name, "running");
    vm["stats"] = sample("2026-01-01T00:00:10Z", cpu, 20_480);
    vm
}

fn stats_routes() -> Router {
    let list =
        || async { Json(json!({ "items": [telling(1, "idle", 1.0), telling(2, "busy", 99.0)] })) };
    let stats = |Path(_): Path<String>, Query(query): Query<HashMap<String, String>>| async move {
        let samples = match query.contains_key("last") {
            true => vec![
                sample("2026-01-01T00:00:00Z", 5.0, 0),
                sample("2026-01-01T00:00:10Z", 6.0, 20_480),
            ],
            false => Vec::new(),
        };
        Json(json!({ "now": sample("2026-01-01T00:00:10Z", 6.0, 20_480), "samples": samples }))
    };
    Router::new().route("/api/vms", get(list)).route("/api/vms/{vm}/stats", get(stats))
}

#[tokio::test]
async fn top_is_one_table_where_there_is_no_terminal() {
    let agent = Agent::start(stats_routes());
    let output = agent.output(&["vm", "top"]).await;
    assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""), "{output:?}");
    let lines: Vec<_> = output.stdout.lines().collect();
    assert!(lines[0].starts_with("NAME") && lines[1].starts_with("busy"), "{output:?}");
    assert!(lines[2].starts_with("idle") && lines[2].contains("2KiB"), "{output:?}");
    let json = agent.output(&["vm", "top", "idle", "-o", "json"]).await;
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(json.as_array().unwrap().len(), 1);
    assert_eq!((&json[0]["name"], &json[0]["rxBytesPerSecond"]), (&json!("idle"), &json!(2048.0)));
    let missing = agent.output(&["vm", "top", "--once", "nobody"]).await;
    assert_eq!(missing.code, Some(1));
    assert!(missing.stderr.contains("there is no VM nobody"), "{missing:?}");
}

#[tokio::test]
async fn stats_are_a_block_a_table_or_json() {
    let agent = Agent::start(stats_routes());
    let now = agent.output(&["vm", "stats", "web"]).await;
    assert!(now.stdout.contains("cpu             6.0 % of 2\n"), "{now:?}");
    assert!(!now.stdout.contains("TIME"), "{now:?}");
    let last = agent.output(&["vm", "stats", "web", "--last", "10m"]).await;
    assert!(last.stdout.contains("\n00:00:10Z   6.0"), "{last:?}");
    let json = agent.output(&["vm", "stats", "web", "--last", "10m", "-o", "json"]).await;
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(json["samples"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_stop_says_how_the_machine_ended() {
    let stop = |Path(name): Path<String>| async move {
        let mut vm = vm(1, &name, "stopping");
        vm["generation"] = json!(2);
        Json(vm)
    };
    let show = |Path(_): Path<String>| async move {
        let mut vm = vm(1, "web", "stopped");
        (vm["generation"], vm["observedGeneration"]) = (json!(2), json!(2));
        vm["lastEnd"] = json!({
            "how": "forced", "reason": "its guest did not end within 10 s", "tookMs": 10_010,
            "at": "2026-01-01T00:00:00Z",
        });
        Json(vm)
    };
    // It goes between the two questions that `show` asks.
    let why = || async { problem(404, "not-found", "there is no VM web") };
    let routes = Router::new()
        .route("/api/vms/{vm}/stop", post(stop))
        .route("/api/vms/{vm}", get(show))
        .route("/api/vms/{vm}/why", get(why));
    let agent = Agent::start(routes);
    let output = agent.output(&["vm", "stop", "web"]).await;
    assert_eq!(output.code, Some(0), "{output:?}");
    assert_eq!(output.stdout, "web stopped (forced, 10.01 s)\n");
    assert_eq!(output.stderr, "inn: web: stopped by force: its guest did not end within 10 s\n");
    let asked = agent.output(&["vm", "stop", "web", "--force", "-o", "json"]).await;
    assert_eq!(asked.stderr, "", "force is what was asked for");
    let json: Value = serde_json::from_str(&asked.stdout).unwrap();
    assert_eq!(json[0]["lastEnd"]["how"], "forced");
    let shown = agent.output(&["vm", "show", "web"]).await;
    assert!(shown.stdout.contains("last end        forced, 10.01 s: its guest"), "{shown:?}");
}

/// Notes what is asked of a guest.
fn guest_routes(seen: &Seen) -> Router {
    let (asked, filed) = (seen.clone(), seen.clone());
    let change = move |Path((_, what)): Path<(String, String)>, body: String| async move {
        asked.add(format!("{what} {body}"));
        let answer = match what.as_str() {
            "clock" => json!({ "behindMs": 1500 }),
            "network" => json!({ "by": "netplan", "problems": ["no DNS"] }),
            "freeze" | "thaw" => json!({ "mounts": ["/"], "expired": what == "thaw" }),
            "disk" => json!({ "device": "/dev/vda", "beforeBytes": 1024, "afterBytes": 2048 }),
            "ssh-keys" => json!({ "keys": ["ssh-ed25519 AAAA me"] }),
            _ => return Response::<Body>::default(),
        };
        Json(answer).into_response()
    };
    let file = move |Path((_, what)): Path<(String, String)>, body: String| async move {
        filed.add(format!("{what} {body}"));
        StatusCode::NO_CONTENT
    };
    let info = |Query(query): Query<HashMap<String, String>>| async move {
        let kind = if query["path"] == "/etc" { "directory" } else { "file" };
        Json(json!({
            "name": "etc", "kind": kind, "sizeBytes": 7, "allocatedBytes": 4096, "mode": "0755",
            "uid": 0, "gid": 0, "modifiedAt": "2026-01-01T00:00:00Z", "etag": "e",
        }))
    };
    let list = || async {
        Json(json!({ "items": [{
            "name": "localtime", "kind": "symlink", "sizeBytes": 7, "allocatedBytes": 0,
            "mode": "0777", "uid": 0, "gid": 0, "modifiedAt": "2026-01-01T00:00:00Z",
            "target": "../UTC", "etag": "e",
        }] }))
    };
    let watch = || async {
        let body = "event: change\ndata: {\"kind\":\"created\",\"path\":\"/etc/a\",\"directory\":false}\n\n\
                    event: overflow\ndata:\n\n";
        ([("content-type", "text/event-stream")], body)
    };
    Router::new()
        .route("/api/vms/{vm}/guest/{what}", post(change.clone()).get(change.clone()).put(change))
        .route("/api/vms/{vm}/files/info", get(info))
        .route("/api/vms/{vm}/files/list", get(list))
        .route("/api/vms/{vm}/files/watch", get(watch))
        .route("/api/vms/{vm}/files/{what}", post(file))
}

#[tokio::test]
async fn a_guest_is_changed_by_its_verbs() {
    let seen = Seen::default();
    let agent = Agent::start(guest_routes(&seen));
    std::fs::write(agent.path().join("keys"), "# mine\nssh-ed25519 AAAA me\n\n").unwrap();
    for (words, printed, sent) in [
        ("hostname web web-1", "", r#"hostname {"hostname":"web-1"}"#),
        ("clock web", "the guest's clock was 1500 ms behind\n", "clock"),
        (
            "network web --interface 02:00:00:AA:bb:cc --address 10.0.0.5/24 --gateway 10.0.0.1 --dns 1.1.1.1 --confirm 20s",
            "applied by netplan\n",
            r#"network {"interfaces":[{"mac":"02:00:00:aa:bb:cc","dhcp4":false,"dhcp6":false,"addresses":["10.0.0.5/24"],"routes":[{"to":"default","via":"10.0.0.1"}]}],"dns":["1.1.1.1"],"confirmSeconds":20}"#,
        ),
        (
            "freeze web /srv --timeout 10s",
            "/\n",
            r#"freeze {"mounts":["/srv"],"timeoutSeconds":10}"#,
        ),
        ("thaw web", "/\n", "thaw"),
        (
            "ssh-keys web --user me --add ./keys",
            "",
            r#"ssh-keys {"user":"me","keys":["ssh-ed25519 AAAA me"],"replace":false}"#,
        ),
        ("ssh-keys --vm web --list", "ssh-ed25519 AAAA me\n", "ssh-keys"),
        (
            "grow web --disk 2KiB",
            "/ on /dev/vda: 1KiB before, 2KiB now\n",
            r#"disk {"diskBytes":2048,"target":"/"}"#,
        ),
        (
            "mount web data /srv --format",
            "",
            r#"mount {"serial":"data","target":"/srv","readOnly":false,"lasting":false,"format":true}"#,
        ),
        ("unmount web /srv", "", r#"unmount {"target":"/srv"}"#),
    ] {
        let words: Vec<_> = ["vm", "guest"].into_iter().chain(words.split(' ')).collect();
        let output = agent.output(&words).await;
        assert_eq!((output.code, output.stdout.as_str()), (Some(0), printed), "{output:?}");
        assert!(seen.lines().last().unwrap().starts_with(sent), "{sent}: {seen:?}");
    }
    let nothing = agent.output(&["vm", "guest", "network", "web", "--interface", "eth0"]).await;
    assert_eq!(nothing.code, Some(2), "{nothing:?}");
}

async fn with_stdin(agent: &Agent, words: &[&str], text: &str) -> Output {
    let mut child = agent.inn(words).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).await.unwrap();
    finish(child).await
}

#[tokio::test]
async fn a_password_comes_by_stdin_alone() {
    let seen = Seen::default();
    let agent = Agent::start(guest_routes(&seen));
    let password = ["vm", "guest", "password", "web"];
    let output = with_stdin(&agent, &password, "s3cret\nmore\n").await;
    assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""), "{output:?}");
    let hash = [&password[..], &["--hash", "-u", "me"]].concat();
    assert_eq!(with_stdin(&agent, &hash, "$6$x\n").await.code, Some(0));
    assert_eq!(
        seen.lines(),
        [
            r#"password {"user":"root","password":"s3cret"}"#,
            r#"password {"user":"me","hash":"$6$x"}"#,
        ]
    );
    let empty = with_stdin(&agent, &password, "\n").await;
    assert_eq!((empty.code, empty.stderr.lines().count()), (Some(2), 1), "{empty:?}");
}

#[tokio::test]
async fn files_are_looked_at_and_changed() {
    let seen = Seen::default();
    let agent = Agent::start(guest_routes(&seen));
    let listed = agent.output(&["vm", "files", "ls", "web:/etc"]).await;
    assert!(
        listed.stdout.contains("lrwxrwxrwx") && listed.stdout.ends_with("localtime -> ../UTC\n")
    );
    let one = agent.output(&["vm", "files", "ls", "web:/etc/hostname", "-o", "json"]).await;
    let one: Value = serde_json::from_str(&one.stdout).unwrap();
    assert_eq!(one.as_array().unwrap().len(), 1);
    for (words, sent) in [
        ("mkdir -p -m 750 web:/srv/a", r#"mkdir {"path":"/srv/a","mode":"0750","parents":true}"#),
        ("mv -f web:/a /b", r#"rename {"from":"/a","to":"/b","replace":true}"#),
        ("ln ../a web:/b", r#"symlink {"path":"/b","target":"../a","replace":false}"#),
        ("chmod 600 --uid 5 web:/b", r#"attributes {"path":"/b","mode":"0600","uid":5}"#),
    ] {
        let words: Vec<_> = ["vm", "files"].into_iter().chain(words.split(' ')).collect();
        let output = agent.output(&words).await;
        assert_eq!((output.code, output.stdout.as_str()), (Some(0), ""), "{output:?}");
        assert_eq!(seen.lines().last().map(String::as_str), Some(sent));
    }
    let two = agent.output(&["vm", "files", "mv", "web:/a", "db:/b"]).await;
    assert_eq!(two.code, Some(2), "{two:?}");
}

#[tokio::test]
async fn a_watch_prints_changes_until_it_ends() {
    let agent = Agent::start(guest_routes(&Seen::default()));
    let output = agent.output(&["vm", "files", "watch", "-r", "web:/etc", "-o", "json"]).await;
    assert_eq!(output.code, Some(1), "{output:?}");
    assert_eq!(output.stdout, "{\"kind\":\"created\",\"path\":\"/etc/a\",\"directory\":false}\n");
    assert!(output.stderr.contains("some changes were lost"), "{output:?}");
    assert!(output.stderr.contains("the watch of web:/etc ended"), "{output:?}");
}

#[tokio::test]
async fn a_full_vm_is_made_from_a_disk_of_this_host() {
    let seen = Seen::default();
    let asked = seen.clone();
    let create = move |Json(body): Json<Value>| async move {
        asked.add(format!("{} {}", body["diskImage"]["url"], body["channel"]));
        (StatusCode::CREATED, Json(vm(1, "web", "stopped")))
    };
    let agent = Agent::start(Router::new().route("/api/vms", post(create)));
    let create = |disk| ["vm", "create", "--no-start", "--channel", "vsock", "--disk-image", disk];
    let missing = agent.output(&create("./disk 1.img")).await;
    assert_eq!((missing.code, missing.stderr.lines().count()), (Some(1), 1), "{missing:?}");
    std::fs::write(agent.path().join("disk 1.img"), "").unwrap();
    let output = agent.output(&create("./disk 1.img")).await;
    assert_eq!((output.code, output.stdout.as_str()), (Some(0), "web\n"), "{output:?}");
    let url = format!("\"file://{}/disk%201.img\" \"vsock\"", agent.path().display());
    assert_eq!(seen.lines(), [url]);
    assert_eq!(agent.output(&create("ftp://example.org/x.img")).await.code, Some(2));
}
