//! Layers from registries of bad faith.

use std::time::Duration;

use super::*;
use crate::{FailureClass, Verifier};

const SIZE: usize = 300_000;

fn one_layer() -> Shelf {
    let mut shelf = Shelf::default();
    shelf.image("1", &noise(SIZE));
    shelf
}

/// A registry whose answers to the n-th request for the layer are `odd`'s.
async fn odd(odd: impl Fn(u32, &Request) -> Option<Reply> + Send + Sync + 'static) -> Server {
    let count = Count::default();
    let layer = digest(&noise(SIZE)).to_string();
    registry(one_layer(), move |request, _| {
        request.path().ends_with(&layer).then(|| odd(count.next(), request)).flatten()
    })
    .await
}

async fn try_pull(server: &Server) -> Result<Vec<u8>, RegistryError> {
    let resolved = resolve(server, "a:1").await.unwrap();
    pull(&resolved, &resolved.layers[0]).await
}

/// By who takes 700 ms of silence for a stall.
async fn hasty_pull(server: &Server) -> Result<Vec<u8>, RegistryError> {
    let mut settings = settings();
    settings.fetch.idle_timeout = Duration::from_millis(700);
    let reference = format!("{}/a:1", server.host()).parse().unwrap();
    let resolved = client(settings).resolve(&reference, &Platform::host()).await.unwrap();
    pull(&resolved, &resolved.layers[0]).await
}

fn ranges(server: &Server) -> Vec<Option<usize>> {
    let layer = digest(&noise(SIZE)).to_string();
    server.requests().iter().filter(|r| r.path().ends_with(&layer)).map(Request::from).collect()
}

#[tokio::test]
async fn a_cut_layer_is_continued_where_it_ended() {
    let server = odd(|n, request| match n {
        1 => Some(Reply::part(request, &noise(SIZE)).cut(100_000)),
        2 => Some(Reply::part(request, &noise(SIZE)).cut(50_000)),
        _ => None,
    })
    .await;
    assert!(try_pull(&server).await.unwrap() == noise(SIZE));
    assert_eq!(ranges(&server), [None, Some(100_000), Some(150_000)]);
}

#[tokio::test]
async fn a_stalled_layer_is_asked_for_again() {
    let server =
        odd(|n, request| (n == 1).then(|| Reply::part(request, &noise(SIZE)).stall(70_000))).await;
    assert!(hasty_pull(&server).await.unwrap() == noise(SIZE));
    // A busy host may have looked like another stall.
    assert_eq!(ranges(&server)[..2], [None, Some(70_000)]);
}

#[tokio::test]
async fn a_registry_that_always_stalls_is_given_up() {
    let server = odd(|_, request| Some(Reply::part(request, &noise(SIZE)).stall(0))).await;
    let error = hasty_pull(&server).await.unwrap_err();
    assert_eq!(error.class, FailureClass::Unreachable);
    assert!(error.what.contains("nothing for 700 ms"), "{error}");
    assert_eq!(ranges(&server).len(), 4);
}

#[tokio::test]
async fn a_registry_that_ignores_ranges_is_skipped_through() {
    let server = odd(|n, _| {
        Some(if n == 1 { Reply::ok(noise(SIZE)).cut(90_000) } else { Reply::ok(noise(SIZE)) })
    })
    .await;
    assert!(try_pull(&server).await.unwrap() == noise(SIZE));
    assert_eq!(ranges(&server), [None, Some(90_000)]);
}

#[tokio::test]
async fn a_pull_may_begin_in_the_middle() {
    let server = odd(|_, _| None).await;
    let resolved = resolve(&server, "a:1").await.unwrap();
    let mut blob = resolved.repository.blob(&resolved.layers[0], 299_990);
    assert_eq!(blob.next().await.unwrap().unwrap(), noise(SIZE)[299_990..]);
    assert_eq!((blob.offset(), blob.host()), (SIZE as u64, server.host().as_str()));
    assert!(blob.next().await.is_none());
    // At its end there is nothing to ask for.
    let asked = server.requests().len();
    assert!(resolved.repository.blob(&resolved.layers[0], SIZE as u64).next().await.is_none());
    assert_eq!(server.requests().len(), asked);
}

#[tokio::test]
async fn lies_about_lengths_and_ranges_end_in_one_error() {
    let whole = noise(SIZE);
    let longer = [whole.as_slice(), b"more"].concat();
    let half = &whole[..SIZE / 2];
    for (name, reply, again) in [
        ("longer", Reply::ok(&longer), None),
        ("longer in chunks", Reply::ok(&longer).length(None), None),
        ("shorter", Reply::ok(half), None),
        ("shorter in chunks", Reply::ok(half).length(None), Some(Reply::ok(half).length(None))),
        (
            "another range",
            Reply::ok(&whole).cut(100),
            Some(Reply::status(206).body(half).header("Content-Range", "bytes 200-150199/300000")),
        ),
        ("no range", Reply::ok(&whole).cut(100), Some(Reply::status(206).body(half))),
        (
            "another total",
            Reply::ok(&whole).cut(100),
            Some(Reply::status(206).body(half).header("Content-Range", "bytes 100-150099/150100")),
        ),
        ("empty", Reply::status(204), None),
    ] {
        let again = again.unwrap_or_else(|| reply.clone());
        let server =
            odd(move |n, _| Some(if n == 1 { reply.clone() } else { again.clone() })).await;
        let error = try_pull(&server).await.unwrap_err();
        let class = if name == "shorter in chunks" {
            FailureClass::Unreachable
        } else {
            FailureClass::Broken
        };
        assert_eq!(error.class, class, "{name}: {error}");
        assert!(ranges(&server).len() <= 4, "{name}");
    }
}

