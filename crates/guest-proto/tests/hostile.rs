//! Peers that do not keep the rules: each rule has its own error, nothing
//! panics, and nothing grows beyond its bound.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

use inn_guest_proto::wire::envelope::Body;
use inn_guest_proto::wire::{
    Credit, Data, End, Envelope, Eof, Goodbye, Hello, ListExecs, Ping, Reply, Request, Version,
    request,
};
use inn_guest_proto::{
    Guest, GuestEvent, Host, HostEvent, MARKER, MAX_DATA, MAX_FRAME, MAX_STREAMS, MAX_WINDOW,
    NONCE_BYTES, ProtocolError, RESYNC_ZEROS, VERSION, WINDOW,
};
use proptest::prelude::*;

const NONCE: [u8; NONCE_BYTES] = [5; NONCE_BYTES];

fn frame(stream: u32, body: Body) -> Vec<u8> {
    let payload = Envelope { stream, body: Some(body) }.to_payload();
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend_from_slice(&payload);
    bytes
}

fn hello() -> Body {
    let version = Version { major: VERSION.major, minor: VERSION.minor };
    Body::Hello(Hello { version: Some(version), ..Hello::default() })
}

fn request() -> Request {
    Request { kind: Some(request::Kind::ListExecs(ListExecs {})) }
}

fn data(size: usize) -> Body {
    Body::Data(Data { bytes: vec![1; size].into(), ..Data::default() })
}

/// A host with one open stream, 1.
fn open_host() -> Host {
    let mut host = Host::new(NONCE, "test");
    host.input().extend_from_slice(&MARKER);
    host.input().extend_from_slice(&NONCE);
    host.input().extend_from_slice(&frame(0, hello()));
    assert!(matches!(host.next_event(), Ok(Some(HostEvent::Hello { .. }))));
    assert_eq!(host.open(request()), Ok(1));
    host
}

fn open_guest() -> Guest {
    let mut guest = Guest::default();
    guest.input().extend_from_slice(&MARKER);
    guest.input().extend_from_slice(&NONCE);
    guest.input().extend_from_slice(&frame(0, hello()));
    assert!(matches!(guest.next_event(), Some(GuestEvent::Opened(_))));
    guest.greet(&NONCE, Hello::default()).unwrap();
    assert!(matches!(guest.next_event(), Some(GuestEvent::Hello { .. })));
    guest
}

fn host_error(bodies: &[(u32, Body)]) -> ProtocolError {
    let mut host = open_host();
    for (stream, body) in bodies {
        host.input().extend_from_slice(&frame(*stream, body.clone()));
        loop {
            match host.next_event() {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(error) => return error,
            }
        }
    }
    panic!("the host took it all");
}

#[test]
fn each_rule_has_its_error_at_the_host() {
    let misdirected = |message, stream| ProtocolError::Misdirected { message, stream };
    let cases = [
        (vec![(1, data(MAX_DATA + 1))], ProtocolError::DataTooLarge { size: MAX_DATA + 1 }),
        (vec![(1, data(MAX_DATA)); 5], ProtocolError::CreditExceeded { stream: 1 }),
        (vec![(1, data(1)); 1025], ProtocolError::CreditExceeded { stream: 1 }),
        (vec![(2, data(1))], ProtocolError::UnknownStream { message: "data", stream: 2 }),
        (vec![(0, data(1))], misdirected("data", 0)),
        (vec![(1, Body::Request(request()))], misdirected("request", 1)),
        (vec![(0, hello())], misdirected("hello", 0)),
        (vec![(0, Body::Ping(Ping { token: 1 }))], misdirected("ping", 0)),
        (vec![(1, Body::Reply(Reply::default())); 2], misdirected("second reply", 1)),
        (
            vec![(1, Body::Credit(Credit { bytes: MAX_WINDOW - WINDOW + 1 }))],
            ProtocolError::CreditOverflow { stream: 1 },
        ),
        (
            vec![(1, Body::Credit(Credit { bytes: u32::MAX }))],
            ProtocolError::CreditOverflow { stream: 1 },
        ),
        (
            vec![(1, Body::Eof(Eof::default())), (1, data(1))],
            ProtocolError::DataAfterEof { stream: 1 },
        ),
        (
            vec![(1, Body::Data(Data { channel: 77, ..Data::default() }))],
            ProtocolError::UnknownChannel { stream: 1, channel: 77 },
        ),
        (
            vec![(1, Body::End(End::default())), (1, data(1))],
            ProtocolError::UnknownStream { message: "data", stream: 1 },
        ),
        (
            vec![(0, Body::Goodbye(Goodbye { reason: "tired\n".into() }))],
            ProtocolError::Goodbye { reason: "tired".into() },
        ),
    ];
    for (bodies, expected) in cases {
        assert_eq!(host_error(&bodies), expected);
    }
}

