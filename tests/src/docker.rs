//! Debian's Docker in a network of a test's own: unpacked below
//! `INN_TEST_DOCKER`, with the runc of `INN_TEST_RUNC`. Its processes, mounts and
//! files are its own, and so are its control groups, which go with it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::netns::Netns;
use crate::wait;

/// iptables of nf_tables, which it is by its name.
const IPTABLES: &str = "/usr/sbin/xtables-nft-multi";

/// Docker writes a key below /etc and containerd directories below /opt and
/// /run; all of its processes end with the first one.
const GROUND: &str = "cp -a /etc \"$0\" && mount --bind \"$0/etc\" /etc && \
    mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /opt && mount -t proc proc /proc && \
    exec \"$@\"";

#[derive(Debug)]
pub struct Docker<'a> {
    netns: &'a Netns,
    root: PathBuf,
    runc: PathBuf,
    dir: TempDir,
    /// None, while it does not run.
    daemon: Option<Child>,
}

impl<'a> Docker<'a> {
    /// One that runs, or why there is none.
    pub fn start(netns: &'a Netns) -> Result<Self, String> {
        let named = |variable: &str| {
            std::env::var_os(variable).map(PathBuf::from).ok_or(format!("no {variable}"))
        };
        let (root, runc) = (named("INN_TEST_DOCKER")?, named("INN_TEST_RUNC")?);
        if !Path::new(IPTABLES).exists() {
            return Err(format!("no {IPTABLES}"));
        }
        let dir = tempfile::Builder::new().prefix("inn-docker-").tempdir().unwrap();
        let programs = dir.path().join("bin");
        fs::create_dir(&programs).unwrap();
        for name in ["iptables", "ip6tables"] {
            symlink(IPTABLES, programs.join(name)).unwrap();
        }
        fs::write(dir.path().join("daemon.json"), "{}").unwrap();
        let mut own = Self { netns, root, runc, dir, daemon: None };
        own.begin()?;
        Ok(own)
    }

    /// As its unit's start does.
    pub fn begin(&mut self) -> Result<(), String> {
        let own = |name: &str| self.dir.path().join(name).display().to_string();
        let log = fs::File::create(own("log")).unwrap();
        let mut command = self.command("unshare");
        command.args(["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"]);
        command.args(["sh", "-c", GROUND]).arg(self.dir.path());
        command.arg(self.root.join("usr/sbin/dockerd"));
        for (option, name) in [
            ("--config-file", "daemon.json"),
            ("--data-root", "data"),
            ("--exec-root", "exec"),
            ("--pidfile", "pid"),
        ] {
            command.args([option, &own(name)]);
        }
        command.args(["--host", &format!("unix://{}", own("socket"))]);
        command.args(["--storage-driver", "vfs", "--exec-opt", "native.cgroupdriver=cgroupfs"]);
        command.args(["--cgroup-parent", &format!("/{}", group())]);
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let mut daemon = command.spawn().unwrap();
        let ended = wait::until("Docker, or its end", || match self.try_ask(&["version"]) {
            Ok(_) => Some(false),
            Err(_) => daemon.try_wait().unwrap().map(|_| true),
        });
        self.daemon = Some(daemon);
        if !ended {
            return Ok(());
        }
        let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        Err(format!("dockerd has ended: {}", log.lines().last().unwrap_or("it says nothing")))
    }

    /// As its unit's end does: its containers end, its rules stay.
    pub fn end(&mut self) {
        let Some(mut daemon) = self.daemon.take() else { return };
        let parent = daemon.id();
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
        let first = children.unwrap_or_default().trim().parse().ok().and_then(Pid::from_raw);
        if let Some(first) = first {
            // It may have ended.
            let _ = kill_process(first, Signal::TERM);
        }
        daemon.wait().unwrap();
    }

    /// What its client prints; it has to succeed.
    pub fn ask(&self, arguments: &[&str]) -> String {
        self.try_ask(arguments).unwrap_or_else(|why| panic!("docker {arguments:?}: {why}"))
    }

    fn try_ask(&self, arguments: &[&str]) -> Result<String, String> {
        let client = self.root.join("usr/bin/docker");
        let mut command = self.command(client.to_str().unwrap());
        let socket = self.dir.path().join("socket");
        command.arg("--host").arg(format!("unix://{}", socket.display())).args(arguments);
        let output = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    #[expect(clippy::disallowed_methods, reason = "a program of others, in a test")]
    fn command(&self, program: &str) -> Command {
        let (nsenter, before) = self.netns.entrance();
        let paths = [
            self.dir.path().join("bin"),
            self.root.join("usr/bin"),
            self.root.join("usr/sbin"),
            self.runc.parent().unwrap().to_owned(),
        ];
        let system = std::env::var_os("PATH").unwrap_or_default();
        let paths = paths.into_iter().chain(std::env::split_paths(&system));
        let mut command = Command::new(nsenter);
        command.args(before).arg(program).stdin(Stdio::null());
        command.env("PATH", std::env::join_paths(paths).unwrap());
        // Where its client looks for its configuration.
        command.env("HOME", self.dir.path());
        command
    }
}

impl Drop for Docker<'_> {
    fn drop(&mut self) {
        self.end();
        let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        let all = hierarchies.map(|entry| entry.path()).chain([PathBuf::from("/sys/fs/cgroup")]);
        for groups in all {
            // Not each of them has it.
            let _ = fs::remove_dir(groups.join(group()));
        }
    }
}

/// All of its containers', on the whole machine.
fn group() -> String {
    format!("innkeeper-docker-{}", std::process::id())
}
