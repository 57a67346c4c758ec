use std::collections::HashMap;
use std::process::Stdio;

use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Query, RawQuery};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};
use serde_json::json;
use tar::{Builder, EntryType, Header};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::Child;

use crate::agent::{Agent, Seen, finish, vm};

async fn send(socket: &mut WebSocket, channel: u8, data: &[u8]) {
    let mut message = vec![channel];
    message.extend_from_slice(data);
    let _ = socket.send(Message::Binary(message.into())).await;
}

async fn end(socket: &mut WebSocket, code: u8) {
    let status = match code {
        0 => json!({ "status": "Success" }),
        _ => json!({
            "status": "Failure", "reason": "NonZeroExitCode", "message": "",
            "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
        }),
    };
    send(socket, 3, status.to_string().as_bytes()).await;
    let _ = socket.send(Message::Close(None)).await;
}

/// Plays the command's part: `echo` says its stdin back, `wait` waits for a
/// signal, `die` drops the connection, a number is an exit code.
async fn play(mut socket: WebSocket, query: String, seen: Seen) {
    seen.add(format!("exec {query}"));
    let words: Vec<&str> =
        query.split('&').filter_map(|pair| pair.strip_prefix("command=")).collect();
    match words.first().copied() {
        Some("echo") => {
            while let Some(Ok(Message::Binary(data))) = socket.recv().await {
                match data[0] {
                    0 => send(&mut socket, 1, &data[1..]).await,
                    255 => break,
                    channel => {
                        let text = String::from_utf8_lossy(&data[1..]);
                        seen.add(format!("{channel}: {text}"));
                    }
                }
            }
            end(&mut socket, 0).await;
        }
        Some("wait") => {
            send(&mut socket, 1, b"waiting\n").await;
            while let Some(Ok(Message::Binary(data))) = socket.recv().await {
                seen.add(format!("{}: {}", data[0], String::from_utf8_lossy(&data[1..])));
                // The second word says how many signals it takes.
                if words.get(1).is_none() {
                    end(&mut socket, 130).await;
                }
                send(&mut socket, 1, b"again\n").await;
            }
            seen.add("closed");
        }
        Some("die") => send(&mut socket, 1, b"half a").await,
        Some(code) => {
            send(&mut socket, 1, b"one\ntw").await;
            send(&mut socket, 2, b"oops\n").await;
            send(&mut socket, 1, b"o\nthree").await;
            end(&mut socket, code.parse().unwrap_or(0)).await;
        }
        None => end(&mut socket, 0).await,
    }
}

/// VM web runs; a new VM gets as far as `boots` says.
fn routes(seen: &Seen, boots: &'static [&'static str]) -> Router {
    let (played, leased, deleted, asked) = (seen.clone(), seen.clone(), seen.clone(), seen.clone());
    let exec = move |RawQuery(query): RawQuery, upgrade: WebSocketUpgrade| async move {
        let upgrade = upgrade.protocols(["v5.channel.k8s.io"]);
        upgrade.on_upgrade(move |socket| async move {
            if boots.last() == Some(&"running") {
                play(socket, query.unwrap_or_default(), played).await;
            } else {
                std::future::pending::<()>().await;
            }
        })
    };
    let lease = move |upgrade: WebSocketUpgrade| async move {
        upgrade.on_upgrade(move |mut socket| async move {
            for phase in boots {
                let failure = json!({
                    "step": "handshake", "cause": "the guest did not answer within 60 s",
                    "next": "look at its console", "console": ["Kernel panic"],
                    "at": "2026-01-01T00:00:00Z",
                });
                let event = json!({
                    "phase": phase, "failure": (*phase == "failed").then_some(failure),
                });
                let _ = socket.send(Message::Text(event.to_string().into())).await;
            }
            leased.add("leased");
            while let Some(Ok(_)) = socket.recv().await {}
            leased.add("lease closed");
        })
    };
    let create = move |Json(body): Json<serde_json::Value>| async move {
        asked.add(format!("create lease={} workload={}", body["lease"], body["workload"]));
        (StatusCode::CREATED, Json(vm(1, "web", "pending")))
    };
    let delete = move || async move {
        deleted.add("deleted");
        Json(vm(1, "web", "deleting"))
    };
    let show = move |Query(query): Query<HashMap<String, String>>| async move {
        if query.contains_key("wait") {
            return (
                StatusCode::NOT_FOUND,
                Json(json!({
                    "type": "", "title": "", "status": 404, "detail": "gone", "code": "not-found",
                })),
            );
        }
        (StatusCode::OK, Json(vm(1, "web", "running")))
    };
    Router::new()
        .route("/api/vms", post(create))
        .route("/api/vms/{vm}", get(show).delete(delete))
        .route("/api/vms/{vm}/exec", get(exec))
        .route("/api/vms/{vm}/lease", get(lease))
        .route(
            "/api/vms/{vm}/files",
            get(|| async { hostile_tar() }).put(|| async { Json(json!({ "bytes": 0 })) }),
        )
}

