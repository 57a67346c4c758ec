//! Exports spans to whatever speaks OTLP over HTTP: the OpenTelemetry
//! Collector, Jaeger, Tempo (<https://opentelemetry.io/docs/specs/otlp/>, 1.x).
//!
//! ```text
//!   inn_trace's queue ──▶ a thread: gathers ──▶ POST /v1/traces, protobuf
//!                           │ full, or a second old     │ 429, 502 to 504, no answer
//!                           └───────────────────────────┴─▶ tried again, then lost
//! ```
//!
//! Nobody waits for it: while a collector is away the queue fills and spans are
//! lost, which the log says once.

mod settings;
#[cfg(test)]
mod tests;
pub mod wire;

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};
use std::{io, thread};

use inn_trace::Ended;
use prost::Message;
use reqwest::{Client, StatusCode};

pub use settings::{Settings, SettingsError};

/// Spans of one request.
const BATCH: usize = 512;

/// How long a span waits for others.
const GATHER: Duration = Duration::from_secs(1);

/// For a collector to answer; the protocol's default.
const ANSWER: Duration = Duration::from_secs(10);

/// How often one batch is sent, and the pause before it is sent again.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);

/// Sends what comes, from a thread of its own, until whoever sends has gone.
pub fn export(spans: Receiver<Ended>, settings: Settings) -> io::Result<thread::JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = client()?;
    thread::Builder::new().name("otlp".to_owned()).spawn(move || {
        let mut well = true;
        while let Some(batch) = gather(&spans) {
            let count = batch.len();
            let sent = runtime.block_on(send(&client, &settings, batch));
            match (&sent, std::mem::replace(&mut well, sent.is_ok())) {
                // Once, until it is well again: a log is no place for each.
                (Err(why), true) => tracing::warn!(
                    endpoint = settings.shown_endpoint(),
                    spans = count,
                    why,
                    "traces cannot be exported; they are lost until they can"
                ),
                (Ok(()), false) => tracing::info!("traces are exported again"),
                _ => {}
            }
        }
    })
}

/// What has come within a while; `None` once nobody sends.
fn gather(spans: &Receiver<Ended>) -> Option<Vec<Ended>> {
    let mut batch = vec![spans.recv().ok()?];
    let until = Instant::now() + GATHER;
    while batch.len() < BATCH {
        match spans.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(span) => batch.push(span),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
        }
    }
    Some(batch)
}

async fn send(client: &Client, settings: &Settings, batch: Vec<Ended>) -> Result<(), String> {
    let body = wire::request(settings, batch).encode_to_vec();
    let mut tries = 0;
    loop {
        tries += 1;
        let mut request = client
            .post(&settings.endpoint)
            .header("content-type", "application/x-protobuf")
            .body(body.clone());
        for (name, value) in &settings.headers {
            request = request.header(name, value);
        }
        let (why, again) = match request.send().await {
            Ok(answer) if answer.status().is_success() => return Ok(()),
            Ok(answer) => (format!("it answers {}", answer.status()), may_retry(answer.status())),
            Err(error) => (chain(&error), true),
        };
        if !again || tries >= TRIES {
            return Err(why);
        }
        tokio::time::sleep(PAUSE * tries).await;
    }
}

/// OTLP 1.x, "Failures": the rest stays refused however often it is sent.
fn may_retry(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 502 | 503 | 504)
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut error = error.source();
    while let Some(cause) = error {
        text = format!("{text}: {cause}");
        error = cause.source();
    }
    text
}

fn client() -> io::Result<Client> {
    let mut roots = rustls::RootCertStore::empty();
    // Without any, each connection by TLS fails and says so.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Client::builder()
        .tls_backend_preconfigured(tls)
        .timeout(ANSWER)
        // A collector that sends us elsewhere would get the headers.
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(io::Error::other)
}
