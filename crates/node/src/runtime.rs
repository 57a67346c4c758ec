//! The one place that names runtimes: which there are, and one type for all.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use inn_domain::RuntimeChoice;
use inn_units::{Bytes, VmId};
use inn_vmm::{
    AdoptError, Capabilities, Fingerprint, Forward, Forwarded, Launch, LaunchError, Machine,
    MachineConfig, MachineEnd, MachineIdentity, Runtime, Saved, SavedAhead,
};
use inn_vmm_qemu::{QemuMachine, QemuRuntime};
/// Processes are QEMU's alone: a simulated machine is a file.
pub(crate) use inn_vmm_qemu::{Stray, strays};
use inn_vmm_sim::{SimMachine, SimRuntime};
use tokio::net::UnixStream;
use tokio::sync::OnceCell;

/// The runtimes of this node, each found when it is first needed.
#[derive(Debug)]
pub(crate) struct Runtimes {
    qemu: OnceCell<QemuRuntime>,
    sim: SimRuntime,
}

impl Runtimes {
    pub(crate) fn new(sim: SimRuntime) -> Self {
        Self { qemu: OnceCell::new(), sim }
    }

    /// QEMU, asked for its abilities once. Not finding it is not remembered:
    /// it may be installed meanwhile.
    pub(crate) async fn qemu(&self) -> Result<&QemuRuntime, LaunchError> {
        let discover = || async {
            tokio::task::spawn_blocking(QemuRuntime::discover).await.map_err(|error| {
                LaunchError::Io {
                    step: "asking QEMU what it can do".to_owned(),
                    source: io::Error::other(error),
                }
            })?
        };
        self.qemu.get_or_try_init(discover).await
    }

    pub(crate) async fn choose(&self, choice: RuntimeChoice) -> Result<AnyRuntime, LaunchError> {
        match choice {
            RuntimeChoice::Auto | RuntimeChoice::Qemu => {
                Ok(AnyRuntime::Qemu(self.qemu().await?.clone()))
            }
            RuntimeChoice::Sim => Ok(AnyRuntime::Sim(self.sim.clone())),
        }
    }

    /// By the name in a stored machine's identity.
    pub(crate) async fn named(&self, name: &str) -> Result<Option<AnyRuntime>, LaunchError> {
        Ok(match name {
            "qemu" => Some(self.choose(RuntimeChoice::Qemu).await?),
            "sim" => Some(self.choose(RuntimeChoice::Sim).await?),
            _ => None,
        })
    }
}

#[derive(Debug, Clone)]
pub(crate) enum AnyRuntime {
    Qemu(QemuRuntime),
    Sim(SimRuntime),
}

#[derive(Debug)]
pub(crate) enum AnyMachine {
    Qemu(QemuMachine),
    Sim(SimMachine),
}

impl Runtime for AnyRuntime {
    type Machine = AnyMachine;

    fn capabilities(&self) -> &Capabilities {
        match self {
            Self::Qemu(runtime) => runtime.capabilities(),
            Self::Sim(runtime) => runtime.capabilities(),
        }
    }

    async fn fingerprint(&self, config: &MachineConfig) -> Fingerprint {
        match self {
            Self::Qemu(runtime) => runtime.fingerprint(config).await,
            Self::Sim(runtime) => runtime.fingerprint(config).await,
        }
    }

    async fn launch(&self, config: &MachineConfig) -> Result<Launch<AnyMachine>, LaunchError> {
        Ok(match self {
            Self::Qemu(runtime) => {
                let Launch { machine, steps } = runtime.launch(config).await?;
                Launch { machine: AnyMachine::Qemu(machine), steps }
            }
            Self::Sim(runtime) => {
                let Launch { machine, steps } = runtime.launch(config).await?;
                Launch { machine: AnyMachine::Sim(machine), steps }
            }
        })
    }

