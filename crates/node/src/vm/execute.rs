//! One step of a plan, done on the host.
//!
//! What undoes a step that failed is the next plan: a machine whose guest
//! never answered is killed by it, a disk half made is made again.

use std::future::Future;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use inn_domain::{ChannelChoice, Desired, Network, Power, Removal, StopKind, VmStep};
use inn_store::WorkloadRecord;
use inn_units::{VmId, format_duration};
use inn_vmm::{
    Accel, Boot, ChannelKind, Console, Disk, DiskSource, KernelBoot, Launch, Lifetime, Machine,
    MachineConfig, MachineEnd, Nic, NicBackend, Runtime,
};
use sha2::{Digest as _, Sha256};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::failure::{Failure, StepError};
use super::publish::Live;
use super::task::VmTask;
use super::workload::{Follower, RETAINED, WORKLOAD, WorkloadLog};
use crate::error::Chain;
use crate::guest::{
    ExecSpec, GuestError, GuestMount, GuestNetwork, GuestSession, GuestSetup, ShutdownKind,
};
use crate::runtime::{AnyMachine, AnyRuntime};

/// Between two attempts to open the guest's channel.
const CHANNEL_RETRY: Duration = Duration::from_millis(20);

/// How long one attempt to get a lost session back may take.
const RECONNECT: Duration = Duration::from_secs(10);

/// Of a stop's grace, what is left for the machine to end after the guest has
/// ended its processes.
const POWER_OFF: Duration = Duration::from_secs(5);

/// A session that cannot even be asked to end the guest.
const ASK: Duration = Duration::from_secs(5);

impl VmTask {
    pub(super) async fn execute(&mut self, step: &VmStep) -> Result<(), StepError> {
        match step {
            VmStep::MakeDisks => self.make_disks().await,
            VmStep::Launch { .. } => self.launch().await,
            VmStep::Handshake => self.handshake().await,
            VmStep::Configure => self.configure().await,
            VmStep::StartWorkload => self.start_workload().await,
            VmStep::Reconnect => self.reconnect().await,
            VmStep::Shutdown { grace } => self.shutdown(*grace).await,
            VmStep::Kill => self.kill().await,
            VmStep::RemoveFiles { removal } => self.remove_files(*removal).await,
            VmStep::Forget => self.forget().await,
            // Never executed: the task waits for it.
            VmStep::WaitUntil(_) => Ok(()),
        }
    }

    async fn make_disks(&self) -> Result<(), StepError> {
        let paths = &self.shared.paths;
        let logs = paths.logs();
        tokio::fs::create_dir_all(&logs).await.map_err(io_failure("make", &logs))?;
        self.node.images.make_disk(paths.disk(), self.shared.spec.disk).await?;
        if self.shared.spec.persist {
            let disk = self.persist_disk();
            let exists = tokio::fs::try_exists(&disk).await.map_err(io_failure("find", &disk))?;
            if !exists {
                let dir = self.node.config.paths.persist();
                tokio::fs::create_dir_all(&dir).await.map_err(io_failure("make", &dir))?;
                // Under its own name only once it is whole.
                let fresh = dir.join(format!(".{}.new", self.shared.id));
                self.node.images.make_disk(fresh.clone(), self.shared.spec.disk).await?;
                tokio::fs::rename(&fresh, &disk).await.map_err(io_failure("make", &disk))?;
            }
        }
        Ok(())
    }

