//! A host without a node: one socket, and blocking calls.

#![expect(clippy::disallowed_methods, reason = "the program under test is what is started")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use inn_guest_proto::wire::{
    Attach, Channel, Data, End, Exec, ExecEnd, ExecNote, Failure, InputTaken, ListExecs, Reply,
    Request, end::Outcome, exec_end::Status, request::Kind,
};
use inn_guest_proto::{Host, HostEvent, data_cost};

/// No verdict on speed: only a hang is this slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// Ends with the test.
pub(crate) struct Guest {
    process: Child,
    dir: tempfile::TempDir,
}

impl Guest {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_inn-guest"))
            .arg("--socket")
            .arg(dir.path().join("socket"))
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self { process, dir }
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// It serves one host after the other.
    pub(crate) fn connect(&self) -> Session {
        let start = Instant::now();
        let socket = loop {
            match UnixStream::connect(self.dir.path().join("socket")) {
                Ok(socket) => break socket,
                Err(_) if start.elapsed() < PATIENCE => std::thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        };
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut session =
            Session { socket, host: Host::new([7; 16], "test"), streams: BTreeMap::new() };
        session.until(|event| matches!(event, HostEvent::Hello { .. }).then_some(()));
        session
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// What came on one stream.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) stdout: String,
    pub(crate) notes: Vec<ExecNote>,
    pub(crate) taken: Option<InputTaken>,
    pub(crate) reply: Option<Reply>,
    pub(crate) end: Option<End>,
}

pub(crate) struct Session {
    socket: UnixStream,
    host: Host,
    streams: BTreeMap<u32, Seen>,
}

impl Session {
    pub(crate) fn open(&mut self, kind: Kind) -> u32 {
        let stream = self.host.open(Request { kind: Some(kind) }).unwrap();
        self.streams.insert(stream, Seen::default());
        self.flush();
        stream
    }

    pub(crate) fn exec(&mut self, exec: Exec) -> u32 {
        self.open(Kind::Exec(exec))
    }

    pub(crate) fn attach(&mut self, number: u8, offset: u64) -> u32 {
        self.open(Kind::Attach(Attach { id: id(number), offset, notes: true }))
    }

    pub(crate) fn type_in(&mut self, stream: u32, text: &'static str) {
        let data = Data { bytes: Bytes::from_static(text.as_bytes()), ..Data::default() };
        self.host.send_data(stream, data).unwrap();
        self.flush();
    }

    pub(crate) fn host(&mut self) -> &mut Host {
        &mut self.host
    }

    pub(crate) fn flush(&mut self) {
        loop {
            let output = self.host.output();
            if output.is_empty() {
                return;
            }
            self.socket.write_all(output).unwrap();
            let written = output.len();
            self.host.wrote(written);
        }
    }

    /// Books events until one is what is waited for.
    fn until<T>(&mut self, mut wanted: impl FnMut(&HostEvent) -> Option<T>) -> T {
        loop {
            self.flush();
            while let Some(event) = self.host.next_event().unwrap() {
                let found = wanted(&event);
                self.book(event);
                if let Some(found) = found {
                    return found;
                }
            }
            let mut buffer = [0; 16 * 1024];
            let count = self.socket.read(&mut buffer).unwrap();
            assert!(count > 0, "the guest hung up");
            self.host.input().extend_from_slice(&buffer[..count]);
        }
    }

    fn book(&mut self, event: HostEvent) {
        match event {
            HostEvent::Reply { stream, reply } => self.seen(stream).reply = Some(reply),
            HostEvent::Data { stream, data } => {
                self.host.consumed(stream, data_cost(data.bytes.len()));
                let seen = self.streams.get_mut(&stream).unwrap();
                match data.channel() {
                    Channel::InputTaken => {
                        seen.taken = Some(InputTaken::from_bytes(data.bytes).unwrap());
                    }
                    Channel::Notes => seen.notes.push(ExecNote::from_bytes(data.bytes).unwrap()),
                    _ => seen.stdout += std::str::from_utf8(&data.bytes).unwrap(),
                }
            }
            HostEvent::End { stream, end } => self.seen(stream).end = Some(end),
            _ => {}
        }
    }

    fn seen(&mut self, stream: u32) -> &mut Seen {
        self.streams.get_mut(&stream).unwrap()
    }

    /// Waits until what came on a stream is as it should be.
    pub(crate) fn wait(&mut self, stream: u32, enough: impl Fn(&Seen) -> bool) -> &Seen {
        while !enough(self.seen(stream)) {
            assert!(self.seen(stream).end.is_none(), "{:?}", self.seen(stream));
            self.until(|_| Some(()));
        }
        self.seen(stream)
    }

    /// Once something more has come, on whatever stream.
    pub(crate) fn step(&mut self, stream: u32) -> &Seen {
        if self.seen(stream).end.is_none() {
            self.until(|_| Some(()));
        }
        self.seen(stream)
    }

    pub(crate) fn finish(&mut self, stream: u32) -> Seen {
        while self.seen(stream).end.is_none() {
            self.until(|_| Some(()));
        }
        self.streams.remove(&stream).unwrap()
    }

    pub(crate) fn ask(&mut self, kind: Kind) -> Outcome {
        let stream = self.open(kind);
        self.finish(stream).end.unwrap().outcome.unwrap()
    }

    pub(crate) fn list(&mut self) -> Vec<inn_guest_proto::wire::ExecSummary> {
        match self.ask(Kind::ListExecs(ListExecs {})) {
            Outcome::ExecList(list) => list.execs,
            other => panic!("{other:?}"),
        }
    }
}

impl Seen {
    pub(crate) fn exec_end(&self) -> ExecEnd {
        match self.end.as_ref().and_then(|end| end.outcome.as_ref()) {
            Some(Outcome::ExecEnd(end)) => *end,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn status(&self) -> Status {
        self.exec_end().status.unwrap()
    }

    pub(crate) fn failure(&self) -> &Failure {
        match self.end.as_ref().and_then(|end| end.outcome.as_ref()) {
            Some(Outcome::Failure(failure)) => failure,
            other => panic!("{other:?}"),
        }
    }
}

pub(crate) fn id(number: u8) -> Bytes {
    Bytes::copy_from_slice(&[number; 8])
}

/// A line for the shell.
pub(crate) fn line(number: u8, line: &str) -> Exec {
    Exec { id: id(number), command_line: line.to_owned(), ..Exec::default() }
}
