//! Follows a VM until its guest is ready.
//!
//! ```text
//!   Booting(phase) ──▶ Booting(next phase) ──▶ Ready
//!         └────────────────────┴──▶ Failed
//! ```
//! One task owns the following, and with it the lease of a leased VM: it lets
//! go of that when the [`Boot`] is dropped.

use std::time::Duration;

use inn_client::api::{CloudInitState, CloudInitStatus, Failure as VmFailure, Phase, Vm};
use inn_client::{Client, Lease};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::failure::Failure;
use crate::view::phase_name;

/// How long one question for a change may hang; then it is asked again, and
/// the phase that came back is shown.
const ASK_AGAIN: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
pub(crate) enum BootState {
    Booting(Phase),
    /// It runs, and this is what it still waits for.
    SettingUp(String),
    Ready,
    Failed(Failure),
}

#[derive(Debug)]
pub(crate) struct Boot {
    state: watch::Receiver<BootState>,
    task: Option<JoinHandle<()>>,
}

impl Boot {
    /// Of a VM that was up already.
    pub(crate) fn ready() -> Self {
        Self { state: watch::channel(BootState::Ready).1, task: None }
    }

    /// Of a VM that lives as long as `lease` does.
    pub(crate) fn leased(mut lease: Lease, vm: &Vm) -> Self {
        let (set, state) = watch::channel(BootState::Booting(vm.phase));
        let name = vm.name.to_string();
        let task = tokio::spawn(async move {
            loop {
                let next = match lease.next().await {
                    Ok(Some(event)) => of_phase(&name, event.phase, event.failure.as_ref()),
                    Ok(None) => BootState::Failed(Failure::new(format!("VM {name} is gone"))),
                    Err(e) => BootState::Failed(e.into()),
                };
                let over = matches!(next, BootState::Failed(_));
                set.send_replace(next);
                if over {
                    return;
                }
            }
        });
        Self { state, task: Some(task) }
    }

    /// Of a VM that was made to stay.
    pub(crate) fn settling(client: Client, vm: &Vm) -> Self {
        let (set, state) = watch::channel(BootState::Booting(vm.phase));
        let (id, name, generation) = (vm.id.to_string(), vm.name.to_string(), vm.generation);
        let task = tokio::spawn(async move {
            loop {
                let next = match client.wait_vm(&id, generation, ASK_AGAIN).await {
                    Ok(vm) if vm.observed_generation < generation => booting(&vm),
                    Ok(vm) => settled(&name, &vm),
                    Err(e) => BootState::Failed(e.into()),
                };
                let over = !matches!(next, BootState::Booting(_) | BootState::SettingUp(_));
                set.send_replace(next);
                if over {
                    return;
                }
            }
        });
        Self { state, task: Some(task) }
    }

    pub(crate) fn state(&self) -> BootState {
        self.state.borrow().clone()
    }

    /// The next state; waits for ever when there will be none. Cancel safe.
    pub(crate) async fn changed(&mut self) -> BootState {
        match self.state.changed().await {
            Ok(()) => self.state.borrow_and_update().clone(),
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Boot {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

fn booting(vm: &Vm) -> BootState {
    match &vm.cloud_init {
        Some(CloudInitState { status: CloudInitStatus::Waiting, stage, .. })
            if vm.phase == Phase::Running =>
        {
            let stage = stage.as_ref().map(|stage| format!(": {stage}"));
            BootState::SettingUp(format!("cloud-init{}", stage.unwrap_or_default()))
        }
        _ => BootState::Booting(vm.phase),
    }
}

fn settled(name: &str, vm: &Vm) -> BootState {
    match cloud_init_failure(name, vm) {
        Some(failure) => BootState::Failed(failure),
        None => of_phase(name, vm.phase, vm.failure.as_ref()),
    }
}

/// Of a VM that runs and did not become what it was to be.
pub(crate) fn cloud_init_failure(name: &str, vm: &Vm) -> Option<Failure> {
    let CloudInitState { status: CloudInitStatus::Failed, errors, output, .. } =
        vm.cloud_init.as_ref()?
    else {
        return None;
    };
    let why = errors.first().map_or("it does not say why", String::as_str);
    let text = format!(
        "VM {name} runs, and cloud-init has failed in it: {why}; `inn vm why {name}` says more"
    );
    Some(Failure::new(text).with_console(output))
}

fn of_phase(name: &str, phase: Phase, failure: Option<&VmFailure>) -> BootState {
    match (phase, failure) {
        (Phase::Running, _) => BootState::Ready,
        (Phase::Pending | Phase::Preparing | Phase::Starting, _) => BootState::Booting(phase),
        (_, Some(failure)) => BootState::Failed(vm_failure(name, failure)),
        (phase, None) => BootState::Failed(Failure::new(format!(
            "VM {name} is {} and not running; `inn vm logs {name} --source console` shows why",
            phase_name(phase)
        ))),
    }
}

/// A VM's own account of what went wrong.
pub(crate) fn vm_failure(name: &str, failure: &VmFailure) -> Failure {
    let VmFailure { step, cause, next, console, .. } = failure;
    Failure::new(format!("VM {name} failed at {step}: {cause}; {next}")).with_console(console)
}
