use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use inn_host::process::Spawner;
use inn_units::{Architecture, Bytes, InterfaceName};
use inn_vmm::{Accel, Capabilities, ChannelKind, LaunchError};
use ipnet::IpNet;

use crate::definition::{MOST_DISKS, Owner};
use crate::launch::{NAME, failed};
use crate::library::{LIBRARY, Library, LoadError};
use crate::link::Link;

/// What is started as a log writer: see [`inn_host::log_writer`].
const SELF: &str = "/proc/self/exe";

/// The first whose calls hand descriptors to QEMU (NEWS of libvirt 8.2.0).
const OLDEST: (u64, u64) = (8, 2);

/// For libvirt to say what it is, when somebody wants to know whether it is
/// there at all.
const PROBE: Duration = Duration::from_secs(3);

/// How long what it said then holds.
const PROBED: Duration = Duration::from_secs(30);

/// Whose libvirt it is and how it sees the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Such as `qemu:///system`. Its libvirtd has to be of this host, by a unix
    /// socket: machines are given descriptors.
    pub uri: String,
    /// A directory as the agent has it, and as libvirt and QEMU have it: for an
    /// agent in a container.
    pub prefix: Option<(PathBuf, PathBuf)>,
    /// What its guests' CPUs are.
    pub architecture: Architecture,
    /// Where the library is, if not where the system has it.
    pub library_dir: Option<PathBuf>,
    /// Bridges of the host's that VMs may be put on.
    pub bridges: Vec<InterfaceName>,
    /// Where the addresses of VMs on those lie.
    pub subnet: Option<IpNet>,
}

impl Default for Settings {
    fn default() -> Self {
        let uri = "qemu:///system".to_owned();
        Self {
            uri,
            prefix: None,
            architecture: Architecture::OURS,
            library_dir: None,
            bridges: Vec::new(),
            subnet: None,
        }
    }
}

impl Settings {
    pub(crate) fn as_hypervisor_sees(&self, path: &Path) -> PathBuf {
        let mapped = self.prefix.as_ref().and_then(|(ours, theirs)| {
            let below = path.strip_prefix(ours).ok()?;
            Some(theirs.join(below))
        });
        mapped.unwrap_or_else(|| path.to_owned())
    }

    /// Whom QEMU is to be: the agent's user, who owns what it opens. A session's
    /// libvirtd is that user itself, and cannot become another.
    pub(crate) fn owner(&self) -> Option<Owner> {
        let is_session = self.uri.split('?').next().is_some_and(|uri| uri.ends_with("/session"));
        (!is_session).then(|| Owner {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        })
    }
}

/// libvirt as found on this host. Clones share everything.
#[derive(Debug, Clone)]
pub struct LibvirtRuntime {
    pub(crate) found: Arc<Found>,
}

#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) link: Link,
    pub(crate) capabilities: Capabilities,
    pub(crate) log_writer: PathBuf,
    pub(crate) spawner: Spawner,
    probed: Mutex<Option<(Instant, Result<(), String>)>>,
}

impl LibvirtRuntime {
    /// Opens the library; whether a libvirtd answers is another question.
    pub fn discover(settings: Settings) -> Result<Self, LaunchError> {
        Self::with_log_writer(settings, SELF.into())
    }

    /// The same, whose logs this program writes in place of our own.
    pub fn with_log_writer(settings: Settings, log_writer: PathBuf) -> Result<Self, LaunchError> {
        let library = Library::load(settings.library_dir.as_deref()).map_err(|e| match e {
            LoadError::Missing { .. } => LaunchError::MissingProgram {
                program: LIBRARY.to_owned(),
                hint: format!("install libvirt's client library and its daemon ({e})"),
            },
            LoadError::Old(_) => {
                failed(format!("{e}: {}.{} or newer is needed", OLDEST.0, OLDEST.1), Vec::new())
            }
            LoadError::Broken(_) => failed(e.to_string(), Vec::new()),
        })?;
        let spawner = Spawner::start().map_err(|source| LaunchError::Io {
            step: "starting the thread that spawns processes".to_owned(),
            source,
        })?;
        let (capabilities, probed) = (capabilities(settings.architecture), Mutex::default());
        let link = Link::new(settings, library);
        Ok(Self { found: Arc::new(Found { link, capabilities, log_writer, spawner, probed }) })
    }

