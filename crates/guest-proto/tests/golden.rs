//! The wire, frozen per generation: what a peer of that age sent is still
//! understood, and what the current one sends has not changed unnoticed.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

use std::fmt::Write as _;
use std::path::PathBuf;

use inn_guest_proto::wire::{
    Channel, Configure, Control, Data, Eof, Exec, ExecEnd, ExecStarted, Failure, FailureKind,
    FileInfo, FileKind, Hello, Mount, Network, Reply, Request, Shutdown, ShutdownKind, Transferred,
    TtySize, WriteFile, control, end, exec_end, reply, request,
};
use inn_guest_proto::{Guest, GuestEvent, Host, HostEvent, NONCE_BYTES, RESYNC_ZEROS, VERSION};

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

    let ask = |kind| Request { kind: Some(kind) };
    let setup = Configure {
        hostname: "vm".into(),
        machine_id: "0123456789abcdef0123456789abcdef".into(),
        network: Some(Network {
            address: vec![10, 0, 2, 15].into(),
            prefix: 24,
            gateway: vec![10, 0, 2, 2].into(),
            dns: vec![vec![10, 0, 2, 3].into()],
        }),
        clock_unix_ns: 1_700_000_000_123_456_789,
        mounts: vec![Mount {
            serial: "inn-persist".into(),
            target: "/persist".into(),
            read_only: true,
        }],
        stable_addresses: true,
    };
    let configure = host.open(ask(request::Kind::Configure(setup))).unwrap();
    let exec = Exec {
        id: b"12345678".to_vec().into(),
        argv: vec!["sh".into(), "-c".into(), "true".into()],
        env: vec!["K=V".into()],
        cwd: "/work".into(),
        make_cwd: true,
        user: "web:adm".into(),
        tty: Some(TtySize { rows: 24, cols: 80 }),
        stdin: true,
        timeout_ms: 30_000,
        output_limit: Some(1 << 20),
        retain_bytes: Some(0),
        ..Exec::default()
    };
    let exec = host.open(ask(request::Kind::Exec(exec))).unwrap();
    let file = WriteFile {
        path: "/a".into(),
        mode: Some(0o644),
        owner: None,
        offset: Some(0),
        make_parents: true,
        ..WriteFile::default()
    };
    let file = host.open(ask(request::Kind::WriteFile(file))).unwrap();
    let shutdown = Shutdown { kind: ShutdownKind::Reboot.into(), grace_ms: 5000 };
    let shutdown = host.open(ask(request::Kind::Shutdown(shutdown))).unwrap();
    host.send_data(exec, Data { bytes: "stdin".into(), ..Data::default() }).unwrap();
    host.send_eof(exec, Eof::default()).unwrap();
    let resize = control::Action::Resize(TtySize { rows: 50, cols: 132 });
    host.control(exec, Control { action: Some(resize) }).unwrap();
    host.control(exec, Control { action: Some(control::Action::Signal(15)) }).unwrap();
    let eof =
        Eof { channel: Channel::Main.into(), xxh3_128: vec![0xab; 16].into(), ..Eof::default() };
    host.send_eof(file, eof).unwrap();
    exchange(&mut host, &mut guest);

    let started = reply::Kind::ExecStarted(ExecStarted { pid: 42 });
    guest.reply(exec, Reply { kind: Some(started) }).unwrap();
    let output = Data { channel: Channel::Stderr.into(), bytes: "oops".into(), offset: 300 };
    guest.send_data(exec, output).unwrap();
    guest.consumed(exec, inn_guest_proto::WINDOW);
    let ended = ExecEnd {
        status: Some(exec_end::Status::Signal(15)),
        timed_out: true,
        truncated: 3,
        output: 304,
        took_ns: 5_000_000,
    };
    guest.end(exec, end::Outcome::ExecEnd(ended)).unwrap();
    let sum = Transferred { bytes: 9, xxh3_128: vec![0xcd; 16].into(), ..Transferred::default() };
    guest.end(file, end::Outcome::Transferred(sum)).unwrap();
    let failure =
        Failure { what: "be configured".into(), kind: FailureKind::Denied.into(), errno: 1 };
    guest.end(configure, end::Outcome::Failure(failure)).unwrap();
    let info = FileInfo {
        kind: FileKind::Symlink.into(),
        size: 1,
        mode: 0o777,
        uid: 2,
        gid: 3,
        mtime_s: -4,
        mtime_ns: 5,
        target: "/t".into(),
        ..FileInfo::default()
    };
    guest.end(shutdown, end::Outcome::FileInfo(info)).unwrap();
    exchange(&mut host, &mut guest);
    // A stream that nobody waits for.
    let cancelled = host.open(ask(request::Kind::ListExecs(Default::default()))).unwrap();
    host.cancel(cancelled);
    exchange(&mut host, &mut guest);
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
        ..Hello::default()
    }
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

#[test]
fn every_kept_generation_is_understood() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut seen = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let bytes = from_hex(&std::fs::read_to_string(&path).unwrap());
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        seen += 1;
        if name.ends_with("-host.hex") {
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
            assert_eq!(requests, 5, "{name}");
        } else {
            let mut host = Host::new(NONCE, "inn");
            host.input().extend_from_slice(&bytes);
            let first = host.next_event().unwrap();
            let Some(HostEvent::Hello { hello, .. }) = first else { panic!("{name}: {first:?}") };
            assert_eq!((hello.boot_id.as_str(), hello.uptime_ns), ("boot", 1), "{name}");
        }
    }
    assert!(seen >= 2, "the golden files are gone");
}
