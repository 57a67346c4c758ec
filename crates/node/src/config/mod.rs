//! What the agent can be told, and from where.
//!
//! A flag wins over the environment, that over the file
//! (`/etc/innkeeper/agent.toml`), and that over the default. Every key has one
//! row in [`KEYS`], and a row is all that a key needs: help texts, the example
//! file and the documentation are made from it. Its variable is `INN_` and the
//! key in capitals, with `_` for the dot. Every value is text until its row
//! reads it, so that a key means the same wherever it is written.
//!
//! ```text
//!   flags, environment, file ──▶ Config ─┬─ Fixed   for the agent's life
//!                                        └─ Live    replaced whole by a reload
//! ```
//!
//! A field is in [`Fixed`] or in [`Live`], and which of them says whether its
//! key can be changed without a restart; nobody keeps a copy of what is live.

mod access;
mod admission;
mod example;
mod keys;
mod network;
mod registries;
mod runtimes;
mod shared;
mod sources;
mod templates;
mod uids;
mod values;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use inn_domain::RuntimeChoice;
use inn_domain::network::ReservedPort;
use inn_units::{Bytes, Vcpus};
use inn_vmm_libvirt::Settings as LibvirtSettings;

pub use self::templates::TemplatesConfig;
pub use access::{AccessConfig, TlsConfig};
pub use admission::AdmissionConfig;
pub(crate) use admission::starts_for;
pub use example::{documentation, example};
pub use keys::{KEYS, Key, Kind, Preset};
pub use registries::RegistriesConfig;
pub(crate) use shared::{Reloaded, SharedConfig};
pub use sources::{ConfigError, ConfigSource, Origin};
pub use uids::UidRange;

use self::sources::Setting;
use self::values::DEFAULT_LISTEN;
pub use crate::network::{ForeignChoice, ModeChoice};
use crate::paths::{Paths, Places};

/// Where the configuration is looked for when no file is named.
pub const SYSTEM_FILE: &str = "/etc/innkeeper/agent.toml";

/// The configuration, complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub fixed: Fixed,
    pub live: Live,
    /// What was set, and where.
    settings: BTreeMap<&'static str, Setting>,
    source: ConfigSource,
}

/// What holds for the agent's life.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fixed {
    pub paths: Paths,
    pub node_id: Option<String>,
    pub log_file: Option<PathBuf>,
    pub log_size: Bytes,
    /// None: text on a terminal, JSON elsewhere.
    pub log_format: Option<LogFormat>,
    /// Of a collector, without its path.
    pub traces_endpoint: Option<String>,
    pub api_listen: ApiListen,
    pub tls: TlsConfig,
    pub kernel_path: Option<PathBuf>,
    /// None: the agent's own, of those that are nobody's.
    pub vmm_uids: Option<UidRange>,
    pub accel: AccelChoice,
    /// Which runtimes VMs may have that ask for none, the preferred first.
    pub runtimes_order: Vec<RuntimeChoice>,
    pub firecracker: Option<PathBuf>,
    pub libvirt: LibvirtSettings,
    pub network_mode: ModeChoice,
    pub network_foreign: ForeignChoice,
    pub kvm_probe_deadline: Duration,
    pub events_keep: u64,
    pub sim_enabled: bool,
    /// Whether simulated machines reserve and wait as real ones do.
    pub sim_reserves: bool,
    /// Machines that start at the same time.
    pub concurrent_starts: Option<usize>,
    /// Disk images that are copied at the same time.
    pub concurrent_copies: usize,
}

/// What a reload changes: read it where it is used, each time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Live {
    pub log: String,
    pub access: AccessConfig,
    /// Image by language.
    pub languages: BTreeMap<String, String>,
    pub defaults: VmDefaults,
    pub start_deadline: Duration,
    /// For cloud-init in a full VM, from the machine's start on.
    pub cloud_init_deadline: Duration,
    pub stop_timeout: Duration,
    pub log_limit: Bytes,
    pub telemetry: TelemetryConfig,
    /// Caps every exec's timeout, and those that ask for none.
    pub exec_max_timeout: Option<Duration>,
    pub admission: AdmissionConfig,
    pub images: ImagesConfig,
    pub templates: TemplatesConfig,
    pub registries: RegistriesConfig,
    /// Which nobody maps.
    pub reserved_ports: Vec<ReservedPort>,
    /// Between two looks for what is nobody's.
    pub reap_interval: Duration,
}

/// One key as it stands.
#[derive(Debug, Clone)]
pub struct Effective {
    pub key: &'static Key,
    /// None: it is not set and has no default.
    pub value: Option<String>,
    pub origin: Origin,
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

impl Default for ApiListen {
    fn default() -> Self {
        Self::At { address: DEFAULT_LISTEN, asked_for: false }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VmDefaults {
    pub vcpus: Vcpus,
    pub memory: Bytes,
    pub disk: Bytes,
}

impl Default for VmDefaults {
    fn default() -> Self {
        Self { vcpus: Vcpus::ONE, memory: Bytes::default(), disk: Bytes::default() }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TelemetryConfig {
    pub interval: Duration,
    pub keep: Duration,
}

/// How much the image cache may keep of what nobody uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ImagesConfig {
    pub cache_limit: Option<Bytes>,
    pub max_age: Option<Duration>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AccelChoice {
    /// KVM where a probe boot has shown that it works.
    #[default]
    Auto,
    Kvm,
    Tcg,
}

/// What the rows write to; the paths are found when all are read.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    pub(crate) places: Places,
    pub(crate) fixed: Fixed,
    pub(crate) live: Live,
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
        let mut draft = Draft::default();
        for key in KEYS {
            let setting = settings.get(key.name);
            let Some(text) = setting.map(|s| s.text.as_str()).or(key.default.text()) else {
                continue;
            };
            key.apply(&mut draft, text).map_err(|why| ConfigError::Value {
                key: key.name.to_owned(),
                value: text.to_owned(),
                origin: setting.map(|s| s.origin.clone()).unwrap_or(Origin::Default),
                why,
            })?;
        }
        let Draft { places, mut fixed, live } = draft;
        fixed.paths = Paths::find(places, env).map_err(ConfigError::NoPlace)?;
        Ok(Self { fixed, live, settings, source: source.clone() })
    }

    /// The same sources, read again.
    pub fn read_again(&self) -> Result<Self, ConfigError> {
        Self::load(&self.source)
    }

    /// Every key with its value, and where that comes from.
    pub fn effective(&self) -> impl Iterator<Item = Effective> {
        KEYS.iter().map(|key| match self.settings.get(key.name) {
            Some(Setting { text, origin }) => {
                Effective { key, value: Some(text.clone()), origin: origin.clone() }
            }
            None => Effective { key, value: key.default.value(self), origin: Origin::Default },
        })
    }
}

#[cfg(test)]
mod tests;
