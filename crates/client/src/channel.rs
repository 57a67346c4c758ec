//! The WebSockets of a VM: exec and attach, lease and console.

use std::fmt;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use http::{HeaderMap, HeaderValue, Request};
use inn_api::LeaseEvent;
use inn_api::exec::{
    CHANNEL_CLOSE, CHANNEL_ERROR, CHANNEL_RESIZE, CHANNEL_SIGNAL, CHANNEL_STDERR, CHANNEL_STDIN,
    CHANNEL_STDOUT, CHANNEL_TAKEN, EXEC_ID, InputTaken, OutputTaken, SUBPROTOCOL, Status,
    TerminalSize,
};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::query::{Target, duration};
use crate::transport::{Io, TRACEPARENT, problem_in};
use crate::{Client, ClientError};

/// Largest message taken: the agent sends 64 KiB of output at most in one.
const MESSAGE_LIMIT: usize = 1 << 20;

/// How long the agent may take to accept a WebSocket, which needs no VM to be
/// ready, only the agent to be alive.
const UPGRADE_DEADLINE: Duration = Duration::from_secs(60);

type Socket = WebSocketStream<Box<dyn Io>>;

/// A process to be, in a VM that may still be starting.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecRequest {
    /// May be empty with `image_entrypoint`: the image's own CMD then.
    pub command: Vec<String>,
    /// In place of `command`: a line for the guest's shell.
    pub shell: Option<String>,
    pub env: Vec<(String, String)>,
    pub workdir: Option<String>,
    pub user: Option<String>,
    /// Ends the process when it runs longer.
    pub timeout: Option<Duration>,
    /// Output after so many bytes is dropped; the status says how many.
    pub output_limit: Option<u64>,
    /// Whether stdin will be sent; otherwise it is empty.
    pub stdin: bool,
    /// A terminal of this size; its output has no separate stderr.
    pub tty: Option<TerminalSize>,
    /// Puts the image's entrypoint in front of the command.
    pub image_entrypoint: bool,
    /// A connection that breaks off is not made anew: the VM ends with it.
    pub once: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecEvent {
    Stdout(Bytes),
    Stderr(Bytes),
    /// Where it is asked for: so much of the input has arrived.
    InputTaken(InputTaken),
    /// The process has ended or could not be started; nothing follows.
    Status(Status),
}

/// What goes to a process. Dropping it leaves the process alone.
pub struct ExecSender(SplitSink<Socket, Message>);

/// What comes from a process.
pub struct ExecReceiver(SplitStream<Socket>);

/// Keeps a leased VM alive: once this is closed or dropped, the VM goes.
pub struct Lease(Socket);

pub struct ConsoleSender(SplitSink<Socket, Message>);

pub struct ConsoleReceiver(SplitStream<Socket>);

impl Client {
    pub async fn exec(
        &self,
        vm: &str,
        request: &ExecRequest,
    ) -> Result<(ExecSender, ExecReceiver), ClientError> {
        let (_, channel) = self.open_exec(&exec_target(vm, request)).await?;
        Ok(channel)
    }

    /// With its id, and with word of what is taken of input and output.
    pub(crate) async fn exec_to_confirm(
        &self,
        vm: &str,
        request: &ExecRequest,
    ) -> Result<(Option<String>, (ExecSender, ExecReceiver)), ClientError> {
        self.open_exec(&exec_target(vm, request).with_flag("confirm", true)).await
    }

    /// A detached command's output from `offset` on, as far as the guest still
    /// has it, and what follows until its end.
    pub async fn attach_exec(
        &self,
        vm: &str,
        exec: &str,
        offset: u64,
        stdin: bool,
    ) -> Result<(ExecSender, ExecReceiver), ClientError> {
        let (_, channel) = self.open_exec(&attach_target(vm, exec, offset, stdin)).await?;
        Ok(channel)
    }

    pub(crate) async fn attach_to_confirm(
        &self,
        vm: &str,
        exec: &str,
        offset: u64,
        stdin: bool,
    ) -> Result<(ExecSender, ExecReceiver), ClientError> {
        let target = attach_target(vm, exec, offset, stdin).with_flag("confirm", true);
        let (_, channel) = self.open_exec(&target).await?;
        Ok(channel)
    }

    /// With the exec's id, where the answer names it.
    async fn open_exec(
        &self,
        target: &Target,
    ) -> Result<(Option<String>, (ExecSender, ExecReceiver)), ClientError> {
        let (socket, headers) = self.open_socket(target, Some(SUBPROTOCOL)).await?;
        let id = headers.get(EXEC_ID).and_then(|id| id.to_str().ok()).map(str::to_owned);
        let (sink, stream) = socket.split();
        Ok((id, (ExecSender(sink), ExecReceiver(stream))))
    }

