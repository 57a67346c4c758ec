use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use inn_host::process::{Jail, Spawner, ask, find_program};
use inn_units::{Architecture, Bytes};
use inn_vmm::{Accel, Capabilities, ChannelKind, CurrentJail, LaunchError, chain};
use rustix::process::geteuid;

use crate::kind::NAME;
use crate::version::{self, Version};

/// Our own program, also when another one has taken its name (proc(5)).
const SELF: &str = "/proc/self/exe";

/// It prints and exits; a minute is for a host that is swapping.
const DEADLINE: Duration = Duration::from_secs(60);

/// Firecracker as found on this host. Clones share everything.
#[derive(Debug, Clone)]
pub struct FirecrackerRuntime {
    pub(crate) found: Arc<Found>,
}

#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) binary: PathBuf,
    pub(crate) version: Version,
    /// The one beside it, or why it is of no use.
    pub(crate) jailer: Result<PathBuf, String>,
    /// Started as keeper and log writer: see [`crate::if_asked`].
    pub(crate) own: PathBuf,
    pub(crate) capabilities: Capabilities,
    pub(crate) spawner: Spawner,
    /// Of log writers: see [`inn_vmm::StartingWriter`].
    pub(crate) log_spawner: Spawner,
    /// The root directory of log writers.
    jail: Arc<CurrentJail>,
}

impl FirecrackerRuntime {
    /// The one at this path, or the one in `PATH`.
    pub async fn discover(path: Option<PathBuf>) -> Result<Self, LaunchError> {
        let binary = match path {
            Some(path) if path.is_file() => Some(path),
            Some(path) => {
                return Err(LaunchError::MissingProgram {
                    program: path.display().to_string(),
                    hint: "it was named in the configuration (`firecracker`)".to_owned(),
                });
            }
            None => find_program(NAME),
        };
        let binary = binary.ok_or_else(|| LaunchError::MissingProgram {
            program: NAME.to_owned(),
            hint: "no package has it: docs/runtimes.md says where it is to be had".to_owned(),
        })?;
        let failed = |reason: String| LaunchError::Failed {
            program: binary.display().to_string(),
            reason,
            log: Vec::new(),
        };
        let answer = ask(&binary, ["--version"], b"", DEADLINE).await;
        let banner = answer.map_err(|error| failed(chain(&error)))?.stdout;
        let version = version::admitted(&String::from_utf8_lossy(&banner)).map_err(failed)?;
        let start = || {
            Spawner::start().map_err(|source| LaunchError::Io {
                step: "starting the thread that spawns processes".to_owned(),
                source,
            })
        };
        let (spawner, log_spawner) = (start()?, start()?);
        let jailer = jailer(&binary);
        let (own, capabilities) = (SELF.into(), capabilities(&version));
        let jail = Arc::default();
        let found =
            Found { binary, version, jailer, own, capabilities, spawner, log_spawner, jail };
        Ok(Self { found: Arc::new(found) })
    }

    /// The same Firecracker, whose keepers and log writers are this program.
    pub fn with_own_program(self, own: PathBuf) -> Self {
        Self { found: Arc::new(Found { own, ..Found::clone(&self.found) }) }
    }

    /// Such as `1.12.1`.
    pub fn version(&self) -> &str {
        &self.found.version.text
    }

    /// Whether its machines can be jailed, each as a user of its own, or a clause
    /// that says why not: the one goes with the other, since a Firecracker that
    /// changes its user opens its files after that.
    pub fn can_jail(&self) -> Result<(), String> {
        self.found.jailer.as_ref().map(drop).map_err(Clone::clone)
    }
}

impl Found {
    pub(crate) fn jail(&self) -> Result<Arc<Jail>, String> {
        // Its own program a process finds by /proc, wherever it is.
        let own = Some(&self.own).filter(|own| *own != Path::new(SELF));
        self.jail.get(&own.cloned().into_iter().collect::<Vec<_>>())
    }
}

