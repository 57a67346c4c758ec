//! Starts the VM's machine.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use inn_domain::{ChannelChoice, ResourceLimits, RuntimeSelection, VmSpec};
use inn_fail_point::{Point, fail_point};
use inn_image::kernel::KernelError;
use inn_trace::Kind;
use inn_units::format_duration;
use inn_vmm::{
    Accel, Boot, Capabilities, CardLimits, ChannelKind, Console, Disk, DiskSource, Isolation,
    KernelBoot, Launch, Lifetime, Machine, MachineConfig, Nic, NicBackend, Runtime,
};
use inn_vmm_qemu::MachineType;
use tokio::time::{Instant, timeout_at};

use super::super::card::Card;
use super::super::failure::{Failure, StepError};
use super::super::task::{Booted, VmTask};
use super::HandedOver;
use super::opening::{Way, go_on};
use super::seed::{AGENT_SERIAL, SEED_SERIAL, SeedDisks};
use crate::boot::BootFiles;
use crate::config::AccelChoice;
use crate::error::Chain;
use crate::node::Node;
use crate::runtime::{AnyMachine, AnyRuntime};
use crate::templates::WaitingClone;
use crate::traces;

impl VmTask {
    pub(super) async fn launch(&mut self) -> Result<(), StepError> {
        self.launched_at = Instant::now();
        self.boot_deadline = self.launched_at + self.node.config.live().start_deadline;
        if let Some(image) = self.shared.spec.image()
            && !image.root_disk.exists()
        {
            let (image, root) = (&image.name, &image.root_disk);
            return Err(Failure::new(
                format!("the root disk {} of its image {image} is gone", root.display()),
                "import the image again, then start the VM",
            )
            .try_this(format!("inn image import PATH --name {image} && inn vm start {{vm}}"))
            .into());
        }
        self.read_memory().await?;
        self.complete_disk().await?;
        fail_point(Point::LaunchDiskComplete);
        if self.has_waiting_clone() {
            return self.wake().await;
        }
        let preparing = Instant::now();
        let limits = self.shared.view.borrow().limits;
        let launching = async {
            let runtime = self.runtime().await?;
            let Prepared { config, network, kernel, next_kernel } =
                self.machine_config(&runtime).await?;
            let architecture = runtime.capabilities().architecture;
            let foreign_architecture = (!architecture.has_our_agent()).then_some(architecture);
            let kvm = config.accel == Accel::Kvm;
            let booted = Booted { kvm, kernel, foreign_architecture };
            let card = Card::held_to(config.nic.as_ref().map(Nic::limits).unwrap_or_default());
            let origin = self.origin().await?;
            let from = std::fs::metadata(&config.console.log).map_or(0, |m| m.len());
            // From here on the machine runs: so long the guest boots.
            let start = Instant::now();
            let mut span = self.node.tracer.begin("vmm launch", Kind::Client, traces::current());
            let launched = timeout_at(self.boot_deadline, runtime.launch(&config)).await;
            match &launched {
                Ok(Ok(launch)) => {
                    span.set("inn.runtime", launch.machine.identity().runtime.to_string())
                }
                Ok(Err(error)) => span.fail(Chain(error).to_string()),
                Err(_) => span.fail("it was not launched in time"),
            }
            drop(span);
            let Launch { machine, mut steps } = launched.map_err(|_| self.no_launch())??;
            let way = match origin {
                None => Way::default(),
                Some(origin) => {
                    self.about_to_wake(&machine, booted.clone()).await?;
                    // It stands still until somebody lets it go on.
                    go_on(&machine, origin.between_frames, self.order_to_resume(!kvm)).await?
                }
            };
            let preparing = start.duration_since(preparing);
            let others = preparing.saturating_sub(network.unwrap_or_default());
            let network = network.map(|took| ("network", took));
            steps.splice(0..0, [("kernel", others)].into_iter().chain(network));
            Ok::<_, StepError>(((machine, card), way, steps, (booted, from), start, next_kernel))
        };
        let launched = tokio::select! {
            // A launch that is dropped takes back what it has made.
            launched = launching => launched,
            () = self.superseded() => Err(StepError::Superseded),
        };
        let ((machine, card), way, steps, made, start, next_kernel) = match launched {
            Ok(launched) => launched,
            Err(error) => {
                self.node.networks.detach(self.shared.id);
                self.leave_groups().await;
                self.look_for_memory();
                return Err(error);
            }
        };
        self.next_kernel = next_kernel;
        self.runs(Arc::new(machine), made, (steps, start)).await;
        self.card = card;
        self.way = way;
        self.catch_up_with_limits(limits).await;
        Ok(())
    }