/// What a hostile guest has in its /out.
fn hostile_tar() -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    let mut add = |kind: EntryType, name: &str, target: &str, body: &[u8]| {
        let mut header = Header::new_gnu();
        let old = header.as_old_mut();
        old.name[..name.len()].copy_from_slice(name.as_bytes());
        old.linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o4755);
        header.set_size(body.len() as u64);
        header.set_cksum();
        builder.append(&header, body).unwrap();
    };
    add(EntryType::Regular, "good", "", b"good");
    add(EntryType::Symlink, "link", "../../outside", b"");
    add(EntryType::Char, "null", "", b"");
    add(EntryType::Regular, "../outside", "", b"evil");
    builder.into_inner().unwrap()
}

fn signal(child: &Child, signal: Signal) {
    let pid = i32::try_from(child.id().unwrap()).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

const UP: &[&str] = &["starting", "running"];

#[tokio::test]
async fn one_vm_s_output_and_exit_code_are_the_command_s() {
    let agent = Agent::start(routes(&Seen::default(), UP));
    let output = agent.output(&["vm", "exec", "web", "--", "7"]).await;
    assert_eq!(output.code, Some(7), "{output:?}");
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("one\ntwo\nthree", "oops\n"));
}

#[tokio::test]
async fn several_vms_are_labelled_and_failures_summed_up() {
    let agent = Agent::start(routes(&Seen::default(), UP));
    let output = agent.output(&["vm", "exec", "a", "--vm", "long-one", "--", "7"]).await;
    assert_eq!(output.code, Some(1), "{output:?}");
    let mut lines: Vec<_> = output.stdout.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines[..3], ["a        | one", "a        | three", "a        | two"]);
    assert_eq!(lines[3..], ["long-one | one", "long-one | three", "long-one | two"]);
    let summary = "inn: failed in 2 of 2 VMs: a (exit code 7), long-one (exit code 7)\n";
    assert!(output.stderr.ends_with(summary), "{output:?}");
}

