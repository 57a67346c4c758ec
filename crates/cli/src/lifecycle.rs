//! Verbs that change what is wanted of VMs: each is asked for, then waited for.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use inn_client::api::{EndKind, IdleSet, LastEnd, Phase, TtlSet, Vm};
use inn_client::{Client, ClientError, VmRemoval};
use inn_units::format_duration;
use serde::Serialize;
use tokio::time::Instant;

use crate::args::{
    ChangeArgs, CleanArgs, DeleteArgs, IdleArgs, PauseArgs, ResumeArgs, StartArgs, TtlArgs,
    VmSelection, VmTargets, on_idle, seconds_up,
};
use crate::boot::{cloud_init_failure, vm_failure};
use crate::context::{Context, complain};
use crate::failure::{FAILED, Failure, harmless};
use crate::progress::Spinner;
use crate::view::{end, idle_words, is_active, phase_name, time_left};

/// How many VMs are worked on at a time; the agent has its own order.
const AT_ONCE: usize = 16;
/// How long one question for a change may hang before it is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(20);
/// How long the request for a VM's end waits for it: most take some milliseconds.
const AT_FIRST: Duration = Duration::from_secs(1);
/// When we stop waiting. The agent's own deadlines are shorter, and say more.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Start,
    Stop { force: bool },
    Restart { force: bool },
    Pause,
    Resume,
    Delete(VmRemoval),
}

/// What became of one VM, for `-o json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Change {
    id: Option<String>,
    name: String,
    /// Its state now, or `deleted`.
    status: Option<String>,
    /// How its machine came to its end, where this verb ended one.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_end: Option<LastEnd>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

pub(crate) async fn start(context: &Context, args: &StartArgs) -> Result<u8, Failure> {
    each(context, &args.vms, Verb::Start).await
}

pub(crate) async fn stop(context: &Context, args: &ChangeArgs) -> Result<u8, Failure> {
    each(context, &args.vms, Verb::Stop { force: args.force }).await
}

pub(crate) async fn restart(context: &Context, args: &ChangeArgs) -> Result<u8, Failure> {
    each(context, &args.vms, Verb::Restart { force: args.force }).await
}

pub(crate) async fn pause(context: &Context, args: &PauseArgs) -> Result<u8, Failure> {
    each(context, &args.vms, Verb::Pause).await
}

pub(crate) async fn resume(context: &Context, args: &ResumeArgs) -> Result<u8, Failure> {
    each(context, &args.vms, Verb::Resume).await
}

pub(crate) async fn delete(context: &Context, args: &DeleteArgs) -> Result<u8, Failure> {
    let removal =
        VmRemoval { force: args.force, keep_disk: args.keep_disk, ..VmRemoval::default() };
    each(context, &args.vms, Verb::Delete(removal)).await
}

pub(crate) async fn clean(context: &Context, args: &CleanArgs) -> Result<u8, Failure> {
    let removal = VmRemoval { force: true, keep_disk: false, purge_persist: !args.keep_persist };
    each(context, &args.vms, Verb::Delete(removal)).await
}

/// Prints what is left from now on.
pub(crate) async fn ttl(context: &Context, args: &TtlArgs) -> Result<u8, Failure> {
    let client = context.client().await?;
    let set =
        TtlSet { ttl_seconds: args.ttl.0.map(seconds_up), ttl_action: args.action.map(Into::into) };
    let vm = client.set_vm_ttl(&args.vm, &set).await?;
    context.result(&vm, || match &vm.ttl {
        Some(ttl) => format!("{}: {}\n", vm.name, time_left(ttl)),
        None => format!("{} stays\n", vm.name),
    })?;
    Ok(0)
}

/// Prints what becomes of it from now on.
pub(crate) async fn idle(context: &Context, args: &IdleArgs) -> Result<u8, Failure> {
    let client = context.client().await?;
    let set = IdleSet { on_idle: args.action.0.map(|action| on_idle(action, args.after)) };
    let vm = client.set_vm_idle(&args.vm, &set).await?;
    context.result(&vm, || match &vm.on_idle {
        Some(on_idle) => format!("{}: {}\n", vm.name, idle_words(on_idle)),
        None => format!("{} never rests\n", vm.name),
    })?;
    Ok(0)
}

