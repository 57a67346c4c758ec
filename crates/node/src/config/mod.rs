//! What the agent can be told, and from where.
//!
//! A flag wins over the environment, that over the file
//! (`/etc/innkeeper/agent.toml`), and that over the default. Every key has one
//! row in [`KEYS`]; its variable is `INN_` and the key in capitals, with `_`
//! for the dot. Every value is text until `values::apply` reads it, so that a
//! key means the same wherever it is written.

mod sources;
mod values;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use inn_units::{Bytes, Vcpus};

pub use sources::{ConfigError, ConfigSource};

use crate::paths::Paths;

/// Where the configuration is looked for when no file is named.
pub const SYSTEM_FILE: &str = "/etc/innkeeper/agent.toml";

/// Every key with what it means, as `agent.toml`'s documentation shows it.
pub const KEYS: &[(&str, &str)] = &[
    ("data_dir", "where VMs, images and state are kept"),
    ("image_cache_dir", "where images are kept; in data_dir unless given"),
    ("runtime_dir", "where sockets are"),
    ("node_id", "this node's name; generated and kept unless given"),
    ("log", "a level or a filter such as info or inn_node=debug"),
    ("log_file", "a file in place of stderr"),
    ("log_format", "text or json; text on a terminal and json elsewhere unless given"),
    ("api_listen", "host:port of the API over TCP, or none"),
    ("kernel.path", "the kernel that VMs boot unless they bring one"),
    ("languages.python", "the image of --language python"),
    ("languages.javascript", "the image of --language javascript"),
    ("languages.node", "the image of --language node"),
    ("languages.ruby", "the image of --language ruby"),
    ("languages.golang", "the image of --language golang"),
    ("defaults.vcpus", "vCPUs of a VM that asks for none"),
    ("defaults.memory", "memory of a VM that asks for none"),
    ("defaults.disk", "size of the writable disk of a VM that asks for none"),
    ("start_deadline", "how long a guest may take to answer"),
    ("stop_timeout", "how long a guest may take to shut down"),
    ("accel", "auto, kvm or tcg"),
    ("kvm.probe_deadline", "how long the probe boot under KVM may take"),
    ("logs.limit", "how much is kept of each log of a VM"),
    ("telemetry.interval", "how often a guest tells how its machine is doing"),
    ("telemetry.keep", "how long that is kept"),
    ("exec.max_timeout", "how long any exec may run, or none"),
    ("sim.enabled", "whether simulated machines are allowed"),
];

/// The configuration, complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub paths: Paths,
    pub node_id: Option<String>,
    pub log: String,
    pub log_file: Option<PathBuf>,
    /// None: text on a terminal, JSON elsewhere.
    pub log_format: Option<LogFormat>,
    pub api_listen: ApiListen,
    pub kernel_path: Option<PathBuf>,
    /// Image by language.
    pub languages: BTreeMap<String, String>,
    pub defaults: VmDefaults,
    pub start_deadline: Duration,
    pub stop_timeout: Duration,
    pub accel: AccelChoice,
    pub kvm_probe_deadline: Duration,
    pub log_limit: Bytes,
    pub telemetry: TelemetryConfig,
    /// Caps every exec's timeout, and those that ask for none.
    pub exec_max_timeout: Option<Duration>,
    pub sim_enabled: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApiListen {
    Off,
    At {
        address: SocketAddr,
        /// Somebody asked for it: then its absence is an error. The default
        /// one gives way to another agent of this host.
        asked_for: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VmDefaults {
    pub vcpus: Vcpus,
    pub memory: Bytes,
    pub disk: Bytes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TelemetryConfig {
    pub interval: Duration,
    pub keep: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccelChoice {
    /// KVM where a probe boot has shown that it works.
    Auto,
    Kvm,
    Tcg,
}

impl Config {
    /// Reads the file, the environment of this process and the flags.
    pub fn load(source: &ConfigSource) -> Result<Self, ConfigError> {
        Self::load_with(source, &|name| std::env::var(name).ok())
    }

    pub(crate) fn load_with(
        source: &ConfigSource,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let settings = sources::gather(source, env)?;
        let mut values = values::Values::default();
        for (key, setting) in &settings {
            values::apply(&mut values, key, &setting.text).map_err(|why| ConfigError::Value {
                key: (*key).to_owned(),
                value: setting.text.clone(),
                origin: setting.origin.clone(),
                why,
            })?;
        }
        values.complete(env)
    }
}

#[cfg(test)]
mod tests;