#[test]
fn the_guest_says_why_and_waits_for_the_next_opening() {
    let mut guest = open_guest();
    let mut host = Host::new(NONCE, "test");
    let greeting = guest.output().to_vec();
    host.input().extend_from_slice(&greeting);
    guest.wrote(greeting.len());
    guest.input().extend_from_slice(&frame(3, data(1)));
    let unknown = ProtocolError::UnknownStream { message: "data", stream: 3 };
    assert_eq!(guest.next_event(), Some(GuestEvent::Broken(unknown)));
    host.input().extend_from_slice(guest.output());
    assert!(matches!(host.next_event(), Ok(Some(HostEvent::Hello { .. }))));
    assert!(matches!(host.next_event(), Err(ProtocolError::Goodbye { .. })));
    // What follows is skipped, until somebody opens.
    guest.input().extend_from_slice(&frame(1, Body::Request(request())));
    assert_eq!(guest.next_event(), None);
    guest.input().extend_from_slice(&[0; RESYNC_ZEROS]);
    guest.input().extend_from_slice(&MARKER);
    guest.input().extend_from_slice(&NONCE);
    assert_eq!(guest.next_event(), Some(GuestEvent::Opened(NONCE)));
}

#[test]
fn a_guest_holds_no_more_streams_than_allowed() {
    let mut guest = open_guest();
    for stream in 1..=MAX_STREAMS + 1 {
        let stream = u32::try_from(stream).unwrap();
        guest.input().extend_from_slice(&frame(stream, Body::Request(request())));
    }
    let mut events = std::iter::from_fn(|| guest.next_event());
    assert!(events.by_ref().take(MAX_STREAMS).all(|e| matches!(e, GuestEvent::Request { .. })));
    assert_eq!(events.next(), Some(GuestEvent::Broken(ProtocolError::TooManyStreams)));
}

#[test]
fn a_stream_is_opened_once() {
    let mut guest = open_guest();
    for _ in 0..2 {
        guest.input().extend_from_slice(&frame(4, Body::Request(request())));
    }
    assert!(matches!(guest.next_event(), Some(GuestEvent::Request { .. })));
    let reused = ProtocolError::StreamReused { stream: 4 };
    assert_eq!(guest.next_event(), Some(GuestEvent::Broken(reused)));
}

#[test]
fn a_length_over_the_limit_is_refused_by_its_header() {
    let mut host = open_host();
    let length = u32::try_from(MAX_FRAME + 1).unwrap();
    host.input().extend_from_slice(&length.to_be_bytes());
    assert_eq!(host.next_event(), Err(ProtocolError::FrameTooLarge { length }));
}

#[test]
fn many_pings_get_one_answer() {
    let mut guest = open_guest();
    let greeting = guest.output().len();
    guest.wrote(greeting);
    for token in 0..10_000 {
        guest.input().extend_from_slice(&frame(0, Body::Ping(Ping { token })));
        assert_eq!(guest.next_event(), None);
    }
    assert!(guest.output().len() < 64);
}

