pub(super) mod address;
mod disk_source;
pub(super) mod idle;
pub(super) mod limits;
pub(super) mod policy;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use inn_api::{Code, Phase, Problem, TtlSet, Vm, VmCreate, VmList};
use inn_domain::{ImagePin, Request, ResourceLimits, VmSource};
use inn_units::{Generation, nearest};
use serde::Deserialize;
use utoipa::IntoParams;

use super::auth::sees;
use super::extract::{Body, Params, Wait};
use super::idempotency::Keyed;
use super::paging::{self, Paging};
use super::problem::{Failed, find_vm, of_request};
use super::{ApiState, convert};
use crate::access::Principal;
use crate::hold::Held;
use crate::images::pin;
use crate::node::Node;
use crate::pull;
use crate::traces;
use crate::vm::{NewVm, TtlError, VmHandle, VmView};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListParams {
    /// Only VMs in this phase.
    status: Option<Phase>,
    /// Only the VM of this name.
    name: Option<String>,
    /// Only VMs with this label: `key` or `key=value`.
    label: Option<String>,
    /// The most of a page: 1 to 1000; all unless given.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// Only what comes after: the `next` of the page before.
    after: Option<String>,
}

/// The node's VMs, oldest first.
#[utoipa::path(get, path = "/api/vms", operation_id = "list_vms", tag = "vms", params(ListParams), responses(
    (status = 200, body = VmList),
    (status = 400, body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn list(
    State(state): State<ApiState>,
    Params(params): Params<ListParams>,
) -> Result<Json<VmList>, Failed> {
    let paging = Paging::new(params.limit)?;
    let after = params.after.as_deref().map(paging::place).transpose()?;
    let place = |vm: &VmHandle| (vm.created_at(), vm.id());
    let mut items = Vec::new();
    for vm in state.node.vms.all().into_iter().filter(|vm| sees(vm.id())) {
        if after.is_some_and(|after| place(&vm) <= after) {
            continue;
        }
        let view = vm.view();
        let wanted = params.status.is_none_or(|status| view.phase == convert::phase_of(status))
            && params.name.as_ref().is_none_or(|name| name == vm.spec().name.as_str())
            && params.label.as_ref().is_none_or(|label| has_label(&vm, label));
        if wanted {
            items.push((vm, view));
        }
    }
    let (items, next) = paging.page(items, |(vm, _)| paging::cursor(place(vm)));
    let items = items.iter().map(|(vm, view)| convert::vm(&state.node, vm, view)).collect();
    Ok(Json(VmList { items, next }))
}

fn has_label(vm: &VmHandle, wanted: &str) -> bool {
    match wanted.split_once('=') {
        Some((key, value)) => vm.spec().labels.get(key).is_some_and(|v| v == value),
        None => vm.spec().labels.contains_key(wanted),
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct WaitParams {
    /// Answer once the VM has settled, at the latest after this time.
    #[param(value_type = Option<String>, example = "30s", pattern = "^[0-9]{1,6}(ms|s|m|h|d)?$")]
    pub(super) wait: Option<Wait>,
}

/// Makes a VM.
#[utoipa::path(post, path = "/api/vms", operation_id = "create_vm", tag = "vms", params(WaitParams), request_body = VmCreate,
    responses(
        (status = 201, description = "made, and settled within `wait`", body = Vm),
        (status = 202, description = "accepted", body = Vm),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "no such image", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "the name is in use", body = Problem, content_type = "application/problem+json"),
        (status = 507, description = "no room for it on the node", body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn create(
    State(state): State<ApiState>,
    Params(params): Params<WaitParams>,
    asked: (Extension<Principal>, Keyed),
    Body(mut create): Body<VmCreate>,
) -> Result<Response, Failed> {
    let node = &state.node;
    let (Extension(principal), key) = asked;
    if let Some(id) = key.accepted() {
        let vm = node.vms.accepted(id).await.ok_or_else(made_and_gone)?;
        return made(node, &vm, params.wait).await;
    }
    if let Some(text) = create.cloud_init.as_ref().and_then(|it| it.user_data.as_deref()) {
        inn_cloud_init::check_user_data(text).map_err(|why| Failed::invalid(why.to_string()))?;
    }
    let source = resolve_source(node, &create).await?;
    let name = match &create.name {
        Some(name) => name.clone(),
        None => match &source {
            VmSource::Image(image) => node.vms.free_name(&image.name)?,
            VmSource::Disk(disk) => node.vms.free_name(&disk_source::stem(disk))?,
        },
    };
    let (start, replace, cold) = (create.start, create.replace, create.cold);
    let ttl = convert::ttl(&create);
    let on_idle = convert::on_idle(create.on_idle);
    if start {
        not_held(node)?;
    }
    let policy = convert::network::policy_in(std::mem::take(&mut create.policy))?;
    let ports = std::mem::take(&mut create.ports)
        .into_iter()
        .map(|map| convert::network::new_port_map(map, true, |_| Err(Failed::invalid(""))))
        .collect::<Result<Vec<_>, _>>()?;
    let spec = convert::vm_spec(create, name, source, (node.config.live().defaults, policy));
    let none = ResourceLimits::default();
    limits::may_limit(&principal, none, spec.limits, (spec.memory, spec.vcpus))?;
    let (held, mark) = (None, key.mark());
    let new = NewVm { spec, start, replace, ttl, on_idle, ports, held, cold, mark };
    let vm = to_its_end(key, {
        let node = Arc::clone(node);
        async move { node.vms.create(&node, new).await }
    })
    .await??;
    made(node, &vm, params.wait).await
}

fn gone(name: &str) -> Failed {
    Failed::new(Code::NotFound, format!("VM {name} is deleted"))
}

fn made_and_gone() -> Failed {
    Failed::new(
        Code::Conflict,
        "this request was carried out before, and the VM that it made is deleted by now; with \
         another key it makes another",
    )
}

/// A client that goes away takes its request along, and half of a change is of
/// no use: what is stored and what is known have to agree. The key is at work
/// until then.
async fn to_its_end<T: Send + 'static>(
    key: Keyed,
    change: impl Future<Output = T> + Send + 'static,
) -> Result<T, Failed> {
    let done = tokio::spawn(traces::within(traces::current(), async move {
        let done = change.await;
        drop(key);
        done
    }));
    done.await.map_err(|error| Failed::internal(&error))
}

async fn made(node: &Node, vm: &VmHandle, wait: Option<Wait>) -> Result<Response, Failed> {
    let (view, settled) = match wait {
        Some(Wait(wait)) => {
            let view = vm.wait_for(Generation::FIRST, wait).await;
            let settled = view.has_settled();
            (view, settled)
        }
        None => (vm.view(), false),
    };
    let status = if settled { StatusCode::CREATED } else { StatusCode::ACCEPTED };
    let location = HeaderValue::from_str(&format!("/api/vms/{}", vm.id()))
        .map_err(|error| Failed::internal(&error))?;
    let body = Json(convert::vm(node, vm, &view));
    Ok((status, [(header::LOCATION, location)], body).into_response())
}

/// What a new VM is made of: an image, or a disk image.
async fn resolve_source(node: &Node, create: &VmCreate) -> Result<VmSource, Failed> {
    match (&create.disk_image, &create.image) {
        (Some(_), Some(_)) => {
            Err(Failed::invalid("an image and a disk image are given; a VM has one of them"))
        }
        (Some(disk), None) => {
            disk_source::resolve(node.disk_images.store(), disk).await.map(VmSource::Disk)
        }
        (None, _) => resolve_image(node, create).await.map(VmSource::Image),
    }
}

/// The image that a new VM boots: named, or the one of its language.
async fn resolve_image(node: &Node, create: &VmCreate) -> Result<ImagePin, Failed> {
    let live = node.config.live();
    let languages = &live.languages;
    let of_language = match &create.language {
        None => None,
        Some(language) => Some(languages.get(language).ok_or_else(|| {
            let known: Vec<&str> = languages.keys().map(String::as_str).collect();
            let near = nearest(language, known.iter().copied());
            let hint = near.map_or_else(
                || format!("there are {}", known.join(", ")),
                |near| format!("did you mean {near}?"),
            );
            Failed::invalid(format!("the language {language} is unknown; {hint}"))
        })?),
    };
    let name = create.image.as_ref().or(of_language).ok_or_else(|| {
        Failed::invalid("a VM needs an image or a language, or a disk image; give it one")
    })?;
    if let Some(record) = node.images.find(name).await? {
        return Ok(pin(name, record));
    }
    // One that was pulled may be asked for as it was then.
    if let Some(local) = pull::local_name(name)
        && let Some(record) = node.images.find(local.as_str()).await?
    {
        return Ok(pin(name, record));
    }
    let all = node.images.list().await?;
    let hint = match nearest(name, all.iter().map(|record| record.name.as_str())) {
        Some(near) => format!("did you mean {near}?"),
        None => format!(
            "`inn image pull REFERENCE --name {name}` or `inn image import PATH --name {name}` brings it here"
        ),
    };
    let shown: String = name.chars().take(255).collect();
    let whose = match (&create.image, &create.language) {
        (None, Some(language)) => {
            format!(" of the language {language} (languages.{language} in the configuration)")
        }
        _ => String::new(),
    };
    Err(Failed::new(Code::NotFound, format!("there is no image {shown}{whose}; {hint}")))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ShowParams {
    /// Answer once the VM has settled at `generation`, at the latest after
    /// this time.
    #[param(value_type = Option<String>, example = "30s", pattern = "^[0-9]{1,6}(ms|s|m|h|d)?$")]
    wait: Option<Wait>,
    /// The generation to wait for; the current one unless given.
    #[param(value_type = Option<u64>)]
    generation: Option<Generation>,
}

/// One VM.
#[utoipa::path(get, path = "/api/vms/{vm}", operation_id = "show_vm", tag = "vms",
    params(("vm" = String, Path, description = "Name or id"), ShowParams), responses(
        (status = 200, body = Vm),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn show(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    Params(params): Params<ShowParams>,
) -> Result<Json<Vm>, Failed> {
    let vm = find_vm(&state.node.vms, &name)?;
    if state.node.networks.is_attached(vm.id()) {
        state.node.networks.count().await;
    }
    let mut view = vm.view();
    if let Some(Wait(wait)) = params.wait {
        let generation = params.generation.unwrap_or(view.desired.generation);
        view = vm.wait_for(generation, wait).await;
        if view.gone {
            return Err(gone(&name));
        }
    }
    Ok(Json(convert::vm(&state.node, &vm, &view)))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(super) struct DeleteParams {
    /// End the machine without asking the guest.
    #[serde(default)]
    force: bool,
    /// Set the VM's writable disk aside, in the data directory's `kept`.
    #[serde(default)]
    keep_disk: bool,
    /// Remove the disk at /persist too, which otherwise outlives the VM.
    #[serde(default)]
    purge_persist: bool,
    /// Answer once the VM is gone, at the latest after this time.
    #[param(value_type = Option<String>, example = "30s", pattern = "^[0-9]{1,6}(ms|s|m|h|d)?$")]
    wait: Option<Wait>,
}

/// Deletes a VM, whatever its phase.
#[utoipa::path(delete, path = "/api/vms/{vm}", operation_id = "delete_vm", tag = "vms",
    params(("vm" = String, Path, description = "Name or id"), DeleteParams), responses(
        (status = 200, description = "gone within `wait`; as it was last", body = Vm),
        (status = 202, description = "accepted", body = Vm),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn delete(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    Params(params): Params<DeleteParams>,
    key: Keyed,
) -> Result<Response, Failed> {
    let vm = find_vm(&state.node.vms, &name)?;
    let stop = convert::stop(params.force, None, state.node.config.live().stop_timeout);
    let removal = convert::removal(params.keep_disk, params.purge_persist);
    let asked = {
        let (node, vm, key) = (Arc::clone(&state.node), vm.clone(), key.clone());
        async move {
            // No VM of this name is wanted, the one that was to come neither.
            vm.withdraw_successor(&node).await?;
            // Once it is gone there is nothing to answer with.
            let mark =
                |view: &VmView| key.mark_with(StatusCode::ACCEPTED, &convert::vm(&node, &vm, view));
            vm.request_for(&node.store, Request::Delete(stop, removal), mark).await
        }
    };
    let asked = to_its_end(key, asked).await?;
    let mut view = asked.map_err(|error| of_request(&vm, &error))?;
    if let Some(Wait(wait)) = params.wait {
        view = vm.wait_gone(wait).await;
    }
    let status = if view.gone { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(convert::vm(&state.node, &vm, &view))).into_response())
}

/// Starts a VM. Succeeds on one that runs.
#[utoipa::path(post, path = "/api/vms/{vm}/start", tag = "vms",
    params(("vm" = String, Path, description = "Name or id"), WaitParams), responses(
        (status = 200, description = "settled within `wait`", body = Vm),
        (status = 202, description = "accepted", body = Vm),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
        (status = 507, description = "no room for it on the node", body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn start(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    Params(params): Params<WaitParams>,
    key: Keyed,
) -> Result<Response, Failed> {
    change((&state.node, key), &name, Request::Start, params.wait).await
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct StopParams {
    /// End the machine without asking the guest.
    #[serde(default)]
    force: bool,
    /// How long the guest gets to shut down before its machine is ended.
    #[param(value_type = Option<String>, example = "30s", pattern = "^[0-9]{1,6}(ms|s|m|h|d)?$")]
    timeout: Option<Wait>,
    /// Answer once the VM has settled, at the latest after this time.
    #[param(value_type = Option<String>, example = "30s", pattern = "^[0-9]{1,6}(ms|s|m|h|d)?$")]
    wait: Option<Wait>,
}

/// Stops a VM: asks the guest to shut down and ends its machine once the
/// timeout is over. Succeeds on one that is stopped.
#[utoipa::path(post, path = "/api/vms/{vm}/stop", tag = "vms",
    params(("vm" = String, Path, description = "Name or id"), StopParams), responses(
        (status = 200, description = "settled within `wait`", body = Vm),
        (status = 202, description = "accepted", body = Vm),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn stop(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    Params(params): Params<StopParams>,
    key: Keyed,
) -> Result<Response, Failed> {
    let request = Request::Stop(stop_kind(&state.node, &params));
    change((&state.node, key), &name, request, params.wait).await
}

/// Stops a VM as `stop` does, and starts it again.
#[utoipa::path(post, path = "/api/vms/{vm}/restart", tag = "vms",
    params(("vm" = String, Path, description = "Name or id"), StopParams), responses(
        (status = 200, description = "settled within `wait`", body = Vm),
        (status = 202, description = "accepted", body = Vm),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
        (status = 507, description = "no room for it on the node", body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn restart(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    Params(params): Params<StopParams>,
    key: Keyed,
) -> Result<Response, Failed> {
    let request = Request::Restart(stop_kind(&state.node, &params));
    change((&state.node, key), &name, request, params.wait).await
}

/// Gives a VM another time to live, from now on, or all the time there is.
#[utoipa::path(post, path = "/api/vms/{vm}/ttl", tag = "vms", request_body = TtlSet,
    params(("vm" = String, Path, description = "Name or id")), responses(
        (status = 200, body = Vm),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "it is being deleted", body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn set_ttl(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    Body(set): Body<TtlSet>,
) -> Result<Json<Vm>, Failed> {
    let vm = find_vm(&state.node.vms, &name)?;
    let (ttl, action) = convert::ttl_set(set);
    vm.set_ttl(&state.node, ttl, action).await.map_err(|error| {
        let code = match &error {
            TtlError::Denied(_) => Code::InvalidRequest,
            TtlError::BeingDeleted => Code::Conflict,
            TtlError::Store(_) => return Failed::internal(&error),
        };
        Failed::new(code, format!("VM {name}: {error}"))
    })?;
    Ok(Json(convert::vm(&state.node, &vm, &vm.view())))
}

fn stop_kind(node: &Node, params: &StopParams) -> inn_domain::StopKind {
    let timeout: Option<Duration> = params.timeout.map(|Wait(timeout)| timeout);
    convert::stop(params.force, timeout, node.config.live().stop_timeout)
}

/// A VM that is to run now, and would not.
pub(super) fn not_held(node: &Node) -> Result<(), Failed> {
    if node.holds() { Err(Failed::new(Code::Conflict, Held.to_string())) } else { Ok(()) }
}

pub(super) async fn change(
    (node, key): (&Arc<Node>, Keyed),
    name: &str,
    request: Request,
    wait: Option<Wait>,
) -> Result<Response, Failed> {
    if let Some(id) = key.accepted() {
        let vm = node.vms.of_id(id).filter(|vm| sees(vm.id()));
        let vm = vm.ok_or_else(|| gone(name))?;
        return changed(node, &vm, vm.view(), wait).await;
    }
    let vm = find_vm(&node.vms, name)?;
    let _room = match request {
        Request::Start | Request::Restart(_) => {
            not_held(node)?;
            let denied =
                |code, why: &dyn std::fmt::Display| Failed::new(code, format!("VM {name}: {why}"));
            // One that runs is what is asked for.
            if request != Request::Start || vm.machine().is_none() {
                node.drain.admit().map_err(|why| denied(Code::Drained, &why))?;
            }
            node.vms
                .room_to_start(node, &vm)
                .map_err(|why| denied(Code::InsufficientResources, &why))?
        }
        _ => None,
    };
    let asked = {
        let (node, vm, mark) = (Arc::clone(node), vm.clone(), key.mark());
        async move { vm.request_for(&node.store, request, |_| mark).await }
    };
    let asked = to_its_end(key, asked).await?;
    let view = asked.map_err(|error| of_request(&vm, &error))?;
    changed(node, &vm, view, wait).await
}

async fn changed(
    node: &Node,
    vm: &VmHandle,
    mut view: VmView,
    wait: Option<Wait>,
) -> Result<Response, Failed> {
    if let Some(Wait(wait)) = wait {
        view = vm.wait_for(view.desired.generation, wait).await;
    }
    let status = if view.has_settled() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(convert::vm(node, vm, &view))).into_response())
}
