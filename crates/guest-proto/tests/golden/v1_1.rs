//! What 1.1 brought.

use inn_guest_proto::wire::{
    Address, ApplyNetwork, Attach, Channel, ConfirmNetwork, Data, DiskGrown, Done, DropUpload, Eof,
    Exec, ExecEnd, ExecList, ExecNote, ExecStarted, ExecSummary, Failure, FailureKind, FileChange,
    FileChangeKind, FileChanges, FileInfo, FileVersion, Freeze, Frozen, GetSshKeys, GetTelemetry,
    GetUpload, GrowDisk, Interface, InterfaceSetup, Mount, MountDisk, MountUse, NetworkApplied,
    NetworkSetup, Pressure, ReadFile, Rename, Reply, RestartPolicy, Route, SetAttributes, SetClock,
    SetHostname, SetPassword, SetSshKeys, SshKeys, Supervision, Symlink, Telemetry, Thaw,
    Timestamp, Transferred, Unmount, UploadState, WatchFiles, WatchTelemetry, WriteFile, end,
    exec_end, exec_note, reply, request,
};
use inn_guest_proto::{Guest, Host};

use crate::ask;

pub(crate) const REQUESTS: usize = 25;

pub(crate) fn exchange_all(
    host: &mut Host,
    guest: &mut Guest,
    exchange: &mut impl FnMut(&mut Host, &mut Guest),
) {
    execs(host, guest, exchange);
    files(host, guest, exchange);
    telemetry(host, guest, exchange);
    machine(host, guest, exchange);
}

fn done() -> end::Outcome {
    end::Outcome::Done(Done {})
}

fn data(channel: Channel, bytes: impl Into<bytes::Bytes>, offset: u64) -> Data {
    Data { channel: channel.into(), bytes: bytes.into(), offset }
}

fn execs(host: &mut Host, guest: &mut Guest, exchange: &mut impl FnMut(&mut Host, &mut Guest)) {
    let exec = Exec {
        id: b"supervis".to_vec().into(),
        command_line: "exit 1".into(),
        supervision: Some(Supervision {
            policy: RestartPolicy::OnFailure.into(),
            min_delay_ms: 100,
            max_delay_ms: 60_000,
        }),
        notes: true,
        stable_addresses: true,
        retain_bytes: Some(1 << 20),
        ..Exec::default()
    };
    let exec = host.open(ask(request::Kind::Exec(exec))).unwrap();
    let attach = Attach { id: b"supervis".to_vec().into(), offset: 1 << 33, notes: true };
    let attach = host.open(ask(request::Kind::Attach(attach))).unwrap();
    let list = host.open(ask(request::Kind::ListExecs(Default::default()))).unwrap();
    exchange(host, guest);

    let ended =
        ExecEnd { status: Some(exec_end::Status::Code(1)), took_ns: 7, ..ExecEnd::default() };
    let note =
        ExecNote { kind: Some(exec_note::Kind::RunEnded(ended)), restarts: 0, next_in_ms: 100 };
    guest.send_data(exec, data(Channel::Notes, note.to_bytes(), 0)).unwrap();
    let started = exec_note::Kind::RunStarted(ExecStarted { pid: 43, ..ExecStarted::default() });
    let note = ExecNote { kind: Some(started), restarts: 1, next_in_ms: 0 };
    guest.send_data(exec, data(Channel::Notes, note.to_bytes(), 0)).unwrap();
    guest.end(exec, end::Outcome::ExecEnd(ended)).unwrap();
    let failure = Failure { what: "attach".into(), kind: FailureKind::Changed.into(), errno: 0 };
    guest.end(attach, end::Outcome::Failure(failure)).unwrap();
    let summary = ExecSummary {
        id: b"supervis".to_vec().into(),
        pid: 43,
        argv: vec!["exit 1".into()],
        retained: true,
        output_start: 1,
        output_end: 2,
        ended: None,
        started_unix_ms: 1_700_000_000_123,
        user: "web".into(),
        tty: true,
        stdin_open: true,
        restarts: 1,
        last_run: Some(ended),
    };
    guest.end(list, end::Outcome::ExecList(ExecList { execs: vec![summary] })).unwrap();
    exchange(host, guest);
}

