use axum::Json;
use axum::extract::State;
use inn_api::{ByteSeconds, Problem, UsageCheck, UsageReport, UsageRow, VcpuSeconds};
use inn_meter::{By, Head, Row, Used};
use jiff::Timestamp;
use serde::Deserialize;
use utoipa::IntoParams;

use super::ApiState;
use super::extract::Params;
use super::problem::Failed;
use crate::metering::LedgerError;
use crate::node::Node;

/// Before a label's name.
const LABEL: &str = "label:";

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct UsageParams {
    /// From the ledger's beginning where nothing is said.
    #[param(value_type = Option<String>, format = DateTime, example = "2026-01-01T00:00:00Z")]
    from: Option<Timestamp>,
    /// Now where nothing is said.
    #[param(value_type = Option<String>, format = DateTime, example = "2026-02-01T00:00:00Z")]
    to: Option<Timestamp>,
    /// `vm`, `all`, or `label:` and a label's name.
    #[param(pattern = "^(vm|all|label:.+)$", example = "label:team")]
    by: Option<String>,
}

/// What VMs have used, also such as are deleted. Usage counts as spread evenly
/// over its entry of the ledger, an hour at most.
#[utoipa::path(get, path = "/api/node/usage", tag = "node", params(UsageParams), responses(
    (status = 200, body = UsageReport),
    (status = 400, body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn usage(
    State(state): State<ApiState>,
    Params(params): Params<UsageParams>,
) -> Result<Json<UsageReport>, Failed> {
    let from = params.from.unwrap_or(Timestamp::UNIX_EPOCH);
    let to = params.to.unwrap_or_else(Timestamp::now);
    if from > to {
        return Err(Failed::invalid(format!("{from} is after {to}")));
    }
    let by = params.by.unwrap_or_else(|| "vm".to_owned());
    let rows_by = parse_by(&by).map_err(Failed::invalid)?;
    // Up to now is all: what is counted while it is added up, too.
    let last = params.to.map_or(i64::MAX, Timestamp::as_millisecond);
    let first = from.as_millisecond();
    let rows = reading(&state, move |node| node.metering.totals(first, last, rows_by)).await?;
    let items = rows.into_iter().map(row).collect();
    Ok(Json(UsageReport { from, to, by, items }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct VerifyUsageParams {
    /// A block that was the last one once, as an earlier answer has it: its
    /// number, a colon and its hash.
    #[param(pattern = "^[0-9]{1,18}:[0-9a-f]{64}$")]
    head: Option<String>,
}

/// Goes through the whole ledger of usage: whether each block is signed by this
/// node and follows the one before, and whether each VM's entries follow each
/// other without gap or overlap.
#[utoipa::path(get, path = "/api/node/usage/verify", tag = "node", params(VerifyUsageParams), responses(
    (status = 200, body = UsageCheck),
    (status = 400, body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn verify_usage(
    State(state): State<ApiState>,
    Params(params): Params<VerifyUsageParams>,
) -> Result<Json<UsageCheck>, Failed> {
    let known =
        params.head.map(|head| head.parse::<Head>()).transpose().map_err(Failed::invalid)?;
    let public_key = state.node.key.public_hex();
    let key = public_key.clone();
    let checked = reading(&state, move |node| node.metering.verify(&key, known)).await?;
    Ok(Json(checked.told(public_key)))
}

async fn reading<T: Send + 'static>(
    state: &ApiState,
    read: impl FnOnce(&Node) -> Result<T, LedgerError> + Send + 'static,
) -> Result<T, Failed> {
    let node = std::sync::Arc::clone(&state.node);
    // As long as it is read, whether or not anybody still waits for it.
    let turn = std::sync::Arc::clone(&node.metering.reading).lock_owned().await;
    let reading = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        read(&node)
    });
    match reading.await {
        Ok(read) => read.map_err(|error| Failed::internal(&error)),
        Err(error) => Err(Failed::internal(&error)),
    }
}

fn parse_by(by: &str) -> Result<By, String> {
    match (by, by.strip_prefix(LABEL)) {
        ("vm", _) => Ok(By::Vm),
        ("all", _) => Ok(By::All),
        (_, Some(label)) if !label.is_empty() => Ok(By::Label(label.to_owned())),
        _ => Err(format!("by is vm, all, or {LABEL} and a label's name, and not {by:?}")),
    }
}

fn row(row: Row) -> UsageRow {
    let Row { key, name, vms, used } = row;
    let Used {
        cpu_allotted,
        cpu_used,
        gpu_allotted,
        memory_allotted,
        memory_resident,
        disk_allotted,
        disk_occupied,
        sent,
        received,
    } = used;
    UsageRow {
        key,
        name,
        vms,
        vcpu_seconds: VcpuSeconds { allotted: seconds(cpu_allotted), used: seconds(cpu_used) },
        memory_byte_seconds: areas(memory_allotted, memory_resident),
        disk_byte_seconds: areas(disk_allotted, disk_occupied),
        gpu_seconds: seconds(gpu_allotted),
        sent_bytes: number(sent),
        received_bytes: number(received),
    }
}

fn areas(allotted: u128, used: u128) -> ByteSeconds {
    ByteSeconds { allotted: number(allotted / MICROS), used: number(used / MICROS) }
}

const MICROS: u128 = 1_000_000;

fn number(n: u128) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

/// To the microsecond up to 285 years.
#[expect(clippy::cast_precision_loss, reason = "2^53 microseconds are 285 years")]
fn seconds(micros: u128) -> f64 {
    micros as f64 / 1e6
}
