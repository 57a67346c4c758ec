//! A host of the tests' own: directories, an agent, and proof that nothing of
//! it is left.
//!
//! ```text
//!   Host::up ── agent runs ──(kill_agent, start_agent)*── finish
//!                                                            │ deletes VMs, ends the agent,
//!                                                            ▼ asserts that nothing is left
//! ```
//!
//! Dropping a host finishes it too, unless its test is failing already: then
//! what is left is removed without a word, so that the first failure is the
//! one that is read.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::netns::Netns;
use crate::process::{Inn, Output, Running};
use crate::{Fixtures, api, leftovers, wait};

#[derive(Debug)]
pub struct Host {
    dir: tempfile::TempDir,
    agent: Mutex<Option<Running>>,
    accel: &'static str,
    /// Where its agents and commands find programs.
    search_path: OsString,
    finished: bool,
    /// What has its agents run in a network of their own.
    entrance: Option<(&'static str, Vec<String>)>,
    /// `network.mode`, there.
    mode: &'static str,
    /// Whether its agents make templates.
    templates: bool,
}

impl Host {
    /// A host with a kernel and the image `mini`, whose agent runs.
    pub fn up() -> Self {
        let host = Self::bare();
        host.start_agent();
        host.import("mini");
        host
    }

    /// A host with a kernel, no image and no agent.
    pub fn bare() -> Self {
        let dir = tempfile::Builder::new().prefix("inn-e2e-").tempdir().unwrap();
        let host = Self {
            dir,
            agent: Mutex::new(None),
            accel: "tcg",
            search_path: search_path(),
            finished: false,
            entrance: None,
            mode: "bridge",
            templates: false,
        };
        for part in [host.data(), host.run_dir(), host.tmp(), host.home()] {
            std::fs::create_dir_all(part).unwrap();
        }
        std::os::unix::fs::symlink(Fixtures::get().kernels(), host.data().join("kernels")).unwrap();
        host
    }

    /// Has no program be found but those of the system's own directories, and
    /// so no VMM: for hosts whose machines are simulated.
    #[must_use]
    pub fn without_vmm(mut self) -> Self {
        self.search_path = "/nonexistent".into();
        self
    }

    /// Has programs of this directory be found before others.
    #[must_use]
    pub fn with_programs(mut self, dir: &Path) -> Self {
        let paths = std::iter::once(dir.to_owned()).chain(std::env::split_paths(&self.search_path));
        self.search_path = std::env::join_paths(paths).unwrap();
        self
    }

    /// The API's.
    pub fn socket(&self) -> PathBuf {
        self.run_dir().join("api.sock")
    }

    /// Has KVM probed as it is by default, before an agent has run.
    #[must_use]
    pub fn probing_kvm(mut self) -> Self {
        self.accel = "auto";
        self
    }