    /// Whether a libvirtd answers that can be used, or a clause that says why
    /// not. Asked anew every half a minute.
    pub async fn probe(&self) -> Result<(), String> {
        let known = {
            let probed = self.found.probed.lock().unwrap_or_else(PoisonError::into_inner);
            probed.clone().filter(|(at, _)| at.elapsed() < PROBED)
        };
        if let Some((_, known)) = known {
            return known;
        }
        let answer = match tokio::time::timeout(PROBE, self.found.look()).await {
            Ok(answer) => answer,
            Err(_) => Err(format!(
                "{} does not answer within {} s",
                self.found.link.settings().uri,
                PROBE.as_secs()
            )),
        };
        let mut probed = self.found.probed.lock().unwrap_or_else(PoisonError::into_inner);
        *probed = Some((Instant::now(), answer.clone()));
        answer
    }

    /// What libvirt has that no Innkeeper has defined, by name; whose agent it
    /// was does not matter.
    pub async fn foreign_domains(&self) -> std::io::Result<Vec<String>> {
        let names = self.found.link.call("listing domains", PROBE, |connection| {
            let mut names = Vec::new();
            for domain in connection.domains()? {
                if domain.metadata(crate::definition::NAMESPACE)?.is_none() {
                    names.push(domain.name());
                }
            }
            names.sort();
            Ok(names)
        });
        Ok(names.await?)
    }
}

impl Found {
    async fn look(&self) -> Result<(), String> {
        let guests = self.link.settings().architecture;
        let asked = self.link.call("asking what it is", PROBE, move |connection| {
            // Its own it has: QEMU is there, or a start says what is missing.
            let boots = match guests == Architecture::OURS {
                true => Ok(()),
                false => connection.boots_by_efi(guests),
            };
            Ok((connection.kind(), connection.version()?, boots))
        });
        let (kind, (major, minor, release), boots) = asked.await.map_err(|e| inn_vmm::chain(&e))?;
        if kind != "QEMU" {
            return Err(format!("it is libvirt's driver {kind}, and QEMU's is needed"));
        }
        if (major, minor) < OLDEST {
            return Err(format!(
                "its libvirtd {major}.{minor}.{release} is older than {}.{}",
                OLDEST.0, OLDEST.1
            ));
        }
        boots.map_err(|error| {
            let packages = "Debian's qemu-system-arm and qemu-efi-aarch64";
            format!(
                "it has no {guests} guests; install their QEMU and firmware ({packages}): {error}"
            )
        })
    }
}

fn capabilities(architecture: Architecture) -> Capabilities {
    let mut accels = vec![Accel::Tcg];
    if architecture == Architecture::OURS {
        // Whether KVM works on this host is the probe's to say.
        accels.insert(0, Accel::Kvm);
    }
    Capabilities {
        name: NAME,
        architecture,
        accels,
        max_vcpus: 255,
        // Below this a distribution's kernel does not get to its init.
        min_memory: Bytes::mib(64),
        max_disks: MOST_DISKS,
        user_network: true,
        port_forwards: false,
        taps: true,
        card_limits: false,
        foreign_networks: true,
        channels: vec![ChannelKind::Serial],
        firmware: true,
        resize_disks: true,
        power_button: true,
        screens: true,
        generation_ids: false,
        snapshots: false,
        snapshot_channels: Vec::new(),
        interactive_console: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_told_as_the_hypervisor_has_them() {
        let prefix = Some(("/data".into(), "/srv/inn".into()));
        let settings = Settings { prefix, ..Settings::default() };
        let seen = |path: &str| settings.as_hypervisor_sees(Path::new(path));
        assert_eq!(seen("/data/vms/a"), Path::new("/srv/inn/vms/a"));
        assert_eq!(seen("/database/a"), Path::new("/database/a"));
        assert_eq!(Settings::default().as_hypervisor_sees(Path::new("/a")), Path::new("/a"));
    }

    #[test]
    fn a_session_is_its_user_already() {
        let of = |uri: &str| Settings { uri: uri.to_owned(), ..Settings::default() }.owner();
        assert!(of("qemu:///system").is_some());
        assert!(of("qemu+unix:///system?socket=/run/x/session").is_some());
        assert!(of("qemu:///session").is_none());
        assert!(of("qemu+unix:///session?socket=/run/x").is_none());
    }
}
