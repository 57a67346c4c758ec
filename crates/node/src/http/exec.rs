//! Exec as a WebSocket: `v5.channel.k8s.io`, see [`inn_api::exec`].
//!
//! ```text
//!   client ─▶ reader task ─▶ Input (bounded) ─▶ steer ─▶ the process's stdin, size, signals
//!   client ◀─────────────── sink ◀──────────── pump ◀── its output and its end
//! ```
//! A client that goes away ends the process: the reader sees it, `drive`
//! returns, and the dropped [`Exec`] does the rest.

use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, RawQuery, State};
use axum::response::Response;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use inn_api::exec::{
    CHANNEL_CLOSE, CHANNEL_ERROR, CHANNEL_RESIZE, CHANNEL_SIGNAL, CHANNEL_STDERR, CHANNEL_STDIN,
    CHANNEL_STDOUT, SUBPROTOCOL, Status, TerminalSize,
};
use inn_api::{Code, Problem};
use inn_units::ExecId;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::exec_query::ExecQuery;
use super::problem::{Failed, find_vm, of_guest, of_not_ready};
use super::{ApiState, convert};
use crate::guest::{Exec, ExecControl, ExecEvent, ExecInput, ExecSpec, TtySize};
use crate::vm::VmHandle;

/// The largest message taken.
const MESSAGE_LIMIT: usize = 1 << 20;

/// Messages that wait while the process does not read: past it the client
/// has to wait, too.
const INPUTS: usize = 16;

type Sink = SplitSink<WebSocket, Message>;

