//! Two ends, back to back, over a pipe that delivers in pieces of any size.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

use std::collections::BTreeMap;

use bytes::Bytes;
use inn_guest_proto::wire::{
    Channel, Configure, Data, Done, End, Eof, Hello, ListExecs, Request, end, request,
};
use inn_guest_proto::{
    Guest, GuestEvent, Host, HostEvent, MAX_DATA, MAX_FRAME, MAX_STREAMS, NONCE_BYTES,
    ProtocolError, RESYNC_ZEROS, SendError, WINDOW, data_cost,
};
use proptest::prelude::*;

const NONCE: [u8; NONCE_BYTES] = [9; NONCE_BYTES];

fn request() -> Request {
    Request { kind: Some(request::Kind::ListExecs(ListExecs {})) }
}

fn done() -> end::Outcome {
    end::Outcome::Done(Done {})
}

fn data(bytes: Vec<u8>) -> Data {
    Data { bytes: bytes.into(), channel: Channel::Main.into(), offset: 0 }
}

/// A pair of ends; the guest greets by itself.
struct Pair {
    host: Host,
    guest: Guest,
    at_host: Vec<HostEvent>,
    at_guest: Vec<GuestEvent>,
}

impl Pair {
    fn new() -> Self {
        let host = Host::new(NONCE, "test");
        Self { host, guest: Guest::default(), at_host: vec![], at_guest: vec![] }
    }

    fn open() -> Self {
        let mut pair = Self::new();
        pair.settle();
        assert!(matches!(pair.at_host.remove(0), HostEvent::Hello { .. }));
        pair.at_guest.clear();
        pair
    }

    /// Carries at most `limit` bytes each way; false when nothing was there.
    fn step(&mut self, limit: usize) -> bool {
        let out = self.host.output();
        let down = out[..out.len().min(limit)].to_vec();
        self.host.wrote(down.len());
        self.deliver(&down);
        let out = self.guest.output();
        let up = out[..out.len().min(limit)].to_vec();
        self.guest.wrote(up.len());
        self.host.input().extend_from_slice(&up);
        while let Some(event) = self.host.next_event().unwrap() {
            self.at_host.push(event);
        }
        assert!(self.host.buffered() <= MAX_FRAME + 4);
        !(down.is_empty() && up.is_empty())
    }

    fn deliver(&mut self, bytes: &[u8]) {
        self.guest.input().extend_from_slice(bytes);
        while let Some(event) = self.guest.next_event() {
            if let GuestEvent::Opened(nonce) = &event {
                self.guest.greet(nonce, Hello::default()).unwrap();
            }
            self.at_guest.push(event);
        }
        assert!(self.guest.buffered() <= MAX_FRAME + 4);
    }

    fn settle(&mut self) {
        while self.step(usize::MAX) {}
    }
}

#[test]
fn requests_and_answers() {
    let mut pair = Pair::open();
    let stream = pair.host.open(request()).unwrap();
    pair.settle();
    assert_eq!(pair.at_guest.remove(0), GuestEvent::Request { stream, request: request() });
    pair.guest.end(stream, done()).unwrap();
    pair.settle();
    let end = End { outcome: Some(done()) };
    assert_eq!(pair.at_host.remove(0), HostEvent::End { stream, end });
    assert_eq!((pair.host.open_streams(), pair.guest.open_streams()), (0, 0));
    assert_eq!(pair.guest.end(stream, done()), Err(SendError::NoStream));
}

#[test]
fn nothing_is_asked_before_the_hello() {
    let mut host = Host::new(NONCE, "test");
    assert_eq!(host.open(request()), Err(SendError::NotOpen));
    assert_eq!(host.ping(1), Err(SendError::NotOpen));
}

