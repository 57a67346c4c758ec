//! A guest whose answers a test writes, by the protocol's own guest end.

use inn_guest_proto::wire::envelope::Body;
use inn_guest_proto::wire::{Data, Envelope, Hello, Reply, Version, end, reply, request};
use inn_guest_proto::{
    Guest, GuestEvent, MARKER, Nonce, READ_SIZE, VERSION, capability, data_cost,
};
use inn_node::guest::GuestSession;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::guest::patiently;

pub(crate) struct Scripted {
    stream: UnixStream,
    guest: Guest,
}

impl Scripted {
    /// One that can do everything, and a session with it.
    pub(crate) async fn open() -> (GuestSession, Self) {
        let all =
            [capability::TELEMETRY, capability::EXEC_2, capability::FILES_2, capability::MACHINE];
        let hello = Hello {
            version: Some(Version { major: VERSION.major, minor: VERSION.minor }),
            agent: "scripted 2".to_owned(),
            capabilities: all.map(str::to_owned).to_vec(),
            ..Hello::default()
        };
        Self::open_as(hello).await
    }

    /// With the version of `hello`, whatever that is.
    pub(crate) async fn open_as(hello: Hello) -> (GuestSession, Self) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut scripted = Self { stream: theirs, guest: Guest::default() };
        let greeting = async {
            let GuestEvent::Opened(nonce) = scripted.event().await else { panic!("no opening") };
            scripted.greet(nonce, hello).await;
            let event = scripted.event().await;
            assert!(matches!(event, GuestEvent::Hello { .. }), "{event:?}");
        };
        let (session, ()) =
            patiently(async { tokio::join!(GuestSession::establish(ours), greeting) }).await;
        (session.unwrap(), scripted)
    }

    /// As the guest end does it, but for the version.
    async fn greet(&mut self, nonce: Nonce, hello: Hello) {
        self.guest.greet(&nonce, hello.clone()).unwrap();
        while !self.guest.output().is_empty() {
            let length = self.guest.output().len();
            self.guest.wrote(length);
        }
        let payload = Envelope { stream: 0, body: Some(Body::Hello(hello)) }.to_payload();
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let bytes = [&MARKER[..], &nonce, &length, &payload].concat();
        self.stream.write_all(&bytes).await.unwrap();
    }

    /// What the host does next, of what concerns a script.
    pub(crate) async fn event(&mut self) -> GuestEvent {
        loop {
            match self.any_event().await {
                GuestEvent::Credit { .. } => {}
                event => return event,
            }
        }
    }

    /// Credit is an event too.
    pub(crate) async fn any_event(&mut self) -> GuestEvent {
        loop {
            if let Some(event) = self.guest.next_event() {
                return event;
            }
            self.flush().await;
            let input = self.guest.input();
            input.reserve(READ_SIZE);
            let count = self.stream.read_buf(input).await.unwrap();
            assert!(count > 0, "the host hung up");
        }
    }

    pub(crate) async fn request(&mut self) -> (u32, request::Kind) {
        match patiently(self.event()).await {
            GuestEvent::Request { stream, request } => (stream, request.kind.unwrap()),
            other => panic!("no request but {other:?}"),
        }
    }

    /// The host's next data, acknowledged.
    pub(crate) async fn data(&mut self) -> Data {
        match patiently(self.event()).await {
            GuestEvent::Data { stream, data } => {
                self.guest.consumed(stream, data_cost(data.bytes.len()));
                data
            }
            other => panic!("no data but {other:?}"),
        }
    }

    pub(crate) async fn reply(&mut self, stream: u32, kind: reply::Kind) {
        self.guest.reply(stream, Reply { kind: Some(kind) }).unwrap();
        self.flush().await;
    }

    pub(crate) fn credit(&self, stream: u32) -> u32 {
        self.guest.credit(stream)
    }

    /// A script keeps within its credit.
    pub(crate) async fn send(&mut self, stream: u32, data: Data) {
        self.guest.send_data(stream, data).unwrap();
        self.flush().await;
    }

    pub(crate) async fn end(&mut self, stream: u32, outcome: end::Outcome) {
        self.guest.end(stream, outcome).unwrap();
        self.flush().await;
    }

    /// Takes the next request and ends it at once.
    pub(crate) async fn answer(&mut self, outcome: end::Outcome) -> request::Kind {
        let (stream, kind) = self.request().await;
        self.end(stream, outcome).await;
        kind
    }

    async fn flush(&mut self) {
        while !self.guest.output().is_empty() {
            let written = self.stream.write(self.guest.output()).await.unwrap();
            self.guest.wrote(written);
        }
    }
}
