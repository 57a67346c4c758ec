//! The agent's upgrade in place: the same process, another program.
//!
//! ```text
//!  asked ─▶ does the new one run? ─▶ take the configuration? ─▶ know the state?
//!    │             │ no: refused with its reason, and this agent goes on │ yes
//!    │                                                                   ▼
//!    └─ 202 ◀──────────────────────────────────────────────────────── decided
//!                                                                        │
//!  serves, VMs adopted ◀─ execve ◀─ wound down as at an end, sockets open ◀┘
//! ```
//! The listening sockets go over, so that whoever connects in the meantime
//! waits, and so does the pid, so that the init system sees no other process.
//! Execs live on in their guests until their clients attach again. A leased VM
//! would end: see docs/adr/0002.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use inn_fail_point::{Point, fail_point};
use inn_host::process::successor;
use tokio::sync::Notify;

use crate::error::AgentError;
use crate::node::Node;

/// For each question to the new program: it reads some files.
const ANSWERS: Duration = Duration::from_secs(30);

/// What is handed over under which name.
pub(crate) const OWN_SOCKET: &str = "innkeeper-own";
pub(crate) const PASSED_SOCKET: &str = "innkeeper-passed";
pub(crate) const TCP_SOCKET: &str = "innkeeper-tcp";

/// An upgrade that has been decided on, if any.
#[derive(Debug, Default)]
pub(crate) struct Upgrade {
    decision: Mutex<Option<Decision>>,
    decided: Notify,
}

#[derive(Debug, Clone)]
pub(crate) struct Decision {
    pub(crate) program: PathBuf,
    pub(crate) version: String,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpgradeDenied {
    #[error("another upgrade is under way")]
    UnderWay,
    #[error(
        "the leased VMs {names} would end with this agent: wait for them, or ask with endLeased (`inn agent upgrade --end-leased`)"
    )]
    Leased { names: String },
    #[error("{} does not run: {why}", program.display())]
    DoesNotRun { program: PathBuf, why: String },
    #[error("{} is no agent of this kind: it names itself `{named}`", program.display())]
    Stranger { program: PathBuf, named: String },
    #[error(
        "{} does not take the configuration: {why}; set that right, or upgrade to another version",
        program.display()
    )]
    Configuration { program: PathBuf, why: String },
    #[error(
        "{} is too old for the state: that has schema {state}, and it knows {knows}; upgrade to a later version",
        program.display()
    )]
    TooOld { program: PathBuf, state: usize, knows: String },
}

impl Upgrade {
    /// Waits until one has been decided on. Cancel safe.
    pub(crate) async fn decided(&self) -> Decision {
        loop {
            let decided = self.decided.notified();
            if let Some(decision) = &*self.decision() {
                return decision.clone();
            }
            decided.await;
        }
    }

    fn decision(&self) -> MutexGuard<'_, Option<Decision>> {
        // One value is replaced.
        self.decision.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on this agent winds down.
    pub(crate) fn decide(&self, decision: Decision) -> Result<(), UpgradeDenied> {
        let mut decided = self.decision();
        if decided.is_some() {
            return Err(UpgradeDenied::UnderWay);
        }
        *decided = Some(decision);
        drop(decided);
        self.decided.notify_waiters();
        Ok(())
    }
}

/// The version of a program that can take over.
pub(crate) async fn check(
    node: &Node,
    program: &Path,
    end_leased: bool,
) -> Result<String, UpgradeDenied> {
    let all = node.vms.all();
    let leased: Vec<_> =
        all.iter().filter(|vm| vm.spec().lease).map(|vm| vm.spec().name.to_string()).collect();
    if !leased.is_empty() && !end_leased {
        return Err(UpgradeDenied::Leased { names: leased.join(", ") });
    }
    let own = || program.to_owned();
    let ask = |args: Vec<OsString>| async move { successor::ask(program, &args, ANSWERS).await };
    let words = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();

    let named = ask(words(&["--version"])).await;
    let named = named.map_err(|why| UpgradeDenied::DoesNotRun { program: own(), why })?;
    let Some(version) = named.trim().strip_prefix("inn ").map(str::to_owned) else {
        let named = named.trim().chars().filter(|c| !c.is_control()).take(80).collect();
        return Err(UpgradeDenied::Stranger { program: own(), named });
    };
    let mut args = successor::arguments();
    args.push("--check-config".into());
    let taken = ask(args).await;
    taken.map_err(|why| UpgradeDenied::Configuration { program: own(), why })?;
    let knows = ask(words(&["agent", "--print-state-schema"])).await.unwrap_or_default();
    match knows.trim().parse::<usize>() {
        Ok(knows) if knows >= inn_store::LATEST => Ok(version),
        _ => {
            let knows = match knows.trim() {
                "" => "none that it tells".to_owned(),
                text => text.chars().filter(|c| !c.is_control()).take(20).collect(),
            };
            Err(UpgradeDenied::TooOld { program: own(), state: inn_store::LATEST, knows })
        }
    }
}

/// The file that this agent was started from, or what has taken its place.
pub(crate) fn own_program() -> std::io::Result<PathBuf> {
    let path = std::env::current_exe()?;
    // proc_pid_exe(5): of a file that has been replaced.
    Ok(match path.to_str().and_then(|path| path.strip_suffix(" (deleted)")) {
        Some(path) => PathBuf::from(path),
        None => path,
    })
}

/// What takes this process over, once nothing of it is at work any more.
#[derive(Debug)]
pub struct Successor {
    pub(crate) program: PathBuf,
    pub(crate) sockets: Vec<(&'static str, OwnedFd)>,
}

impl Successor {
    /// Returns only if it cannot.
    pub fn take_over(self) -> AgentError {
        let Self { program, sockets } = self;
        fail_point(Point::UpgradeHandedOver);
        let source = successor::become_program(&program, &successor::arguments(), sockets);
        AgentError::Io { step: "go on as", path: program, source }
    }
}
