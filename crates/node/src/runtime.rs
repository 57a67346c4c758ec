//! The one place that names runtimes: which there are, which of them a VM gets,
//! and one type for all.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use inn_domain::{
    RuntimeCandidate, RuntimeChoice, RuntimeOffer, RuntimeSelection, VmSpec, select_runtime,
};
use inn_facts::doctor::RuntimeSight;
use inn_units::{Bytes, ForeignNetwork, VmId};
use inn_vmm::{
    AdoptError, Capabilities, CardLimits, ChannelKind, Fingerprint, Forward, Forwarded, Launch,
    LaunchError, Machine, MachineConfig, MachineEnd, MachineIdentity, Runtime, Saved, SavedAhead,
    Stray,
};
use inn_vmm_firecracker::{FirecrackerMachine, FirecrackerRuntime};
use inn_vmm_krun::{KrunMachine, KrunRuntime};
use inn_vmm_libvirt::{KnownBy, LibvirtMachine, LibvirtRuntime, Settings as LibvirtSettings};
use inn_vmm_qemu::{QemuMachine, QemuRuntime};
use inn_vmm_sim::{SimMachine, SimRuntime};
use tokio::net::UnixStream;
use tokio::sync::OnceCell;

use crate::config::Fixed;
use crate::error::Chain;

/// The runtimes of this node, each found when it is first needed.
#[derive(Debug)]
pub(crate) struct Runtimes {
    qemu: OnceCell<QemuRuntime>,
    firecracker: OnceCell<FirecrackerRuntime>,
    firecracker_path: Option<PathBuf>,
    krun: OnceCell<KrunRuntime>,
    libvirt: OnceCell<LibvirtRuntime>,
    libvirt_settings: LibvirtSettings,
    sim: SimRuntime,
    /// Of those that a VM may have that asks for none.
    order: Vec<RuntimeChoice>,
}