    /// Lets the clone that has waited for this VM go on as its machine.
    async fn wake(&mut self) -> Result<(), StepError> {
        let preparing = Instant::now();
        let joined = tokio::select! {
            joined = self.join() => joined,
            () = self.superseded() => Err(StepError::Superseded),
        };
        let woken = joined.and_then(|took| {
            let clone = self.take_clone().and_then(WaitingClone::hand_over);
            let next = "start the VM again";
            Ok((took, clone.ok_or_else(|| Failure::new("its clone is gone", next))?))
        });
        let (network, HandedOver { machine, booted, confinement, between_frames }) = match woken {
            Ok(woken) => woken,
            Err(error) => {
                self.node.networks.detach(self.shared.id);
                return Err(error);
            }
        };
        self.publish_confinement(confinement);
        let from = std::fs::metadata(self.shared.paths.console_log()).map_or(0, |m| m.len());
        let steps = network.map(|took| ("network", took)).into_iter().collect();
        let start = Instant::now();
        self.next_kernel = None;
        self.runs(Arc::clone(&machine), (booted, from), (steps, start)).await;
        fail_point(Point::CloneTaken);
        // As a draft's: with none.
        self.card = Card::held_to(CardLimits::default());
        self.hold_card().await;
        tracing::debug!(vm = %self.shared.spec.name, prepared = ?preparing.elapsed(), "goes on");
        let emulated = self.shared.view.borrow().is_emulated();
        self.way = go_on(&machine, between_frames, self.order_to_resume(emulated)).await?;
        fail_point(Point::CloneGoesOn);
        // It was made with none.
        self.catch_up_with_limits(ResourceLimits::default()).await;
        Ok(())
    }

