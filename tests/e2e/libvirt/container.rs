//! The agent in a container: of the image that
//! `packaging/container/Containerfile` describes, built by buildah, and run by
//! runc with the host's libvirt. Its VM outlives the container, and the next one
//! has it.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use inn_tests::libvirtd::Libvirtd;
use inn_tests::netns::Netns;
use inn_tests::{Fixtures, Host, Inn, host, wait};
use serde_json::json;

/// Packages are fetched and unpacked.
const BUILD: Duration = Duration::from_secs(600);

/// Where the state is in there.
const STATE: &str = "/var/lib/innkeeper";

/// What Docker gives a container, and CAP_NET_ADMIN.
const CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_ADMIN",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
];

/// Images, and containers of them, in a directory of their own.
struct Images {
    dir: tempfile::TempDir,
    path: OsString,
}

impl Images {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("inn-e2e-images-").tempdir().unwrap();
        let text = format!(
            "[storage]\ndriver = \"vfs\"\ngraphroot = \"{0}/graph\"\nrunroot = \"{0}/run\"\n",
            dir.path().display()
        );
        fs::write(dir.path().join("storage.conf"), text).unwrap();
        Self { dir, path: std::env::var_os("PATH").unwrap_or_default() }
    }

    fn buildah(&self, args: &[&str]) -> Inn {
        Inn::new(Path::new("/usr/bin/buildah"), args.iter().map(Into::into).collect())
            .env("PATH", &self.path)
            .env("HOME", self.dir.path())
            .env("CONTAINERS_STORAGE_CONF", self.dir.path().join("storage.conf"))
            .env("BUILDAH_ISOLATION", "chroot")
            .limit(BUILD)
    }

    /// From the Containerfile and the `inn` under test, on the fixtures' Debian.
    fn build(&self) -> Result<(), String> {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let file = here.join("../packaging/container/Containerfile");
        let context = self.dir.path().join("context");
        fs::create_dir(&context).unwrap();
        fs::copy(host::binary(), context.join("inn")).unwrap();
        let base = format!("BASE=oci:{}:base", Fixtures::get().layout().display());
        let build = self.buildah(&["build", "-t", "innkeeper", "--build-arg", &base, "-f"]);
        let built = build.args([&file, &context]).output();
        match built.code {
            Some(0) => Ok(()),
            _ if built.stderr.contains("apt-get update") => {
                Err(format!("Debian's archive is out of reach: {}", last_line(&built.stderr)))
            }
            _ => panic!("the image is not built: {built}"),
        }
    }

    /// A container's root directory, fresh.
    fn root(&self) -> PathBuf {
        let name = self.buildah(&["from", "localhost/innkeeper"]).ok();
        self.buildah(&["mount", name.trim()]).ok().trim().into()
    }
}

fn last_line(text: &str) -> &str {
    text.lines().last().unwrap_or_default()
}

/// Debian's, unpacked.
struct Runc {
    program: PathBuf,
    state: tempfile::TempDir,
}

impl Runc {
    #[expect(clippy::disallowed_methods, reason = "a program of others, in a test")]
    fn command(&self, args: &[&str]) -> Command {
        let mut runc = Command::new(&self.program);
        runc.arg("--root").arg(self.state.path()).args(args).stdin(Stdio::null());
        runc
    }
}

struct Container<'a> {
    runc: &'a Runc,
    name: String,
    child: Child,
    log: PathBuf,
}

impl<'a> Container<'a> {
    /// Of this name on the whole host: its control groups have it.
    fn start(runc: &'a Runc, name: String, bundle: &Path) -> Self {
        let log = bundle.join("log");
        let file = fs::File::create(&log).unwrap();
        let child = runc
            .command(&["run", "--bundle", bundle.to_str().unwrap(), &name])
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        Self { runc, name, child, log }
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// As engines do it: with all of its processes, of which there are more
    /// than the first.
    fn end(mut self) {
        let told = self.runc.command(&["ps", "--format", "json", &self.name]).output().unwrap();
        let pids: Vec<u32> = serde_json::from_slice(&told.stdout).unwrap_or_default();
        assert!(!pids.is_empty(), "{told:?}");
        self.finish();
        let left: Vec<_> = pids.iter().filter(|pid| is_there(**pid)).collect();
        assert_eq!(left, Vec::<&u32>::new(), "processes of the container's");
    }

    /// As `podman stop` begins.
    fn stop(mut self) {
        self.runc.command(&["kill", &self.name, "TERM"]).output().unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.log());
    }

    fn finish(&mut self) {
        let _ = self.runc.command(&["kill", "--all", &self.name, "KILL"]).output();
        let _ = self.child.wait();
        let gone = || self.runc.command(&["delete", "--force", &self.name]).output().unwrap();
        wait::until("the container is gone", || gone().status.success().then_some(()));
    }
}

fn is_there(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        self.finish();
    }
}

