use std::path::{Path, PathBuf};
use std::sync::Arc;

use inn_host::process::{Confined, Jail, Spawner, User, find_program};
use inn_units::{Architecture, Bytes};
use inn_vmm::{Accel, Capabilities, ChannelKind, CurrentJail, Isolation, LaunchError};

use crate::kind::NAME;
use crate::protocol::PROGRAM;

/// libkrun as found on this host. Clones share everything.
#[derive(Debug, Clone)]
pub struct KrunRuntime {
    pub(crate) found: Arc<Found>,
}

#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) helper: PathBuf,
    pub(crate) capabilities: Capabilities,
    pub(crate) spawner: Spawner,
    /// Of log writers: see [`inn_vmm::StartingWriter`].
    pub(crate) log_spawner: Spawner,
    jail: CurrentJail,
}

impl KrunRuntime {
    /// Finds the helper, beside this program or by `PATH`.
    pub fn discover() -> Result<Self, LaunchError> {
        let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join(PROGRAM)));
        let helper = beside.filter(|path| path.is_file()).or_else(|| find_program(PROGRAM));
        Self::with_helper(helper.ok_or_else(|| LaunchError::MissingProgram {
            program: PROGRAM.to_owned(),
            hint: "install it beside inn: docs/runtimes.md says how it is built".to_owned(),
        })?)
    }

    /// With the helper at this path.
    pub fn with_helper(helper: PathBuf) -> Result<Self, LaunchError> {
        let start = || {
            Spawner::start().map_err(|source| LaunchError::Io {
                step: "starting the thread that spawns processes".to_owned(),
                source,
            })
        };
        let (spawner, log_spawner) = (start()?, start()?);
        let capabilities = capabilities();
        let jail = CurrentJail::default();
        Ok(Self { found: Arc::new(Found { helper, capabilities, spawner, log_spawner, jail }) })
    }

    pub fn helper(&self) -> &Path {
        &self.found.helper
    }

    /// Whether a machine can have a root directory without the host's files,
    /// or a clause that says why not. Blocks, for a millisecond at the first
    /// time.
    pub fn can_jail(&self) -> Result<(), String> {
        self.found.jail().map(drop)
    }
}

impl Found {
    /// What the helper and the log writer give up before they run. The helper
    /// becomes its user later, once it has opened its disks.
    pub(crate) fn confined(
        &self,
        isolation: &Isolation,
        user: Option<User>,
    ) -> Result<Confined, LaunchError> {
        isolation.confined(user, || self.jail())
    }

    fn jail(&self) -> Result<Arc<Jail>, String> {
        self.jail.get(std::slice::from_ref(&self.helper))
    }
}

fn capabilities() -> Capabilities {
    Capabilities {
        name: NAME,
        architecture: Architecture::OURS,
        accels: vec![Accel::Kvm],
        // MAX_SUPPORTED_VCPUS (krun-vmm, vmm_config/machine_config.rs).
        max_vcpus: 32,
        min_memory: Bytes::mib(64),
        // Eleven interrupts (krun-arch, x86_64/layout.rs: 5 to 15), of which
        // balloon, entropy, channel and network take one each; one to spare.
        max_disks: 6,
        user_network: false,
        port_forwards: false,
        taps: true,
        card_limits: false,
        foreign_networks: false,
        channels: vec![ChannelKind::Vsock],
        firmware: false,
        resize_disks: false,
        power_button: false,
        screens: false,
        generation_ids: false,
        snapshots: false,
        snapshot_channels: Vec::new(),
        interactive_console: true,
    }
}
