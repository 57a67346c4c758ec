//! The one task that makes templates and clones, and ends them.
//!
//! ```text
//!   asked for, came back, time ─▶ next (what is there, limits) ─▶ Deed ─▶ done ─▶ again
//!   the agent ends ─▶ every clone that waits ends
//! ```

use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use inn_domain::{
    CLONES_KEPT, Moment, PoolKind, PoolLimits, PoolStep, next_pool_change, plan_pool,
};
use inn_fail_point::{Point, fail_point};
use inn_host::process::proportional_memory;
use inn_units::Bytes;

use super::key::TemplateKey;
use super::{AGAIN, Clones, Kind, Ready, State, Templates, make, shelf};
use crate::node::Node;
use crate::vm::Draft;

/// Kinds that are known, with a template or without. Each takes some 100 MiB of
/// the disk; the one that was used the longest ago gives way.
pub(crate) const MOST: usize = 32;

/// Whoever has just asked for a VM has the host to itself for so long: a clone
/// that is made takes a CPU for about as long as a start from the template.
const GIVES_WAY: Duration = Duration::from_millis(250);

/// And for so long where the VM boots.
const GIVES_WAY_TO_BOOT: Duration = Duration::from_secs(2);

/// While more are asked for all the time, each waits no longer than this.
const GIVES_WAY_MOST: Duration = Duration::from_secs(2);

/// One thing to do. It has been taken out of what is there, or noted as begun.
enum Deed {
    Make(TemplateKey, Box<inn_domain::VmSpec>),
    Clone(Kind, Box<inn_domain::VmSpec>, Ready),
    End(Draft),
    /// Nobody has used it for long: it stays on the disk.
    LetGo(Ready),
    Remove(PathBuf),
}

/// Until the agent ends.
pub(crate) async fn keep(node: Arc<Node>) {
    let templates = &node.templates;
    let mut config = node.config.subscribe();
    let mut behind_since = None;
    while !node.closing.is_cancelled() {
        config.borrow_and_update();
        let drained = node.drain.is_on();
        templates.take_back();
        match templates.next(&node, &mut behind_since) {
            Ok(deed) => carry_out(&node, deed).await,
            Err(until) => tokio::select! {
                // Cancel safe: what was told stays to be seen.
                () = node.closing.cancelled() => {}
                () = templates.desk.changed.notified() => {}
                // Both only look at values.
                _ = config.changed() => {}
                () = async {
                    match drained {
                        true => node.drain.ended().await,
                        false => node.drain.begun().await,
                    }
                } => {}
                () = async {
                    match until {
                        Some(until) => tokio::time::sleep_until(node.instant(until)).await,
                        None => std::future::pending().await,
                    }
                } => {}
            },
        }
    }
    templates.take_back();
    let waiting = templates.take_all();
    futures_util::future::join_all(waiting.into_iter().map(Draft::end)).await;
    let held = templates.held();
    let _ = tokio::task::spawn_blocking(move || held.iter().for_each(shelf::touch)).await;
}

async fn carry_out(node: &Arc<Node>, deed: Deed) {
    let templates = &node.templates;
    match deed {
        Deed::Make(key, spec) => {
            let image = spec.source_name().to_owned();
            let begun = node.now();
            let made = make::make(node, key, *spec).await;
            match &made {
                Ok(ready) => {
                    let took = inn_units::format_duration(node.now().0 - begun.0);
                    tracing::info!(template = %ready.id, image, took, "made a template");
                }
                Err(_) if node.closing.is_cancelled() => {}
                Err(why) => tracing::warn!(image, why, "no template can be made"),
            }
            templates.made(key, made, node.now());
            fail_point(Point::TemplateKept);
        }
        Deed::Clone(kind, spec, ready) => {
            let made = clone(node, kind, *spec, &ready).await;
            templates.cloned(kind, ready.id, made, node.now()).await;
        }
        Deed::End(draft) => draft.end().await,
        Deed::LetGo(ready) => {
            // It only fails by a panic, which the log has.
            let _ = tokio::task::spawn_blocking(move || shelf::touch(&ready)).await;
        }
        Deed::Remove(path) => {
            // The same.
            let _ = tokio::task::spawn_blocking(move || shelf::remove(&path)).await;
        }
    }
}

