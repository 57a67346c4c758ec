//! An exec's WebSocket, as Kubernetes speaks it: see [`inn_api::exec`].
//!
//! ```text
//!   client ─▶ reader task ─▶ Input (bounded) ─▶ steer ─▶ the process's stdin, size, signals
//!   client ◀─────────────── sink ◀──────────── pump ◀── its output and its end
//! ```
//! A client that goes away ends the process, or only lets go of a detached
//! one: the reader sees it, `drive` returns, and the dropped [`Exec`] does the
//! rest. The agent's own end is no such going: the guest keeps the process for
//! a while, with all output that was not confirmed, and the next agent's
//! `attach` takes it up.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::http::HeaderValue;
use axum::response::Response;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use inn_api::Code;
use inn_api::exec::{
    CHANNEL_CLOSE, CHANNEL_ERROR, CHANNEL_RESIZE, CHANNEL_SIGNAL, CHANNEL_STDERR, CHANNEL_STDIN,
    CHANNEL_STDOUT, CHANNEL_TAKEN, EXEC_ID, OutputTaken, SUBPROTOCOL, SUBPROTOCOL_4, Status,
    TAKEN_BYTES, TAKEN_MESSAGES, TerminalSize,
};
use inn_fail_point::{Point, fail_point};
use inn_trace::{Kind, Span};
use inn_units::ExecId;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::super::convert::exec as convert;
use super::super::problem::{Failed, of_guest, of_not_awake, of_not_ready};
use crate::guest::{
    Exec, ExecControl, ExecEvent, ExecInput, ExecSpec, GuestError, GuestSession, InputTaken,
    TtySize,
};
use crate::node::Node;
use crate::traces;
use crate::vm::VmHandle;

/// The largest message taken.
const MESSAGE_LIMIT: usize = 1 << 20;

/// Messages that wait while the process does not read: past it the client
/// has to wait, too.
const INPUTS: usize = 16;

/// For a client to take its process's end and to go: only then the guest may
/// forget it.
const GOODBYE: Duration = Duration::from_secs(10);

type Sink = SplitSink<WebSocket, Message>;

/// What a WebSocket is to be about.
#[derive(Debug)]
pub(in crate::http) struct Channel {
    pub(in crate::http) vm: VmHandle,
    pub(in crate::http) begin: Begin,
    pub(in crate::http) stdout: bool,
    pub(in crate::http) stderr: bool,
    /// The client says itself what it has taken.
    pub(in crate::http) confirm: bool,
    pub(in crate::http) limit: convert::TimeLimit,
    pub(in crate::http) node: Arc<Node>,
}

#[derive(Debug)]
pub(in crate::http) enum Begin {
    Run(Box<ExecSpec>),
    Attach { id: ExecId, offset: u64, stdin: bool },
}

/// What a client says once its process is asked for.
#[derive(Debug, PartialEq, Eq)]
enum Input {
    Stdin(Bytes),
    CloseStdin,
    Resize(TtySize),
    Signal(i32),
    Taken(u64),
}

/// How an exec came to its end here.
#[derive(Debug)]
enum Ended {
    Told(Status),
    /// What the guest keeps until it is told to forget it.
    Lasting(Status, GuestSession),
    /// Nobody listens, or this agent ends.
    Silent,
}

impl Channel {
    /// Until the process or the client is gone, or the agent leaves.
    pub(in crate::http) fn open(
        self,
        upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
        closing: CancellationToken,
    ) -> Result<Response, Failed> {
        let upgrade = upgrade.map_err(|error| Failed::invalid(error.to_string()))?;
        let asked = upgrade.requested_protocols().count();
        let upgrade = upgrade.protocols([SUBPROTOCOL, SUBPROTOCOL_4]);
        if asked > 0 && upgrade.selected_protocol().is_none() {
            let detail =
                format!("an exec speaks the subprotocols {SUBPROTOCOL} and {SUBPROTOCOL_4}");
            return Err(Failed::invalid(detail));
        }
        let id = HeaderValue::try_from(self.id().to_string());
        let id = id.map_err(|error| Failed::internal(&error))?;
        let upgrade = upgrade.max_message_size(MESSAGE_LIMIT);
        let asked_in = traces::current();
        let mut response =
            upgrade.on_upgrade(move |socket| traces::within(asked_in, self.drive(socket, closing)));
        response.headers_mut().insert(EXEC_ID, id);
        Ok(response)
    }

