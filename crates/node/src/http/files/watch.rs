use axum::extract::{Path, State};
use axum::response::IntoResponse;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::{Stream, StreamExt, stream};
use inn_api::{FileChange, Problem};
use serde::Deserialize;
use utoipa::IntoParams;

use super::absolute;
use crate::guest::{FileChanges, FileWatch};
use crate::http::ApiState;
use crate::http::convert::files as convert;
use crate::http::extract::Params;
use crate::http::problem::{Failed, of_guest, ready_session};
use crate::vm::VmHandle;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::http) struct WatchParams {
    /// Absolute.
    #[param(pattern = "^/[^\\x00]*$")]
    path: String,
    /// What is below it, too.
    #[serde(default)]
    recursive: bool,
}

/// What changes at a path of the guest's, as server-sent events: `change` with
/// a `FileChange`, `overflow` where some were lost, and at last `problem` with
/// the reason if it was not that the path is gone. Once this has answered, no
/// change is missed.
#[utoipa::path(get, path = "/api/vms/{vm}/files/watch", tag = "files",
    params(("vm" = String, Path, description = "Name or id"), WatchParams), responses(
        (status = 200, description = "the events", body = FileChange, content_type = "text/event-stream"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::http) async fn watch_files(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    Params(WatchParams { path, recursive }): Params<WatchParams>,
) -> Result<impl IntoResponse, Failed> {
    absolute(&path)?;
    let (vm, session) = ready_session(&state, &name).await?;
    let watch =
        session.watch_files(&path, recursive).await.map_err(|error| of_guest(&vm, &error))?;
    let events = events(vm, watch).take_until(state.node.closing.clone().cancelled_owned());
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
}

fn events(vm: VmHandle, watch: FileWatch) -> impl Stream<Item = Result<Event, axum::Error>> + Send {
    stream::unfold(Some((vm, watch)), |open| async {
        let (vm, mut watch) = open?;
        let (events, open) = match watch.next().await {
            Ok(Some(changes)) => (of_changes(changes), Some((vm, watch))),
            Ok(None) => return None,
            Err(error) => {
                let problem = of_guest(&vm, &error).0;
                (vec![Event::default().event("problem").json_data(&*problem)], None)
            }
        };
        Some((stream::iter(events), open))
    })
    .flatten()
}

fn of_changes(FileChanges { changes, overflow }: FileChanges) -> Vec<Result<Event, axum::Error>> {
    let change = |change| Event::default().event("change").json_data(convert::file_change(change));
    let overflow = overflow.then(|| Ok(Event::default().event("overflow").data("")));
    changes.into_iter().map(change).chain(overflow).collect()
}