#[test]
fn what_is_asked_ahead_is_answered_behind_the_hello() {
    let mut pair = Pair::new();
    let stream = pair.host.open_ahead(request()).unwrap();
    pair.settle();
    let [opened, hello, asked] = &pair.at_guest[..] else { panic!("{:?}", pair.at_guest) };
    assert!(matches!(opened, GuestEvent::Opened(_)) && matches!(hello, GuestEvent::Hello { .. }));
    assert_eq!(*asked, GuestEvent::Request { stream, request: request() });
    pair.guest.end(stream, done()).unwrap();
    pair.settle();
    assert!(matches!(pair.at_host[0], HostEvent::Hello { .. }));
    assert_eq!(pair.at_host[1], HostEvent::End { stream, end: End { outcome: Some(done()) } });
    assert!(pair.host.open(request()).unwrap() > stream);
}

#[test]
fn streams_are_counted() {
    let mut pair = Pair::open();
    for _ in 0..MAX_STREAMS {
        pair.host.open(request()).unwrap();
    }
    assert_eq!(pair.host.open(request()), Err(SendError::Busy));
    pair.settle();
    assert_eq!(pair.guest.open_streams(), MAX_STREAMS);
    assert!(!pair.at_guest.iter().any(|event| matches!(event, GuestEvent::Broken(_))));
}

