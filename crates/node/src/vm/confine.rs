//! What a VM's machine may use of its host, and whom its VMM is on it.
//!
//! ```text
//!   launch ──confine──▶ groups made and limited, a user taken ──▶ the VMM runs in them
//!   a change of limits ─▶ stored ─▶ written where the machine is
//!   adopt ──▶ read back from the process; a machine keeps what it has
//!   its end ──▶ groups removed          the VM's ──▶ its user is free again
//! ```
//!
//! Nothing of it is stored: the groups are named after the VM's id, and its
//! user is the owner of its run directory.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;

use inn_domain::{LimitsChange, LimitsDeniedReason, Power, ResourceLimits, admit_limits};
use inn_fail_point::{Point, fail_point};
use inn_host::cgroup::{CgroupLimits, Device, IoLimits, Placed};
use inn_store::StoreError;
use inn_vmm::{Accel, Isolation, VmmUser};

use super::handle::{VmHandle, VmShared};
use super::publish::VmView;
use super::task::VmTask;
use crate::node::Node;
use crate::runtime::AnyRuntime;
use crate::vmm_users::kvm_groups;

/// For what is left in a machine's groups to end, once it is killed.
const REMOVAL: Duration = Duration::from_secs(10);

/// How a machine that runs is confined.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Confinement {
    pub(crate) applied: Vec<String>,
    /// What, and why.
    pub(crate) not_applied: Vec<(String, String)>,
    pub(crate) uid: Option<u32>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum LimitsError {
    #[error(transparent)]
    Denied(#[from] LimitsDeniedReason),
    #[error("the limits cannot be kept")]
    Store(#[from] StoreError),
}

impl Confinement {
    /// With what the groups have brought; the rest stays.
    fn limited(&mut self, placed: &Placed) {
        let of_vmm = |what: &str| [USER, ROOT, SECCOMP].contains(&what);
        self.applied.retain(|what| of_vmm(what));
        self.not_applied.retain(|(what, _)| of_vmm(what));
        let applied = placed.applied.iter().map(ToString::to_string);
        self.applied.splice(0..0, applied);
        let short =
            placed.not_applied.iter().map(|not| (not.resource.to_string(), not.why.clone()));
        self.not_applied.splice(0..0, short);
    }
}

const USER: &str = "user";
/// A root directory without the host's files.
const ROOT: &str = "rootDirectory";
const SECCOMP: &str = "seccomp";

impl VmTask {
    /// Makes room for a machine that is about to be launched. Limits that
    /// can't be had, and a user that can't, are told and stop nothing.
    pub(super) async fn confine(&self, runtime: &AnyRuntime, accel: Accel) -> Isolation {
        let mut now = Confinement::default();
        match runtime {
            AnyRuntime::Qemu(_) | AnyRuntime::Krun(_) => now.applied.push(SECCOMP.to_owned()),
            AnyRuntime::Firecracker(_) => {
                let why = "Firecracker filters them itself where it was built with its filters";
                now.not_applied.push((SECCOMP.to_owned(), why.to_owned()));
            }
            AnyRuntime::Libvirt(_) => {
                // Unless its qemu.conf says otherwise, which its process tells
                // when it is found again.
                now.applied.push(SECCOMP.to_owned());
            }
            AnyRuntime::Sim(_) => {
                let why = "a simulated machine has no process";
                now.not_applied.push(("all".to_owned(), why.to_owned()));
                self.publish_confinement(now);
                return Isolation::default();
            }
        }
        let user = runtime.can_be_nobody().and_then(|()| self.user(runtime, accel));
        let user = match user {
            Ok(user) => {
                now.applied.push(USER.to_owned());
                now.uid = Some(user.uid);
                Some(user)
            }
            Err(why) => {
                now.not_applied.push((USER.to_owned(), why));
                None
            }
        };
        let jailed = match &user {
            // Whoever may become nobody may also leave the host's files.
            Some(_) => match runtime.can_jail() {
                Ok(()) => {
                    now.applied.push(ROOT.to_owned());
                    true
                }
                Err(why) => {
                    now.not_applied.push((ROOT.to_owned(), why));
                    false
                }
            },
            None => false,
        };
        let placed = {
            let (cgroups, shared) = (self.node.cgroups.clone(), Arc::clone(&self.shared));
            let limits = self.shared.view.borrow().limits;
            let making = tokio::task::spawn_blocking(move || {
                let plan = cgroups.plan(&shared.id.to_string(), &shared.cgroup_limits(limits));
                cgroups.make(&plan)
            });
            making.await.unwrap_or_default()
        };
        now.limited(&placed);
        for (what, why) in &now.not_applied {
            tracing::info!(vm = %self.shared.spec.name, what, why, "not limited");
        }
        self.publish_confinement(now);
        let log_uid = user.as_ref().and_then(|_| self.node.vmm_users.log_writers());
        Isolation { groups: placed.entrances, user, jailed, log_uid }
    }

    fn user(&self, runtime: &AnyRuntime, accel: Accel) -> Result<VmmUser, String> {
        let groups = match (runtime, accel) {
            // Its jailer makes it a /dev/kvm of its own.
            (AnyRuntime::Firecracker(_), _) | (_, Accel::Tcg) => Vec::new(),
            (_, Accel::Kvm) => kvm_groups()?,
        };
        let uid = self.node.vmm_users.take(self.shared.id)?;
        Ok(VmmUser { uid, groups })
    }

    /// Limits that have changed while the machine was launched reach it.
    pub(super) async fn catch_up_with_limits(&self, launched_with: ResourceLimits) {
        let (now, pid) = {
            let view = self.shared.view.borrow();
            (view.limits, view.machine.as_ref().map(|machine| machine.pid))
        };
        if now != launched_with
            && let Some(pid) = pid
        {
            limit_running(&self.node, &self.shared, pid, now).await;
        }
    }

    /// Of a machine of an earlier life: what it has is what it keeps, and what
    /// was asked of it meanwhile it gets.
    pub(super) async fn read_confinement(&self, runtime: &str, pid: u32) {
        if !["qemu", "libvirt"].contains(&runtime) {
            return;
        }
        let mut now = Confinement::default();
        let status = format!("/proc/{pid}/status");
        let status = tokio::fs::read_to_string(status).await.unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<u32>().ok()
        };
        match field("Seccomp:") {
            Some(2) => now.applied.push(SECCOMP.to_owned()),
            _ => now.not_applied.push((SECCOMP.to_owned(), "it was started without".to_owned())),
        }
        let own = rustix::process::geteuid().as_raw();
        // Also one of a range that was configured before.
        match field("Uid:").filter(|uid| *uid != own) {
            Some(uid) => {
                now.applied.push(USER.to_owned());
                now.uid = Some(uid);
            }
            None => now.not_applied.push((USER.to_owned(), "it was started without".to_owned())),
        }
        let root = |path: &str| {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.dev(), metadata.ino()))
        };
        let (theirs, ours) = (root(&format!("/proc/{pid}/root/")), root("/"));
        if theirs.is_some() && theirs != ours {
            now.applied.push(ROOT.to_owned());
        } else if now.uid.is_some() {
            now.not_applied.push((ROOT.to_owned(), "it was started without".to_owned()));
        }
        self.publish_confinement(now);
        let limits = self.shared.view.borrow().limits;
        limit_running(&self.node, &self.shared, pid, limits).await;
    }

    pub(super) fn publish_confinement(&self, now: Confinement) {
        self.shared.modify(|view| view.confinement = Some(Arc::new(now)));
    }

    /// After a machine's end, or before there is one.
    pub(super) async fn leave_groups(&self) {
        let (cgroups, id) = (self.node.cgroups.clone(), self.shared.id.to_string());
        let removing = tokio::task::spawn_blocking(move || cgroups.remove(&id, REMOVAL));
        match removing.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(vm = %self.shared.spec.name, %error, "its control groups stay behind");
            }
            // It fails only by a panic, which the log has.
            Err(_) => {}
        }
        self.shared.modify(|view| view.confinement = None);
    }
}