impl Verb {
    const fn doing(self) -> &'static str {
        match self {
            Self::Start => "starting",
            Self::Stop { .. } => "stopping",
            Self::Restart { .. } => "restarting",
            Self::Pause => "pausing",
            Self::Resume => "resuming",
            Self::Delete(_) => "deleting",
        }
    }

    const fn done(self) -> &'static str {
        match self {
            Self::Start => "started",
            Self::Stop { .. } => "stopped",
            Self::Restart { .. } => "restarted",
            Self::Pause => "paused",
            Self::Resume => "resumed",
            Self::Delete(_) => "deleted",
        }
    }

    /// Whether `--all` means a VM in this state. One that rests would be woken
    /// by whoever needs it: one that was stopped would not.
    const fn concerns(self, phase: Phase, rests: bool) -> bool {
        match self {
            Self::Start => !is_active(phase),
            Self::Stop { .. } => is_active(phase) || rests,
            Self::Restart { .. } => is_active(phase),
            Self::Pause => matches!(phase, Phase::Running),
            Self::Resume => matches!(phase, Phase::Paused),
            Self::Delete(_) => true,
        }
    }

    /// Whether it is a surprise that the machine was not asked to end.
    const fn asks_the_guest(self) -> bool {
        matches!(self, Self::Stop { force: false } | Self::Restart { force: false })
    }

    /// Asks for it and waits.
    async fn apply(self, client: &Client, vm: &str) -> Result<Outcome, Failure> {
        let asked = match self {
            Self::Start => client.start_vm(vm).await?,
            Self::Stop { force } => client.stop_vm(vm, force).await?,
            Self::Restart { force } => client.restart_vm(vm, force).await?,
            Self::Pause => client.pause_vm(vm).await?,
            Self::Resume => client.resume_vm(vm).await?,
            Self::Delete(removal) => {
                let known = client.vm(vm).await?;
                delete_and_wait(client, &known, removal).await?;
                return Ok(Outcome::default());
            }
        };
        let before = asked.last_end.clone();
        let vm = settle(client, asked).await?;
        // An end that was known before is not of this verb's making.
        let last_end = vm.last_end.clone().filter(|_| vm.last_end != before);
        Ok(Outcome { vm: Some(vm), last_end })
    }
}

/// What a verb has done.
#[derive(Debug, Default)]
struct Outcome {
    /// As it is now; none when it is gone.
    vm: Option<Vm>,
    /// Of the machine that it ended, if it did.
    last_end: Option<LastEnd>,
}

impl Outcome {
    /// The line for stdout: `web stopped (graceful, 1.20 s)`.
    fn line(&self, name: &str, verb: Verb, took: Duration) -> String {
        let how = match &self.last_end {
            Some(last) => end(&LastEnd { reason: None, ..last.clone() }),
            None => format_duration(took),
        };
        format!("{name} {} ({how})\n", verb.done())
    }

    /// What somebody should know who wanted the guest to end in order.
    fn note(&self, name: &str, verb: Verb) -> Option<String> {
        let last = self.last_end.as_ref().filter(|last| last.how == EndKind::Forced)?;
        let reason = last.reason.as_deref().unwrap_or("it did not end by itself");
        verb.asks_the_guest().then(|| format!("{name}: stopped by force: {reason}"))
    }
}

