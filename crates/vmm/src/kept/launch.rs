//! From nothing to a keeper that answers, and back to one of an earlier life.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::Path;
use std::time::Duration;

use inn_host::log_writer::LogWriter;
use inn_host::process::{Confined, Exit, OpenError, Process, Signal, SpawnSpec, Spawner};
use inn_host::socket;
use inn_units::VmId;
use tokio::time::timeout;

use super::watch::Watched;
use super::{Control, KeptFiles, KeptMachine, Kind, Report, VmmEnd, reap};
use crate::{
    AdoptError, LaunchError, MachineConfig, MachineIdentity, StartingWriter, complete_logs,
    find_log_writer, io_error,
};

/// From the process's start to a machine that runs: some 30 ms, but a host may
/// be swapping.
const START: Duration = Duration::from_secs(60);

/// For a keeper to answer whose machine is to be adopted.
const ADOPT: Duration = Duration::from_secs(10);

/// For the process's end when its socket has closed at the start.
const EXIT: Duration = Duration::from_secs(10);

/// The pipes' ends to write to.
#[derive(Debug)]
pub struct Outlets {
    pub vmm: File,
    pub console: File,
    /// Those of logs that the VMM opens by itself: somebody has to hold them for
    /// as long as it may.
    pub more: Vec<File>,
}

/// What a launch has made so far. Dropped before it is handed over, it takes
/// everything back.
#[derive(Debug)]
pub struct KeptLaunch {
    id: VmId,
    pub files: KeptFiles,
    process: Option<Process>,
    /// Ends by itself when nobody has anything to log.
    logs: Option<StartingWriter>,
    writer: Option<Process>,
    control: Option<Control>,
    handed_over: bool,
}

impl KeptLaunch {
    /// Makes the run directory, which its VMM's user owns: a VMM makes sockets in
    /// it itself. Nothing of an earlier life's is left there.
    pub fn prepare(kind: &'static Kind, config: &MachineConfig) -> Result<Self, LaunchError> {
        let run_dir = &config.run_dir;
        let files = KeptFiles::new(kind, run_dir);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(run_dir)
            .map_err(io_error("making", run_dir))?;
        if let Some(user) = &config.isolation.user {
            chown(run_dir, Some(user.uid), Some(user.uid))
                .map_err(io_error("giving away", run_dir))?;
        }
        for path in files.vmms_own() {
            socket::remove(&path).map_err(io_error("removing", &path))?;
        }
        let id = config.id;
        let (process, logs, writer, control) = (None, None, None, None);
        Ok(Self { id, files, process, logs, writer, control, handed_over: false })
    }

    /// Starts the machine's log writer, which `program` is if it is asked. In the
    /// machine's groups, since the guest has it work; as somebody else than its
    /// VMM.
    pub fn start_logs(
        &mut self,
        spawner: &Spawner,
        program: &Path,
        confined: Confined,
        config: &MachineConfig,
    ) -> Result<Outlets, LaunchError> {
        let (vmm_log, limit) = (self.files.vmm_log(), config.console.log_limit.get());
        let writer = LogWriter::new(program, limit, &vmm_log);
        let mut writer = writer.map_err(io_error("opening", &vmm_log))?;
        let mut vmm = None;
        let mut more = Vec::new();
        let owner = config.isolation.user.as_ref().map(|user| user.uid);
        for (log, fifo) in self.files.kind.fifos {
            let (log, fifo) = (self.files.in_run_dir(log), self.files.in_run_dir(fifo));
            let stream = writer.named_stream(&log, &fifo, owner);
            let stream = stream.map_err(io_error("making the pipe of", &log))?;
            match log == vmm_log {
                true => vmm = Some(stream),
                false => more.push(stream),
            }
        }
        let mut stream = |log: &Path| writer.timed_stream(log).map_err(io_error("opening", log));
        let vmm = match vmm {
            Some(vmm) => vmm,
            None => stream(&vmm_log)?,
        };
        let outlets = Outlets { vmm, console: stream(&config.console.log)?, more };
        let spec = writer.spec().confined(confined);
        self.logs = Some(StartingWriter::start(spawner, program, spec));
        Ok(outlets)
    }

    /// Binds the sockets that a keeper inherits: its control, and its console.
    pub fn listen(&self, spec: &mut SpawnSpec) -> Result<[i32; 2], LaunchError> {
        let mut listen = |path: &Path| {
            let listener = socket::listen(path).map_err(io_error("listening at", path))?;
            Ok::<_, LaunchError>(spec.inherit(listener.into()))
        };
        Ok([listen(&self.files.control())?, listen(&self.files.console())?])
    }

    pub async fn spawn(
        &mut self,
        spawner: &Spawner,
        program: &Path,
        spec: SpawnSpec,
    ) -> Result<(), LaunchError> {
        let process = spawner.spawn(spec).await.map_err(io_error("starting", program))?;
        self.process = Some(process);
        Ok(())
    }

    /// Waits until the keeper says that the machine runs, or for its last words.
    /// Whose socket it is need not be asked: it was bound a moment ago.
    pub async fn answered(&mut self) -> Result<(), LaunchError> {
        let process = self.process.as_ref().expect("it was spawned");
        match first_answer(process, &self.files).await {
            Ok(control) => {
                self.control = Some(control);
                if let Some(logs) = self.logs.take() {
                    self.writer = Some(logs.started().await?);
                }
                Ok(())
            }
            Err(reason) => Err(self.failed(reason).await),
        }
    }