    async fn launch(&mut self) -> Result<(), StepError> {
        self.launched_at = Instant::now();
        self.boot_deadline = self.launched_at + self.node.config.start_deadline;
        if let Some(image) = self.shared.spec.image()
            && !image.root_disk.exists()
        {
            let (image, root) = (&image.name, &image.root_disk);
            return Err(Failure::new(
                format!("the root disk {} of its image {image} is gone", root.display()),
                format!("import the image again, then `inn vm start {}`", self.shared.spec.name),
            )
            .into());
        }
        let launching = async {
            let runtime = self.node.runtimes.choose(self.shared.spec.runtime).await?;
            let config = self.machine_config(&runtime).await?;
            let from = std::fs::metadata(&config.console.log).map_or(0, |m| m.len());
            // From here on the machine runs: so long the guest boots.
            let start = Instant::now();
            let Launch { machine, steps } = runtime.launch(&config).await?;
            for (step, took) in steps {
                tracing::debug!(vm = %self.shared.spec.name, step, ?took, "launched");
            }
            Ok::<_, StepError>((machine, config.accel, from, start))
        };
        let (machine, accel, from, start) = tokio::select! {
            // A launch that is dropped takes back what it has made.
            launched = launching => launched?,
            () = self.superseded() => return Err(StepError::Superseded),
        };
        self.launched_at = start;
        self.console_from = from;
        let kvm = accel == Accel::Kvm;
        let record = Arc::new(Self::machine_record(&machine, kvm));
        let machine = Arc::new(machine);
        self.machine = Some(Arc::clone(&machine));
        self.shared.live.send_modify(|live| live.machine = Some(machine));
        let now = jiff::Timestamp::now();
        self.shared.modify(|view| {
            view.machine = Some(record);
            view.started_at = Some(now);
            view.boot = None;
            view.workload = None;
        });
        Ok(())
    }

    async fn machine_config(&self, runtime: &AnyRuntime) -> Result<MachineConfig, StepError> {
        let spec = &self.shared.spec;
        let (boot, accel) = match runtime {
            AnyRuntime::Qemu(qemu) => {
                let kernels = &self.node.kernels;
                let files = kernels.boot_files(spec.kernel.as_ref(), qemu.machine_type()).await?;
                let accel = self.node.kvm.accel(qemu, &files).await;
                let boot = Boot::Kernel(KernelBoot {
                    kernel: files.kernel.vmlinux,
                    initramfs: Some(files.initramfs),
                    cmdline: spec.kernel.as_ref().and_then(|k| k.args.clone()).unwrap_or_default(),
                });
                (boot, accel)
            }
            // A simulated machine reads no file.
            AnyRuntime::Sim(_) => (Boot::Firmware, Accel::Tcg),
        };
        let disk = |path: PathBuf, read_only, serial: &str| Disk {
            source: DiskSource::Raw(path),
            read_only,
            serial: serial.to_owned(),
        };
        let paths = &self.shared.paths;
        let mut disks = Vec::new();
        if let Some(image) = spec.image() {
            disks.push(disk(image.root_disk.clone(), true, "inn-root"));
        }
        disks.push(disk(paths.disk(), false, "inn-rw"));
        if spec.persist {
            disks.push(disk(self.persist_disk(), false, "inn-persist"));
        }
        let nic = match spec.network {
            Network::None => None,
            Network::AllowAll => Some(Nic { mac: mac(self.shared.id), backend: NicBackend::User }),
        };
        Ok(MachineConfig {
            id: self.shared.id,
            vcpus: spec.vcpus,
            memory: spec.memory,
            accel,
            boot,
            disks,
            nic,
            console: Console { log: paths.console_log() },
            channel: match spec.channel {
                ChannelChoice::Vsock => ChannelKind::Vsock,
                ChannelChoice::Auto | ChannelChoice::Serial => ChannelKind::Serial,
            },
            run_dir: paths.run_dir.clone(),
            lifetime: if spec.lease { Lifetime::Leased } else { Lifetime::Detached },
        })
    }

    async fn handshake(&mut self) -> Result<(), StepError> {
        let machine = self.machine()?;
        let deadline = self.boot_deadline;
        let (session, took) = tokio::select! {
            // Both are cancel safe: a stream that is dropped is closed.
            session = timeout_at(deadline, open_session(&machine)) => {
                (session, self.launched_at.elapsed())
            }
            end = machine.wait() => return Err(StepError::Ended(end)),
            () = self.superseded() => return Err(StepError::Superseded),
        };
        let session = session.map_err(|_| {
            let limit = format_duration(self.node.config.start_deadline);
            Failure::new(
                format!("the guest agent did not answer within {limit}"),
                format!(
                    "read the console below; a slow host wants a longer start_deadline, then \
                     `inn vm start {}`",
                    self.shared.spec.name
                ),
            )
            .with_console()
        })??;
        let hello = Arc::new(session.hello().clone());
        tracing::debug!(vm = %self.shared.spec.name, ?took, ?hello, "the guest has answered");
        self.session = Some(session);
        self.shared.modify(|view| {
            view.hello = Some(hello);
            view.boot = view.boot.or(Some(took));
        });
        Ok(())
    }

