use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::agent::pause;
use crate::program::{command, timed};

const DEADLINE: Duration = Duration::from_secs(30);

/// Debian's docker-registry on a loopback port, unpacked and not installed.
/// Ends with this.
pub(crate) struct Registry {
    process: Child,
    port: u16,
}

impl Registry {
    pub(crate) fn start(dir: &Path) -> anyhow::Result<Self> {
        let program = program()?;
        fs::create_dir_all(dir)?;
        // Free now, and nobody else on loopback is in a hurry for it.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let config = dir.join("config.yml");
        fs::write(
            &config,
            format!(
                "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\n\
                 storage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n",
                dir.join("data").display()
            ),
        )?;
        let log = File::create(dir.join("log"))?;
        let process = command(&program)
            .arg("serve")
            .arg(&config)
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let mut registry = Self { process, port };
        let begin = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = registry.process.try_wait()?;
            if ended.is_some() || begin.elapsed() > DEADLINE {
                let log = fs::read_to_string(dir.join("log")).unwrap_or_default();
                bail!("docker-registry does not answer ({ended:?}):\n{log}");
            }
            pause(Duration::from_millis(20));
        }
        Ok(registry)
    }

    pub(crate) fn reference(&self, tag: &str) -> String {
        format!("127.0.0.1:{}/bench/image:{tag}", self.port)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to end.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Unpacked below `target` from the distribution's package, once.
fn program() -> anyhow::Result<PathBuf> {
    let installed = Path::new("/usr/bin/docker-registry");
    if installed.exists() {
        return Ok(installed.to_owned());
    }
    let dir = Path::new("target/bench-docker-registry");
    let program = dir.join("usr/bin/docker-registry");
    if !program.exists() {
        fs::create_dir_all(dir)?;
        let mut download = command("apt-get");
        download.args(["download", "-qq", "-o", "APT::Sandbox::User=root", "docker-registry"]);
        timed(download.current_dir(dir))?;
        let package = fs::read_dir(dir)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .context("apt-get downloaded no package")?;
        timed(command("dpkg").arg("-x").arg(&package).arg(dir))?;
        fs::remove_file(package)?;
    }
    Ok(program.canonicalize()?)
}