/// One that waits, with what it takes of the host's memory.
async fn clone(
    node: &Arc<Node>,
    kind: Kind,
    spec: inn_domain::VmSpec,
    ready: &Ready,
) -> Result<(Draft, Option<Bytes>), String> {
    let held = node.templates.hold(ready.id).await;
    let held = held.map_err(|error| crate::error::Chain(&error).to_string())?;
    let spec = inn_domain::VmSpec { lease: kind.leased, ..spec };
    let mut draft = Draft::new(node, spec, Some(&held)).map_err(|error| error.to_string())?;
    match draft.prepare().await {
        Ok(()) => {
            fail_point(Point::CloneWaits);
            let cost = draft.pid().and_then(proportional_memory).map(Bytes);
            Ok((draft, cost))
        }
        Err(why) => {
            draft.end().await;
            Err(why)
        }
    }
}

impl Templates {
    /// What to do next; or until when there is nothing. `behind_since` is when
    /// there was first something to make, as it was left by the last look.
    fn next(&self, node: &Node, behind_since: &mut Option<Moment>) -> Result<Deed, Option<Moment>> {
        let now = node.now();
        let config = node.config.live().templates;
        let doomed = self.doomed.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(path) = doomed {
            return Ok(Deed::Remove(path));
        }
        let rests = !config.enabled || node.holds() || node.drain.is_on();
        let limits = match rests {
            true => PoolLimits { memory: Bytes(0), each: 0 },
            false => config.pool(node.limits.max_memory),
        };
        let mut inner = self.lock();
        for known in inner.values_mut() {
            let goes = known.ready().is_none();
            for clones in &mut known.clones {
                let gone = clones.waiting.iter().position(|draft| goes || !draft.lives());
                if let Some(place) = gone {
                    return Ok(Deed::End(clones.waiting.remove(place)));
                }
            }
        }
        let kinds: Vec<PoolKind<Kind>> =
            inner.iter().flat_map(|(key, known)| known.pool_kinds(*key, now)).collect();
        let steps = plan_pool(&kinds, limits, now);
        for step in &steps {
            let PoolStep::Retire(kind) = step else { continue };
            let known = inner.get_mut(&kind.key);
            // One that is being made is looked at again once it waits.
            if let Some(draft) = known.and_then(|known| known.clones[kind.place()].waiting.pop()) {
                return Ok(Deed::End(draft));
            }
        }
        if rests {
            return Err(None);
        }
        // Whoever may make VMs may ask for any size, and each is a kind of its own.
        if inner.len() > MOST
            && let Some((key, oldest)) = inner
                .iter()
                .filter(|(_, known)| !matches!(known.state, State::Making))
                .filter(|(_, known)| known.clones.iter().all(Clones::is_empty))
                .min_by_key(|(_, known)| known.last_used)
        {
            let (key, ready) = (*key, oldest.ready().cloned());
            inner.remove(&key);
            if let Some(ready) = ready {
                return Ok(Deed::Remove(ready.directory));
            }
        }
        let asked = inner.values().map(|known| known.last_used).max().unwrap_or_default();
        let wanted = inner.iter_mut().filter(|(_, known)| matches!(known.state, State::Wanted));
        if let Some((key, known)) = wanted.max_by_key(|(_, known)| known.last_used) {
            gives_way(behind_since, now, Moment(asked.0 + GIVES_WAY_TO_BOOT))?;
            known.state = State::Making;
            return Ok(Deed::Make(*key, Box::new(known.spec.clone())));
        }
        for step in steps {
            let PoolStep::Make(kind) = step else { continue };
            let Some(known) = inner.get_mut(&kind.key) else { continue };
            let Some(ready) = known.ready().cloned() else { continue };
            gives_way(behind_since, now, Moment(asked.0 + GIVES_WAY))?;
            known.clones[kind.place()].making += 1;
            return Ok(Deed::Clone(kind, Box::new(known.spec.clone()), ready));
        }
        *behind_since = None;
        let mut until = next_pool_change(&kinds, now);
        for known in inner.values_mut() {
            let over = Moment(known.last_used.0 + CLONES_KEPT);
            let last_used = known.last_used;
            let Some(ready) = known.ready_mut().filter(|ready| ready.held.is_some()) else {
                continue;
            };
            if over <= now && last_used != Moment::default() {
                let let_go = ready.clone();
                ready.held = None;
                return Ok(Deed::LetGo(let_go));
            }
            until = Some(until.map_or(over, |until| until.min(over)));
        }
        // Fewer are asked for together, as time goes by.
        if kinds.iter().any(|kind| kind.clones > 1) {
            let soon = Moment(now.0 + inn_domain::CLONES_TOGETHER);
            until = Some(until.map_or(soon, |until| until.min(soon)));
        }
        Err(until)
    }

