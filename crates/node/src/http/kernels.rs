use axum::Json;
use axum::extract::State;
use inn_api::{Code, HostKernel, HostKernelList, KernelDefault, KernelOrigin, Problem};
use inn_image::kernel as kernels;
use inn_units::nearest;

use super::ApiState;
use super::extract::Body;
use super::problem::Failed;
use crate::boot::KnownKernels;

/// The kernels that VMs of this node can boot, and which of them they do.
#[utoipa::path(get, path = "/api/kernels", tag = "kernels", responses(
    (status = 200, body = HostKernelList),
))]
pub(super) async fn list_kernels(
    State(state): State<ApiState>,
) -> Result<Json<HostKernelList>, Failed> {
    let known = state.node.kernels.known().await.map_err(|error| Failed::internal(&error))?;
    Ok(Json(list(known)))
}

/// Has VMs boot another kernel from their next start on, if they bring none of
/// their own: one of the list, or again the newest.
#[utoipa::path(put, path = "/api/kernels/default", tag = "kernels",
    request_body = KernelDefault, responses(
        (status = 200, body = HostKernelList),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "there is no such kernel, or it does not boot", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "kernel.path in the configuration says which", body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn set_default_kernel(
    State(state): State<ApiState>,
    Body(wanted): Body<KernelDefault>,
) -> Result<Json<HostKernelList>, Failed> {
    let node = &state.node;
    if node.kernels.is_configured() {
        let detail = "kernel.path in the configuration says which kernel VMs boot; remove it \
                      there, restart the agent and try again";
        return Err(Failed::new(Code::Conflict, detail));
    }
    if let Some(name) = &wanted.name {
        let known = node.kernels.known().await.map_err(|error| Failed::internal(&error))?;
        let Some(listed) = known.listed.iter().find(|listed| listed.name == *name) else {
            let shown: String = name.chars().take(80).collect();
            let hint = match nearest(name, known.listed.iter().map(|one| one.name.as_str())) {
                Some(near) => format!("did you mean {near}?"),
                None => "`inn image kernel list` shows those there are".to_owned(),
            };
            return Err(Failed::new(Code::NotFound, format!("there is no kernel {shown}; {hint}")));
        };
        node.kernels.check(&listed.image).await.map_err(|error| {
            Failed::new(Code::NotFound, crate::error::Chain(&error).to_string())
        })?;
    }
    let stored = wanted.name.clone().unwrap_or_default();
    let kept = node.store.set_node_value(crate::boot::DEFAULT_KERNEL, stored).await;
    kept.map_err(|error| Failed::internal(&error))?;
    node.kernels.choose(wanted.name);
    list_kernels(State(state)).await
}

fn list(known: KnownKernels) -> HostKernelList {
    let is_default = |image: &std::path::Path| known.default.as_deref() == Some(image);
    let mut items: Vec<HostKernel> = known
        .listed
        .iter()
        .map(|listed| HostKernel {
            name: listed.name.clone(),
            version: listed.version.clone(),
            path: listed.image.display().to_string(),
            bytes: listed.bytes,
            origin: match listed.origin {
                kernels::KernelOrigin::Package => KernelOrigin::Package,
                kernels::KernelOrigin::Built => KernelOrigin::Built,
                kernels::KernelOrigin::Host => KernelOrigin::Host,
            },
            default: is_default(&listed.image),
        })
        .collect();
    let configured =
        known.default.filter(|image| known.listed.iter().all(|listed| listed.image != *image));
    items.extend(configured.map(|image| HostKernel {
        name: "configured".to_owned(),
        version: String::new(),
        bytes: inn_units::Bytes(std::fs::metadata(&image).map_or(0, |metadata| metadata.len())),
        path: image.display().to_string(),
        origin: KernelOrigin::Configuration,
        default: true,
    }));
    HostKernelList { items, directory: known.directory.display().to_string() }
}