impl Runtimes {
    /// As the configuration has it.
    pub(crate) fn new(sim: SimRuntime, fixed: &Fixed) -> Self {
        Self {
            qemu: OnceCell::new(),
            firecracker: OnceCell::new(),
            firecracker_path: fixed.firecracker.clone(),
            krun: OnceCell::new(),
            libvirt: OnceCell::new(),
            libvirt_settings: fixed.libvirt.clone(),
            sim,
            order: fixed.runtimes_order.clone(),
        }
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

    /// As with QEMU; whether there is a KVM to use it with is another question.
    async fn firecracker(&self) -> Result<&FirecrackerRuntime, LaunchError> {
        let discover = || async {
            let found = FirecrackerRuntime::discover(self.firecracker_path.clone()).await?;
            if let Err(why) = found.can_jail() {
                tracing::warn!(%why, "Firecracker's machines are not jailed");
            }
            Ok(found)
        };
        self.firecracker.get_or_try_init(discover).await
    }

    /// libkrun's helper; whether there is a KVM to use it with is another
    /// question.
    async fn krun(&self) -> Result<&KrunRuntime, LaunchError> {
        self.krun.get_or_try_init(|| async { KrunRuntime::discover() }).await
    }

    /// libvirt's library; whether a libvirtd answers is another question.
    async fn libvirt(&self) -> Result<&LibvirtRuntime, LaunchError> {
        let settings = || self.libvirt_settings.clone();
        self.libvirt.get_or_try_init(|| async { LibvirtRuntime::discover(settings()) }).await
    }

    /// What the libvirt in use has that no Innkeeper has defined. One that is not
    /// in use, or away, has nothing to tell.
    pub(crate) async fn foreign_domains(&self) -> Vec<String> {
        let Some(libvirt) = self.libvirt.get() else { return Vec::new() };
        libvirt.foreign_domains().await.unwrap_or_else(|error| {
            tracing::debug!(error = %Chain(&error), "libvirt's domains are not known");
            Vec::new()
        })
    }

    pub(crate) fn libvirt_settings(&self) -> &LibvirtSettings {
        &self.libvirt_settings
    }

    /// By its name, or the first of the order that is here.
    pub(crate) async fn choose(&self, choice: RuntimeChoice) -> Result<AnyRuntime, LaunchError> {
        if choice != RuntimeChoice::Auto {
            return self.of(choice).await;
        }
        let mut error = None;
        for choice in &self.order {
            match self.of(*choice).await {
                Ok(runtime) => return Ok(runtime),
                Err(why) => error = error.or(Some(why)),
            }
        }
        Err(error.unwrap_or_else(|| LaunchError::MissingProgram {
            program: "a runtime".to_owned(),
            hint: "name one in runtimes.order".to_owned(),
        }))
    }

    /// Which of them is to have such a VM. `user_network` is whether its card
    /// would be on the VMM's own network.
    pub(crate) async fn select(&self, spec: &VmSpec, user_network: bool) -> RuntimeSelection {
        let asked = match spec.runtime {
            RuntimeChoice::Auto => self.order.as_slice(),
            ref asked => std::slice::from_ref(asked),
        };
        let mut candidates = Vec::new();
        for choice in asked {
            let found = match self.of(*choice).await {
                Ok(runtime) => runtime.probe().await.map(|()| offer(runtime.capabilities())),
                Err(error) => Err(Chain(&error).to_string()),
            };
            candidates.push(RuntimeCandidate {
                choice: *choice,
                name: name(*choice),
                offer: found,
            });
        }
        select_runtime(spec, user_network, &candidates)
    }

    /// Each runtime but the simulated one, those of the order first: what it is,
    /// or why it is not to be had.
    pub(crate) async fn standings(&self) -> Vec<RuntimeSight> {
        use RuntimeChoice::{Firecracker, Krun, Libvirt, Qemu};
        let all = [Qemu, Firecracker, Krun, Libvirt];
        let others = all.into_iter().filter(|choice| !self.order.contains(choice));
        let ordered = self.order.iter().copied().filter(|choice| all.contains(choice));
        let mut standings = Vec::new();
        for choice in ordered.chain(others) {
            let standing = match self.of(choice).await {
                Ok(runtime) => runtime.probe().await.map(|()| match &runtime {
                    AnyRuntime::Qemu(qemu) => {
                        format!("{} {}", qemu.binary().display(), qemu.version())
                    }
                    _ => "it is here".to_owned(),
                }),
                Err(error) => Err(Chain(&error).to_string()),
            };
            let (name, is_chosen) = (name(choice).to_owned(), self.order.contains(&choice));
            standings.push(RuntimeSight { name, is_chosen, standing });
        }
        standings
    }

    /// Ends what is left of a VM whose machine nobody has recorded, whichever
    /// runtime's it is. One that is not here has none.
    pub(crate) async fn reap_any(&self, id: VmId, run_dir: &Path) -> io::Result<()> {
        use RuntimeChoice::{Firecracker, Krun, Libvirt, Qemu};
        for choice in [Qemu, Firecracker, Krun, Libvirt] {
            if let Ok(runtime) = self.of(choice).await {
                runtime.reap(id, None, run_dir).await?;
            }
        }
        Ok(())
    }

    /// By the name in a stored machine's identity.
    pub(crate) async fn named(&self, wanted: &str) -> Result<Option<AnyRuntime>, LaunchError> {
        use RuntimeChoice::{Firecracker, Krun, Libvirt, Qemu, Sim};
        let known = [Qemu, Firecracker, Krun, Libvirt, Sim];
        match known.into_iter().find(|choice| name(*choice) == wanted) {
            Some(choice) => self.of(choice).await.map(Some),
            None => Ok(None),
        }
    }

    async fn of(&self, choice: RuntimeChoice) -> Result<AnyRuntime, LaunchError> {
        Ok(match choice {
            RuntimeChoice::Auto | RuntimeChoice::Qemu => {
                AnyRuntime::Qemu(self.qemu().await?.clone())
            }
            RuntimeChoice::Firecracker => {
                AnyRuntime::Firecracker(self.firecracker().await?.clone())
            }
            RuntimeChoice::Krun => AnyRuntime::Krun(self.krun().await?.clone()),
            RuntimeChoice::Libvirt => AnyRuntime::Libvirt(self.libvirt().await?.clone()),
            RuntimeChoice::Sim => AnyRuntime::Sim(self.sim.clone()),
        })
    }
}

/// Processes of machines below `dirs` that no run directory need lead to, whether
/// their runtime is here or not: a simulated machine is a file. Blocks.
pub(crate) fn strays(dirs: &[PathBuf]) -> io::Result<Vec<Stray>> {
    let mut all = inn_vmm_qemu::strays(dirs)?;
    all.extend(inn_vmm_firecracker::strays(dirs)?);
    all.extend(inn_vmm_krun::strays(dirs)?);
    Ok(all)
}

pub(crate) async fn end_stray(stray: &Stray, run_dir: &Path) -> io::Result<()> {
    match stray.identity.runtime.as_str() {
        "firecracker" => inn_vmm_firecracker::end_stray(stray, run_dir).await,
        "krun" => inn_vmm_krun::end_stray(stray, run_dir).await,
        _ => inn_vmm_qemu::end_stray(stray, run_dir).await,
    }
}

/// The runtime whose machines are no processes.
pub(crate) const SIMULATED: &str = name(RuntimeChoice::Sim);

/// As machines and people know it.
const fn name(choice: RuntimeChoice) -> &'static str {
    match choice {
        RuntimeChoice::Auto => "auto",
        RuntimeChoice::Qemu => "qemu",
        RuntimeChoice::Firecracker => "firecracker",
        RuntimeChoice::Krun => "krun",
        RuntimeChoice::Libvirt => "libvirt",
        RuntimeChoice::Sim => "sim",
    }
}

