use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use reqwest::header::{ETAG, HeaderMap, LAST_MODIFIED};
use tokio::time::Instant;

use super::client::shown;
use super::pace::Pace;
use super::range::{Asked, judge};
use super::{FailureClass, FetchError, FetchSettings, Response, rest, retry};

/// So much progress earns one more try: a line that is cut now and then ends
/// what it began, and a host that sends a byte per try doesn't keep us.
const EARNS_A_TRY: u64 = 1 << 20;

/// Where a download begins, and what is known before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Start {
    /// Bytes that are here already.
    pub offset: u64,
    /// What [`super::Body::validator`] said of them.
    pub validator: Option<String>,
    /// The length of the whole: an answer of another length is refused.
    pub total: Option<u64>,
}

/// Who sends the requests of a [`Transfer`].
pub(crate) trait Opener: Send {
    /// One request for the content with these headers, and an answer that is
    /// content.
    fn open(
        &mut self,
        headers: HeaderMap,
    ) -> impl Future<Output = Result<Response, FetchError>> + Send;

    /// Step and host, for errors.
    fn describe(&self) -> (String, String);

    /// What to do about a failure: by default what can pass is tried again.
    fn react(&mut self, error: &FetchError) -> Reaction {
        if error.transient { Reaction::Wait } else { Reaction::Stop }
    }