    async fn configure(&mut self) -> Result<(), StepError> {
        let session = self.session()?;
        if !session.hello().configured {
            let setup = self.setup();
            let report = self.while_booting(session.configure(setup)).await?;
            for problem in report.problems {
                tracing::warn!(vm = %self.shared.spec.name, problem, "not all could be set up");
            }
        }
        self.shared.live.send_modify(|live| live.session = Some(session));
        Ok(())
    }

    fn setup(&self) -> GuestSetup {
        let spec = &self.shared.spec;
        let kvm = self.shared.view.borrow().machine.as_ref().is_some_and(|m| m.kvm);
        let mounts = if spec.persist {
            vec![GuestMount {
                serial: "inn-persist".to_owned(),
                target: "/persist".to_owned(),
                read_only: false,
            }]
        } else {
            Vec::new()
        };
        // The addresses of QEMU's user network (docs/system/devices/net.rst).
        let network = (spec.network == Network::AllowAll).then(|| GuestNetwork {
            address: Ipv4Addr::new(10, 0, 2, 15),
            prefix: 24,
            gateway: Some(Ipv4Addr::new(10, 0, 2, 2)),
            dns: vec![Ipv4Addr::new(10, 0, 2, 3)],
        });
        GuestSetup {
            hostname: spec.name.to_string(),
            machine_id: machine_id(self.shared.id),
            network,
            clock: Some(SystemTime::now()),
            mounts,
            stable_addresses: !kvm,
        }
    }

    async fn start_workload(&mut self) -> Result<(), StepError> {
        let session = self.session()?;
        let argv = self.shared.spec.workload_argv();
        if argv.is_empty() {
            return Ok(());
        }
        let known = self.shared.view.borrow().workload.clone();
        if session.hello().configured {
            // An earlier life got so far, and perhaps further.
            let execs = self.while_booting(session.list_execs()).await?;
            if execs.iter().any(|exec| exec.id == WORKLOAD) {
                let record = known.as_deref().cloned().unwrap_or_else(|| running(argv, 0));
                return self.attach_workload(&session, record).await;
            }
        }
        let path = self.shared.paths.workload_log();
        let log = WorkloadLog::begin(&path, self.node.config.log_limit)
            .await
            .map_err(io_failure("open", &path))?;
        let spec = &self.shared.spec;
        let exec = ExecSpec {
            env: spec.environment(&[]),
            cwd: spec.run_defaults().working_dir.clone(),
            make_cwd: true,
            user: spec.run_defaults().user.clone(),
            retain: Some(RETAINED),
            ..ExecSpec::new(WORKLOAD, argv.clone())
        };
        let exec = self.while_booting(session.exec(exec)).await?;
        self.follow(exec, log, running(argv, 0));
        Ok(())
    }

    /// Gets the session of a VM that is up back, and its workload's output.
    async fn reconnect(&mut self) -> Result<(), StepError> {
        let machine = self.machine()?;
        let session = tokio::select! {
            // Both are cancel safe: a stream that is dropped is closed.
            session = timeout(RECONNECT, open_session(&machine)) => session,
            end = machine.wait() => return Err(StepError::Ended(end)),
            () = self.superseded() => return Err(StepError::Superseded),
        };
        let session = session.map_err(|_| {
            let limit = format_duration(RECONNECT);
            Failure::new(
                format!("the guest agent did not answer within {limit}"),
                "it is tried again",
            )
        })??;
        // What the follower before has to tell comes first.
        self.drain_workload().await;
        let known = self.shared.view.borrow().workload.clone();
        if let Some(record) = known
            && record.running
        {
            let record = (*record).clone();
            timeout(RECONNECT, self.attach_workload(&session, record)).await.map_err(|_| {
                Failure::new("the guest does not tell of its workload", "it is tried again")
            })??;
        }
        let hello = Arc::new(session.hello().clone());
        self.session = Some(session.clone());
        let live = Live { machine: Some(machine), session: Some(session) };
        self.shared.live.send_replace(live);
        self.shared.modify(|view| view.hello = Some(hello));
        self.up_since.get_or_insert_with(Instant::now);
        Ok(())
    }