/// Every VM gets its own line as soon as it is done, and its own failure.
async fn each(context: &Context, vms: &VmSelection, verb: Verb) -> Result<u8, Failure> {
    let client = context.client().await?;
    let names = match vms.targets() {
        VmTargets::Named(names) => names,
        VmTargets::All => {
            let vms = client.vms().await?.items;
            let meant = vms.iter().filter(|vm| verb.concerns(vm.phase, vm.rest.is_some()));
            meant.map(|vm| vm.name.to_string()).collect()
        }
    };
    if names.is_empty() {
        context.note(&format!("no VM needs {}", verb.doing()));
    }
    let what = match names.as_slice() {
        [name] => format!("{} {name}", verb.doing()),
        names => format!("{} {} VMs", verb.doing(), names.len()),
    };
    let mut spinner = Spinner::start(context, what);
    let client = &client;
    let mut work = stream::iter(names)
        .map(|name| async move {
            let begun = Instant::now();
            let outcome = verb.apply(client, &name).await;
            (name, outcome, begun.elapsed())
        })
        .buffer_unordered(AT_ONCE);
    let mut changes = Vec::new();
    let mut failed = 0;
    while let Some((name, outcome, took)) = work.next().await {
        spinner.clear();
        let change = match outcome {
            Ok(outcome) => {
                if !context.json() && !context.globals.quiet {
                    crate::context::print(outcome.line(&name, verb, took).as_bytes())?;
                }
                if let Some(note) = outcome.note(&name, verb) {
                    context.note(&harmless(&note));
                }
                let Outcome { vm, last_end } = outcome;
                Change {
                    id: vm.as_ref().map(|vm| vm.id.to_string()),
                    name,
                    status: Some(vm.map_or("deleted", |vm| phase_name(vm.phase)).to_owned()),
                    last_end,
                    error: None,
                }
            }
            Err(failure) => {
                failed += 1;
                let _ = std::io::Write::write_all(
                    &mut std::io::stderr().lock(),
                    failure.report().as_bytes(),
                );
                let error = Some(failure.sentence().to_owned());
                Change { id: None, name, status: None, last_end: None, error }
            }
        };
        changes.push(change);
    }
    if context.json() {
        context.result(&changes, String::new)?;
    }
    if failed > 0 && changes.len() > 1 {
        complain(&format!("{} failed for {failed} of {} VMs", verb.doing(), changes.len()));
    }
    Ok(if failed > 0 { FAILED } else { 0 })
}

/// Waits until the VM has reached what was asked of it, or failed to.
pub(crate) async fn settle(client: &Client, mut vm: Vm) -> Result<Vm, Failure> {
    let (id, generation) = (vm.id.to_string(), vm.generation);
    let deadline = Instant::now() + PATIENCE;
    while vm.observed_generation < generation {
        if Instant::now() >= deadline {
            return Err(Failure::new(format!(
                "VM {} is still {} after {}; `inn vm show {0}` has its state",
                vm.name,
                phase_name(vm.phase),
                format_duration(PATIENCE),
            )));
        }
        vm = client.wait_vm(&id, generation, ASK_AGAIN).await?;
    }
    match (&vm.failure, vm.phase) {
        (Some(failure), Phase::Failed) => Err(vm_failure(vm.name.as_str(), failure)),
        (None, Phase::Failed) => Err(Failure::new(format!(
            "VM {0} failed; `inn vm logs {0} --source console` shows why",
            vm.name
        ))),
        _ => match cloud_init_failure(vm.name.as_str(), &vm) {
            Some(failure) => Err(failure),
            None => Ok(vm),
        },
    }
}

/// Deletes the VM and returns once it is gone. One that is gone is no error.
pub(crate) async fn delete_and_wait(
    client: &Client,
    vm: &Vm,
    removal: VmRemoval,
) -> Result<(), Failure> {
    let id = vm.id.to_string();
    let mut known = match client.delete_vm(&id, removal, AT_FIRST).await {
        Ok(Some(known)) => known,
        Ok(None) => return Ok(()),
        Err(e) if e.is_not_found() => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    let generation = known.generation;
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let (Some(failure), Phase::Failed) = (&known.failure, known.phase)
            && known.observed_generation >= generation
        {
            return Err(vm_failure(known.name.as_str(), failure));
        }
        if Instant::now() >= deadline {
            return Err(Failure::new(format!(
                "VM {} is not gone after {}; try again with --force",
                vm.name,
                format_duration(PATIENCE)
            )));
        }
        known = match client.wait_vm(&id, generation, ASK_AGAIN).await {
            Ok(known) => known,
            Err(ClientError::Problem(p)) if p.code == inn_client::api::Code::NotFound => {
                return Ok(());
            }
            Err(e) => return Err(e.into()),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_those_that_it_can_be_done_to() {
        let stop = Verb::Stop { force: false };
        let restart = Verb::Restart { force: false };
        for (verb, phase, rests, meant) in [
            (stop, Phase::Running, false, true),
            (stop, Phase::Paused, true, true),
            (stop, Phase::Stopped, true, true),
            (stop, Phase::Stopped, false, false),
            (restart, Phase::Stopped, true, false),
            (Verb::Start, Phase::Stopped, true, true),
            (Verb::Pause, Phase::Paused, true, false),
        ] {
            assert_eq!(verb.concerns(phase, rests), meant, "{verb:?} {phase:?} {rests}");
        }
    }
}