fn offer(can: &Capabilities) -> RuntimeOffer {
    RuntimeOffer {
        name: can.name,
        architecture: can.architecture,
        firmware: can.firmware,
        serial: can.channels.contains(&ChannelKind::Serial),
        vsock: can.channels.contains(&ChannelKind::Vsock),
        user_network: can.user_network,
        foreign_networks: can.foreign_networks,
    }
}

#[derive(Debug, Clone)]
pub(crate) enum AnyRuntime {
    Qemu(QemuRuntime),
    Firecracker(FirecrackerRuntime),
    Krun(KrunRuntime),
    Libvirt(LibvirtRuntime),
    Sim(SimRuntime),
}

#[derive(Debug)]
pub(crate) enum AnyMachine {
    Qemu(QemuMachine),
    Firecracker(FirecrackerMachine),
    Krun(KrunMachine),
    Libvirt(LibvirtMachine),
    Sim(SimMachine),
}

impl AnyRuntime {
    /// Whether its machines can have a root directory without the host's files,
    /// or a clause that says why not. Blocks, for a millisecond.
    pub(crate) fn can_jail(&self) -> Result<(), String> {
        match self {
            Self::Qemu(runtime) => runtime.can_jail(),
            Self::Firecracker(runtime) => runtime.can_jail(),
            Self::Krun(runtime) => runtime.can_jail(),
            Self::Libvirt(_) => Err("libvirt starts its own QEMU".to_owned()),
            Self::Sim(_) => Err("a simulated machine has no process".to_owned()),
        }
    }

    /// Whether its machines can be somebody else than the agent, or a clause that
    /// says why not.
    pub(crate) fn can_be_nobody(&self) -> Result<(), String> {
        match self {
            // It opens its files as whoever it is: only its jailer gets it there.
            Self::Firecracker(runtime) => runtime.can_jail(),
            Self::Libvirt(_) => Err("libvirt starts its QEMU as the agent's user".to_owned()),
            Self::Qemu(_) | Self::Krun(_) | Self::Sim(_) => Ok(()),
        }
    }

    /// Whether this host has what it needs beside its program, or a clause that
    /// says what it lacks. Cheap: whether a guest boots is found by booting it.
    async fn probe(&self) -> Result<(), String> {
        match self {
            Self::Qemu(_) | Self::Sim(_) => Ok(()),
            Self::Libvirt(libvirt) => libvirt.probe().await,
            Self::Firecracker(_) | Self::Krun(_) => {
                let opened = OpenOptions::new().read(true).write(true).open("/dev/kvm");
                opened.map(drop).map_err(|error| format!("/dev/kvm cannot be opened: {error}"))
            }
        }
    }
}

impl AnyMachine {
    /// Whether each stream to its guest's channel is a connection of its own, all
    /// the way. QEMU's vsock is not told from its serial channel here.
    pub(crate) fn has_connections(&self) -> bool {
        match self {
            Self::Firecracker(_) | Self::Krun(_) => true,
            Self::Qemu(_) | Self::Libvirt(_) | Self::Sim(_) => false,
        }
    }

    /// What its runtime knows of its card's addresses on a network that is not
    /// the node's.
    pub(crate) async fn addresses(
        &self,
        network: &ForeignNetwork,
        card: [u8; 6],
    ) -> io::Result<Option<(KnownBy, Vec<IpAddr>)>> {
        match self {
            Self::Libvirt(machine) => machine.addresses(network, card).await,
            Self::Qemu(_) | Self::Firecracker(_) | Self::Krun(_) | Self::Sim(_) => Ok(None),
        }
    }
}

impl Runtime for AnyRuntime {
    type Machine = AnyMachine;

    fn capabilities(&self) -> &Capabilities {
        match self {
            Self::Qemu(runtime) => runtime.capabilities(),
            Self::Firecracker(runtime) => runtime.capabilities(),
            Self::Krun(runtime) => runtime.capabilities(),
            Self::Libvirt(runtime) => runtime.capabilities(),
            Self::Sim(runtime) => runtime.capabilities(),
        }
    }

