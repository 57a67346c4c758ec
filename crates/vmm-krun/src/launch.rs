use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::Path;
use std::time::{Duration, Instant};

use inn_host::log_writer::LogWriter;
use inn_host::process::{Exit, OpenError, Process, ProcessIdentity, Signal, SpawnSpec, User};
use inn_host::socket;
use inn_units::VmId;
use inn_vmm::{
    AdoptError, Capabilities, Fingerprint, Launch, LaunchError, Lifetime, MachineConfig,
    MachineIdentity, Runtime,
};
use tokio::time::timeout;

use crate::discover::{Found, KrunRuntime};
use crate::files::Files;
use crate::machine::{Control, KrunMachine, Watched, complete, open};
use crate::orders::{orders, written};
use crate::protocol::{COMMAND, PROGRAM, Report, VmmEnd};
use crate::reap::{self, reap};

pub(crate) const NAME: &str = "krun";

/// From the process's start to a machine that runs: some 30 ms, but a host may
/// be swapping.
const START: Duration = Duration::from_secs(60);

/// For a helper to answer whose machine is to be adopted.
const ADOPT: Duration = Duration::from_secs(10);

/// For the process's end when its socket has closed at the start.
const EXIT: Duration = Duration::from_secs(10);

/// virtio spec 1.2, 5.2.6.1 (VIRTIO_BLK_ID_BYTES).
const LONGEST_SERIAL: usize = 20;

impl Runtime for KrunRuntime {
    type Machine = KrunMachine;

    fn capabilities(&self) -> &Capabilities {
        &self.found.capabilities
    }

    async fn fingerprint(&self, config: &MachineConfig) -> Fingerprint {
        Fingerprint::of(NAME, config)
    }

    async fn launch(&self, config: &MachineConfig) -> Result<Launch<KrunMachine>, LaunchError> {
        refuse_excess(&self.found.capabilities, config)?;
        let mut steps = Vec::new();
        let mut step = Stopwatch::start();
        let mut started = Started::new(config);
        prepare(config, &started.files)?;
        let files = started.files.clone();
        let found = &self.found;
        let (writer, outlets) = start_logs(found, config, &files).await?;
        let writer = &*started.logs.insert(writer);
        steps.push(("logs", step.lap()));

        let mut spec = SpawnSpec::new(&found.helper, outlets.vmm)
            .leased(config.lifetime == Lifetime::Leased)
            .confined(found.confined(&config.isolation, None)?);
        let orders = orders(config, &files, outlets.console.into(), &mut spec)?;
        let told = written(&orders).map_err(io_error("writing the orders of", &found.helper))?;
        let told = spec.inherit(told).to_string();
        let spec = spec.args([COMMAND.to_owned(), format!("inn-{}", config.id), told]);
        steps.push(("sockets", step.lap()));
        let process = found.spawner.spawn(spec).await;
        let process = process.map_err(io_error("starting", &found.helper))?;
        let identity = identity_of(process.identity());
        let process = started.process.insert(process);
        steps.push(("spawn", step.lap()));
        let control = match first_answer(process, &files).await {
            Ok(control) => control,
            Err(reason) => {
                if let Err(error) = process.kill(Signal::KILL) {
                    tracing::warn!(%error, "a failed launch lives on");
                }
                complete(writer).await;
                return Err(failed(reason, files.last_lines()));
            }
        };
        steps.push(("machine", step.lap()));
        let watched = started.hand_over(config, control).await;
        Ok(Launch { machine: KrunMachine::watch(identity, watched, None), steps })
    }

