//! A launch, in the phases that take each other back:
//!
//! ```text
//!   logs ─▶ defined, started with its CPUs stopped ─▶ wired ─▶ its process known ─▶ runs
//!                                                     console, log, tap: by descriptor
//! ```

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use inn_fail_point::{Point, fail_point};
use inn_host::log_writer::LogWriter;
use inn_host::process::{Confined, OpenError, Process, User};
use inn_host::socket;
use inn_units::{Architecture, VmId};
use inn_vmm::{
    AdoptError, Capabilities, Fingerprint, Launch, LaunchError, Lifetime, MachineConfig,
    MachineEnd, MachineIdentity, NicBackend, Runtime, Stopwatch, chain, complete_logs,
    find_log_writer, io_error,
};

use crate::addresses;
use crate::definition::{definition, domain_name};
use crate::discover::{Found, LibvirtRuntime};
use crate::end;
use crate::files::Files;
use crate::library::{CallError, DomainState, OffReason};
use crate::link::{Link, LinkError};
use crate::machine::{LibvirtMachine, Watched};
use crate::monitor::{Card, Console, Wires, wire};
use crate::reap::{self, reap};

pub(crate) const NAME: &str = "libvirt";

/// For libvirt to define and start a domain: half a second, but a host may be
/// swapping.
const START: Duration = Duration::from_secs(60);

/// For a question that libvirt answers by itself.
pub(crate) const ANSWER: Duration = Duration::from_secs(10);

impl Runtime for LibvirtRuntime {
    type Machine = LibvirtMachine;

    fn capabilities(&self) -> &Capabilities {
        &self.found.capabilities
    }

    async fn fingerprint(&self, config: &MachineConfig) -> Fingerprint {
        Fingerprint::of(NAME, config)
    }

    async fn launch(&self, config: &MachineConfig) -> Result<Launch<LibvirtMachine>, LaunchError> {
        admit(&self.found.capabilities, config)?;
        let started = Started::new(&self.found.link, config);
        match launch(&self.found, config, &started).await {
            Ok((machine, steps)) => {
                started.hand_over();
                Ok(Launch { machine, steps })
            }
            Err(error) => {
                started.take_back().await;
                Err(error)
            }
        }
    }

    async fn adopt(
        &self,
        id: VmId,
        identity: &MachineIdentity,
        run_dir: &Path,
    ) -> Result<LibvirtMachine, AdoptError> {
        let (pid, link) = (identity.pid, &self.found.link);
        let unresponsive = |reason: String| AdoptError::Unresponsive { pid, reason };
        if identity.runtime != NAME {
            return Err(unresponsive(format!("it is of the runtime {}", identity.runtime)));
        }
        let files = Files::new(run_dir);
        let name = domain_name(id);
        let process = match identity.process() {
            Ok(process) => process,
            Err(OpenError::Gone { pid }) => {
                let end =
                    ended_meanwhile(link, id, &files).await.ok_or(AdoptError::Gone { pid })?;
                return Ok(LibvirtMachine::ended(identity.clone(), link, id, files, end));
            }
            Err(OpenError::Io { source, .. }) => return Err(unresponsive(source.to_string())),
        };
        let listens = reap::behind(&files.console()).await;
        match listens.map_err(|error| unresponsive(error.to_string()))? {
            Some(other) if other.identity() == process.identity() => {}
            _ => return Err(unresponsive("its console is not this process's".to_owned())),
        }
        if !is_named(pid, &name) {
            return Err(unresponsive(format!("it is not the QEMU of {name}")));
        }
        // Heard from here on; an end before this is told by the domain's state.
        let ear = link.listen(&name);
        let dir = run_dir.to_owned();
        let asked = link.call("looking for the domain", ANSWER, move |connection| {
            Ok(reap::ours(connection, id, &dir)?.is_some())
        });
        match asked.await {
            Ok(true) => {}
            Ok(false) => return Err(unresponsive(format!("libvirt has no domain {name} of ours"))),
            // The process has shown whose it is. libvirt is asked again later.
            Err(error) => tracing::warn!(
                domain = name, error = %chain(&error),
                "adopted without libvirt, which does not answer"
            ),
        }
        let logs =
            find_log_writer(&files.vmm_log()).await.map_err(|e| unresponsive(e.to_string()))?;
        let link = link.clone();
        let watched = Watched { id, process, logs, files, link, ear };
        Ok(LibvirtMachine::watch(identity.clone(), watched))
    }

    async fn reap(
        &self,
        id: VmId,
        identity: Option<&MachineIdentity>,
        run_dir: &Path,
    ) -> io::Result<()> {
        reap(&self.found.link, id, identity, run_dir).await
    }
}