#[tokio::test]
async fn changed_content_is_found_by_its_digest() {
    let changed: Vec<u8> = noise(SIZE).iter().map(|b| b ^ 1).collect();
    let server = odd(move |_, request| Some(Reply::part(request, &changed))).await;
    let resolved = resolve(&server, "a:1").await.unwrap();
    let layer = &resolved.layers[0];
    let mut verifier = Verifier::new(layer);
    verifier.update(&pull(&resolved, layer).await.unwrap());
    let error = verifier.finish(&server.host()).unwrap_err();
    assert_eq!(error.class, FailureClass::Broken);
    assert!(error.to_string().contains(&server.host()), "{error}");

    let mut verifier = Verifier::new(layer);
    verifier.update(&noise(SIZE));
    assert_eq!(verifier.clone().finish("h"), Ok(()));
    verifier.update(b"more");
    assert!(verifier.finish("h").is_err());
}

#[tokio::test]
async fn too_many_requests_are_answered_with_patience() {
    let server = odd(|n, _| (n == 1).then(|| Reply::status(429).header("Retry-After", "1"))).await;
    let from = std::time::Instant::now();
    assert!(try_pull(&server).await.unwrap() == noise(SIZE));
    assert!(from.elapsed() >= Duration::from_secs(1));

    let server = odd(|_, _| Some(Reply::status(429).header("Retry-After", "7200"))).await;
    let error = try_pull(&server).await.unwrap_err();
    let FailureClass::TooManyRequests { until: Some(until) } = error.class else {
        panic!("{error:?}");
    };
    let left = until.duration_since(std::time::SystemTime::now()).unwrap();
    assert!(left > Duration::from_secs(7000) && left <= Duration::from_secs(7200));
    assert_eq!(ranges(&server).len(), 1);
}

#[tokio::test]
async fn a_mirror_that_fails_in_the_middle_is_replaced() {
    let own = registry(one_layer(), |_, _| None).await;
    let mirror = odd(|n, request| match n {
        1 => Some(Reply::part(request, &noise(SIZE)).cut(100_000)),
        _ => Some(Reply::status(404)),
    })
    .await;
    let reference = format!("{}/a:1", own.host()).parse().unwrap();
    let settings = mirrored(&format!("{}={}", own.host(), mirror.host()));
    let resolved = client(settings).resolve(&reference, &Platform::host()).await.unwrap();
    assert_eq!(pull(&resolved, &resolved.layers[0]).await.unwrap(), noise(SIZE));
    let layer = digest(&noise(SIZE)).to_string();
    let asked: Vec<_> =
        own.requests().iter().filter(|r| r.path().ends_with(&layer)).map(Request::from).collect();
    assert_eq!(asked, [Some(100_000)]);
}

#[tokio::test]
async fn storage_that_a_redirect_names_sees_no_credentials() {
    let storage = Server::start(|request| Reply::part(request, &noise(SIZE))).await;
    let to = storage.url("/signed?key=secret");
    let server = odd(move |_, _| Some(Reply::redirect(&to))).await;
    assert!(try_pull(&server).await.unwrap() == noise(SIZE));
    assert_eq!(storage.requests().len(), 1);

    // An error of the storage's doesn't show the address, which is a secret.
    let storage = Server::start(|_| Reply::status(403)).await;
    let to = storage.url("/signed?key=secret");
    let server = odd(move |_, _| Some(Reply::redirect(&to))).await;
    let error = try_pull(&server).await.unwrap_err();
    assert!(error.to_string().contains(&storage.host()), "{error}");
    assert!(!format!("{error} {error:?}").contains("secret"));
    assert_eq!(storage.requests().len(), 4, "it was signed anew each time");
}

#[tokio::test]
async fn what_a_mirror_changed_can_be_had_elsewhere() {
    let own = registry(one_layer(), |_, _| None).await;
    let changed: Vec<u8> = noise(SIZE).iter().map(|b| b ^ 1).collect();
    let mirror = odd(move |_, request| Some(Reply::part(request, &changed))).await;
    let reference = format!("{}/a:1", own.host()).parse().unwrap();
    let settings = mirrored(&format!("{}={}", own.host(), mirror.host()));
    let resolved = client(settings).resolve(&reference, &Platform::host()).await.unwrap();
    let layer = &resolved.layers[0];
    let mut blob = resolved.repository.blob(layer, 0);
    let mut verifier = Verifier::new(layer);
    while let Some(bytes) = blob.next().await {
        verifier.update(&bytes.unwrap());
    }
    assert!(verifier.finish(blob.host()).unwrap_err().to_string().contains(&mirror.host()));
    let mut blob = blob.elsewhere().unwrap().blob(layer, 0);
    let mut verifier = Verifier::new(layer);
    while let Some(bytes) = blob.next().await {
        verifier.update(&bytes.unwrap());
    }
    assert_eq!(verifier.finish(blob.host()), Ok(()));
    assert!(blob.elsewhere().is_none());
}
