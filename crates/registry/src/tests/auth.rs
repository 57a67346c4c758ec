//! Who is let in, and what that tells to whom.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::*;
use crate::{CredentialFiles, FailureClass};

const PASSWORD: &str = "p:ss-wörd";

fn basic() -> String {
    format!("Basic {}", STANDARD.encode(format!("me:{PASSWORD}")))
}

/// A docker config.json with credentials for `host`.
fn config(dir: &Path, host: &str) -> CredentialFiles {
    let auth = STANDARD.encode(format!("me:{PASSWORD}"));
    file(dir, &json!({ "auths": { host: { "auth": auth } } }))
}

fn file(dir: &Path, content: &Value) -> CredentialFiles {
    let path = dir.join("config.json");
    std::fs::write(&path, content.to_string()).unwrap();
    CredentialFiles::find_with(Some(path), &|_| None)
}

fn shelf() -> Shelf {
    let mut shelf = Shelf::default();
    shelf.image("1", &noise(5000));
    shelf
}

/// A host of tokens: the n-th is `token-n`.
async fn tokens(allow: impl Fn(&Request) -> bool + Send + Sync + 'static) -> Server {
    let count = Count::default();
    Server::start(move |request| {
        if !allow(request) {
            return Reply::status(401);
        }
        Reply::ok(
            json!({ "token": format!("token-{}", count.next()), "expires_in": 300 }).to_string(),
        )
    })
    .await
}

/// A registry that wants the tokens for which `good` is true.
async fn guarded(
    realm: String,
    good: impl Fn(&str, &Request) -> bool + Send + Sync + 'static,
) -> Server {
    registry(shelf(), move |request, _| {
        let shown = request.header("authorization").and_then(|v| v.strip_prefix("Bearer "));
        let allowed = shown.is_some_and(|token| good(token, request));
        (!allowed).then(|| {
            let challenge =
                format!(r#"Bearer realm="{realm}",service="test",scope="repository:a:pull""#);
            Reply::status(401).header("WWW-Authenticate", &challenge)
        })
    })
    .await
}

async fn pull_all(server: &Server, credentials: CredentialFiles) -> Result<Vec<u8>, RegistryError> {
    let settings = RegistrySettings { credentials, ..settings() };
    let reference = format!("{}/a:1", server.host()).parse().unwrap();
    let resolved = client(settings).resolve(&reference, &Platform::host()).await?;
    pull(&resolved, &resolved.layers[0]).await
}

#[tokio::test]
async fn anonymous_tokens_are_fetched_once() {
    let auth = tokens(|request| request.header("authorization").is_none()).await;
    let server = guarded(auth.url("/token"), |token, _| token == "token-1").await;
    assert_eq!(pull_all(&server, CredentialFiles::none()).await.unwrap(), noise(5000));
    let asked = auth.requests();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].target, "/token?service=test&scope=repository%3Aa%3Apull");
}

