use std::fmt;
use std::time::Duration;

use http::{Method, StatusCode};
use inn_api::{
    IdleSet, Operation, TtlSet, Vm, VmCommit, VmCreate, VmLimitsChange, VmLimitsState, VmList,
    VmWhy, VncAccess,
};
use inn_units::Generation;
use jiff::Timestamp;

use crate::query::{Target, duration};
use crate::{ByteStream, Client, ClientError};

/// What goes with a deleted VM, and how roughly.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VmRemoval {
    /// Ends the machine without asking the guest.
    pub force: bool,
    /// Leaves the VM's writable disk where it is.
    pub keep_disk: bool,
    /// Removes the VM's /persist disk too, which otherwise outlives it.
    pub purge_persist: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogSource {
    /// What the image's command prints.
    Workload,
    /// The VM's serial console.
    Console,
    /// What the VM's monitor process itself prints.
    Vmm,
    /// What the agent's log says of the VM.
    Agent,
}

impl fmt::Display for LogSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Workload => "workload",
            Self::Console => "console",
            Self::Vmm => "vmm",
            Self::Agent => "agent",
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogRequest {
    pub source: LogSource,
    /// Only the last so many lines of what is there.
    pub tail: Option<u64>,
    /// Only what was written since.
    pub since: Option<Timestamp>,
    /// Goes on with what comes.
    pub follow: bool,
}

/// `vm` is an id or a name everywhere.
impl Client {
    pub async fn vms(&self) -> Result<VmList, ClientError> {
        self.get(&Target::api(&["vms"])).await
    }

    pub async fn vm(&self, vm: &str) -> Result<Vm, ClientError> {
        self.get(&Target::api(&["vms", vm])).await
    }

    /// Why it is as it is.
    pub async fn why_vm(&self, vm: &str) -> Result<VmWhy, ClientError> {
        self.get(&Target::api(&["vms", vm, "why"])).await
    }

    /// The VM once it has settled at `generation` or a later one, or as it is
    /// when `wait` is over.
    pub async fn wait_vm(
        &self,
        vm: &str,
        generation: Generation,
        wait: Duration,
    ) -> Result<Vm, ClientError> {
        let target =
            Target::api(&["vms", vm]).with("wait", duration(wait)).with("generation", generation);
        self.call(Method::GET, &target, None::<&()>, wait).await
    }

    pub async fn create_vm(&self, vm: &VmCreate) -> Result<Vm, ClientError> {
        self.call(Method::POST, &Target::api(&["vms"]), Some(vm), Duration::ZERO).await
    }

    /// Succeeds on a running VM. The answer's generation is what to wait for.
    pub async fn start_vm(&self, vm: &str) -> Result<Vm, ClientError> {
        self.post(&Target::api(&["vms", vm, "start"])).await
    }

    pub async fn stop_vm(&self, vm: &str, force: bool) -> Result<Vm, ClientError> {
        self.post(&Target::api(&["vms", vm, "stop"]).with_flag("force", force)).await
    }

    pub async fn restart_vm(&self, vm: &str, force: bool) -> Result<Vm, ClientError> {
        self.post(&Target::api(&["vms", vm, "restart"]).with_flag("force", force)).await
    }

    /// Has the VM stand still. The answer's generation is what to wait for.
    pub async fn pause_vm(&self, vm: &str) -> Result<Vm, ClientError> {
        self.post(&Target::api(&["vms", vm, "pause"])).await
    }

    pub async fn resume_vm(&self, vm: &str) -> Result<Vm, ClientError> {
        self.post(&Target::api(&["vms", vm, "resume"])).await
    }

    /// A password for the VM's screen, in place of any before.
    pub async fn set_vnc_password(&self, vm: &str) -> Result<VncAccess, ClientError> {
        let target = Target::api(&["vms", vm, "vnc"]);
        self.call(Method::POST, &target, None::<&()>, Duration::ZERO).await
    }

    /// Another time to live, from now on, or none.
    pub async fn set_vm_ttl(&self, vm: &str, ttl: &TtlSet) -> Result<Vm, ClientError> {
        let target = Target::api(&["vms", vm, "ttl"]);
        self.call(Method::POST, &target, Some(ttl), Duration::ZERO).await
    }

    /// What becomes of it when nobody uses it.
    pub async fn set_vm_idle(&self, vm: &str, idle: &IdleSet) -> Result<Vm, ClientError> {
        let target = Target::api(&["vms", vm, "idle"]);
        self.call(Method::PUT, &target, Some(idle), Duration::ZERO).await
    }

    /// Asks for the VM's end; `None` where it is gone within `wait`, and later
    /// once asking for it says "not found".
    pub async fn delete_vm(
        &self,
        vm: &str,
        removal: VmRemoval,
        wait: Duration,
    ) -> Result<Option<Vm>, ClientError> {
        let target = Target::api(&["vms", vm])
            .with_flag("force", removal.force)
            .with_flag("keepDisk", removal.keep_disk)
            .with_flag("purgePersist", removal.purge_persist)
            .with("wait", duration(wait));
        let during = format!("DELETE {}", target.as_str());
        let response = self.request(Method::DELETE, &target, None::<&()>, wait).await?;
        if response.status() == StatusCode::OK {
            return Ok(None);
        }
        self.json(&during, response).await.map(Some)
    }

    /// Changes what the VM's machine may use of its node, at once where it
    /// runs.
    pub async fn set_limits(
        &self,
        vm: &str,
        change: &VmLimitsChange,
    ) -> Result<VmLimitsState, ClientError> {
        let target = Target::api(&["vms", vm, "limits"]);
        self.call(Method::PATCH, &target, Some(change), Duration::ZERO).await
    }

    /// Starts to make an image of the VM's disk; [`Client::wait_operation`]
    /// tells how it goes on.
    pub async fn commit_vm(&self, vm: &str, commit: &VmCommit) -> Result<Operation, ClientError> {
        let target = Target::api(&["vms", vm, "commit"]);
        self.call(Method::POST, &target, Some(commit), Duration::ZERO).await
    }

    pub async fn vm_logs(&self, vm: &str, request: LogRequest) -> Result<ByteStream, ClientError> {
        let target = Target::api(&["vms", vm, "logs"])
            .with("source", request.source)
            .with_some("tail", request.tail)
            .with_some("since", request.since)
            .with_flag("follow", request.follow);
        self.stream(&target).await
    }

    async fn post(&self, target: &Target) -> Result<Vm, ClientError> {
        self.call(Method::POST, target, None::<&()>, Duration::ZERO).await
    }
}
