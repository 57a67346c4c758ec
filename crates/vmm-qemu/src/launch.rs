use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use inn_fail_point::{Point, fail_point};
use inn_host::process::{OpenError, Process, Signal, SpawnSpec};
use inn_host::socket;
use inn_units::{Bytes, VmId};
use inn_vmm::{
    AdoptError, Capabilities, Fingerprint, Launch, LaunchError, Lifetime, MachineConfig,
    MachineIdentity, NicBackend, Runtime, Stopwatch, chain, find_log_writer, io_error,
};

use crate::args::{Channel, From, Wiring, args};
use crate::bridge::{self, Bridge};
use crate::discover::{Found, QemuRuntime};
use crate::isolate::{by_descriptors, give_run_dir};
use crate::logs::{self, Outlets};
use crate::machine::{Control, Files, QemuMachine, Watched, connect};
use crate::memory;
use crate::reap::reap;

pub(crate) const NAME: &str = "qemu";

/// From the process's start to an answer on QMP: some 20 ms, but a host may be
/// swapping.
const START: Duration = Duration::from_secs(60);

/// For a saved machine to be loaded: some 10 ms, or more where its memory has
/// to be copied.
const LOAD: Duration = Duration::from_secs(60);

/// For a QEMU to answer that is to be adopted.
const ADOPT: Duration = Duration::from_secs(10);

/// For the process's end when its socket has closed at the start.
const EXIT: Duration = Duration::from_secs(10);

impl Runtime for QemuRuntime {
    type Machine = QemuMachine;

    fn capabilities(&self) -> &Capabilities {
        &self.found.capabilities
    }

    async fn fingerprint(&self, config: &MachineConfig) -> Fingerprint {
        self.found.fingerprint(config).await
    }

    async fn launch(&self, config: &MachineConfig) -> Result<Launch<QemuMachine>, LaunchError> {
        self.found.capabilities.admit(config)?;
        let tsc_khz = self.found.tsc_khz().await;
        let mut steps = Vec::new();
        let mut step = Stopwatch::start();

        let mut started = Started::new(config);
        self.found.prepare(config, &started.files)?;
        fail_point(Point::QemuPrepared);
        let files = started.files.clone();
        let (logs, mut outlets) = logs::start(&self.found, config, &files)?;
        fail_point(Point::LogWriterSpawned);
        steps.push(("logs", step.lap()));
        let bridge = match outlets.bridge.take() {
            None => None,
            Some(outlet) => {
                let program = bridge::find_program(self.found.bridge.as_deref()).map_err(|e| {
                    LaunchError::MissingProgram { program: e.program, hint: e.hint }
                })?;
                match Bridge::start(&program, &self.found, config, &files, outlet).await {
                    Ok((bridge, connection)) => {
                        started.bridge = Some(bridge);
                        fail_point(Point::BridgeConnected);
                        steps.push(("bridge", step.lap()));
                        Some(connection)
                    }
                    Err(error) => {
                        drop(outlets);
                        logs.complete().await;
                        return Err(error.with_log(files.bridge_last_lines()));
                    }
                }
            }
        };
        let (spec, from) = self.found.spec(config, &files, Ends { bridge, outlets }, tsc_khz)?;
        steps.push(("sockets", step.lap()));
        fail_point(Point::QemuBound);
        let process = self.found.spawn(spec).await?;
        let identity = MachineIdentity::of(NAME, process.identity());
        let process = started.process.insert(process);
        steps.push(("spawn", step.lap()));
        fail_point(Point::QemuSpawned);
        let answered = async {
            let mut control = first_answer(process, &files).await?;
            steps.push(("qmp", step.lap()));
            if let Some(from) = from {
                let whole = from.memory.is_none() || from.devices_only;
                let loaded = control.load_state(from.state, whole, LOAD).await;
                loaded.map_err(|error| {
                    failed(format!("what was saved does not load: {}", chain(&error)), Vec::new())
                })?;
                steps.push(("load", step.lap()));
            }
            Ok::<_, LaunchError>(control)
        };
        let control = match answered.await {
            Ok(control) => control,
            Err(error) => {
                if let Err(error) = process.kill(Signal::KILL) {
                    tracing::warn!(%error, "a failed launch lives on");
                }
                started.bridge = None;
                logs.complete().await;
                return Err(error.with_log(files.vmm_last_lines()));
            }
        };
        let logs = logs.started().await?;
        fail_point(Point::QemuAnswered);

        let watched = started.hand_over(config, control, logs);
        Ok(Launch { machine: QemuMachine::watch(identity, watched, None), steps })
    }