    fn id(&self) -> ExecId {
        match &self.begin {
            Begin::Run(spec) => spec.id,
            Begin::Attach { id, .. } => *id,
        }
    }

    async fn drive(self, socket: WebSocket, closing: CancellationToken) {
        // Its predecessor has no half-close.
        let closes = socket.protocol().is_none_or(|protocol| protocol == SUBPROTOCOL);
        let (mut sink, messages) = socket.split();
        let (sender, inputs) = mpsc::channel(INPUTS);
        let gone = CancellationToken::new();
        let reader = tokio::spawn(read(messages, sender, closes, gone.clone()));
        let ended = tokio::select! {
            // Once this agent ends, nothing is ended with it.
            biased;
            ended = self.run(inputs, &mut sink, &closing) => ended,
            // What has been begun ends with what is dropped.
            () = gone.cancelled() => Ended::Silent,
        };
        if let Ended::Told(status) | Ended::Lasting(status, _) = &ended {
            fail_point(Point::ExecEnded);
            farewell(&mut sink, status).await;
        }
        if let Ended::Lasting(_, session) = ended {
            tokio::select! {
                // The client may not have it: it asks the next agent.
                () = closing.cancelled() => {}
                // It has, or is gone, or does not go.
                _ = tokio::time::timeout(GOODBYE, gone.cancelled()) => {
                    if let Err(error) = session.forget(self.id()).await {
                        tracing::debug!(%error, "the guest forgets an exec by itself");
                    }
                }
            }
        }
        reader.abort();
    }

    /// From the wait for the guest to the process's end.
    async fn run(
        &self,
        inputs: mpsc::Receiver<Input>,
        sink: &mut Sink,
        closing: &CancellationToken,
    ) -> Ended {
        let failed = |failed: Failed| Ended::Told(convert::exec_failure(&failed.0));
        let begun = async {
            let used = self.vm.in_use(&self.node).await;
            let used = used.map_err(|why| of_not_awake(&self.vm, why))?;
            let session = self.vm.session().await.map_err(|why| of_not_ready(&self.vm, &why))?;
            let session = session.holding(Arc::new(used));
            let mut span = self.node.tracer.begin("exec", Kind::Client, traces::current());
            self.vm.name_in(&mut span);
            let exec = self.begin(&session).await.map_err(|error| of_guest(&self.vm, &error))?;
            Ok((session, exec, span))
        };
        let (session, mut exec, mut span) = tokio::select! {
            biased;
            begun = begun => match begun {
                Ok(begun) => begun,
                Err(why) => return failed(why),
            },
            // Nothing has been begun.
            () = closing.cancelled() => return Ended::Silent,
        };
        fail_point(Point::ExecBegun);
        let stdin = match self.begin {
            Begin::Attach { stdin: false, .. } => None,
            Begin::Attach { .. } | Begin::Run(_) => exec.take_stdin(),
        };
        let mut taken = Taken::new(exec.control(), self.confirm);
        let ended = {
            let steering = steer(inputs, stdin, exec.control());
            let pumping = self.pump(&mut exec, sink, &mut taken);
            tokio::pin!(steering, pumping);
            let mut steered = false;
            loop {
                tokio::select! {
                    // Each goes on where it was when the other has something.
                    status = &mut pumping => break Some(status),
                    () = &mut steering, if !steered => steered = true,
                    () = closing.cancelled() => break None,
                }
            }
        };
        if let Some(Some(status)) = &ended {
            told(&mut span, status);
        }
        drop(span);
        match ended {
            None => {
                exec.leave();
                Ended::Silent
            }
            Some(None) => Ended::Silent,
            Some(Some(status)) if taken.lasting => Ended::Lasting(status, session),
            Some(Some(status)) => Ended::Told(status),
        }
    }

