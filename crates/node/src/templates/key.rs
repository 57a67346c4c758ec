//! What a template is of: VMs with the same key begin from the same one.

use std::fmt;
use std::os::unix::fs::MetadataExt;

use inn_domain::{Network, NoTemplateReason, VmSpec, admit_template};
use inn_image::kernel::KernelError;
use inn_vmm::{Accel, Runtime};
use inn_vmm_qemu::MachineType;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::boot::BootFiles;
use crate::error::Chain;
use crate::node::Node;
use crate::runtime::AnyRuntime;
use crate::vm::channel;

/// Of all that a guest's memory depends on: whatever is another makes it another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TemplateKey([u8; 32]);

impl fmt::Display for TemplateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[derive(Debug, thiserror::Error)]
pub(super) enum NoKey {
    #[error(transparent)]
    Denied(#[from] NoTemplateReason),
    #[error("its runtime {0} cannot save machines")]
    Runtime(&'static str),
    #[error("whether KVM is of use here is yet to be found out")]
    NotYet,
    #[error("{0}")]
    Unknown(String),
}

/// With a probe of KVM, which may take as long as a boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    None,
    Waits,
}

#[derive(Serialize)]
struct Inputs<'a> {
    /// The agent in it, and what it is asked.
    version: &'static str,
    runtime: &'a str,
    vmm: &'a str,
    accel: Accel,
    image: String,
    /// The initramfs is named after its kernel and its guest agent.
    kernel: Vec<String>,
    vcpus: u8,
    memory: u64,
    disk: u64,
    card: String,
}

impl TemplateKey {
    pub(super) fn of(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        if text.len() != 64 {
            return None;
        }
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        Some(Self(bytes))
    }

    /// Of such a VM on this host, as it is now.
    pub(super) async fn find(
        node: &Node,
        spec: &VmSpec,
        patience: Patience,
    ) -> Result<Self, NoKey> {
        admit_template(spec)?;
        let chosen = node.select_runtime(spec).await.chosen.unwrap_or(spec.runtime);
        let runtime = node.runtimes.choose(chosen).await;
        let runtime = runtime.map_err(|error| NoKey::Unknown(Chain(&error).to_string()))?;
        let can = runtime.capabilities();
        if !can.snapshots {
            return Err(NoKey::Runtime(can.name));
        }
        if !can.snapshot_channels.contains(&channel(spec.channel, can)) {
            return Err(NoTemplateReason::Channel.into());
        }
        let unknown = |error: &KernelError| NoKey::Unknown(Chain(error).to_string());
        let (vmm, kernel, accel) = match &runtime {
            AnyRuntime::Qemu(qemu) => {
                let files = node.kernels.boot_files(spec.kernel.as_ref(), qemu.machine_type());
                let files = files.await.map_err(|error| unknown(&error))?;
                let kernel = kernel_in(spec, &files);
                let accel = match patience {
                    Patience::Waits => node.kvm.accel(qemu, &files).await,
                    Patience::None => node.kvm.known_accel(qemu, &files).ok_or(NoKey::NotYet)?,
                };
                let binary = qemu.binary().display();
                let vmm = format!("{binary} {} {:?}", qemu.version(), qemu.machine_type());
                (vmm, kernel, accel)
            }
            AnyRuntime::Firecracker(firecracker) => {
                let files = node.kernels.boot_files(spec.kernel.as_ref(), MachineType::Microvm);
                let kernel = kernel_in(spec, &files.await.map_err(|error| unknown(&error))?);
                (firecracker.version().to_owned(), kernel, Accel::Kvm)
            }
            // These save no machines, and a simulated one reads no file.
            AnyRuntime::Krun(_) | AnyRuntime::Libvirt(_) | AnyRuntime::Sim(_) => {
                (String::new(), Vec::new(), Accel::Tcg)
            }
        };
        let card = match &spec.network {
            Network::None => "none".to_owned(),
            // Who has a way to such makes no templates.
            Network::Foreign(network) => network.to_string(),
            network => match node.networks.of(network) {
                Some(network) => format!("tap {}", node.networks.mtu(&network)),
                None => "user".to_owned(),
            },
        };
        let inputs = Inputs {
            version: env!("CARGO_PKG_VERSION"),
            runtime: can.name,
            vmm: &vmm,
            accel,
            image: spec.image().map(|image| image.digest.to_string()).unwrap_or_default(),
            kernel,
            vcpus: spec.vcpus.get(),
            memory: spec.memory.get(),
            disk: spec.disk.get(),
            card,
        };
        let text = serde_json::to_vec(&inputs).map_err(|e| NoKey::Unknown(e.to_string()))?;
        Ok(Self(Sha256::digest(text).into()))
    }
}

/// The owner's arguments, and the files that are booted.
fn kernel_in(spec: &VmSpec, files: &BootFiles) -> Vec<String> {
    let args = spec.kernel.as_ref().and_then(|kernel| kernel.args.clone());
    let files = [&files.kernel.vmlinux, &files.initramfs].map(|file| {
        // One of the owner's may be another under the same name. Times say when it
        // was used.
        let of = std::fs::metadata(file).map_or((0, 0), |m| (m.len(), m.ino()));
        format!("{} {of:?}", file.display())
    });
    args.into_iter().chain(files).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_it_is_written() {
        let key = TemplateKey(std::array::from_fn(|n| u8::try_from(n * 7 % 251).unwrap()));
        assert_eq!(TemplateKey::of(&key.to_string()), Some(key));
        for wrong in ["", "00", &"zz".repeat(32), &"0".repeat(65)] {
            assert_eq!(TemplateKey::of(wrong), None, "{wrong}");
        }
    }
}