    /// Clones that nobody has taken after all.
    fn take_back(&self) {
        let mut inner = self.lock();
        for (kind, draft) in self.desk.returned() {
            match inner.get_mut(&kind.key) {
                Some(known) => known.clones[kind.place()].waiting.push(draft),
                // Its end is the next look's for orphans.
                None => drop(draft),
            }
        }
    }

    fn made(&self, key: TemplateKey, made: Result<Ready, String>, now: Moment) {
        let mut inner = self.lock();
        let Some(known) = inner.get_mut(&key) else { return };
        // Its image may be gone meanwhile.
        let still_wanted = matches!(known.state, State::Making);
        match made {
            Ok(ready) if still_wanted => known.state = State::Ready(ready),
            Ok(ready) => self.doom(ready.directory),
            Err(why) if still_wanted => {
                known.state = State::Failed { why, again: Moment(now.0 + AGAIN) };
            }
            Err(_) => {}
        }
    }

    async fn cloned(
        &self,
        kind: Kind,
        of: inn_units::SnapshotId,
        made: Result<(Draft, Option<Bytes>), String>,
        now: Moment,
    ) {
        let unwanted = {
            let mut inner = self.lock();
            let Some(known) = inner.get_mut(&kind.key) else { return };
            known.clones[kind.place()].making -= 1;
            let same = known.ready().is_some_and(|ready| ready.id == of);
            match made {
                Ok((draft, cost)) => {
                    known.cost = cost.or(known.cost);
                    if same {
                        known.clones[kind.place()].waiting.push(draft);
                        return;
                    }
                    Some(draft)
                }
                Err(why) => {
                    tracing::warn!(template = %of, why, "no clone of it can be made");
                    if let Some(ready) = known.ready().cloned().filter(|_| same) {
                        known.state = State::Failed { why, again: Moment(now.0 + AGAIN) };
                        self.doom(ready.directory);
                    }
                    None
                }
            }
        };
        if let Some(draft) = unwanted {
            draft.end().await;
        }
    }

    pub(super) fn doom(&self, directory: PathBuf) {
        self.doomed.lock().unwrap_or_else(PoisonError::into_inner).push(directory);
    }

    fn held(&self) -> Vec<Ready> {
        let inner = self.lock();
        let ready = inner.values().filter_map(super::Known::ready);
        ready.filter(|ready| ready.held.is_some()).cloned().collect()
    }

    fn take_all(&self) -> Vec<Draft> {
        let mut inner = self.lock();
        let all = inner.values_mut().flat_map(|known| &mut known.clones);
        all.flat_map(|clones| std::mem::take(&mut clones.waiting)).collect()
    }
}

/// An error is when to look again.
fn gives_way(
    behind_since: &mut Option<Moment>,
    now: Moment,
    quiet: Moment,
) -> Result<(), Option<Moment>> {
    let since = *behind_since.get_or_insert(now);
    let until = quiet.min(Moment(since.0 + GIVES_WAY_MOST));
    if until > now {
        return Err(Some(until));
    }
    *behind_since = None;
    Ok(())
}

impl Kind {
    pub(super) fn place(self) -> usize {
        usize::from(self.leased)
    }
}
