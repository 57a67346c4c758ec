use inn_guest_proto::capability;
use inn_guest_proto::wire::{self, end, request};
use inn_units::ExecId;

use super::{GuestSession, unexpected};
use crate::{Exec, ExecSpec, ExecSummary, GuestError, convert};

impl GuestSession {
    /// Starts a process. Returns once the request is on its way: whether the
    /// process started is the first thing that [`Exec::next`] tells.
    pub async fn exec(&self, spec: ExecSpec) -> Result<Exec, GuestError> {
        if spec.command_line.is_some() || spec.supervision.is_some() {
            self.needs(capability::EXEC_2, "run shell lines or start programs again")?;
        }
        let (id, stdin) = (spec.id, spec.stdin || spec.tty.is_some());
        let kind = request::Kind::Exec(convert::exec(self.without_unknown(spec)));
        let (reader, writer) = self.open(kind).await?;
        let control = self.control(&writer);
        Ok(Exec::new(id, reader, stdin.then_some(writer), control))
    }

    /// What a guest is too old for, and what it may do without.
    fn without_unknown(&self, spec: ExecSpec) -> ExecSpec {
        let lasting = spec.lasting.filter(|_| self.hello().can(capability::EXEC_3));
        ExecSpec { lasting, ..spec }
    }

    /// Reads on in a retained exec's output from `offset` and waits for its
    /// end. What the guest no longer keeps is skipped: see
    /// [`Output::offset`](crate::Output::offset). Where the exec has a stdin that is still
    /// open, this one writes to it. Of a supervised exec it tells the runs too.
    /// A lasting exec of a session that is lost becomes this one's: `offset` is
    /// what its client has.
    pub async fn attach(&self, id: ExecId, offset: u64) -> Result<Exec, GuestError> {
        let attach = wire::Attach {
            id: convert::exec_id(id),
            offset,
            notes: self.hello().can(capability::EXEC_2),
        };
        let (reader, writer) = self.open(request::Kind::Attach(attach)).await?;
        let control = self.control(&writer);
        Ok(Exec::new(id, reader, Some(writer), control))
    }

    pub async fn list_execs(&self) -> Result<Vec<ExecSummary>, GuestError> {
        match self.ask(request::Kind::ListExecs(wire::ListExecs {})).await? {
            end::Outcome::ExecList(list) => convert::exec_list(list),
            other => Err(unexpected(&other)),
        }
    }

    /// Sends a signal to the process group of any exec, ours or not.
    pub async fn signal(&self, id: ExecId, signal: i32) -> Result<(), GuestError> {
        let request = wire::SignalExec { id: convert::exec_id(id), signal };
        self.done(request::Kind::SignalExec(request)).await
    }

    /// Drops what the guest keeps of an exec that has ended.
    pub async fn forget(&self, id: ExecId) -> Result<(), GuestError> {
        let request = wire::ForgetExec { id: convert::exec_id(id) };
        self.done(request::Kind::ForgetExec(request)).await
    }
}
