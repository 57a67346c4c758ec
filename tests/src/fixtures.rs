//! What the tests boot, made once by `fixtures/make` and `fixtures/make-debian`
//! from the distribution's packages and kept in the target directory by a hash
//! of the recipe.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use sha2::{Digest, Sha256};

use crate::leftovers;

/// All that decides what the fixtures are.
const RECIPE: [&str; 3] = [
    include_str!("../fixtures/make"),
    include_str!("../../scripts/parts.sh"),
    include_str!("../../packaging/languages/build"),
];

#[derive(Debug)]
pub struct Fixtures {
    dir: PathBuf,
}

impl Fixtures {
    /// Makes them if they are not there. Panics with what failed.
    pub fn get() -> &'static Self {
        static MADE: OnceLock<Fixtures> = OnceLock::new();
        MADE.get_or_init(|| Self { dir: make() })
    }

    /// An OCI layout with the references base, mini, configured and multi.
    pub fn layout(&self) -> PathBuf {
        self.dir.join("oci")
    }

    /// The image mini as an OCI archive, by skopeo.
    pub fn oci_archive(&self) -> PathBuf {
        self.dir.join("mini.oci.tar")
    }

    /// The image mini as `docker save` writes it, by skopeo.
    pub fn docker_archive(&self) -> PathBuf {
        self.dir.join("mini.docker.tar")
    }

    /// An OCI layout of the image mini with zstd layers, by skopeo.
    pub fn zstd_layout(&self) -> PathBuf {
        self.dir.join("zstd")
    }

    /// What `umoci unpack` makes of the image multi.
    pub fn unpacked_multi(&self) -> PathBuf {
        self.dir.join("multi")
    }

    /// Directories of unpacked kernels, one for each version.
    pub fn kernels(&self) -> PathBuf {
        self.dir.join("kernels")
    }

    /// The kernel's own file.
    pub fn vmlinuz(&self) -> PathBuf {
        let version = only_entry(&self.kernels());
        let boot = version.join("boot");
        let files = std::fs::read_dir(&boot).unwrap().map(|e| e.unwrap().path());
        files
            .into_iter()
            .find(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("vmlinuz-")))
            .unwrap_or_else(|| panic!("no vmlinuz in {}", boot.display()))
    }
}

fn only_entry(dir: &Path) -> PathBuf {
    let mut entries = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    entries.next().unwrap_or_else(|| panic!("{} is empty", dir.display()))
}

fn make() -> PathBuf {
    let dir = all_fixtures().join(key_of(&RECIPE));
    if !dir.join("complete").exists() {
        made_aside(&dir, |new| {
            run_script("make", [new.as_os_str()]);
            std::fs::write(new.join("complete"), "").unwrap();
        });
    }
    dir
}

/// All that decides what the Debian is, but for the agent in it.
const DEBIAN_RECIPE: [&str; 2] =
    [include_str!("../fixtures/make-debian"), include_str!("../../scripts/parts.sh")];

/// A Debian that boots by itself, with systemd, an ssh server, the guest agents
/// of Innkeeper and of QEMU, and the user `app` in the group `extra`.
#[derive(Debug)]
pub struct Debian {
    dir: PathBuf,
    /// Raw and sparse, its one partition starting at a mebibyte.
    pub raw: PathBuf,
}

impl Debian {
    /// Makes it if it is not there, or if `inn` exports another guest agent.
    pub fn get(inn: &Path) -> Self {
        let dir = debian();
        let raw = dir.join(format!("{}.img", key_of_agent(inn)));
        if !raw.exists() {
            made_aside(&raw, |new| {
                let arguments =
                    ["--disk".as_ref(), dir.as_os_str(), new.as_os_str(), inn.as_os_str()];
                run_script("make-debian", arguments);
            });
            remove_other_disks(&dir, &raw);
        }
        Self { dir, raw }
    }

    /// The same as a compressed qcow2.
    #[expect(clippy::disallowed_methods, reason = "the fixtures are made by programs")]
    pub fn qcow2(&self) -> PathBuf {
        let qcow2 = self.raw.with_extension("qcow2");
        if !qcow2.exists() {
            made_aside(&qcow2, |new| {
                let mut convert = Command::new("qemu-img");
                convert.args(["convert", "-q", "-c", "-f", "raw", "-O", "qcow2"]);
                let status = convert.arg(&self.raw).arg(new).status().unwrap();
                assert!(status.success(), "qemu-img makes no qcow2");
            });
        }
        qcow2
    }

    /// The private key that logs root in.
    pub fn ssh_key(&self) -> PathBuf {
        self.dir.join("ssh_key")
    }
}

/// What a Debian's disks are made from.
fn debian() -> PathBuf {
    let dir = all_fixtures().join(format!("debian-{}", key_of(&DEBIAN_RECIPE)));
    if !dir.join("complete").exists() {
        made_aside(&dir, |new| {
            run_script("make-debian", [new.as_os_str()]);
            std::fs::write(new.join("complete"), "").unwrap();
        });
    }
    dir
}

/// All that decides what the cloud image is.
const CLOUD_RECIPE: [&str; 3] = [
    include_str!("../fixtures/make-cloud"),
    include_str!("../fixtures/make-debian"),
    include_str!("../../scripts/parts.sh"),
];

