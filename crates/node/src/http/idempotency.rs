//! `Idempotency-Key`: a request that is sent again after a broken connection
//! gets the first one's answer, and is not carried out twice.
//!
//! Kept in memory: after the agent's end a client sees by the VM's name
//! whether its request was carried out.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use inn_api::Code;
use twox_hash::XxHash3_64;

use super::problem::Failed;
use super::{ApiState, JSON_LIMIT};
use crate::access::Principal;

const HEADER: &str = "idempotency-key";

/// Answers that are remembered: the oldest makes room.
const REMEMBERED: usize = 256;

/// Longer ones are no keys.
const KEY_LIMIT: usize = 255;

#[derive(Debug, Default)]
pub(crate) struct Replays {
    known: Mutex<VecDeque<Known>>,
}

#[derive(Debug)]
struct Known {
    /// Whose it is, a line end, and the key that was sent.
    key: String,
    /// Of method, path, query and body.
    request: u64,
    /// `None` while the first one is at work.
    answer: Option<Answer>,
}

#[derive(Debug, Clone)]
struct Answer {
    status: StatusCode,
    headers: Vec<(header::HeaderName, header::HeaderValue)>,
    body: Bytes,
}

pub(super) async fn replay(
    State(state): State<ApiState>,
    path: Option<MatchedPath>,
    request: Request,
    next: Next,
) -> Response {
    let key = request.headers().get(HEADER).and_then(|key| key.to_str().ok()).map(str::to_owned);
    // An answer with a token in it is kept nowhere. Nor is a file's content: it
    // has an upload's id to go on by.
    let is_secret = request.uri().path() == "/api/tokens";
    let is_file = path.is_some_and(|path| path.as_str() == "/api/vms/{vm}/files");
    let changes = match *request.method() {
        Method::PUT => !is_file,
        Method::POST | Method::DELETE => !is_secret,
        _ => false,
    };
    match key {
        Some(key) if changes => match once(&state.replays, key, request, next).await {
            Ok(response) => response,
            Err(failed) => failed.into_response(),
        },
        _ => next.run(request).await,
    }
}

async fn once(
    replays: &Replays,
    key: String,
    request: Request,
    next: Next,
) -> Result<Response, Failed> {
    if key.is_empty() || key.len() > KEY_LIMIT {
        return Err(Failed::invalid(format!("an {HEADER} has 1 to {KEY_LIMIT} characters")));
    }
    let (parts, body) = request.into_parts();
    // Nobody gets an answer that was somebody else's.
    let whose = parts.extensions.get::<Principal>().map(|principal| principal.who.to_string());
    let key = format!("{}\n{key}", whose.unwrap_or_default());
    let body = to_bytes(body, JSON_LIMIT)
        .await
        .map_err(|_| Failed::new(Code::LimitExceeded, "the body is larger than 1 MiB"))?;
    let text = format!("{} {}\n", parts.method, parts.uri);
    let hash = XxHash3_64::oneshot_with_seed(XxHash3_64::oneshot(text.as_bytes()), &body);
    if let Some(answer) = replays.begin(&key, hash)? {
        return Ok(answer.into_response());
    }
    // Whatever becomes of this request, the key does not stay taken for ever.
    let mut guard = AtWork { replays, key: Some(key) };
    let response = next.run(Request::from_parts(parts, Body::from(body))).await;
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.map_err(|error| Failed::internal(&error))?;
    let kept = [header::CONTENT_TYPE, header::LOCATION];
    let answer = Answer {
        status: parts.status,
        headers: kept
            .into_iter()
            .filter_map(|name| parts.headers.get(&name).map(|value| (name, value.clone())))
            .collect(),
        body,
    };
    if let Some(key) = guard.key.take() {
        replays.finish(&key, answer.clone());
    }
    Ok(answer.into_response())
}

struct AtWork<'a> {
    replays: &'a Replays,
    key: Option<String>,
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        if let Some(key) = &self.key {
            self.replays.lock().retain(|known| known.key != *key);
        }
    }
}

impl Replays {
    fn begin(&self, key: &str, request: u64) -> Result<Option<Answer>, Failed> {
        let mut known = self.lock();
        if let Some(known) = known.iter().find(|known| known.key == key) {
            let key = key.split_once('\n').map_or(key, |(_, key)| key);
            if known.request != request {
                let detail = format!("the {HEADER} {key} was used for another request");
                return Err(Failed::new(Code::Conflict, detail));
            }
            return match &known.answer {
                Some(answer) => Ok(Some(answer.clone())),
                None => Err(Failed::new(
                    Code::Conflict,
                    format!("the request with the {HEADER} {key} is still at work"),
                )),
            };
        }
        if known.len() >= REMEMBERED {
            known.pop_front();
        }
        known.push_back(Known { key: key.to_owned(), request, answer: None });
        Ok(None)
    }

    /// A fault of ours is no answer to keep: it may go better the next time.
    fn finish(&self, key: &str, answer: Answer) {
        let mut known = self.lock();
        if answer.status.is_server_error() {
            known.retain(|known| known.key != key);
        } else if let Some(known) = known.iter_mut().find(|known| known.key == key) {
            known.answer = Some(answer);
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.body).into_response();
        response.headers_mut().remove(header::CONTENT_TYPE);
        response.headers_mut().extend(self.headers);
        response
    }
}
