//! `Idempotency-Key`: a request that is sent again gets the first one's answer,
//! and is not carried out twice, also by the agent's next life.
//!
//! ```text
//!   asked ─▶ known? ──answered──▶ its answer
//!              │ └────accepted──▶ the handler goes on with the VM that it is about
//!              │ no
//!              ▼
//!           at work ─▶ what it wants is stored, and the key with it ─▶ answered
//! ```
//!
//! A key is its caller's and its route's, for a day. Only what was carried out
//! is remembered: who is refused may ask again. What a guest is asked alone
//! (`Kept::Life`) is remembered in memory: it may have secrets in it.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use inn_api::Code;
use inn_store::{KeyAnswer, KeyMark, KeyRecord, KnownKey, StoreError};
use inn_units::{Digest, ExecId, VmId};
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use super::extract::{in_time, of_body};
use super::problem::Failed;
use super::{ApiState, JSON_LIMIT};
use crate::access::Principal;
use crate::error::Chain;

pub(super) const HEADER: &str = "idempotency-key";

/// Longer ones are no keys.
pub(super) const KEY_LIMIT: usize = 255;

/// Answers that are remembered in memory, of one caller and of all: the oldest
/// of them make room.
const OF_ONE: usize = 256;
const OF_ALL: usize = 2_048;

/// The largest answer that is kept. Of a larger one the VM is known.
const ANSWER_LIMIT: usize = 64 << 10;

/// How long a route's answers are worth something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    /// A key counts for nothing.
    No,
    /// As long as the agent lives.
    Life,
    /// In the state database.
    Day,
}

/// By method and path, as the router has it.
pub(super) fn kept(method: &Method, route: &str) -> Kept {
    if !matches!(*method, Method::POST | Method::PUT | Method::PATCH | Method::DELETE) {
        return Kept::No;
    }
    match route {
        // An answer with a token in it is kept nowhere.
        "/api/tokens" => Kept::No,
        // A file's content has an upload's id to go on by.
        "/api/vms/{vm}/files" if *method == Method::PUT => Kept::No,
        // An operation ends with the agent, and its id means nothing then.
        "/api/images/import"
        | "/api/images/pull"
        | "/api/snapshots/import"
        | "/api/vms/{vm}/snapshot"
        | "/api/operations/{id}" => Kept::Life,
        // Bodies and command lines are where people write passwords.
        _ if route.starts_with("/api/vms/{vm}/guest/") => Kept::Life,
        _ if route.starts_with("/api/vms/{vm}/execs") => Kept::Life,
        _ => Kept::Day,
    }
}

#[derive(Debug, Default)]
pub(crate) struct Replays {
    /// Requests that are being carried out.
    at_work: Mutex<HashMap<KeyId, Digest>>,
    /// Of `Kept::Life`, oldest first.
    known: Mutex<VecDeque<(KeyId, KnownKey)>>,
}

/// Whose, of which route, and the key.
type KeyId = (String, String, String);

/// The key that a request came with, if it did, on its way to the handler.
/// It is at work as long as anybody has this.
#[derive(Debug, Clone, Default)]
pub(super) struct Keyed(Option<Arc<Asked>>);

#[derive(Debug)]
struct Asked {
    replays: Arc<Replays>,
    record: KeyRecord,
    kept: Kept,
    /// Of one that was accepted before, the VM that it is about.
    vm: Option<VmId>,
}

impl Keyed {
    /// The VM that the same request was accepted for before: what is left is
    /// to say how it goes.
    pub(super) fn accepted(&self) -> Option<VmId> {
        self.0.as_ref()?.vm
    }

    /// To be stored with what the request wants.
    pub(super) fn mark(&self) -> Option<KeyMark> {
        let asked = self.0.as_ref().filter(|asked| asked.kept == Kept::Day)?;
        Some(KeyMark { record: asked.record.clone(), answer: None })
    }

    /// What a guest can know the request by, over the agent's lives: the same
    /// for the same request with the same key.
    pub(super) fn exec_id(&self) -> Option<ExecId> {
        let record = &self.0.as_ref()?.record;
        let mut digest = Sha256::new();
        for part in [&record.caller, &record.route, &record.key] {
            digest.update(part);
            digest.update([0]);
        }
        digest.update(record.digest.as_bytes());
        let digest: [u8; 32] = digest.finalize().into();
        let mut id = [0; ExecId::BYTES];
        id.copy_from_slice(&digest[..ExecId::BYTES]);
        Some(ExecId::from_bytes(id))
    }

    /// The same with an answer, where none can be given once it is done.
    pub(super) fn mark_with(
        &self,
        status: StatusCode,
        body: &impl serde::Serialize,
    ) -> Option<KeyMark> {
        let body = serde_json::to_vec(body).ok().filter(|body| body.len() <= ANSWER_LIMIT);
        let json = (header::CONTENT_TYPE.to_string(), "application/json".to_owned());
        let answer =
            body.map(|body| KeyAnswer { status: status.as_u16(), headers: vec![json], body });
        self.mark().map(|mark| KeyMark { answer, ..mark })
    }
}