    async fn fingerprint(&self, config: &MachineConfig) -> Fingerprint {
        match self {
            Self::Qemu(runtime) => runtime.fingerprint(config).await,
            Self::Firecracker(runtime) => runtime.fingerprint(config).await,
            Self::Krun(runtime) => runtime.fingerprint(config).await,
            Self::Libvirt(runtime) => runtime.fingerprint(config).await,
            Self::Sim(runtime) => runtime.fingerprint(config).await,
        }
    }

    async fn launch(&self, config: &MachineConfig) -> Result<Launch<AnyMachine>, LaunchError> {
        Ok(match self {
            Self::Qemu(runtime) => {
                let Launch { machine, steps } = runtime.launch(config).await?;
                Launch { machine: AnyMachine::Qemu(machine), steps }
            }
            Self::Firecracker(runtime) => {
                let Launch { machine, steps } = runtime.launch(config).await?;
                Launch { machine: AnyMachine::Firecracker(machine), steps }
            }
            Self::Krun(runtime) => {
                let Launch { machine, steps } = runtime.launch(config).await?;
                Launch { machine: AnyMachine::Krun(machine), steps }
            }
            Self::Libvirt(runtime) => {
                let Launch { machine, steps } = runtime.launch(config).await?;
                Launch { machine: AnyMachine::Libvirt(machine), steps }
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
            Self::Firecracker(runtime) => {
                AnyMachine::Firecracker(runtime.adopt(id, identity, run_dir).await?)
            }
            Self::Krun(runtime) => AnyMachine::Krun(runtime.adopt(id, identity, run_dir).await?),
            Self::Libvirt(runtime) => {
                AnyMachine::Libvirt(runtime.adopt(id, identity, run_dir).await?)
            }
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
            Self::Firecracker(runtime) => runtime.reap(id, identity, run_dir).await,
            Self::Krun(runtime) => runtime.reap(id, identity, run_dir).await,
            Self::Libvirt(runtime) => runtime.reap(id, identity, run_dir).await,
            Self::Sim(runtime) => runtime.reap(id, identity, run_dir).await,
        }
    }
}

impl Machine for AnyMachine {
    fn has_generation_id(&self) -> io::Result<bool> {
        match self {
            Self::Qemu(machine) => machine.has_generation_id(),
            Self::Firecracker(machine) => machine.has_generation_id(),
            Self::Krun(machine) => machine.has_generation_id(),
            Self::Libvirt(machine) => machine.has_generation_id(),
            Self::Sim(machine) => machine.has_generation_id(),
        }
    }

    fn identity(&self) -> &MachineIdentity {
        match self {
            Self::Qemu(machine) => machine.identity(),
            Self::Firecracker(machine) => machine.identity(),
            Self::Krun(machine) => machine.identity(),
            Self::Libvirt(machine) => machine.identity(),
            Self::Sim(machine) => machine.identity(),
        }
    }

    async fn connect_channel(&self) -> io::Result<UnixStream> {
        match self {
            Self::Qemu(machine) => machine.connect_channel().await,
            Self::Firecracker(machine) => machine.connect_channel().await,
            Self::Krun(machine) => machine.connect_channel().await,
            Self::Libvirt(machine) => machine.connect_channel().await,
            Self::Sim(machine) => machine.connect_channel().await,
        }
    }

    async fn connect_console(&self) -> io::Result<UnixStream> {
        match self {
            Self::Qemu(machine) => machine.connect_console().await,
            Self::Firecracker(machine) => machine.connect_console().await,
            Self::Krun(machine) => machine.connect_console().await,
            Self::Libvirt(machine) => machine.connect_console().await,
            Self::Sim(machine) => machine.connect_console().await,
        }
    }

    async fn set_vnc_password(&self, password: &str) -> io::Result<()> {
        match self {
            Self::Qemu(machine) => machine.set_vnc_password(password).await,
            Self::Firecracker(machine) => machine.set_vnc_password(password).await,
            Self::Krun(machine) => machine.set_vnc_password(password).await,
            Self::Libvirt(machine) => machine.set_vnc_password(password).await,
            Self::Sim(machine) => machine.set_vnc_password(password).await,
        }
    }

    async fn connect_vnc(&self) -> io::Result<UnixStream> {
        match self {
            Self::Qemu(machine) => machine.connect_vnc().await,
            Self::Firecracker(machine) => machine.connect_vnc().await,
            Self::Krun(machine) => machine.connect_vnc().await,
            Self::Libvirt(machine) => machine.connect_vnc().await,
            Self::Sim(machine) => machine.connect_vnc().await,
        }
    }

    async fn resize_disk(&self, serial: &str, size: Bytes) -> io::Result<()> {
        match self {
            Self::Qemu(machine) => machine.resize_disk(serial, size).await,
            Self::Firecracker(machine) => machine.resize_disk(serial, size).await,
            Self::Krun(machine) => machine.resize_disk(serial, size).await,
            Self::Libvirt(machine) => machine.resize_disk(serial, size).await,
            Self::Sim(machine) => machine.resize_disk(serial, size).await,
        }
    }

    async fn press_power_button(&self) -> io::Result<()> {
        match self {
            Self::Qemu(machine) => machine.press_power_button().await,
            Self::Firecracker(machine) => machine.press_power_button().await,
            Self::Krun(machine) => machine.press_power_button().await,
            Self::Libvirt(machine) => machine.press_power_button().await,
            Self::Sim(machine) => machine.press_power_button().await,
        }
    }

    async fn set_forwards(&self, forwards: &BTreeSet<Forward>) -> io::Result<Forwarded> {
        match self {
            Self::Qemu(machine) => machine.set_forwards(forwards).await,
            Self::Firecracker(machine) => machine.set_forwards(forwards).await,
            Self::Krun(machine) => machine.set_forwards(forwards).await,
            Self::Libvirt(machine) => machine.set_forwards(forwards).await,
            Self::Sim(machine) => machine.set_forwards(forwards).await,
        }
    }

    async fn is_knocked_at(&self) -> io::Result<bool> {
        match self {
            Self::Qemu(machine) => machine.is_knocked_at().await,
            Self::Firecracker(machine) => machine.is_knocked_at().await,
            Self::Krun(machine) => machine.is_knocked_at().await,
            Self::Libvirt(machine) => machine.is_knocked_at().await,
            Self::Sim(machine) => machine.is_knocked_at().await,
        }
    }

    async fn limit_card(&self, limits: &CardLimits) -> io::Result<()> {
        match self {
            Self::Qemu(machine) => machine.limit_card(limits).await,
            Self::Firecracker(machine) => machine.limit_card(limits).await,
            Self::Krun(machine) => machine.limit_card(limits).await,
            Self::Libvirt(machine) => machine.limit_card(limits).await,
            Self::Sim(machine) => machine.limit_card(limits).await,
        }
    }

    async fn pause(&self) -> io::Result<()> {
        match self {
            Self::Qemu(machine) => machine.pause().await,
            Self::Firecracker(machine) => machine.pause().await,
            Self::Krun(machine) => machine.pause().await,
            Self::Libvirt(machine) => machine.pause().await,
            Self::Sim(machine) => machine.pause().await,
        }
    }

    async fn resume(&self) -> io::Result<()> {
        match self {
            Self::Qemu(machine) => machine.resume().await,
            Self::Firecracker(machine) => machine.resume().await,
            Self::Krun(machine) => machine.resume().await,
            Self::Libvirt(machine) => machine.resume().await,
            Self::Sim(machine) => machine.resume().await,
        }
    }

    async fn save_after(&self, ahead: Option<SavedAhead>) -> io::Result<Saved> {
        match self {
            Self::Qemu(machine) => machine.save_after(ahead).await,
            Self::Firecracker(machine) => machine.save_after(ahead).await,
            Self::Krun(machine) => machine.save_after(ahead).await,
            Self::Libvirt(machine) => machine.save_after(ahead).await,
            Self::Sim(machine) => machine.save_after(ahead).await,
        }
    }

    async fn save_ahead(&self) -> io::Result<Option<SavedAhead>> {
        match self {
            Self::Qemu(machine) => machine.save_ahead().await,
            Self::Firecracker(machine) => machine.save_ahead().await,
            Self::Krun(machine) => machine.save_ahead().await,
            Self::Libvirt(machine) => machine.save_ahead().await,
            Self::Sim(machine) => machine.save_ahead().await,
        }
    }

    async fn wait(&self) -> MachineEnd {
        match self {
            Self::Qemu(machine) => machine.wait().await,
            Self::Firecracker(machine) => machine.wait().await,
            Self::Krun(machine) => machine.wait().await,
            Self::Libvirt(machine) => machine.wait().await,
            Self::Sim(machine) => machine.wait().await,
        }
    }

    async fn kill(&self) -> io::Result<()> {
        match self {
            Self::Qemu(machine) => machine.kill().await,
            Self::Firecracker(machine) => machine.kill().await,
            Self::Krun(machine) => machine.kill().await,
            Self::Libvirt(machine) => machine.kill().await,
            Self::Sim(machine) => machine.kill().await,
        }
    }
}
