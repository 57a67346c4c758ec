//! Whatever fails becomes a problem document here.

use std::sync::Arc;

use axum::Json;
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use inn_api::{Code, Problem};
use inn_domain::{CreateDeniedReason, GrowDeniedReason, Power, VmPhase};
use inn_image::ImageError;
use inn_registry::{FailureClass, RegistryError};
use inn_units::nearest;

use super::auth::sees;
use super::{ApiState, convert};
use crate::error::{Chain, is_full_disk};
use crate::guest::{GuestError, GuestSession, RefusedKind};
use crate::vm::{CreateError, GrowError, NotAwake, NotReady, RequestError, VmHandle, VmView, Vms};

/// A request's failure, on its way out.
#[derive(Debug)]
pub(crate) struct Failed(pub(crate) Box<Problem>);

impl Failed {
    pub(crate) fn new(code: Code, detail: impl Into<String>) -> Self {
        Self(Box::new(Problem::new(code, detail)))
    }

    pub(crate) fn invalid(detail: impl Into<String>) -> Self {
        Self::new(Code::InvalidRequest, detail)
    }

    /// A fault of ours, or of a disk that is full: its chain is logged here, at
    /// the top.
    pub(crate) fn internal(error: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!(error = %Chain(error), "a request has failed");
        let code = if is_full_disk(error) { Code::DiskFull } else { Code::Internal };
        Self::new(code, Chain(error).to_string())
    }

    fn of_network(error: CreateError) -> Self {
        match error {
            CreateError::Ports(error) => error.into(),
            CreateError::Network(error) => error.into(),
            error => Self::internal(&error),
        }
    }