impl<S: Sync> FromRequestParts<S> for Keyed {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get().cloned().unwrap_or_default())
    }
}

/// Whether a request came with a key that counts for something.
pub(super) fn is_repeatable(request: &Request, path: Option<&MatchedPath>) -> bool {
    let kept = path.map_or(Kept::No, |path| kept(request.method(), path.as_str()));
    kept != Kept::No && request.headers().contains_key(HEADER)
}

pub(super) async fn replay(
    State(state): State<ApiState>,
    path: Option<MatchedPath>,
    request: Request,
    next: Next,
) -> Response {
    let Some(path) = path.filter(|path| is_repeatable(&request, Some(path))) else {
        return next.run(request).await;
    };
    let kept = kept(request.method(), path.as_str());
    let route = format!("{} {}", request.method(), path.as_str());
    match once(&state, (route, kept), request, next).await {
        Ok(response) => response,
        Err(failed) => failed.into_response(),
    }
}

async fn once(
    state: &ApiState,
    (route, kept): (String, Kept),
    request: Request,
    next: Next,
) -> Result<Response, Failed> {
    let key = key_of(request.headers())?;
    let (parts, body) = request.into_parts();
    // Nobody gets an answer that was somebody else's.
    let whose = parts.extensions.get::<Principal>().map(|principal| principal.who.id());
    let body = in_time(state, to_bytes(body, JSON_LIMIT)).await?;
    let body = body.map_err(|error| of_body(&error))?;
    let mut digest = Sha256::new();
    digest.update(what_is_asked(&parts.uri));
    digest.update(&body);
    let record = KeyRecord {
        caller: whose.unwrap_or_default(),
        route,
        key,
        digest: Digest::from_sha256(digest.finalize().into()),
        at: Timestamp::now(),
    };
    let mut asked = Asked::begin(&state.replays, record, kept)?;
    let known = match kept {
        Kept::Day => {
            let known = state.node.store.known_key(asked.record.clone()).await;
            known.map_err(|error| Failed::internal(&error))?
        }
        Kept::Life | Kept::No => state.replays.known(&asked.record),
    };
    if let Some(KnownKey { digest, vm, answer }) = known {
        if digest != asked.record.digest {
            return Err(used_otherwise(&asked.record.key));
        }
        if let Some(answer) = answer {
            return Ok(response_of(answer));
        }
        asked.vm = vm;
    }
    let asked = Arc::new(asked);
    let mut request = Request::from_parts(parts, Body::from(body));
    request.extensions_mut().insert(Keyed(Some(Arc::clone(&asked))));
    let response = next.run(request).await;
    if !response.status().is_success() {
        return Ok(response);
    }
    let (mut parts, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.map_err(|error| Failed::internal(&error))?;
    if let Err(error) = finish(state, &asked, answer_of(&parts.headers, parts.status, &body)).await
    {
        tracing::warn!(
            key = asked.record.key, error = %Chain(&error),
            "an answer is not kept: sent again, the request is carried out again"
        );
    }
    parts.headers.remove(header::TRANSFER_ENCODING);
    Ok(Response::from_parts(parts, Body::from(body)))
}

/// Path and query. How long the answer may take is no part of it.
fn what_is_asked(uri: &Uri) -> String {
    let query = uri.query().unwrap_or_default().split('&');
    let query: Vec<&str> = query.filter(|part| !part.starts_with("wait=")).collect();
    format!("{}?{}\n", uri.path(), query.join("&"))
}

/// The key that a request came with: bytes, each as the character of its number.
fn key_of(headers: &HeaderMap) -> Result<String, Failed> {
    let key = headers.get(HEADER).map_or(&[][..], HeaderValue::as_bytes);
    if key.is_empty() || key.len() > KEY_LIMIT {
        return Err(Failed::invalid(format!("an {HEADER} has 1 to {KEY_LIMIT} bytes")));
    }
    Ok(key.iter().copied().map(char::from).collect())
}

fn used_otherwise(key: &str) -> Failed {
    let detail = format!("the {HEADER} {key} was used for another request; use a new one");
    Failed::new(Code::Conflict, detail)
}

async fn finish(state: &ApiState, asked: &Asked, answer: KeyAnswer) -> Result<(), StoreError> {
    let answer = (answer.body.len() <= ANSWER_LIMIT).then_some(answer);
    match asked.kept {
        Kept::Day => {
            let record = asked.record.clone();
            state.node.store.keep_answer(KeyMark { record, answer }).await
        }
        Kept::Life | Kept::No => {
            state.replays.keep(&asked.record, answer);
            Ok(())
        }
    }
}

fn answer_of(headers: &HeaderMap, status: StatusCode, body: &Bytes) -> KeyAnswer {
    let kept = [header::CONTENT_TYPE, header::LOCATION];
    let text = |name: &HeaderName| Some(headers.get(name)?.to_str().ok()?.to_owned());
    KeyAnswer {
        status: status.as_u16(),
        headers: kept.iter().filter_map(|name| Some((name.to_string(), text(name)?))).collect(),
        body: body.to_vec(),
    }
}

fn response_of(answer: KeyAnswer) -> Response {
    let mut response = Response::new(Body::from(answer.body));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
    for (name, value) in answer.headers {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::try_from(value)) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

fn id_of(record: &KeyRecord) -> KeyId {
    (record.caller.clone(), record.route.clone(), record.key.clone())
}

impl Asked {
    /// Only one at a time.
    fn begin(replays: &Arc<Replays>, record: KeyRecord, kept: Kept) -> Result<Self, Failed> {
        let mut at_work = lock(&replays.at_work);
        match at_work.get(&id_of(&record)) {
            Some(digest) if *digest != record.digest => Err(used_otherwise(&record.key)),
            Some(_) => Err(Failed::new(
                Code::Conflict,
                format!(
                    "the request with the {HEADER} {} is still at work; wait for it",
                    record.key
                ),
            )),
            None => {
                at_work.insert(id_of(&record), record.digest);
                Ok(Self { replays: Arc::clone(replays), record, kept, vm: None })
            }
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        lock(&self.replays.at_work).remove(&id_of(&self.record));
    }
}

impl Replays {
    fn known(&self, record: &KeyRecord) -> Option<KnownKey> {
        let id = id_of(record);
        lock(&self.known).iter().find(|(known, _)| *known == id).map(|(_, known)| known.clone())
    }

    fn keep(&self, record: &KeyRecord, answer: Option<KeyAnswer>) {
        let id = id_of(record);
        let mut known = lock(&self.known);
        known.retain(|(old, _)| *old != id);
        let of_caller = || known.iter().filter(|((caller, ..), _)| *caller == id.0);
        if of_caller().count() >= OF_ONE {
            let oldest = known.iter().position(|((caller, ..), _)| *caller == id.0);
            oldest.and_then(|place| known.remove(place));
        } else if known.len() >= OF_ALL {
            known.pop_front();
        }
        known.push_back((id, KnownKey { digest: record.digest, vm: None, answer }));
    }
}

/// Every change is one insertion or removal.
fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(caller: &str, key: &str) -> KeyRecord {
        KeyRecord {
            caller: caller.to_owned(),
            route: "POST /api/x".to_owned(),
            key: key.to_owned(),
            digest: Digest::from_sha256([1; 32]),
            at: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn one_caller_s_keys_push_out_no_other_s() {
        let replays = Arc::new(Replays::default());
        replays.keep(&record("other", "k"), None);
        for n in 0..OF_ONE + 1 {
            replays.keep(&record("busy", &n.to_string()), None);
        }
        assert!(replays.known(&record("busy", "0")).is_none());
        assert!(replays.known(&record("busy", "1")).is_some());
        assert!(replays.known(&record("other", "k")).is_some());
        for n in 0..OF_ALL * 2 {
            replays.keep(&record(&n.to_string(), "k"), None);
        }
        assert_eq!(lock(&replays.known).len(), OF_ALL);
    }

    #[test]
    fn a_key_is_at_work_until_the_last_who_works_for_it_is_done() {
        let replays = Arc::new(Replays::default());
        let begin = |digest| {
            let record =
                KeyRecord { digest: Digest::from_sha256([digest; 32]), ..record("a", "k") };
            Asked::begin(&replays, record, Kept::Day)
        };
        let first = Keyed(Some(Arc::new(begin(1).unwrap())));
        let worker = first.clone();
        drop(first);
        assert!(begin(1).unwrap_err().0.detail.contains("still at work"));
        assert!(begin(2).unwrap_err().0.detail.contains("another request"));
        drop(worker);
        assert!(begin(2).is_ok() && lock(&replays.at_work).is_empty());
    }

    #[test]
    fn secrets_and_what_ends_with_the_agent_are_not_kept_on_the_disk() {
        for (method, route, kept_for) in [
            (Method::POST, "/api/vms", Kept::Day),
            (Method::PATCH, "/api/vms/{vm}/limits", Kept::Day),
            (Method::DELETE, "/api/tokens/{token}", Kept::Day),
            (Method::POST, "/api/tokens", Kept::No),
            (Method::GET, "/api/vms", Kept::No),
            (Method::PUT, "/api/vms/{vm}/files", Kept::No),
            (Method::DELETE, "/api/vms/{vm}/files", Kept::Day),
            (Method::POST, "/api/vms/{vm}/guest/password", Kept::Life),
            (Method::POST, "/api/vms/{vm}/execs", Kept::Life),
            (Method::POST, "/api/images/import", Kept::Life),
            (Method::POST, "/api/images/pull", Kept::Life),
        ] {
            assert_eq!(kept(&method, route), kept_for, "{method} {route}");
        }
    }
}
