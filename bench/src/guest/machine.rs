use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use inn_guest_session::GuestSession;

use crate::Bench;
use crate::agent::{Agent, pause};
use crate::program::{build_guest_program, command, output, timed};

pub(crate) const VM: &str = "deb";

/// For an emulated machine on a busy host.
const DEADLINE: Duration = Duration::from_secs(240);

/// The Debian, with all that reaches it.
pub(crate) struct GuestMachine {
    pub(crate) agent: Agent,
    dir: PathBuf,
    ssh_key: PathBuf,
    ssh_port: u16,
}

impl GuestMachine {
    pub(crate) fn boot(bench: &Bench) -> anyhow::Result<Self> {
        let debian = match &bench.options.debian {
            Some(dir) => dir.canonicalize().with_context(|| dir.display().to_string())?,
            None => make_debian(bench.work.path())?,
        };
        let disk = bench.work.path().join("debian.img");
        timed(make_debian_with().arg("--disk").arg(&debian).arg(&disk).arg(&bench.options.inn))?;

        let dir = bench.work.path().join("ports");
        fs::create_dir(&dir)?;
        // QEMU, which binds the ports' sockets, is an unprivileged user.
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777))?;
        let ssh_port = free_port()?;
        let path = put_qemu_in_front(&dir, ssh_port)?;
        let agent =
            Agent::start_with_path(bench, "guest", "start_deadline = \"240s\"\n", Some(&path))?;
        let disk = disk.to_str().context("the temporary directory's name is no UTF-8")?;
        timed(&mut agent.inn(&[
            "vm",
            "create",
            "--name",
            VM,
            "--cpus",
            "2",
            "--memory",
            "768MiB",
            "--disk",
            "3GiB",
            "--disk-image",
            disk,
        ]))?;
        let machine = Self { agent, dir, ssh_key: debian.join("ssh_key"), ssh_port };
        machine.settle(bench)?;
        Ok(machine)
    }

    /// The programs of the comparison are there, and the boot's work is done.
    fn settle(&self, bench: &Bench) -> anyhow::Result<()> {
        timed(&mut self.agent.inn(&["vm", "guest", "grow", VM]))?;
        for name in ["spawn_timer", "port_peer"] {
            let built = build_guest_program(name, bench.work.path())?;
            let to = format!("{VM}:/usr/local/bin/{name}");
            timed(self.agent.inn(&["vm", "cp"]).arg(built).arg(to))?;
        }
        self.inside("chmod 755 /usr/local/bin/*")?;
        let begin = Instant::now();
        while output(&mut self.ssh("systemctl is-system-running --wait; true")).is_err() {
            if begin.elapsed() > DEADLINE {
                bail!("the guest's ssh server does not let us in");
            }
            pause(Duration::from_millis(200));
        }
        self.detached("exec port_peer /dev/virtio-ports/bench.echo.0")?;
        Ok(())
    }

    /// What a shell's script prints inside.
    pub(crate) fn inside(&self, script: &str) -> anyhow::Result<String> {
        output(&mut self.agent.inn(&["vm", "exec", VM, "--", "sh", "-c", script]))
    }

    fn detached(&self, script: &str) -> anyhow::Result<String> {
        output(&mut self.agent.inn(&["vm", "exec", "-d", VM, "--", "sh", "-c", script]))
    }

    /// A fresh ssh client, from its start on.
    pub(crate) fn ssh(&self, line: &str) -> Command {
        let mut ssh = command("ssh");
        ssh.args(["-q", "-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "BatchMode=yes"])
            .args(["-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=60"])
            .arg("-i")
            .arg(&self.ssh_key)
            .args(["-p", &self.ssh_port.to_string(), "root@127.0.0.1", line]);
        ssh
    }

    pub(crate) fn qga_socket(&self) -> PathBuf {
        self.dir.join("qga.sock")
    }

    pub(crate) fn echo_port(&self) -> anyhow::Result<UnixStream> {
        let path = self.dir.join("echo.sock");
        UnixStream::connect(&path).with_context(|| path.display().to_string())
    }

    /// Ends our agent, which leaves the VM running, and speaks in its place.
    pub(crate) fn take_channel(&mut self) -> anyhow::Result<GuestSession> {
        self.agent.pause_agent()?;
        let socket = self.agent.find_socket("agent.sock")?;
        self.agent.runtime().block_on(async {
            let stream = tokio::net::UnixStream::connect(&socket).await?;
            let session = GuestSession::establish(stream);
            Ok(tokio::time::timeout(DEADLINE, session).await.context("the guest is silent")??)
        })
    }

    /// Our agent again, so that it cleans up what it has made.
    pub(crate) fn give_channel_back(mut self) -> anyhow::Result<()> {
        self.agent.resume_agent()
    }
}

fn make_debian_with() -> Command {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/make-debian");
    // What mmdebstrap mounts is nobody else's.
    let mut unshare = command("unshare");
    unshare.args(["--mount", "--propagation", "private", "--"]).arg(script);
    unshare
}

fn make_debian(work: &Path) -> anyhow::Result<PathBuf> {
    eprintln!("making a Debian with mmdebstrap (give --debian to skip it)");
    let dir = work.join("debian");
    timed(make_debian_with().arg(&dir))?;
    Ok(dir)
}

/// Another may take it before QEMU does; then QEMU says so.
fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A directory for the front of PATH whose `qemu-system-x86_64` adds the ports
/// and the card of the comparison to every machine that has our agent's port.
fn put_qemu_in_front(dir: &Path, ssh_port: u16) -> anyhow::Result<PathBuf> {
    let real = output(command("sh").args(["-c", "command -v qemu-system-x86_64"]))?;
    let at = dir.display();
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *name=innkeeper.agent.0*)\n\
         set -- \"$@\" -device virtio-serial-pci,id=bench -chardev socket,id=qga,path={at}/qga.sock,server=on,wait=off \
         -device virtserialport,bus=bench.0,chardev=qga,name=org.qemu.guest_agent.0 \
         -chardev socket,id=echo,path={at}/echo.sock,server=on,wait=off \
         -device virtserialport,bus=bench.0,chardev=echo,name=bench.echo.0 \
         -netdev user,id=bench,net=10.9.9.0/24,hostfwd=tcp:127.0.0.1:{ssh_port}-:22 \
         -device virtio-net-pci,netdev=bench ;;\nesac\nexec {} \"$@\"\n",
        real.trim()
    );
    let bin = dir.join("bin");
    fs::create_dir(&bin)?;
    let path = bin.join("qemu-system-x86_64");
    fs::write(&path, script)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(bin)
}
