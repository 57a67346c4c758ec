//! TLS and client certificates, over real sockets.

use std::path::Path;
use std::time::Duration;

use hyper::Request;
use inn_client::{Client, TlsFiles};
use inn_vmm_sim::Behaviour;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::json;
use tokio::net::TcpStream;

use super::PATIENCE;
use super::access::Caller;
use super::agent::TestAgent;
use crate::error::Chain;

/// Somebody who signs certificates.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// Writes `NAME.pem` and `NAME.key`.
    fn sign(&self, dir: &Path, name: &str) {
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(dir.join(format!("{name}.pem")), cert.pem()).unwrap();
        std::fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

fn at(dir: &Path, name: &str) -> String {
    dir.join(name).display().to_string()
}

async fn agent(dir: &Path, more: &[(&str, &str)]) -> TestAgent {
    let (cert, key) = (at(dir, "server.pem"), at(dir, "server.key"));
    let mut flags =
        vec![("api_listen", "127.0.0.1:0"), ("tls.cert", cert.as_str()), ("tls.key", &key)];
    flags.extend(more);
    TestAgent::with(&flags, Behaviour::default()).await
}

fn url(agent: &TestAgent) -> String {
    format!("https://localhost:{}", agent.tcp().port())
}

fn token(agent: &TestAgent) -> String {
    std::fs::read_to_string(agent.node.config.paths.token()).unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tls_the_same_api_and_the_same_tokens() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    authority.sign(dir.path(), "server");
    std::fs::write(dir.path().join("ca.pem"), &authority.pem).unwrap();
    let agent = agent(dir.path(), &[]).await;
    agent.create("web", json!({})).await;
    let files = TlsFiles { ca: Some(dir.path().join("ca.pem")), ..TlsFiles::default() };
    let client = Client::tls(&url(&agent), Some(token(&agent)), &files).unwrap();
    assert_eq!(client.vms().await.unwrap().items.len(), 1);
    let (_sender, mut console) = client.console("web").await.unwrap();
    drop(client.clone());
    let none = Client::tls(&url(&agent), None, &files).unwrap();
    let refused = none.vms().await.unwrap_err();
    assert!(refused.to_string().contains("token"), "{refused}");
    // Over a WebSocket within TLS, too, a revoked token's end is the end.
    let brief = Caller::new(&agent, json!({ "scope": "operate", "name": "brief" })).await.token;
    let second = Client::tls(&url(&agent), Some(brief), &files).unwrap();
    let (_sender, mut cut) = second.console("web").await.unwrap();
    agent.client.delete("/api/tokens/brief").await.ok();
    let ended = async { while let Ok(Some(_)) = cut.next().await {} };
    tokio::time::timeout(PATIENCE, ended).await.expect("it is cut");
    // The other one goes on: nothing of its end has come.
    let quiet = tokio::time::timeout(Duration::from_millis(50), console.next()).await;
    assert!(!matches!(quiet, Ok(Ok(None) | Err(_))), "{quiet:?}");

    // Who speaks no TLS, and who trusts somebody else, gets nothing.
    let stranger = Authority::new();
    std::fs::write(dir.path().join("other.pem"), &stranger.pem).unwrap();
    let files = TlsFiles { ca: Some(dir.path().join("other.pem")), ..TlsFiles::default() };
    let client = Client::tls(&url(&agent), Some(token(&agent)), &files).unwrap();
    assert!(client.vms().await.is_err());
    let stream = TcpStream::connect(agent.tcp()).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let plain = Request::get("/health").header("host", "localhost");
    let plain = plain.body(http_body_util::Empty::<bytes::Bytes>::new()).unwrap();
    assert!(sender.send_request(plain).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_certificates_are_served_and_bad_ones_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (Authority::new(), Authority::new());
    first.sign(dir.path(), "server");
    std::fs::write(dir.path().join("first.pem"), &first.pem).unwrap();
    std::fs::write(dir.path().join("second.pem"), &second.pem).unwrap();
    let agent = agent(dir.path(), &[]).await;
    let works = async |ca: &str| {
        let files = TlsFiles { ca: Some(dir.path().join(ca)), ..TlsFiles::default() };
        let client = Client::tls(&url(&agent), Some(token(&agent)), &files).unwrap();
        client.vms().await.is_ok()
    };
    assert!(works("first.pem").await && !works("second.pem").await);

    std::fs::write(dir.path().join("server.pem"), "no certificate").unwrap();
    let error = Chain(&agent.reload().await.unwrap_err()).to_string();
    assert!(error.contains("server.pem"), "{error}");
    // The API's way to reload says it, too.
    let (status, _, why) = agent.client.post("/api/node/reload", &json!({})).await.problem();
    assert_eq!(status, 400);
    assert!(why.contains("certificates stay as they were"), "{why}");
    assert!(works("first.pem").await, "the old one is kept");
    // A certificate and another one's key.
    second.sign(dir.path(), "other");
    std::fs::copy(dir.path().join("other.pem"), dir.path().join("server.pem")).unwrap();
    let error = Chain(&agent.reload().await.unwrap_err()).to_string();
    assert!(error.contains("cannot be served with the key"), "{error}");
    assert!(works("first.pem").await);

    second.sign(dir.path(), "server");
    agent.client.post("/api/node/reload", &json!({})).await.ok();
    assert!(works("second.pem").await && !works("first.pem").await);

    // And without being told.
    first.sign(dir.path(), "server");
    let noticed = async {
        while !works("first.pem").await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, noticed).await.expect("the files are looked at");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_s_certificate_is_needed_and_is_no_token_unless_that_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let (authority, stranger) = (Authority::new(), Authority::new());
    authority.sign(dir.path(), "server");
    authority.sign(dir.path(), "client");
    stranger.sign(dir.path(), "stranger");
    std::fs::write(dir.path().join("ca.pem"), &authority.pem).unwrap();
    let ca = at(dir.path(), "ca.pem");
    let files = |name: Option<&str>| TlsFiles {
        ca: Some(ca.clone().into()),
        cert: name.map(|name| dir.path().join(format!("{name}.pem"))),
        key: name.map(|name| dir.path().join(format!("{name}.key"))),
    };
    for (scope, without_token) in [("none", false), ("read", true)] {
        let more = [("tls.client_ca", ca.as_str()), ("tls.client_scope", scope)];
        let agent = agent(dir.path(), &more).await;
        let client = |name, token| Client::tls(&url(&agent), token, &files(name)).unwrap();
        let good = Some(token(&agent));
        assert!(client(Some("client"), good.clone()).vms().await.is_ok(), "{scope}");
        for name in [None, Some("stranger")] {
            assert!(client(name, good.clone()).vms().await.is_err(), "{scope} {name:?}");
        }
        let bare = client(Some("client"), None);
        assert_eq!(bare.vms().await.is_ok(), without_token, "{scope}");
        assert!(bare.tokens().await.is_err(), "{scope} is not admin");
        // A token that is shown counts, and a bad one is not made good.
        let bad = client(Some("client"), Some(format!("inn_{:064}", 0)));
        assert!(bad.vms().await.is_err(), "{scope}");
        assert!(client(Some("client"), good).tokens().await.is_ok(), "{scope}");
    }
}
