//! What a guest tells of itself is bounded, clipped and made to fit together,
//! and its silence is noticed.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use inn_guest_proto::wire::{
    self, Address, Channel, Data, DirEntry, DirPage, Done, ExecEnd, ExecNote, ExecStarted,
    FileChange, FileChangeKind, FileChanges, Interface, MountUse, Pressure, Telemetry, end,
    exec_end, exec_note, reply, request,
};
use inn_node::guest::{
    ExecEvent, ExecSpec, ExecStatus, GuestError, Health, MAX_ADDRESSES, MAX_INTERFACES, MAX_MOUNTS,
    RestartPolicy, Supervision,
};
use tokio::time::Instant;

use crate::guest::{id, patiently};
use crate::scripted::Scripted;

fn main(bytes: impl Into<bytes::Bytes>) -> Data {
    Data { bytes: bytes.into(), ..Data::default() }
}

#[tokio::test]
async fn a_reading_that_makes_no_sense_is_made_to() {
    let (session, mut guest) = Scripted::open().await;
    let pressure = Pressure { some_10: u32::MAX, some_60: 7, full_10: 0, full_60: 10_001 };
    let ip = |bytes: &[u8], prefix| Address { ip: bytes::Bytes::copy_from_slice(bytes), prefix };
    let told = Telemetry {
        unix_ms: u64::MAX,
        uptime_ms: u64::MAX,
        cpus: u32::MAX,
        cpu_permille: 5000,
        memory_total: 100,
        memory_available: 101,
        memory_free: u64::MAX,
        swap_total: 0,
        swap_used: 1,
        mounts: vec![
            MountUse {
                target: "/x\x1b[2J".repeat(200),
                total: 10,
                used: 11,
                available: 12,
                inodes_total: 1,
                inodes_free: 2,
                ..MountUse::default()
            };
            MAX_MOUNTS + 1
        ],
        interfaces: vec![
            Interface {
                name: "eth0".into(),
                mac: vec![1; 7].into(),
                addresses: [
                    ip(&[10, 0, 0, 1], 33),
                    ip(&[10, 0, 0], 8),
                    ip(&[0; 16], 129),
                    ip(&[], 0),
                ]
                .into_iter()
                .chain(vec![ip(&[10, 0, 0, 2], 32); MAX_ADDRESSES + 1])
                .collect(),
                ..Interface::default()
            };
            MAX_INTERFACES + 1
        ],
        load: vec![1, 2, 3, 4],
        os: "o".repeat(10_000),
        cpu_pressure: Some(pressure),
        memory_pressure: Some(pressure),
        io_pressure: Some(pressure),
        ..Telemetry::default()
    };
    let half = Telemetry { cpu_pressure: Some(pressure), load: vec![5], ..Telemetry::default() };
    let asked = session.clone();
    let asking = tokio::spawn(async move { (asked.telemetry().await, asked.telemetry().await) });
    guest.answer(end::Outcome::Telemetry(told)).await;
    guest.answer(end::Outcome::Telemetry(half)).await;
    let (it, half) = patiently(asking).await.unwrap();
    let (it, half) = (it.unwrap(), half.unwrap());

    assert_eq!(it.clock, Duration::from_millis(253_402_300_799_999));
    assert_eq!((it.cpus, it.cpu_permille), (8192, 1000));
    assert_eq!((it.memory_available, it.memory_free, it.swap_used), (100, 100, 0));
    assert_eq!((it.mounts.len(), it.interfaces.len()), (MAX_MOUNTS, MAX_INTERFACES));
    let mount = &it.mounts[0];
    assert_eq!((mount.used, mount.available, mount.inodes_free), (10, 10, 1));
    assert!(mount.target.len() == 300 && !mount.target.contains('\x1b'));
    let interface = &it.interfaces[0];
    assert_eq!(interface.mac, None);
    let good = (IpAddr::from(Ipv4Addr::new(10, 0, 0, 2)), 32);
    assert_eq!(interface.addresses, vec![good; MAX_ADDRESSES]);
    assert_eq!(it.load, [1, 2, 3]);
    assert_eq!(it.os.len(), 300);
    let [cpu, ..] = it.pressure.unwrap();
    assert_eq!((cpu.some_10, cpu.some_60, cpu.full_60), (10_000, 7, 10_000));
    assert_eq!((half.pressure, half.load), (None, [5, 0, 0]));
}

