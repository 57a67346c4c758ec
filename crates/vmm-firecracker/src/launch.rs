use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use inn_fail_point::{Point, fail_point};
use inn_host::process::{Process, ProcessIdentity, SpawnSpec};
use inn_units::VmId;
use inn_vmm::kept::{KeptLaunch, Outlets};
use inn_vmm::{
    AdoptError, Boot, Capabilities, DiskSource, Fingerprint, Isolation, KernelBoot, Launch,
    LaunchError, Lifetime, MachineConfig, MachineIdentity, NicBackend, Runtime, Stopwatch,
    host_cpu_features, io_error, memory,
};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::geteuid;

use crate::api::Api;
use crate::discover::{FirecrackerRuntime, Found};
use crate::jail;
use crate::kind::{API, COMMAND, KIND, LOG_PIPE, METRICS_PIPE, NAME};
use crate::machine::FirecrackerMachine;
use crate::orders::{Descriptors, JailFile, JailOrder, Orders};
use crate::places::{self, BootPlaces};
use crate::requests;
use crate::saved;
use crate::tap::{self, LentTap};

impl Runtime for FirecrackerRuntime {
    type Machine = FirecrackerMachine;

    fn capabilities(&self) -> &Capabilities {
        &self.found.capabilities
    }

    async fn fingerprint(&self, config: &MachineConfig) -> Fingerprint {
        Fingerprint {
            version: self.found.version.text.clone(),
            cpu_features: host_cpu_features(),
            ..Fingerprint::of(NAME, config)
        }
    }

    async fn launch(
        &self,
        config: &MachineConfig,
    ) -> Result<Launch<FirecrackerMachine>, LaunchError> {
        let found = &self.found;
        found.capabilities.admit(config)?;
        let Boot::Kernel(boot) = &config.boot else {
            unreachable!("its capabilities have no firmware");
        };
        let mut steps = Vec::new();
        let mut step = Stopwatch::start();
        let mut launch = KeptLaunch::prepare(&KIND, config)?;
        let writer = config.isolation.log_writer();
        let confined = config.isolation.confined(writer, || found.jail())?;
        let outlets = launch.start_logs(&found.log_spawner, &found.own, confined, config)?;
        steps.push(("logs", step.lap()));

        let run_dir = &config.run_dir;
        memory::record(run_dir, config.memory).map_err(io_error("noting in", run_dir))?;
        let (jail, places) = found.places(config, boot)?;
        let (spec, tap) = found.spec(config, &launch, outlets, jail)?;
        steps.push(("sockets", step.lap()));
        launch.spawn(&found.spawner, &found.own, spec).await?;
        launch.answered().await?;
        fail_point(Point::FirecrackerKept);
        steps.push(("spawn", step.lap()));

        let path = launch.files.in_run_dir(API);
        let configured = async {
            let mut api = Api::appeared(&path).await?;
            steps.push(("api", step.lap()));
            match &config.from {
                Some(saved) => {
                    let name = tap.as_ref().map(|tap| tap.name.as_str());
                    saved::load(&mut api, saved, name).await?;
                    fail_point(Point::FirecrackerLoaded);
                    steps.push(("load", step.lap()));
                    if let (Some(tap), Some(nic)) = (&tap, &config.nic) {
                        attached(&api, tap, run_dir)?;
                        // Until now it has those of the one that was saved.
                        api.ask(&requests::limit_card(&nic.limits())).await?;
                    }
                }
                None => {
                    for request in requests::machine(config, &boot.cmdline, &places) {
                        api.ask(&request).await?;
                    }
                    if let (Some(tap), Some(nic)) = (&tap, &config.nic) {
                        api.ask(&requests::card(nic.mac, &tap.name, &nic.limits())).await?;
                        attached(&api, tap, run_dir)?;
                    }
                    steps.push(("configuration", step.lap()));
                    fail_point(Point::FirecrackerConfigured);
                    api.ask(&requests::start()).await?;
                    steps.push(("start", step.lap()));
                }
            }
            Ok::<_, io::Error>(())
        };
        let failed = tokio::select! {
            configured = configured => configured.err().map(|error| error.to_string()),
            how = launch.ended() => Some(how),
        };
        if let Some(reason) = failed {
            return Err(launch.failed(reason).await);
        }
        let (kept, stands) = (launch.hand_over().await, config.from.is_some());
        Ok(Launch { machine: FirecrackerMachine::new(kept, found.clone(), stands), steps })
    }

    async fn adopt(
        &self,
        id: VmId,
        identity: &MachineIdentity,
        run_dir: &Path,
    ) -> Result<FirecrackerMachine, AdoptError> {
        let kept = KIND.adopt(id, identity, run_dir).await?;
        // One that stands may have been told to since: who connects finds out.
        Ok(FirecrackerMachine::new(kept, self.found.clone(), false))
    }

    async fn reap(
        &self,
        _id: VmId,
        identity: Option<&MachineIdentity>,
        run_dir: &Path,
    ) -> io::Result<()> {
        KIND.reap(identity, run_dir).await
    }
}