#[tokio::test]
async fn a_token_that_ends_in_mid_pull_is_renewed() {
    let auth = tokens(|_| true).await;
    let count = Count::default();
    // The first token is good for the documents, and the layer is cut after
    // its second; then only the third will do.
    let layer = digest(&noise(5000)).to_string();
    let (of_layer, cut) = (layer.clone(), count.clone());
    let realm = auth.url("/token");
    let server = registry(shelf(), move |request, _| {
        let shown = request.header("authorization").unwrap_or_default();
        let wanted = match (request.path().ends_with(&of_layer), request.from()) {
            (false, _) => "Bearer token-1",
            (true, None) => "Bearer token-2",
            (true, Some(_)) => "Bearer token-3",
        };
        if shown != wanted {
            let challenge = format!(r#"Bearer realm="{realm}""#);
            return Some(Reply::status(401).header("WWW-Authenticate", &challenge));
        }
        let is_layer = request.path().ends_with(&of_layer);
        (is_layer && cut.next() == 1).then(|| Reply::part(request, &noise(5000)).cut(2000))
    })
    .await;
    assert_eq!(pull_all(&server, CredentialFiles::none()).await.unwrap(), noise(5000));
    assert_eq!(auth.requests().len(), 3);
}

#[tokio::test]
async fn layers_at_the_same_time_share_one_renewal() {
    let auth = tokens(|_| true).await;
    let layer = digest(&noise(5000)).to_string();
    let server = guarded(auth.url("/token"), move |token, request| {
        token == if request.path().ends_with(&layer) { "token-2" } else { "token-1" }
    })
    .await;
    let resolved = resolve(&server, "a:1").await.unwrap();
    let pulls = (0..5).map(|_| pull(&resolved, &resolved.layers[0]));
    for pulled in futures_util::future::join_all(pulls).await {
        assert_eq!(pulled.unwrap(), noise(5000));
    }
    assert_eq!(auth.requests().len(), 2);
}

#[tokio::test]
async fn passwords_go_to_the_registry_or_to_its_realm() {
    let dir = tempfile::tempdir().unwrap();
    let wanted = basic();
    let server = registry(shelf(), move |request, _| {
        (request.header("authorization") != Some(&wanted))
            .then(|| Reply::status(401).header("WWW-Authenticate", r#"Basic realm="here""#))
    })
    .await;
    let credentials = config(dir.path(), &server.host());
    assert_eq!(pull_all(&server, credentials.clone()).await.unwrap(), noise(5000));
    let settings = RegistrySettings { credentials, ..settings() };
    let reference = format!("{}/a:1", server.host()).parse().unwrap();
    let resolved = client(settings).resolve(&reference, &Platform::host()).await.unwrap();
    let shown = format!("{resolved:?} {:?}", resolved.repository.blob(&resolved.layers[0], 0));
    assert!(!shown.contains(&basic()[6..]) && !shown.contains("ss-w"), "{shown}");

    let wanted = basic();
    let auth = tokens(move |request| request.header("authorization") == Some(&wanted)).await;
    let server = guarded(auth.url("/token"), |token, _| token == "token-1").await;
    let credentials = config(dir.path(), &server.host());
    assert_eq!(pull_all(&server, credentials).await.unwrap(), noise(5000));
    assert!(auth.requests()[0].target.ends_with("&account=me"));
    assert!(
        server
            .requests()
            .iter()
            .all(|r| !r.header("authorization").is_some_and(|v| v.starts_with("Basic")))
    );
}

#[tokio::test]
async fn an_identity_is_exchanged_for_a_token() {
    let dir = tempfile::tempdir().unwrap();
    let auth = tokens(|request| request.method == "POST").await;
    let server = guarded(auth.url("/token"), |token, _| token == "token-1").await;
    let credentials = file(
        dir.path(),
        &json!({ "auths": { server.host(): { "auth": "bWU6", "identitytoken": "i d" } } }),
    );
    assert_eq!(pull_all(&server, credentials).await.unwrap(), noise(5000));
    let asked = &auth.requests()[0];
    assert_eq!(
        asked.body,
        "grant_type=refresh_token&client_id=innkeeper&service=test&scope=repository%3Aa%3Apull&refresh_token=i+d"
    );
}

#[tokio::test]
async fn refusals_say_whether_there_were_credentials_and_never_which() {
    let server = registry(shelf(), |_, _| {
        let said =
            json!({ "errors": [{ "code": "UNAUTHORIZED", "message": "authentication required" }] });
        Some(Reply::status(401).header("WWW-Authenticate", "Basic").body(said.to_string()))
    })
    .await;
    let error = pull_all(&server, CredentialFiles::none()).await.unwrap_err();
    assert_eq!(error.class, FailureClass::Unauthorised);
    assert!(error.to_string().contains("there are no credentials"), "{error}");
    assert!(error.to_string().contains("authentication required"), "{error}");
    assert_eq!(server.requests().len(), 2, "a refusal is not repeated");

    let dir = tempfile::tempdir().unwrap();
    let credentials = config(dir.path(), &server.host());
    let error = pull_all(&server, credentials).await.unwrap_err();
    assert!(error.to_string().contains("does not take the credentials"), "{error}");
    let shown = format!("{error} {error:?}");
    assert!(!shown.contains("ss-w") && !shown.contains(&basic()[6..]));

    // One that wants nothing that we know.
    let odd =
        registry(shelf(), |_, _| Some(Reply::status(401).header("WWW-Authenticate", "Negotiate")))
            .await;
    let error = pull_all(&odd, CredentialFiles::none()).await.unwrap_err();
    assert!(error.to_string().contains("does not say what it wants"), "{error}");
}

#[tokio::test]
async fn a_realm_without_tls_elsewhere_gets_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = guarded("http://elsewhere.invalid/token".to_owned(), |_, _| false).await;
    let credentials = config(dir.path(), &server.host());
    let error = pull_all(&server, credentials).await.unwrap_err();
    assert_eq!(error.class, FailureClass::Policy);
    assert!(error.to_string().contains("without TLS"), "{error}");
}

#[tokio::test]
async fn a_realm_that_answers_nonsense_is_broken() {
    for answer in ["", "{}", "{\"token\":\"\"}", "{\"token\":\"a\\nb\"}", "[]"] {
        let auth = Server::start(move |_| Reply::ok(answer)).await;
        let server = guarded(auth.url("/token"), |_, _| false).await;
        assert!(pull_all(&server, CredentialFiles::none()).await.is_err(), "{answer}");
    }
    let auth = Server::start(|_| Reply::ok(b"").endless()).await;
    let server = guarded(auth.url("/token"), |_, _| false).await;
    let error = pull_all(&server, CredentialFiles::none()).await.unwrap_err();
    assert!(error.to_string().contains("more than"), "{error}");
}