    /// Whether validators mean anything: what is named by its digest is the
    /// same wherever it comes from.
    fn has_versions(&self) -> bool {
        true
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reaction {
    /// Try again after a while.
    Wait,
    /// Try again at once: elsewhere.
    Now,
    Stop,
}

/// A download, over as many requests as it takes.
#[derive(Debug)]
pub(crate) struct Transfer<O> {
    opener: O,
    settings: Arc<FetchSettings>,
    started_at: u64,
    /// The next byte to hand out.
    at: u64,
    total: Option<u64>,
    validator: Option<String>,
    response: Option<Response>,
    /// Bytes of the response to throw away.
    skip: u64,
    /// Tries that have failed, less those that progress has earned back.
    failed: u32,
    /// Progress that has earned no try yet.
    progress: u64,
    /// Set while a wait is owed before the next request.
    wait_until: Option<Instant>,
    pace: Pace,
    ended: bool,
}

impl<O: Opener> Transfer<O> {
    pub(crate) fn new(opener: O, start: Start, settings: Arc<FetchSettings>) -> Self {
        Self {
            opener,
            settings,
            started_at: start.offset,
            at: start.offset,
            total: start.total,
            validator: start.validator,
            response: None,
            skip: 0,
            failed: 0,
            progress: 0,
            wait_until: None,
            pace: Pace::default(),
            ended: false,
        }
    }

    pub(crate) fn started_at(&self) -> u64 {
        self.started_at
    }

    pub(crate) fn total(&self) -> Option<u64> {
        self.total
    }

    pub(crate) fn validator(&self) -> Option<&str> {
        self.validator.as_deref()
    }

    pub(crate) fn opener(&self) -> &O {
        &self.opener
    }

    /// Brings the first answer's head.
    pub(crate) async fn begin(&mut self) -> Result<(), FetchError> {
        while self.response.is_none() && !self.ended {
            if let Err(error) = self.ask().await {
                self.failed(error)?;
            }
        }
        Ok(())
    }

    /// The next bytes. May be dropped at any await and called again: what is
    /// half done stands in `self`.
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, FetchError>> {
        while !self.ended {
            let step = match &mut self.response {
                None => self.ask().await.map(|()| None),
                Some(_) => self.read().await,
            };
            match step {
                Ok(Some(bytes)) => return Some(Ok(bytes)),
                Ok(None) => {}
                Err(error) => {
                    if let Err(last) = self.failed(error) {
                        return Some(Err(last));
                    }
                }
            }
        }
        None
    }

    async fn ask(&mut self) -> Result<(), FetchError> {
        if self.total == Some(self.at) {
            // Nothing is missing; of an empty blob nothing ever was.
            self.ended = true;
            return Ok(());
        }
        if let Some(until) = self.wait_until {
            tokio::time::sleep_until(until).await;
            self.wait_until = None;
        }
        let validator = self.validator.as_deref().filter(|_| self.opener.has_versions());
        let response = self.opener.open(rest(self.at, validator)).await?;
        if self.opener.has_versions() {
            self.check_version(&response)?;
        }
        let asked = Asked { from: self.at, total: self.total };
        let coming = judge(response.status(), response.headers(), asked)
            .map_err(|what| self.broken(what))?;
        self.total = coming.total;
        self.skip = coming.skip;
        if self.total == Some(self.at) {
            self.ended = true;
        } else {
            self.response = Some(response);
        }
        Ok(())
    }

    /// Notes which version it is; another one than before begins anew, where
    /// nothing of the old one has been handed out.
    fn check_version(&mut self, response: &Response) -> Result<(), FetchError> {
        let now = version(response.headers());
        if response.status().as_u16() == 416 {
            return Ok(());
        }
        let changed = match (&self.validator, &now) {
            (Some(before), Some(now)) => before != now,
            // It can be told from nothing that it is the same.
            (None, _) | (_, None) => false,
        };
        if changed && self.at > 0 {
            let fresh = self.at == self.started_at && response.status().as_u16() == 200;
            if !fresh {
                return Err(self
                    .broken("what it has changed meanwhile".to_owned())
                    .next("start the download again"));
            }
            self.started_at = 0;
            self.at = 0;
            self.total = None;
        }
        if now.is_some() {
            self.validator = now;
        }
        Ok(())
    }

    async fn read(&mut self) -> Result<Option<Bytes>, FetchError> {
        if self.total == Some(self.at) {
            return self.finish().await;
        }
        let idle = self.settings.idle_timeout;
        let Some(response) = &mut self.response else { return Ok(None) };
        let from = Instant::now();
        let chunk = tokio::time::timeout(idle, response.inner.chunk()).await;
        let host = response.host.clone();
        let step = || self.opener.describe().0;
        let mut bytes = match chunk {
            Err(_) => {
                let what = format!("it sent nothing for {}", shown(idle));
                return Err(FetchError::new(step(), host, FailureClass::Unreachable, what));
            }
            Ok(Err(e)) => return Err(FetchError::of_client(step(), host, e)),
            Ok(Ok(None)) => return self.end_of_answer(host),
            Ok(Ok(Some(bytes))) => bytes,
        };
        if !self.pace.keeps_up(from.elapsed(), bytes.len()) {
            let what = "it sends too slowly to ever end".to_owned();
            return Err(FetchError::new(step(), host, FailureClass::Unreachable, what));
        }
        let skipped = self.skip.min(bytes.len() as u64);
        self.skip -= skipped;
        bytes.advance(usize::try_from(skipped).unwrap_or(bytes.len()));
        if bytes.is_empty() {
            return Ok(None);
        }
        let end = self.at + bytes.len() as u64;
        if let Some(total) = self.total
            && end > total
        {
            return Err(self.broken(format!("it sends more than the {total} bytes that it should")));
        }
        self.at = end;
        self.progress += bytes.len() as u64;
        while self.progress >= EARNS_A_TRY {
            self.progress -= EARNS_A_TRY;
            self.failed = self.failed.saturating_sub(1);
        }
        Ok(Some(bytes))
    }

    /// All is here: looks whether the host has more, which it may in chunks.
    /// An answer read to its end leaves its connection to others.
    async fn finish(&mut self) -> Result<Option<Bytes>, FetchError> {
        const LAST_CHUNK: Duration = Duration::from_secs(1);
        let Some(response) = &mut self.response else { return Ok(None) };
        let more = tokio::time::timeout(LAST_CHUNK, response.inner.chunk()).await;
        self.response = None;
        self.ended = true;
        match more {
            Ok(Ok(Some(more))) if !more.is_empty() => {
                let total = self.at;
                Err(self.broken(format!("it sends more than the {total} bytes that it should")))
            }
            _ => Ok(None),
        }
    }

    fn end_of_answer(&mut self, host: String) -> Result<Option<Bytes>, FetchError> {
        self.response = None;
        match self.total {
            Some(total) if self.at < total => {
                let what = format!("it ended after {} of {total} bytes", self.at);
                let step = self.opener.describe().0;
                Err(FetchError::new(step, host, FailureClass::Unreachable, what))
            }
            _ if self.skip > 0 => Err(self.broken("it has less now than it had before".to_owned())),
            _ => {
                self.ended = true;
                Ok(None)
            }
        }
    }

    /// After a failure: a wait, another host, or the end.
    fn failed(&mut self, error: FetchError) -> Result<(), FetchError> {
        self.response = None;
        self.skip = 0;
        self.pace = Pace::default();
        let reaction = self.opener.react(&error);
        if reaction == Reaction::Stop {
            self.ended = true;
            return Err(error);
        }
        self.failed += 1;
        let wait = match reaction {
            Reaction::Now => Some(Duration::ZERO),
            _ => retry::wait(self.failed, error.patience),
        };
        let Some(wait) = wait.filter(|_| self.failed < self.settings.tries) else {
            self.ended = true;
            return Err(error);
        };
        tracing::debug!(%error, wait_ms = wait.as_millis(), tries = self.failed, at = self.at, "trying again");
        self.wait_until = (!wait.is_zero()).then(|| Instant::now() + wait);
        Ok(())
    }

    fn broken(&self, what: String) -> FetchError {
        let (step, host) = self.opener.describe();
        FetchError::new(step, host, FailureClass::Broken, what)
    }
}

/// A strong ETag, else the date: what `If-Range` takes (RFC 9110, 13.1.5).
fn version(headers: &HeaderMap) -> Option<String> {
    let text =
        |name| headers.get(name).and_then(|v: &reqwest::header::HeaderValue| v.to_str().ok());
    match text(ETAG) {
        Some(tag) if !tag.starts_with("W/") => Some(tag.to_owned()),
        _ => text(LAST_MODIFIED).map(str::to_owned),
    }
}
