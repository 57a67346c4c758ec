//! The scripted agent, and `inn` started against it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use serde_json::json;
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::process::{Child, Command};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// What the agent was asked and told, in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    lines: Arc<Mutex<Vec<String>>>,
    added: Arc<Notify>,
}

impl Seen {
    pub(crate) fn add(&self, line: impl Into<String>) {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line.into());
        self.added.notify_one();
    }

    /// Waits until a line with `part` in it is there.
    pub(crate) async fn until(&self, part: &str) {
        while !self.has(part) {
            self.added.notified().await;
        }
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn has(&self, part: &str) -> bool {
        self.lines().iter().any(|line| line.contains(part))
    }
}

#[derive(Debug)]
pub(crate) struct Agent {
    dir: TempDir,
    server: JoinHandle<()>,
}

impl Agent {
    pub(crate) fn start(routes: Router) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let listener = UnixListener::bind(dir.path().join("api.sock")).expect("a free path");
        let server = tokio::spawn(async move {
            axum::serve(listener, routes).await.expect("the listener stays open");
        });
        Self { dir, server }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("api.sock")
    }

    /// `inn` with these words, in the test's own directory.
    #[expect(clippy::disallowed_methods, reason = "tests start the program under test")]
    pub(crate) fn inn(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_inn"));
        command
            .args(words)
            .env_clear()
            .env("INN_SOCKET", self.socket())
            .current_dir(self.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    pub(crate) async fn output(&self, words: &[&str]) -> Output {
        let child = self.inn(words).spawn().expect("inn is built");
        finish(child).await
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.server.abort();
    }
}

#[derive(Debug)]
pub(crate) struct Output {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

pub(crate) async fn finish(child: Child) -> Output {
    let output = child.wait_with_output().await.expect("inn ends");
    Output {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A refusal, as the API has it.
pub(crate) fn problem(status: u16, code: &str, detail: &str) -> Response {
    let body = json!({
        "type": format!("urn:innkeeper:problem:{code}"),
        "title": code, "status": status, "detail": detail, "code": code,
    });
    (StatusCode::from_u16(status).expect("a status"), Json(body)).into_response()
}

/// A VM in JSON, as the API has it.
pub(crate) fn vm(number: u32, name: &str, phase: &str) -> serde_json::Value {
    json!({
        "id": format!("{number:010x}"),
        "name": name,
        "image": { "name": "base", "digest": format!("sha256:{}", "0".repeat(64)) },
        "language": "python",
        "vcpus": 1,
        "memoryBytes": 268_435_456u64,
        "diskBytes": 2_147_483_648u64,
        "network": "allow_all",
        "runtime": "auto",
        "channel": "auto",
        "restartPolicy": "no",
        "persist": false,
        "lease": false,
        "labels": BTreeMap::<String, String>::new(),
        "desired": "running",
        "phase": phase,
        "generation": 1,
        "observedGeneration": if matches!(phase, "running" | "stopped" | "failed") { 1 } else { 0 },
        "guest": { "link": "ready" },
        "limits": { "layout": "none", "applied": [], "notApplied": [] },
        "createdAt": "2026-01-01T00:00:00Z",
    })
}
