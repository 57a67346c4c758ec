use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use inn_host::process::{Program, RunError, Spawner, run_blocking};
use inn_host::tsc::TscSample;
use inn_units::{Architecture, Bytes};
use inn_vmm::{Accel, Boot, Capabilities, ChannelKind, CurrentJail, LaunchError};

use crate::bridge;

const PROGRAM: Program = Program::QEMU_SYSTEM_X86_64;

/// Our own program, also when another one has taken its name (proc(5)).
pub(crate) const SELF: &str = "/proc/self/exe";

/// QEMU prints and exits; a minute is for a host that is swapping.
const DEADLINE: Duration = Duration::from_secs(60);

/// `-action`, which keeps a machine's end explainable, came with 6.0.
const OLDEST: (u32, u32) = (6, 0);

/// Which of QEMU's x86 machines a VM is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MachineType {
    /// Devices on virtio-mmio, found through ACPI; no PCI.
    Microvm,
    /// A PC with PCI Express.
    Q35,
}

/// QEMU as found on this host. Clones share everything.
#[derive(Debug, Clone)]
pub struct QemuRuntime {
    pub(crate) found: Arc<Found>,
}

#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) binary: PathBuf,
    pub(crate) version: String,
    pub(crate) machine_type: MachineType,
    pub(crate) capabilities: Capabilities,
    /// The vsock's bridge; `None` means that it is looked for.
    pub(crate) bridge: Option<PathBuf>,
    /// What is started as a log writer: see [`inn_host::log_writer`].
    pub(crate) log_writer: PathBuf,
    pub(crate) spawner: Spawner,
    /// Of log writers: see [`inn_vmm::StartingWriter`].
    pub(crate) log_spawner: Spawner,
    pub(crate) tsc: TscSample,
    pub(crate) jail: Arc<CurrentJail>,
}

impl QemuRuntime {
    /// Finds QEMU and asks it what it can do. Blocks for some 50 ms; the
    /// answer holds for this object's life, so ask once.
    pub fn discover() -> Result<Self, LaunchError> {
        let tsc = TscSample::take();
        let binary = PROGRAM
            .find()
            .map_err(|e| LaunchError::MissingProgram { program: e.program, hint: e.hint })?;
        let banner = ask("--version")?;
        let version = parse_version(&banner).ok_or_else(|| LaunchError::Failed {
            program: PROGRAM.name().to_owned(),
            reason: "its --version names no version".to_owned(),
            log: vec![banner.clone()],
        })?;
        if version.number < OLDEST {
            return Err(LaunchError::Failed {
                program: PROGRAM.name().to_owned(),
                reason: format!(
                    "its version {} is older than {}.{}; install a newer one",
                    version.text, OLDEST.0, OLDEST.1
                ),
                log: Vec::new(),
            });
        }
        let machines = ask("-machine help")?;
        let microvm = machines.lines().any(|l| l.split_whitespace().next() == Some("microvm"));
        // An emulated microvm has no timer against which its kernel could
        // calibrate the counter: it hangs at boot unless it is told the rate.
        let microvm = microvm && tsc.is_constant();
        let start = || {
            Spawner::start().map_err(|source| LaunchError::Io {
                step: "starting the thread that spawns processes".to_owned(),
                source,
            })
        };
        let (spawner, log_spawner) = (start()?, start()?);
        Ok(Self {
            found: Arc::new(Found {
                binary,
                version: version.text,
                machine_type: if microvm { MachineType::Microvm } else { MachineType::Q35 },
                capabilities: capabilities(bridge::find_program(None).is_ok()),
                bridge: None,
                log_writer: SELF.into(),
                spawner,
                log_spawner,
                tsc,
                jail: Arc::default(),
            }),
        })
    }

    /// The same QEMU with its PC, which every QEMU has.
    pub fn with_q35(self) -> Self {
        let machine_type = MachineType::Q35;
        Self { found: Arc::new(Found { machine_type, ..Found::clone(&self.found) }) }
    }

    /// The same QEMU with the vhost-device-vsock at this path.
    pub fn with_vsock_bridge(self, program: PathBuf) -> Self {
        let capabilities = capabilities(true);
        let bridge = Some(program);
        Self { found: Arc::new(Found { capabilities, bridge, ..Found::clone(&self.found) }) }
    }

