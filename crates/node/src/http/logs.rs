use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use inn_api::Problem;
use inn_domain::{Guest, Power, VmPhase};
use jiff::Timestamp;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::ApiState;
use super::extract::Params;
use super::log_reader::{Begin, LogReader, Since};
use super::problem::{Failed, find_vm};
use crate::vm::{VmHandle, VmView};

/// How often a followed log is looked at: QEMU writes it itself, and tells
/// nobody.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Source {
    /// What the image's command prints.
    #[default]
    Workload,
    /// The serial console.
    Console,
    /// What the VM's monitor process itself prints.
    Vmm,
    /// What the agent's log says of the VM.
    Agent,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct LogParams {
    #[serde(default)]
    #[param(inline)]
    source: Source,
    /// Go on with what comes, until there will be no more.
    #[serde(default)]
    follow: bool,
    /// Only the last so many lines of what is there.
    tail: Option<u64>,
    /// Only what was written since; it may begin with some lines that are
    /// older, by a second or a hundredth of their age.
    #[param(value_type = Option<String>, format = DateTime, example = "2026-01-31T12:00:00Z")]
    since: Option<Timestamp>,
}

/// One of a VM's logs. Each is bounded: the oldest lines go first.
#[utoipa::path(get, path = "/api/vms/{vm}/logs", tag = "vms",
    params(("vm" = String, Path, description = "Name or id"), LogParams), responses(
        (status = 200, description = "the log", body = String, content_type = "text/plain"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn logs(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    Params(params): Params<LogParams>,
) -> Result<Response, Failed> {
    let vm = find_vm(&state.node.vms, &name)?;
    let path = match params.source {
        Source::Workload => vm.paths().workload_log(),
        Source::Console => vm.paths().console_log(),
        Source::Vmm => vm.paths().vmm_log(),
        Source::Agent => vm.paths().agent_log(),
    };
    let by_lines = params.source == Source::Agent;
    let since = params.since.map(|at| Since { at, now: Timestamp::now(), by_lines });
    let begin = Begin { tail: params.tail, since };
    let reader = blocking(move || LogReader::open(&path, begin)).await?;
    let following = params.follow.then(|| Following {
        vm,
        source: params.source,
        closing: state.node.closing.clone(),
    });
    let chunks = stream::unfold(Some((reader, following)), |state| async {
        let (reader, following) = state?;
        match next(reader, following.as_ref()).await {
            Ok(Some((reader, chunk))) => Some((Ok(chunk), Some((reader, following)))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    });
    let headers = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    Ok((headers, Body::from_stream(chunks)).into_response())
}

struct Following {
    vm: VmHandle,
    source: Source,
    closing: tokio_util::sync::CancellationToken,
}

async fn next(
    mut reader: LogReader,
    following: Option<&Following>,
) -> std::io::Result<Option<(LogReader, Vec<u8>)>> {
    loop {
        // Asked before the log is read: what was written before the end is read.
        let over = following.is_none_or(Following::is_over);
        let (back, chunk) = tokio::task::spawn_blocking(move || {
            let chunk = reader.read();
            (reader, chunk)
        })
        .await
        .map_err(std::io::Error::other)?;
        reader = back;
        let chunk = chunk?;
        if !chunk.is_empty() {
            return Ok(Some((reader, chunk)));
        }
        if over {
            return Ok(None);
        }
        tokio::time::sleep(LOOK).await;
    }
}

impl Following {
    /// Whether nothing more will come.
    fn is_over(&self) -> bool {
        let view = self.vm.view();
        let down = matches!(view.phase, VmPhase::Stopped | VmPhase::Failed);
        view.gone
            || self.closing.is_cancelled()
            || (down && view.has_settled() && view.desired.power != Power::Deleted)
            || (self.source == Source::Workload && workload_is_over(&view))
    }
}

fn workload_is_over(view: &VmView) -> bool {
    match &view.workload {
        Some(workload) => !workload.running,
        // It has none, or none yet: a full VM runs before its guest answers.
        None => {
            let guest = view.observed.machine.map(|machine| machine.guest);
            let boots = matches!(guest, Some(Guest::Booting | Guest::Answered | Guest::Configured));
            view.phase == VmPhase::Running && !boots
        }
    }
}

async fn blocking<T: Send + 'static>(
    body: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, Failed> {
    match tokio::task::spawn_blocking(body).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Failed::internal(&error)),
        Err(error) => Err(Failed::internal(&error)),
    }
}
