use std::time::Duration;

use axum::Json;
use axum::extract::State;
use inn_api::{CacheAction, CacheDecision, CacheKind, ImageGc, ImageGcResult, Problem};
use inn_image::cache as images;
use inn_units::Bytes;
use jiff::Timestamp;

use super::ApiState;
use super::extract::Body;
use super::problem::Failed;
use crate::image_cache::{Collected, RemovalOutcome, asked, collect};

/// Brings the image cache within its limits, or says what that would remove:
/// every decision with its reason. What VMs run from, what is being imported
/// and what was used within the last minute stays. What was decided is done
/// also if whoever asked has gone.
#[utoipa::path(post, path = "/api/images/gc", tag = "images", request_body = ImageGc, responses(
    (status = 200, body = ImageGcResult),
    (status = 400, body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn collect_images(
    State(state): State<ApiState>,
    Body(gc): Body<ImageGc>,
) -> Result<Json<ImageGcResult>, Failed> {
    let node = state.node;
    let age = gc.max_age_seconds.map(|seconds| Duration::from_secs(seconds.into()));
    let limits = asked(&node, gc.limit_bytes.map(Bytes), age);
    let collecting =
        tokio::spawn(async move { collect(&node, limits, gc.dry_run, "a request").await });
    let collected = collecting
        .await
        .map_err(|error| Failed::internal(&error))?
        .map_err(|error| Failed::internal(&error))?;
    Ok(Json(result(gc.dry_run, collected)))
}

fn result(dry_run: bool, Collected { plan, outcomes }: Collected) -> ImageGcResult {
    let mut freed = plan.frees;
    let decisions: Vec<_> = plan.decisions.into_iter().zip(outcomes).collect();
    if decisions.iter().any(|(_, outcome)| failed(outcome)) {
        let not_gone = decisions.iter().filter(|(_, outcome)| failed(outcome));
        freed = freed.saturating_sub(Bytes(not_gone.map(|(d, _)| d.bytes.get()).sum()));
    }
    ImageGcResult {
        dry_run,
        used_bytes: plan.used,
        freed_bytes: freed,
        limit_bytes: plan.limits.size,
        max_age_seconds: plan.limits.age.map(|age| age.as_secs()),
        decisions: decisions.into_iter().map(|(d, outcome)| decision(d, outcome)).collect(),
    }
}

fn failed(outcome: &RemovalOutcome) -> bool {
    matches!(outcome, RemovalOutcome::UsedMeanwhile | RemovalOutcome::Failed(_))
}

fn decision(decision: images::CacheDecision, outcome: RemovalOutcome) -> CacheDecision {
    let verdict = decision.verdict.to_string();
    let (action, reason) = match outcome {
        RemovalOutcome::Kept => (CacheAction::Kept, verdict),
        RemovalOutcome::Removed | RemovalOutcome::WouldGo => (CacheAction::Removed, verdict),
        RemovalOutcome::UsedMeanwhile => {
            (CacheAction::Kept, "kept: somebody has begun to use it just now".to_owned())
        }
        RemovalOutcome::Failed(error) => {
            (CacheAction::Failed, format!("it cannot be removed: {error}"))
        }
    };
    let seconds = i64::try_from(decision.entry.last_used).unwrap_or(i64::MAX);
    CacheDecision {
        kind: kind(decision.entry.kind),
        id: decision.entry.id,
        name: decision.entry.name,
        bytes: decision.bytes,
        last_used_at: Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH),
        action,
        reason,
    }
}

fn kind(kind: images::CacheKind) -> CacheKind {
    match kind {
        images::CacheKind::Image => CacheKind::Image,
        images::CacheKind::DiskImage => CacheKind::DiskImage,
        images::CacheKind::EmptyDisk => CacheKind::EmptyDisk,
        images::CacheKind::Kernel => CacheKind::Kernel,
        images::CacheKind::Initramfs => CacheKind::Initramfs,
        images::CacheKind::Template => CacheKind::Template,
        images::CacheKind::Partial => CacheKind::Partial,
        images::CacheKind::Leftover => CacheKind::Leftover,
    }
}
