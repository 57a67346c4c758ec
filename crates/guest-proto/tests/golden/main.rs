//! The wire, frozen per generation: what a peer of that age sent is still
//! understood, and what the current one sends has not changed unnoticed.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

mod v1_0;
mod v1_1;
mod v1_2;
mod v1_3;
mod v1_4;

use std::fmt::Write as _;
use std::path::PathBuf;

use inn_guest_proto::wire::{Hello, Request, request};
use inn_guest_proto::{
    Guest, GuestEvent, Host, HostEvent, NONCE_BYTES, ProtocolError, RESYNC_ZEROS, VERSION, Version,
    agree,
};

const NONCE: [u8; NONCE_BYTES] = *b"golden nonce 016";

/// Both directions of one session in which every kind of message occurs.
fn record() -> (Vec<u8>, Vec<u8>) {
    let mut host = Host::new(NONCE, "inn golden");
    let mut guest = Guest::default();
    let (mut to_guest, mut to_host) = (Vec::new(), Vec::new());
    let mut exchange = |host: &mut Host, guest: &mut Guest| {
        carry_to_guest(host, guest, &mut to_guest);
        carry_to_host(guest, host, &mut to_host);
        // Credit and pongs are answers to what has just arrived.
        carry_to_guest(host, guest, &mut to_guest);
    };
    exchange(&mut host, &mut guest);
    host.ping(7).unwrap();
    exchange(&mut host, &mut guest);

    v1_0::exchange_all(&mut host, &mut guest, &mut exchange);
    v1_1::exchange_all(&mut host, &mut guest, &mut exchange);
    v1_2::exchange_all(&mut host, &mut guest, &mut exchange);
    v1_3::exchange_all(&mut host, &mut guest, &mut exchange);
    v1_4::exchange_all(&mut host, &mut guest, &mut exchange);
    (to_guest, to_host)
}

fn carry_to_guest(host: &mut Host, guest: &mut Guest, record: &mut Vec<u8>) {
    while !host.output().is_empty() {
        let bytes = host.output().to_vec();
        host.wrote(bytes.len());
        guest.input().extend_from_slice(&bytes);
        record.extend_from_slice(&bytes);
        while let Some(event) = guest.next_event() {
            match event {
                GuestEvent::Opened(nonce) => guest.greet(&nonce, guest_hello()).unwrap(),
                GuestEvent::Broken(error) => panic!("{error}"),
                _ => {}
            }
        }
    }
}

fn carry_to_host(guest: &mut Guest, host: &mut Host, record: &mut Vec<u8>) {
    while !guest.output().is_empty() {
        let bytes = guest.output().to_vec();
        guest.wrote(bytes.len());
        host.input().extend_from_slice(&bytes);
        record.extend_from_slice(&bytes);
        while host.next_event().unwrap().is_some() {}
    }
}

fn guest_hello() -> Hello {
    Hello {
        agent: "inn-guest golden".into(),
        capabilities: vec!["later".into()],
        boot_id: "boot".into(),
        kernel: "6.1".into(),
        is_init: true,
        configured: true,
        uptime_ns: 1,
        os: "Golden 1".into(),
        hostname: "golden".into(),
        frozen: true,
        ..Hello::default()
    }
}

fn ask(kind: request::Kind) -> Request {
    Request { kind: Some(kind) }
}

fn golden(version: &str, side: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    dir.join(format!("{version}-{side}.hex"))
}

/// 32 bytes a line; the zeros of the opening are counted, not shown.
fn to_hex(bytes: &[u8]) -> String {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    let mut text = format!("zeros {zeros}\n");
    for line in bytes[zeros..].chunks(32) {
        for byte in line {
            write!(text, "{byte:02x}").unwrap();
        }
        text.push('\n');
    }
    text
}

