use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, State};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use inn_api::exec::PLAIN_PROTOCOL;
use inn_api::{Code, Problem};
use inn_vmm::Machine;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::ApiState;
use super::problem::{Failed, find_vm, of_not_awake};

/// What is read from a console at once.
const CHUNK: usize = 16 << 10;

/// The largest message taken: somebody types.
const MESSAGE_LIMIT: usize = 64 << 10;

/// The VM's serial console from now on, as a WebSocket of binary messages in
/// both directions.
#[utoipa::path(get, path = "/api/vms/{vm}/console", tag = "vms",
    params(("vm" = String, Path, description = "Name or id")), responses(
        (status = 101, description = "a WebSocket"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "no machine runs", body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn console(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    upgrade: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> Result<Response, Failed> {
    let vm = find_vm(&state.node.vms, &name)?;
    let upgrade = upgrade.map_err(|error| Failed::invalid(error.to_string()))?;
    let down = || {
        let detail = format!("VM {name} has no console: no machine of it runs; start it first");
        Failed::new(Code::Conflict, detail)
    };
    let woken = vm.machine_in_use(&state.node).await;
    let (used, machine) = woken.map_err(|why| of_not_awake(&vm, why))?;
    let machine = machine.ok_or_else(down)?;
    let stream = machine.connect_console().await.map_err(|error| {
        Failed::new(Code::Conflict, format!("the console of VM {name} cannot be opened: {error}"))
    })?;
    let upgrade = upgrade.protocols([PLAIN_PROTOCOL]).max_message_size(MESSAGE_LIMIT);
    Ok(upgrade.on_upgrade(move |socket| async move {
        join(socket, stream).await;
        drop(used);
    }))
}

/// Until either end closes. Dropping the stream leaves the machine alone.
pub(super) async fn join(socket: WebSocket, stream: UnixStream) {
    let (sink, messages) = socket.split();
    let (read, write) = stream.into_split();
    tokio::select! {
        // What either has in hand when the other ends has nowhere to go.
        () = to_client(read, sink) => {}
        () = to_console(messages, write) => {}
    }
}

async fn to_client(mut read: OwnedReadHalf, mut sink: SplitSink<WebSocket, Message>) {
    loop {
        let mut chunk = BytesMut::with_capacity(CHUNK);
        match read.read_buf(&mut chunk).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {
                if sink.send(Message::Binary(chunk.freeze())).await.is_err() {
                    return;
                }
            }
        }
    }
    // A client that has gone needs no farewell.
    let _ = sink.send(Message::Close(None)).await;
}

async fn to_console(mut messages: SplitStream<WebSocket>, mut write: OwnedWriteHalf) {
    while let Some(Ok(message)) = messages.next().await {
        let data: Bytes = match message {
            Message::Binary(data) => data,
            Message::Text(text) => text.into(),
            Message::Close(_) => return,
            Message::Ping(_) | Message::Pong(_) => continue,
        };
        if write.write_all(&data).await.is_err() {
            return;
        }
    }
}