/// By a clock that runs as fast as it can: 100 readings sent at once are
/// taken at twice the pace that was asked for, and no faster.
#[tokio::test(start_paused = true)]
async fn a_guest_that_floods_readings_is_held_up() {
    let (session, mut guest) = Scripted::open().await;
    let every = Duration::from_secs(4);
    let mut watch = session.watch_telemetry(every).await.unwrap();
    let (stream, kind) = guest.request().await;
    assert_eq!(kind, request::Kind::WatchTelemetry(wire::WatchTelemetry { interval_ms: 4000 }));
    for processes in 0..100 {
        let reading = Telemetry { processes, ..Telemetry::default() };
        guest.send(stream, main(reading.to_bytes())).await;
    }
    guest.end(stream, end::Outcome::Done(Done {})).await;
    let start = Instant::now();
    for processes in 0..100 {
        assert_eq!(watch.next().await.unwrap().unwrap().processes, processes);
    }
    assert!(start.elapsed() >= every / 2 * 99, "{:?}", start.elapsed());
    assert_eq!(watch.next().await.unwrap(), None);
    assert_eq!(watch.next().await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn silence_is_told_and_then_ends_the_session() {
    let (session, mut guest) = Scripted::open().await;
    let start = Instant::now();
    let mut health = session.health();
    assert_eq!(*health.borrow_and_update(), Health::Good);
    health.changed().await.unwrap();
    let Health::Silent { since } = *health.borrow_and_update() else { panic!("still good") };
    assert!(since <= start + Duration::from_secs(1));
    // A ping after 15 s, and 10 s in which nothing answered it.
    assert_eq!(start.elapsed().as_secs(), 25);
    assert!(!session.is_closed());

    // Whatever the guest says, it lives.
    let asked = session.clone();
    let asking = tokio::spawn(async move { asked.stat("/", true).await });
    guest.answer(end::Outcome::FileInfo(wire::FileInfo::default())).await;
    asking.await.unwrap().unwrap();
    health.changed().await.unwrap();
    assert_eq!(*health.borrow_and_update(), Health::Good);

    let again = Instant::now();
    health.changed().await.unwrap();
    assert!(matches!(*health.borrow_and_update(), Health::Silent { .. }));
    let error = session.closed().await;
    assert!(matches!(error, GuestError::Timeout { .. }), "{error:?}");
    assert_eq!(again.elapsed().as_secs(), 75);
    assert!(health.changed().await.is_err(), "nobody tells any more");
}

#[tokio::test]
async fn the_runs_of_a_supervised_exec_are_told() {
    let (session, mut guest) = Scripted::open().await;
    let supervision = Supervision {
        policy: RestartPolicy::OnFailure,
        min_delay: Duration::from_millis(100),
        max_delay: Duration::from_secs(60),
    };
    let spec = ExecSpec {
        command_line: Some("exit 1".to_owned()),
        supervision: Some(supervision),
        ..ExecSpec::new(id(1), vec![])
    };
    let mut exec = session.exec(spec).await.unwrap();
    let (stream, kind) = guest.request().await;
    let request::Kind::Exec(request) = kind else { panic!("{kind:?}") };
    assert!(request.notes && request.command_line == "exit 1" && request.argv.is_empty());
    let expected = wire::Supervision {
        policy: wire::RestartPolicy::OnFailure.into(),
        min_delay_ms: 100,
        max_delay_ms: 60_000,
    };
    assert_eq!(request.supervision, Some(expected));
    let note = |kind, restarts, next_in_ms| Data {
        channel: Channel::Notes.into(),
        bytes: ExecNote { kind, restarts, next_in_ms }.to_bytes(),
        offset: 0,
    };
    let ended = ExecEnd { status: Some(exec_end::Status::Code(1)), ..ExecEnd::default() };
    guest
        .reply(stream, reply::Kind::ExecStarted(ExecStarted { pid: 5, ..ExecStarted::default() }))
        .await;
    guest.send(stream, note(Some(exec_note::Kind::RunEnded(ended)), 0, 100)).await;
    // One of a kind that is not known here.
    guest.send(stream, note(None, 9, 9)).await;
    let started = exec_note::Kind::RunStarted(ExecStarted { pid: 6, ..ExecStarted::default() });
    guest.send(stream, note(Some(started), 1, 0)).await;
    guest.end(stream, end::Outcome::ExecEnd(ended)).await;
    let mut events = Vec::new();
    while let Some(event) = patiently(exec.next()).await.unwrap() {
        events.push(event);
    }
    let [
        ExecEvent::Started { pid: 5, .. },
        ExecEvent::RunEnded { end, restarts: 0, next_in },
        ExecEvent::RunStarted { pid: 6, restarts: 1 },
        ExecEvent::Exited(_),
    ] = events.as_slice()
    else {
        panic!("{events:?}")
    };
    assert_eq!((end.status, next_in.as_millis()), (ExecStatus::Code(1), 100));
}

#[tokio::test]
async fn changes_without_an_absolute_path_are_an_overflow() {
    let (session, mut guest) = Scripted::open().await;
    let watching = tokio::spawn(async move { session.watch_files("/w", true).await });
    let (stream, _) = guest.request().await;
    guest.reply(stream, reply::Kind::FileInfo(wire::FileInfo::default())).await;
    let mut watch = patiently(watching).await.unwrap().unwrap();
    let change = |path: &str, from: &str| FileChange {
        kind: FileChangeKind::Renamed.into(),
        path: path.to_owned(),
        from: from.to_owned(),
        directory: false,
    };
    for (changes, good, overflow) in [
        (vec![change("/w/a", "/w/b"), change("/w/a", "")], 2, false),
        (vec![change("a", ""), change("/w/a", "")], 1, true),
        (vec![change("/w/a", "b")], 0, true),
        (vec![change(&"/x".repeat(3000), "")], 0, true),
    ] {
        let told = FileChanges { changes, overflow: false };
        guest.send(stream, main(told.to_bytes())).await;
        let it = patiently(watch.next()).await.unwrap().unwrap();
        assert_eq!((it.changes.len(), it.overflow), (good, overflow), "{it:?}");
    }
    guest.send(stream, main("\u{1}no message")).await;
    let broken = patiently(watch.next()).await;
    assert!(matches!(broken, Err(GuestError::Protocol(_))), "{broken:?}");
    guest.end(stream, end::Outcome::Done(Done {})).await;
    assert_eq!(patiently(watch.next()).await.unwrap(), None);
}

#[tokio::test]
async fn a_listing_is_bounded_by_what_it_takes_here() {
    let (session, mut guest) = Scripted::open().await;
    let listing = |session: inn_node::guest::GuestSession| {
        tokio::spawn(async move { session.list("/d").await })
    };
    for name in ["", ".", "..", "a/b", "a\0b", &"x".repeat(256)] {
        let listed = listing(session.clone());
        let (stream, _) = guest.request().await;
        let entry = DirEntry { name: name.to_owned(), info: None };
        guest.send(stream, main(DirPage { entries: vec![entry] }.to_bytes())).await;
        let result = patiently(listed).await.unwrap();
        assert!(matches!(result, Err(GuestError::Protocol(_))), "{name}: {result:?}");
        guest.event().await;
        guest.end(stream, end::Outcome::Done(Done {})).await;
    }
    // Entries with targets as long as they may be, without end.
    let listed = listing(session.clone());
    let (stream, _) = guest.request().await;
    let info = wire::FileInfo { target: "t".repeat(4096), ..wire::FileInfo::default() };
    let entry = DirEntry { name: "n".repeat(255), info: Some(info) };
    let page = DirPage { entries: vec![entry; 14] }.to_bytes();
    let flood = async {
        loop {
            if guest.credit(stream) >= 64 << 10 {
                guest.send(stream, main(page.clone())).await;
            } else if matches!(guest.any_event().await, inn_guest_proto::GuestEvent::Cancel { .. })
            {
                return;
            }
        }
    };
    patiently(flood).await;
    let result = patiently(listed).await.unwrap();
    assert!(matches!(result, Err(GuestError::TooLarge { .. })), "{result:?}");
}