    /// The same QEMU, whose logs this program writes in place of our own.
    pub fn with_log_writer(self, program: PathBuf) -> Self {
        Self { found: Arc::new(Found { log_writer: program, ..Found::clone(&self.found) }) }
    }

    /// Of a machine that boots a kernel.
    pub fn machine_type(&self) -> MachineType {
        self.found.machine_type
    }

    /// microvm's firmware boots nothing but kernels.
    pub(crate) fn machine_for(&self, boot: &Boot) -> MachineType {
        self.found.machine_for(boot)
    }

    /// Such as `7.2.22`.
    pub fn version(&self) -> &str {
        &self.found.version
    }

    pub fn binary(&self) -> &Path {
        &self.found.binary
    }
}

impl Found {
    pub(crate) fn machine_for(&self, boot: &Boot) -> MachineType {
        match boot {
            Boot::Kernel(_) => self.machine_type,
            Boot::Firmware => MachineType::Q35,
        }
    }
}

fn capabilities(vsock: bool) -> Capabilities {
    // Serial first: with no other program in between it has twice the
    // throughput, and a VM on it can be snapshotted.
    let mut channels = vec![ChannelKind::Serial];
    channels.extend(vsock.then_some(ChannelKind::Vsock));
    Capabilities {
        name: "qemu",
        architecture: Architecture::OURS,
        // Whether KVM works on this host is the probe's to say.
        accels: vec![Accel::Kvm, Accel::Tcg],
        max_vcpus: 255,
        // Below this a distribution's kernel does not get to its init.
        min_memory: Bytes::mib(64),
        // microvm has 8 virtio-mmio slots without a second I/O APIC
        // (hw/i386/microvm.c); channel, entropy and network take three.
        max_disks: 5,
        // QEMU's own, on the board with a firmware that uses one.
        screens: true,
        generation_ids: true,
        user_network: true,
        port_forwards: true,
        taps: true,
        card_limits: false,
        foreign_networks: false,
        channels,
        // Every x86 QEMU has the PC and brings a firmware for it.
        firmware: true,
        resize_disks: true,
        power_button: true,
        snapshots: true,
        // A vsock's rings and connections are in its bridge, which can't be
        // asked for them (vhost-device-vsock 0.3 has no migration).
        snapshot_channels: vec![ChannelKind::Serial],
        interactive_console: true,
    }
}

fn ask(question: &str) -> Result<String, LaunchError> {
    let failed = |reason: String| LaunchError::Failed {
        program: PROGRAM.name().to_owned(),
        reason,
        log: Vec::new(),
    };
    match run_blocking(PROGRAM, question.split(' '), DEADLINE) {
        Ok(output) => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Err(RunError::Missing(e)) => {
            Err(LaunchError::MissingProgram { program: e.program, hint: e.hint })
        }
        Err(error @ (RunError::Failed { .. } | RunError::Deadline { .. })) => {
            Err(failed(error.to_string()))
        }
        Err(RunError::Start { source, .. } | RunError::Io { source, .. }) => {
            Err(LaunchError::Io { step: format!("{} {question}", PROGRAM.name()), source })
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Version {
    text: String,
    number: (u32, u32),
}

/// `QEMU emulator version 7.2.22 (Debian …)`.
fn parse_version(banner: &str) -> Option<Version> {
    let (_, rest) = banner.split_once("version ")?;
    let text = rest.split_whitespace().next()?.to_owned();
    let mut parts = text.split('.').map(str::parse::<u32>);
    let number = (parts.next()?.ok()?, parts.next()?.ok()?);
    Some(Version { text, number })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_banners_of_distributions() {
        let of = |banner: &str| parse_version(banner).map(|v| (v.text, v.number));
        assert_eq!(
            of("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright"),
            Some(("7.2.22".to_owned(), (7, 2)))
        );
        assert_eq!(of("QEMU emulator version 10.0.0\n"), Some(("10.0.0".to_owned(), (10, 0))));
        assert_eq!(of("QEMU emulator version unknown"), None);
        assert_eq!(of(""), None);
    }
}