    /// Takes up the lease of a VM that was created with one.
    pub async fn lease(&self, vm: &str) -> Result<Lease, ClientError> {
        let (socket, _) = self.open_socket(&Target::api(&["vms", vm, "lease"]), None).await?;
        Ok(Lease(socket))
    }

    /// The VM's serial console, from now on.
    pub async fn console(&self, vm: &str) -> Result<(ConsoleSender, ConsoleReceiver), ClientError> {
        let (socket, _) = self.open_socket(&Target::api(&["vms", vm, "console"]), None).await?;
        let (sink, stream) = socket.split();
        Ok((ConsoleSender(sink), ConsoleReceiver(stream)))
    }

    /// The VM's screen: bytes of the RFB protocol, from its beginning.
    pub async fn vnc(&self, vm: &str) -> Result<(ConsoleSender, ConsoleReceiver), ClientError> {
        let (socket, _) =
            self.open_socket(&Target::api(&["vms", vm, "vnc"]), Some("binary")).await?;
        let (sink, stream) = socket.split();
        Ok((ConsoleSender(sink), ConsoleReceiver(stream)))
    }

    async fn open_socket(
        &self,
        target: &Target,
        subprotocol: Option<&'static str>,
    ) -> Result<(Socket, HeaderMap), ClientError> {
        let during = format!("GET {}", target.as_str());
        let refuse = |e: &dyn fmt::Display| ClientError::protocol(&during, e.to_string());
        let url = format!("ws://{}{}", self.host(), target.as_str());
        let mut request: Request<()> = url.into_client_request().map_err(|e| refuse(&e))?;
        if let Some(name) = subprotocol {
            request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name));
        }
        if let Some(bearer) = self.bearer() {
            let value = HeaderValue::try_from(bearer).map_err(|e| refuse(&e))?;
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        if let Some(traceparent) = self.traceparent() {
            request.headers_mut().insert(TRACEPARENT, traceparent.clone());
        }
        let io = self.connect().await?;
        let config = WebSocketConfig::default()
            .max_message_size(Some(MESSAGE_LIMIT))
            .max_frame_size(Some(MESSAGE_LIMIT))
            // Terminal input and small outputs go out as they come.
            .write_buffer_size(0);
        let upgrade = client_async_with_config(request, io, Some(config));
        match tokio::time::timeout(UPGRADE_DEADLINE, upgrade).await {
            Ok(Ok((socket, answer))) => {
                tracing::debug!(request = during, "upgraded");
                Ok((socket, answer.into_parts().0.headers))
            }
            Ok(Err(WsError::Http(response))) => {
                let status = response.status().as_u16();
                let body = response.into_body().unwrap_or_default();
                Err(problem_in(&during, status, &body))
            }
            Ok(Err(e)) => Err(ClientError::broken(&during, e)),
            Err(_) => Err(ClientError::Silent { during, seconds: UPGRADE_DEADLINE.as_secs() }),
        }
    }
}

fn exec_target(vm: &str, request: &ExecRequest) -> Target {
    let mut target = Target::api(&["vms", vm, "exec"]);
    for word in &request.command {
        target = target.with("command", word);
    }
    for (key, value) in &request.env {
        target = target.with("env", format_args!("{key}={value}"));
    }
    target
        .with_some("shell", request.shell.as_ref())
        .with_some("workdir", request.workdir.as_ref())
        .with_some("user", request.user.as_ref())
        .with_some("timeout", request.timeout.map(duration))
        .with_some("output-limit", request.output_limit)
        .with_flag("stdin", request.stdin)
        .with_flag("stdout", true)
        .with_flag("stderr", request.tty.is_none())
        .with_flag("tty", request.tty.is_some())
        .with_some("rows", request.tty.map(|size| size.rows))
        .with_some("cols", request.tty.map(|size| size.cols))
        .with_flag("image-entrypoint", request.image_entrypoint)
}

fn attach_target(vm: &str, exec: &str, offset: u64, stdin: bool) -> Target {
    Target::api(&["vms", vm, "execs", exec, "attach"])
        .with("offset", offset)
        .with_flag("stdin", stdin)
        .with_flag("stdout", true)
        .with_flag("stderr", true)
}

impl ExecSender {
    pub async fn stdin(&mut self, data: &[u8]) -> Result<(), ClientError> {
        self.send(CHANNEL_STDIN, data).await
    }

    /// The process reads the end of its input; its output goes on.
    pub async fn close_stdin(&mut self) -> Result<(), ClientError> {
        self.send(CHANNEL_CLOSE, &[CHANNEL_STDIN]).await
    }

    pub async fn resize(&mut self, size: TerminalSize) -> Result<(), ClientError> {
        let json = serde_json::to_vec(&size)
            .map_err(|e| ClientError::protocol("a resize", e.to_string()))?;
        self.send(CHANNEL_RESIZE, &json).await
    }

