//! Ends that are one minor version apart, with both state machines as they
//! are: only the version in a hello is made older or newer on its way.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

use inn_guest_proto::wire::envelope::Body;
use inn_guest_proto::wire::{
    Channel, Data, Done, Envelope, Hello, Request, Version as WireVersion, end, request,
};
use inn_guest_proto::{
    Guest, GuestEvent, Host, HostEvent, MARKER, NONCE_BYTES, ProtocolError, RESYNC_ZEROS, VERSION,
    Version, capability,
};
use prost::Message;

const NONCE: [u8; NONCE_BYTES] = [5; NONCE_BYTES];

const OLDER: Version = Version { major: VERSION.major, minor: VERSION.minor - 1 };
const NEWER: Version = Version { major: VERSION.major, minor: VERSION.minor + 1 };

fn frame(stream: u32, body: Body) -> Vec<u8> {
    let payload = Envelope { stream, body: Some(body) }.to_payload();
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend(payload);
    bytes
}

/// An end's first bytes, with the hello of another version. What the version
/// before did not know in a hello goes away with it.
fn aged(opening: &[u8], version: Version) -> Vec<u8> {
    let start = opening.windows(MARKER.len()).position(|at| at == MARKER).unwrap();
    let start = start + MARKER.len() + NONCE_BYTES;
    let (head, first) = opening.split_at(start);
    let length = u32::from_be_bytes(*first.first_chunk().unwrap()) as usize;
    assert_eq!(first.len(), 4 + length, "only a hello");
    let envelope = Envelope::decode(&first[4..3 + length]).unwrap();
    let Some(Body::Hello(mut hello)) = envelope.body else { panic!("{envelope:?}") };
    hello.version = Some(WireVersion { major: version.major, minor: version.minor });
    if version == OLDER {
        hello = Hello {
            version: hello.version,
            agent: hello.agent,
            boot_id: hello.boot_id,
            ..Hello::default()
        };
    }
    [head.to_vec(), frame(0, Body::Hello(hello))].concat()
}

/// A session of ends whose hellos name these versions; what each understood.
fn meet(host_says: Version, guest_says: Version) -> (Host, Guest, Vec<HostEvent>, Vec<GuestEvent>) {
    let mut host = Host::new(NONCE, "host");
    let mut guest = Guest::default();
    let (mut at_host, mut at_guest) = (Vec::new(), Vec::new());
    let mut opening = Vec::new();
    while !host.output().is_empty() {
        let length = host.output().len();
        opening.extend_from_slice(host.output());
        host.wrote(length);
    }
    let opening = aged(&opening, host_says);
    assert!(opening.starts_with(&[0; RESYNC_ZEROS]));
    guest.input().extend_from_slice(&opening);
    // Its hello is taken from the wire before it reads the host's.
    let Some(GuestEvent::Opened(nonce)) = guest.next_event() else { panic!("no opening") };
    let hello = Hello {
        agent: "guest".into(),
        boot_id: "boot".into(),
        os: "1.1".into(),
        capabilities: vec![capability::FILES_2.into()],
        ..Hello::default()
    };
    guest.greet(&nonce, hello).unwrap();
    let answer = aged(guest.output(), guest_says);
    let written = guest.output().len();
    guest.wrote(written);
    host.input().extend_from_slice(&answer);
    at_guest.extend(std::iter::from_fn(|| guest.next_event()));
    while let Ok(Some(event)) = host.next_event() {
        at_host.push(event);
    }
    (host, guest, at_host, at_guest)
}

fn carry(host: &mut Host, guest: &mut Guest) -> (Vec<HostEvent>, Vec<GuestEvent>) {
    let (mut at_host, mut at_guest) = (Vec::new(), Vec::new());
    loop {
        let (down, up) = (host.output().to_vec(), guest.output().to_vec());
        if down.is_empty() && up.is_empty() {
            return (at_host, at_guest);
        }
        host.wrote(down.len());
        guest.wrote(up.len());
        guest.input().extend_from_slice(&down);
        host.input().extend_from_slice(&up);
        at_guest.extend(std::iter::from_fn(|| guest.next_event()));
        at_host.extend(std::iter::from_fn(|| host.next_event().unwrap()));
    }
}

