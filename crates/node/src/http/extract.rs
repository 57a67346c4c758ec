//! Axum's extractors, with problems in place of their plain texts.

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use inn_api::Code;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

use super::problem::Failed;

/// The longest that an answer is held back: proxies and clients give up, too.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

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

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Failed;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failed> {
        match Json::<T>::from_request(request, state).await {
            Ok(Json(body)) => Ok(Self(body)),
            Err(rejection) => Err(of_json(&rejection)),
        }
    }
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

fn of_json(rejection: &JsonRejection) -> Failed {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        return Failed::new(Code::LimitExceeded, "the body is larger than 1 MiB");
    }
    Failed::invalid(with_cause("the body cannot be read", rejection))
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