    /// Has machines run under KVM without a look whether that works.
    #[must_use]
    pub fn with_kvm(mut self) -> Self {
        self.accel = "kvm";
        self
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    pub fn run_dir(&self) -> PathBuf {
        self.path().join("run")
    }

    /// The agent's configuration, where a test writes one.
    pub fn config(&self) -> PathBuf {
        self.path().join("agent.toml")
    }

    /// For a test's own files.
    pub fn home(&self) -> PathBuf {
        self.path().join("home")
    }

    pub fn tmp(&self) -> PathBuf {
        self.path().join("tmp")
    }

    /// An invocation of `inn` on this host. No agent is started by it.
    pub fn inn<A: Into<OsString>>(&self, args: impl IntoIterator<Item = A>) -> Inn {
        let mut inn = Inn::new(binary(), args.into_iter().map(Into::into).collect());
        for (key, value) in self.environment() {
            inn = inn.env(key, value);
        }
        inn.dir(&self.home())
    }

    fn environment(&self) -> Vec<(&'static str, OsString)> {
        vec![
            ("PATH", self.search_path.clone()),
            ("HOME", self.home().into()),
            ("TMPDIR", self.tmp().into()),
            ("INN_DATA_DIR", self.data().into()),
            ("INN_RUNTIME_DIR", self.run_dir().into()),
            ("INN_API_LISTEN", "127.0.0.1:0".into()),
            ("INN_AUTOSTART", "0".into()),
            // The machine's own network stays as it is.
            ("INN_NETWORK_MODE", "user".into()),
            // The probe costs seconds where KVM hangs; it has a test of its own.
            ("INN_ACCEL", self.accel.into()),
        ]
    }

    /// Starts the agent and waits until it answers.
    pub fn start_agent(&self) {
        *self.agent.lock().unwrap() = Some(self.agent_command().start());
        wait::until("the agent answers", || {
            let list = self.inn(["vm", "list"]).output();
            if list.code != Some(0) {
                self.assert_agent_lives();
                return None;
            }
            Some(())
        });
    }

    /// The agent as this host starts it.
    pub fn agent_command(&self) -> Inn {
        let config = self.config();
        let agent = self.inn(["agent", "--log-level", "debug"]);
        // What is about them says so: all else is about VMs that boot.
        let agent = match self.templates {
            true => agent.env("INN_TEMPLATES_POOL_MEMORY", "1GiB"),
            false => agent.env("INN_TEMPLATES_ENABLED", "false"),
        };
        let agent = match config.exists() {
            true => agent.args(["--config".as_ref(), config.as_os_str()]),
            false => agent,
        };
        let Some((nsenter, before)) = &self.entrance else { return agent };
        let before: Vec<&str> = before.iter().map(String::as_str).collect();
        agent.env("INN_NETWORK_MODE", self.mode).under(nsenter, &before)
    }

    /// Whose agents make templates, and clones of them that wait.
    #[must_use]
    pub fn with_templates(mut self) -> Self {
        self.templates = true;
        self
    }

    /// Gives its agents a network of their own, which outlives them, and
    /// bridges in it.
    #[must_use]
    pub fn with_bridges(mut self, netns: &Netns) -> Self {
        self.entrance = Some(netns.entrance());
        self
    }

    /// The same without bridges.
    #[must_use]
    pub fn with_user_network(mut self, netns: &Netns) -> Self {
        self.mode = "user";
        self.with_bridges(netns)
    }

    /// Has an agent that was started otherwise be this host's.
    pub fn take_agent(&self, agent: Running) {
        *self.agent.lock().unwrap() = Some(agent);
    }

    /// The other way round.
    pub fn give_agent(&self) -> Running {
        self.agent.lock().unwrap().take().expect("an agent runs")
    }

    fn assert_agent_lives(&self) {
        // Not under the lock, which the host's end takes once more.
        let ended = self.agent.lock().unwrap().take_if(Running::has_ended);
        if let Some(agent) = ended {
            panic!("the agent ended: {}", agent.wait(wait::PATIENCE));
        }
    }

    pub fn has_agent(&self) -> bool {
        self.agent.lock().unwrap().is_some()
    }

    pub fn agent_pid(&self) -> u32 {
        self.agent.lock().unwrap().as_ref().expect("an agent runs").pid()
    }

    /// `kill -9`, and gone when this returns.
    pub fn kill_agent(&self) -> Output {
        self.end_agent(Signal::KILL)
    }

    /// An orderly end, as systemd asks for it.
    pub fn stop_agent(&self) -> Output {
        self.end_agent(Signal::TERM)
    }

    fn end_agent(&self, signal: Signal) -> Output {
        let agent = self.agent.lock().unwrap().take().expect("an agent runs");
        agent.signal(signal);
        agent.wait(wait::PATIENCE)
    }

    /// Imports an image of the fixtures' layout under its own name.
    pub fn import(&self, name: &str) {
        let layout = Fixtures::get().layout();
        let args: [OsString; 7] = [
            "image".into(),
            "import".into(),
            layout.into(),
            "--reference".into(),
            name.into(),
            "--name".into(),
            name.into(),
        ];
        self.inn(args).ok();
    }

    /// What `vm show -o json` says of one VM.
    #[track_caller]
    pub fn show(&self, vm: &str) -> serde_json::Value {
        let shown = self.inn(["vm", "show", "-o", "json", vm]).json();
        match shown {
            serde_json::Value::Array(mut all) if all.len() == 1 => all.remove(0),
            other => other,
        }
    }

    /// Every VM there is, by `vm list --all`.
    #[track_caller]
    pub fn list(&self) -> Vec<serde_json::Value> {
        let list = self.inn(["vm", "list", "--all", "-o", "json"]).json();
        list.as_array().unwrap_or_else(|| panic!("not an array: {list}")).clone()
    }

    /// Waits until no VM is known and no machine runs.
    #[track_caller]
    pub fn until_empty(&self) {
        wait::until("no VM and no machine is left", || {
            (self.list().is_empty() && leftovers::machines_of(self.path()).is_empty()).then_some(())
        });
        self.assert_no_vm_files();
    }

    /// What the data directory holds, but for SQLite's files and what is made
    /// from kernels, which an idle agent may be at work on.
    pub fn kept_files(&self) -> Vec<PathBuf> {
        let mut all = leftovers::files_below(&self.data());
        all.retain(|f| !f.starts_with("images/boot") && !f.to_string_lossy().contains(".db"));
        all
    }

    /// Asserts that no file, socket or directory of a VM is there.
    #[track_caller]
    pub fn assert_no_vm_files(&self) {
        for dir in [self.data().join("vms"), self.run_dir().join("vms")] {
            let left = leftovers::entries_of(&dir);
            assert!(left.is_empty(), "left in {}: {left:?}", dir.display());
        }
    }

    /// What `GET /api/node` says, by the agent's socket.
    #[track_caller]
    pub fn node(&self) -> serde_json::Value {
        let answer = api::get(&self.socket(), "/api/node").unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    /// `host:port` of the agent's TCP listener.
    #[track_caller]
    pub fn api_address(&self) -> String {
        let node = self.node();
        node["apiListen"].as_str().unwrap_or_else(|| panic!("no apiListen in {node}")).to_owned()
    }

    /// Puts the data directory on a file system of its own of that size, as
    /// tmpfs takes it, before an agent has run.
    pub fn on_small_disk(&self, size: &str) -> SmallDisk {
        let dir = self.data();
        let kernels = std::fs::read_link(dir.join("kernels")).unwrap();
        let options = std::ffi::CString::new(format!("size={size},mode=0700")).unwrap();
        rustix::mount::mount(
            "inn-e2e",
            &dir,
            "tmpfs",
            rustix::mount::MountFlags::empty(),
            options.as_c_str(),
        )
        .unwrap();
        std::os::unix::fs::symlink(kernels, dir.join("kernels")).unwrap();
        SmallDisk { dir }
    }

    /// Deletes the VMs, ends the agent and asserts that nothing is left.
    pub fn finish(mut self) {
        self.finished = true;
        self.end(true);
    }

    /// The same for a host that is shared and cannot be given away.
    pub fn end_and_check(&self) {
        self.end(true);
        std::fs::remove_dir_all(self.path()).unwrap();
    }

    fn end(&self, check: bool) {
        let running = self.agent.lock().unwrap().is_some();
        if running {
            let cleaned = self.inn(["vm", "clean", "--all"]).output();
            let stopped = self.stop_agent();
            if check {
                assert_eq!(cleaned.code, Some(0), "{cleaned}");
                assert_eq!(stopped.code, Some(0), "the agent: {stopped}");
            }
        }
        if check {
            self.assert_nothing_left();
        }
        for process in leftovers::processes_of(self.path()) {
            if let Some(pid) = i32::try_from(process.pid).ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }

    fn assert_nothing_left(&self) {
        // A process that was just told to end may still be seen for a moment.
        let processes = || leftovers::processes_of(self.path());
        if wait::within(Duration::from_secs(10), || processes().is_empty().then_some(())).is_none()
        {
            panic!("processes left: {:#?}", processes());
        }
        assert_eq!(leftovers::mounts_of(self.path()), Vec::<String>::new(), "mounts left");
        assert_eq!(leftovers::sockets_of(self.path()), Vec::<String>::new(), "sockets left");
        assert_eq!(leftovers::files_below(&self.tmp()), Vec::<PathBuf>::new(), "temporary files");
        assert_eq!(leftovers::files_below(&self.run_dir()), Vec::<PathBuf>::new(), "runtime files");
        assert_eq!(leftovers::files_below(&self.data().join("persist")), Vec::<PathBuf>::new());
        self.assert_no_vm_files();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if !self.finished {
            self.end(!std::thread::panicking());
        }
    }
}

/// A small file system that can be filled to the brim. Dropping it unmounts it.
#[derive(Debug)]
pub struct SmallDisk {
    dir: PathBuf,
}

impl SmallDisk {
    /// Leaves no byte free.
    pub fn fill(&self) {
        let mut ballast = std::fs::File::create(self.dir.join("ballast")).unwrap();
        let block = vec![0; 65536];
        while ballast.write_all(&block).is_ok() {}
    }

    pub fn free(&self) {
        std::fs::remove_file(self.dir.join("ballast")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: on a failing test the agent may still have files open there.
        let _ = rustix::mount::unmount(&self.dir, rustix::mount::UnmountFlags::DETACH);
    }
}

/// The `inn` under test: INN_TEST_BINARY, or the debug build beside us.
pub fn binary() -> &'static Path {
    static BINARY: std::sync::LazyLock<PathBuf> = std::sync::LazyLock::new(|| {
        let path = std::env::var_os("INN_TEST_BINARY")
            .map_or_else(|| crate::fixtures::target_dir().join("debug/inn"), PathBuf::from);
        assert!(path.is_file(), "{} is missing: cargo build --workspace --bin inn", path.display());
        path
    });
    &BINARY
}

/// PATH, and what scripts/test has installed.
fn search_path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":");
    path.push(crate::fixtures::target_dir().join("tools/bin"));
    path
}

/// Whether the agent finds this program.
pub fn finds_program(name: &str) -> bool {
    std::env::split_paths(&search_path()).any(|dir| dir.join(name).is_file())
}

/// Builds `inn` with the features of the whole workspace, as CI has it, unless
/// INN_TEST_BINARY names one.
#[expect(clippy::disallowed_methods, reason = "tests build the program under test")]
pub fn build_binary() {
    if std::env::var_os("INN_TEST_BINARY").is_some() {
        return;
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = std::process::Command::new(cargo)
        .args(["build", "--quiet", "--workspace", "--bin", "inn"])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap())
        .status()
        .unwrap();
    assert!(status.success(), "inn does not build");
}