    async fn adopt(
        &self,
        id: VmId,
        identity: &MachineIdentity,
        run_dir: &Path,
    ) -> Result<AnyMachine, AdoptError> {
        Ok(match self {
            Self::Qemu(runtime) => AnyMachine::Qemu(runtime.adopt(id, identity, run_dir).await?),
            Self::Sim(runtime) => AnyMachine::Sim(runtime.adopt(id, identity, run_dir).await?),
        })
    }

    async fn reap(
        &self,
        id: VmId,
        identity: Option<&MachineIdentity>,
        run_dir: &Path,
    ) -> io::Result<()> {
        match self {
            Self::Qemu(runtime) => runtime.reap(id, identity, run_dir).await,
            Self::Sim(runtime) => runtime.reap(id, identity, run_dir).await,
        }
    }
}

impl Machine for AnyMachine {
    fn identity(&self) -> &MachineIdentity {
        match self {
            Self::Qemu(machine) => machine.identity(),
            Self::Sim(machine) => machine.identity(),
        }
    }

    async fn connect_channel(&self) -> io::Result<UnixStream> {
        match self {
            Self::Qemu(machine) => machine.connect_channel().await,
            Self::Sim(machine) => machine.connect_channel().await,
        }
    }

    async fn connect_console(&self) -> io::Result<UnixStream> {
        match self {
            Self::Qemu(machine) => machine.connect_console().await,
            Self::Sim(machine) => machine.connect_console().await,
        }
    }

    async fn set_vnc_password(&self, password: &str) -> io::Result<()> {
        match self {
            Self::Qemu(machine) => machine.set_vnc_password(password).await,
            Self::Sim(machine) => machine.set_vnc_password(password).await,
        }
    }

    async fn connect_vnc(&self) -> io::Result<UnixStream> {
        match self {
            Self::Qemu(machine) => machine.connect_vnc().await,
            Self::Sim(machine) => machine.connect_vnc().await,
        }
    }

    async fn resize_disk(&self, serial: &str, size: Bytes) -> io::Result<()> {
        match self {
            Self::Qemu(machine) => machine.resize_disk(serial, size).await,
            Self::Sim(machine) => machine.resize_disk(serial, size).await,
        }
    }

    async fn press_power_button(&self) -> io::Result<()> {
        match self {
            Self::Qemu(machine) => machine.press_power_button().await,
            Self::Sim(machine) => machine.press_power_button().await,
        }
    }

    async fn set_forwards(&self, forwards: &BTreeSet<Forward>) -> io::Result<Forwarded> {
        match self {
            Self::Qemu(machine) => machine.set_forwards(forwards).await,
            Self::Sim(machine) => machine.set_forwards(forwards).await,
        }
    }

    async fn pause(&self) -> io::Result<()> {
        match self {
            Self::Qemu(machine) => machine.pause().await,
            Self::Sim(machine) => machine.pause().await,
        }
    }

    async fn resume(&self) -> io::Result<()> {
        match self {
            Self::Qemu(machine) => machine.resume().await,
            Self::Sim(machine) => machine.resume().await,
        }
    }

    async fn save_after(&self, ahead: Option<SavedAhead>) -> io::Result<Saved> {
        match self {
            Self::Qemu(machine) => machine.save_after(ahead).await,
            Self::Sim(machine) => machine.save_after(ahead).await,
        }
    }

    async fn save_ahead(&self) -> io::Result<Option<SavedAhead>> {
        match self {
            Self::Qemu(machine) => machine.save_ahead().await,
            Self::Sim(machine) => machine.save_ahead().await,
        }
    }

    async fn wait(&self) -> MachineEnd {
        match self {
            Self::Qemu(machine) => machine.wait().await,
            Self::Sim(machine) => machine.wait().await,
        }
    }

    async fn kill(&self) -> io::Result<()> {
        match self {
            Self::Qemu(machine) => machine.kill().await,
            Self::Sim(machine) => machine.kill().await,
        }
    }
}
