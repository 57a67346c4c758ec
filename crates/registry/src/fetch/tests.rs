use super::*;

use std::time::{Duration, Instant, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;

use crate::tests::server::{Reply, Server};
use crate::tests::{Count, impatient, noise};

const SIZE: usize = 200_000;

fn fetcher() -> Fetcher {
    Fetcher::new(&impatient()).unwrap()
}

fn url(text: &str) -> Url {
    Url::parse(text).unwrap()
}

async fn read(body: &mut Body) -> Result<Vec<u8>, FetchError> {
    let mut all = Vec::new();
    while let Some(bytes) = body.next().await {
        all.extend_from_slice(&bytes?);
    }
    Ok(all)
}

async fn get(server: &Server, start: Start) -> Result<(u64, Vec<u8>), FetchError> {
    let mut body = fetcher().open("get the file", &url(&server.url("/file")), start).await?;
    let bytes = read(&mut body).await?;
    Ok((body.offset(), bytes))
}

#[tokio::test]
async fn a_cut_download_continues_with_the_same_version() {
    let count = Count::default();
    let server = Server::start(move |request| {
        let reply = Reply::part(request, &noise(SIZE)).header("ETag", "\"one\"");
        if count.next() == 1 { reply.cut(70_000) } else { reply }
    })
    .await;
    let mut body =
        fetcher().open("get the file", &url(&server.url("/file")), Start::default()).await.unwrap();
    assert_eq!((body.total(), body.validator()), (Some(SIZE as u64), Some("\"one\"")));
    assert_eq!(read(&mut body).await.unwrap(), noise(SIZE));
    let asked = server.requests();
    assert_eq!(asked.len(), 2);
    assert_eq!((asked[1].from(), asked[1].header("if-range")), (Some(70_000), Some("\"one\"")));
}

#[tokio::test]
async fn another_version_in_the_middle_is_an_error() {
    // One host honours If-Range, the next knows nothing of it.
    for honours in [true, false] {
        let count = Count::default();
        let server = Server::start(move |request| match count.next() {
            1 => Reply::ok(noise(SIZE)).header("ETag", "\"one\"").cut(70_000),
            _ if honours => Reply::ok(noise(SIZE)).header("ETag", "\"two\""),
            _ => Reply::part(request, &noise(SIZE)).header("ETag", "\"two\""),
        })
        .await;
        let error = get(&server, Start::default()).await.unwrap_err();
        assert_eq!(error.class, FailureClass::Broken);
        assert!(error.to_string().contains("changed meanwhile"), "{error}");
    }
}

#[tokio::test]
async fn what_was_had_before_is_continued_if_it_is_the_same_version() {
    let server = Server::start(|request| {
        let current = request.header("if-range").is_none_or(|tag| tag == "\"one\"");
        let reply =
            if current { Reply::part(request, &noise(SIZE)) } else { Reply::ok(noise(SIZE)) };
        reply.header("ETag", "\"one\"")
    })
    .await;
    let start = |validator: &str| Start {
        offset: 150_000,
        validator: Some(validator.to_owned()),
        total: None,
    };
    let (offset, bytes) = get(&server, start("\"one\"")).await.unwrap();
    assert_eq!((offset, bytes), (150_000, noise(SIZE)[150_000..].to_vec()));
    let (offset, bytes) = get(&server, start("\"old\"")).await.unwrap();
    assert_eq!((offset, bytes), (0, noise(SIZE)));
    // All of it was here already.
    let all = Start { offset: SIZE as u64, ..start("\"one\"") };
    assert_eq!(get(&server, all).await.unwrap(), (SIZE as u64, Vec::new()));
}

#[tokio::test]
async fn a_host_without_ranges_versions_and_lengths_is_read_to_its_end() {
    let count = Count::default();
    let server = Server::start(move |_| {
        let reply = Reply::ok(noise(SIZE)).length(None);
        if count.next() == 1 { reply.cut(130_000) } else { reply }
    })
    .await;
    assert_eq!(get(&server, Start::default()).await.unwrap(), (0, noise(SIZE)));
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn a_host_that_cuts_for_ever_is_given_up_and_slow_progress_is_not() {
    let server = Server::start(|request| Reply::part(request, &noise(SIZE)).cut(10)).await;
    let error = get(&server, Start::default()).await.unwrap_err();
    assert_eq!(error.class, FailureClass::Unreachable);
    assert_eq!(server.requests().len(), 4);

    // Eight cuts, each after more than what earns a try.
    let whole = noise(9 << 20);
    let served = whole.clone();
    let server = Server::start(move |request| {
        let reply = Reply::part(request, &served);
        if request.from().unwrap_or(0) < 8 << 20 { reply.cut((1 << 20) + 1) } else { reply }
    })
    .await;
    let (_, bytes) = get(&server, Start::default()).await.unwrap();
    assert!(bytes == whole);
    assert!(server.requests().len() > 7);
}

#[tokio::test]
async fn retry_after_is_honoured_as_seconds_and_as_a_date() {
    for (status, date) in [(429, false), (503, false), (503, true)] {
        let count = Count::default();
        let server = Server::start(move |_| {
            if count.next() > 1 {
                return Reply::ok(b"x");
            }
            let at = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(2));
            Reply::status(status).header("Retry-After", if date { &at } else { "1" })
        })
        .await;
        let from = Instant::now();
        get(&server, Start::default()).await.unwrap();
        // A date has whole seconds.
        assert!(from.elapsed() >= Duration::from_millis(900), "{status} {date}");
    }
}

#[tokio::test]
async fn what_cannot_pass_is_not_repeated() {
    for (status, class) in [
        (404, FailureClass::NotFound),
        (403, FailureClass::Unauthorised),
        (400, FailureClass::Broken),
    ] {
        let server = Server::start(move |_| Reply::status(status)).await;
        assert_eq!(get(&server, Start::default()).await.unwrap_err().class, class);
        assert_eq!(server.requests().len(), 1);
    }
    let server = Server::start(|_| Reply::status(500)).await;
    assert_eq!(get(&server, Start::default()).await.unwrap_err().class, FailureClass::Unreachable);
    assert_eq!(server.requests().len(), 4);
}

#[tokio::test]
async fn nothing_goes_without_tls_unless_it_is_configured() {
    let server = Server::start(|_| Reply::ok(b"x")).await;
    let strict = FetchSettings { plain_http: PlainHttp::default(), ..impatient() };
    let strict = Fetcher::new(&strict).unwrap();
    let at = url(&server.url("/"));
    let error = strict.small("get it", &at, 10).await.unwrap_err();
    assert_eq!(error.class, FailureClass::Policy);
    assert!(error.to_string().contains("--plain-http"), "{error}");
    assert!(server.requests().is_empty());
    let allowed = strict.with_plain_http(&server.host());
    assert_eq!(allowed.small("get it", &at, 10).await.unwrap(), "x");
    let error = strict.small("get it", &url("file:///etc/passwd"), 10).await.unwrap_err();
    assert!(error.to_string().contains("neither https nor http"), "{error}");
}

#[tokio::test]
async fn what_is_printed_of_a_download_holds_no_secret() {
    let storage = Server::start(|_| Reply::ok(noise(SIZE)).stall(10)).await;
    let to = storage.url("/signed?key=secret");
    let server = Server::start(move |_| Reply::redirect(&to)).await;
    let proxies =
        Proxies { http: Some("http://me:secret@proxy.invalid:1".to_owned()), ..Proxies::default() };
    let fetcher = Fetcher::new(&FetchSettings { proxies, ..impatient() }).unwrap();
    let at = url(&server.url("/file?token=secret"));
    let mut body = fetcher.open("get the file", &at, Start::default()).await.unwrap();
    assert_eq!(body.next().await.unwrap().unwrap().len(), 10);
    let shown = format!("{fetcher:?} {body:?}");
    assert!(!shown.contains("secret"), "{shown}");
    assert!(shown.contains(&storage.host()), "{shown}");
}

#[tokio::test]
async fn redirects_are_followed_without_credentials_and_not_for_ever() {
    let other = Server::start(|_| Reply::ok(b"there")).await;
    let (there, round) = (other.url("/there"), "/round".to_owned());
    let server = Server::start(move |request| match request.path() {
        "/away" => Reply::redirect(&there),
        "/home" => Reply::redirect("/at-home"),
        "/at-home" => Reply::ok(b"home"),
        "/insecure" => Reply::redirect("http://insecure.invalid/"),
        "/nowhere" => Reply::redirect("http://["),
        _ => Reply::redirect(&round),
    })
    .await;
    let fetcher = fetcher();
    let mut call = Call::get("get it", url(&server.url("/away")));
    call.authorization = Some(HeaderValue::from_static("Basic secret"));
    let response = fetcher.client().call(&call).await.unwrap();
    assert!(!response.at_home && response.host == other.host());
    assert_eq!(other.requests()[0].header("authorization"), None);
    call.url = url(&server.url("/home"));
    assert!(fetcher.client().call(&call).await.unwrap().at_home);
    let seen = server.requests();
    assert!(seen.iter().all(|r| r.header("authorization") == Some("Basic secret")), "{seen:?}");

    let fails =
        async |path: &str| fetcher.small("get it", &url(&server.url(path)), 10).await.unwrap_err();
    assert!(fails("/round").await.to_string().contains("more than 10 times"));
    assert_eq!(fails("/insecure").await.class, FailureClass::Policy);
    assert_eq!(fails("/nowhere").await.class, FailureClass::Broken);
}

#[tokio::test]
async fn a_form_is_for_nobody_but_who_was_asked() {
    let other = Server::start(|_| Reply::ok(b"{}")).await;
    let there = other.url("/token");
    let server = Server::start(move |request| match request.path() {
        "/away" => Reply::redirect(&there),
        "/home" => Reply::redirect("/token"),
        _ => Reply::ok(b"{}"),
    })
    .await;
    let fetcher = fetcher();
    let post = async |path: &str| {
        let form = Some("refresh_token=secret".to_owned());
        let method = reqwest::Method::POST;
        let call = Call { method, form, ..Call::get("get a token", url(&server.url(path))) };
        fetcher.client().call(&call).await
    };
    assert_eq!(post("/home").await.unwrap().status(), 200);
    let error = post("/away").await.unwrap_err();
    assert_eq!(error.class, FailureClass::Broken);
    assert!(other.requests().is_empty());
}

#[test]
fn a_proxy_that_is_none_is_refused_without_its_password() {
    let proxies = Proxies { http: Some("http://me:secret@[".to_owned()), ..Proxies::default() };
    let error = Fetcher::new(&FetchSettings { proxies, ..impatient() }).unwrap_err();
    assert!(error.to_string().contains("HTTP_PROXY"), "{error}");
    assert!(!format!("{error:?}").contains("secret"));
}

#[tokio::test]
async fn something_small_is_bounded() {
    let server = Server::start(|request| match request.path() {
        "/endless" => Reply::ok(b"").endless(),
        "/lies" => Reply::ok(b"abc").length(Some(1 << 40)),
        _ => Reply::ok(b"0123456789"),
    })
    .await;
    let fetcher = fetcher();
    let get = async |path: &str| fetcher.small("get it", &url(&server.url(path)), 10).await;
    assert_eq!(get("/good").await.unwrap(), "0123456789");
    assert_eq!(get("/endless").await.unwrap_err().class, FailureClass::Broken);
    assert_eq!(get("/lies").await.unwrap_err().class, FailureClass::Broken);
}

#[tokio::test]
async fn proxies_are_used_but_for_what_is_excepted() {
    let proxy = Server::start(|_| Reply::ok(b"by proxy")).await;
    let direct = Server::start(|_| Reply::ok(b"direct")).await;
    let proxies = Proxies {
        http: Some(format!("http://me:secret@{}", proxy.host())),
        https: Some(format!("http://{}", proxy.host())),
        except: Some("direct.invalid,.below.invalid".to_owned()),
    };
    let settings = FetchSettings {
        proxies,
        plain_http: PlainHttp::new([
            "far.invalid",
            "direct.invalid",
            "x.below.invalid",
            "127.0.0.1",
        ]),
        tries: 1,
        ..impatient()
    };
    let fetcher = Fetcher::new(&settings).unwrap();
    let get = async |at: &str| fetcher.small("get it", &url(at), 100).await;
    assert_eq!(get("http://far.invalid/x?y").await.unwrap(), "by proxy");
    let asked = &proxy.requests()[0];
    assert_eq!(asked.target, "http://far.invalid/x?y");
    assert_eq!(asked.header("proxy-authorization"), Some("Basic bWU6c2VjcmV0"));
    // Loopback never, and what is excepted neither.
    assert_eq!(get(&direct.url("/")).await.unwrap(), "direct");
    assert!(get("http://direct.invalid/").await.is_err());
    assert!(get("http://x.below.invalid/").await.is_err());
    assert_eq!(proxy.requests().len(), 1);
    // What has TLS is tunnelled.
    assert!(get("https://far.invalid/").await.is_err());
    let asked = &proxy.requests()[1];
    assert_eq!((asked.method.as_str(), asked.target.as_str()), ("CONNECT", "far.invalid:443"));
    assert_eq!(asked.header("authorization"), None);
}

#[tokio::test]
async fn an_authority_of_one_s_own_is_trusted_when_it_is_configured() {
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate().unwrap();
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        )
        .unwrap();
    let server =
        Server::start_tls(tokio_rustls::TlsAcceptor::from(Arc::new(config)), |_| Reply::ok(b"tls"))
            .await;
    let dir = tempfile::tempdir().unwrap();
    let ca_file = dir.path().join("ca.pem");
    std::fs::write(&ca_file, ca_pem).unwrap();
    let at = url(&format!("https://{}/", server.host()));

    let error = fetcher().small("get it", &at, 10).await.unwrap_err();
    assert_eq!(error.class, FailureClass::Tls, "{error}");
    assert!(error.to_string().contains("registries.ca_file"), "{error}");
    let trusting = FetchSettings { ca_file: Some(ca_file), ..impatient() };
    let trusting = Fetcher::new(&trusting).unwrap();
    assert_eq!(trusting.small("get it", &at, 10).await.unwrap(), "tls");

    // A host that speaks no TLS.
    let plain = Server::start(|_| Reply::ok(b"plain")).await;
    let at = url(&format!("https://{}/", plain.host()));
    let error = trusting.small("get it", &at, 10).await.unwrap_err();
    assert_eq!(error.class, FailureClass::Tls, "{error}");

    for (content, says) in [("", "no certificate"), ("-----BEGIN CERTIFICATE-----\nx", "PEM")] {
        let file = dir.path().join("bad.pem");
        std::fs::write(&file, content).unwrap();
        let bad = FetchSettings { ca_file: Some(file), ..impatient() };
        let error = Fetcher::new(&bad).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
}