    /// Ends it, and says why with its last words.
    pub async fn failed(&mut self, reason: String) -> LaunchError {
        if let Some(process) = &self.process {
            if let Err(error) = process.kill(Signal::KILL) {
                tracing::warn!(%error, "a failed launch lives on");
            }
            match (self.logs.take(), &self.writer) {
                (Some(logs), _) => logs.complete().await,
                (None, Some(writer)) => complete_logs(writer).await,
                (None, None) => {}
            }
        }
        let (program, log) = (self.files.kind.keeper.to_owned(), self.files.last_lines());
        LaunchError::Failed { program, reason, log }
    }

    /// What becomes of the keeper, for whoever waits for its VMM to answer.
    pub async fn ended(&mut self) -> String {
        let Some(control) = &mut self.control else { return std::future::pending().await };
        match control.next().await {
            Ok(Report { end: Some(end), .. }) => how(end),
            Ok(Report { end: None, .. }) => std::future::pending().await,
            Err(error) => format!("its keeper's socket closed: {error}"),
        }
    }

    pub async fn hand_over(mut self) -> KeptMachine {
        // Whoever cannot be found is ended with the keeper all the same.
        let kind = self.files.kind;
        let others = reap::holders(kind, self.files.run_dir()).await.unwrap_or_default();
        self.handed_over = true;
        let process = self.process.take().expect("it answered, so it was spawned");
        let identity = MachineIdentity::of(kind.runtime, process.identity());
        let watched = Watched {
            id: self.id,
            process,
            others,
            logs: self.writer.take(),
            files: self.files.clone(),
            control: self.control.take(),
        };
        KeptMachine::watch(identity, watched, None)
    }
}

impl Drop for KeptLaunch {
    fn drop(&mut self) {
        if self.handed_over {
            return;
        }
        if let Some(process) = self.process.take()
            // Its VMM dies with it, and its spawner reaps it.
            && let Err(error) = process.kill(Signal::KILL)
        {
            tracing::warn!(pid = process.identity().pid, %error, "a failed launch lives on");
        }
        self.files.remove_sockets();
    }
}

impl Kind {
    /// As [`crate::Runtime::adopt`].
    pub async fn adopt(
        &'static self,
        id: VmId,
        identity: &MachineIdentity,
        run_dir: &Path,
    ) -> Result<KeptMachine, AdoptError> {
        let pid = identity.pid;
        let unresponsive = |reason: String| AdoptError::Unresponsive { pid, reason };
        if identity.runtime != self.runtime {
            return Err(unresponsive(format!("it is of the runtime {}", identity.runtime)));
        }
        let process = identity.process().map_err(|error| match error {
            OpenError::Gone { pid } => AdoptError::Gone { pid },
            OpenError::Io { source, .. } => unresponsive(source.to_string()),
        })?;
        let files = KeptFiles::new(self, run_dir);
        let asking = async {
            let mut control = Control::connect(&files, Some(pid)).await?;
            let Report { vm, end, said } = control.next().await?;
            if vm != id.to_string() {
                return Err(io::Error::other(format!("it is the machine of {vm:?}")));
            }
            Ok((control, end.map(|end| (end, said))))
        };
        let answered = timeout(ADOPT, asking).await.unwrap_or_else(|late| Err(late.into()));
        let (control, end) = answered.map_err(|error| unresponsive(error.to_string()))?;
        let logs = find_log_writer(&files.vmm_log()).await;
        let logs = logs.map_err(|error| unresponsive(error.to_string()))?;
        let others = reap::holders(self, run_dir).await;
        let others = others.map_err(|error| unresponsive(error.to_string()))?;
        let watched = Watched { id, process, others, logs, files, control: Some(control) };
        Ok(KeptMachine::watch(identity.clone(), watched, end))
    }
}

async fn first_answer(process: &Process, files: &KeptFiles) -> Result<Control, String> {
    let answered = async {
        let mut control = Control::connect(files, None).await?;
        Ok::<_, io::Error>((control.next().await?, control))
    };
    let reason = tokio::select! {
        // A half-made connection is of no use, nor is its loss.
        answered = timeout(START, answered) => match answered {
            Ok(Ok((Report { end: None, .. }, control))) => return Ok(control),
            Ok(Ok((Report { end: Some(end), .. }, _))) => return Err(how(end)),
            Ok(Err(error)) => error.to_string(),
            Err(_) => return Err(format!("it did not answer within {} s", START.as_secs())),
        },
        // Only polls a descriptor.
        _ = process.wait() => String::new(),
    };
    // A closed socket is mostly a process about to say why it ends.
    match timeout(EXIT, process.wait()).await {
        Ok(Ok(Exit::Status(status))) => Err(format!("it ended with {status}")),
        _ => Err(reason),
    }
}

fn how(end: VmmEnd) -> String {
    match end {
        VmmEnd::Exited(code) => format!("its VMM ended with status {code}"),
        VmmEnd::Signaled(signal) => format!("signal {signal} ended its VMM"),
    }
}