/// Bytes that are often nearly right.
fn nearly_right() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        Just(MARKER.to_vec()),
        Just(NONCE.to_vec()),
        Just([MARKER.as_slice(), &NONCE, &frame(0, hello())].concat()),
        Just(vec![0; 7]),
        (0u32..4, 0usize..2000).prop_map(|(stream, size)| frame(stream, data(size))),
        (0u32..4).prop_map(|stream| frame(stream, Body::Request(request()))),
        (0u32..4, any::<u32>())
            .prop_map(|(stream, bytes)| frame(stream, Body::Credit(Credit { bytes }))),
        (0u32..4).prop_map(|stream| frame(stream, Body::End(End::default()))),
        (0u32..4).prop_map(|stream| frame(stream, Body::Cancel(Default::default()))),
        (0u32..4).prop_map(|stream| frame(stream, Body::Control(Default::default()))),
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn a_host_survives_anything(bytes in nearly_right(), chunk in 1usize..500) {
        let mut host = Host::new(NONCE, "test");
        while !host.output().is_empty() {
            let written = host.output().len();
            host.wrote(written);
        }
        'all: for piece in bytes.chunks(chunk) {
            host.input().extend_from_slice(piece);
            loop {
                match host.next_event() {
                    Ok(Some(HostEvent::Hello { .. })) => {
                        host.open(request()).unwrap();
                    }
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) => break 'all,
                }
            }
            prop_assert!(host.buffered() <= MAX_FRAME + 4);
            prop_assert!(host.open_streams() <= MAX_STREAMS);
            prop_assert!(host.output().len() < 2 * MAX_FRAME);
        }
    }

    #[test]
    fn a_guest_survives_anything_and_can_be_opened_again(
        bytes in nearly_right(),
        chunk in 1usize..500,
    ) {
        let mut guest = Guest::default();
        for piece in bytes.chunks(chunk) {
            guest.input().extend_from_slice(piece);
            while let Some(event) = guest.next_event() {
                if let GuestEvent::Opened(nonce) = event {
                    guest.greet(&nonce, Hello::default()).unwrap();
                }
            }
            prop_assert!(guest.buffered() <= MAX_FRAME + 4);
            prop_assert!(guest.open_streams() <= MAX_STREAMS);
            prop_assert!(guest.output().len() < 2 * MAX_FRAME);
        }
        let mut host = Host::new([6; NONCE_BYTES], "test");
        while !host.output().is_empty() {
            let written = host.output().len();
            guest.input().extend_from_slice(host.output());
            host.wrote(written);
        }
        let mut opened = None;
        while let Some(event) = guest.next_event() {
            if let GuestEvent::Opened(nonce) = event {
                guest.greet(&nonce, Hello::default()).unwrap();
                opened = Some(nonce);
            }
        }
        prop_assert_eq!(opened, Some([6; NONCE_BYTES]));
        host.input().extend_from_slice(guest.output());
        let greeted = matches!(host.next_event(), Ok(Some(HostEvent::Hello { .. })));
        prop_assert!(greeted);
    }
}

/// Bytes of memory that this process holds, from statm(5).
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// A few bytes of data in a frame that is otherwise a field that nobody knows
/// keep only themselves alive, however long their reader takes.
#[test]
fn padding_is_not_kept_with_the_data() {
    for padding in [20_000, 120_000] {
        let mut host = open_host();
        // Envelope: stream 1; data of one byte; field 60 with the padding.
        let mut payload = vec![0x08, 0x01, 0x3a, 0x03, 0x12, 0x01, 0x07, 0xe2, 0x03];
        let mut left = padding;
        while left >= 0x80 {
            payload.push(u8::try_from(left & 0x7f).unwrap() | 0x80);
            left >>= 7;
        }
        payload.push(u8::try_from(left).unwrap());
        payload.resize(payload.len() + padding, 0xaa);
        payload.push(inn_guest_proto::SEAL);
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let frame = [&length[..], &payload].concat();
        let before = resident();
        let mut kept = Vec::new();
        for _ in 0..5000 {
            host.input().extend_from_slice(&frame);
            match host.next_event() {
                Ok(Some(HostEvent::Data { data, .. })) => kept.push(data),
                other => panic!("{other:?}"),
            }
            host.consumed(1, WINDOW);
            let written = host.output().len();
            host.wrote(written);
        }
        assert!(kept.iter().all(|data| data.bytes[..] == [7]));
        let grown = resident().saturating_sub(before);
        // The frames are 100 MB and 600 MB.
        assert!(grown < 50 << 20, "{grown} bytes are kept with frames of {padding}");
    }
}
