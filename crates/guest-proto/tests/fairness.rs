//! How long a message waits while other streams flood, in bytes on the wire:
//! the one bound that holds whatever the channel's speed is.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

use inn_guest_proto::wire::{Channel, Data, Done, Hello, ListExecs, Request, end, request};
use inn_guest_proto::{
    Guest, GuestEvent, Host, HostEvent, MAX_DATA, NONCE_BYTES, WINDOW, data_cost,
};

/// A full `Data` in its frame: tags, lengths, channel, offset and seal.
const LARGEST: usize = MAX_DATA + 64;

/// What may be encoded already when a message is queued: encoding stops once
/// a driver has 64 KiB to write, and the last message may begin just below.
const ENCODED: usize = 64 * 1024 + LARGEST;

struct Ends {
    host: Host,
    guest: Guest,
    /// Bytes that the guest has sent since the start.
    carried: usize,
}

impl Ends {
    fn open() -> Self {
        let host = Host::new([7; NONCE_BYTES], "test");
        let mut ends = Self { host, guest: Guest::default(), carried: 0 };
        ends.carry_down();
        ends.carry_up(usize::MAX);
        ends
    }

    fn carry_down(&mut self) {
        while !self.host.output().is_empty() {
            let bytes = self.host.output().to_vec();
            self.host.wrote(bytes.len());
            self.guest.input().extend_from_slice(&bytes);
            while let Some(event) = self.guest.next_event() {
                match event {
                    GuestEvent::Opened(nonce) => {
                        self.guest.greet(&nonce, Hello::default()).unwrap();
                    }
                    GuestEvent::Broken(error) => panic!("{error}"),
                    _ => {}
                }
            }
        }
    }

    /// At most `limit` bytes.
    fn carry_up(&mut self, limit: usize) -> Vec<HostEvent> {
        let out = self.guest.output();
        let bytes = out[..out.len().min(limit)].to_vec();
        self.guest.wrote(bytes.len());
        self.carried += bytes.len();
        self.host.input().extend_from_slice(&bytes);
        std::iter::from_fn(|| self.host.next_event().unwrap()).collect()
    }

    fn stream(&mut self) -> u32 {
        let kind = request::Kind::ListExecs(ListExecs {});
        let stream = self.host.open(Request { kind: Some(kind) }).unwrap();
        self.carry_down();
        stream
    }

    /// Fills the credit of each of these; a reader that keeps up.
    fn flood(&mut self, streams: &[u32]) {
        for stream in streams {
            self.host.consumed(*stream, WINDOW);
            self.carry_down();
            while self.guest.credit(*stream) >= data_cost(MAX_DATA) {
                self.guest.send_data(*stream, data(MAX_DATA)).unwrap();
            }
        }
    }
}

fn data(length: usize) -> Data {
    Data { channel: Channel::Stdout.into(), bytes: vec![1; length].into(), offset: u64::MAX }
}

/// Queues something at many places within a flood and counts the bytes that
/// went ahead of it.
fn worst_wait(
    flooding: usize,
    mut queue: impl FnMut(&mut Guest, u32),
    is_it: impl Fn(&HostEvent, u32) -> bool,
) -> usize {
    let mut worst = 0;
    for place in 0..20 {
        let mut ends = Ends::open();
        let floods: Vec<u32> = (0..flooding).map(|_| ends.stream()).collect();
        let small = ends.stream();
        ends.flood(&floods);
        // Some way into the flood: within a message, or at its edge.
        for _ in 0..place {
            ends.carry_up(13_337);
            ends.flood(&floods);
        }
        queue(&mut ends.guest, small);
        let before = ends.carried;
        while !ends.carry_up(1000).iter().any(|event| is_it(event, small)) {
            ends.flood(&floods);
            assert!(ends.carried - before < 100 << 20, "it never arrives");
        }
        worst = worst.max(ends.carried - before);
    }
    worst
}

fn is_data(event: &HostEvent, stream: u32) -> bool {
    matches!(event, HostEvent::Data { stream: of, .. } if *of == stream)
}

#[test]
fn telemetry_waits_for_one_message_of_each_flood() {
    for flooding in [1, 8, 40] {
        let worst = worst_wait(
            flooding,
            |guest, small| guest.send_data(small, data(2000)).unwrap(),
            is_data,
        );
        let bound = ENCODED + flooding * LARGEST + 4096;
        assert!(worst <= bound, "{flooding} floods: {worst} bytes went first, not {bound}");
    }
}

#[test]
fn the_end_of_a_second_exec_waits_no_longer() {
    let worst = worst_wait(
        1,
        |guest, small| {
            guest.reply(small, Default::default()).unwrap();
            guest.send_data(small, data(10)).unwrap();
            guest.end(small, end::Outcome::Done(Done {})).unwrap();
        },
        |event, small| matches!(event, HostEvent::End { stream, .. } if *stream == small),
    );
    // Its data and its end take a turn each.
    let bound = ENCODED + 2 * LARGEST + 4096;
    assert!(worst <= bound, "{worst} bytes went first, not {bound}");
}

#[test]
fn a_reply_waits_for_nothing_but_what_is_encoded() {
    let worst = worst_wait(
        40,
        |guest, small| guest.reply(small, Default::default()).unwrap(),
        |event, small| matches!(event, HostEvent::Reply { stream, .. } if *stream == small),
    );
    assert!(worst <= ENCODED + 4096, "{worst} bytes went first");
}

/// The other way: an upload does not hold up a request, a signal or a ping.
#[test]
fn a_request_waits_for_nothing_but_what_is_encoded() {
    let mut ends = Ends::open();
    let upload = ends.stream();
    while ends.host.credit(upload) >= data_cost(MAX_DATA) {
        ends.host.send_data(upload, data(MAX_DATA)).unwrap();
    }
    let encoded = ends.host.output().len();
    let kind = request::Kind::ListExecs(ListExecs {});
    let stream = ends.host.open(Request { kind: Some(kind) }).unwrap();
    let mut ahead = 0;
    loop {
        let bytes = ends.host.output()[..1000].to_vec();
        ends.host.wrote(bytes.len());
        ahead += bytes.len();
        ends.guest.input().extend_from_slice(&bytes);
        let events: Vec<_> = std::iter::from_fn(|| ends.guest.next_event()).collect();
        if events
            .iter()
            .any(|e| matches!(e, GuestEvent::Request { stream: of, .. } if *of == stream))
        {
            break;
        }
    }
    assert!(encoded <= ENCODED && ahead <= encoded + 2000, "{ahead} bytes went first");
}

/// A stream that nobody reads stops at its window and costs the others
/// nothing more.
#[test]
fn an_unread_stream_stops_at_its_window() {
    let mut ends = Ends::open();
    let (unread, read) = (ends.stream(), ends.stream());
    let (mut of_unread, mut of_read) = (0, 0);
    for _ in 0..50 {
        ends.flood(&[read]);
        while ends.guest.credit(unread) >= data_cost(MAX_DATA) {
            ends.guest.send_data(unread, data(MAX_DATA)).unwrap();
        }
        for event in ends.carry_up(usize::MAX) {
            match event {
                HostEvent::Data { stream, data } if stream == unread => {
                    of_unread += data.bytes.len();
                }
                HostEvent::Data { data, .. } => of_read += data.bytes.len(),
                _ => {}
            }
        }
    }
    assert_eq!(of_unread, WINDOW as usize);
    assert!(of_read > 2 << 20, "{of_read}");
}
