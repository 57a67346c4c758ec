//! Axum's extractors, with problems in place of their plain texts.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use axum::Json;
use axum::body::BodyDataStream;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use futures_util::StreamExt;
use inn_api::Code;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::pace::TooSlow;
use super::problem::Failed;
use super::{ApiState, JSON_LIMIT};

/// The longest that an answer is held back: proxies and clients give up, too.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// How long a refused body is taken in: beyond it, who sends does not listen.
const LINGER: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Body<T>(pub(super) T);

#[derive(Debug)]
pub(super) struct Params<T>(pub(super) T);

/// A duration in a query, such as `30s`; at most ten minutes of it count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wait(pub(super) Duration);

/// A duration in a query that nobody waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span(pub(super) Duration);

impl<T: DeserializeOwned> FromRequest<ApiState> for Body<T> {
    type Rejection = Failed;

    async fn from_request(request: Request, state: &ApiState) -> Result<Self, Failed> {
        let length = request.headers().get(header::CONTENT_LENGTH);
        let length: Option<usize> = length.and_then(|length| length.to_str().ok()?.parse().ok());
        if length.is_some_and(|length| length > JSON_LIMIT) {
            linger(request.into_body().into_data_stream());
            return Err(too_large());
        }
        let read = Json::<Object<T>>::from_request(request, state);
        match in_time(state, read).await? {
            Ok(Json(Object(body))) => Ok(Self(body)),
            Err(rejection) => Err(of_json(&rejection)),
        }
    }
}

/// What is read of a body that is no file's: however it comes, all of it has
/// one deadline.
pub(super) async fn in_time<T>(
    state: &ApiState,
    read: impl Future<Output = T>,
) -> Result<T, Failed> {
    let most = state.node.config.live().access.body_timeout;
    tokio::time::timeout(most, read).await.map_err(|_| {
        let seconds = most.as_secs_f64();
        let detail = format!("the body has not come within {seconds} s (api.body_timeout)");
        Failed::new(Code::RequestTimeout, detail)
    })
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Failed;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failed> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(params)) => Ok(Self(params)),
            Err(rejection) => Err(of_query(&rejection)),
        }
    }
}

/// A JSON object and nothing else: serde's structs would also take an array of
/// their fields, in whatever order they stand.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(fields))
            }
        }

        deserializer.deserialize_map(Fields(PhantomData)).map(Self)
    }
}

/// What is no JSON and what does not fit the schema are one to clients: 400
/// (RFC 9110, 15.5.1), which the same mistake in a query is, too.
fn of_json(rejection: &JsonRejection) -> Failed {
    match rejection {
        JsonRejection::MissingJsonContentType(_) => Failed::new(
            Code::UnsupportedMediaType,
            "the body is to be JSON; say so with `Content-Type: application/json`",
        ),
        _ if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => too_large(),
        _ => of_body(rejection),
    }
}

/// Why a body did not come whole.
pub(super) fn of_body(error: &(dyn std::error::Error + 'static)) -> Failed {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    if causes.any(|cause| cause.is::<http_body_util::LengthLimitError>()) {
        return too_large();
    }
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    if let Some(slow) = causes.find_map(|cause| cause.downcast_ref::<TooSlow>()) {
        return Failed::new(Code::RequestTimeout, slow.to_string());
    }
    Failed::invalid(with_cause("the body cannot be read", error))
}

fn too_large() -> Failed {
    Failed::new(Code::BodyTooLarge, "the body is larger than 1 MiB, and none that is taken here is")
}

/// Takes in, for a while, what follows of a body that was refused. A connection
/// that is closed on a client which still sends is reset, and the answer is
/// lost with it.
pub(super) fn linger(mut body: BodyDataStream) {
    tokio::spawn(tokio::time::timeout(LINGER, async move {
        while let Some(Ok(_)) = body.next().await {}
    }));
}

fn of_query(rejection: &QueryRejection) -> Failed {
    Failed::invalid(with_cause("the query cannot be read", rejection))
}

/// The innermost cause names the field.
fn with_cause(what: &str, error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    format!("{what}: {cause}")
}

impl<'de> Deserialize<'de> for Wait {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Span(wait) = Span::deserialize(deserializer)?;
        Ok(Self(wait.min(LONGEST_WAIT)))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        inn_units::parse_duration(&text).map(Self).map_err(serde::de::Error::custom)
    }
}