/// A Debian as clouds have it: with cloud-init, without an agent or a user.
#[derive(Debug)]
pub struct CloudImage {
    /// Raw and sparse, its one partition starting at a mebibyte.
    pub raw: PathBuf,
}

impl CloudImage {
    /// Makes it if it is not there.
    pub fn get() -> Self {
        let raw = all_fixtures().join(format!("cloud-{}.img", key_of(&CLOUD_RECIPE)));
        if !raw.exists() {
            let boot = debian().join("boot.img");
            made_aside(&raw, |new| run_script("make-cloud", [new.as_os_str(), boot.as_os_str()]));
        }
        Self { raw }
    }
}

/// All that decides what the guest of another architecture is.
const ARM64_RECIPE: [&str; 2] =
    [include_str!("../fixtures/make-arm64"), include_str!("../../scripts/parts.sh")];

/// A guest of another architecture than the host's: what it takes to run one
/// under libvirt, and a disk that its firmware boots.
#[derive(Debug)]
pub struct Arm64 {
    dir: PathBuf,
}

impl Arm64 {
    /// Makes it if it is not there. The host's package archive may have none:
    /// why not.
    pub fn get() -> Result<Self, String> {
        let dir = all_fixtures().join(format!("arm64-{}", key_of(&ARM64_RECIPE)));
        if !dir.exists() {
            try_aside(&dir, |new| {
                try_script("make-arm64", [new.as_os_str()]).inspect_err(|_| {
                    let _ = std::fs::remove_dir_all(new);
                })
            })?;
        }
        Ok(Self { dir })
    }

    /// Where QEMU and its firmware were unpacked.
    pub fn host(&self) -> PathBuf {
        self.dir.join("host")
    }

    /// The disk.
    pub fn disk(&self) -> PathBuf {
        self.dir.join("guest.img")
    }
}

/// Each build of `inn` has a disk of its own, of which only the last is kept.
fn remove_other_disks(dir: &Path, raw: &Path) {
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        let disk = path.extension().is_some_and(|e| e == "img" || e == "qcow2");
        if disk && path.file_name() != Some("boot.img".as_ref()) && path != raw {
            // Another run of the suite may have done so.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn all_fixtures() -> PathBuf {
    let all = target_dir().join("test-fixtures");
    std::fs::create_dir_all(&all).unwrap();
    all
}

/// Makes it elsewhere and renames it, so that a run that was cut short leaves
/// none, and one that another run has made meanwhile stays.
fn made_aside(target: &Path, make: impl FnOnce(&Path)) {
    let made = try_aside(target, |new| {
        make(new);
        Ok(())
    });
    made.expect("it fails by a panic alone");
}

fn try_aside(target: &Path, make: impl FnOnce(&Path) -> Result<(), String>) -> Result<(), String> {
    let mut name = target.file_name().unwrap().to_owned();
    name.push(format!(".new-{}", std::process::id()));
    let new = target.with_file_name(name);
    eprintln!("making {}", target.display());
    make(&new)?;
    if std::fs::rename(&new, target).is_err() {
        assert!(target.exists(), "{} cannot be put in its place", new.display());
        std::fs::remove_dir_all(&new).unwrap();
    }
    Ok(())
}

fn run_script<A: AsRef<OsStr>>(name: &str, arguments: impl IntoIterator<Item = A>) {
    try_script(name, arguments).unwrap_or_else(|said| panic!("fixtures/{name} failed: {said}"));
}

#[expect(clippy::disallowed_methods, reason = "the fixtures are made by scripts")]
fn try_script<A: AsRef<OsStr>>(
    name: &str,
    arguments: impl IntoIterator<Item = A>,
) -> Result<(), String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name);
    let output = Command::new(script).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    output.status.success().then_some(()).ok_or_else(|| said.into_owned())
}

fn key_of(recipe: &[&str]) -> String {
    hex(&Sha256::digest(recipe.concat().as_bytes()))
}

/// Of the files that `inn guest export` writes: `inn` itself changes more often.
#[expect(clippy::disallowed_methods, reason = "asks the program under test")]
fn key_of_agent(inn: &Path) -> String {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(inn).args(["guest", "export"]).arg(dir.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "inn guest export failed: {said}");
    let files = leftovers::files_below(dir.path());
    assert!(!files.is_empty(), "inn guest export has written nothing");
    let mut sum = Sha256::new();
    for file in files {
        sum.update(file.as_os_str().as_encoded_bytes());
        // A link to nowhere, as units are enabled by, counts by its name.
        sum.update(std::fs::read(dir.path().join(file)).unwrap_or_default());
    }
    hex(&sum.finalize())
}

/// Enough of a hash for a name.
fn hex(sum: &[u8]) -> String {
    sum.iter().take(8).map(|b| format!("{b:02x}")).collect()
}

/// The workspace's target directory: this test lies in its debug/deps.
pub fn target_dir() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let dir = exe.ancestors().find(|p| p.file_name().is_some_and(|n| n == "deps"));
    dir.and_then(|deps| deps.ancestors().nth(2))
        .unwrap_or_else(|| panic!("{} is not in a cargo target directory", exe.display()))
        .to_owned()
}
