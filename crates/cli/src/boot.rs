//! Follows a VM until its guest is ready.
//!
//! ```text
//!   Booting(phase) ──▶ Booting(next phase) ──▶ Ready
//!         └────────────────────┴──▶ Failed
//! ```
//! One task owns the following, and with it the lease of a leased VM: it lets
//! go of that when the [`Boot`] is dropped.

use std::time::Duration;

use inn_client::api::{Failure as VmFailure, Phase, Vm};
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
                    Ok(vm) if vm.observed_generation < generation => BootState::Booting(vm.phase),
                    Ok(vm) => of_phase(&name, vm.phase, vm.failure.as_ref()),
                    Err(e) => BootState::Failed(e.into()),
                };
                let over = !matches!(next, BootState::Booting(_));
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
