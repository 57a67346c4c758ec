use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{ACCEPT, HeaderMap, HeaderValue};
use serde::Deserialize;

use crate::auth::{CredentialFiles, Gate};
use crate::fetch::{Call, FetchError, Fetcher, Response};
use crate::manifest::{ACCEPTED, LARGEST_DOCUMENT, printable};
use crate::mirrors::Place;

const DOCUMENT_DEADLINE: Duration = Duration::from_secs(60);
/// How much of an error's text is looked at.
const LARGEST_ERROR: u64 = 64 << 10;
const ERROR_DEADLINE: Duration = Duration::from_secs(10);

/// One repository at one host, with what opens it.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) place: Place,
    fetcher: Fetcher,
    gate: Gate,
}

impl Source {
    pub(crate) fn new(place: Place, fetcher: Fetcher, files: CredentialFiles) -> Self {
        let gate = Gate::new(&place.registry, &place.repository, files);
        Self { place, fetcher, gate }
    }

    /// One request, with what the registry wants to see. An answer is content;
    /// all else is an error, with what the registry says about it.
    pub(crate) async fn get(
        &self,
        step: &str,
        kind: &str,
        name: &str,
        headers: HeaderMap,
    ) -> Result<Response, FetchError> {
        let client = self.fetcher.client();
        let url = self.place.url(kind, name);
        let mut call = Call { headers, ..Call::get(step.to_owned(), url) };
        let mut shown = self.gate.show(client).await?;
        // Once with what is held, once with what the challenge asks for.
        for renewed in [false, true] {
            call.authorization = shown.header.clone();
            let response = client.call(&call).await?;
            if response.status().as_u16() == 401 && response.at_home && !renewed {
                shown = self.gate.answer(&response, &shown, client).await?;
                continue;
            }
            return match response.refusal(step) {
                None => Ok(response),
                Some(error) => Err(self.explained(error, response).await),
            };
        }
        unreachable!("the second round always returns")
    }

    /// A document, whole, with what the registry calls it.
    pub(crate) async fn document(
        &self,
        step: &str,
        kind: &str,
        name: &str,
        tries: u32,
    ) -> Result<Fetched, FetchError> {
        let mut headers = HeaderMap::new();
        if kind != "blobs" {
            headers.insert(ACCEPT, HeaderValue::from_static(ACCEPTED));
        }
        self.fetcher
            .client()
            .patiently(tries, || async {
                let response = self.get(step, kind, name, headers.clone()).await?;
                let owned = |name| response.header(name).map(str::to_owned);
                let content_type = owned("content-type");
                let digest = owned("docker-content-digest");
                let host = response.host.clone();
                let bytes = response.small(step, LARGEST_DOCUMENT, DOCUMENT_DEADLINE).await?;
                Ok(Fetched { bytes, content_type, digest, host })
            })
            .await
    }

    /// Adds what the registry itself says, and whose credentials it had.
    async fn explained(&self, mut error: FetchError, response: Response) -> FetchError {
        let unauthorised = matches!(response.status().as_u16(), 401 | 403) && response.at_home;
        if unauthorised {
            error = error.what(self.gate.explain().await);
        }
        let text = response.small("read an error", LARGEST_ERROR, ERROR_DEADLINE).await;
        if let Some(said) = text.ok().and_then(|text| said(&text)) {
            let what = format!("{} (it says: {said})", error.what);
            error = error.what(what);
        }
        error
    }
}

/// A small document, as it came.
#[derive(Debug, Clone)]
pub(crate) struct Fetched {
    pub(crate) bytes: Bytes,
    pub(crate) content_type: Option<String>,
    /// What the registry says that its digest is.
    pub(crate) digest: Option<String>,
    pub(crate) host: String,
}

#[derive(Deserialize)]
struct Said {
    errors: Vec<SaidError>,
}

#[derive(Deserialize)]
struct SaidError {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// The first error of the specification's JSON.
fn said(text: &[u8]) -> Option<String> {
    let said: Said = serde_json::from_slice(text).ok()?;
    let first = said.errors.into_iter().next()?;
    let text = if first.message.is_empty() { first.code } else { first.message };
    (!text.is_empty()).then(|| printable(&text))
}
