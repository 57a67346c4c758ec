use std::io;
use std::path::Path;

use inn_fail_point::{Point, fail_point};
use inn_host::process::SpawnSpec;
use inn_units::VmId;
use inn_vmm::kept::KeptLaunch;
use inn_vmm::{
    AdoptError, Capabilities, Fingerprint, Launch, LaunchError, Lifetime, MachineConfig,
    MachineIdentity, Runtime, Stopwatch, io_error,
};

use crate::discover::KrunRuntime;
use crate::kind::{KIND, NAME};
use crate::machine::KrunMachine;
use crate::orders::{orders, written};
use crate::protocol::COMMAND;

impl Runtime for KrunRuntime {
    type Machine = KrunMachine;

    fn capabilities(&self) -> &Capabilities {
        &self.found.capabilities
    }

    async fn fingerprint(&self, config: &MachineConfig) -> Fingerprint {
        Fingerprint::of(NAME, config)
    }

    async fn launch(&self, config: &MachineConfig) -> Result<Launch<KrunMachine>, LaunchError> {
        let found = &self.found;
        found.capabilities.admit(config)?;
        let mut steps = Vec::new();
        let mut step = Stopwatch::start();
        let mut launch = KeptLaunch::prepare(&KIND, config)?;
        let confined = found.confined(&config.isolation, config.isolation.log_writer())?;
        // The helper's program is a log writer too.
        let outlets = launch.start_logs(&found.log_spawner, &found.helper, confined, config)?;
        fail_point(Point::KrunLogged);
        steps.push(("logs", step.lap()));

        let mut spec = SpawnSpec::new(&found.helper, outlets.vmm)
            .leased(config.lifetime == Lifetime::Leased)
            .confined(found.confined(&config.isolation, None)?);
        let orders = orders(config, &launch, outlets.console.into(), &mut spec)?;
        let told = written(&orders).map_err(io_error("writing the orders of", &found.helper))?;
        let told = spec.inherit(told).to_string();
        let spec = spec.args([COMMAND.to_owned(), format!("inn-{}", config.id), told]);
        fail_point(Point::KrunTold);
        steps.push(("sockets", step.lap()));
        launch.spawn(&found.spawner, &found.helper, spec).await?;
        fail_point(Point::KrunSpawned);
        steps.push(("spawn", step.lap()));
        launch.answered().await?;
        fail_point(Point::KrunAnswered);
        steps.push(("machine", step.lap()));
        Ok(Launch { machine: KrunMachine(launch.hand_over().await), steps })
    }

    async fn adopt(
        &self,
        id: VmId,
        identity: &MachineIdentity,
        run_dir: &Path,
    ) -> Result<KrunMachine, AdoptError> {
        KIND.adopt(id, identity, run_dir).await.map(KrunMachine)
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
