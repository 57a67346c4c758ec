//! How a registry is convinced: anonymously, by password, or by a token that
//! another host hands out (distribution's token specification, and its OAuth 2
//! variant).
//!
//! ```text
//!   no header ── 401, Basic ──▶ password
//!             └─ 401, Bearer ─▶ realm (anonymous, password, identity) ──▶ token
//!   token ── old, or 401 in mid-pull ──▶ another token, once per answer
//! ```
//!
//! A [`Gate`] belongs to one repository at one host; what it holds dies with it.

mod challenge;
mod files;
mod secret;

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use reqwest::header::{HeaderValue, WWW_AUTHENTICATE};
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;
use url::Url;
use url::form_urlencoded;

use self::challenge::Challenge;
pub use self::files::CredentialFiles;
use self::secret::{Credential, Secret};
use crate::fetch::{Call, Client, FailureClass, FetchError, Response};
use crate::manifest::printable;

/// Of a token's answer.
const LARGEST_ANSWER: u64 = 256 << 10;
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);
/// Where the host doesn't say (the token specification's default).
const TOKEN_LIFE: Duration = Duration::from_secs(60);
/// A token this close to its end is renewed before it is used.
const EARLY: Duration = Duration::from_secs(5);

/// What opens one repository at one host.
#[derive(Debug)]
pub(crate) struct Gate {
    /// Whom the credentials are for.
    registry: String,
    repository: String,
    files: CredentialFiles,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    /// Counts what was held, so that of many that fail at once one renews.
    number: u64,
    pass: Option<Pass>,
    challenge: Option<Challenge>,
    credential: Option<Option<Credential>>,
}

#[derive(Debug, Clone)]
struct Pass {
    header: HeaderValue,
    expires: Option<Instant>,
}

/// What a request shows, and which it is.
#[derive(Debug, Clone)]
pub(crate) struct Shown {
    pub(crate) header: Option<HeaderValue>,
    number: u64,
}

impl Gate {
    pub(crate) fn new(registry: &str, repository: &str, files: CredentialFiles) -> Self {
        Self {
            registry: registry.to_owned(),
            repository: repository.to_owned(),
            files,
            held: Mutex::default(),
        }
    }

    /// What is held now; a token that is about to end is renewed first.
    pub(crate) async fn show(&self, client: &Client) -> Result<Shown, FetchError> {
        let mut held = self.held.lock().await;
        let old = held.pass.as_ref().and_then(|p| p.expires).is_some_and(|at| at <= Instant::now());
        if old && let Some(challenge) = held.challenge.clone() {
            self.renew(&mut held, challenge, client).await?;
        }
        Ok(Shown { header: held.pass.as_ref().map(|p| p.header.clone()), number: held.number })
    }

    /// After a 401 to `shown`: gets something better to show.
    pub(crate) async fn answer(
        &self,
        response: &Response,
        shown: &Shown,
        client: &Client,
    ) -> Result<Shown, FetchError> {
        let mut held = self.held.lock().await;
        if held.number == shown.number {
            let headers = response.headers().get_all(WWW_AUTHENTICATE);
            let challenge = challenge::best(headers.iter().filter_map(|v| v.to_str().ok()))
                .ok_or_else(|| {
                    let what = "it refuses us and does not say what it wants";
                    self.refusal(&response.host, FailureClass::Unauthorised, what)
                })?;
            self.renew(&mut held, challenge, client).await?;
        }
        Ok(Shown { header: held.pass.as_ref().map(|p| p.header.clone()), number: held.number })
    }

    /// Why it is refused although something was shown.
    pub(crate) async fn explain(&self) -> String {
        match self.held.lock().await.credential {
            Some(Some(_)) => "it does not take the credentials that are configured for it, or they are not for this repository".to_owned(),
            _ => "it is not for everybody, or does not exist, and there are no credentials for it".to_owned(),
        }
    }

