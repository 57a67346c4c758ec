//! A VM's screen, as firmware, boot loader and system show it when there is no
//! network yet: RFB (RFC 6143) through a WebSocket, as noVNC speaks it.

use std::sync::Arc;

use axum::Json;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{Path, State};
use axum::response::Response;
use inn_api::{Code, Problem, VncAccess};
use inn_vmm::Machine;

use super::ApiState;
use super::console::join;
use super::problem::{Failed, find_vm, of_not_awake};
use crate::runtime::AnyMachine;
use crate::vm::{InUse, VmHandle};

/// noVNC's name for bytes as they are.
const PROTOCOL: &str = "binary";

/// The largest message taken: somebody types, or pastes.
const MESSAGE_LIMIT: usize = 1 << 20;

/// All that VNC authentication looks at (RFC 6143, 7.2.2).
const PASSWORD: usize = 8;

/// Without what looks alike. A byte is taken modulo their number.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// Makes a password for the VM's screen; the one before counts no more.
/// Connections that stand stay.
#[utoipa::path(post, path = "/api/vms/{vm}/vnc", operation_id = "set_vnc_password", tag = "vms",
    params(("vm" = String, Path, description = "Name or id")), responses(
        (status = 200, body = VncAccess),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "no machine runs, or it has no screen", body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn set_password(
    State(state): State<ApiState>,
    Path(name): Path<String>,
) -> Result<Json<VncAccess>, Failed> {
    let vm = find_vm(&state.node.vms, &name)?;
    let (_used, machine) = with_screen(&state, &vm).await?;
    let mut random = [0; PASSWORD];
    getrandom::fill(&mut random).map_err(|error| Failed::internal(&error))?;
    let chars = random.map(|byte| char::from(ALPHABET[usize::from(byte) % ALPHABET.len()]));
    let password = String::from_iter(chars);
    machine.set_vnc_password(&password).await.map_err(|error| refused(&name, &error))?;
    Ok(Json(VncAccess { password }))
}

/// The VM's screen, as a WebSocket of binary messages: the RFB protocol from
/// its beginning, with VNC authentication by the password that
/// `POST /api/vms/{vm}/vnc` has made.
#[utoipa::path(get, path = "/api/vms/{vm}/vnc", tag = "vms",
    params(("vm" = String, Path, description = "Name or id")), responses(
        (status = 101, description = "a WebSocket; the subprotocol `binary` is taken"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "no machine runs, or it has no screen", body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn vnc(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Failed> {
    let vm = find_vm(&state.node.vms, &name)?;
    let upgrade = upgrade.map_err(|error| Failed::invalid(error.to_string()))?;
    let (used, machine) = with_screen(&state, &vm).await?;
    let stream = machine.connect_vnc().await.map_err(|error| refused(&name, &error))?;
    let upgrade = upgrade.protocols([PROTOCOL]).max_message_size(MESSAGE_LIMIT);
    Ok(upgrade.on_upgrade(move |socket| async move {
        join(socket, stream).await;
        drop(used);
    }))
}

async fn with_screen(state: &ApiState, vm: &VmHandle) -> Result<(InUse, Arc<AnyMachine>), Failed> {
    let name = &vm.spec().name;
    let conflict = |detail: String| Failed::new(Code::Conflict, detail);
    if !vm.spec().is_full() {
        return Err(conflict(format!(
            "VM {name} has no screen: a microVM has a serial console alone (`inn vm console {name}`)"
        )));
    }
    let woken = vm.machine_in_use(&state.node).await;
    let (used, machine) = woken.map_err(|why| of_not_awake(vm, why))?;
    let machine = machine.ok_or_else(|| {
        conflict(format!("VM {name} has no screen: no machine of it runs; start it first"))
    })?;
    Ok((used, machine))
}

/// A machine that an older agent has launched, most likely.
fn refused(name: &str, error: &std::io::Error) -> Failed {
    let chain = crate::error::Chain(error);
    let detail = format!(
        "the screen of VM {name} cannot be opened: {chain}; a machine has one from its next start on"
    );
    Failed::new(Code::Conflict, detail)
}