    async fn adopt(
        &self,
        id: VmId,
        identity: &MachineIdentity,
        run_dir: &Path,
    ) -> Result<QemuMachine, AdoptError> {
        let pid = identity.pid;
        let unresponsive = |reason: String| AdoptError::Unresponsive { pid, reason };
        if identity.runtime != NAME {
            return Err(unresponsive(format!("it is of the runtime {}", identity.runtime)));
        }
        let process = identity.process().map_err(|error| match error {
            OpenError::Gone { pid } => AdoptError::Gone { pid },
            OpenError::Io { source, .. } => unresponsive(source.to_string()),
        })?;
        let files = Files::new(run_dir);
        let (control, end) =
            connect(&files, id, ADOPT).await.map_err(|error| unresponsive(chain(&error)))?;
        let bridge = bridge::find(&files).await.map_err(|error| unresponsive(error.to_string()))?;
        let logs = find_log_writer(&files.vmm_log()).await;
        let logs = logs.map_err(|error| unresponsive(error.to_string()))?;
        let lifetime = Lifetime::Detached;
        let control = Some(control);
        let watched = Watched { id, process, bridge, logs, files, control, lifetime };
        Ok(QemuMachine::watch(identity.clone(), watched, end))
    }

    async fn reap(
        &self,
        _id: VmId,
        identity: Option<&MachineIdentity>,
        run_dir: &Path,
    ) -> io::Result<()> {
        reap(identity, run_dir).await
    }
}

impl Found {
    /// The host's counter rate; waits, at most 20 ms, if it was just started.
    pub(crate) async fn tsc_khz(&self) -> Option<u32> {
        tokio::time::sleep(self.tsc.ready_in()).await;
        self.tsc.khz()
    }

    fn prepare(&self, config: &MachineConfig, files: &Files) -> Result<(), LaunchError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&config.run_dir)
            .map_err(io_error("making", &config.run_dir))?;
        give_run_dir(config)?;
        memory::record(&config.run_dir, Bytes::mib(config.memory.whole_mib()))
            .map_err(io_error("noting the memory in", &config.run_dir))?;
        files
            .link_console_log(&config.console.log)
            .map_err(io_error("linking the console's log in", &config.run_dir))
    }

    /// Binds the sockets and says what to spawn.
    fn spec(
        &self,
        config: &MachineConfig,
        files: &Files,
        Ends { bridge, outlets }: Ends,
        tsc_khz: Option<u32>,
    ) -> Result<(SpawnSpec, Option<From>), LaunchError> {
        let mut spec = SpawnSpec::new(&self.binary, outlets.vmm)
            .leased(config.lifetime == Lifetime::Leased)
            .confined(self.confined(&config.isolation)?);
        let mut listen = |path: &Path| {
            let listener = socket::listen(path).map_err(io_error("listening at", path))?;
            Ok::<_, LaunchError>(spec.inherit(listener.into()))
        };
        let (qmp, console) = (listen(&files.qmp())?, listen(&files.console())?);
        let channel = match bridge {
            None => Channel::Serial(listen(&files.agent())?),
            Some(connection) => Channel::Vsock(spec.inherit(connection)),
        };
        let trace = spec.inherit(outlets.trace.into());
        let tap = match config.nic.as_ref().map(|nic| &nic.backend) {
            Some(NicBackend::Tap(tap)) => {
                Some(spec.inherit(
                    tap.descriptor().map_err(io_error("duplicating", Path::new("the tap")))?,
                ))
            }
            Some(NicBackend::User | NicBackend::Nothing | NicBackend::Foreign(_)) | None => None,
        };
        let from = match &config.from {
            None => None,
            Some(saved) => {
                let mut begin = || -> io::Result<From> {
                    let memory = match &saved.memory {
                        Some(memory) => Some(spec.inherit(memory.try_clone()?.into())),
                        None => None,
                    };
                    let state = spec.inherit(memory::reopened(&saved.state)?.into());
                    let devices_only = memory::is_of_devices(&saved.state)?;
                    Ok(From { memory, state, devices_only })
                };
                Some(begin().map_err(io_error("opening", Path::new("what was saved")))?)
            }
        };
        let wiring = Wiring::Machine { qmp, channel, console, trace, tap, from };
        let (config, sets) = by_descriptors(config, outlets.console, &mut spec)?;
        let args = args(self.machine_for(&config.boot), &config, wiring, tsc_khz)
            .map_err(|error| failed(error.to_string(), Vec::new()))?;
        Ok((spec.args(sets).args(args), from))
    }

    pub(crate) async fn spawn(&self, spec: SpawnSpec) -> Result<Process, LaunchError> {
        self.spawner.spawn(spec).await.map_err(io_error("starting", &self.binary))
    }
}