    /// Sends a signal such as `SIGINT` to the process's group.
    pub async fn signal(&mut self, name: &str) -> Result<(), ClientError> {
        self.send(CHANNEL_SIGNAL, name.as_bytes()).await
    }

    /// All output before `offset` is here; for an exec that confirms.
    pub(crate) async fn output_taken(&mut self, output: u64) -> Result<(), ClientError> {
        let json = serde_json::to_vec(&OutputTaken { output })
            .map_err(|e| ClientError::protocol("what was taken", e.to_string()))?;
        self.send(CHANNEL_TAKEN, &json).await
    }

    async fn send(&mut self, channel: u8, data: &[u8]) -> Result<(), ClientError> {
        let mut message = BytesMut::with_capacity(1 + data.len());
        message.extend_from_slice(&[channel]);
        message.extend_from_slice(data);
        let sent = self.0.send(Message::Binary(message.freeze())).await;
        sent.map_err(|e| ClientError::broken("exec", e))
    }
}

impl ExecReceiver {
    /// The next event; none once the agent has closed the channel. Cancel
    /// safe: a message is taken whole or not at all.
    pub async fn next(&mut self) -> Result<Option<ExecEvent>, ClientError> {
        while let Some(mut data) = next_binary(&mut self.0, "exec").await? {
            if data.is_empty() {
                return Err(ClientError::protocol("exec", "a message without a channel"));
            }
            let channel = data.split_to(1)[0];
            match channel {
                CHANNEL_STDOUT => return Ok(Some(ExecEvent::Stdout(data))),
                CHANNEL_STDERR => return Ok(Some(ExecEvent::Stderr(data))),
                CHANNEL_TAKEN => {
                    let taken = serde_json::from_slice(&data)
                        .map_err(|e| ClientError::protocol("exec", e.to_string()))?;
                    return Ok(Some(ExecEvent::InputTaken(taken)));
                }
                CHANNEL_ERROR => {
                    let status = serde_json::from_slice(&data)
                        .map_err(|e| ClientError::protocol("exec", e.to_string()))?;
                    return Ok(Some(ExecEvent::Status(status)));
                }
                // The end of one stream is in the status too; channels of a
                // later version mean nothing to us.
                _ => {}
            }
        }
        Ok(None)
    }
}

impl Lease {
    /// The VM's next change; none once the VM is gone. Cancel safe.
    pub async fn next(&mut self) -> Result<Option<LeaseEvent>, ClientError> {
        loop {
            match self.0.next().await {
                None | Some(Ok(Message::Close(_))) => return Ok(None),
                Some(Ok(Message::Text(text))) => {
                    let event = serde_json::from_str(&text)
                        .map_err(|e| ClientError::protocol("the lease", e.to_string()))?;
                    return Ok(Some(event));
                }
                Some(Ok(_)) => {}
                Some(Err(WsError::ConnectionClosed | WsError::AlreadyClosed)) => return Ok(None),
                Some(Err(e)) => return Err(ClientError::broken("the lease", e)),
            }
        }
    }

    /// Gives the VM up.
    pub async fn close(mut self) -> Result<(), ClientError> {
        match self.0.close(None).await {
            Ok(()) | Err(WsError::ConnectionClosed | WsError::AlreadyClosed) => Ok(()),
            Err(e) => Err(ClientError::broken("the lease", e)),
        }
    }
}

impl ConsoleSender {
    pub async fn send(&mut self, data: Bytes) -> Result<(), ClientError> {
        let sent = self.0.send(Message::Binary(data)).await;
        sent.map_err(|e| ClientError::broken("the console", e))
    }
}

impl ConsoleReceiver {
    /// The next output; none once the machine has ended. Cancel safe.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        next_binary(&mut self.0, "the console").await
    }
}

async fn next_binary(
    stream: &mut SplitStream<Socket>,
    during: &str,
) -> Result<Option<Bytes>, ClientError> {
    loop {
        match stream.next().await {
            None | Some(Ok(Message::Close(_))) => return Ok(None),
            Some(Ok(Message::Binary(data))) => return Ok(Some(data)),
            Some(Ok(Message::Text(text))) => return Ok(Some(text.into())),
            // Pings are answered underneath.
            Some(Ok(_)) => {}
            Some(Err(WsError::ConnectionClosed | WsError::AlreadyClosed)) => return Ok(None),
            Some(Err(e)) => return Err(ClientError::broken(during, e)),
        }
    }
}

macro_rules! opaque_debug {
    ($($ty:ident),*) => {$(
        impl fmt::Debug for $ty {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($ty)).finish_non_exhaustive()
            }
        }
    )*};
}
opaque_debug!(ExecSender, ExecReceiver, Lease, ConsoleSender, ConsoleReceiver);