    async fn attach_workload(
        &mut self,
        session: &GuestSession,
        record: WorkloadRecord,
    ) -> Result<(), StepError> {
        let path = self.shared.paths.workload_log();
        let log = WorkloadLog::open(&path, self.node.config.log_limit, record.log_base)
            .await
            .map_err(io_failure("open", &path))?;
        let exec = session.attach(WORKLOAD, log.next_offset()).await?;
        self.follow(exec, log, record);
        Ok(())
    }

    fn follow(&mut self, exec: crate::guest::Exec, log: WorkloadLog, record: WorkloadRecord) {
        let record = WorkloadRecord { log_base: log.base(), ..record };
        self.shared.modify(|view| view.workload = Some(Arc::new(record.clone())));
        self.follower = Some(Follower::start(exec, log, record));
    }

    async fn shutdown(&self, grace: Duration) -> Result<(), StepError> {
        let machine = self.machine()?;
        let name = &self.shared.spec.name;
        let for_guest = grace.saturating_sub(POWER_OFF.min(grace / 4));
        let ending = async {
            let session = self.session().ok()?;
            let asked = timeout(ASK, session.shutdown(ShutdownKind::PowerOff, for_guest)).await;
            if let Err(error) = asked.unwrap_or_else(|_| {
                Err(GuestError::Timeout { what: "the shutdown".to_owned(), after: ASK })
            }) {
                tracing::warn!(vm = %name, error = %Chain(&error), "cannot be asked to shut down");
                return None;
            }
            Some(machine.wait().await)
        };
        tokio::select! {
            // The machine's end stays to be seen.
            ended = timeout(grace, ending) => match ended {
                Ok(Some(MachineEnd::PoweredOff)) => {
                    tracing::info!(vm = %name, "the guest has shut down");
                    return Ok(());
                }
                Ok(Some(end)) => {
                    tracing::info!(vm = %name, ?end, "ended while it shut down");
                    return Ok(());
                }
                Ok(None) => {}
                Err(_) => tracing::warn!(
                    vm = %name, grace = %format_duration(grace),
                    "the guest did not shut down in time: its machine is ended"
                ),
            },
            // Impatience: a later request wants it gone at once.
            () = self.wants(|desired| desired.stop == StopKind::Force) => {}
            () = self.node.closing.cancelled() => return Err(StepError::Superseded),
        }
        self.kill().await
    }

    async fn kill(&self) -> Result<(), StepError> {
        let Some(machine) = &self.machine else { return Ok(()) };
        machine.kill().await.map_err(|error| {
            let next = "end its process by hand; it is tried again until it is gone";
            Failure::new(format!("its machine cannot be ended: {error}"), next).into()
        })
    }

    async fn remove_files(&self, removal: Removal) -> Result<(), StepError> {
        let paths = self.shared.paths.clone();
        let keep = removal.keep_disk.then(|| {
            let name = format!("{}-{}.img", self.shared.spec.name, self.shared.id);
            (self.node.config.paths.kept(), name)
        });
        let purge =
            (removal.purge_persist && self.shared.spec.persist).then(|| self.persist_disk());
        let removed = tokio::task::spawn_blocking(move || {
            if let Some((dir, name)) = keep
                && paths.disk().exists()
            {
                std::fs::create_dir_all(&dir).map_err(io_failure("make", &dir))?;
                let kept = dir.join(name);
                std::fs::rename(paths.disk(), &kept).map_err(io_failure("set aside", &kept))?;
                tracing::info!(disk = %kept.display(), "kept the disk");
            }
            for dir in [&paths.run_dir, &paths.dir] {
                absent(std::fs::remove_dir_all(dir)).map_err(io_failure("remove", dir))?;
            }
            if let Some(disk) = purge {
                absent(std::fs::remove_file(&disk)).map_err(io_failure("remove", &disk))?;
            }
            Ok(())
        });
        removed.await.unwrap_or_else(|error| {
            Err(Failure::new(format!("removing its files: {error}"), "it is tried again").into())
        })
    }

