use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use inn_units::{Bytes, Vcpus, VmName};

use super::{LimitArgs, PullWhen, value};
use crate::failure::Failure;
use crate::language::Language;

/// What a new VM is like, for `run` and `vm create` alike.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Machine options")]
pub(crate) struct MachineArgs {
    /// The VM's name, a DNS label; one is made up otherwise
    #[arg(long)]
    pub name: Option<VmName>,
    /// Virtual CPUs
    #[arg(long, visible_alias = "cpu", value_name = "N")]
    pub cpus: Option<Vcpus>,
    /// Memory, such as 256MiB or 2GiB
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<Bytes>,
    /// The same, where a bare number means MiB
    #[arg(long, value_name = "MIB", value_parser = value::mebibytes, conflicts_with = "memory")]
    pub mem: Option<Bytes>,
    /// Size of the VM's own writable disk, such as 2GiB
    #[arg(long, value_name = "SIZE")]
    pub disk: Option<Bytes>,
    /// none: no network device; allow_all: the node's own network; a network's
    /// name; or with libvirt one that is not the node's, as libvirt:default or
    /// bridge:br0
    #[arg(long, default_value_t, value_name = "NETWORK")]
    pub network: inn_api::Network,
    /// An address of its network's that it is to have; once for each family
    #[arg(long, value_name = "ADDRESS")]
    pub ip: Vec<IpAddr>,
    /// A port of this host that leads to it: `[ADDRESS:]HOST:GUEST[/udp]`;
    /// repeats, and takes ranges
    #[arg(short = 'p', long = "publish", value_name = "MAP", value_parser = super::network::port_map)]
    pub ports: Vec<inn_api::PortMapCreate>,
    /// What it may reach, as JSON: a file as `inn vm policy` takes it
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// A variable for every command in the VM; without =VALUE, its value here
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = value::variable)]
    pub env: Vec<(String, String)>,
    /// A label to find the VM by; repeats
    #[arg(long, value_name = "KEY=VALUE", value_parser = value::label)]
    pub label: Vec<(String, String)>,
    /// Boot it, also where the node has a template of its kind
    #[arg(long)]
    pub cold: bool,
    /// Give it a disk at /persist that outlives the VM, by the VM's name
    #[arg(long)]
    pub persist: bool,
    /// Delete a VM of the same name first
    #[arg(long, requires = "name")]
    pub replace: bool,
    /// How long it lives, such as 10m or 8h; `inn vm ttl` renews that
    #[arg(long, value_name = "TIME", value_parser = value::duration)]
    pub ttl: Option<Duration>,
    /// What becomes of it then
    #[arg(long, value_enum, default_value_t, value_name = "ACTION", requires = "ttl")]
    pub ttl_action: TtlActionArg,
    /// What becomes of it when nobody uses it: no command, file, console or
    /// network traffic; whoever needs it then wakes it
    #[arg(long, value_enum, value_name = "ACTION")]
    pub on_idle: Option<IdleActionArg>,
    /// For how long, such as 10m
    #[arg(long, value_name = "TIME", value_parser = value::duration, default_value = "10m",
        requires = "on_idle")]
    pub idle_after: Duration,
    /// A kernel of your own (vmlinux or bzImage) with all it needs built in
    #[arg(long, value_name = "PATH")]
    pub kernel: Option<PathBuf>,
    /// Added to the end of the kernel's command line
    #[arg(long, value_name = "ARGS", allow_hyphen_values = true)]
    pub kernel_args: Option<String>,
    /// Whether its image is pulled from a registry: missing, never or always
    #[arg(long, value_enum, default_value_t, value_name = "WHEN", hide_possible_values = true)]
    pub pull: PullWhen,
    /// What runs the machine
    #[arg(long, value_enum, default_value_t, value_name = "RUNTIME")]
    pub runtime: RuntimeArg,
    /// How the node talks to the guest agent
    #[arg(long, value_enum, default_value_t, value_name = "CHANNEL")]
    pub channel: ChannelArg,
    /// Whether its programs lie at the same addresses each time: faster where
    /// CPUs are emulated, and easier to attack; auto for `run --rm` there alone
    #[arg(long, value_enum, default_value_t, value_name = "WHEN")]
    pub stable_addresses: StableAddressesArg,
    #[command(flatten)]
    pub limits: LimitArgs,
}

