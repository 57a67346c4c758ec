use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use inn_host::process::{Process, ProcessIdentity, SpawnSpec};
use inn_units::VmId;
use inn_vmm::kept::{KeptLaunch, Outlets};
use inn_vmm::{
    AdoptError, Boot, Capabilities, DiskSource, Fingerprint, Isolation, KernelBoot, Launch,
    LaunchError, Lifetime, MachineConfig, MachineIdentity, NicBackend, Runtime, Stopwatch,
    io_error,
};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::geteuid;

use crate::api::Api;
use crate::discover::{FirecrackerRuntime, Found};
use crate::jail;
use crate::kind::{API, COMMAND, KIND, LOG_PIPE, METRICS_PIPE, NAME, VSOCK};
use crate::machine::FirecrackerMachine;
use crate::orders::{Descriptors, JailFile, JailOrder, Orders};
use crate::requests::{self, Places};
use crate::tap::{self, LentTap};

impl Runtime for FirecrackerRuntime {
    type Machine = FirecrackerMachine;

    fn capabilities(&self) -> &Capabilities {
        &self.found.capabilities
    }

    async fn fingerprint(&self, config: &MachineConfig) -> Fingerprint {
        Fingerprint::of(NAME, config)
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
        let outlets = launch.start_logs(&found.spawner, &found.own, confined, config).await?;
        steps.push(("logs", step.lap()));

        let (jail, places) = found.places(config, boot)?;
        let (spec, tap) = found.spec(config, &launch, outlets, jail)?;
        steps.push(("sockets", step.lap()));
        launch.spawn(&found.spawner, &found.own, spec).await?;
        launch.answered().await?;
        steps.push(("spawn", step.lap()));

        let path = launch.files.in_run_dir(API);
        let configured = async {
            let mut api = Api::appeared(&path).await?;
            steps.push(("api", step.lap()));
            for request in requests::machine(config, &boot.cmdline, &places) {
                api.ask(&request).await?;
            }
            if let (Some(tap), Some(nic)) = (&tap, &config.nic) {
                api.ask(&requests::card(nic.mac, &tap.name)).await?;
                let holder = api.pid().map(ProcessIdentity::of_pid).transpose()?;
                // Where it has gone, all that follows notices.
                if let Some(Ok(holder)) = holder.map(|identity| Process::open(&identity)) {
                    tap::take_back(&holder, &tap.name, &config.run_dir);
                }
            }
            steps.push(("configuration", step.lap()));
            api.ask(&requests::start()).await?;
            steps.push(("start", step.lap()));
            Ok::<_, io::Error>(())
        };
        let failed = tokio::select! {
            configured = configured => configured.err().map(|error| error.to_string()),
            how = launch.ended() => Some(how),
        };
        if let Some(reason) = failed {
            return Err(launch.failed(reason).await);
        }
        Ok(Launch { machine: FirecrackerMachine(launch.hand_over().await), steps })
    }

    async fn adopt(
        &self,
        id: VmId,
        identity: &MachineIdentity,
        run_dir: &Path,
    ) -> Result<FirecrackerMachine, AdoptError> {
        KIND.adopt(id, identity, run_dir).await.map(FirecrackerMachine)
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
    ) -> Result<(Option<JailOrder>, Places), LaunchError> {
        let disks = config.disks.iter().map(|disk| {
            let DiskSource::Raw(path) = &disk.source;
            (path.clone(), disk.read_only)
        });
        let Some(user) = config.isolation.user.as_ref().filter(|_| config.isolation.jailed) else {
            // Its working directory is the run directory.
            let places = Places {
                kernel: boot.kernel.clone(),
                initramfs: boot.initramfs.clone(),
                disks: disks.map(|(path, _)| path).collect(),
                vsock: VSOCK.into(),
            };
            return Ok((None, places));
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
        let kernel = file("kernel".to_owned(), boot.kernel.clone(), true);
        let initramfs = boot.initramfs.clone().map(|path| file("initramfs".to_owned(), path, true));
        let mut inside = Vec::new();
        for (at, (path, read_only)) in disks.enumerate() {
            jail::give(&path, read_only, user.uid).map_err(io_error("giving away", &path))?;
            inside.push(file(format!("disk{at}"), path, read_only));
        }
        let vsock = Path::new(jail::RUN).join(VSOCK);
        let places = Places { kernel, initramfs, disks: inside, vsock };
        Ok((Some(JailOrder { jailer, uid: user.uid, files }), places))
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
            Some(NicBackend::User | NicBackend::Nothing) | None => None,
        };
        let netns = match &tap {
            Some(tap) => {
                let netns = tap.netns.try_clone();
                Some(spec.inherit(netns.map_err(io_error("duplicating", run_dir))?))
            }
            None => None,
        };
        let descriptors = Descriptors {
            run_dir: spec.inherit(opened.into()),
            control,
            console,
            console_log: spec.inherit(outlets.console.into()),
            netns,
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

/// In a file without a name, as a keeper gets them.
fn written(orders: &Orders) -> io::Result<File> {
    let mut file = File::from(memfd_create("orders", MemfdFlags::CLOEXEC)?);
    file.write_all(&serde_json::to_vec(orders).map_err(io::Error::other)?)?;
    Ok(file)
}