    async fn renew(
        &self,
        held: &mut Held,
        challenge: Challenge,
        client: &Client,
    ) -> Result<(), FetchError> {
        // Read once per pull: helpers are slow, and may ask people.
        let credential = match &held.credential {
            Some(known) => known.clone(),
            None => {
                let found = self.files.lookup(&self.registry, &self.repository).await?;
                held.credential = Some(found.clone());
                found
            }
        };
        let pass = match (&challenge, &credential) {
            (_, Some(Credential::Token(token))) => Some(Pass::new("Bearer ", token, None)?),
            (Challenge::Basic, Some(Credential::Password { user, password })) => {
                Some(Pass::new("Basic ", &basic(user, password), None)?)
            }
            (Challenge::Basic, _) => None,
            (Challenge::Bearer { realm, service, scope }, _) => {
                let ask = Ask { realm, service: service.as_deref(), scope: scope.as_deref() };
                Some(self.token(ask, credential.as_ref(), client).await?)
            }
        };
        held.pass = pass;
        held.challenge = Some(challenge);
        held.number += 1;
        Ok(())
    }

    async fn token(
        &self,
        ask: Ask<'_>,
        credential: Option<&Credential>,
        client: &Client,
    ) -> Result<Pass, FetchError> {
        const STEP: &str = "get a token";
        let scope = match ask.scope {
            Some(scope) => scope.to_owned(),
            None => format!("repository:{}:pull", self.repository),
        };
        let realm = Url::parse(ask.realm).map_err(|_| {
            let what = "it names no address to get a token from";
            self.refusal(&self.registry, FailureClass::Broken, what)
        })?;
        let mut call = Call::get(STEP, realm);
        match credential {
            Some(Credential::Identity(identity)) => {
                let mut form = form_urlencoded::Serializer::new(String::new());
                form.append_pair("grant_type", "refresh_token")
                    .append_pair("client_id", "innkeeper")
                    .append_pair("service", ask.service.unwrap_or_default())
                    .append_pair("scope", &scope)
                    .append_pair("refresh_token", identity.expose());
                call.method = Method::POST;
                call.form = Some(form.finish());
            }
            other => {
                let mut query = call.url.query_pairs_mut();
                query.extend_pairs(ask.service.map(|s| ("service", s)));
                // Several scopes are several parameters.
                query.extend_pairs(scope.split(' ').map(|s| ("scope", s)));
                if let Some(Credential::Password { user, password }) = other {
                    query.append_pair("account", user);
                    drop(query);
                    call.authorization =
                        Some(Pass::new("Basic ", &basic(user, password), None)?.header);
                }
            }
        }
        let asked = Instant::now();
        let answer = client
            .patiently(client.settings().tries, || async {
                let response = client.call(&call).await?;
                match response.refusal(STEP) {
                    Some(error) => Err(error),
                    None => response.small(STEP, LARGEST_ANSWER, ANSWER_DEADLINE).await,
                }
            })
            .await?;
        let host = call.url.host_str().unwrap_or_default().to_owned();
        let broken = |what| FetchError::new(STEP, host.clone(), FailureClass::Broken, what);
        let answer: TokenAnswer =
            serde_json::from_slice(&answer).map_err(|_| broken("its answer holds no token"))?;
        let token = answer
            .token
            .or(answer.access_token)
            .filter(|token| !token.is_empty())
            .ok_or_else(|| broken("its answer holds no token"))?;
        let life = answer.expires_in.map_or(TOKEN_LIFE, Duration::from_secs).max(TOKEN_LIFE);
        let expires = asked.checked_add(life.saturating_sub(EARLY));
        Pass::new("Bearer ", &Secret::new(token), expires)
    }

    fn refusal(&self, host: &str, class: FailureClass, what: &str) -> FetchError {
        FetchError::new(format!("be let into {}", printable(&self.repository)), host, class, what)
    }
}

struct Ask<'a> {
    realm: &'a str,
    service: Option<&'a str>,
    scope: Option<&'a str>,
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

impl Pass {
    fn new(scheme: &str, secret: &Secret, expires: Option<Instant>) -> Result<Self, FetchError> {
        let mut header =
            HeaderValue::try_from(format!("{scheme}{}", secret.expose())).map_err(|_| {
                let what = "the token or password has signs that no header may have";
                FetchError::new(
                    "use the credentials",
                    "this host",
                    FailureClass::Unauthorised,
                    what,
                )
            })?;
        header.set_sensitive(true);
        Ok(Self { header, expires })
    }
}

fn basic(user: &str, password: &Secret) -> Secret {
    Secret::new(STANDARD.encode(format!("{user}:{}", password.expose())))
}