    async fn forget(&self) -> Result<(), StepError> {
        let vm = super::VmHandle { shared: Arc::clone(&self.shared) };
        self.node
            .store
            .forget_vm(self.shared.id, vm.durability())
            .await
            .map_err(|error| Failure::new(Chain(&error).to_string(), "it is tried again").into())
    }

    /// What the guest is asked on its way up has the start's deadline, and is
    /// given up for the machine's end and for another desire.
    async fn while_booting<T>(
        &self,
        asking: impl Future<Output = Result<T, GuestError>>,
    ) -> Result<T, StepError> {
        let machine = self.machine()?;
        tokio::select! {
            // The guest may have done it: configuring twice does no harm, and
            // an exec with an id that is there is found again.
            answer = timeout_at(self.boot_deadline, asking) => match answer {
                Ok(answer) => Ok(answer?),
                Err(_) => Err(Failure::new(
                    "the guest agent has answered and then fell silent",
                    "read the console below, then start the VM again",
                )
                .with_console()
                .into()),
            },
            end = machine.wait() => Err(StepError::Ended(end)),
            () = self.superseded() => Err(StepError::Superseded),
        }
    }

    /// Resolves once this way up leads to nothing that is desired any more.
    async fn superseded(&self) {
        let run = self.desired().run;
        tokio::select! {
            // Both only look at values.
            () = self.wants(|desired| desired.power != Power::Running || desired.run > run) => {}
            () = self.node.closing.cancelled() => {}
        }
    }

    async fn wants(&self, wanted: impl Fn(&Desired) -> bool) {
        let mut views = self.shared.view.subscribe();
        if views.wait_for(|view| wanted(&view.desired)).await.is_err() {
            // We hold the sender ourselves.
            std::future::pending().await
        }
    }

    fn machine(&self) -> Result<Arc<AnyMachine>, StepError> {
        self.machine
            .clone()
            .ok_or_else(|| Failure::new("its machine is not there", "start the VM again").into())
    }

    fn session(&self) -> Result<GuestSession, StepError> {
        self.session.clone().ok_or_else(|| {
            Failure::new("its guest's session is not there", "start the VM again")
                .with_console()
                .into()
        })
    }

    fn persist_disk(&self) -> PathBuf {
        self.node.config.paths.persist_disk(&self.shared.spec.name)
    }
}

/// Opens the guest's channel until somebody answers on it.
async fn open_session(machine: &AnyMachine) -> Result<GuestSession, GuestError> {
    loop {
        let opened = async {
            let stream: UnixStream = machine.connect_channel().await.map_err(|source| {
                GuestError::Io { step: "opening the guest's channel", source: Arc::new(source) }
            })?;
            GuestSession::establish(stream).await
        };
        match opened.await {
            // The machine is about to end, or somebody still has the channel.
            Err(error @ (GuestError::Io { .. } | GuestError::Closed { .. })) => {
                tracing::debug!(error = %Chain(&error), "the guest's channel: once more");
                sleep(CHANNEL_RETRY).await;
            }
            done => return done,
        }
    }
}

fn running(command: Vec<String>, log_base: i64) -> WorkloadRecord {
    WorkloadRecord { command, running: true, exit_code: None, reason: None, log_base, restarts: 0 }
}

/// Locally administered (IEEE 802-2014, 8.4), and the same in every boot.
fn mac(id: VmId) -> [u8; 6] {
    let [a, b, c, d, e] = *id.as_bytes();
    [0x02, a, b, c, d, e]
}

/// machine-id(5): 32 hex digits, the VM's for ever and nobody else's.
fn machine_id(id: VmId) -> String {
    let hash = Sha256::digest(format!("innkeeper machine-id {id}"));
    hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

fn absent(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

fn io_failure(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StepError {
    let path = path.to_owned();
    move |error| {
        let full = error.kind() == io::ErrorKind::StorageFull;
        let next =
            if full { "free some space on that disk" } else { "put that right; it is tried again" };
        Failure::new(format!("cannot {what} {}: {error}", path.display()), next).into()
    }
}
