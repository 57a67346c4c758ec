//! Where an agent keeps its things. The command line asks the same functions,
//! so that both mean the same socket.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use inn_units::{VmId, VmName};

const SYSTEM_DATA: &str = "/var/lib/innkeeper";
const SYSTEM_RUNTIME: &str = "/run/innkeeper";

/// The directories of one agent, absolute.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Paths {
    pub data_dir: PathBuf,
    pub runtime_dir: PathBuf,
    pub image_cache_dir: PathBuf,
}

/// The directories that somebody has named.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    pub data_dir: Option<PathBuf>,
    pub runtime_dir: Option<PathBuf>,
    pub image_cache_dir: Option<PathBuf>,
}

impl Paths {
    /// Root has the system's directories, everybody else XDG's. A data
    /// directory of its own gets a runtime directory of its own, or two
    /// agents would meet there.
    pub fn find(places: Places, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, String> {
        let default_data = default_data(env);
        let data_dir = match places.data_dir {
            Some(dir) => dir,
            None => default_data.clone()?,
        };
        let runtime_dir = match places.runtime_dir {
            Some(dir) => dir,
            None => {
                let default = default_runtime(env);
                if default_data.is_ok_and(|default| default == data_dir) {
                    default
                } else {
                    with_suffix(&default, &data_dir)
                }
            }
        };
        let image_cache_dir = places.image_cache_dir.unwrap_or_else(|| data_dir.join("images"));
        Ok(Self { data_dir, runtime_dir, image_cache_dir })
    }

    /// What tells this agent from others of its host, in names that they
    /// share; `None` is the system's.
    pub fn instance(&self) -> Option<u32> {
        (!is_root() || self.data_dir != Path::new(SYSTEM_DATA)).then(|| hash(&self.data_dir))
    }

    /// The control group of all its machines, a single component.
    pub fn cgroup(&self) -> String {
        match self.instance() {
            None => "innkeeper".to_owned(),
            Some(instance) => format!("innkeeper-{instance:08x}"),
        }
    }

    pub fn api_socket(&self) -> PathBuf {
        self.runtime_dir.join("api.sock")
    }

    pub fn lock(&self) -> PathBuf {
        self.data_dir.join("agent.lock")
    }

    pub fn token(&self) -> PathBuf {
        self.data_dir.join("token")
    }

    /// Kernels that somebody has put there.
    pub fn kernels(&self) -> PathBuf {
        self.data_dir.join("kernels")
    }

    /// The disk that brings the guest agent into full VMs.
    pub fn guest_disk(&self) -> PathBuf {
        self.data_dir.join("guest")
    }

    /// What is made from kernels: extracted ones and initramfs.
    pub fn kernel_cache(&self) -> PathBuf {
        self.image_cache_dir.join("boot")
    }

    pub fn vms(&self) -> PathBuf {
        self.data_dir.join("vms")
    }

    pub fn runs(&self) -> PathBuf {
        self.runtime_dir.join("vms")
    }

    pub fn persist(&self) -> PathBuf {
        self.data_dir.join("persist")
    }

    /// A directory for each, by its id.
    pub fn snapshots(&self) -> PathBuf {
        self.data_dir.join("snapshots")
    }

    /// The same.
    pub fn templates(&self) -> PathBuf {
        self.data_dir.join("templates")
    }

    /// The ledger of what VMs use.
    pub(crate) fn usage(&self) -> PathBuf {
        self.data_dir.join("usage")
    }

    /// What the node signs with.
    pub fn node_key(&self) -> PathBuf {
        self.data_dir.join("node.key")
    }

    /// Disks that a deletion was told to keep.
    pub fn kept(&self) -> PathBuf {
        self.data_dir.join("kept")
    }

    pub fn persist_disk(&self, name: &VmName) -> PathBuf {
        self.persist().join(format!("{name}.img"))
    }

    pub fn of_vm(&self, id: VmId) -> VmPaths {
        VmPaths { dir: self.vms().join(id.to_string()), run_dir: self.runs().join(id.to_string()) }
    }
}

/// The files of one VM; all their names come from its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmPaths {
    pub dir: PathBuf,
    /// Sockets, and whatever else ends with the machine.
    pub run_dir: PathBuf,
}

