use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use inn_api::{DiskGrown, GrowDisk, MountDisk, Problem, Unmount};
use inn_units::Bytes;

use crate::http::ApiState;
use crate::http::convert::guest as convert;
use crate::http::extract::Body;
use crate::http::problem::{Failed, of_growth, of_guest, ready_session};

/// Makes the VM's disk larger, and the file system on it; or only brings the
/// file system to the size that its disk has.
#[utoipa::path(post, path = "/api/vms/{vm}/guest/disk", tag = "guest",
    params(("vm" = String, Path, description = "Name or id")),
    request_body = GrowDisk, responses(
        (status = 200, body = DiskGrown),
        (status = 400, description = "disks do not shrink", body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
        (status = 507, body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::http) async fn grow_disk(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    Body(GrowDisk { disk_bytes, target }): Body<GrowDisk>,
) -> Result<Json<DiskGrown>, Failed> {
    // Before the disk grows: a guest that is not there cannot use it.
    let (vm, session) = ready_session(&state, &name).await?;
    if let Some(size) = disk_bytes {
        vm.grow_disk(&state.node, Bytes(size)).await.map_err(|error| of_growth(&vm, &error))?;
    }
    let target = target.as_deref().unwrap_or("/");
    let grown = session.grow_disk(target).await.map_err(|error| of_guest(&vm, &error))?;
    Ok(Json(convert::disk_grown(grown)))
}

/// Mounts a disk of the VM in the guest, by its serial.
#[utoipa::path(post, path = "/api/vms/{vm}/guest/mount", tag = "guest",
    params(("vm" = String, Path, description = "Name or id")),
    request_body = MountDisk, responses(
        (status = 204, description = "mounted"),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "no such VM or disk", body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::http) async fn mount_disk(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    Body(mount): Body<MountDisk>,
) -> Result<StatusCode, Failed> {
    let (vm, session) = ready_session(&state, &name).await?;
    let mounted = session.mount_disk(convert::disk_mount(mount)).await;
    mounted.map_err(|error| of_guest(&vm, &error))?;
    Ok(StatusCode::NO_CONTENT)
}

/// Unmounts what is mounted there, and forgets a lasting mount.
#[utoipa::path(post, path = "/api/vms/{vm}/guest/unmount", tag = "guest",
    params(("vm" = String, Path, description = "Name or id")),
    request_body = Unmount, responses(
        (status = 204, description = "nothing of it is mounted"),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::http) async fn unmount_disk(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    Body(Unmount { target }): Body<Unmount>,
) -> Result<StatusCode, Failed> {
    let (vm, session) = ready_session(&state, &name).await?;
    session.unmount(&target).await.map_err(|error| of_guest(&vm, &error))?;
    Ok(StatusCode::NO_CONTENT)
}
