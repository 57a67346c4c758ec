//! What 1.2 added.

use inn_guest_proto::wire::{
    Attach, Channel, Control, Data, Exec, ExecEnd, ExecStarted, InputTaken, Lasting, Reply,
    control, end, exec_end, reply, request,
};
use inn_guest_proto::{Guest, Host};

use crate::ask;

pub(crate) const REQUESTS: usize = 2;

pub(crate) fn exchange_all(
    host: &mut Host,
    guest: &mut Guest,
    exchange: &mut impl FnMut(&mut Host, &mut Guest),
) {
    let exec = Exec {
        id: b"lasting1".to_vec().into(),
        argv: vec!["cat".into()],
        stdin: true,
        lasting: Some(Lasting { grace_ms: 60_000 }),
        ..Exec::default()
    };
    let exec = host.open(ask(request::Kind::Exec(exec))).unwrap();
    let attach = Attach { id: b"lasting2".to_vec().into(), offset: 1 << 33, notes: true };
    let attach = host.open(ask(request::Kind::Attach(attach))).unwrap();
    exchange(host, guest);

    let taken = InputTaken { bytes: 1 << 34, ended: true };
    let started = ExecStarted { pid: 42, input_taken: Some(taken) };
    let started = Reply { kind: Some(reply::Kind::ExecStarted(started)) };
    guest.reply(exec, started.clone()).unwrap();
    guest.reply(attach, started).unwrap();
    let channel = Channel::InputTaken.into();
    let told = Data { channel, bytes: taken.to_bytes(), offset: 0 };
    guest.send_data(exec, told).unwrap();
    exchange(host, guest);

    let taken = control::Action::OutputTaken(1 << 35);
    host.control(exec, Control { action: Some(taken) }).unwrap();
    exchange(host, guest);

    let ended = ExecEnd { status: Some(exec_end::Status::Code(0)), ..ExecEnd::default() };
    for stream in [exec, attach] {
        guest.end(stream, end::Outcome::ExecEnd(ended)).unwrap();
    }
    exchange(host, guest);
}
