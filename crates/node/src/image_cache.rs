//! The image cache within its limits.
//!
//! ```text
//!   every `reap.interval` ─┐
//!   `inn image gc`        ─┼─ one at a time ─▶ renew what VMs use ─▶ inventory ─▶ plan ─▶ remove ─▶ event
//!   a write that does not fit ┘                                                    └ dry run: only said
//! ```
//!
//! Who needs an image is asked of the VMs themselves, before the plan and once
//! more before each removal.

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use inn_fail_point::{Point, fail_point};
use inn_image::ImageError;
use inn_image::cache::{
    CacheDecision, CacheEntry, CacheKind, CacheLimits, CachePlan, CacheRemoval, CacheUse,
    Inventory, plan, remove_file, remove_partial,
};
use inn_image::kernel::KernelError;
use inn_units::{Bytes, Digest};

use crate::error::{Chain, is_full_disk};
use crate::events::{Event, EventKind};
use crate::node::Node;
use crate::vm::VmHandle;

/// How much is made free for a write that did not fit and did not say how much
/// it needs: an image of middle size.
const SOME_ROOM: Bytes = Bytes::gib(1);

/// What has become of the cache.
#[derive(Debug, Clone)]
pub(crate) struct Collected {
    pub(crate) plan: CachePlan,
    /// Of each decision of the plan, in its order.
    pub(crate) outcomes: Vec<RemovalOutcome>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RemovalOutcome {
    Kept,
    Removed,
    /// Planned to go, in a dry run.
    WouldGo,
    UsedMeanwhile,
    Failed(String),
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum CollectError {
    #[error(transparent)]
    Images(#[from] ImageError),
    #[error(transparent)]
    Kernels(#[from] KernelError),
    #[error("the image cache was not gone through to its end")]
    Panicked(#[source] tokio::task::JoinError),
}

impl Collected {
    fn removed(&self) -> impl Iterator<Item = &CacheDecision> {
        let all = self.plan.decisions.iter().zip(&self.outcomes);
        all.filter(|(_, outcome)| **outcome == RemovalOutcome::Removed).map(|(d, _)| d)
    }

    /// `2 images and 1 kernel, 1.2GiB`; nothing where nothing was removed.
    pub(crate) fn in_words(&self) -> Option<String> {
        let mut kinds: BTreeMap<CacheKind, usize> = BTreeMap::new();
        let mut bytes = 0;
        for decision in self.removed() {
            *kinds.entry(decision.entry.kind).or_default() += 1;
            bytes += decision.bytes.get();
        }
        let kinds: Vec<String> = kinds
            .into_iter()
            .map(|(kind, n)| match (kind, n) {
                (CacheKind::Leftover, _) => "leftovers".to_owned(),
                (kind, 1) => format!("1 {kind}"),
                (CacheKind::Initramfs, n) => format!("{n} initramfs"),
                (kind, n) => format!("{n} {kind}s"),
            })
            .collect();
        let all = match kinds.split_last() {
            None => return None,
            Some((last, [])) => last.clone(),
            Some((last, others)) => format!("{} and {last}", others.join(", ")),
        };
        Some(format!("{all}, {}", Bytes(bytes)))
    }
}

/// What the configuration says.
pub(crate) fn limits(node: &Node) -> CacheLimits {
    let images = node.config.live().images;
    CacheLimits { size: images.cache_limit, age: images.max_age, room: None }
}

/// The periodic pass.
pub(crate) async fn collect_by_limits(node: &Arc<Node>) {
    let limits = limits(node);
    let by_limits = limits.size.is_some() || limits.age.is_some();
    let done = if by_limits {
        collect(node, limits, false, "the limits").await.map(drop)
    } else {
        renew(node).await
    };
    if let Err(error) = done {
        tracing::warn!(error = %Chain(&error), "the image cache is not brought within its limits");
    }
}

/// Removes what `limits` say, or only says what that would be.
pub(crate) async fn collect(
    node: &Arc<Node>,
    limits: CacheLimits,
    dry_run: bool,
    on_behalf_of: &str,
) -> Result<Collected, CollectError> {
    let _alone = node.collecting.lock().await;
    renew(node).await?;
    let owner = Arc::clone(node);
    let collected = tokio::task::spawn_blocking(move || go_through(&owner, limits, dry_run))
        .await
        .map_err(CollectError::Panicked)??;
    node.images.forget_found();
    tell(node, &collected, on_behalf_of);
    Ok(collected)
}

/// Notes of each image that VMs run from that it is used now, so that its time
/// begins when the last of them is gone.
async fn renew(node: &Arc<Node>) -> Result<(), CollectError> {
    let owner = Arc::clone(node);
    let renewed = tokio::task::spawn_blocking(move || {
        for manifest in owner.images_in_use() {
            owner.images.store().renew(&manifest)?;
        }
        Ok(())
    });
    renewed.await.map_err(CollectError::Panicked)?
}

fn go_through(node: &Node, limits: CacheLimits, dry_run: bool) -> Result<Collected, CollectError> {
    let in_use = |manifest: &Digest| {
        node.vms.using_image(manifest).len() + node.snapshots.of_image(manifest).len()
    };
    let mut found = node.images.store().inventory(&in_use)?;
    found.extend(kernels(node)?);
    found.extend(disk_images(node));
    found.extend(node.templates.inventory());
    let plan = plan(&found, limits, now_unix());
    if !dry_run {
        fail_point(Point::CollectPlanned);
    }
    let outcomes = plan.decisions.iter().map(|decision| {
        if !decision.removes() {
            return RemovalOutcome::Kept;
        }
        if dry_run {
            return RemovalOutcome::WouldGo;
        }
        let entry = &decision.entry;
        let removed = match entry.kind {
            CacheKind::Kernel | CacheKind::Initramfs => remove_file(entry),
            CacheKind::Template => Ok(match node.templates.evict(&entry.id) {
                true => CacheRemoval::Removed,
                false => CacheRemoval::UsedMeanwhile,
            }),
            CacheKind::Partial if is_of_a_disk(node, entry) => remove_partial(entry),
            CacheKind::DiskImage => match waiting_for(node, &entry.id) {
                0 => remove_file(entry),
                _ => Ok(CacheRemoval::UsedMeanwhile),
            },
            _ => node.images.store().remove(entry, &in_use),
        };
        if entry.kind == CacheKind::Image
            && matches!(removed, Ok(CacheRemoval::Removed))
            && let Ok(manifest) = format!("sha256:{}", entry.id).parse()
        {
            node.templates.image_is_gone(&manifest);
        }
        fail_point(Point::CollectEntry);
        match removed {
            Ok(CacheRemoval::Removed) => RemovalOutcome::Removed,
            Ok(CacheRemoval::UsedMeanwhile) => RemovalOutcome::UsedMeanwhile,
            Err(error) => RemovalOutcome::Failed(Chain(&error).to_string()),
        }
    });
    let outcomes = outcomes.collect();
    Ok(Collected { plan, outcomes })
}

/// Whether it is a download of a disk image, not of an image's layer.
fn is_of_a_disk(node: &Node, entry: &CacheEntry) -> bool {
    let dir = node.disk_images.store().partial_dir();
    entry.parts.first().is_some_and(|part| part.starts_with(&dir))
}

fn kernels(node: &Node) -> Result<Inventory, KernelError> {
    node.kernels.cached()
}

/// With the VMs that have no disk of their own yet.
fn disk_images(node: &Node) -> Inventory {
    let mut found = node.disk_images.store().inventory();
    for entry in &mut found.entries {
        match waiting_for(node, &entry.id) {
            0 => {}
            vms => entry.uses.push(CacheUse::Vms(vms)),
        }
    }
    found
}

fn waiting_for(node: &Node, id: &str) -> usize {
    let waits = |vm: &VmHandle| {
        let pin = vm.spec().disk_image().filter(|pin| pin.cached);
        let same = pin.and_then(|pin| pin.digest).is_some_and(|digest| digest.hex() == id);
        same && !vm.view().observed.disks
    };
    node.vms.all().iter().filter(|vm| waits(vm)).count()
}

fn now_unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn tell(node: &Node, collected: &Collected, on_behalf_of: &str) {
    for (decision, outcome) in collected.plan.decisions.iter().zip(&collected.outcomes) {
        let (name, verdict) = (&decision.entry.name, &decision.verdict);
        match outcome {
            RemovalOutcome::Removed => tracing::info!(name, "{verdict}"),
            RemovalOutcome::Failed(error) => tracing::warn!(name, error, "not removed"),
            _ => {}
        }
    }
    let Some(words) = collected.in_words() else { return };
    let names: Vec<String> =
        collected.removed().map(|decision| decision.entry.name.clone()).collect();
    let message = format!("removed from the image cache for {on_behalf_of}: {words}");
    node.events.tell(Event::new(EventKind::ImagesCollected, message).with("removed", names));
}

/// Does what needs room on a disk. Where it would not fit, or did not, what is
/// unused in the image cache makes room if it lies on that disk, and
/// `body` is tried once more. What was done to that end is the second result.
pub(crate) async fn with_room<T, E, F>(
    node: &Arc<Node>,
    on: &Path,
    (what, needed): (&str, Option<Bytes>),
    body: impl Fn() -> F,
) -> (Result<T, E>, Option<String>)
where
    F: Future<Output = Result<T, E>>,
    E: std::error::Error + 'static,
{
    let before = make_room_for(node, on, what, needed).await;
    match body().await {
        Err(error) if is_full_disk(&error) => {
            let more = needed.unwrap_or_default().max(SOME_ROOM);
            match make_room(node, on, what, more).await {
                None => (Err(error), before),
                made => (body().await, made),
            }
        }
        done => (done, before),
    }
}

/// Makes room for a write that would not fit, before it fails.
pub(crate) async fn make_room_for(
    node: &Arc<Node>,
    on: &Path,
    what: &str,
    needed: Option<Bytes>,
) -> Option<String> {
    let short = needed?.saturating_sub(free_bytes(on)?);
    if short == Bytes(0) {
        return None;
    }
    make_room(node, on, what, short).await
}

async fn make_room(node: &Arc<Node>, on: &Path, what: &str, room: Bytes) -> Option<String> {
    let cache = node.config.paths.image_cache_dir.clone();
    if device(on)? != device(&cache)? {
        return None;
    }
    let limits = CacheLimits { size: None, age: None, room: Some(room) };
    match collect(node, limits, false, what).await {
        Ok(collected) => collected.in_words(),
        Err(error) => {
            tracing::warn!(error = %Chain(&error), "no room is made in the image cache");
            None
        }
    }
}

/// Of the file system that `path` is on, or would be.
fn device(path: &Path) -> Option<u64> {
    path.ancestors().find_map(|at| fs::metadata(at).ok()).map(|metadata| metadata.dev())
}

fn free_bytes(path: &Path) -> Option<Bytes> {
    let stat = path.ancestors().find_map(|at| rustix::fs::statvfs(at).ok())?;
    Some(Bytes(stat.f_bavail.saturating_mul(stat.f_frsize)))
}

/// Files that are looked at to tell an image's size before it is imported.
const MAX_FILES: usize = 4096;

/// What an import from `path` writes at least: the blobs, and from them a root
/// disk that is no smaller. Blocks.
pub(crate) fn needed_for_import(path: &Path) -> Option<Bytes> {
    let mut bytes = 0u64;
    let mut left = MAX_FILES;
    let mut todo: Vec<PathBuf> = vec![path.to_owned()];
    while let Some(path) = todo.pop() {
        let metadata = fs::metadata(&path).ok()?;
        if metadata.is_dir() {
            for entry in fs::read_dir(&path).ok()? {
                left = left.checked_sub(1)?;
                todo.push(entry.ok()?.path());
            }
        } else if metadata.is_file() {
            bytes = bytes.saturating_add(metadata.len());
        }
    }
    Some(Bytes(bytes.saturating_mul(2)))
}

/// As a request has them, in place of the configuration's.
pub(crate) fn asked(node: &Node, size: Option<Bytes>, age: Option<Duration>) -> CacheLimits {
    if size.is_none() && age.is_none() {
        return limits(node);
    }
    CacheLimits { size, age, room: None }
}
