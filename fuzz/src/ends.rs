//! Each end alone, against a peer that keeps no rule.

use arbitrary::{Arbitrary, Unstructured};
use inn_guest_proto::wire::{
    Channel as DataChannel, Control, Data, Done, Eof, Hello, ListExecs, Reply, Request, control,
    end, request,
};
use inn_guest_proto::{
    Guest, GuestEvent, Host, HostEvent, MARKER, MAX_DATA, MAX_FRAME, MAX_QUEUED_CONTROLS,
    MAX_STREAMS, READ_SIZE, SendError, data_cost,
};

use crate::frames::{Channel, NONCE, Piece, encode, hello};
use crate::may_refuse;

/// What an end may hold of what came: less than a frame, once it has been
/// asked for all events.
const BUFFERED: usize = MAX_FRAME + 4;

/// What an end has encoded and not written: the target, and one message more.
const ENCODED: usize = 2 * MAX_FRAME + inn_guest_proto::RESYNC_ZEROS;

/// Bytes off the channel, in pieces as a driver reads them. The first byte
/// says how large those are.
pub fn host_bytes(data: &[u8]) {
    let Some((step, bytes)) = data.split_first() else { return };
    let mut host = Host::new(NONCE, "fuzz");
    written(&mut host);
    for piece in bytes.chunks(usize::from(*step) * 16 + 1) {
        host.input().extend_from_slice(piece);
        if !drain_host(&mut host) {
            return;
        }
    }
}

pub fn guest_bytes(data: &[u8]) {
    let Some((step, bytes)) = data.split_first() else { return };
    let mut guest = Guest::default();
    for piece in bytes.chunks(usize::from(*step) * 16 + 1) {
        guest.input().extend_from_slice(piece);
        drain_guest(&mut guest);
    }
}

/// What the host's driver does between two pieces.
#[derive(Debug, Arbitrary)]
enum HostCall {
    Take(Piece),
    Open,
    Send { stream: u8, size: u16 },
    Eof { stream: u8 },
    Resize { stream: u8 },
    Cancel { stream: u8 },
    Consumed { stream: u8, cost: u32 },
    Ping,
    Wrote { bytes: u16 },
}

pub fn host_session(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let mut host = Host::new(NONCE, "fuzz");
    written(&mut host);
    host.input().extend_from_slice(&[MARKER.as_slice(), &NONCE, &encode(0, hello())].concat());
    assert!(drain_host(&mut host), "a right greeting is taken");
    host.open(list()).expect("a session that is open");
    let mut channel = Channel::default();
    while !u.is_empty()
        && let Ok(call) = u.arbitrary::<HostCall>()
    {
        match call {
            HostCall::Take(piece) => {
                let bytes = channel.bytes(piece);
                for part in bytes.chunks(READ_SIZE) {
                    host.input().extend_from_slice(part);
                    if !drain_host(&mut host) {
                        return;
                    }
                }
            }
            HostCall::Open => match host.open(list()) {
                Ok(_) => {}
                Err(error) => {
                    assert_eq!((error, host.open_streams()), (SendError::Busy, MAX_STREAMS))
                }
            },
            HostCall::Send { stream, size } => {
                let size = usize::from(size).min(MAX_DATA);
                let credit = host.credit(stream.into());
                let sent = host.send_data(stream.into(), content(size));
                assert!(sent.is_err() || credit >= data_cost(size), "credit is kept to");
            }
            HostCall::Eof { stream } => may_refuse(host.send_eof(stream.into(), Eof::default())),
            HostCall::Resize { stream } => {
                let control = Control { action: Some(control::Action::Signal(15)) };
                may_refuse(host.control(stream.into(), control));
            }
            HostCall::Cancel { stream } => host.cancel(stream.into()),
            HostCall::Consumed { stream, cost } => host.consumed(stream.into(), cost),
            HostCall::Ping => may_refuse(host.ping(1)),
            HostCall::Wrote { bytes } => {
                let there = host.output().len();
                host.wrote(there.min(bytes.into()));
            }
        }
        assert!(host.open_streams() <= MAX_STREAMS);
        assert!(host.output().len() <= ENCODED);
    }
}