/// What an engine would make of `--pid host`, `--cap-add NET_ADMIN` and volumes.
fn bundle(root: &Path, host: &Host, libvirtd: &Libvirtd, netns: &Netns) -> serde_json::Value {
    let bind = |source: &Path, destination: &Path| {
        json!({ "destination": destination, "type": "bind", "source": source,
            "options": ["rbind", "rw"] })
    };
    // Images are looked for by the agent; its data directory has a link to kernels.
    let (layout, kernels) = (Fixtures::get().layout(), Fixtures::get().kernels());
    let environment = [
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
        format!("INN_DATA_DIR={STATE}/data"),
        format!("INN_RUNTIME_DIR={STATE}/run"),
        "INN_API_LISTEN=127.0.0.1:0".to_owned(),
        "INN_ACCEL=tcg".to_owned(),
        "INN_RUNTIMES_LIBVIRT_URI=qemu+unix:///system?socket=/run/libvirt/libvirt-sock".to_owned(),
        format!("INN_RUNTIMES_LIBVIRT_PREFIX={STATE}={}", host.path().display()),
    ];
    json!({
        "ociVersion": "1.0.0",
        "root": { "path": root, "readonly": false },
        "hostname": "innkeeper",
        "process": {
            "cwd": "/", "user": { "uid": 0, "gid": 0 }, "env": environment,
            "args": ["/usr/local/bin/inn", "agent", "--log-level", "debug"],
            "capabilities": {
                "bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES,
            },
            "noNewPrivileges": true,
        },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
              "options": ["nosuid", "mode=755", "size=65536k"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
              "options": ["newinstance", "ptmxmode=0666", "mode=0620"] },
            { "destination": "/dev/shm", "type": "tmpfs", "source": "shm" },
            { "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"] },
            bind(host.path(), Path::new(STATE)),
            bind(&libvirtd.dir.join("sock"), Path::new("/run/libvirt")),
            bind(&layout, &layout),
            bind(&kernels, &kernels),
        ],
        "linux": {
            "namespaces": [
                { "type": "mount" }, { "type": "ipc" }, { "type": "uts" },
                { "type": "network", "path": netns.path() },
            ],
            "devices": [{ "path": "/dev/net/tun", "type": "c", "major": 10, "minor": 200 }],
        },
    })
}

pub(crate) fn an_agent_in_a_container_leaves_its_vm_to_the_next() {
    let skip = |why: &str| eprintln!("SKIPPED an agent in a container: {why}");
    let Some(program) = std::env::var_os("INN_TEST_RUNC") else {
        return skip("INN_TEST_RUNC names no runc");
    };
    if !host::finds_program("buildah") {
        return skip("buildah is not installed");
    }
    let netns = match Netns::make() {
        Ok(netns) => netns,
        Err(error) => return skip(&format!("no network namespace: {error}")),
    };
    let libvirtd = match Libvirtd::start() {
        Ok(libvirtd) => libvirtd,
        Err(why) => return skip(&why),
    };
    let images = Images::new();
    if let Err(why) = images.build() {
        return skip(&why);
    }
    let host = Host::bare();
    let runc = Runc { program: program.into(), state: tempfile::tempdir().unwrap() };
    let begin = |name: &str, apart: bool| {
        let root = images.root();
        let bundle_dir = host.home().join(name);
        fs::create_dir(&bundle_dir).unwrap();
        let mut config = bundle(&root, &host, &libvirtd, &netns);
        if apart {
            let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.push(json!({ "type": "pid" }));
        }
        fs::write(bundle_dir.join("config.json"), config.to_string()).unwrap();
        let unique = host.path().file_name().unwrap().to_string_lossy();
        let mut container = Container::start(&runc, format!("{unique}-{name}"), &bundle_dir);
        wait::until("the agent in the container answers", || {
            let ended = container.child.try_wait().unwrap();
            assert!(ended.is_none(), "it ended: {}", container.log());
            (host.inn(["vm", "list"]).output().code == Some(0)).then_some(())
        });
        container
    };

    let create = || host.inn(["vm", "create", "--image", "mini", "--name", "v"]);

    // Without the host's processes it says so, and leaves nothing to libvirt.
    let apart = begin("apart", true);
    host.import("mini");
    create().args(["--runtime", "libvirt"]).refused(1, &["another process namespace"]);
    assert_eq!(libvirtd.domains(), "");
    host.inn(["vm", "delete", "v"]).ok();
    apart.stop();

    let first = begin("first", false);
    create().args(["--runtime", "libvirt"]).ok();
    let exec = |script: &str| host.inn(["vm", "exec", "v", "--", "sh", "-c", script]).ok();
    assert_eq!(exec("echo from the guest; echo kept >/note"), "from the guest\n");
    let before = host.show("v");
    let domain = format!("inn-{}", before["id"].as_str().unwrap());
    assert_eq!(libvirtd.domains(), domain);

    // Neither the agent nor what it has started is left, nor its root directory.
    first.end();
    assert_eq!(libvirtd.domains(), domain);
    let second = begin("second", false);
    wait::until("the VM is found again", || {
        let vm = host.show("v");
        (vm["phase"] == "running" && vm["guest"]["link"] == "ready").then_some(())
    });
    let after = host.show("v");
    assert_eq!(before["pid"], after["pid"]);
    assert_eq!(before["guest"]["bootId"], after["guest"]["bootId"]);
    assert_eq!(exec("cat /note"), "kept\n");
    host.inn(["vm", "stop", "v"]).ok();
    assert_eq!(libvirtd.domains(), "");
    host.inn(["vm", "start", "v"]).ok();
    host.inn(["vm", "delete", "--force", "v"]).ok();
    assert_eq!(libvirtd.domains(), "");
    second.stop();
    host.finish();
}