impl VmPaths {
    pub fn disk(&self) -> PathBuf {
        self.dir.join("rw.img")
    }

    /// What it was saved as when idle.
    pub fn asleep(&self) -> PathBuf {
        self.dir.join("asleep")
    }

    /// What cloud-init is told. It may hold secrets: its owner alone reads it.
    pub fn seed(&self) -> PathBuf {
        self.dir.join("seed.iso")
    }

    pub fn logs(&self) -> PathBuf {
        self.dir.join("logs")
    }

    pub fn console_log(&self) -> PathBuf {
        self.logs().join("console.log")
    }

    pub fn workload_log(&self) -> PathBuf {
        self.logs().join("workload.log")
    }

    /// What the agent's log says of it.
    pub fn agent_log(&self) -> PathBuf {
        self.logs().join("agent.log")
    }

    /// Where a VMM writes what it has to say itself.
    pub fn vmm_log(&self) -> PathBuf {
        self.run_dir.join("vmm.log")
    }
}

fn default_data(env: &dyn Fn(&str) -> Option<String>) -> Result<PathBuf, String> {
    if is_root() {
        return Ok(SYSTEM_DATA.into());
    }
    if let Some(dir) = absolute(env("XDG_DATA_HOME")) {
        return Ok(dir.join("innkeeper"));
    }
    // XDG base directory spec 0.8: $HOME/.local/share.
    absolute(env("HOME")).map(|home| home.join(".local/share/innkeeper")).ok_or_else(|| {
        "there is no place for the agent's data: HOME is not set; set data_dir or INN_DATA_DIR"
            .to_owned()
    })
}

fn default_runtime(env: &dyn Fn(&str) -> Option<String>) -> PathBuf {
    if is_root() {
        return SYSTEM_RUNTIME.into();
    }
    match absolute(env("XDG_RUNTIME_DIR")) {
        Some(dir) => dir.join("innkeeper"),
        // No session manager has made one: a name that nobody else takes,
        // and that the agent refuses unless it is its own.
        None => PathBuf::from(format!("/tmp/innkeeper-{}", rustix::process::getuid().as_raw())),
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn absolute(value: Option<String>) -> Option<PathBuf> {
    value.map(PathBuf::from).filter(|path| path.is_absolute())
}

fn hash(data_dir: &Path) -> u32 {
    let hash = twox_hash::XxHash3_64::oneshot(data_dir.as_os_str().as_bytes());
    u32::try_from(hash >> 32).unwrap_or_default()
}

fn with_suffix(default: &Path, data_dir: &Path) -> PathBuf {
    let hash = hash(data_dir);
    let mut name = default.as_os_str().to_owned();
    name.push(format!("-{hash:08x}"));
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_data_directory_has_sockets_of_its_own() {
        let env = |name: &str| {
            Some(format!("/x/{}", name.to_ascii_lowercase())).filter(|_| name.starts_with("XDG"))
        };
        let default = Paths::find(Places::default(), &env).unwrap();
        let of = |dir: &str| {
            let places = Places { data_dir: Some(dir.into()), ..Places::default() };
            Paths::find(places, &env).unwrap()
        };
        let same = of(default.data_dir.to_str().unwrap());
        assert_eq!(same, default);
        let (a, b) = (of("/srv/a"), of("/srv/b"));
        assert_eq!(a, of("/srv/a"));
        assert_ne!(a.api_socket(), b.api_socket());
        assert_ne!(a.api_socket(), default.api_socket());
        assert_eq!(a.image_cache_dir, Path::new("/srv/a/images"));
        let text = a.runtime_dir.to_str().unwrap();
        let base = default.runtime_dir.to_str().unwrap();
        assert_eq!(text.len(), base.len() + 9, "{text}");
    }

    #[test]
    fn a_named_runtime_directory_is_taken_as_it_is() {
        let places = Places {
            data_dir: Some("/srv/a".into()),
            runtime_dir: Some("/run/a".into()),
            image_cache_dir: Some("/cache".into()),
        };
        let paths = Paths::find(places, &|_| None).unwrap();
        assert_eq!(paths.api_socket(), Path::new("/run/a/api.sock"));
        assert_eq!(paths.kernel_cache(), Path::new("/cache/boot"));
    }
}
