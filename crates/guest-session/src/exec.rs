use bytes::Bytes;
use inn_guest_proto::wire::{self, Channel, Control, Eof, control, end, reply};
use inn_units::ExecId;

use super::link::{StreamControl, StreamEvent, StreamOver, StreamReader, StreamWriter, reason_of};
use super::session::unexpected;
use super::{ExecEvent, GuestError, Output, TtySize, convert};

/// A process in the guest, as one client sees it.
///
/// ```text
///  asked ──Started──▶ running ──(Stdout, Stderr)*──▶ Exited ──▶ None for ever
///    │                 │    ▲
///    │              RunEnded, RunStarted (of a supervised one)
///    └─────Refused──▶ (an error, then None)
/// ```
///
/// Dropping it before its end ends the process group (SIGHUP, then SIGKILL),
/// or only detaches where the exec is retained. One that is lasting and whose
/// session is lost goes on for a while, see [`Exec::leave`].
#[derive(Debug)]
pub struct Exec {
    id: ExecId,
    reader: StreamReader,
    stdin: Option<ExecInput>,
    control: ExecControl,
}

impl Exec {
    pub(super) fn new(
        id: ExecId,
        reader: StreamReader,
        stdin: Option<StreamWriter>,
        control: StreamControl,
    ) -> Self {
        let stdin = stdin.map(|writer| ExecInput { writer });
        Self { id, reader, stdin, control: ExecControl { control } }
    }

    pub fn id(&self) -> ExecId {
        self.id
    }

    /// The next event; `None` after the last. Cancel safe. Output that is not
    /// taken makes the process wait, once the window is full.
    pub async fn next(&mut self) -> Result<Option<ExecEvent>, GuestError> {
        if self.reader.ended {
            return Ok(None);
        }
        loop {
            match self.reader.next().await? {
                StreamEvent::Reply(reply) => match reply.kind {
                    Some(reply::Kind::ExecStarted(started)) => {
                        let input_taken = started.input_taken.map(convert::input_taken);
                        return Ok(Some(ExecEvent::Started { pid: started.pid, input_taken }));
                    }
                    _ => return Err(convert::misdirected("another reply to an exec")),
                },
                StreamEvent::Data(data) => {
                    let channel = data.channel();
                    if channel == Channel::Notes {
                        match convert::note(data.bytes)? {
                            Some(event) => return Ok(Some(event)),
                            None => continue,
                        }
                    }
                    if channel == Channel::InputTaken {
                        let taken = wire::InputTaken::from_bytes(data.bytes);
                        let taken = convert::input_taken(taken.map_err(convert::undecodable)?);
                        return Ok(Some(ExecEvent::InputTaken(taken)));
                    }
                    let output = Output { offset: data.offset, bytes: data.bytes };
                    match channel {
                        Channel::Stdout => return Ok(Some(ExecEvent::Stdout(output))),
                        Channel::Stderr => return Ok(Some(ExecEvent::Stderr(output))),
                        Channel::Main | Channel::Notes | Channel::InputTaken => {
                            return Err(convert::misdirected("an exec's input"));
                        }
                    }
                }
                StreamEvent::End(end) => {
                    return match convert::outcome(end)? {
                        end::Outcome::ExecEnd(end) => {
                            convert::exec_end(end).map(|end| Some(ExecEvent::Exited(end)))
                        }
                        other => Err(unexpected(&other)),
                    };
                }
                StreamEvent::Failed(_) => {}
            }
        }
    }

    /// The way to its stdin, once; `None` where the exec has none.
    pub fn take_stdin(&mut self) -> Option<ExecInput> {
        self.stdin.take()
    }

    /// Goes without ending the process of a lasting exec: this node is about to
    /// end, and its session with it.
    pub fn leave(mut self) {
        self.reader.leave();
    }

    pub fn control(&self) -> ExecControl {
        self.control.clone()
    }
}

/// A process's stdin. Dropping it leaves stdin open: a client that goes away
/// is not an end of input.
#[derive(Debug)]
pub struct ExecInput {
    writer: StreamWriter,
}

impl ExecInput {
    /// Waits while the process reads slower than this writes. Fails once the
    /// process has ended; what a process does not read before it ends or
    /// closes its stdin is dropped.
    pub async fn write(&mut self, mut bytes: Bytes) -> Result<(), GuestError> {
        while !bytes.is_empty() {
            self.writer.send_some(&mut bytes, 0).await.map_err(|over| self.over(&over))?;
        }
        Ok(())
    }

    /// End of input. On a terminal this is what Ctrl-D types.
    pub async fn close(self) -> Result<(), GuestError> {
        self.writer.send_eof(Eof::default()).await.map_err(|over| self.over(&over))
    }

    fn over(&self, _: &StreamOver) -> GuestError {
        if self.writer.commands.is_closed() {
            return reason_of(&self.writer.closed);
        }
        GuestError::closed("the process has ended")
    }
}

/// Steers a running exec from elsewhere than where its output is read.
#[derive(Debug, Clone)]
pub struct ExecControl {
    control: StreamControl,
}

impl ExecControl {
    pub async fn resize(&self, size: TtySize) -> Result<(), GuestError> {
        let action = control::Action::Resize(convert::tty(size));
        self.control.send(Control { action: Some(action) }).await
    }

    /// Of a lasting exec: all output before `offset` has reached the client,
    /// and the guest need not keep it. Without it the process comes to wait:
    /// guest-proto's VERSIONING.md says how often at least.
    pub async fn output_taken(&self, offset: u64) -> Result<(), GuestError> {
        let action = control::Action::OutputTaken(offset);
        self.control.send(Control { action: Some(action) }).await
    }

    /// To the process group; a number that the guest does not know is ignored.
    pub async fn signal(&self, signal: i32) -> Result<(), GuestError> {
        let action = control::Action::Signal(signal);
        self.control.send(Control { action: Some(action) }).await
    }
}