    pub(super) fn with_status(mut self, status: StatusCode) -> Self {
        self.0.status = status.as_u16();
        self
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(&*self.0)).into_response();
        let problem = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, problem);
        response.extensions_mut().insert(self.0.code);
        if status == StatusCode::REQUEST_TIMEOUT {
            // RFC 9110, 15.5.9.
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        if status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

pub(super) async fn no_route(uri: Uri) -> Failed {
    Failed::new(Code::NotFound, format!("there is no {}; /swagger shows what there is", uri.path()))
}

pub(super) async fn no_method(method: Method, uri: Uri) -> Failed {
    method_not_allowed(&method, &uri)
}

pub(super) fn method_not_allowed(method: &Method, uri: &Uri) -> Failed {
    let detail = format!("{} does not take {method}; /swagger shows what it takes", uri.path());
    Failed::invalid(detail).with_status(StatusCode::METHOD_NOT_ALLOWED)
}

/// The VM of that name or id, if whoever asks sees it. Only while a request is
/// at work: elsewhere there is none.
pub(super) fn find_vm(vms: &Vms, name: &str) -> Result<VmHandle, Failed> {
    vms.find(name).filter(|vm| sees(vm.id())).ok_or_else(|| no_vm(vms, name))
}

fn no_vm(vms: &Vms, name: &str) -> Failed {
    let all = vms.all();
    let names = all.iter().filter(|vm| sees(vm.id())).map(|vm| vm.spec().name.as_str());
    let hint = match nearest(name, names) {
        Some(near) => format!("did you mean {near}?"),
        None => "`inn vm list` shows those there are".to_owned(),
    };
    let shown: String = name.chars().take(80).collect();
    Failed::new(Code::NotFound, format!("there is no VM {shown}; {hint}"))
}

impl From<CreateError> for Failed {
    fn from(error: CreateError) -> Self {
        let code = match &error {
            CreateError::Denied(CreateDeniedReason::NameInUse { .. })
            | CreateError::PersistThere { .. } => Code::NameInUse,
            CreateError::Denied(CreateDeniedReason::MemoryTooLarge { .. }) => {
                Code::InsufficientResources
            }
            CreateError::Drained(_) => Code::Drained,
            CreateError::Ttl(_) | CreateError::Idle(_) => Code::InvalidRequest,
            CreateError::NoRoom(_) => Code::InsufficientResources,
            CreateError::Denied(_) => Code::InvalidRequest,
            CreateError::Attach(_) => Code::InvalidRequest,
            CreateError::Ports(_) | CreateError::Network(_) => return Self::of_network(error),
            CreateError::NotReplaced { .. } | CreateError::Replace { .. } => Code::InUse,
            CreateError::Closing | CreateError::Withdrawn { .. } => Code::Conflict,
            CreateError::Store(_) | CreateError::NoRandomness(_) => return Self::internal(&error),
        };
        Self::new(code, Chain(&error).to_string())
    }
}

/// A request about a VM that was not accepted.
pub(super) fn of_request(vm: &VmHandle, error: &RequestError) -> Failed {
    match error {
        RequestError::Denied(reason) => {
            Failed::new(Code::Conflict, format!("VM {}: {reason}", vm.spec().name))
        }
        RequestError::Store(_) => Failed::internal(error),
    }
}

/// Why a guest cannot be talked to.
pub(super) fn of_not_ready(vm: &VmHandle, why: &NotReady) -> Failed {
    let name = &vm.spec().name;
    match why {
        NotReady::Gone => Failed::new(Code::NotFound, format!("VM {name} is deleted")),
        NotReady::Silent => Failed::new(
            Code::GuestUnavailable,
            format!(
                "the guest agent of VM {name} does not answer; `inn vm console {name}` may show \
                 why, `inn vm restart {name} --force` starts it anew"
            ),
        ),
        NotReady::Paused(pause) => Failed::new(
            Code::Conflict,
            format!("VM {name} is paused by {}; let it go on: inn vm resume {name}", pause.by),
        ),
        NotReady::NoAgent(Some(architecture)) => Failed::new(
            Code::GuestUnavailable,
            format!(
                "VM {name} runs without a guest agent, since its CPUs are {architecture}; log in \
                 there, or use `inn vm console {name}`"
            ),
        ),
        NotReady::NoAgent(None) => Failed::new(
            Code::GuestUnavailable,
            format!(
                "VM {name} runs without a guest agent: none has answered; install one in its \
                 disk, for example with `inn guest export`, or use `inn vm console {name}`"
            ),
        ),
        NotReady::Down(view) => of_down(vm, view),
    }
}

/// The VM of that name or id, with its guest's session.
pub(super) async fn ready_session(
    state: &ApiState,
    name: &str,
) -> Result<(VmHandle, GuestSession), Failed> {
    let vm = find_vm(&state.node.vms, name)?;
    let used = vm.in_use(&state.node).await.map_err(|why| of_not_awake(&vm, why))?;
    match vm.session().await {
        Ok(session) => Ok((vm, session.holding(Arc::new(used)))),
        Err(why) => Err(of_not_ready(&vm, &why)),
    }
}

/// Why a VM that rests was not woken.
pub(super) fn of_not_awake(vm: &VmHandle, why: NotAwake) -> Failed {
    let code = match &why {
        NotAwake::Held => Code::Conflict,
        NotAwake::Drained(_) => Code::Drained,
        NotAwake::NoRoom(_) => Code::InsufficientResources,
        NotAwake::Request(error) => return of_request(vm, error),
        NotAwake::Panicked(_) => return Failed::internal(&why),
    };
    Failed::new(code, format!("VM {} rests and is not woken: {why}", vm.spec().name))
}

fn of_down(vm: &VmHandle, view: &VmView) -> Failed {
    let name = &vm.spec().name;
    if view.desired.power == Power::Deleted {
        return Failed::new(Code::Conflict, format!("VM {name} is being deleted"));
    }
    match (&view.failure, view.phase) {
        (Some(failure), VmPhase::Failed) => {
            let detail = format!(
                "VM {name} failed at {}: {}; {}",
                failure.step, failure.cause, failure.next
            );
            let mut failed = Failed::new(Code::VmFailed, detail);
            failed.0.console.clone_from(&failure.console);
            failed
        }
        (_, phase) => Failed::new(
            Code::Conflict,
            format!("VM {name} is {phase}; `inn vm start {name}` starts it"),
        ),
    }
}

/// Why a VM's disk does not grow.
pub(super) fn of_growth(vm: &VmHandle, error: &GrowError) -> Failed {
    let code = match error {
        GrowError::Denied(GrowDeniedReason::BeingDeleted) => Code::Conflict,
        GrowError::Denied(GrowDeniedReason::TooLarge { .. }) | GrowError::NoRoom(_) => {
            Code::InsufficientResources
        }
        GrowError::Denied(_) => Code::InvalidRequest,
        GrowError::Untold => Code::Conflict,
        GrowError::Store(_) | GrowError::File(_) | GrowError::Machine(_) => {
            return Failed::internal(error);
        }
    };
    Failed::new(code, format!("VM {}: {error}", vm.spec().name))
}

/// What a guest did not do.
pub(super) fn of_guest(vm: &VmHandle, error: &GuestError) -> Failed {
    let name = &vm.spec().name;
    let detail = match error {
        GuestError::Refused { what, kind: RefusedKind::NoSpace, .. } => {
            format!("VM {name}: the guest's disk is full: it cannot {what}")
        }
        _ => format!("VM {name}: {}", Chain(error)),
    };
    Failed::new(convert::code_of_guest(error), detail)
}

impl From<ImageError> for Failed {
    fn from(error: ImageError) -> Self {
        let code = match &error {
            ImageError::NotFound { .. } => Code::NotFound,
            ImageError::Invalid { .. }
            | ImageError::DigestMismatch { .. }
            | ImageError::TooLarge { .. } => Code::InvalidImage,
            ImageError::DiskFull { .. } => Code::DiskFull,
            ImageError::MissingProgram { .. } => Code::MissingPrerequisite,
            ImageError::Cancelled => Code::Conflict,
            ImageError::Remote { .. } => Code::RemoteFailed,
            ImageError::Io { .. } => return Self::internal(&error),
        };
        Self::new(code, Chain(&error).to_string())
    }
}

impl From<RegistryError> for Failed {
    fn from(error: RegistryError) -> Self {
        let code = match error.class {
            FailureClass::NotFound => Code::NotFound,
            FailureClass::Policy => Code::Forbidden,
            FailureClass::Unsupported => Code::InvalidImage,
            FailureClass::Unauthorised
            | FailureClass::TooManyRequests { .. }
            | FailureClass::Tls
            | FailureClass::Unreachable
            | FailureClass::Broken => Code::RemoteFailed,
        };
        Self::new(code, error.to_string())
    }
}
