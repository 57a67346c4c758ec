use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use inn_units::{Bytes, NodeName, Vcpus, parse_duration};

use super::sources::ConfigError;
use super::{AccelChoice, ApiListen, Config, LogFormat, TelemetryConfig, VmDefaults};
use crate::paths::{Paths, Places};

/// Where the API is unless told otherwise.
const DEFAULT_LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 5100);

const LANGUAGES: [(&str, &str); 5] = [
    ("python", "python"),
    ("javascript", "node"),
    ("node", "node"),
    ("ruby", "ruby"),
    ("golang", "golang"),
];

/// What was given, before what was not is filled in.
#[derive(Debug, Default)]
pub(super) struct Values {
    places: Places,
    node_id: Option<String>,
    log: Option<String>,
    log_file: Option<PathBuf>,
    log_format: Option<LogFormat>,
    api_listen: Option<ApiListen>,
    kernel_path: Option<PathBuf>,
    languages: BTreeMap<String, String>,
    vcpus: Option<Vcpus>,
    memory: Option<Bytes>,
    disk: Option<Bytes>,
    start_deadline: Option<Duration>,
    stop_timeout: Option<Duration>,
    accel: Option<AccelChoice>,
    kvm_probe_deadline: Option<Duration>,
    log_limit: Option<Bytes>,
    telemetry_interval: Option<Duration>,
    telemetry_keep: Option<Duration>,
    /// `Some(None)`: somebody asked for none.
    exec_max_timeout: Option<Option<Duration>>,
    sim_enabled: Option<bool>,
}

pub(super) fn apply(values: &mut Values, key: &str, text: &str) -> Result<(), String> {
    match key {
        "data_dir" => values.places.data_dir = Some(absolute(text)?),
        "image_cache_dir" => values.places.image_cache_dir = Some(absolute(text)?),
        "runtime_dir" => values.places.runtime_dir = Some(absolute(text)?),
        "node_id" => values.node_id = Some(parsed::<NodeName>(text)?.to_string()),
        "log" => {
            tracing_subscriber::EnvFilter::try_new(text).map_err(|e| e.to_string())?;
            values.log = Some(text.to_owned());
        }
        "log_file" => values.log_file = Some(absolute(text)?),
        "log_format" => {
            let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
            values.log_format = Some(one_of(text, &formats)?);
        }
        "api_listen" => values.api_listen = Some(listen(text)?),
        "kernel.path" => values.kernel_path = Some(absolute(text)?),
        "defaults.vcpus" => values.vcpus = Some(parsed(text)?),
        "defaults.memory" => values.memory = Some(parsed(text)?),
        "defaults.disk" => values.disk = Some(parsed(text)?),
        "start_deadline" => values.start_deadline = Some(time(text)?),
        "stop_timeout" => values.stop_timeout = Some(time(text)?),
        "accel" => {
            let accels =
                [("auto", AccelChoice::Auto), ("kvm", AccelChoice::Kvm), ("tcg", AccelChoice::Tcg)];
            values.accel = Some(one_of(text, &accels)?);
        }
        "kvm.probe_deadline" => values.kvm_probe_deadline = Some(time(text)?),
        "logs.limit" => values.log_limit = Some(parsed(text)?),
        "telemetry.interval" => values.telemetry_interval = Some(time(text)?),
        "telemetry.keep" => values.telemetry_keep = Some(time(text)?),
        "exec.max_timeout" => {
            values.exec_max_timeout = Some(if text == "none" { None } else { Some(time(text)?) });
        }
        "sim.enabled" => {
            values.sim_enabled = Some(one_of(text, &[("true", true), ("false", false)])?);
        }
        other => {
            let language = other.strip_prefix("languages.").ok_or("is not a key")?;
            values.languages.insert(language.to_owned(), text.to_owned());
        }
    }
    Ok(())
}

impl Values {
    pub(super) fn complete(
        self,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Config, ConfigError> {
        let mut languages: BTreeMap<String, String> =
            LANGUAGES.iter().map(|(l, image)| ((*l).to_owned(), (*image).to_owned())).collect();
        languages.extend(self.languages);
        Ok(Config {
            paths: Paths::find(self.places, env).map_err(ConfigError::NoPlace)?,
            node_id: self.node_id,
            log: self.log.unwrap_or_else(|| "info".to_owned()),
            log_file: self.log_file,
            log_format: self.log_format,
            api_listen: self
                .api_listen
                .unwrap_or(ApiListen::At { address: DEFAULT_LISTEN, asked_for: false }),
            kernel_path: self.kernel_path,
            languages,
            defaults: VmDefaults {
                vcpus: self.vcpus.unwrap_or(Vcpus::ONE),
                memory: self.memory.unwrap_or(Bytes::mib(256)),
                disk: self.disk.unwrap_or(Bytes::gib(2)),
            },
            start_deadline: self.start_deadline.unwrap_or(Duration::from_secs(60)),
            stop_timeout: self.stop_timeout.unwrap_or(Duration::from_secs(30)),
            accel: self.accel.unwrap_or(AccelChoice::Auto),
            kvm_probe_deadline: self.kvm_probe_deadline.unwrap_or(Duration::from_secs(5)),
            log_limit: self.log_limit.unwrap_or(Bytes::mib(8)),
            telemetry: TelemetryConfig {
                interval: self.telemetry_interval.unwrap_or(Duration::from_secs(5)),
                keep: self.telemetry_keep.unwrap_or(Duration::from_secs(30 * 60)),
            },
            exec_max_timeout: self.exec_max_timeout.flatten(),
            sim_enabled: self.sim_enabled.unwrap_or(false),
        })
    }
}

fn parsed<T: FromStr>(text: &str) -> Result<T, String>
where
    T::Err: Display,
{
    text.parse().map_err(|e: T::Err| e.to_string())
}

fn time(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(Duration::ZERO) => Err("must be longer than nothing".to_owned()),
        Ok(d) => Ok(d),
        Err(e) => Err(e.to_string()),
    }
}

fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_absolute() { Ok(path) } else { Err("must be an absolute path".to_owned()) }
}

fn one_of<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, String> {
    choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        format!("must be {}", names.join(" or "))
    })
}

fn listen(text: &str) -> Result<ApiListen, String> {
    if text == "none" {
        return Ok(ApiListen::Off);
    }
    let hint = "is not host:port, such as 127.0.0.1:5100, nor none";
    let address = text
        .to_socket_addrs()
        .map_err(|_| hint.to_owned())?
        .next()
        .ok_or_else(|| hint.to_owned())?;
    Ok(ApiListen::At { address, asked_for: true })
}
