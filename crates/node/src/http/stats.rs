use axum::Json;
use axum::extract::{Path, State};
use inn_api::{Problem, Stats};
use jiff::Timestamp;
use serde::Deserialize;
use std::sync::Arc;
use utoipa::IntoParams;

use super::ApiState;
use super::convert::stats::sample;
use super::extract::{Params, Span};
use super::problem::{Failed, find_vm, of_guest, ready_session};
use crate::vm::Sample;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct StatsParams {
    /// The readings of so long before now; or `from` and `to`.
    #[param(value_type = Option<String>, example = "10m", pattern = "^[0-9]{1,6}(ms|s|m|h|d)?$")]
    last: Option<Span>,
    #[param(value_type = Option<String>, example = "2026-01-31T12:00:00Z")]
    from: Option<Timestamp>,
    /// Now where nothing is said.
    #[param(value_type = Option<String>, example = "2026-01-31T12:10:00Z")]
    to: Option<Timestamp>,
    /// Ask the guest now, in place of the latest reading that came.
    #[serde(default)]
    fresh: bool,
}

/// What the guest says of its machine: the latest reading while it runs, and
/// those of a time, as far as they are kept.
#[utoipa::path(get, path = "/api/vms/{vm}/stats", tag = "vms",
    params(("vm" = String, Path, description = "Name or id"), StatsParams), responses(
        (status = 200, body = Stats),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`fresh`, and no guest answers", body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn stats(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    Params(params): Params<StatsParams>,
) -> Result<Json<Stats>, Failed> {
    let vm = find_vm(&state.node.vms, &name)?;
    let now = if params.fresh {
        let (vm, session) = ready_session(&state, &name).await?;
        let told = session.telemetry().await.map_err(|error| of_guest(&vm, &error))?;
        Some(Sample { at: Timestamp::now(), telemetry: Arc::new(told) })
    } else {
        vm.telemetry().latest()
    };
    let samples = match range(&params, Timestamp::now()).map_err(Failed::invalid)? {
        Some((from, to)) => vm.telemetry().range(from, to),
        None => Vec::new(),
    };
    Ok(Json(Stats { now: now.as_ref().map(sample), samples: samples.iter().map(sample).collect() }))
}

/// The time that is asked for, if any.
fn range(params: &StatsParams, now: Timestamp) -> Result<Option<(Timestamp, Timestamp)>, String> {
    match (params.last, params.from, params.to) {
        (None, None, None) => Ok(None),
        (Some(Span(last)), None, None) => {
            Ok(Some((now.checked_sub(last).unwrap_or(Timestamp::MIN), now)))
        }
        (None, Some(from), to) => {
            let to = to.unwrap_or(now);
            if from > to { Err(format!("{from} is after {to}")) } else { Ok(Some((from, to))) }
        }
        _ => Err("give last, or from with or without to".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_time_is_a_span_or_two_ends() {
        let now = Timestamp::from_second(1000).unwrap();
        let at = |second| Some(Timestamp::from_second(second).unwrap());
        let asked = |last: Option<u64>, from, to| {
            let last = last.map(|seconds| Span(Duration::from_secs(seconds)));
            range(&StatsParams { last, from, to, fresh: false }, now)
        };
        assert_eq!(asked(None, None, None), Ok(None));
        assert_eq!(asked(Some(100), None, None), Ok(at(900).zip(Some(now))));
        let (from, _) = asked(Some(u64::MAX), None, None).unwrap().unwrap();
        assert_eq!(from, Timestamp::MIN);
        assert_eq!(asked(None, at(5), None), Ok(at(5).zip(Some(now))));
        assert_eq!(asked(None, at(5), at(6)), Ok(at(5).zip(at(6))));
        assert!(asked(None, at(6), at(5)).is_err());
        assert!(asked(None, None, at(5)).is_err() && asked(Some(1), at(5), None).is_err());
    }
}