#[derive(Debug, Arbitrary)]
enum GuestCall {
    Take(Piece),
    Reply { stream: u8 },
    Send { stream: u8, size: u16 },
    Eof { stream: u8 },
    End { stream: u8 },
    Consumed { stream: u8, cost: u32 },
    Wrote { bytes: u16 },
    Lost,
}

pub fn guest_session(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let mut guest = Guest::default();
    guest.input().extend_from_slice(&[MARKER.as_slice(), &NONCE, &encode(0, hello())].concat());
    drain_guest(&mut guest);
    let mut channel = Channel::default();
    while !u.is_empty()
        && let Ok(call) = u.arbitrary::<GuestCall>()
    {
        match call {
            GuestCall::Take(piece) => {
                let bytes = channel.bytes(piece);
                for part in bytes.chunks(READ_SIZE) {
                    guest.input().extend_from_slice(part);
                    drain_guest(&mut guest);
                }
            }
            GuestCall::Reply { stream } => may_refuse(guest.reply(stream.into(), Reply::default())),
            GuestCall::Send { stream, size } => {
                let size = usize::from(size).min(MAX_DATA);
                let credit = guest.credit(stream.into());
                let sent = guest.send_data(stream.into(), content(size));
                assert!(sent.is_err() || credit >= data_cost(size), "credit is kept to");
            }
            GuestCall::Eof { stream } => may_refuse(guest.send_eof(stream.into(), Eof::default())),
            GuestCall::End { stream } => {
                may_refuse(guest.end(stream.into(), end::Outcome::Done(Done {})));
            }
            GuestCall::Consumed { stream, cost } => guest.consumed(stream.into(), cost),
            GuestCall::Wrote { bytes } => {
                let there = guest.output().len();
                guest.wrote(there.min(bytes.into()));
            }
            GuestCall::Lost => guest.lost(),
        }
        assert!(guest.open_streams() <= MAX_STREAMS);
    }
}

fn list() -> Request {
    Request { kind: Some(request::Kind::ListExecs(ListExecs {})) }
}

fn content(size: usize) -> Data {
    Data { channel: DataChannel::Main.into(), bytes: vec![2; size].into(), offset: 0 }
}

fn written(host: &mut Host) {
    let opening = host.output().len();
    host.wrote(opening);
}

/// False after an error, which is the session's end for its driver.
fn drain_host(host: &mut Host) -> bool {
    loop {
        match host.next_event() {
            Ok(Some(HostEvent::Data { stream, data })) => {
                assert!(data.bytes.len() <= MAX_DATA);
                host.consumed(stream, data_cost(data.bytes.len()));
            }
            Ok(Some(_)) => {}
            Ok(None) => {
                assert!(host.buffered() <= BUFFERED, "{} bytes held", host.buffered());
                return true;
            }
            Err(_) => return false,
        }
    }
}

fn drain_guest(guest: &mut Guest) {
    while let Some(event) = guest.next_event() {
        match event {
            GuestEvent::Opened(nonce) => {
                guest.greet(&nonce, Hello::default()).expect("a short hello fits");
            }
            GuestEvent::Data { stream, data } => {
                assert!(data.bytes.len() <= MAX_DATA);
                guest.consumed(stream, data_cost(data.bytes.len()));
            }
            _ => {}
        }
    }
    assert!(guest.buffered() <= BUFFERED, "{} bytes held", guest.buffered());
    assert!(guest.open_streams() <= MAX_STREAMS);
    // What the driver of a host that never reads has to keep.
    let most = ENCODED + MAX_QUEUED_CONTROLS * MAX_FRAME;
    assert!(guest.output().len() <= most);
}