#[test]
fn neighbours_speak_the_older_version() {
    for (host_says, guest_says, expected_at_host, expected_at_guest) in [
        (VERSION, OLDER, OLDER, VERSION),
        (OLDER, VERSION, VERSION, OLDER),
        (VERSION, NEWER, VERSION, VERSION),
        (NEWER, VERSION, VERSION, VERSION),
    ] {
        let (mut host, mut guest, at_host, at_guest) = meet(host_says, guest_says);
        // Each end sees the other's version; the aged one sees its own age
        // only through the other.
        let [HostEvent::Hello { version, hello }] = at_host.as_slice() else {
            panic!("{at_host:?}")
        };
        assert_eq!(*version, expected_at_host);
        assert_eq!(hello.capabilities.is_empty(), guest_says == OLDER);
        let [GuestEvent::Hello { version, .. }] = at_guest.as_slice() else {
            panic!("{at_guest:?}")
        };
        assert_eq!(*version, expected_at_guest);

        let list = Request { kind: Some(request::Kind::ListExecs(Default::default())) };
        let stream = host.open(list).unwrap();
        let (_, at_guest) = carry(&mut host, &mut guest);
        assert!(matches!(at_guest.as_slice(), [GuestEvent::Request { .. }]), "{at_guest:?}");
        guest.end(stream, end::Outcome::Done(Done {})).unwrap();
        let (at_host, _) = carry(&mut host, &mut guest);
        assert!(matches!(at_host.as_slice(), [HostEvent::End { .. }]), "{at_host:?}");
    }
}

#[test]
fn two_minor_versions_apart_is_too_far() {
    let far = Version { minor: VERSION.minor + 2, ..VERSION };
    let (_, _, at_host, at_guest) = meet(far, VERSION);
    assert!(matches!(at_host.as_slice(), [HostEvent::Hello { .. }]));
    assert!(
        matches!(at_guest.as_slice(), [GuestEvent::Broken(ProtocolError::Version { .. })]),
        "{at_guest:?}"
    );
    let (_, _, at_host, _) = meet(VERSION, far);
    assert!(at_host.is_empty(), "{at_host:?}");
}

/// A request of a kind that this end does not know arrives as one without a
/// kind: the guest's driver answers it UNSUPPORTED.
#[test]
fn a_request_of_a_later_version_is_one_without_a_kind() {
    let (_, mut guest, _, _) = meet(NEWER, VERSION);
    // Request's field 200, a message of three bytes.
    let later = [0xc2, 0x0c, 0x03, 1, 2, 3];
    let request = [&[0x2a, u8::try_from(later.len()).unwrap()], &later[..]].concat();
    // Envelope: stream 1, then field 5, the request.
    let payload = [&[0x08, 0x01], &request[..], &[inn_guest_proto::SEAL]].concat();
    guest.input().extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes());
    guest.input().extend_from_slice(&payload);
    let expected = GuestEvent::Request { stream: 1, request: Request { kind: None } };
    assert_eq!(guest.next_event(), Some(expected));
}

/// What a newer peer adds beside what is known is passed over.
#[test]
fn an_unknown_body_is_ignored() {
    let (mut host, mut guest, _, _) = meet(VERSION, NEWER);
    // Envelope: stream 0, then field 60, empty.
    let payload = [0x08, 0x00, 0xe2, 0x03, 0x00, inn_guest_proto::SEAL];
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend_from_slice(&payload);
    host.input().extend_from_slice(&bytes);
    assert_eq!(host.next_event(), Ok(None));
    guest.input().extend_from_slice(&bytes);
    assert_eq!(guest.next_event(), None);
    host.ping(1).unwrap();
    let (at_host, _) = carry(&mut host, &mut guest);
    assert_eq!(at_host, [HostEvent::Pong { token: 1 }]);
}

/// A channel that came later is used only where it was asked for, so that a
/// peer that does not know it never sees it; one that does breaks the session.
#[test]
fn a_channel_that_was_not_asked_for_breaks_the_session() {
    let (mut host, mut guest, _, _) = meet(VERSION, NEWER);
    let list = Request { kind: Some(request::Kind::ListExecs(Default::default())) };
    let stream = host.open(list).unwrap();
    carry(&mut host, &mut guest);
    let channel = Channel::InputTaken as i32 + 1;
    let later = Data { channel, bytes: "later".into(), offset: 0 };
    host.input().extend_from_slice(&frame(stream, Body::Data(later)));
    assert_eq!(host.next_event(), Err(ProtocolError::UnknownChannel { stream, channel }));
}
