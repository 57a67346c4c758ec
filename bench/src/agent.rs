use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use inn_client::Client;
use tokio::runtime::Runtime;

use crate::Bench;
use crate::base::Base;
use crate::program::{command, timed};

/// An agent of our own, with a data directory of its own. Ends with this.
pub(crate) struct Agent {
    process: Child,
    /// It was ended, and its VMs run on.
    paused: bool,
    inn: PathBuf,
    dir: PathBuf,
    /// In front of PATH.
    path: Option<PathBuf>,
    runtime: Runtime,
    client: Client,
}

/// A first start makes keys and a database.
const START_DEADLINE: Duration = Duration::from_secs(60);
const END_DEADLINE: Duration = Duration::from_secs(60);

/// How often a condition that tells nobody is looked at.
const GLANCE: Duration = Duration::from_millis(5);

impl Agent {
    /// `name` is its directory's in the bench's own.
    pub(crate) fn start(bench: &Bench, name: &str, config: &str) -> anyhow::Result<Self> {
        Self::start_with_path(bench, name, config, None)
    }

    /// With this directory in front of those that programs are looked for in.
    pub(crate) fn start_with_path(
        bench: &Bench,
        name: &str,
        config: &str,
        path: Option<&Path>,
    ) -> anyhow::Result<Self> {
        let dir = bench.work.path().join(name);
        fs::create_dir_all(dir.join("data"))?;
        let kernels = bench.options.kernels.canonicalize().with_context(|| {
            format!("{} is not there: give --kernels", bench.options.kernels.display())
        })?;
        std::os::unix::fs::symlink(kernels, dir.join("data/kernels"))?;
        let config_path = dir.join("agent.toml");
        let accel = bench.options.accel.name();
        // The machine's own network stays as it is; who says another mode is in
        // a namespace.
        let network =
            if config.contains("[network]") { "" } else { "\n[network]\nmode = \"user\"\n" };
        // The same of what begins otherwise than by a boot.
        let templates =
            if config.contains("[templates]") { "" } else { "\n[templates]\nenabled = false\n" };
        let text = format!("accel = \"{accel}\"\n{config}{network}{templates}");
        fs::write(&config_path, text)?;
        let path = path.map(Path::to_owned);
        let process = spawn(&bench.options.inn, &dir, path.as_deref())?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let client = Client::unix(dir.join("run/api.sock"));
        let inn = bench.options.inn.clone();
        let mut agent = Self { process, paused: false, inn, dir, path, runtime, client };
        agent.wait_until_it_answers()?;
        Ok(agent)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// The command line `inn ARGS`, talking to this agent.
    pub(crate) fn inn(&self, args: &[&str]) -> Command {
        let mut inn = command(&self.inn);
        environment(&mut inn, &self.dir).args(args);
        inn
    }

    pub(crate) fn import(&self, base: &Base, name: &str) -> anyhow::Result<Duration> {
        timed(self.inn(&["image", "import", "--name", name]).arg(&base.layout))
    }

    fn wait_until_it_answers(&mut self) -> anyhow::Result<()> {
        let begin = Instant::now();
        loop {
            if self.runtime.block_on(self.client.vms()).is_ok() {
                return Ok(());
            }
            let ended = self.process.try_wait()?;
            if ended.is_some() || begin.elapsed() > START_DEADLINE {
                let log = fs::read_to_string(self.dir.join("agent.log")).unwrap_or_default();
                bail!("the agent does not answer ({ended:?}):\n{log}");
            }
            pause(GLANCE);
        }
    }

    /// Ends it, which leaves its VMs running.
    pub(crate) fn pause_agent(&mut self) -> anyhow::Result<()> {
        self.paused = true;
        self.terminate()
    }

    /// Ends it by SIGKILL, which leaves its VMs running, too.
    pub(crate) fn kill_agent(&mut self) -> anyhow::Result<()> {
        self.paused = true;
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }

    pub(crate) fn resume_agent(&mut self) -> anyhow::Result<()> {
        self.process = spawn(&self.inn, &self.dir, self.path.as_deref())?;
        self.paused = false;
        self.wait_until_it_answers()
    }

    /// Has it read its configuration anew, with this in front of it.
    pub(crate) fn reconfigure(&self, more: &str) -> anyhow::Result<()> {
        let path = self.dir.join("agent.toml");
        let text = fs::read_to_string(&path)?;
        fs::write(&path, format!("{more}\n{text}"))?;
        timed(&mut self.inn(&["agent", "reload"])).map(drop)
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// What it has logged, a JSON object a line.
    pub(crate) fn log(&self) -> anyhow::Result<Vec<serde_json::Value>> {
        let text = fs::read_to_string(self.dir.join("agent.log"))?;
        Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    /// The one VM's socket of this name.
    pub(crate) fn find_socket(&self, name: &str) -> anyhow::Result<PathBuf> {
        for entry in fs::read_dir(self.dir.join("run/vms"))? {
            let socket = entry?.path().join(name);
            if socket.exists() {
                return Ok(socket);
            }
        }
        bail!("no VM has a socket {name}")
    }

    fn end(&mut self) -> anyhow::Result<()> {
        if self.paused {
            self.resume_agent()?;
        }
        timed(&mut self.inn(&["vm", "delete", "--all", "--force"]))?;
        self.terminate()
    }

    fn terminate(&mut self) -> anyhow::Result<()> {
        let pid = i32::try_from(self.process.id()).ok().and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(pid.context("no pid")?, rustix::process::Signal::TERM)?;
        let begin = Instant::now();
        while self.process.try_wait()?.is_none() {
            if begin.elapsed() > END_DEADLINE {
                bail!("the agent does not end");
            }
            pause(GLANCE);
        }
        Ok(())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Err(e) = self.end() {
            eprintln!("ending the agent: {e:#}");
            // Nothing is left to try if this fails, too: it is gone already.
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
        if let Err(e) = fs::remove_dir_all(&self.dir) {
            eprintln!("removing {}: {e}", self.dir.display());
        }
    }
}

fn spawn(inn: &Path, dir: &Path, path: Option<&Path>) -> anyhow::Result<Child> {
    let log = File::options().create(true).append(true).open(dir.join("agent.log"))?;
    let mut agent = command(inn);
    environment(&mut agent, dir);
    if let Some(first) = path {
        let mut all = first.as_os_str().to_owned();
        all.push(":");
        all.push(std::env::var_os("PATH").unwrap_or_default());
        agent.env("PATH", all);
    }
    agent
        .arg("agent")
        .arg("--config")
        .arg(dir.join("agent.toml"))
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot start {}", inn.display()))
}

fn environment<'a>(command: &'a mut Command, dir: &Path) -> &'a mut Command {
    command
        .env("INN_DATA_DIR", dir.join("data"))
        .env("INN_RUNTIME_DIR", dir.join("run"))
        .env("INN_API_LISTEN", "none")
        .env("INN_AUTOSTART", "0")
        .env_remove("INN_NETWORK_MODE")
        // It would go before the configuration's, and a jailer may be beside it.
        .env_remove("INN_FIRECRACKER")
        .env_remove("INN_SOCKET")
}

#[expect(
    clippy::disallowed_methods,
    reason = "a process of another program tells nobody of its progress"
)]
pub(crate) fn pause(duration: Duration) {
    std::thread::sleep(duration);
}