async fn launch(
    found: &Found,
    config: &MachineConfig,
    started: &Started,
) -> Result<(LibvirtMachine, Vec<(&'static str, Duration)>), LaunchError> {
    let (link, files) = (&found.link, &started.files);
    let mut steps = Vec::new();
    let mut step = Stopwatch::start();
    prepare(config, files)?;
    let password = config.screen.then(unknown_password).transpose()?;
    let xml = definition(config, link.settings(), link.settings().owner(), password.as_deref())
        .map_err(|error| failed(error.to_string(), Vec::new()))?;
    let architecture = link.settings().architecture;
    // Opened by QEMU, which has to find somebody at the other end.
    let by_name = architecture == Architecture::Aarch64;
    let (writer, log) = start_logs(found, config, files, by_name).await?;
    steps.push(("logs", step.lap()));
    fail_point(Point::LibvirtLogged);

    let (console, held) = match by_name {
        true => (None, Some(log)),
        false => {
            let path = files.console();
            let listener = socket::listen(&path).map_err(io_error("listening at", &path))?;
            (Some(Console { listener, log }), None)
        }
    };
    let card = Card::of(config.nic.as_ref());
    let card = card.map_err(io_error("duplicating", Path::new("the tap")))?;
    let definition_file = files.definition();
    files.write_definition(&xml).map_err(io_error("writing", &definition_file))?;
    let ear = link.listen(&domain_name(config.id));
    let wires = Wires { console, card };
    let leased = config.lifetime == Lifetime::Leased;
    let (id, run_dir, nic) = (config.id, config.run_dir.clone(), config.nic.clone());
    let starting = link.call("starting the domain", START, move |connection| {
        let name = domain_name(id);
        if connection.find(&name)?.is_some() && reap::ours(connection, id, &run_dir)?.is_none() {
            let why = format!("there is a domain {name} already, and it is somebody else's");
            return Err(CallError::other("defining the domain", why));
        }
        addresses::check(connection, nic.as_ref())?;
        let mut step = Stopwatch::start();
        let domain = connection.define(&xml)?;
        let define = step.lap();
        fail_point(Point::LibvirtDefined);
        domain.start_paused(leased)?;
        let start = step.lap();
        fail_point(Point::LibvirtStarted);
        wire(&domain, wires)?;
        fail_point(Point::LibvirtWired);
        Ok([("define", define), ("start", start), ("wire", step.lap())])
    });
    let begun = starting.await;
    // QEMU has its own by now.
    drop(held);
    let laps = match begun {
        Ok(laps) => laps,
        Err(error) => {
            // It ends once nobody has its pipes.
            complete_logs(&writer).await;
            return Err(refused(error));
        }
    };
    steps.extend(laps);

    let process = process_of(files).await?;
    enter(&config.isolation.groups, &process)?;
    step.lap();
    let (id, run_dir) = (config.id, config.run_dir.clone());
    let running = link.call("letting the domain run", START, move |connection| {
        let Some(domain) = reap::ours(connection, id, &run_dir)? else {
            return Err(CallError::other("letting the domain run", "it has ended already"));
        };
        domain.resume()
    });
    running.await.map_err(refused)?;
    steps.push(("run", step.lap()));
    fail_point(Point::LibvirtRuns);
    let identity = MachineIdentity::of(NAME, process.identity());
    let (files, link) = (files.clone(), link.clone());
    let watched = Watched { id: config.id, process, logs: Some(writer), files, link, ear };
    Ok((LibvirtMachine::watch(identity, watched), steps))
}

fn prepare(config: &MachineConfig, files: &Files) -> Result<(), LaunchError> {
    let run_dir = &config.run_dir;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(run_dir)
        .map_err(io_error("making", run_dir))?;
    files
        .link_console_log(&config.console.log)
        .map_err(io_error("linking the console's log in", run_dir))
}

/// Starts the machine's log writer, and has the console's pipe.
async fn start_logs(
    found: &Found,
    config: &MachineConfig,
    files: &Files,
    by_name: bool,
) -> Result<(Process, File), LaunchError> {
    let (vmm, limit) = (files.vmm_log(), config.console.log_limit.get());
    let program = &found.log_writer;
    let mut writer = LogWriter::new(program, limit, &vmm).map_err(io_error("opening", &vmm))?;
    // Nobody fills the first: by its lock the writer is found again.
    let _vmm = writer.timed_stream(&vmm).map_err(io_error("opening", &vmm))?;
    let (log, pipe) = (&config.console.log, files.console_pipe());
    let console = match by_name {
        true => {
            socket::remove(&pipe).map_err(io_error("removing", &pipe))?;
            writer.named_stream(log, &pipe, None)
        }
        false => writer.timed_stream(log),
    };
    let console = console.map_err(io_error("opening", log))?;
    let user = config.isolation.log_uid.map(|uid| User { uid, groups: Vec::new() });
    let mut confined = Confined { user, no_new_privileges: true, ..Confined::default() };
    let groups = &config.isolation.groups;
    confined.enter(groups).map_err(|source| LaunchError::Io {
        step: "opening the machine's control groups".to_owned(),
        source,
    })?;
    let spec = writer.spec().confined(confined);
    let process = found.spawner.spawn(spec).await.map_err(io_error("starting", program))?;
    Ok((process, console))
}

/// QEMU's, which listens at the console it was given.
async fn process_of(files: &Files) -> Result<Process, LaunchError> {
    let console = files.console();
    let listens = reap::behind(&console).await;
    let listens = listens.map_err(io_error("finding the process behind", &console))?;
    listens.ok_or_else(|| failed("its QEMU has ended already".to_owned(), Vec::new()))
}

/// With all of its threads: those of a v1 hierarchy by its `cgroup.procs`, too.
fn enter(groups: &[std::path::PathBuf], process: &Process) -> Result<(), LaunchError> {
    for group in groups {
        std::fs::write(group, process.identity().pid.to_string())
            .map_err(io_error("entering", group))?;
    }
    Ok(())
}

/// How a machine ended whose process is gone and whose definition is left.
async fn ended_meanwhile(link: &Link, id: VmId, files: &Files) -> Option<MachineEnd> {
    if !files.definition().exists() {
        return None;
    }
    let dir = files.run_dir().to_owned();
    let asked = link.call("asking how the domain ended", ANSWER, move |connection| {
        reap::ours(connection, id, &dir)?.map(|domain| domain.state()).transpose()
    });
    match asked.await.ok()?? {
        DomainState::Active | DomainState::Off(OffReason::Unknown) => None,
        state => Some(end::of(None, Some(state), &files.console_tail())),
    }
}

/// Whether a process is the QEMU of a domain, as libvirt starts it
/// (`-name guest=NAME,…`).
fn is_named(pid: u32, name: &str) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let wanted = format!("guest={name}");
    line.split(|byte| *byte == 0).any(|argument| {
        argument.strip_prefix(wanted.as_bytes()).is_some_and(|rest| matches!(rest, [] | [b',', ..]))
    })
}

