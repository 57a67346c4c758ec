//! HTTP as downloads need it: over TLS unless a host is configured to go
//! without, through the environment's proxies, with deadlines for silence,
//! retries that honour what the host asks for, and resumption after a cut.
//!
//! ```text
//!   Fetcher::open(url, start) ──▶ Body ── next() ──▶ bytes in order
//!                                  │  cut, stall, 429, 503
//!                                  └──▶ wait ──▶ ask for the rest (Range) ──▶ …
//!                                        └ no progress in so many tries ──▶ FetchError
//! ```
//!
//! Nothing is verified here but lengths: who writes the bytes knows the digest.

mod client;
mod error;
mod pace;
mod range;
mod retry;
mod settings;
mod tls;
mod transfer;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use reqwest::header::{HeaderMap, HeaderValue, IF_RANGE, RANGE};
use url::Url;

pub(crate) use self::client::{Call, Client, Response};
pub use self::error::{Failure, FailureClass, FetchError};
pub use self::settings::{FetchSettings, PlainHttp, Proxies};
pub use self::transfer::Start;
pub(crate) use self::transfer::{Opener, Reaction, Transfer};

/// Fetches by URL; cheap to clone, and clones share their connections.
#[derive(Debug, Clone)]
pub struct Fetcher {
    client: Arc<Client>,
}

impl Fetcher {
    /// Reads the certificates, and opens nothing yet.
    pub fn new(settings: &FetchSettings) -> Result<Self, FetchError> {
        Ok(Self { client: Arc::new(Client::new(settings)?) })
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// The same, with one more host that goes without TLS.
    pub fn with_plain_http(&self, host: &str) -> Self {
        Self { client: Arc::new(self.client.with_plain_http(host)) }
    }

    /// Begins a download: the answer's head is here, the content comes by
    /// [`Body::next`]. `step` is what errors say after "cannot": `get disk.img`.
    pub async fn open(&self, step: &str, url: &Url, start: Start) -> Result<Body, FetchError> {
        let opener =
            ByUrl { client: Arc::clone(&self.client), url: url.clone(), step: step.to_owned() };
        let mut transfer = Transfer::new(opener, start, self.client.settings());
        transfer.begin().await?;
        Ok(Body { transfer })
    }

    /// The whole of something small: an error past `limit` bytes.
    pub async fn small(&self, step: &str, url: &Url, limit: u64) -> Result<Bytes, FetchError> {
        let mut body = self.open(step, url, Start::default()).await?;
        let refuse = |host: &str| {
            let what = format!("it sends more than the {limit} bytes that are allowed");
            FetchError::new(step.to_owned(), host, FailureClass::Broken, what)
        };
        let host = client::host_of(url);
        if body.total().is_some_and(|total| total > limit) {
            return Err(refuse(&host));
        }
        let mut all = Vec::new();
        while let Some(bytes) = body.next().await {
            all.extend_from_slice(&bytes?);
            if all.len() as u64 > limit {
                return Err(refuse(&host));
            }
        }
        Ok(all.into())
    }
}

/// A download that is under way.
#[derive(Debug)]
pub struct Body {
    transfer: Transfer<ByUrl>,
}

impl Body {
    /// Where it really begins: 0 where [`Start::offset`] was of another
    /// version, and what was had before must be thrown away.
    pub fn offset(&self) -> u64 {
        self.transfer.started_at()
    }

    /// The length of the whole, where the host says it.
    pub fn total(&self) -> Option<u64> {
        self.transfer.total()
    }

    /// What tells this version from others (an ETag or a date), to be given
    /// to [`Start::validator`] when the download is continued later.
    pub fn validator(&self) -> Option<&str> {
        self.transfer.validator()
    }

    /// The next bytes, of whatever number; none at the end, which is where the
    /// host said that it would be. May be dropped and called again.
    pub async fn next(&mut self) -> Option<Result<Bytes, FetchError>> {
        self.transfer.next().await
    }
}

struct ByUrl {
    client: Arc<Client>,
    url: Url,
    step: String,
}

/// The query of an address may be a secret.
impl fmt::Debug for ByUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByUrl").field("host", &client::host_of(&self.url)).finish_non_exhaustive()
    }
}

impl Opener for ByUrl {
    async fn open(&mut self, headers: HeaderMap) -> Result<Response, FetchError> {
        let call = Call { headers, ..Call::get(self.step.clone(), self.url.clone()) };
        let response = self.client.call(&call).await?;
        match response.refusal(&self.step) {
            Some(error) => Err(error),
            None => Ok(response),
        }
    }

    fn describe(&self) -> (String, String) {
        (self.step.clone(), client::host_of(&self.url))
    }
}

/// The headers that ask for the rest of something.
pub(crate) fn rest(from: u64, validator: Option<&str>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if from > 0 {
        headers.insert(RANGE, HeaderValue::try_from(format!("bytes={from}-")).expect("digits"));
        if let Some(value) = validator.and_then(|v| HeaderValue::try_from(v).ok()) {
            headers.insert(IF_RANGE, value);
        }
    }
    headers
}

#[cfg(test)]
mod tests;
