//! What there was from the start.

use inn_guest_proto::wire::{
    Channel, Configure, Control, Data, Eof, Exec, ExecEnd, ExecStarted, Failure, FailureKind,
    FileInfo, FileKind, Mount, Network, Reply, Shutdown, ShutdownKind, Transferred, TtySize,
    WriteFile, control, end, exec_end, reply, request,
};
use inn_guest_proto::{Guest, Host};

use crate::ask;

pub(crate) const REQUESTS: usize = 5;

pub(crate) fn exchange_all(
    host: &mut Host,
    guest: &mut Guest,
    exchange: &mut impl FnMut(&mut Host, &mut Guest),
) {
    let setup = Configure {
        hostname: "vm".into(),
        machine_id: "0123456789abcdef0123456789abcdef".into(),
        network: Some(Network {
            address: vec![10, 0, 2, 15].into(),
            prefix: 24,
            gateway: vec![10, 0, 2, 2].into(),
            dns: vec![vec![10, 0, 2, 3].into()],
            ..Network::default()
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
    exchange(host, guest);

    let started = reply::Kind::ExecStarted(ExecStarted { pid: 42, ..ExecStarted::default() });
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
    exchange(host, guest);
    // A stream that nobody waits for.
    let cancelled = host.open(ask(request::Kind::ListExecs(Default::default()))).unwrap();
    host.cancel(cancelled);
    exchange(host, guest);
}