impl Found {
    /// Where Firecracker finds its files, and what its root directory is made of
    /// where it has one.
    fn places(
        &self,
        config: &MachineConfig,
        boot: &KernelBoot,
    ) -> Result<(Option<JailOrder>, BootPlaces), LaunchError> {
        let Some(user) = config.isolation.user.as_ref().filter(|_| config.isolation.jailed) else {
            // Its working directory is the run directory.
            places::link(config).map_err(io_error("linking the disks in", &config.run_dir))?;
            let (kernel, initramfs) = (boot.kernel.clone(), boot.initramfs.clone());
            return Ok((None, BootPlaces { kernel, initramfs }));
        };
        let jailer = self.jailer.clone().map_err(|why| LaunchError::Failed {
            program: "jailer".to_owned(),
            reason: why,
            log: Vec::new(),
        })?;
        let mut files = Vec::new();
        let mut file = |name: String, path: PathBuf, read_only| {
            let at = jail::inside(&name);
            files.push(JailFile { path, name, read_only });
            at
        };
        for disk in &config.disks {
            let DiskSource::Raw(path) = &disk.source;
            jail::give(path, disk.read_only, user.uid).map_err(io_error("giving away", path))?;
            file(places::disk(&disk.serial), path.clone(), disk.read_only);
        }
        let places = match config.from {
            // The kernel is in its memory.
            Some(_) => BootPlaces { kernel: boot.kernel.clone(), initramfs: None },
            None => BootPlaces {
                kernel: file("kernel".to_owned(), boot.kernel.clone(), true),
                initramfs: (boot.initramfs.clone())
                    .map(|path| file("initramfs".to_owned(), path, true)),
            },
        };
        let room_mib = config.memory.whole_mib();
        Ok((Some(JailOrder { jailer, uid: user.uid, files, room_mib }), places))
    }

    /// What to spawn, and the tap that it will attach to.
    fn spec(
        &self,
        config: &MachineConfig,
        launch: &KeptLaunch,
        outlets: Outlets,
        jail: Option<JailOrder>,
    ) -> Result<(SpawnSpec, Option<LentTap>), LaunchError> {
        // It makes the root directory that its VMM has.
        let isolation = Isolation { jailed: false, ..config.isolation.clone() };
        let mut spec = SpawnSpec::new(&self.own, outlets.vmm)
            .leased(config.lifetime == Lifetime::Leased)
            .confined(isolation.confined(None, || self.jail())?);
        for outlet in outlets.more {
            spec.inherit(outlet.into());
        }
        let [control, console] = launch.listen(&mut spec)?;
        let run_dir = &config.run_dir;
        let opened = File::open(run_dir).map_err(io_error("opening", run_dir))?;
        let tap = match config.nic.as_ref().map(|nic| &nic.backend) {
            Some(NicBackend::Tap(tap)) => {
                let user = jail.as_ref().map_or(geteuid().as_raw(), |jail| jail.uid);
                let lent = tap.take().and_then(|device| tap::lend(device, user, run_dir));
                Some(lent.map_err(io_error("lending the tap of", run_dir))?)
            }
            Some(NicBackend::User | NicBackend::Nothing | NicBackend::Foreign(_)) | None => None,
        };
        let netns = match &tap {
            Some(tap) => {
                let netns = tap.netns.try_clone();
                Some(spec.inherit(netns.map_err(io_error("duplicating", run_dir))?))
            }
            None => None,
        };
        let memory = config.from.as_ref().and_then(|saved| saved.memory.as_ref());
        let memory = match memory.filter(|_| jail.is_some()) {
            Some(memory) => {
                let memory = memory::reopened(memory).map_err(io_error("opening", run_dir))?;
                Some(spec.inherit(memory.into()))
            }
            None => None,
        };
        let descriptors = Descriptors {
            run_dir: spec.inherit(opened.into()),
            control,
            console,
            console_log: spec.inherit(outlets.console.into()),
            netns,
            memory,
        };
        let place = |name: &str| match jail {
            Some(_) => Path::new(jail::RUN).join(name),
            None => name.into(),
        };
        let args =
            [("--api-sock", API), ("--log-path", LOG_PIPE), ("--metrics-path", METRICS_PIPE)];
        let args = args.into_iter().flat_map(|(flag, name)| [flag.into(), place(name).into()]);
        let orders = Orders {
            vm: config.id.to_string(),
            firecracker: self.binary.clone(),
            args: args.collect(),
            jail,
            descriptors,
        };
        let told = written(&orders).map_err(io_error("writing the orders of", &self.own))?;
        let told = spec.inherit(told.into()).to_string();
        Ok((spec.args([COMMAND.to_owned(), orders.instance(), told]), tap))
    }
}

/// The tap goes with it from here on.
fn attached(api: &Api, tap: &LentTap, run_dir: &Path) -> io::Result<()> {
    fail_point(Point::FirecrackerAttached);
    let holder = api.pid().map(ProcessIdentity::of_pid).transpose()?;
    // Where it has gone, all that follows notices.
    if let Some(Ok(holder)) = holder.map(|identity| Process::open(&identity)) {
        tap::take_back(&holder, &tap.name, run_dir);
    }
    Ok(())
}

/// In a file without a name, as a keeper gets them.
fn written(orders: &Orders) -> io::Result<File> {
    let mut file = File::from(memfd_create("orders", MemfdFlags::CLOEXEC)?);
    file.write_all(&serde_json::to_vec(orders).map_err(io::Error::other)?)?;
    Ok(file)
}
