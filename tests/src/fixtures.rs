//! What the tests boot, made once by `fixtures/make` from the distribution's
//! packages and kept in the target directory by a hash of the recipe.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use sha2::{Digest, Sha256};

/// All that decides what the fixtures are.
const RECIPE: [&str; 2] =
    [include_str!("../fixtures/make"), include_str!("../../scripts/parts.sh")];

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

#[expect(clippy::disallowed_methods, reason = "the fixtures are made by a script")]
fn make() -> PathBuf {
    let recipe = Sha256::digest(RECIPE.concat().as_bytes());
    let key: String = recipe.iter().take(8).map(|b| format!("{b:02x}")).collect();
    let all = target_dir().join("test-fixtures");
    let dir = all.join(&key);
    if dir.join("complete").exists() {
        return dir;
    }
    // Made elsewhere and renamed, so that a run that was cut short leaves none.
    let new = all.join(format!("{key}.new"));
    let _ = std::fs::remove_dir_all(&new);
    std::fs::create_dir_all(&new).unwrap();
    eprintln!("making the fixtures in {}", new.display());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/make");
    let output = Command::new(script).arg(&new).output().unwrap();
    assert!(
        output.status.success(),
        "fixtures/make failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    std::fs::write(new.join("complete"), key).unwrap();
    std::fs::rename(&new, &dir).unwrap();
    dir
}

/// The workspace's target directory: this test lies in its debug/deps.
pub(crate) fn target_dir() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let dir = exe.ancestors().find(|p| p.file_name().is_some_and(|n| n == "deps"));
    dir.and_then(|deps| deps.ancestors().nth(2))
        .unwrap_or_else(|| panic!("{} is not in a cargo target directory", exe.display()))
        .to_owned()
}