    async fn adopt(
        &self,
        id: VmId,
        identity: &MachineIdentity,
        run_dir: &Path,
    ) -> Result<KrunMachine, AdoptError> {
        let pid = identity.pid;
        let unresponsive = |reason: String| AdoptError::Unresponsive { pid, reason };
        if identity.runtime != NAME {
            return Err(unresponsive(format!("it is of the runtime {}", identity.runtime)));
        }
        let process = open(identity).map_err(|error| match error {
            OpenError::Gone { pid } => AdoptError::Gone { pid },
            OpenError::Io { source, .. } => unresponsive(source.to_string()),
        })?;
        let files = Files::new(run_dir);
        let asking = async {
            let mut control = Control::connect(&files, Some(pid)).await?;
            let Report { vm, end } = control.next().await?;
            if vm != id.to_string() {
                return Err(io::Error::other(format!("it is the machine of {vm:?}")));
            }
            Ok((control, end))
        };
        let answered = timeout(ADOPT, asking).await.unwrap_or_else(|late| Err(late.into()));
        let (control, end) = answered.map_err(|error| unresponsive(error.to_string()))?;
        let logs = reap::log_writer(&files).await.map_err(|e| unresponsive(e.to_string()))?;
        let others = reap::holders(run_dir).await.map_err(|e| unresponsive(e.to_string()))?;
        let watched = Watched { id, process, others, logs, files, control: Some(control) };
        Ok(KrunMachine::watch(identity.clone(), watched, end))
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

fn prepare(config: &MachineConfig, files: &Files) -> Result<(), LaunchError> {
    let run_dir = &config.run_dir;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(run_dir)
        .map_err(io_error("making", run_dir))?;
    if let Some(user) = &config.isolation.user {
        // The VMM makes its vsock's socket itself.
        chown(run_dir, Some(user.uid), Some(user.uid)).map_err(io_error("giving away", run_dir))?;
    }
    // One of an earlier life, which libkrun refuses.
    socket::remove(&files.vsock()).map_err(io_error("removing", &files.vsock()))?;
    files
        .link_console_log(&config.console.log)
        .map_err(io_error("linking the console's log in", run_dir))
}

/// The pipes' ends to write to.
struct Outlets {
    vmm: std::fs::File,
    console: std::fs::File,
}

/// Starts the machine's log writer, which the helper's program is too. In the
/// machine's groups, since the guest has it work; as somebody else than its VMM.
async fn start_logs(
    found: &Found,
    config: &MachineConfig,
    files: &Files,
) -> Result<(Process, Outlets), LaunchError> {
    let (vmm, limit) = (files.vmm_log(), config.console.log_limit.get());
    let program = &found.helper;
    let mut writer = LogWriter::new(program, limit, &vmm).map_err(io_error("opening", &vmm))?;
    let mut stream = |log: &Path| writer.stream(log).map_err(io_error("opening", log));
    let outlets = Outlets { vmm: stream(&vmm)?, console: stream(&config.console.log)? };
    let user = config.isolation.log_uid.map(|uid| User { uid, groups: Vec::new() });
    let spec = writer.spec().confined(found.confined(&config.isolation, user)?);
    let process = found.spawner.spawn(spec).await.map_err(io_error("starting", program))?;
    Ok((process, outlets))
}

/// What a launch has made so far. Dropped before it is handed over, it takes
/// everything back.
struct Started {
    files: Files,
    process: Option<Process>,
    /// Ends by itself when nobody has anything to log.
    logs: Option<Process>,
    handed_over: bool,
}

impl Started {
    fn new(config: &MachineConfig) -> Self {
        let files = Files::new(&config.run_dir);
        Self { files, process: None, logs: None, handed_over: false }
    }

    async fn hand_over(mut self, config: &MachineConfig, control: Control) -> Watched {
        // Whoever cannot be found is ended with the helper all the same.
        let others = reap::holders(&config.run_dir).await.unwrap_or_default();
        self.handed_over = true;
        Watched {
            id: config.id,
            process: self.process.take().expect("it answered, so it was spawned"),
            others,
            logs: self.logs.take(),
            files: self.files.clone(),
            control: Some(control),
        }
    }
}

impl Drop for Started {
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

/// Waits until the helper says that the machine runs, or for its last words.
/// Whose socket it is need not be asked: it was bound a moment ago.
async fn first_answer(process: &Process, files: &Files) -> Result<Control, String> {
    let answered = async {
        let mut control = Control::connect(files, None).await?;
        Ok::<_, io::Error>((control.next().await?, control))
    };
    let reason = tokio::select! {
        // A half-made connection is of no use, nor is its loss.
        answered = timeout(START, answered) => match answered {
            Ok(Ok((Report { end: None, .. }, control))) => return Ok(control),
            Ok(Ok((Report { end: Some(VmmEnd::Exited(code)), .. }, _))) => {
                return Err(format!("its VMM ended with status {code}"));
            }
            Ok(Ok((Report { end: Some(VmmEnd::Signaled(signal)), .. }, _))) => {
                return Err(format!("signal {signal} ended its VMM"));
            }
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

fn refuse_excess(can: &Capabilities, config: &MachineConfig) -> Result<(), LaunchError> {
    let refuse =
        |asked: String, limit: String| Err(LaunchError::Refused { runtime: NAME, asked, limit });
    if config.vcpus.get() > can.max_vcpus {
        return refuse(format!("{} vCPUs", config.vcpus), format!("{} at most", can.max_vcpus));
    }
    if config.memory < can.min_memory {
        return refuse(
            format!("{} of memory", config.memory),
            format!("{} at least", can.min_memory),
        );
    }
    if config.disks.len() > can.max_disks {
        return refuse(
            format!("{} disks", config.disks.len()),
            format!("{} at most", can.max_disks),
        );
    }
    if !can.accels.contains(&config.accel) {
        return refuse(format!("the acceleration {}", config.accel), "kvm alone".to_owned());
    }
    if !can.channels.contains(&config.channel) {
        return refuse("a serial channel".to_owned(), "a vsock alone".to_owned());
    }
    if config.from.is_some() {
        return refuse("to go on from what was saved".to_owned(), "no snapshots".to_owned());
    }
    if config.nic.as_ref().is_some_and(|nic| nic.backend == inn_vmm::NicBackend::User) {
        return refuse("a network of the VMM's own".to_owned(), "taps alone".to_owned());
    }
    match config.disks.iter().find(|disk| !is_serial(&disk.serial)) {
        Some(disk) => refuse(
            format!("the disk serial {:?}", disk.serial),
            format!("1 to {LONGEST_SERIAL} letters, digits, - and _"),
        ),
        None => Ok(()),
    }
}

/// As [`inn_vmm::Disk`] has it.
fn is_serial(serial: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=LONGEST_SERIAL).contains(&serial.len()) && serial.bytes().all(plain)
}

fn failed(reason: String, log: Vec<String>) -> LaunchError {
    LaunchError::Failed { program: PROGRAM.to_owned(), reason, log }
}

pub(crate) fn io_error(step: &str, path: &Path) -> impl FnOnce(io::Error) -> LaunchError {
    let step = format!("{step} {}", path.display());
    move |source| LaunchError::Io { step, source }
}

/// An error with its causes, for where only text can be handed on.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn identity_of(process: &ProcessIdentity) -> MachineIdentity {
    MachineIdentity {
        runtime: NAME.to_owned(),
        pid: process.pid,
        start_ticks: process.start_ticks,
        host_boot_id: process.host_boot_id.clone(),
    }
}

/// Times steps that follow each other.
struct Stopwatch(Instant);

impl Stopwatch {
    fn start() -> Self {
        Self(Instant::now())
    }

    fn lap(&mut self) -> Duration {
        let now = Instant::now();
        now - std::mem::replace(&mut self.0, now)
    }
}
