use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use reqwest::header::{
    ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER,
};
use reqwest::{Method, NoProxy, Proxy, StatusCode};
use url::Url;

use super::{FailureClass, FetchError, FetchSettings, PlainHttp, retry, tls};

/// As many as browsers follow.
const MOST_REDIRECTS: usize = 10;
/// A head of more is nobody's who means well.
const MOST_HEADERS: usize = 128;
/// Go's clients, docker's among them, never ask a proxy for these.
const NEVER_PROXIED: &str = "localhost,127.0.0.0/8,::1";

/// The one place that sends requests: it keeps to TLS, follows redirects and
/// bounds waits. It tries once; who calls it repeats.
pub(crate) struct Client {
    http: reqwest::Client,
    settings: Arc<FetchSettings>,
    plain_http: PlainHttp,
}

/// The client below has the proxies' passwords.
impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Client");
        shown.field("settings", &self.settings).field("plain_http", &self.plain_http).finish()
    }
}

/// A request.
#[derive(Clone)]
pub(crate) struct Call {
    /// What errors say after "cannot".
    pub(crate) step: Cow<'static, str>,
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) authorization: Option<HeaderValue>,
    pub(crate) form: Option<String>,
}

impl Call {
    pub(crate) fn get(step: impl Into<Cow<'static, str>>, url: Url) -> Self {
        Self {
            step: step.into(),
            method: Method::GET,
            url,
            headers: HeaderMap::new(),
            authorization: None,
            form: None,
        }
    }
}

impl Client {
    pub(crate) fn new(settings: &FetchSettings) -> Result<Self, FetchError> {
        let refuse = |e: reqwest::Error| FetchError::of_client("prepare to download", "hosts", e);
        let no_proxy = |_| {
            let what = "it is no address, as in http://proxy.example:3128";
            FetchError::new("use a proxy", "the environment", FailureClass::Policy, what)
                .next("mend HTTP_PROXY and HTTPS_PROXY of the agent's environment")
        };
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::config(settings.ca_file.as_deref())?)
            .user_agent(concat!("innkeeper/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(settings.connect_timeout)
            .http1_max_headers(MOST_HEADERS)
            // Repeated here, by rules that know what was asked.
            .retry(reqwest::retry::never())
            .no_proxy();
        let proxies = &settings.proxies;
        let except = format!("{},{NEVER_PROXIED}", proxies.except.as_deref().unwrap_or_default());
        let http = proxies.http.as_deref().map(Proxy::http);
        let https = proxies.https.as_deref().map(Proxy::https);
        for proxy in [http, https].into_iter().flatten() {
            let proxy = proxy.map_err(no_proxy)?.no_proxy(NoProxy::from_string(&except));
            builder = builder.proxy(proxy);
        }
        Ok(Self {
            http: builder.build().map_err(refuse)?,
            settings: Arc::new(settings.clone()),
            plain_http: settings.plain_http.clone(),
        })
    }

    pub(crate) fn settings(&self) -> Arc<FetchSettings> {
        Arc::clone(&self.settings)
    }

    pub(crate) fn plain_http(&self) -> &PlainHttp {
        &self.plain_http
    }

    pub(crate) fn with_plain_http(&self, host: &str) -> Self {
        let mut plain_http = self.plain_http.clone();
        plain_http.insert(host);
        Self { http: self.http.clone(), settings: Arc::clone(&self.settings), plain_http }
    }

    /// Sends it and follows redirects; any status is an answer. Credentials go
    /// to the host that they are for, and to no other that it points to.
    pub(crate) async fn call(&self, call: &Call) -> Result<Response, FetchError> {
        let mut url = call.url.clone();
        for _ in 0..MOST_REDIRECTS {
            self.admit(call, &url)?;
            let at_home = url.origin() == call.url.origin();
            let response = self.send(call, &url, at_home).await?;
            let Some(target) = redirect(&response) else {
                return Ok(Response { inner: response, host: host_of(&url), at_home });
            };
            url = url.join(&target).map_err(|_| {
                let what = "it redirects to what is no address";
                FetchError::new(call.step.clone(), host_of(&url), FailureClass::Broken, what)
            })?;
            // A form holds a secret, and is for nobody but who was asked.
            if call.form.is_some() && url.origin() != call.url.origin() {
                let what = format!("it redirects to {} what only it may have", host_of(&url));
                let host = host_of(&call.url);
                return Err(FetchError::new(call.step.clone(), host, FailureClass::Broken, what));
            }
        }
        let what = format!("it redirects more than {MOST_REDIRECTS} times");
        Err(FetchError::new(call.step.clone(), host_of(&call.url), FailureClass::Broken, what))
    }

    async fn send(
        &self,
        call: &Call,
        url: &Url,
        at_home: bool,
    ) -> Result<reqwest::Response, FetchError> {
        let host = host_of(url);
        let mut request = self
            .http
            .request(call.method.clone(), url.clone())
            // What is compressed on the way has other lengths and ranges.
            .header(ACCEPT_ENCODING, HeaderValue::from_static("identity"))
            .headers(call.headers.clone());
        if at_home && let Some(value) = &call.authorization {
            request = request.header(AUTHORIZATION, value.clone());
        }
        if let Some(form) = &call.form {
            request = request
                .header("content-type", "application/x-www-form-urlencoded")
                .body(form.clone());
        }
        let patience = self.settings.connect_timeout + self.settings.idle_timeout;
        match tokio::time::timeout(patience, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(e)) => Err(FetchError::of_client(call.step.clone(), host, e)),
            Err(_) => {
                let what = format!("it gave no answer within {}", shown(patience));
                Err(FetchError::new(call.step.clone(), host, FailureClass::Unreachable, what))
            }
        }
    }