#[tokio::test]
async fn stdin_goes_through_to_its_end() {
    let agent = Agent::start(routes(&Seen::default(), UP));
    let mut child = agent
        .inn(&["vm", "exec", "-i", "web", "--", "echo"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let text = "0123456789abcdef".repeat(100_000);
    let mut stdin = child.stdin.take().unwrap();
    let sent = text.clone();
    let writer = tokio::spawn(async move { stdin.write_all(sent.as_bytes()).await });
    let output = finish(child).await;
    writer.await.unwrap().unwrap();
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    assert!(output.stdout == text, "{} bytes of {}", output.stdout.len(), text.len());
}

#[tokio::test]
async fn ctrl_c_goes_to_the_command_and_the_second_gives_up() {
    let seen = Seen::default();
    let agent = Agent::start(routes(&seen, UP));
    let child = agent.inn(&["vm", "exec", "web", "--", "wait"]).spawn().unwrap();
    let (child, _) = until_line(child, "waiting").await;
    signal(&child, Signal::INT);
    assert_eq!(finish(child).await.code, Some(130));
    assert!(seen.has("5: SIGINT"), "{seen:?}");

    let child = agent.inn(&["vm", "exec", "web", "--", "wait", "on"]).spawn().unwrap();
    let (child, mut out) = until_line(child, "waiting").await;
    signal(&child, Signal::INT);
    let mut line = String::new();
    out.read_line(&mut line).await.unwrap();
    assert_eq!(line, "again\n");
    signal(&child, Signal::INT);
    assert_eq!(finish(child).await.code, Some(130));
}

async fn until_line(
    mut child: Child,
    text: &str,
) -> (Child, BufReader<tokio::process::ChildStdout>) {
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).await.unwrap();
    assert_eq!(line.trim(), text);
    (child, out)
}

#[tokio::test]
async fn an_agent_that_dies_is_a_failure_with_a_sentence() {
    let agent = Agent::start(routes(&Seen::default(), UP));
    let output = agent.output(&["vm", "exec", "web", "--", "die"]).await;
    assert_eq!((output.code, output.stdout.as_str()), (Some(1), "half a"), "{output:?}");
    assert!(output.stderr.starts_with("inn: the connection"), "{output:?}");
    assert_eq!(output.stderr.lines().count(), 1, "{output:?}");
}

#[tokio::test]
async fn a_reader_that_goes_away_ends_the_command_quietly() {
    let agent = Agent::start(routes(&Seen::default(), UP));
    let mut child = agent
        .inn(&["vm", "exec", "-i", "web", "--", "echo"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut first = [0];
    stdin.write_all(b"x").await.unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut first).await.unwrap();
    drop(stdout);
    stdin.write_all(b"y").await.unwrap();
    let output = finish(child).await;
    assert_eq!((output.code, output.stderr.as_str()), (Some(141), ""), "{output:?}");
}

#[tokio::test]
async fn run_holds_a_lease_and_deletes_its_vm() {
    let seen = Seen::default();
    let agent = Agent::start(routes(&seen, UP));
    let output = agent.output(&["run", "--rm", "base", "--", "3"]).await;
    assert_eq!(output.code, Some(3), "{output:?}");
    assert_eq!(output.stderr, "oops\n");
    assert!(seen.has("create lease=true workload=\"none\""), "{seen:?}");
    assert!(seen.has("leased") && seen.has("deleted"), "{seen:?}");
    assert!(seen.has("image-entrypoint=true"), "{seen:?}");
}

#[tokio::test]
async fn run_interrupted_while_booting_deletes_its_vm() {
    let seen = Seen::default();
    let agent = Agent::start(routes(&seen, &["starting"]));
    let child = agent.inn(&["run", "--rm", "base", "--", "3"]).spawn().unwrap();
    seen.until("leased").await;
    signal(&child, Signal::INT);
    let output = finish(child).await;
    assert_eq!(output.code, Some(130), "{output:?}");
    assert_eq!(output.stderr, "inn: interrupted while VM web was starting; it is deleted\n");
    assert!(seen.has("deleted"), "{seen:?}");
}

#[tokio::test]
async fn run_of_a_vm_that_never_comes_up_says_why() {
    let seen = Seen::default();
    let agent = Agent::start(routes(&seen, &["starting", "failed"]));
    let output = agent.output(&["run", "--rm", "base", "--", "3"]).await;
    assert_eq!(output.code, Some(1), "{output:?}");
    assert_eq!(
        output.stderr,
        "  console | Kernel panic\n\
         inn: VM web failed at handshake: the guest did not answer within 60 s; look at its console\n"
    );
    assert!(seen.has("deleted"), "{seen:?}");
}

#[tokio::test]
async fn what_a_hostile_guest_leaves_in_out_stays_in_its_place() {
    let agent = Agent::start(routes(&Seen::default(), UP));
    let output = agent.output(&["vm", "exec", "web", "--out", "results", "--", "0"]).await;
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains("points outside: ../outside"), "{output:?}");
    let results = agent.path().join("results");
    assert_eq!(std::fs::read_to_string(results.join("good")).unwrap(), "good");
    assert_eq!(std::fs::read_dir(&results).unwrap().count(), 1);
    assert!(!agent.path().join("outside").exists());
}

#[tokio::test]
async fn json_has_both_outputs_and_the_exit_code() {
    let agent = Agent::start(routes(&Seen::default(), UP));
    let output = agent.output(&["run", "--rm", "-o", "json", "base", "--", "7"]).await;
    assert_eq!(output.code, Some(7), "{output:?}");
    let report: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(
        (&report["stdout"], &report["stderr"]),
        (&json!("one\ntwo\nthree"), &json!("oops\n"))
    );
    assert_eq!((&report["exitCode"], &report["name"]), (&json!(7), &json!("web")));
}

#[tokio::test]
async fn the_terminal_is_raw_meanwhile_and_what_it_was_afterwards() {
    let seen = Seen::default();
    let agent = Agent::start(routes(&seen, UP));
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let path = ptsname(&master, Vec::new()).unwrap();
    let terminal =
        std::fs::OpenOptions::new().read(true).write(true).open(path.to_str().unwrap()).unwrap();
    let before = tcgetattr(&terminal).unwrap();
    assert!(before.local_modes.contains(LocalModes::ICANON));
    let child = agent
        .inn(&["vm", "exec", "-i", "-t", "web", "--", "wait", "on"])
        .stdin(terminal.try_clone().unwrap())
        .spawn()
        .unwrap();
    let (child, mut out) = until_line(child, "waiting").await;
    let raw = tcgetattr(&terminal).unwrap();
    assert!(!raw.local_modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG));
    assert!(seen.has("tty=true") && seen.has("rows=24"), "{seen:?}");

    signal(&child, Signal::TERM);
    let mut line = String::new();
    out.read_line(&mut line).await.unwrap();
    assert!(seen.has("5: SIGTERM"), "{seen:?}");
    signal(&child, Signal::TERM);
    assert_eq!(finish(child).await.code, Some(143));
    let after = tcgetattr(&terminal).unwrap();
    assert_eq!(after.local_modes, before.local_modes);
    assert_eq!(after.output_modes, before.output_modes);
}
