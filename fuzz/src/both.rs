//! Both real ends and what may happen to a byte stream without connections.

use arbitrary::{Arbitrary, Unstructured};
use inn_guest_proto::wire::{
    Channel, Data, Done, End, Eof, Hello, ListExecs, Request, end, request,
};
use inn_guest_proto::{Guest, GuestEvent, Host, HostEvent, NONCE_BYTES, data_cost};

use crate::may_refuse;

#[derive(Debug, Arbitrary)]
enum Move {
    /// So many bytes go from the host to the guest, or back.
    Down(u16),
    Up(u16),
    /// They are lost on the way.
    DropDown(u8),
    DropUp(u8),
    /// They arrive changed.
    GarbleDown(u8, u8),
    GarbleUp(u8, u8),
    /// The host dies and another opens.
    Reopen,
    /// The guest's agent starts anew.
    GuestRestarts,
    HostOpens,
    HostSends(u8, u16),
    HostCancels(u8),
    GuestSends(u8, u16),
    GuestEnds(u8),
}

/// Whatever happened before: a host that opens anew gets a session, a request
/// through it, data both ways and an end.
pub fn both_ends(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let mut pair = Pair::new();
    while !u.is_empty()
        && let Ok(what) = u.arbitrary::<Move>()
    {
        pair.act(what);
    }
    pair.must_work();
}

struct Pair {
    host: Host,
    /// The host's session is over: its driver drops it.
    over: bool,
    guest: Guest,
    openings: u8,
}

impl Pair {
    fn new() -> Self {
        Self {
            host: Host::new(nonce(0), "fuzz"),
            over: false,
            guest: Guest::default(),
            openings: 0,
        }
    }

    fn act(&mut self, what: Move) {
        match what {
            Move::Down(n) => {
                let bytes = self.from_host(n.into());
                self.to_guest(&bytes);
            }
            Move::Up(n) => {
                let bytes = self.from_guest(n.into());
                self.to_host(&bytes);
            }
            Move::DropDown(n) => drop(self.from_host(n.into())),
            Move::DropUp(n) => drop(self.from_guest(n.into())),
            Move::GarbleDown(n, bits) => {
                let mut bytes = self.from_host(n.into());
                bytes.iter_mut().for_each(|byte| *byte ^= bits);
                self.to_guest(&bytes);
            }
            Move::GarbleUp(n, bits) => {
                let mut bytes = self.from_guest(n.into());
                bytes.iter_mut().for_each(|byte| *byte ^= bits);
                self.to_host(&bytes);
            }
            Move::Reopen => self.reopen(),
            Move::GuestRestarts => self.guest = Guest::default(),
            Move::HostOpens => may_refuse(self.host.open(list())),
            Move::HostSends(stream, size) => {
                may_refuse(self.host.send_data(stream.into(), content(size)))
            }
            Move::HostCancels(stream) => self.host.cancel(stream.into()),
            Move::GuestSends(stream, size) => {
                may_refuse(self.guest.send_data(stream.into(), content(size)));
            }
            Move::GuestEnds(stream) => {
                may_refuse(self.guest.end(stream.into(), end::Outcome::Done(Done {})));
            }
        }
    }

    fn reopen(&mut self) {
        self.openings = self.openings.wrapping_add(1);
        self.host = Host::new(nonce(self.openings), "fuzz");
        self.over = false;
    }

    fn must_work(&mut self) {
        self.reopen();
        let mut events = self.settle();
        assert!(matches!(events.first(), Some(HostEvent::Hello { .. })), "{events:?}");
        let stream = self.host.open(list()).expect("the session is open");
        self.host.send_data(stream, content(1000)).expect("there is credit");
        self.host.send_eof(stream, Eof::default()).expect("the stream is open");
        self.settle();
        self.guest.send_data(stream, content(60_000)).expect("the request has arrived");
        self.guest.end(stream, end::Outcome::Done(Done {})).expect("the stream is open");
        events = self.settle();
        let end = End { outcome: Some(end::Outcome::Done(Done {})) };
        assert_eq!(events.last(), Some(&HostEvent::End { stream, end }));
        assert_eq!((self.host.open_streams(), self.guest.open_streams()), (0, 0));
    }

    fn settle(&mut self) -> Vec<HostEvent> {
        let mut all = Vec::new();
        loop {
            let down = self.from_host(usize::MAX);
            self.to_guest(&down);
            let up = self.from_guest(usize::MAX);
            all.extend(self.to_host(&up));
            assert!(!self.over, "a session between two right ends broke");
            if down.is_empty() && up.is_empty() {
                return all;
            }
        }
    }

    fn from_host(&mut self, limit: usize) -> Vec<u8> {
        if self.over {
            return Vec::new();
        }
        let out = self.host.output();
        let bytes = out[..out.len().min(limit)].to_vec();
        self.host.wrote(bytes.len());
        bytes
    }

    fn from_guest(&mut self, limit: usize) -> Vec<u8> {
        let out = self.guest.output();
        let bytes = out[..out.len().min(limit)].to_vec();
        self.guest.wrote(bytes.len());
        bytes
    }

    fn to_guest(&mut self, bytes: &[u8]) {
        self.guest.input().extend_from_slice(bytes);
        while let Some(event) = self.guest.next_event() {
            match event {
                GuestEvent::Opened(nonce) => {
                    self.guest.greet(&nonce, Hello::default()).expect("a short hello fits");
                }
                GuestEvent::Data { stream, data } => {
                    self.guest.consumed(stream, data_cost(data.bytes.len()));
                }
                GuestEvent::Cancel { stream } => {
                    may_refuse(self.guest.end(stream, end::Outcome::Done(Done {})));
                }
                _ => {}
            }
        }
    }

    fn to_host(&mut self, bytes: &[u8]) -> Vec<HostEvent> {
        let mut events = Vec::new();
        if self.over {
            return events;
        }
        self.host.input().extend_from_slice(bytes);
        loop {
            match self.host.next_event() {
                Ok(Some(event)) => {
                    if let HostEvent::Data { stream, data } = &event {
                        self.host.consumed(*stream, data_cost(data.bytes.len()));
                    }
                    events.push(event);
                }
                Ok(None) => return events,
                Err(_) => {
                    self.over = true;
                    return events;
                }
            }
        }
    }
}

fn nonce(opening: u8) -> [u8; NONCE_BYTES] {
    let mut nonce = [0x5a; NONCE_BYTES];
    nonce[0] = opening;
    nonce
}

fn list() -> Request {
    Request { kind: Some(request::Kind::ListExecs(ListExecs {})) }
}

fn content(size: u16) -> Data {
    Data { channel: Channel::Main.into(), bytes: vec![3; size.into()].into(), offset: 0 }
}
