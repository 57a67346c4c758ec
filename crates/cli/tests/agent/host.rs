//! A host of its own for one test: directories, an image, and `inn` on them.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

#[derive(Debug)]
pub(crate) struct Host {
    dir: TempDir,
}

impl Host {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary directory") }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    #[expect(clippy::disallowed_methods, reason = "tests start the program under test")]
    pub(crate) fn inn(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_inn"));
        command
            .args(words)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("INN_DATA_DIR", self.data())
            .env("INN_RUNTIME_DIR", self.dir.path().join("run"))
            .env("INN_API_LISTEN", "none")
            .env("INN_SIM_ENABLED", "true")
            .env("INN_NETWORK_MODE", "user")
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub(crate) fn start(&self, words: &[&str]) -> Child {
        self.inn(words).spawn().expect("inn is built")
    }

    pub(crate) fn output(&self, words: &[&str]) -> Said {
        Said::from(self.start(words).wait_with_output().expect("inn ends"))
    }

    /// Its stdout, where it has to succeed.
    #[track_caller]
    pub(crate) fn ok(&self, words: &[&str]) -> String {
        let said = self.output(words);
        assert_eq!(said.code, Some(0), "inn {words:?}: {said:?}");
        said.stdout
    }

    pub(crate) fn agent(&self) -> Option<Pid> {
        let holder = std::fs::read_to_string(self.data().join("agent.lock")).ok()?;
        Pid::from_raw(holder.trim().parse().ok()?)
    }

    /// Imports the smallest image there is, under the name `tiny`.
    pub(crate) fn import(&self) {
        let layout = self.path().join("layout");
        write_layout(&layout);
        self.ok(&["image", "import", "-q", "./layout", "--name", "tiny"]);
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(agent) = self.agent() {
            // It may never have started, or been ended by the test.
            let _ = kill_process(agent, Signal::KILL);
        }
    }
}

#[derive(Debug)]
pub(crate) struct Said {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// An OCI layout (image spec 1.1, image-layout.md) of one uncompressed layer.
fn write_layout(dir: &Path) {
    let blobs = dir.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).expect("a fresh directory");
    let blob = |bytes: &[u8]| -> (String, usize) {
        let hex: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
        std::fs::write(blobs.join(&hex), bytes).expect("a fresh file");
        (format!("sha256:{hex}"), bytes.len())
    };
    let mut layer = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(5);
    layer.append_data(&mut header, "etc/marker", &b"tiny\n"[..]).expect("memory");
    let (layer, layer_size) = blob(&layer.into_inner().expect("memory"));
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux",
        "config": { "Cmd": ["echo", "from the image"] },
        "rootfs": { "type": "layers", "diff_ids": [layer] },
    });
    let (config, config_size) = blob(config.to_string().as_bytes());
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": config, "size": config_size,
        },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": layer, "size": layer_size,
        }],
    });
    let (manifest, manifest_size) = blob(manifest.to_string().as_bytes());
    let index = serde_json::json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": manifest, "size": manifest_size,
        }],
    });
    let write = |name: &str, text: String| {
        let mut file = std::fs::File::create(dir.join(name)).expect("a fresh file");
        file.write_all(text.as_bytes()).expect("room on the disk");
    };
    write("index.json", index.to_string());
    write("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#.to_owned());
}
