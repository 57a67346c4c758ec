//! The node's benchmark: an operation, one at a time, whose report is kept with
//! the node's state.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use inn_api as api;
use inn_api::{Benchmark, BenchmarkCreate, Code, Operation, Problem};
use inn_measure::{
    Direction, Engine, Figures, MeasureError, Pattern, Plan, Room, Wish, measure_host, plan, run,
};
use inn_units::Bytes;
use jiff::Timestamp;
use rustix::fs::statvfs;

use super::extract::{Body, Params};
use super::images::begin;
use super::operations::{EndParams, ended};
use super::problem::Failed;
use super::{ApiState, convert};
use crate::operations::Outcome;

/// Where the last report is among what is kept of the node.
const KEPT: &str = "benchmark";

const SIZE: Bytes = Bytes::gib(1);
const TIME: Duration = Duration::from_secs(2);

/// Measures the disk that VMs are on, with a file that has no name, and the CPU
/// and memory.
#[utoipa::path(post, path = "/api/node/benchmark", operation_id = "benchmark_node", tag = "node",
    params(EndParams), request_body = BenchmarkCreate, responses(
        (status = 200, description = "the operation, which has ended within `wait`", body = Operation),
        (status = 202, description = "the operation that measures", body = Operation),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "one is under way", body = Problem, content_type = "application/problem+json"),
        (status = 429, body = Problem, content_type = "application/problem+json"),
        (status = 507, description = "it would leave too little of the disk", body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn start(
    State(state): State<ApiState>,
    Params(params): Params<EndParams>,
    Body(asked): Body<BenchmarkCreate>,
) -> Result<(StatusCode, Json<Operation>), Failed> {
    let node = Arc::clone(&state.node);
    let dir = node.config.paths.data_dir.clone();
    let plan = planned(asked, &dir)?;
    let Ok(turn) = Arc::clone(&node.benchmarking).try_lock_owned() else {
        let detail = "a benchmark is under way; two would measure each other";
        return Err(Failed::new(Code::Conflict, detail));
    };
    let (_, operation) = begin(&state, "benchmark")?;
    let work = Arc::clone(&operation);
    node.tasks.clone().spawn(async move {
        let watched = Arc::clone(&work);
        let measured = tokio::task::spawn_blocking(move || {
            // It is held for as long as the disk is at work, whoever waits.
            let _turn = turn;
            measure(&plan, dir, &mut |done, of| {
                watched.step(&format!("measuring, {done} of {of}"));
                !watched.given_up().is_cancelled()
            })
        });
        let outcome = match measured.await {
            Ok(Ok(report)) => match keep(&node, &report).await {
                Ok(()) => Outcome::Succeeded { result: report.at.to_string() },
                Err(failed) => Outcome::Failed(*failed.0),
            },
            Ok(Err(MeasureError::Cancelled)) => Outcome::Cancelled,
            Ok(Err(error)) => Outcome::Failed(*Failed::internal(&error).0),
            Err(error) => Outcome::Failed(*Failed::internal(&error).0),
        };
        work.finish(outcome);
    });
    let view = ended(&operation, params.wait).await;
    let status = if view.outcome.is_some() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(convert::operation(view))))
}

/// The last benchmark's report.
#[utoipa::path(get, path = "/api/node/benchmark", operation_id = "show_benchmark", tag = "node", responses(
    (status = 200, body = Benchmark),
    (status = 404, description = "there was none", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn show(State(state): State<ApiState>) -> Result<Json<Benchmark>, Failed> {
    let kept = state.node.store.node_value(KEPT).await.map_err(|error| Failed::internal(&error))?;
    // One of another version may have been written otherwise: it is no report.
    let report = kept.and_then(|text| serde_json::from_str(&text).ok());
    report.map(Json).ok_or_else(|| {
        Failed::new(
            Code::NotFound,
            "no benchmark has ended here yet; POST /api/node/benchmark begins one",
        )
    })
}

fn planned(asked: BenchmarkCreate, dir: &std::path::Path) -> Result<Plan, Failed> {
    let disk = statvfs(dir).map_err(|error| Failed::internal(&std::io::Error::from(error)))?;
    let bytes = |blocks: u64| Bytes(blocks.saturating_mul(disk.f_frsize));
    let room = Room { total: bytes(disk.f_blocks), available: bytes(disk.f_bavail) };
    let time = asked.pass_millis.map_or(TIME, |millis| Duration::from_millis(millis.into()));
    let wish = Wish { size: asked.size_bytes.map_or(SIZE, Bytes), time };
    plan(wish, room).map_err(|refusal| match refusal {
        inn_measure::Refusal::NoRoom { .. } => Failed::new(Code::DiskFull, refusal.to_string()),
        refusal => Failed::invalid(refusal.to_string()),
    })
}

/// Blocks, for as long as the plan says.
fn measure(
    plan: &Plan,
    dir: PathBuf,
    told: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<Benchmark, MeasureError> {
    let count = plan.passes.len();
    let report = run(plan, &dir, &mut |done| told(done, count))?;
    let host = measure_host();
    let (engine, reason) = match report.engine {
        Engine::IoUring => ("io_uring", None),
        Engine::Threads(why) => ("threads", Some(why)),
    };
    Ok(Benchmark {
        at: Timestamp::now(),
        directory: dir.display().to_string(),
        engine: engine.to_owned(),
        reason,
        size_bytes: plan.size.get(),
        written_bytes: report.written.get(),
        passes: report.passes.iter().map(pass).collect(),
        sha256_rate: host.sha256,
        copy_rate: host.copied,
    })
}

fn pass(figures: &Figures) -> api::BenchmarkPass {
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let latency = figures.latency;
    api::BenchmarkPass {
        pattern: match figures.pass.pattern {
            Pattern::Sequential => api::BenchmarkPattern::Sequential,
            Pattern::Random => api::BenchmarkPattern::Random,
        },
        direction: match figures.pass.direction {
            Direction::Read => api::BenchmarkDirection::Read,
            Direction::Write => api::BenchmarkDirection::Write,
        },
        block_bytes: figures.pass.block.get(),
        depth: figures.pass.depth,
        requests: figures.requests,
        millis: micros(figures.took) / 1000,
        bytes_per_second: figures.bytes_per_second(),
        requests_per_second: figures.requests_per_second(),
        latency: api::BenchmarkLatency {
            p50: micros(latency.p50),
            p95: micros(latency.p95),
            p99: micros(latency.p99),
            p999: micros(latency.p999),
            most: micros(latency.most),
        },
        cut: figures.cut,
    }
}

async fn keep(node: &crate::node::Node, report: &Benchmark) -> Result<(), Failed> {
    let text = serde_json::to_string(report).map_err(|error| Failed::internal(&error))?;
    let kept = node.store.set_node_value(KEPT, text).await;
    kept.map_err(|error| Failed::internal(&error))
}