    /// It has a machine, since `start`, whose console is in the log from there.
    async fn runs(
        &mut self,
        machine: Arc<AnyMachine>,
        (booted, console_from): (Booted, u64),
        (steps, start): (Vec<(&'static str, Duration)>, Instant),
    ) {
        self.launched_at = start;
        self.lost = None;
        self.phase_consists_of(steps);
        self.boots_a_machine(!booted.kvm, console_from);
        let record = Arc::new(Self::machine_record(&machine, booted));
        self.machine = Some(Arc::clone(&machine));
        self.shared.live.send_modify(|live| live.machine = Some(machine));
        self.node.networks.has_new_machine(self.shared.id).await;
        let now = jiff::Timestamp::now();
        let wakes = self.observed.asleep.is_some();
        self.shared.modify(|view| {
            view.machine = Some(record);
            view.cloud_init = None;
            view.receipt = None;
            view.started_at = Some(now);
            view.boot = None;
            // One that wakes has the workload that it had.
            if !wakes {
                view.workload = None;
            }
        });
    }

    /// The one that takes it; where none does, the preferred one says why.
    pub(in super::super) async fn runtime(&self) -> Result<AnyRuntime, StepError> {
        let spec = &self.shared.spec;
        let RuntimeSelection { chosen, verdicts } = self.node.select_runtime(spec).await;
        if let Some(chosen) = chosen {
            return Ok(self.node.runtimes.choose(chosen).await?);
        }
        // What is not installed is said with what installs it.
        self.node.runtimes.choose(spec.runtime).await?;
        let why: Vec<String> = verdicts.iter().map(ToString::to_string).collect();
        Err(Failure::new(
            format!("no runtime of this node takes it: {}", why.join("; ")),
            "make one of that right, then start the VM again",
        )
        .into())
    }

    fn no_launch(&self) -> StepError {
        let limit = format_duration(self.node.config.live().start_deadline);
        Failure::new(
            format!("its machine was not there within {limit}"),
            "look at what the VMM says and at the host's load, then start the VM again",
        )
        .try_this("inn vm logs {vm} --source vmm")
        .into()
    }

    async fn machine_config(&self, runtime: &AnyRuntime) -> Result<Prepared, StepError> {
        let mut config = self.machine_shape(runtime).await?;
        let attaching = Instant::now();
        config.nic = self.attach(self.card_limits(runtime.capabilities())).await?;
        let has_tap =
            config.nic.as_ref().is_some_and(|nic| matches!(nic.backend, NicBackend::Tap(_)));
        let network = has_tap.then(|| attaching.elapsed());
        let mut kernel = self.node.kernels.digest_of(&config.boot);
        let mut next_kernel = None;
        config.isolation = self.confine(runtime, config.accel).await;
        if let Some(held) = self.origin().await? {
            if let Some(boot) = &held.boot {
                config.boot = Boot::Kernel(boot.clone());
            }
            config.generation_id = held.made_by.has_generation_id();
            // Others' is the network that it would begin with, and its memory's
            // sharing ends: a clone boots in a machine of its own.
            config.reboots_within = self.own_memory().is_some();
            let mut here = runtime.fingerprint(&config).await;
            here.kernel.clone_from(&held.made_by.kernel);
            let misfits = held.made_by.misfits(&here);
            if !misfits.is_empty() {
                let misfits: Vec<String> = misfits.iter().map(ToString::to_string).collect();
                return Err(Failure::new(
                    format!("what it begins from does not fit here: {}", misfits.join("; ")),
                    "use it where it was made, or make it anew here",
                )
                .into());
            }
            if here.kernel.is_some() && here.kernel != kernel {
                next_kernel = kernel;
            }
            kernel = here.kernel;
            config.from = Some(held.saved.clone());
        }
        Ok(Prepared { config, network, kernel, next_kernel })
    }

    /// All of it but what the host gives it.
    pub(in super::super) async fn machine_shape(
        &self,
        runtime: &AnyRuntime,
    ) -> Result<MachineConfig, StepError> {
        let spec = &self.shared.spec;
        let (boot, accel) = boot_of(&self.node, spec, runtime).await?;
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
        disks.push(disk(paths.disk(), false, self.shared.disk_serial()));
        if spec.persist {
            disks.push(disk(self.persist_disk(), false, "inn-persist"));
        }
        let has_agent = runtime.capabilities().architecture.has_our_agent();
        if let Some(SeedDisks { seed, agent }) = self.seed_disks(has_agent).await? {
            disks.push(disk(seed, true, SEED_SERIAL));
            disks.extend(agent.map(|agent| disk(agent, true, AGENT_SERIAL)));
        }
        Ok(MachineConfig {
            id: self.shared.id,
            vcpus: spec.vcpus,
            memory: spec.memory,
            accel,
            boot,
            from: None,
            disks,
            nic: None,
            // Firmware and boot loaders show themselves on one.
            screen: spec.is_full() && runtime.capabilities().screens,
            generation_id: spec.is_full() && runtime.capabilities().generation_ids,
            reboots_within: true,
            console: Console {
                log: paths.console_log(),
                log_limit: self.node.config.live().log_limit,
            },
            channel: channel(spec.channel, runtime.capabilities()),
            run_dir: paths.run_dir.clone(),
            lifetime: if spec.lease { Lifetime::Leased } else { Lifetime::Detached },
            isolation: Isolation::default(),
        })
    }
}

struct Prepared {
    config: MachineConfig,
    /// How long its card took, where that is a tap, with the host's links and
    /// rules.
    network: Option<Duration>,
    /// Which it has in its memory then.
    kernel: Option<String>,
    /// Which it boots after, where it goes on with another one.
    next_kernel: Option<String>,
}

/// What such a VM's machine boots, and how it runs.
async fn boot_of(
    node: &Node,
    spec: &VmSpec,
    runtime: &AnyRuntime,
) -> Result<(Boot, Accel), KernelError> {
    let kernels = &node.kernels;
    let qemu = match runtime {
        AnyRuntime::Qemu(qemu) => qemu,
        AnyRuntime::Libvirt(_) => return boot_of_libvirt(node, spec).await,
        AnyRuntime::Firecracker(_) | AnyRuntime::Krun(_) => {
            // Their machines have virtio-mmio and no PCI, as a microvm.
            let files = kernels.boot_files(spec.kernel.as_ref(), MachineType::Microvm).await?;
            return Ok((Boot::Kernel(kernel_boot(spec, files)), Accel::Kvm));
        }
        // A simulated machine reads no file.
        AnyRuntime::Sim(_) => return Ok((Boot::Firmware, Accel::Tcg)),
    };
    let files = kernels.boot_files(spec.kernel.as_ref(), qemu.machine_type()).await;
    if spec.is_full() {
        // The node's kernel only serves the probe of KVM.
        let accel = match (node.config.accel, files) {
            (AccelChoice::Kvm, _) => Accel::Kvm,
            (AccelChoice::Tcg, _) => Accel::Tcg,
            (AccelChoice::Auto, Ok(files)) => node.kvm.accel(qemu, &files).await,
            (AccelChoice::Auto, Err(error)) => {
                tracing::warn!(
                    vm = %spec.name, error = %Chain(&error),
                    "no kernel to probe KVM with: it runs without"
                );
                Accel::Tcg
            }
        };
        return Ok((Boot::Firmware, accel));
    }
    let files = files?;
    let accel = node.kvm.accel(qemu, &files).await;
    Ok((Boot::Kernel(kernel_boot(spec, files)), accel))
}

/// The machine that libvirt's QEMU is has PCI; whether KVM works on this host
/// is found by a QEMU of its own.
async fn boot_of_libvirt(node: &Node, spec: &VmSpec) -> Result<(Boot, Accel), KernelError> {
    if !node.runtimes.libvirt_settings().architecture.has_our_agent() {
        return Ok((Boot::Firmware, Accel::Tcg));
    }
    let files = node.kernels.boot_files(spec.kernel.as_ref(), MachineType::Q35).await;
    let accel = match (node.config.accel, &files, node.runtimes.qemu().await) {
        (AccelChoice::Kvm, _, _) => Accel::Kvm,
        (AccelChoice::Auto, Ok(_), Ok(qemu)) => {
            let q35 = qemu.clone().with_q35();
            match &files {
                Ok(files) => node.kvm.accel(&q35, files).await,
                Err(_) => Accel::Tcg,
            }
        }
        (AccelChoice::Auto | AccelChoice::Tcg, _, _) => Accel::Tcg,
    };
    let boot = match spec.is_full() {
        true => Boot::Firmware,
        false => Boot::Kernel(kernel_boot(spec, files?)),
    };
    Ok((boot, accel))
}

fn kernel_boot(spec: &VmSpec, files: BootFiles) -> KernelBoot {
    KernelBoot {
        kernel: files.kernel.vmlinux,
        initramfs: Some(files.initramfs),
        cmdline: spec.kernel.as_ref().and_then(|k| k.args.clone()).unwrap_or_default(),
    }
}

/// What was asked for, or what the runtime does best.
pub(crate) fn channel(choice: ChannelChoice, can: &Capabilities) -> ChannelKind {
    match choice {
        ChannelChoice::Serial => ChannelKind::Serial,
        ChannelChoice::Vsock => ChannelKind::Vsock,
        // The best one first.
        ChannelChoice::Auto => can.channels.first().copied().unwrap_or(ChannelKind::Serial),
    }
}
