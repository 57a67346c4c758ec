//! What a full VM that is set up by cloud-init has beside its own disk: the
//! seed, and the guest agent that the seed installs.
//!
//! Both are written anew at each launch: a newer agent may have more to say,
//! and the seed's instance id has cloud-init do once what is to be done once.

use std::path::PathBuf;

use inn_cloud_init::{NetworkSeed, Seed, SeedRequest};
use inn_domain::Network;

use super::super::attach::mac;
use super::super::failure::{Failure, StepError};
use super::super::task::VmTask;
use super::files::io_failure;
use crate::error::Chain;
use crate::guest_disk::write_whole;

/// How the guest finds them; also the names of their devices.
pub(super) const SEED_SERIAL: &str = "inn-seed";
pub(super) const AGENT_SERIAL: &str = "inn-agent";

/// The files of the two, whole.
pub(super) struct SeedDisks {
    pub(super) seed: PathBuf,
    pub(super) agent: Option<PathBuf>,
}

impl VmTask {
    /// Nothing for a VM that no cloud-init sets up; without the agent where there
    /// is none for its CPUs.
    pub(super) async fn seed_disks(&self, has_agent: bool) -> Result<Option<SeedDisks>, StepError> {
        let spec = &self.shared.spec;
        let Some(wanted) = &spec.cloud_init else { return Ok(None) };
        let request = SeedRequest {
            id: self.shared.id,
            hostname: spec.name.as_str(),
            user: wanted.user.as_deref(),
            password_hash: wanted.password_hash.as_deref(),
            ssh_keys: &wanted.ssh_keys,
            packages: &wanted.packages,
            user_data: wanted.user_data.as_deref(),
            network: match spec.network {
                Network::None => NetworkSeed::None,
                Network::AllowAll | Network::Named(_) | Network::Foreign(_) => {
                    NetworkSeed::Dhcp { mac: mac(self.shared.id) }
                }
            },
            agent: has_agent,
        };
        // It was looked at when the VM was made, by an agent that may have
        // known more.
        let seed = Seed::new(&request).map_err(|error| {
            let next = "make the VM again, with user data that this agent understands";
            Failure::new(Chain(&error).to_string(), next)
        })?;
        let (path, node) = (self.shared.paths.seed(), std::sync::Arc::clone(&self.node));
        let written = tokio::task::spawn_blocking(move || {
            write_whole(&path, &seed.disk()).map_err(|error| (path.clone(), error))?;
            let agent = has_agent.then(|| node.guest_disk.path()).transpose()?;
            Ok(SeedDisks { seed: path, agent })
        });
        let written = written.await.map_err(|error| {
            Failure::new(format!("writing its seed: {error}"), "start the VM again")
        })?;
        written.map(Some).map_err(|(path, error)| io_failure("write", &path)(error))
    }
}