    async fn begin(&self, session: &GuestSession) -> Result<Exec, GuestError> {
        match &self.begin {
            Begin::Run(spec) => session.exec(ExecSpec::clone(spec)).await,
            Begin::Attach { id, offset, .. } => session.attach(*id, *offset).await,
        }
    }

    /// Its end; `None` once nobody listens.
    async fn pump(&self, exec: &mut Exec, sink: &mut Sink, taken: &mut Taken) -> Option<Status> {
        loop {
            let (channel, output) = match exec.next().await {
                Ok(Some(ExecEvent::Started { input_taken, .. })) => {
                    taken.lasting = input_taken.is_some();
                    self.tell_input(sink, input_taken.unwrap_or_default(), taken.lasting).await?;
                    continue;
                }
                Ok(Some(ExecEvent::InputTaken(input))) => {
                    self.tell_input(sink, input, taken.lasting).await?;
                    continue;
                }
                Ok(Some(ExecEvent::RunStarted { .. } | ExecEvent::RunEnded { .. })) => continue,
                Ok(Some(ExecEvent::Stdout(output))) => {
                    (self.stdout.then_some(CHANNEL_STDOUT), output)
                }
                Ok(Some(ExecEvent::Stderr(output))) => {
                    (self.stderr.then_some(CHANNEL_STDERR), output)
                }
                Ok(Some(ExecEvent::Exited(end))) => {
                    return Some(convert::exec_status(&end, self.limit));
                }
                Ok(None) => {
                    let failed =
                        Failed::new(Code::GuestUnavailable, "the command's end is unknown");
                    return Some(convert::exec_failure(&failed.0));
                }
                Err(error) => {
                    let failure = convert::exec_failure(&of_guest(&self.vm, &error).0);
                    return Some(match self.begin {
                        Begin::Run(_) => convert::with_shell_code(failure, &error),
                        Begin::Attach { .. } => failure,
                    });
                }
            };
            if let Some(channel) = channel {
                sink.send(message(channel, &output.bytes)).await.ok()?;
            }
            taken.passed(output.offset + output.bytes.len() as u64).await;
        }
    }

    async fn tell_input(&self, sink: &mut Sink, input: InputTaken, lasting: bool) -> Option<()> {
        if !self.confirm {
            return Some(());
        }
        let InputTaken { bytes, ended } = input;
        let told = inn_api::exec::InputTaken { input: bytes, input_ended: ended, lasting };
        let json = serde_json::to_vec(&told).ok()?;
        sink.send(message(CHANNEL_TAKEN, &json)).await.ok()
    }
}

/// The guest's answer. A command that fails is no failure of the call.
fn told(span: &mut Span, status: &Status) {
    match status.exit_code() {
        Some(code) => span.set("process.exit.code", i64::from(code)),
        None => span.fail(status.message.clone()),
    }
}

/// Says for a client that does not itself what it has taken: what has been
/// written to its connection.
#[derive(Debug)]
struct Taken {
    control: ExecControl,
    /// The guest keeps the output until it is told.
    lasting: bool,
    by_client: bool,
    told: u64,
    messages: u32,
}

impl Taken {
    fn new(control: ExecControl, by_client: bool) -> Self {
        Self { control, lasting: false, by_client, told: 0, messages: 0 }
    }

    async fn passed(&mut self, offset: u64) {
        if !self.lasting || self.by_client {
            return;
        }
        self.messages += 1;
        if offset.saturating_sub(self.told) < TAKEN_BYTES && self.messages < TAKEN_MESSAGES {
            return;
        }
        (self.told, self.messages) = (offset, 0);
        // A session that is over says so with its next event.
        let _over = self.control.output_taken(offset).await;
    }
}

