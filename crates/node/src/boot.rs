//! What a machine boots with: kernel, initramfs, and whether under KVM.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use inn_domain::KernelChoice;
use inn_host::process::host_boot_id;
use inn_image::cache::Inventory;
use inn_image::initramfs::ModuleSet;
use inn_image::kernel::{GuestBinary, Kernel, KernelError, KernelStore, ListedKernel};
use inn_store::{ProbeKey, ProbeRecord, Store};
use inn_units::{Digest, format_duration};
use inn_vmm::{Accel, Boot};
use inn_vmm_qemu::{MachineType, QemuRuntime};
use tokio::sync::Mutex;

use crate::config::{AccelChoice, Fixed};

/// A kernel and the initramfs that goes with it, on the disk.
#[derive(Debug, Clone)]
pub(crate) struct BootFiles {
    pub(crate) kernel: Kernel,
    pub(crate) initramfs: PathBuf,
}

/// The state's key for the kernel that somebody has chosen.
pub(crate) const DEFAULT_KERNEL: &str = "kernel";

/// What there is to boot.
#[derive(Debug)]
pub(crate) struct KnownKernels {
    pub(crate) listed: Vec<ListedKernel>,
    /// The image that VMs boot, if there is any.
    pub(crate) default: Option<PathBuf>,
    /// Where they are kept.
    pub(crate) directory: PathBuf,
}

#[derive(Debug, Clone)]
pub(crate) struct Kernels {
    store: Arc<KernelStore>,
    guest: GuestBinary<'static>,
    /// The configuration's.
    explicit: Option<PathBuf>,
    /// By its name, where somebody has chosen one.
    chosen: Arc<RwLock<Option<String>>>,
    data_kernels: PathBuf,
}

impl Kernels {
    /// Blocks.
    pub(crate) fn open(config: &Fixed, guest: &'static [u8]) -> Result<Self, KernelError> {
        Ok(Self {
            store: Arc::new(KernelStore::open(&config.paths.kernel_cache())?),
            guest: GuestBinary::new(guest),
            explicit: config.kernel_path.clone(),
            chosen: Arc::default(),
            data_kernels: config.paths.kernels(),
        })
    }

    /// From here on VMs boot the kernel of this name; without one the newest.
    pub(crate) fn choose(&self, name: Option<String>) {
        *self.chosen.write().unwrap_or_else(PoisonError::into_inner) =
            name.filter(|name| !name.is_empty());
    }

    /// Whether the configuration leaves no choice.
    pub(crate) fn is_configured(&self) -> bool {
        self.explicit.is_some()
    }

    pub(crate) async fn known(&self) -> Result<KnownKernels, KernelError> {
        let this = self.clone();
        let known = tokio::task::spawn_blocking(move || {
            let listed = this.store.list(&this.data_kernels)?;
            let wanted = this.default_image();
            let default =
                wanted.and_then(|wanted| this.store.image(wanted.as_deref(), &this.data_kernels));
            Ok(KnownKernels { listed, default: default.ok(), directory: this.data_kernels })
        });
        known.await.map_err(std::io::Error::other)?
    }

    /// The image that VMs boot, or why there is none.
    pub(crate) async fn default(&self) -> Result<PathBuf, KernelError> {
        let this = self.clone();
        let found = tokio::task::spawn_blocking(move || {
            let wanted = this.default_image()?;
            this.store.image(wanted.as_deref(), &this.data_kernels)
        });
        found.await.map_err(std::io::Error::other)?
    }

    /// Whether this kernel boots, as far as can be told without booting it.
    pub(crate) async fn check(&self, image: &std::path::Path) -> Result<(), KernelError> {
        let (this, image) = (self.clone(), image.to_owned());
        let checked = tokio::task::spawn_blocking(move || {
            let kernel = this.store.resolve(Some(&image), &this.data_kernels)?;
            for set in [ModuleSet::Mmio, ModuleSet::Pci] {
                this.store.initramfs(&kernel, this.guest, set)?;
            }
            Ok(())
        });
        checked.await.map_err(std::io::Error::other)?
    }

    /// What VMs boot that bring none: the configuration's kernel, the chosen
    /// one, or none, which is the newest. Blocks.
    fn default_image(&self) -> Result<Option<PathBuf>, KernelError> {
        if let Some(explicit) = &self.explicit {
            return Ok(Some(explicit.clone()));
        }
        let chosen = self.chosen.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(name) = chosen else { return Ok(None) };
        let listed = self.store.list(&self.data_kernels)?;
        let found = listed.into_iter().find(|listed| listed.name == name);
        found.map(|listed| Some(listed.image)).ok_or_else(|| KernelError::NotFound {
            looked_in: vec![self.data_kernels.clone()],
            hint: format!(
                "VMs are to boot the kernel {name}, which is gone: choose another by `inn image \
                 kernel use NAME`, or the newest by `inn image kernel use newest`"
            ),
        })
    }

    /// Of a kernel that was found to boot, which was read then.
    pub(crate) fn digest_of(&self, boot: &Boot) -> Option<String> {
        match boot {
            Boot::Kernel(boot) => Some(self.store.digest_of(&boot.kernel)?.to_string()),
            Boot::Firmware => None,
        }
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
        let own = own.and_then(|own| own.path.clone());
        let set = match machine {
            MachineType::Microvm => ModuleSet::Mmio,
            MachineType::Q35 => ModuleSet::Pci,
        };
        let made = tokio::task::spawn_blocking(move || {
            let explicit = match own {
                Some(own) => Some(own),
                None => this.default_image()?,
            };
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

    /// The same, where it can be told at once.
    pub(crate) fn known_accel(&self, qemu: &QemuRuntime, boot: &BootFiles) -> Option<Accel> {
        match self.choice {
            AccelChoice::Kvm => Some(Accel::Kvm),
            AccelChoice::Tcg => Some(Accel::Tcg),
            AccelChoice::Auto => {
                let key = key(qemu, boot.kernel.digest);
                // It is held for as long as a probe takes.
                let known = self.known.try_lock().ok()?;
                let (_, record) = known.iter().find(|(k, _)| *k == key)?;
                Some(if record.usable { Accel::Kvm } else { Accel::Tcg })
            }
        }
    }

    /// Of those of this boot of the host: whether a guest has booted under it, or
    /// why none has. `None` where none was tried.
    pub(crate) async fn best(&self) -> Option<ProbeRecord> {
        let host_boot = host_boot_id().ok()?.to_owned();
        self.store.best_probe(host_boot).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "the stored KVM verdicts cannot be read");
            None
        })
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