/// What a VM that goes on from a snapshot has already.
pub(crate) const NOT_RESTORED: [&str; 23] = [
    "image",
    "language",
    "cpus",
    "memory",
    "mem",
    "disk",
    "network",
    "ip",
    "ports",
    "policy",
    "env",
    "label",
    "persist",
    "replace",
    "ttl",
    "on_idle",
    "kernel",
    "kernel_args",
    "pull",
    "runtime",
    "channel",
    "stable_addresses",
    "LimitArgs",
];

/// Where a new VM's root file system comes from.
#[derive(Debug, Clone, Default, Args)]
#[group(required = true, multiple = true)]
pub(crate) struct SourceArgs {
    /// A local image, by name or digest
    #[arg(long)]
    pub image: Option<String>,
    /// What the VM speaks; picks the configured image unless --image does
    #[arg(long, value_enum)]
    pub language: Option<Language>,
    /// A raw or qcow2 disk with a system of its own, also packed by gzip, xz
    /// or zstd: a full VM; it gets a copy
    #[arg(long, value_name = "URL|PATH", conflicts_with = "image")]
    pub disk_image: Option<String>,
    /// A snapshot that it goes on from, with the memory, disk and settings of
    /// the VM that was saved
    #[arg(long, value_name = "SNAPSHOT", conflicts_with_all = NOT_RESTORED)]
    pub from_snapshot: Option<String>,
    /// Refuse the disk image unless its SHA-256 or SHA-512 is this, or the one
    /// in a list such as SHA256SUMS
    #[arg(long, value_name = "HEX|URL|FILE", value_parser = value::sum, requires = "disk_image")]
    pub sha256: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ChannelArg {
    /// What the runtime does best
    #[default]
    Auto,
    /// A virtio-serial port
    Serial,
    /// A vsock
    Vsock,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum TtlActionArg {
    Stop,
    #[default]
    Delete,
}

impl From<TtlActionArg> for inn_api::TtlAction {
    fn from(action: TtlActionArg) -> Self {
        match action {
            TtlActionArg::Stop => Self::Stop,
            TtlActionArg::Delete => Self::Delete,
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum StableAddressesArg {
    #[default]
    Auto,
    On,
    Off,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum IdleActionArg {
    /// It stands still, with all of its memory
    Pause,
    /// Its memory is saved and its machine ended; it goes on from there
    Snapshot,
    /// Its guest is shut down, and boots when it is woken
    Stop,
}

pub(crate) fn on_idle(action: IdleActionArg, after: Duration) -> inn_api::OnIdle {
    let action = match action {
        IdleActionArg::Pause => inn_api::IdleAction::Pause,
        IdleActionArg::Snapshot => inn_api::IdleAction::Snapshot,
        IdleActionArg::Stop => inn_api::IdleAction::Stop,
    };
    inn_api::OnIdle { action, after_seconds: value::seconds_up(after) }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum RuntimeArg {
    #[default]
    Auto,
    Qemu,
    /// Firecracker, which INN_FIRECRACKER names or PATH has, and KVM
    Firecracker,
    /// libkrun, which needs inn-krun beside inn, and KVM
    Krun,
    /// A domain of the host's libvirt
    Libvirt,
    /// A simulated machine, for tests
    #[value(hide = true)]
    Sim,
}

impl MachineArgs {
    /// The request for such a VM, still without an image. A later variable or
    /// label of the same name wins.
    pub(crate) fn request(&self) -> Result<inn_api::VmCreate, Failure> {
        let path = match &self.kernel {
            Some(path) => {
                let absolute = std::path::absolute(path)
                    .map_err(|e| Failure::because("cannot tell the current directory", &e))?;
                Some(absolute.to_string_lossy().into_owned())
            }
            None => None,
        };
        let kernel = (path.is_some() || self.kernel_args.is_some())
            .then(|| inn_api::Kernel { path, args: self.kernel_args.clone() });
        let policy = match &self.policy {
            Some(file) => crate::network::from_json(file)?,
            None => inn_api::Policy::default(),
        };
        let (ipv4, ipv6) = self.addresses()?;
        Ok(inn_api::VmCreate {
            name: self.name.clone(),
            vcpus: self.cpus,
            memory_bytes: self.memory.or(self.mem),
            disk_bytes: self.disk,
            network: self.network.clone(),
            ipv4,
            ipv6,
            policy,
            ports: self.ports.clone(),
            env: self.env.iter().cloned().collect::<BTreeMap<_, _>>(),
            labels: self.label.iter().cloned().collect::<BTreeMap<_, _>>(),
            runtime: match self.runtime {
                RuntimeArg::Auto => inn_api::Runtime::Auto,
                RuntimeArg::Qemu => inn_api::Runtime::Qemu,
                RuntimeArg::Firecracker => inn_api::Runtime::Firecracker,
                RuntimeArg::Krun => inn_api::Runtime::Krun,
                RuntimeArg::Libvirt => inn_api::Runtime::Libvirt,
                RuntimeArg::Sim => inn_api::Runtime::Sim,
            },
            channel: match self.channel {
                ChannelArg::Auto => inn_api::Channel::Auto,
                ChannelArg::Serial => inn_api::Channel::Serial,
                ChannelArg::Vsock => inn_api::Channel::Vsock,
            },
            kernel,
            stable_addresses: match self.stable_addresses {
                StableAddressesArg::Auto => inn_api::StableAddresses::Auto,
                StableAddressesArg::On => inn_api::StableAddresses::On,
                StableAddressesArg::Off => inn_api::StableAddresses::Off,
            },
            limits: self.limits.request(),
            cold: self.cold,
            persist: self.persist,
            ttl_seconds: self.ttl.map(value::seconds_up),
            ttl_action: self.ttl_action.into(),
            on_idle: self.on_idle.map(|action| on_idle(action, self.idle_after)),
            replace: self.replace,
            ..inn_api::VmCreate::default()
        })
    }

    /// One of each family at most.
    fn addresses(&self) -> Result<(Option<Ipv4Addr>, Option<Ipv6Addr>), Failure> {
        let (mut ipv4, mut ipv6) = (None, None);
        for address in &self.ip {
            let before = match *address {
                IpAddr::V4(address) => ipv4.replace(address).map(IpAddr::V4),
                IpAddr::V6(address) => ipv6.replace(address).map(IpAddr::V6),
            };
            if let Some(before) = before {
                return Err(Failure::new(format!(
                    "a VM has one address of each family, and --ip gives it {before} and {address}"
                )));
            }
        }
        Ok((ipv4, ipv6))
    }
}

impl SourceArgs {
    /// Adds the source to a request.
    pub(crate) fn put_in(&self, request: &mut inn_api::VmCreate) -> Result<(), Failure> {
        request.image = self.image.clone();
        request.language = self.language.map(|language| language.name().to_owned());
        request.disk_image = match &self.disk_image {
            Some(place) => Some(inn_api::DiskImage {
                url: disk_image_url(place)?,
                // Of a list, whoever fetches the image finds it.
                sha256: match &self.sha256 {
                    Some(sum) if !crate::disk_pull::is_pulled(place) => Some(
                        value::sha256(sum)
                            .map_err(|why| Failure::usage(format!("--sha256 {why}")))?,
                    ),
                    _ => None,
                },
            }),
            None => None,
        };
        Ok(())
    }
}

/// The `file:` URL of a disk image. A path is of this host, whose agent it is
/// for; a URL is passed on as it is.
pub(crate) fn disk_image_url(place: &str) -> Result<String, Failure> {
    if ["file://", "https://", "http://"].iter().any(|scheme| place.starts_with(scheme)) {
        return Ok(place.to_owned());
    }
    if place.contains("://") {
        return Err(Failure::usage(format!(
            "{place} is at no URL that disk images come by; give https://, http:// or file:///PATH"
        )));
    }
    file_url(std::path::Path::new(place), place)
}

/// The `file:` URL of a file, which has to be there.
pub(crate) fn file_url(path: &std::path::Path, place: &str) -> Result<String, Failure> {
    let refuse = |e: &std::io::Error| Failure::because(format!("cannot use {place}"), e);
    let path = std::path::absolute(path).map_err(|e| refuse(&e))?;
    // The agent would say the same, but without starting one for it.
    let metadata = std::fs::metadata(&path).map_err(|e| refuse(&e))?;
    if metadata.is_dir() {
        return Err(Failure::new(format!("{place} is a directory")));
    }
    let mut url = String::from("file://");
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            // RFC 3986, 3.3: what may stand in a path as it is.
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'/' | b'-' | b'.' | b'_' | b'~' | b'+' => {
                url.push(char::from(*byte));
            }
            _ => url.push_str(&format!("%{byte:02X}")),
        }
    }
    Ok(url)
}
