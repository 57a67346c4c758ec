//! A VM that is a domain of a libvirtd's: one of the test's own, in namespaces
//! of its own (`scripts/libvirtd`), from the packages that INN_TEST_LIBVIRT has.

mod arm64;
mod cloud;
mod container;
mod networks;
mod session;

pub(crate) use arm64::a_disk_of_another_architecture_is_a_vm_without_an_agent;
pub(crate) use cloud::a_cloud_image_is_set_up_on_a_network_of_libvirt_s;
pub(crate) use container::an_agent_in_a_container_leaves_its_vm_to_the_next;
pub(crate) use networks::a_vm_is_on_networks_of_others;
pub(crate) use session::an_ordinary_users_session_serves_its_agent;

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use inn_tests::netns::Netns;
use inn_tests::{Host, wait};
use rustix::net::sockopt::socket_peercred;
use rustix::process::{Pid, Signal, kill_process};

/// Where Debian's packages have libraries.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

struct Libvirtd {
    root: PathBuf,
    dir: PathBuf,
    uri: String,
    /// By which root reaches it, too.
    reach: String,
    script: Child,
    /// Of one that is nobody else's.
    _own: Option<tempfile::TempDir>,
}

/// What not every libvirtd has.
#[derive(Default)]
struct Extra<'a> {
    /// Whose session it is.
    user: Option<u32>,
    /// Where more of the distribution's packages were unpacked.
    packages: Option<&'a Path>,
}

impl Libvirtd {
    fn start() -> Result<Self, String> {
        Self::start_with(Extra::default())
    }

    fn start_with(extra: Extra<'_>) -> Result<Self, String> {
        let own = tempfile::tempdir().unwrap();
        let socket = own.path().join("sock/libvirt-sock");
        let uri = format!("qemu+unix:///system?socket={}", socket.display());
        let dir = own.path().to_owned();
        Self::of(dir, uri.clone(), uri, extra, Some(own))
    }

    /// The session's, of a user whose home and runtime directory are in `dir`.
    fn of_user(dir: &Path, uid: u32) -> Result<Self, String> {
        let socket = dir.join("run/libvirt/libvirt-sock");
        let reach = format!("qemu+unix:///session?socket={}", socket.display());
        let extra = Extra { user: Some(uid), ..Extra::default() };
        Self::of(dir.to_owned(), "qemu:///session".to_owned(), reach, extra, None)
    }

    #[expect(clippy::disallowed_methods, reason = "a program of others, in a test")]
    fn of(
        dir: PathBuf,
        uri: String,
        reach: String,
        extra: Extra<'_>,
        own: Option<tempfile::TempDir>,
    ) -> Result<Self, String> {
        let root = std::env::var_os("INN_TEST_LIBVIRT").ok_or("INN_TEST_LIBVIRT names nothing")?;
        let root = PathBuf::from(root);
        if !rustix::process::geteuid().is_root() {
            return Err("only root may make a libvirtd its namespaces".to_owned());
        }
        let log = fs::File::create(dir.join("log")).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/libvirtd");
        let script = Command::new(script)
            .args([root.as_path(), &dir])
            .args(extra.user.map(|uid| uid.to_string()))
            .env("LIBVIRTD_ALSO", extra.packages.unwrap_or(Path::new("")))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut libvirtd = Self { root, dir, uri, reach, script, _own: own };
        wait::until("libvirtd answers", || match libvirtd.script.try_wait().unwrap() {
            Some(status) if status.code() == Some(3) => Some(Err("no namespaces here".to_owned())),
            Some(status) => panic!("libvirtd's script ended with {status}"),
            None => libvirtd.virsh(&["version"]).map(|_| Ok(())),
        })?;
        Ok(libvirtd)
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("sock/libvirt-sock")
    }

    /// What it prints, if it succeeds.
    #[expect(clippy::disallowed_methods, reason = "a program of others, in a test")]
    fn virsh(&self, args: &[&str]) -> Option<String> {
        let output = Command::new(self.root.join("usr/bin/virsh"))
            .env("LD_LIBRARY_PATH", self.root.join(LIBRARIES))
            .args(["-c", &self.reach])
            .args(args)
            .output()
            .unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }

    /// What an agent needs to know of it.
    fn config(&self) -> String {
        let libraries = self.root.join(LIBRARIES);
        format!("[runtimes.libvirt]\nuri = '{}'\nlibraries = '{}'\n", self.uri, libraries.display())
    }

    fn domains(&self) -> String {
        self.virsh(&["list", "--all", "--name"]).unwrap().trim().to_owned()
    }

