//! A channel that changes hands in the middle of a frame.

use std::time::Duration;

use inn_node::guest::{GuestError, GuestSession, Left};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::guest::{TestGuest, patiently, run, shell};

/// One lasting byte stream to the guest, as a virtio-serial port is one, and
/// hosts that come and go at its other end.
async fn splice(guest: &mut UnixStream, host: &mut UnixStream, cut_after: Option<usize>) {
    let (mut from_host, mut from_guest) = ([0; 4096], [0; 4096]);
    let mut passed = 0;
    loop {
        // A read that is cancelled has read nothing.
        tokio::select! {
            count = host.read(&mut from_host) => {
                let Ok(count @ 1..) = count else { return };
                let count = cut_after.map_or(count, |limit| count.min(limit - passed));
                guest.write_all(&from_host[..count]).await.unwrap();
                passed += count;
                if Some(passed) == cut_after {
                    return;
                }
            }
            count = guest.read(&mut from_guest) => {
                let Ok(count @ 1..) = count else { return };
                if host.write_all(&from_guest[..count]).await.is_err() {
                    return;
                }
            }
        }
    }
}

#[tokio::test]
async fn a_host_that_vanished_mid_frame_leaves_no_trace() {
    let guest = TestGuest::start();
    let mut lasting = guest.connect().await;
    // Cut within the zeros, the marker, the hello, the request and beyond.
    let opening = inn_guest_proto::RESYNC_ZEROS + 32;
    for cut in [1, 3, 1000, opening - 20, opening - 3, opening + 2, opening + 15, opening + 40] {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let attempt = tokio::spawn(async move {
            let session = GuestSession::establish(theirs).await?;
            run(&session, shell(1, "echo hello; sleep 1000")).await
        });
        patiently(splice(&mut lasting, &mut ours, Some(cut))).await;
        drop(ours);
        assert!(patiently(attempt).await.unwrap().is_err());
    }
    // Whatever the half-dead sessions left in the channel is thrown away.
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let relay = tokio::spawn(async move { splice(&mut lasting, &mut ours, None).await });
    let session = patiently(GuestSession::establish(theirs)).await.unwrap();
    let (said, _) = run(&session, shell(2, "echo hello")).await.unwrap();
    assert_eq!(said.stdout, b"hello\n");
    relay.abort();
}

#[tokio::test]
async fn a_second_opening_on_a_lasting_stream_ends_the_first() {
    let guest = TestGuest::start();
    let mut lasting = guest.connect().await;
    let (mut first_ours, first_theirs) = UnixStream::pair().unwrap();
    let establish = tokio::spawn(GuestSession::establish(first_theirs));
    let relay = tokio::time::timeout(
        Duration::from_millis(500),
        splice(&mut lasting, &mut first_ours, None),
    );
    assert!(relay.await.is_err(), "the relay runs until it is stopped");
    let first = patiently(establish).await.unwrap().unwrap();
    // The first host is still there and never said goodbye.
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let relay = tokio::spawn(async move { splice(&mut lasting, &mut ours, None).await });
    let second = patiently(GuestSession::establish(theirs)).await.unwrap();
    assert!(run(&second, shell(1, "true")).await.is_ok());
    drop(first_ours);
    let reason = patiently(first.closed()).await;
    assert!(matches!(reason, GuestError::Closed { .. }), "{reason:?}");
    relay.abort();
}

#[tokio::test]
async fn who_follows_a_host_that_left_between_frames_need_not_complete_any() {
    const LONG: Duration = Duration::from_secs(60);
    let guest = TestGuest::start();
    let mut lasting = guest.connect().await;
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let relay = tokio::spawn(async move {
        splice(&mut lasting, &mut ours, None).await;
        lasting
    });
    let session = patiently(GuestSession::establish(theirs)).await.unwrap();
    let (said, _) = run(&session, shell(1, "echo hello")).await.unwrap();
    assert_eq!(said.stdout, b"hello\n");
    let held = patiently(session.hold_back(LONG)).await;
    assert!(held.is_between_frames());
    session.close().await;
    drop(held);
    let mut lasting = patiently(relay).await.unwrap();

    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let second = tokio::spawn(GuestSession::establish_as(Left::BetweenFrames, theirs));
    let mut opening = [0; 4096];
    let length = patiently(ours.read(&mut opening)).await.unwrap();
    assert!(length < 256, "{length} bytes");
    lasting.write_all(&opening[..length]).await.unwrap();
    let relay = tokio::spawn(async move {
        splice(&mut lasting, &mut ours, None).await;
        lasting
    });
    let second = patiently(second).await.unwrap().unwrap();
    let (said, _) = run(&second, shell(2, "echo again")).await.unwrap();
    assert_eq!(said.stdout, b"again\n");

    // Nobody reads what it is asked now: it is left in the middle of it, if need be.
    relay.abort();
    let held = patiently(second.hold_back(Duration::from_millis(1))).await;
    assert!(!held.is_between_frames());
}