/// Runs a command in the VM, as a WebSocket of the subprotocol
/// `v5.channel.k8s.io`. The VM may still be starting. `env` (`K=V`), `workdir`,
/// `user`, `timeout`, `rows`, `cols` and `image-entrypoint` are of ours.
#[utoipa::path(get, path = "/api/vms/{vm}/exec", tag = "vms",
    params(
        ("vm" = String, Path, description = "Name or id"),
        ("command" = Vec<String>, Query, description = "Repeats"),
        ("stdin" = Option<bool>, Query), ("stdout" = Option<bool>, Query),
        ("stderr" = Option<bool>, Query), ("tty" = Option<bool>, Query),
        ("env" = Option<Vec<String>>, Query, description = "`K=V`, repeats"),
        ("workdir" = Option<String>, Query), ("user" = Option<String>, Query),
        ("timeout" = Option<String>, Query, example = "30s"),
        ("rows" = Option<u16>, Query), ("cols" = Option<u16>, Query),
        ("image-entrypoint" = Option<bool>, Query,
            description = "Put the image's entrypoint in front, and its CMD where no command is given"),
    ), responses(
        (status = 101, description = "a WebSocket"),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn exec(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    upgrade: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> Result<Response, Failed> {
    let vm = find_vm(&state.node.vms, &name)?;
    let query = ExecQuery::parse(query.as_deref().unwrap_or_default()).map_err(Failed::invalid)?;
    let spec = exec_spec(&vm, &query)?;
    let upgrade = upgrade.map_err(|error| Failed::invalid(error.to_string()))?;
    let closing = state.node.closing.clone();
    Ok(upgrade.protocols([SUBPROTOCOL]).max_message_size(MESSAGE_LIMIT).on_upgrade(
        move |socket| async move {
            closing.run_until_cancelled(drive(vm, query, spec, socket)).await;
        },
    ))
}

fn exec_spec(vm: &VmHandle, query: &ExecQuery) -> Result<ExecSpec, Failed> {
    let spec = vm.spec();
    let argv = if query.image_entrypoint {
        let command = (!query.command.is_empty()).then_some(query.command.as_slice());
        spec.argv_of(command)
    } else {
        query.command.clone()
    };
    if argv.is_empty() {
        let image = spec.source_name();
        return Err(Failed::invalid(format!("{image} has no command; give one")));
    }
    let mut id = [0; ExecId::BYTES];
    getrandom::fill(&mut id).map_err(|error| Failed::internal(&std::io::Error::other(error)))?;
    let run = spec.run_defaults();
    Ok(ExecSpec {
        env: spec.environment(&query.env),
        cwd: query.workdir.clone().or_else(|| run.working_dir.clone()),
        make_cwd: query.workdir.is_none(),
        user: query.user.clone().or_else(|| run.user.clone()),
        tty: query.tty,
        stdin: query.stdin,
        timeout: query.timeout,
        ..ExecSpec::new(ExecId::from_bytes(id), argv)
    })
}

/// What a client says once its process is asked for.
#[derive(Debug)]
enum Input {
    Stdin(Bytes),
    CloseStdin,
    Resize(TtySize),
    Signal(i32),
}

async fn drive(vm: VmHandle, query: ExecQuery, spec: ExecSpec, socket: WebSocket) {
    let (mut sink, messages) = socket.split();
    let (sender, inputs) = mpsc::channel(INPUTS);
    let gone = CancellationToken::new();
    let reader = tokio::spawn(read(messages, sender, gone.clone()));
    let status = tokio::select! {
        // What has been begun ends with what is dropped.
        status = run(&vm, &query, spec, inputs, &mut sink) => status,
        () = gone.cancelled() => None,
    };
    reader.abort();
    if let Some(status) = status {
        farewell(&mut sink, &status).await;
    }
}

/// From the wait for the guest to the process's end. `None`: nobody listens.
async fn run(
    vm: &VmHandle,
    query: &ExecQuery,
    spec: ExecSpec,
    inputs: mpsc::Receiver<Input>,
    sink: &mut Sink,
) -> Option<Status> {
    let failed = |failed: Failed| Some(convert::exec_failure(&failed.0));
    let session = match vm.session().await {
        Ok(session) => session,
        Err(why) => return failed(of_not_ready(vm, &why)),
    };
    let mut exec = match session.exec(spec).await {
        Ok(exec) => exec,
        Err(error) => return failed(of_guest(vm, &error)),
    };
    let steering = steer(inputs, exec.take_stdin(), exec.control());
    let pumping = pump(vm, query, &mut exec, sink);
    tokio::pin!(steering, pumping);
    let mut steered = false;
    loop {
        tokio::select! {
            // Each goes on where it was when the other has something.
            status = &mut pumping => return status,
            () = &mut steering, if !steered => steered = true,
        }
    }
}

async fn pump(
    vm: &VmHandle,
    query: &ExecQuery,
    exec: &mut Exec,
    sink: &mut Sink,
) -> Option<Status> {
    loop {
        let (channel, bytes) = match exec.next().await {
            Ok(Some(
                ExecEvent::Started { .. }
                | ExecEvent::RunStarted { .. }
                | ExecEvent::RunEnded { .. },
            )) => continue,
            Ok(Some(ExecEvent::Stdout(output))) if query.stdout => (CHANNEL_STDOUT, output.bytes),
            Ok(Some(ExecEvent::Stderr(output))) if query.stderr => (CHANNEL_STDERR, output.bytes),
            Ok(Some(ExecEvent::Stdout(_) | ExecEvent::Stderr(_))) => continue,
            Ok(Some(ExecEvent::Exited(end))) => return Some(convert::exec_status(&end)),
            Ok(None) => {
                let failed = Failed::new(Code::GuestUnavailable, "the command's end is unknown");
                return Some(convert::exec_failure(&failed.0));
            }
            Err(error) => {
                let failure = convert::exec_failure(&of_guest(vm, &error).0);
                return Some(convert::with_shell_code(failure, &error));
            }
        };
        sink.send(message(channel, &bytes)).await.ok()?;
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
        };
        if let Err(error) = passed {
            tracing::debug!(%error, "an exec's input goes nowhere");
        }
    }
}

async fn read(
    mut messages: SplitStream<WebSocket>,
    inputs: mpsc::Sender<Input>,
    gone: CancellationToken,
) {
    while let Some(Ok(message)) = messages.next().await {
        let data = match message {
            Message::Binary(data) => data,
            Message::Close(_) => break,
            // Of text the protocol knows nothing; pings are answered underneath.
            Message::Text(_) | Message::Ping(_) | Message::Pong(_) => continue,
        };
        if let Some(input) = input(&data)
            && inputs.send(input).await.is_err()
        {
            // Over: the status is on its way.
            return;
        }
    }
    gone.cancel();
}

/// What a message says; nothing, if it is none of the protocol.
fn input(data: &Bytes) -> Option<Input> {
    let channel = *data.first()?;
    let rest = data.slice(1..);
    match channel {
        // Kubernetes' clients open each channel by an empty message.
        CHANNEL_STDIN => (!rest.is_empty()).then_some(Input::Stdin(rest)),
        CHANNEL_CLOSE => (rest.first() == Some(&CHANNEL_STDIN)).then_some(Input::CloseStdin),
        CHANNEL_RESIZE => {
            let TerminalSize { cols, rows } = serde_json::from_slice(&rest).ok()?;
            Some(Input::Resize(TtySize { rows, cols }))
        }
        CHANNEL_SIGNAL => {
            convert::signal_number(std::str::from_utf8(&rest).ok()?).map(Input::Signal)
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
