use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{Path, State};
use axum::response::Response;
use inn_api::exec::PLAIN_PROTOCOL;
use inn_api::{Code, Problem};

use super::problem::{Failed, find_vm};
use super::{ApiState, convert};
use crate::vm::{Lease, VmHandle};

/// Takes up a leased VM's lease, as a WebSocket: the VM lives as long as this
/// connection. The agent sends a `LeaseEvent` as JSON text at each change.
#[utoipa::path(get, path = "/api/vms/{vm}/lease", tag = "vms",
    params(("vm" = String, Path, description = "Name or id")), responses(
        (status = 101, description = "a WebSocket"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn lease(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    upgrade: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> Result<Response, Failed> {
    let vm = find_vm(&state.node.vms, &name)?;
    let upgrade = upgrade.map_err(|error| Failed::invalid(error.to_string()))?;
    // Taken now, so that a connection that never gets upgraded lets go of it.
    let lease = Lease::take(&state.node, &vm)
        .map_err(|reason| Failed::new(Code::Conflict, format!("VM {name}: {reason}")))?;
    Ok(upgrade.protocols([PLAIN_PROTOCOL]).on_upgrade(move |socket| async move {
        tell(&vm, socket).await;
        drop(lease);
    }))
}

async fn tell(vm: &VmHandle, mut socket: WebSocket) {
    let mut views = vm.watch();
    let mut told = None;
    loop {
        let view = views.borrow_and_update().clone();
        let event = convert::lease_event(&view);
        if told.as_ref() != Some(&event) {
            let Ok(text) = serde_json::to_string(&event) else { return };
            if socket.send(Message::Text(text.into())).await.is_err() {
                return;
            }
            told = Some(event);
        }
        if view.gone {
            let frame = CloseFrame { code: close_code::NORMAL, reason: "the VM is gone".into() };
            // A client that has gone as well needs no farewell.
            let _ = socket.send(Message::Close(Some(frame))).await;
            return;
        }
        tokio::select! {
            // Both are cancel safe: a change stays to be seen, a message is
            // taken whole or not at all.
            changed = views.changed() => if changed.is_err() { return },
            message = socket.recv() => match message {
                None | Some(Err(_) | Ok(Message::Close(_))) => return,
                Some(Ok(_)) => {}
            },
        }
    }
}
