use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::ops::Deref;
use std::time::{Duration, SystemTime};

/// Why something did not come: see [`Failure`], which it points to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchError(Box<Failure>);

/// The step and the host, what happened, and what to do about it. No URL stands
/// in it, since its query may be a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// `get the manifest of debian:12`: what stands behind "cannot".
    pub step: Cow<'static, str>,
    pub host: String,
    pub what: String,
    /// What to do, as a clause.
    pub next: Cow<'static, str>,
    pub class: FailureClass,
    /// Whether the same request may succeed a little later.
    pub(crate) transient: bool,
    /// How long the host wants to be left alone first.
    pub(crate) patience: Option<Duration>,
}

impl Deref for FetchError {
    type Target = Failure;

    fn deref(&self) -> &Failure {
        &self.0
    }
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { step, host, what, next, .. } = &*self.0;
        write!(f, "cannot {step} from {host}: {what}; {next}")
    }
}

impl Error for FetchError {}

/// What kind of failure it is, for those who act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureClass {
    NotFound,
    /// Credentials are missing, wrong or not enough.
    Unauthorised,
    TooManyRequests {
        /// When the host may be asked again, where it says so.
        until: Option<SystemTime>,
    },
    /// Its certificate is not trusted, or it speaks no TLS.
    Tls,
    /// What the configuration forbids.
    Policy,
    /// It does not answer, stalls, cuts, or is out of order.
    Unreachable,
    /// What was given is no image that can be used here.
    Unsupported,
    /// It answers what no registry should: content other than announced, lies
    /// about lengths, manifests without sense.
    Broken,
}

impl FetchError {
    pub(crate) fn new(
        step: impl Into<Cow<'static, str>>,
        host: impl Into<String>,
        class: FailureClass,
        what: impl Into<String>,
    ) -> Self {
        Self(Box::new(Failure {
            step: step.into(),
            host: host.into(),
            what: what.into(),
            next: Cow::Borrowed(next(class)),
            class,
            transient: matches!(
                class,
                FailureClass::Unreachable | FailureClass::TooManyRequests { .. }
            ),
            patience: None,
        }))
    }

    pub(crate) fn patience(mut self, patience: Option<Duration>) -> Self {
        self.0.patience = patience;
        self
    }

    pub(crate) fn next(mut self, next: impl Into<Cow<'static, str>>) -> Self {
        self.0.next = next.into();
        self
    }

    pub(crate) fn what(mut self, what: impl Into<String>) -> Self {
        self.0.what = what.into();
        self
    }

    pub(crate) fn passing(mut self) -> Self {
        self.0.transient = true;
        self
    }

    /// An error of the client below: what it was about, without the URL.
    pub(crate) fn of_client(
        step: impl Into<Cow<'static, str>>,
        host: impl Into<String>,
        error: reqwest::Error,
    ) -> Self {
        let error = error.without_url();
        if let Some(tls) = find::<rustls::Error>(&error) {
            let what = format!("its TLS is not to be trusted: {tls}");
            return Self::new(step, host, FailureClass::Tls, what);
        }
        let what = if error.is_timeout() {
            "it could not be reached in time".to_owned()
        } else if error.is_connect() {
            format!("no connection: {}", root_cause(&error))
        } else {
            format!("the connection broke: {}", root_cause(&error))
        };
        Self::new(step, host, FailureClass::Unreachable, what)
    }
}

/// What is to be done about a class of failures, unless somebody knows better.
fn next(class: FailureClass) -> &'static str {
    match class {
        FailureClass::NotFound => "check the name",
        FailureClass::Unauthorised => {
            "log in with `docker login` or `skopeo login` as the agent's user, or name the file with the credentials as registries.auth_file"
        }
        FailureClass::TooManyRequests { .. } => {
            "try again later, log in for a higher limit, or use a mirror"
        }
        FailureClass::Tls => {
            "name the authority's certificate as registries.ca_file, or the host in registries.plain_http if it has no TLS"
        }
        FailureClass::Policy => "change the registries' policy in the agent's configuration",
        FailureClass::Unreachable => "check the host, the network and the proxy, and try again",
        FailureClass::Unsupported => "choose another image",
        FailureClass::Broken => "ask those who run it, or use another mirror",
    }
}

/// The first error of that type in the chain; `io::Error` hides the ones that
/// it carries from `source`.
fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let mut at = Some(error);
    while let Some(error) = at {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        at = match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}
