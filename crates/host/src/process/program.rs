use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

/// An external program, with what brings it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Program {
    name: &'static str,
    origin: Origin,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// A package of Debian's.
    Package(&'static str),
    /// A crate of this version: no distribution of today packages it.
    Crate(&'static str),
}

macro_rules! programs {
    ($($constant:ident = $name:literal in $origin:expr;)*) => {
        impl Program {
            $(pub const $constant: Self = Self { name: $name, origin: $origin };)*

            /// Every program that Innkeeper may call.
            pub const ALL: &[Self] = &[$(Self::$constant),*];
        }
    };
}

programs! {
    QEMU_SYSTEM_X86_64 = "qemu-system-x86_64" in Origin::Package("qemu-system-x86");
    QEMU_IMG = "qemu-img" in Origin::Package("qemu-utils");
    MKFS_EXT4 = "mkfs.ext4" in Origin::Package("e2fsprogs");
    E2FSCK = "e2fsck" in Origin::Package("e2fsprogs");
    RESIZE2FS = "resize2fs" in Origin::Package("e2fsprogs");
    DEBUGFS = "debugfs" in Origin::Package("e2fsprogs");
    BUILDAH = "buildah" in Origin::Package("buildah");
    FIREWALL_CMD = "firewall-cmd" in Origin::Package("firewalld");
    MODPROBE = "modprobe" in Origin::Package("kmod");
    GROUPADD = "groupadd" in Origin::Package("passwd");
    BASH = "bash" in Origin::Package("bash");
    VHOST_DEVICE_VSOCK = "vhost-device-vsock" in Origin::Crate("0.3.0");
}

/// Searched after `PATH`, in which Debian gives ordinary users no sbin, where
/// mkfs.ext4 and e2fsck live.
const SYSTEM_DIRS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

impl Program {
    pub const fn name(self) -> &'static str {
        self.name
    }

    /// What installs it, as a command.
    pub fn install(self) -> String {
        match self.origin {
            Origin::Package(package) => format!("apt-get install {package}"),
            Origin::Crate(version) => {
                format!("cargo install {} --version {version} --locked", self.name)
            }
        }
    }

    /// Its absolute path, by `PATH` and then the system's directories.
    pub fn find(self) -> Result<PathBuf, MissingProgram> {
        self.find_in(&env::var_os("PATH").unwrap_or_default())
    }

    fn find_in(self, path: &OsStr) -> Result<PathBuf, MissingProgram> {
        search(path, self.name).ok_or(MissingProgram {
            program: self.name.to_owned(),
            hint: format!("install it with: {}", self.install()),
        })
    }
}

/// Looks for a program that somebody's configuration names; a name with a
/// slash in it is none.
pub fn find_program(name: &str) -> Option<PathBuf> {
    search(&env::var_os("PATH").unwrap_or_default(), name).filter(|_| !name.contains('/'))
}

fn search(path: &OsStr, name: &str) -> Option<PathBuf> {
    env::split_paths(path)
        .filter(|dir| dir.is_absolute())
        .chain(SYSTEM_DIRS.iter().map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    file.is_file() && access(file, Access::EXEC_OK).is_ok()
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{program} is not installed; {hint}")]
pub struct MissingProgram {
    pub program: String,
    /// What to do about it, as a whole clause.
    pub hint: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn finds_by_path_and_names_the_package_otherwise() {
        const PROGRAM: Program =
            Program { name: "inn-test-program", origin: Origin::Package("inn-test") };
        let dir = tempfile::tempdir().unwrap();
        let error = PROGRAM.find_in(dir.path().as_os_str()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "inn-test-program is not installed; install it with: apt-get install inn-test"
        );

        assert!(
            Program::VHOST_DEVICE_VSOCK.install().starts_with("cargo install vhost-device-vsock")
        );

        let file = dir.path().join("inn-test-program");
        std::fs::write(&file, "").unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
        assert!(PROGRAM.find_in(dir.path().as_os_str()).is_err(), "not executable");
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).unwrap();
        assert_eq!(PROGRAM.find_in(dir.path().as_os_str()), Ok(file));
    }
}