fn from_hex(text: &str) -> Vec<u8> {
    let mut lines = text.lines();
    let zeros = lines.next().unwrap().strip_prefix("zeros ").unwrap().parse().unwrap();
    let mut bytes = vec![0; zeros];
    for line in lines {
        let digits = line.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
        bytes.extend(digits.map(|pair| u8::from_str_radix(pair, 16).unwrap()));
    }
    bytes
}

#[test]
fn the_current_generation_is_sent_byte_for_byte() {
    let (to_guest, to_host) = record();
    for (side, bytes) in [("host", to_guest), ("guest", to_host)] {
        let path = golden(&VERSION.to_string(), side);
        if !path.exists() && std::env::var_os("BLESS").is_some() {
            std::fs::write(&path, to_hex(&bytes)).unwrap();
        }
        let kept = std::fs::read_to_string(&path).unwrap();
        assert!(to_hex(&bytes) == kept, "the {side}'s bytes are not those of {}", path.display());
    }
}

/// More than one minor version before the current one.
fn too_old(version: &str) -> bool {
    let (major, minor) = version.split_once('.').unwrap();
    let version = Version { major: major.parse().unwrap(), minor: minor.parse().unwrap() };
    agree(VERSION, version).is_none()
}

/// What is still understood of those: which version they are.
fn refused(name: &str, bytes: &[u8]) {
    let error = if name.ends_with("-host.hex") {
        let mut guest = Guest::default();
        guest.input().extend_from_slice(bytes);
        let mut events = std::iter::from_fn(|| guest.next_event());
        events.find_map(|event| match event {
            GuestEvent::Broken(error) => Some(error),
            _ => None,
        })
    } else {
        let mut host = Host::new(NONCE, "inn");
        host.input().extend_from_slice(bytes);
        host.next_event().err()
    };
    assert!(matches!(error, Some(ProtocolError::Version { .. })), "{name}: {error:?}");
}

#[test]
fn every_kept_generation_is_understood() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut seen = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "hex") {
            continue;
        }
        let bytes = from_hex(&std::fs::read_to_string(&path).unwrap());
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        seen += 1;
        let version = name.split_once('-').unwrap().0;
        if too_old(version) {
            refused(&name, &bytes);
        } else if name.ends_with("-host.hex") {
            assert!(bytes.starts_with(&[0; RESYNC_ZEROS]));
            let mut guest = Guest::default();
            guest.input().extend_from_slice(&bytes);
            let mut requests = 0;
            while let Some(event) = guest.next_event() {
                match event {
                    GuestEvent::Broken(error) => panic!("{name}: {error}"),
                    GuestEvent::Request { request, .. } => {
                        assert!(request.kind.is_some(), "{name}");
                        requests += 1;
                    }
                    _ => {}
                }
            }
            // Every minor version adds to those before.
            let expected = match version {
                "1.2" => v1_0::REQUESTS + v1_1::REQUESTS + v1_2::REQUESTS,
                "1.3" => v1_0::REQUESTS + v1_1::REQUESTS + v1_2::REQUESTS + v1_3::REQUESTS,
                "1.4" => {
                    let before = v1_0::REQUESTS + v1_1::REQUESTS + v1_2::REQUESTS;
                    before + v1_3::REQUESTS + v1_4::REQUESTS
                }
                other => panic!("how many requests are in {other}?"),
            };
            assert_eq!(requests, expected, "{name}");
        } else {
            let mut host = Host::new(NONCE, "inn");
            host.input().extend_from_slice(&bytes);
            let first = host.next_event().unwrap();
            let Some(HostEvent::Hello { hello, .. }) = first else { panic!("{name}: {first:?}") };
            assert_eq!((hello.boot_id.as_str(), hello.uptime_ns), ("boot", 1), "{name}");
            assert!(hello.frozen && !hello.os.is_empty(), "{name}");
            // Its session goes on under the older version of the two.
            let stream = host.open(ask(request::Kind::ListExecs(Default::default()))).unwrap();
            assert_eq!(stream, 1, "{name}");
        }
    }
    assert!(seen >= 6, "golden files are gone");
}
