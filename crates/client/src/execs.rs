//! What a guest does: its readings, and commands that run on by themselves.

use std::time::Duration;

use http::Method;
use inn_api::{ExecCreate, ExecInfo, ExecList, ExecSignal, Stats};

use crate::query::{Target, duration};
use crate::{Client, ClientError};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StatsQuery {
    /// The readings of so long before now as well.
    pub last: Option<Duration>,
    /// Has the guest asked now, in place of the latest reading that came.
    pub fresh: bool,
}

impl Client {
    pub async fn stats(&self, vm: &str, query: StatsQuery) -> Result<Stats, ClientError> {
        let target = Target::api(&["vms", vm, "stats"])
            .with_some("last", query.last.map(duration))
            .with_flag("fresh", query.fresh);
        self.get(&target).await
    }

    /// All that run, and those that have ended and are kept.
    pub async fn execs(&self, vm: &str) -> Result<ExecList, ClientError> {
        self.get(&Target::api(&["vms", vm, "execs"])).await
    }

    /// Starts a command that runs on whoever goes away;
    /// [`attach_exec`](Self::attach_exec) brings its output.
    pub async fn create_exec(&self, vm: &str, exec: &ExecCreate) -> Result<ExecInfo, ClientError> {
        let target = Target::api(&["vms", vm, "execs"]);
        self.call(Method::POST, &target, Some(exec), Duration::ZERO).await
    }

    pub async fn exec_info(&self, vm: &str, exec: &str) -> Result<ExecInfo, ClientError> {
        self.get(&Target::api(&["vms", vm, "execs", exec])).await
    }

    /// Sends a signal such as `SIGTERM` or `15` to the process's group.
    pub async fn signal_exec(&self, vm: &str, exec: &str, signal: &str) -> Result<(), ClientError> {
        let target = Target::api(&["vms", vm, "execs", exec, "signal"]);
        let signal = ExecSignal { signal: signal.to_owned() };
        self.done(Method::POST, &target, Some(&signal), Duration::ZERO).await
    }

    /// Ends it if it runs, and has the guest forget it.
    pub async fn delete_exec(&self, vm: &str, exec: &str) -> Result<(), ClientError> {
        let target = Target::api(&["vms", vm, "execs", exec]);
        self.done(Method::DELETE, &target, None::<&()>, Duration::ZERO).await
    }
}