    /// Ends the daemon; the script starts another.
    fn restart(&self) {
        let before = self.daemon().expect("it listens");
        kill_process(before, Signal::KILL).unwrap();
        wait::until("another libvirtd", || self.daemon().filter(|after| *after != before));
    }

    /// The process that listens now.
    fn daemon(&self) -> Option<Pid> {
        let stream = UnixStream::connect(self.socket()).ok()?;
        socket_peercred(&stream).ok().map(|peer| peer.pid)
    }

    /// A file or directory as it has it.
    fn sees(&self, path: &str) -> PathBuf {
        let daemon = self.daemon().expect("it listens").as_raw_nonzero();
        PathBuf::from(format!("/proc/{daemon}/root{path}"))
    }
}

impl Drop for Libvirtd {
    fn drop(&mut self) {
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}

pub(crate) fn a_vm_under_libvirt_outlives_its_libvirtd_and_its_agent() {
    let skip = |why: &str| eprintln!("SKIPPED libvirt: {why}");
    let netns = match Netns::make() {
        Ok(netns) => netns,
        Err(error) => return skip(&format!("no network namespace: {error}")),
    };
    let libvirtd = match Libvirtd::start() {
        Ok(libvirtd) => libvirtd,
        Err(why) => return skip(&why),
    };
    let host = Host::bare().with_bridges(&netns);
    fs::write(host.config(), libvirtd.config()).unwrap();
    host.start_agent();
    host.import("mini");
    host.inn(["vm", "create", "--image", "mini", "--name", "v", "--runtime", "libvirt"]).ok();

    let exec = |script: &str| host.inn(["vm", "exec", "v", "--", "sh", "-c", script]).ok();
    assert_eq!(exec("echo from the guest; test -e /sys/class/net/eth0"), "from the guest\n");
    let before = host.show("v");
    assert_eq!((&before["runtime"], &before["phase"]), (&"libvirt".into(), &"running".into()));
    let why = host.inn(["vm", "why", "v"]).ok();
    assert!(why.contains("libvirt: it was asked for"), "{why}");
    let domain = format!("inn-{}", before["id"].as_str().unwrap());
    assert_eq!(libvirtd.domains(), domain);

    // What is somebody else's is shown, and nothing else is done with it.
    let foreign = host.home().join("foreign.xml");
    let xml = "<domain type='qemu'><name>others</name><memory unit='MiB'>64</memory>\
               <os><type arch='x86_64' machine='q35'>hvm</type></os></domain>";
    fs::write(&foreign, xml).unwrap();
    libvirtd.virsh(&["define", foreign.to_str().unwrap()]).unwrap();
    assert_eq!(host.node()["foreignDomains"], serde_json::json!(["others"]));
    libvirtd.virsh(&["undefine", "others"]).unwrap();

    // Its card is a tap on the node's bridge, though libvirtd is elsewhere.
    let ip: Ipv4Addr = host.inn(["vm", "ip", "v"]).ok().lines().next().unwrap().parse().unwrap();
    host.inn(["vm", "exec", "-d", "v", "--", "sh", "-c", "echo by the card | nc -l -p 7000"]).ok();
    let heard = wait::until("its port answers", || {
        let mut heard = String::new();
        let stream = netns.run(|| TcpStream::connect((ip, 7000)));
        stream.ok()?.read_to_string(&mut heard).ok()?;
        Some(heard)
    });
    assert_eq!(heard, "by the card\n");

    // What it cannot do is said by its name.
    host.inn(["vm", "snapshot", "v", "--name", "s"]).refused(1, &["libvirt"]);

    libvirtd.restart();
    assert_eq!(exec("echo no libvirtd was asked"), "no libvirtd was asked\n");
    host.kill_agent();
    libvirtd.restart();
    host.start_agent();
    wait::until("the VM is found again", || {
        let vm = host.show("v");
        (vm["phase"] == "running" && vm["guest"]["link"] == "ready").then_some(())
    });
    let after = host.show("v");
    assert_eq!(before["pid"], after["pid"]);
    assert_eq!(before["guest"]["bootId"], after["guest"]["bootId"]);
    assert_eq!(exec("echo still here"), "still here\n");

    host.inn(["vm", "stop", "v"]).ok();
    assert_eq!(libvirtd.domains(), "");
    // A domain that somebody else ends is told as that.
    host.inn(["vm", "start", "v"]).ok();
    libvirtd.virsh(&["destroy", &domain]).unwrap();
    wait::until("its end is told", || {
        host.inn(["vm", "why", "v"]).ok().contains("somebody else ended its domain").then_some(())
    });
    host.finish();
    assert_eq!(libvirtd.domains(), "");
}