/// Passes on what the client says. A process that has ended takes nothing
/// any more, which its end tells better than an error here.
async fn steer(
    mut inputs: mpsc::Receiver<Input>,
    mut stdin: Option<ExecInput>,
    control: ExecControl,
) {
    while let Some(input) = inputs.recv().await {
        let passed = match input {
            Input::Stdin(bytes) => match &mut stdin {
                Some(stdin) => stdin.write(bytes).await,
                None => Ok(()),
            },
            Input::CloseStdin => match stdin.take() {
                Some(stdin) => stdin.close().await,
                None => Ok(()),
            },
            Input::Resize(size) => control.resize(size).await,
            Input::Signal(number) => control.signal(number).await,
            Input::Taken(offset) => control.output_taken(offset).await,
        };
        if let Err(error) = passed {
            tracing::debug!(%error, "an exec's input goes nowhere");
        }
    }
}

async fn read(
    mut messages: SplitStream<WebSocket>,
    inputs: mpsc::Sender<Input>,
    closes: bool,
    gone: CancellationToken,
) {
    while let Some(Ok(message)) = messages.next().await {
        let data = match message {
            Message::Binary(data) => data,
            // Kubernetes' Python client sends a str so.
            Message::Text(text) => text.into(),
            Message::Close(_) => break,
            // Answered underneath.
            Message::Ping(_) | Message::Pong(_) => continue,
        };
        if let Some(input) = input(&data, closes) {
            // Over: the status is on its way, and the client's going follows.
            let _over = inputs.send(input).await;
        }
    }
    gone.cancel();
}

/// What a message says; nothing, if it is none of the protocol.
fn input(data: &Bytes, closes: bool) -> Option<Input> {
    let channel = *data.first()?;
    let rest = data.slice(1..);
    match channel {
        // Kubernetes' clients open each channel by an empty message.
        CHANNEL_STDIN => (!rest.is_empty()).then_some(Input::Stdin(rest)),
        CHANNEL_CLOSE if closes => {
            (rest.first() == Some(&CHANNEL_STDIN)).then_some(Input::CloseStdin)
        }
        CHANNEL_RESIZE => {
            let TerminalSize { cols, rows } = serde_json::from_slice(&rest).ok()?;
            Some(Input::Resize(TtySize { rows, cols }))
        }
        CHANNEL_SIGNAL => {
            convert::signal_number(std::str::from_utf8(&rest).ok()?).map(Input::Signal)
        }
        CHANNEL_TAKEN => {
            let OutputTaken { output } = serde_json::from_slice(&rest).ok()?;
            Some(Input::Taken(output))
        }
        _ => None,
    }
}

async fn farewell(sink: &mut Sink, status: &Status) {
    let Ok(json) = serde_json::to_vec(status) else { return };
    // A client that has gone needs none.
    if sink.send(message(CHANNEL_ERROR, &json)).await.is_ok() {
        let _ = sink.send(Message::Close(None)).await;
    }
}

fn message(channel: u8, data: &[u8]) -> Message {
    let mut bytes = BytesMut::with_capacity(1 + data.len());
    bytes.put_u8(channel);
    bytes.put_slice(data);
    Message::Binary(bytes.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_what_its_channel_says() {
        let input = |data: &'static [u8]| super::input(&Bytes::from_static(data), true);
        assert_eq!(input(b"\0a"), Some(Input::Stdin(Bytes::from_static(b"a"))));
        assert_eq!(input(b"\xff\0"), Some(Input::CloseStdin));
        let size = TtySize { rows: 5, cols: 9 };
        assert_eq!(input(b"\x04{\"Width\":9,\"Height\":5}"), Some(Input::Resize(size)));
        assert_eq!(input(b"\x05SIGINT"), Some(Input::Signal(2)));
        assert_eq!(input(b"\x06{\"output\":70}"), Some(Input::Taken(70)));
        for nothing in [&b""[..], b"\0", b"\x01", b"\xff\x01", b"\x04{", b"\x05SIGNAL", b"\x09x"] {
            assert_eq!(input(nothing), None, "{nothing:?}");
        }
        // The fourth version has no channel 255.
        assert_eq!(super::input(&Bytes::from_static(b"\xff\0"), false), None);
    }
}