    /// Repeats `attempt` while what fails can pass, `tries` times at most.
    pub(crate) async fn patiently<T, F>(
        &self,
        tries: u32,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, FetchError>
    where
        F: Future<Output = Result<T, FetchError>>,
    {
        let mut failed = 0;
        loop {
            let error = match attempt().await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            failed += 1;
            let wait = retry::wait(failed, error.patience);
            match wait.filter(|_| error.transient && failed < tries) {
                Some(wait) => {
                    tracing::debug!(%error, wait_ms = wait.as_millis(), tries = failed, "trying again");
                    tokio::time::sleep(wait).await;
                }
                None => return Err(error),
            }
        }
    }

    /// Whether a URL may be asked at all: https, or http where that is
    /// configured.
    fn admit(&self, call: &Call, url: &Url) -> Result<(), FetchError> {
        let host = host_of(url);
        let refuse = |what: String| {
            FetchError::new(call.step.clone(), host.clone(), FailureClass::Policy, what)
        };
        match url.scheme() {
            "https" => Ok(()),
            "http" if self.plain_http.allows(&host) => Ok(()),
            "http" => Err(refuse("it would be without TLS".to_owned()).next(format!(
                "use https, or allow it with --plain-http or with {host} in registries.plain_http"
            ))),
            other => Err(refuse(format!("{other} is neither https nor http")).next("use https")),
        }
    }
}

/// Where a redirect points to.
fn redirect(response: &reqwest::Response) -> Option<String> {
    let status = response.status();
    let moved = [301, 302, 303, 307, 308].contains(&status.as_u16());
    let target = response.headers().get(LOCATION).filter(|_| moved)?;
    target.to_str().ok().map(str::to_owned)
}

/// Host and port, as far as the URL names one.
pub(crate) fn host_of(url: &Url) -> String {
    match (url.host_str(), url.port()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (Some(host), None) => host.to_owned(),
        (None, _) => "nowhere".to_owned(),
    }
}

pub(crate) fn shown(duration: Duration) -> String {
    if duration.subsec_nanos() == 0 {
        format!("{} s", duration.as_secs())
    } else {
        format!("{} ms", duration.as_millis())
    }
}

/// An answer, its body not yet read.
pub(crate) struct Response {
    pub(crate) inner: reqwest::Response,
    /// Who gave it.
    pub(crate) host: String,
    /// Whether that is who was asked, and no other after a redirect.
    pub(crate) at_home: bool,
}

/// The address of storage is signed: whoever has it has the content.
impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.status().as_u16();
        f.debug_struct("Response").field("host", &self.host).field("status", &status).finish()
    }
}

impl Response {
    pub(crate) fn status(&self) -> StatusCode {
        self.inner.status()
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        self.inner.headers()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers().get(name)?.to_str().ok()
    }

    /// What a status that is no content means; none for those that are.
    pub(crate) fn refusal(&self, step: &str) -> Option<FetchError> {
        let status = self.status();
        let error = |class, what: String| {
            Some(FetchError::new(step.to_owned(), self.host.clone(), class, what))
        };
        match status.as_u16() {
            200 | 206 | 416 => None,
            401 | 403 if !self.at_home => {
                // What it was redirected to was signed for a while that is over.
                let what = format!("its storage answered {status}");
                error(FailureClass::Unauthorised, what).map(FetchError::passing)
            }
            401 | 403 => error(FailureClass::Unauthorised, format!("it answered {status}")),
            404 | 410 => error(FailureClass::NotFound, "it does not have it".to_owned()),
            429 => {
                let asked = self.patience();
                let until = asked.and_then(|a| SystemTime::now().checked_add(a));
                let what = match asked {
                    Some(asked) => {
                        format!(
                            "there were too many requests, and it asks for {} of patience",
                            shown(asked)
                        )
                    }
                    None => "there were too many requests".to_owned(),
                };
                error(FailureClass::TooManyRequests { until }, what).map(|e| e.patience(asked))
            }
            408 | 500 | 502..=504 => {
                error(FailureClass::Unreachable, format!("it answered {status}"))
                    .map(|e| e.patience(self.patience()))
            }
            _ => error(FailureClass::Broken, format!("it answered {status}")),
        }
    }

    /// How long the host wants to be left alone.
    pub(crate) fn patience(&self) -> Option<Duration> {
        let value = self.headers().get(RETRY_AFTER)?.to_str().ok()?;
        retry::retry_after(Some(value), SystemTime::now())
    }

    /// The whole of a small body, within a deadline.
    pub(crate) async fn small(
        mut self,
        step: &str,
        limit: u64,
        deadline: Duration,
    ) -> Result<Bytes, FetchError> {
        let refuse =
            |class, what: String| FetchError::new(step.to_owned(), self.host.clone(), class, what);
        let too_much = || {
            refuse(
                FailureClass::Broken,
                format!("it sends more than the {limit} bytes that such a thing may have"),
            )
        };
        let read = async {
            if self.inner.content_length().is_some_and(|length| length > limit) {
                return Err(too_much());
            }
            let mut all = Vec::new();
            while let Some(bytes) = self
                .inner
                .chunk()
                .await
                .map_err(|e| FetchError::of_client(step.to_owned(), self.host.clone(), e))?
            {
                if all.len() as u64 + bytes.len() as u64 > limit {
                    return Err(too_much());
                }
                all.extend_from_slice(&bytes);
            }
            Ok(Bytes::from(all))
        };
        match tokio::time::timeout(deadline, read).await {
            Ok(result) => result,
            Err(_) => {
                let what = format!("its answer did not end within {}", shown(deadline));
                Err(refuse(FailureClass::Unreachable, what))
            }
        }
    }
}