impl VmShared {
    /// With defaults for this VM's size, and the disk that they are about.
    fn cgroup_limits(&self, limits: ResourceLimits) -> CgroupLimits {
        let limits = limits.in_effect(self.spec.memory, self.spec.vcpus);
        CgroupLimits {
            cpu_percent: limits.cpu_percent,
            cpu_weight: limits.cpu_weight,
            memory: limits.memory.map(|memory| memory.get()),
            pids: limits.pids,
            io: IoLimits {
                read_bytes: limits.io.read.map(|rate| rate.get()),
                write_bytes: limits.io.write.map(|rate| rate.get()),
                read_ops: limits.io.read_ops,
                write_ops: limits.io.write_ops,
            },
            devices: Device::of_path(&self.paths.dir).into_iter().collect(),
        }
    }
}

async fn limit_running(node: &Node, shared: &Arc<VmShared>, pid: u32, limits: ResourceLimits) {
    let (cgroups, of_vm) = (node.cgroups.clone(), Arc::clone(shared));
    let changing = tokio::task::spawn_blocking(move || {
        cgroups.change(&of_vm.id.to_string(), pid, &of_vm.cgroup_limits(limits))
    });
    let placed = changing.await.unwrap_or_default();
    shared.modify(|view| {
        if view.machine.as_ref().is_some_and(|machine| machine.pid == pid) {
            let mut now = view.confinement.as_deref().cloned().unwrap_or_default();
            now.limited(&placed);
            view.confinement = Some(Arc::new(now));
        }
    });
}

impl VmHandle {
    /// Changes what the VM's machine may use, at once where it runs. What the
    /// host can't limit is told in the view.
    pub(crate) async fn change_limits(
        &self,
        node: &Node,
        change: &LimitsChange,
    ) -> Result<VmView, LimitsError> {
        let shared = &self.shared;
        let _order = shared.requests.lock().await;
        let view = self.view();
        if view.desired.power == Power::Deleted {
            return Err(LimitsDeniedReason::BeingDeleted.into());
        }
        let limits = view.limits.changed(change);
        admit_limits(&limits, shared.spec.memory, shared.spec.vcpus)?;
        node.store.set_limits(shared.id, limits, self.durability()).await?;
        fail_point(Point::LimitsStored);
        shared.modify(|view| view.limits = limits);
        // A machine that is being launched gets them at its launch's end.
        let machine = self
            .view()
            .machine
            .filter(|machine| ["qemu", "libvirt"].contains(&machine.runtime.as_str()));
        if let Some(machine) = machine {
            limit_running(node, shared, machine.pid, limits).await;
        }
        tracing::info!(vm = %shared.spec.name, ?limits, "changed its limits");
        Ok(self.view())
    }
}
