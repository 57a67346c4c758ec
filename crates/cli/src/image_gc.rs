use inn_client::api::{CacheAction, CacheDecision, ImageGc, ImageGcResult};
use jiff::Timestamp;

use crate::args::GcArgs;
use crate::context::Context;
use crate::failure::{FAILED, Failure};
use crate::table::Table;
use crate::view::age;

pub(crate) async fn collect(context: &Context, args: &GcArgs) -> Result<u8, Failure> {
    let seconds = |age: std::time::Duration| u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
    let gc = ImageGc {
        dry_run: args.dry_run,
        limit_bytes: args.limit.map(|limit| limit.get()),
        max_age_seconds: args.max_age.map(seconds),
    };
    let result = context.client().await?.collect_images(&gc).await?;
    context.result(&result, || table(&result, Timestamp::now()))?;
    let failed = result.decisions.iter().any(|one| one.action == CacheAction::Failed);
    Ok(if failed { FAILED } else { 0 })
}

fn table(result: &ImageGcResult, now: Timestamp) -> String {
    let mut table = Table::new(["NAME", "SIZE", "UNUSED", "DECISION"]).right([1]);
    for decision in &result.decisions {
        table.push([
            decision.name.clone(),
            decision.bytes.to_string(),
            age(decision.last_used_at, now),
            reason(decision, result.dry_run),
        ]);
    }
    let free = if result.dry_run { "would become free" } else { "became free" };
    let mut text = if result.decisions.is_empty() { String::new() } else { table.render() + "\n" };
    text.push_str(&format!("{} of {} {free}\n", result.freed_bytes, result.used_bytes));
    text
}

fn reason(decision: &CacheDecision, dry_run: bool) -> String {
    match decision.reason.strip_prefix("removed") {
        Some(rest) if dry_run => format!("would be removed{rest}"),
        _ => decision.reason.clone(),
    }
}

#[cfg(test)]
mod tests {
    use inn_client::api::CacheKind;
    use inn_units::Bytes;

    use super::*;

    #[test]
    fn a_dry_run_promises_nothing() {
        let decision = |name: &str, reason: &str| CacheDecision {
            kind: CacheKind::Image,
            id: name.into(),
            name: name.into(),
            bytes: Bytes::mib(3),
            last_used_at: Timestamp::UNIX_EPOCH,
            action: CacheAction::Kept,
            reason: reason.into(),
        };
        let mut result = ImageGcResult {
            dry_run: true,
            used_bytes: Bytes::mib(6),
            freed_bytes: Bytes::mib(3),
            limit_bytes: None,
            max_age_seconds: None,
            decisions: vec![
                decision("old", "removed: unused for 31 d"),
                decision("web", "kept: 2 VMs run from it"),
            ],
        };
        let text = table(&result, Timestamp::UNIX_EPOCH);
        assert!(text.contains("would be removed: unused for 31 d"), "{text}");
        assert!(text.contains("kept: 2 VMs run from it"), "{text}");
        assert!(text.ends_with("\n3MiB of 6MiB would become free\n"), "{text}");
        result.dry_run = false;
        assert!(table(&result, Timestamp::UNIX_EPOCH).contains("  removed: unused for 31 d"));
    }
}