fn files(host: &mut Host, guest: &mut Guest, exchange: &mut impl FnMut(&mut Host, &mut Guest)) {
    let mtime = Timestamp { s: -1, ns: 999_999_999 };
    let read = ReadFile {
        path: "/sparse".into(),
        offset: 65_536,
        limit: Some(1 << 40),
        sparse: true,
        expect: Some(FileVersion { inode: 12, size: 1 << 40, mtime_s: -1, mtime_ns: 5 }),
    };
    let read = host.open(ask(request::Kind::ReadFile(read))).unwrap();
    let write = WriteFile {
        path: "/up".into(),
        upload: b"uploaded".to_vec().into(),
        sparse: true,
        mtime: Some(mtime),
        length: Some(1 << 30),
        ..WriteFile::default()
    };
    let write = host.open(ask(request::Kind::WriteFile(write))).unwrap();
    let get = GetUpload { path: "/up".into(), upload: b"uploaded".to_vec().into() };
    let get = host.open(ask(request::Kind::GetUpload(get))).unwrap();
    let drop = DropUpload { path: "/up".into(), upload: b"uploaded".to_vec().into() };
    let drop = host.open(ask(request::Kind::DropUpload(drop))).unwrap();
    let rename = Rename { from: "/a".into(), to: "/b".into(), replace: true };
    let rename = host.open(ask(request::Kind::Rename(rename))).unwrap();
    let link = Symlink { path: "/l".into(), target: "../t".into(), replace: true };
    let link = host.open(ask(request::Kind::Symlink(link))).unwrap();
    let change = SetAttributes {
        path: "/a".into(),
        mode: Some(0o4755),
        owner: Some(inn_guest_proto::wire::Owner { uid: 1, gid: 2 }),
        mtime: Some(mtime),
    };
    let change = host.open(ask(request::Kind::SetAttributes(change))).unwrap();
    let watch = WatchFiles { path: "/w".into(), recursive: true };
    let watch = host.open(ask(request::Kind::WatchFiles(watch))).unwrap();
    exchange(host, guest);

    let info =
        FileInfo { size: 1 << 40, inode: 12, allocated: 4096, links: 2, ..FileInfo::default() };
    let told = Reply { kind: Some(reply::Kind::FileInfo(info.clone())) };
    guest.reply(read, told.clone()).unwrap();
    guest.reply(watch, told).unwrap();
    guest.send_data(read, data(Channel::Main, "data", 1 << 39)).unwrap();
    let sum = Transferred {
        bytes: 4,
        block_sum: vec![0x5a; 8].into(),
        length: (1 << 40) - 65_536,
        ..Transferred::default()
    };
    guest.end(read, end::Outcome::Transferred(sum.clone())).unwrap();
    let kept = UploadState { offset: 3 << 16 };
    guest.reply(write, Reply { kind: Some(reply::Kind::UploadState(kept)) }).unwrap();
    guest.end(get, end::Outcome::UploadState(kept)).unwrap();
    for stream in [drop, rename, link] {
        guest.end(stream, done()).unwrap();
    }
    let full = Failure { what: "change /a".into(), kind: FailureKind::NoSpace.into(), errno: 28 };
    guest.end(change, end::Outcome::Failure(full)).unwrap();
    let moved = FileChange {
        kind: FileChangeKind::Renamed.into(),
        path: "/w/b".into(),
        from: "/w/a".into(),
        directory: true,
    };
    let changes = FileChanges { changes: vec![moved], overflow: true };
    guest.send_data(watch, data(Channel::Main, changes.to_bytes(), 0)).unwrap();
    exchange(host, guest);

    host.send_data(write, data(Channel::Main, "more", 1 << 29)).unwrap();
    let eof = Eof { block_sum: vec![0xa5; 8].into(), length: 1 << 30, ..Eof::default() };
    host.send_eof(write, eof).unwrap();
    host.cancel(watch);
    exchange(host, guest);
    guest.end(write, end::Outcome::Transferred(sum)).unwrap();
    guest.end(watch, done()).unwrap();
    exchange(host, guest);
}

