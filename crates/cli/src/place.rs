use std::path::PathBuf;

use inn_node::{Config, ConfigSource};

use crate::args::Globals;
use crate::failure::Failure;

/// Where the agent listens, and where one would keep its data.
#[derive(Debug)]
pub(crate) struct AgentPlace {
    pub socket: PathBuf,
    /// None where somebody named the socket: no agent of ours would open it.
    pub data_dir: Option<PathBuf>,
}

impl AgentPlace {
    /// By the same configuration that an agent of this environment would read.
    pub(crate) fn find(globals: &Globals) -> Result<Self, Failure> {
        if let Some(socket) = &globals.socket {
            return Ok(Self { socket: socket.clone(), data_dir: None });
        }
        let config = Config::load(&ConfigSource::default()).map_err(|e| Failure::of(&e))?;
        let socket = config.fixed.paths.api_socket();
        Ok(Self { socket, data_dir: Some(config.fixed.paths.data_dir) })
    }
}