fn jailer(binary: &Path) -> Result<PathBuf, String> {
    if !geteuid().is_root() {
        return Err("only root may use Firecracker's jailer".to_owned());
    }
    let jailer = binary.with_file_name("jailer");
    if !jailer.is_file() {
        return Err(format!("there is no jailer beside {}", binary.display()));
    }
    match is_static(binary) {
        Ok(true) => Ok(jailer),
        Ok(false) => Err(format!(
            "{} needs shared libraries, which its jailer does not provide",
            binary.display()
        )),
        Err(error) => Err(format!("{} cannot be read: {error}", binary.display())),
    }
}

/// Whether a program asks for no interpreter: elf(5), of 64 bits.
fn is_static(program: &Path) -> io::Result<bool> {
    const PT_INTERP: [u8; 4] = 3_u32.to_le_bytes();
    const HEADERS: u64 = 4096;
    let mut start = Vec::new();
    File::open(program)?.take(HEADERS).read_to_end(&mut start)?;
    let number = |at: usize, bytes: usize| -> Option<usize> {
        let mut word = [0; 8];
        word[..bytes].copy_from_slice(start.get(at..at + bytes)?);
        usize::try_from(u64::from_le_bytes(word)).ok()
    };
    let headers = || {
        let (at, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
        let kind = |index: usize| start.get(at + index * size..)?.get(..4);
        Some((0..count).any(|index| kind(index) == Some(&PT_INTERP[..])))
    };
    match start.starts_with(b"\x7fELF\x02") {
        true => Ok(!headers().unwrap_or(true)),
        false => Err(io::Error::other("it is no program of 64 bits")),
    }
}

fn capabilities(version: &Version) -> Capabilities {
    Capabilities {
        name: NAME,
        architecture: Architecture::OURS,
        accels: vec![Accel::Kvm],
        // MAX_SUPPORTED_VCPUS, of its OpenAPI file.
        max_vcpus: 32,
        min_memory: Bytes::mib(64),
        // It has 19 interrupts for its devices; channel, network, balloon and
        // entropy take one each.
        max_disks: 8,
        user_network: false,
        port_forwards: false,
        taps: true,
        card_limits: true,
        foreign_networks: false,
        channels: vec![ChannelKind::Vsock],
        firmware: false,
        resize_disks: true,
        power_button: false,
        screens: false,
        generation_ids: false,
        snapshots: version.saves(),
        snapshot_channels: vec![ChannelKind::Vsock],
        interactive_console: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_asks_for_an_interpreter_is_not_static() {
        let dir = tempfile::tempdir().unwrap();
        let program = |interpreter: bool| {
            let path = dir.path().join(if interpreter { "dynamic" } else { "static" });
            let mut bytes = vec![0; 64 + 2 * 56];
            bytes[..5].copy_from_slice(b"\x7fELF\x02");
            bytes[32] = 64;
            bytes[54] = 56;
            bytes[56] = 2;
            bytes[64 + 56] = if interpreter { 3 } else { 1 };
            std::fs::write(&path, bytes).unwrap();
            path
        };
        assert!(is_static(&program(false)).unwrap());
        assert!(!is_static(&program(true)).unwrap());
        let text = dir.path().join("text");
        std::fs::write(&text, "#!/bin/sh").unwrap();
        assert!(is_static(&text).is_err());
    }

    #[tokio::test]
    async fn one_that_is_missing_or_too_old_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("firecracker");
        let of = |path: &Path| FirecrackerRuntime::discover(Some(path.to_owned()));
        let error = of(&path).await.unwrap_err();
        assert!(matches!(&error, LaunchError::MissingProgram { .. }), "{error}");
        std::fs::write(&path, "#!/bin/sh\necho 'Firecracker v1.6.2'\n").unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
        let error = of(&path).await.unwrap_err().to_string();
        assert!(error.contains("1.6.2 is older than 1.7"), "{error}");
    }
}