fn telemetry(host: &mut Host, guest: &mut Guest, exchange: &mut impl FnMut(&mut Host, &mut Guest)) {
    let once = host.open(ask(request::Kind::GetTelemetry(GetTelemetry {}))).unwrap();
    let watch = WatchTelemetry { interval_ms: 5000 };
    let watch = host.open(ask(request::Kind::WatchTelemetry(watch))).unwrap();
    exchange(host, guest);
    let pressure = Pressure { some_10: 1, some_60: 2, full_10: 3, full_60: 10_000 };
    let reading = Telemetry {
        unix_ms: 1_700_000_000_123,
        uptime_ms: 60_000,
        cpus: 4,
        cpu_permille: 999,
        memory_total: 8 << 30,
        memory_available: 4 << 30,
        memory_free: 2 << 30,
        swap_total: 1 << 30,
        swap_used: 1 << 20,
        mounts: vec![MountUse {
            target: "/".into(),
            source: "/dev/vda1".into(),
            kind: "ext4".into(),
            total: 1 << 34,
            used: 1 << 33,
            available: 1 << 32,
            inodes_total: 1000,
            inodes_free: 900,
        }],
        interfaces: vec![Interface {
            name: "eth0".into(),
            mac: vec![2, 0, 0, 0, 0, 1].into(),
            addresses: vec![Address { ip: vec![10, 0, 2, 15].into(), prefix: 24 }],
            up: true,
            rx_bytes: 1,
            tx_bytes: 2,
            rx_packets: 3,
            tx_packets: 4,
            rx_errors: 5,
            tx_errors: 6,
            rx_dropped: 7,
            tx_dropped: 8,
        }],
        load: vec![1, 22, 333],
        processes: 99,
        os: "Golden 1".into(),
        hostname: "golden".into(),
        cpu_pressure: Some(pressure),
        memory_pressure: Some(pressure),
        io_pressure: Some(pressure),
        frozen: true,
    };
    guest.send_data(watch, data(Channel::Main, reading.to_bytes(), 0)).unwrap();
    guest.end(once, end::Outcome::Telemetry(reading)).unwrap();
    guest.end(watch, done()).unwrap();
    exchange(host, guest);
}

fn machine(host: &mut Host, guest: &mut Guest, exchange: &mut impl FnMut(&mut Host, &mut Guest)) {
    use request::Kind;
    let address = Address { ip: vec![192, 0, 2, 7].into(), prefix: 24 };
    let setup = NetworkSetup {
        interfaces: vec![InterfaceSetup {
            mac: vec![2, 0, 0, 0, 0, 1].into(),
            name: "eth0".into(),
            dhcp4: true,
            dhcp6: true,
            addresses: vec![address.clone()],
            routes: vec![Route { to: Some(address), via: vec![192, 0, 2, 1].into(), metric: 100 }],
            mtu: 1400,
        }],
        dns: vec![vec![0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1].into()],
        search: vec!["example.org".into()],
    };
    let mount = Mount { serial: "data".into(), target: "/data".into(), read_only: false };
    let key = "ssh-ed25519 AAAA golden";
    let requests = [
        (
            Kind::SetPassword(SetPassword {
                user: "root".into(),
                password: "secret".into(),
                hash: "$6$".into(),
            }),
            done(),
        ),
        (Kind::SetHostname(SetHostname { hostname: "new".into() }), done()),
        (Kind::SetClock(SetClock { unix_ns: 1_700_000_000_123_456_789 }), done()),
        (
            Kind::ApplyNetwork(ApplyNetwork { setup: Some(setup), confirm_ms: 30_000 }),
            end::Outcome::NetworkApplied(NetworkApplied {
                by: "netplan".into(),
                problems: vec!["no DNS".into()],
            }),
        ),
        (Kind::ConfirmNetwork(ConfirmNetwork {}), done()),
        (
            Kind::Freeze(Freeze { dead_man_ms: 60_000, mounts: vec!["/".into()] }),
            end::Outcome::Frozen(Frozen { mounts: vec!["/".into()], expired: false }),
        ),
        (
            Kind::Thaw(Thaw {}),
            end::Outcome::Frozen(Frozen { mounts: vec!["/".into()], expired: true }),
        ),
        (
            Kind::GetSshKeys(GetSshKeys { user: "web".into() }),
            end::Outcome::SshKeys(SshKeys { keys: vec![key.into()] }),
        ),
        (
            Kind::SetSshKeys(SetSshKeys {
                user: "web".into(),
                keys: vec![key.into()],
                replace: true,
            }),
            done(),
        ),
        (
            Kind::GrowDisk(GrowDisk { target: "/data".into() }),
            end::Outcome::DiskGrown(DiskGrown {
                device: "/dev/vdb".into(),
                before: 1 << 30,
                after: 2 << 30,
            }),
        ),
        (
            Kind::MountDisk(MountDisk {
                mount: Some(mount),
                kind: "ext4".into(),
                lasting: true,
                format: true,
            }),
            done(),
        ),
        (Kind::Unmount(Unmount { target: "/data".into() }), done()),
    ];
    for (kind, outcome) in requests {
        let stream = host.open(ask(kind)).unwrap();
        exchange(host, guest);
        guest.end(stream, outcome).unwrap();
        exchange(host, guest);
    }
}