#[test]
fn what_is_too_large_is_refused_before_it_is_sent() {
    let mut pair = Pair::open();
    let setup = Configure { hostname: "x".repeat(MAX_FRAME), ..Configure::default() };
    let large = Request { kind: Some(request::Kind::Configure(setup)) };
    assert!(matches!(pair.host.open(large), Err(SendError::TooLarge { .. })));
    let stream = pair.host.open(request()).unwrap();
    let refused = pair.host.send_data(stream, data(vec![0; MAX_DATA + 1]));
    assert!(matches!(refused, Err(SendError::TooLarge { .. })));
    pair.settle();
    let failure =
        inn_guest_proto::wire::Failure { what: "x".repeat(MAX_FRAME), ..Default::default() };
    pair.guest.end(stream, end::Outcome::Failure(failure)).unwrap();
    pair.settle();
    match pair.at_host.last() {
        Some(HostEvent::End { end: End { outcome: Some(end::Outcome::Failure(it)) }, .. }) => {
            assert!(it.what.contains("one frame"));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn credit_holds_a_sender_and_comes_back() {
    let mut pair = Pair::open();
    let stream = pair.host.open(request()).unwrap();
    pair.settle();
    let mut sent = 0;
    while pair.guest.send_data(stream, data(vec![1; MAX_DATA])).is_ok() {
        sent += MAX_DATA;
    }
    assert_eq!(sent, WINDOW as usize);
    pair.settle();
    assert_eq!(pair.guest.credit(stream), 0);
    pair.host.consumed(stream, data_cost(MAX_DATA));
    pair.settle();
    assert_eq!(pair.guest.credit(stream), MAX_DATA.try_into().unwrap());
    // More than was received gives no more than was received.
    pair.host.consumed(stream, u32::MAX);
    pair.settle();
    assert_eq!(pair.guest.credit(stream), WINDOW);
}

#[test]
fn a_flood_takes_turns_and_controls_go_first() {
    let mut pair = Pair::open();
    let flood = pair.host.open(request()).unwrap();
    let small = pair.host.open(request()).unwrap();
    pair.settle();
    pair.at_host.clear();
    for _ in 0..4 {
        pair.guest.send_data(flood, data(vec![1; MAX_DATA])).unwrap();
    }
    pair.guest.send_data(small, data(vec![2])).unwrap();
    pair.guest.reply(small, Default::default()).unwrap();
    pair.settle();
    let order: Vec<_> = pair
        .at_host
        .iter()
        .map(|event| match event {
            HostEvent::Reply { stream, .. } => ("reply", *stream),
            HostEvent::Data { stream, .. } => ("data", *stream),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(order[..3], [("reply", small), ("data", flood), ("data", small)]);
}

#[test]
fn a_cancelled_stream_ends_quietly() {
    let mut pair = Pair::open();
    let stream = pair.host.open(request()).unwrap();
    pair.host.send_data(stream, data(vec![1; 1000])).unwrap();
    pair.host.cancel(stream);
    pair.host.cancel(stream);
    pair.settle();
    let cancels = pair.at_guest.iter().filter(|e| matches!(e, GuestEvent::Cancel { .. })).count();
    assert_eq!(cancels, 1);
    assert!(!pair.at_guest.iter().any(|event| matches!(event, GuestEvent::Data { .. })));
    assert_eq!(pair.guest.send_data(stream, data(vec![1])), Err(SendError::NoStream));
    assert_eq!(pair.host.send_eof(stream, Eof::default()), Err(SendError::NoStream));
    pair.guest.end(stream, done()).unwrap();
    pair.settle();
    assert_eq!(pair.host.open_streams(), 0);
}

/// All that a host has to say, as written.
fn all_output(host: &mut Host) -> Vec<u8> {
    let mut all = Vec::new();
    while !host.output().is_empty() {
        let some = host.output().to_vec();
        host.wrote(some.len());
        all.extend_from_slice(&some);
    }
    all
}

/// Every place at which a host can vanish within its first messages.
#[test]
fn resync_after_truncation_at_every_offset() {
    let mut first = Host::new([1; NONCE_BYTES], "first");
    let mut bytes = all_output(&mut first);
    // Frames by hand: this host never heard the hello.
    let mut greeted = Pair::open();
    greeted.host.open(request()).unwrap();
    let stream = greeted.host.open(request()).unwrap();
    greeted.host.send_data(stream, data(vec![0xff; 300])).unwrap();
    bytes.extend_from_slice(greeted.host.output());
    let interesting = (0..64).chain(RESYNC_ZEROS - 8..=bytes.len());
    for cut in interesting {
        let mut pair = Pair::new();
        pair.deliver(&bytes[..cut]);
        let stale = pair.guest.output().len();
        // Of what it said to the first host a part is already on its way.
        let part = pair.guest.output()[..stale / 2].to_vec();
        pair.guest.wrote(stale / 2);
        pair.host.input().extend_from_slice(&part);
        pair.settle();
        assert!(matches!(pair.at_host.as_slice(), [HostEvent::Hello { .. }]), "cut at {cut}");
        let before = pair.at_guest.len();
        let stream = pair.host.open(request()).unwrap();
        pair.settle();
        let event = GuestEvent::Request { stream, request: request() };
        assert_eq!(pair.at_guest[before..], [event], "cut at {cut}");
    }
}

#[test]
fn zeros_complete_a_frame_of_any_declared_length() {
    for length in [1_u32, 2, 1000, u32::try_from(MAX_FRAME).unwrap(), 0x0001_ffff, u32::MAX] {
        for header in 1..=4 {
            let mut pair = Pair::new();
            pair.settle();
            pair.at_host.clear();
            pair.deliver(&length.to_be_bytes()[..header]);
            pair.host = Host::new([3; NONCE_BYTES], "second");
            pair.settle();
            let opened = matches!(pair.at_host.as_slice(), [HostEvent::Hello { .. }]);
            assert!(opened, "length {length:#x}, {header} bytes of it: {:?}", pair.at_host);
        }
    }
}

/// The guest's driver tells of each connection, whatever the last one was cut off in.
#[test]
fn on_a_connection_of_its_own_an_opening_is_short() {
    let mut pair = Pair::open();
    for half in [&[][..], &[0], &[0, 1, 0xff, 0xff, 1, 2, 3]] {
        pair.deliver(half);
        pair.guest.lost();
        pair.host = Host::on_fresh_connection([3; NONCE_BYTES], "second");
        assert!(pair.host.output().len() < 128, "{}", pair.host.output().len());
        pair.at_host.clear();
        pair.settle();
        assert!(matches!(pair.at_host.as_slice(), [HostEvent::Hello { .. }]), "{half:?}");
    }
}

/// Nobody tells the guest of it: it is still in the last session, whose streams it
/// gives up.
#[test]
fn between_frames_an_opening_is_short() {
    let mut pair = Pair::open();
    let stream = pair.host.open(request()).unwrap();
    pair.settle();
    for _ in 0..2 {
        pair.host = Host::between_frames([4; NONCE_BYTES], "second");
        assert!(pair.host.output().len() < 128, "{}", pair.host.output().len());
        pair.at_host.clear();
        pair.at_guest.clear();
        pair.settle();
        assert!(matches!(pair.at_host.as_slice(), [HostEvent::Hello { .. }]), "{:?}", pair.at_host);
    }
    let again = pair.host.open(request()).unwrap();
    assert_eq!(again, stream, "numbers begin anew");
    pair.settle();
    assert!(
        matches!(pair.at_guest.last(), Some(GuestEvent::Request { .. })),
        "{:?}",
        pair.at_guest
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// All arrives, in order, under credit, in any chunking.
    #[test]
    fn everything_is_delivered_in_order(
        sizes in prop::collection::vec((0u32..4, any::<bool>(), 1usize..MAX_DATA), 1..60),
        chunks in prop::collection::vec(1usize..100_000, 1..20),
    ) {
        let mut pair = Pair::open();
        let streams: Vec<u32> = (0..4).map(|_| pair.host.open(request()).unwrap()).collect();
        let mut pending: Vec<(u32, bool, Bytes)> = sizes
            .iter()
            .enumerate()
            .map(|(at, (which, down, size))| {
                let byte = u8::try_from(at % 251).unwrap();
                (streams[*which as usize], *down, Bytes::from(vec![byte; *size]))
            })
            .collect();
        let mut expected: BTreeMap<(u32, bool), Vec<u8>> = BTreeMap::new();
        for (stream, down, bytes) in &pending {
            expected.entry((*stream, *down)).or_default().extend_from_slice(bytes);
        }
        let mut received: BTreeMap<(u32, bool), Vec<u8>> = BTreeMap::new();
        let mut chunks = chunks.into_iter().cycle();
        loop {
            // What is first in line of its stream goes as soon as it may.
            let mut blocked = Vec::new();
            let mut progress = false;
            pending.retain(|(stream, down, bytes)| {
                if blocked.contains(&(*stream, *down)) {
                    return true;
                }
                let data = Data { bytes: bytes.clone(), ..Data::default() };
                let sent = if *down {
                    pair.host.send_data(*stream, data)
                } else {
                    pair.guest.send_data(*stream, data)
                };
                if sent.is_err() {
                    blocked.push((*stream, *down));
                } else {
                    progress = true;
                }
                sent.is_err()
            });
            progress |= pair.step(chunks.next().unwrap());
            for event in pair.at_guest.drain(..) {
                match event {
                    GuestEvent::Data { stream, data } => {
                        pair.guest.consumed(stream, data_cost(data.bytes.len()));
                        received.entry((stream, true)).or_default().extend_from_slice(&data.bytes);
                    }
                    GuestEvent::Broken(error) => panic!("{error}"),
                    _ => {}
                }
            }
            for event in pair.at_host.drain(..) {
                if let HostEvent::Data { stream, data } = event {
                    pair.host.consumed(stream, data_cost(data.bytes.len()));
                    received.entry((stream, false)).or_default().extend_from_slice(&data.bytes);
                }
            }
            if !progress {
                break;
            }
        }
        prop_assert!(pending.is_empty(), "{} messages are stuck", pending.len());
        prop_assert_eq!(received, expected);
    }
}

#[test]
fn versions_that_are_too_far_apart_part() {
    use inn_guest_proto::wire;
    let mut pair = Pair::new();
    // A guest of a later major version, by its own hello.
    all_output(&mut pair.host);
    let mut answer = inn_guest_proto::MARKER.to_vec();
    answer.extend_from_slice(&NONCE);
    let hello = Hello { version: Some(wire::Version { major: 2, minor: 0 }), ..Hello::default() };
    let body = Some(wire::envelope::Body::Hello(hello));
    let envelope = wire::Envelope { stream: 0, body };
    let payload = envelope.to_payload();
    answer.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes());
    answer.extend_from_slice(&payload);
    pair.host.input().extend_from_slice(&answer);
    match pair.host.next_event() {
        Err(ProtocolError::Version { theirs, .. }) => assert_eq!(theirs.major, 2),
        other => panic!("{other:?}"),
    }
}