/// What a launch has made so far. Dropped before it is handed over, it takes
/// everything back.
struct Started {
    link: Link,
    files: Files,
    id: VmId,
    handed_over: AtomicBool,
}

impl Started {
    fn new(link: &Link, config: &MachineConfig) -> Self {
        let files = Files::new(&config.run_dir);
        Self { link: link.clone(), files, id: config.id, handed_over: AtomicBool::new(false) }
    }

    fn hand_over(&self) {
        self.handed_over.store(true, Ordering::Relaxed);
    }

    async fn take_back(&self) {
        self.hand_over();
        take_back(&self.link, self.id, &self.files).await;
    }
}

async fn take_back(link: &Link, id: VmId, files: &Files) {
    if let Err(error) = reap(link, id, None, files.run_dir()).await {
        tracing::warn!(vm = %id, %error, "a failed launch leaves something behind");
    }
    files.remove_sockets();
}

impl Drop for Started {
    fn drop(&mut self) {
        if *self.handed_over.get_mut() {
            return;
        }
        let (link, id, files) = (self.link.clone(), self.id, self.files.clone());
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { take_back(&link, id, &files).await });
        }
    }
}

/// What [`Capabilities::admit`] says in words of other runtimes.
fn admit(can: &Capabilities, config: &MachineConfig) -> Result<(), LaunchError> {
    let refuse = |asked: &str, limit: &str| {
        let (asked, limit) = (asked.to_owned(), limit.to_owned());
        Err(LaunchError::Refused { runtime: NAME, asked, limit })
    };
    if !can.channels.contains(&config.channel) {
        return refuse("a vsock", "a serial channel alone");
    }
    if config.nic.as_ref().is_some_and(|nic| nic.backend == NicBackend::Nothing) {
        return refuse("a card with nothing behind it", "cards with something behind them");
    }
    can.admit(config)
}

/// Eight characters (see [`crate::monitor::set_screen_password`]).
fn unknown_password() -> Result<String, LaunchError> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).map_err(|error| LaunchError::Io {
        step: "making a password for the screen".to_owned(),
        source: io::Error::other(error),
    })?;
    Ok(bytes.map(|byte| format!("{byte:02x}")).concat())
}

fn refused(error: LinkError) -> LaunchError {
    failed(chain(&error), Vec::new())
}

pub(crate) fn failed(reason: String, log: Vec<String>) -> LaunchError {
    LaunchError::Failed { program: NAME.to_owned(), reason, log }
}