/// What QEMU gets of the processes beside it.
struct Ends {
    /// A connection to the vsock's bridge, where the channel is one.
    bridge: Option<OwnedFd>,
    outlets: Outlets,
}

/// What a launch has made so far. Dropped before it is handed over, it takes
/// everything back.
struct Started {
    files: Files,
    process: Option<Process>,
    /// Ends itself when it is dropped.
    bridge: Option<Bridge>,
    handed_over: bool,
}

impl Started {
    fn new(config: &MachineConfig) -> Self {
        let files = Files::new(&config.run_dir);
        Self { files, process: None, bridge: None, handed_over: false }
    }

    fn hand_over(mut self, config: &MachineConfig, control: Control, logs: Process) -> Watched {
        self.handed_over = true;
        Watched {
            id: config.id,
            process: self.process.take().expect("it answered, so it was spawned"),
            bridge: self.bridge.take().map(Bridge::hand_over),
            logs: Some(logs),
            files: self.files.clone(),
            control: Some(control),
            lifetime: config.lifetime,
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if self.handed_over {
            return;
        }
        if let Some(process) = self.process.take()
            // Its spawner reaps it.
            && let Err(error) = process.kill(Signal::KILL)
        {
            tracing::warn!(pid = process.identity().pid, %error, "a failed launch lives on");
        }
        self.files.remove_sockets();
    }
}

/// Waits for QMP, or for QEMU's last words. Whose QMP it is need not be asked:
/// nobody else has the socket, which was bound a moment ago.
async fn first_answer(process: &Process, files: &Files) -> Result<Control, LaunchError> {
    let connected = async {
        let stream = socket::connect(&files.qmp()).await?;
        Control::handshake(stream, START).await
    };
    let reason = tokio::select! {
        // A half-made connection is of no use, nor is its loss.
        connected = connected => match connected {
            Ok(control) => return Ok(control),
            Err(error) => chain(&error),
        },
        // Only polls a descriptor.
        _ = process.wait() => String::new(),
    };
    // A closed socket is mostly a process about to say why it ends.
    let exit = tokio::time::timeout(EXIT, process.wait()).await;
    let reason = match exit {
        Ok(Ok(inn_host::process::Exit::Status(status))) => format!("it ended with {status}"),
        _ => reason,
    };
    Err(failed(reason, Vec::new()))
}

pub(crate) fn open_log(path: &Path) -> Result<File, LaunchError> {
    OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map_err(io_error("opening", path))
}

pub(crate) fn failed(reason: String, log: Vec<String>) -> LaunchError {
    LaunchError::Failed { program: "qemu-system-x86_64".to_owned(), reason, log }
}
