//! What a machine boots with: kernel, initramfs, and whether under KVM.

use std::path::PathBuf;
use std::sync::Arc;

use inn_domain::KernelChoice;
use inn_host::process::host_boot_id;
use inn_image::cache::Inventory;
use inn_image::initramfs::ModuleSet;
use inn_image::kernel::{Kernel, KernelError, KernelStore};
use inn_store::{ProbeKey, ProbeRecord, Store};
use inn_units::{Digest, format_duration};
use inn_vmm::Accel;
use inn_vmm_qemu::{MachineType, QemuRuntime};
use tokio::sync::Mutex;

use crate::config::{AccelChoice, Fixed};

/// A kernel and the initramfs that goes with it, on the disk.
#[derive(Debug, Clone)]
pub(crate) struct BootFiles {
    pub(crate) kernel: Kernel,
    pub(crate) initramfs: PathBuf,
}

#[derive(Debug, Clone)]
pub(crate) struct Kernels {
    store: Arc<KernelStore>,
    guest: &'static [u8],
    /// The configuration's.
    explicit: Option<PathBuf>,
    data_kernels: PathBuf,
}

impl Kernels {
    /// Blocks.
    pub(crate) fn open(config: &Fixed, guest: &'static [u8]) -> Result<Self, KernelError> {
        Ok(Self {
            store: Arc::new(KernelStore::open(&config.paths.kernel_cache())?),
            guest,
            explicit: config.kernel_path.clone(),
            data_kernels: config.paths.kernels(),
        })
    }

    /// What is cached. Blocks.
    pub(crate) fn cached(&self) -> Result<Inventory, KernelError> {
        self.store.inventory()
    }

    /// Milliseconds when it was made before: the files are only looked at.
    pub(crate) async fn boot_files(
        &self,
        own: Option<&KernelChoice>,
        machine: MachineType,
    ) -> Result<BootFiles, KernelError> {
        let this = self.clone();
        let explicit = own.and_then(|own| own.path.clone()).or_else(|| this.explicit.clone());
        let set = match machine {
            MachineType::Microvm => ModuleSet::Mmio,
            MachineType::Q35 => ModuleSet::Pci,
        };
        let made = tokio::task::spawn_blocking(move || {
            let kernel = this.store.resolve(explicit.as_deref(), &this.data_kernels)?;
            let initramfs = this.store.initramfs(&kernel, this.guest, set)?;
            Ok(BootFiles { kernel, initramfs })
        });
        made.await.map_err(std::io::Error::other)?
    }
}

/// Whether KVM is of use, found out once per kernel, VMM and host boot.
#[derive(Debug)]
pub(crate) struct KvmVerdicts {
    store: Store,
    choice: AccelChoice,
    deadline: std::time::Duration,
    work_dir: PathBuf,
    /// The verdicts of this life. Held during a probe, so that there is one.
    known: Mutex<Vec<(ProbeKey, ProbeRecord)>>,
}

impl KvmVerdicts {
    pub(crate) fn new(store: Store, config: &Fixed) -> Self {
        Self {
            store,
            choice: config.accel,
            deadline: config.kvm_probe_deadline,
            work_dir: config.paths.runtime_dir.clone(),
            known: Mutex::default(),
        }
    }

    /// What to run a VM under. Waits for the probe where none was made yet.
    pub(crate) async fn accel(&self, qemu: &QemuRuntime, boot: &BootFiles) -> Accel {
        match self.choice {
            AccelChoice::Kvm => Accel::Kvm,
            AccelChoice::Tcg => Accel::Tcg,
            AccelChoice::Auto if self.verdict(qemu, boot).await.usable => Accel::Kvm,
            AccelChoice::Auto => Accel::Tcg,
        }
    }

    async fn verdict(&self, qemu: &QemuRuntime, boot: &BootFiles) -> ProbeRecord {
        let key = key(qemu, boot.kernel.digest);
        let mut known = self.known.lock().await;
        if let Some((_, record)) = known.iter().find(|(k, _)| *k == key) {
            return record.clone();
        }
        let stored = self.store.probe(key.clone()).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "the stored KVM verdict cannot be read");
            None
        });
        let record = match stored {
            Some(record) => record,
            None => self.probe(qemu, boot, &key).await,
        };
        known.push((key, record.clone()));
        record
    }

    async fn probe(&self, qemu: &QemuRuntime, boot: &BootFiles, key: &ProbeKey) -> ProbeRecord {
        let kernel = &boot.kernel.vmlinux;
        let verdict = qemu.probe_kvm(kernel, &boot.initramfs, &self.work_dir, self.deadline).await;
        let record =
            ProbeRecord { usable: verdict.usable, reason: verdict.reason, took: verdict.took };
        tracing::info!(
            usable = record.usable,
            reason = record.reason,
            took = format_duration(record.took),
            "probed KVM"
        );
        if let Err(error) = self.store.set_probe(key.clone(), record.clone()).await {
            tracing::warn!(%error, "the KVM verdict is not kept");
        }
        record
    }
}

fn key(qemu: &QemuRuntime, kernel: Digest) -> ProbeKey {
    ProbeKey {
        kernel,
        vmm: format!("{} {}", qemu.binary().display(), qemu.version()),
        // Without it a verdict holds for this life only.
        host_boot: host_boot_id()
            .map_or_else(|_| format!("unknown, agent {}", std::process::id()), str::to_owned),
    }
}
