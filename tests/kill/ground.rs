//! A host for one case, with an image on it, and what is asked of its agent.

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use inn_fail_point::{Point, VARIABLE, epitaph};
use inn_tests::api::{self, Answer};
use inn_tests::libvirtd::Libvirtd;
use inn_tests::netns::Netns;
use inn_tests::process::{Output, Running};
use inn_tests::registry::Registry;
use inn_tests::{Fixtures, Host, kernels, leftovers, wait};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Name Firecracker, libkrun's helper, and what their guests boot.
pub(crate) const FIRECRACKER: &str = "INN_FIRECRACKER";
pub(crate) const KRUN: &str = "INN_TEST_KRUN";
pub(crate) const GUEST_KERNEL: &str = "INN_TEST_GUEST_KERNEL";

/// For an agent to reach a point: a machine may have to boot without KVM on a
/// busy host before.
const REACHED: Duration = Duration::from_secs(90);

/// What is kept of an agent's log in a failure's message.
const LOG_LINES: usize = 40;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Runtime {
    Sim,
    Qemu,
    /// With its own KVM guest, which takes its time to boot.
    Firecracker,
    /// As well.
    Krun,
    /// With a libvirtd of the case's own.
    Libvirt,
}

impl Runtime {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Sim => "sim",
            Self::Qemu => "qemu",
            Self::Firecracker => "firecracker",
            Self::Krun => "krun",
            Self::Libvirt => "libvirt",
        }
    }

    /// Whether its guests boot the kernel that is named.
    pub(crate) const fn has_kvm_guests(self) -> bool {
        matches!(self, Self::Firecracker | Self::Krun)
    }
}

pub(crate) struct Ground {
    pub(crate) host: Host,
    pub(crate) runtime: Runtime,
    /// Its agents' own, where they are about networks.
    netns: Option<Netns>,
    /// Whether the agent that dies makes templates, and clones of them.
    templates: bool,
    /// Where its machines are domains.
    pub(crate) libvirtd: Option<Libvirtd>,
    /// Where its `firewall-cmd` is, and the file with what that was told.
    firewalld: Option<TempDir>,
}

/// As far as the agent asks it. By the shell alone: nothing else is found.
const FIREWALL_CMD: &str = r#"#!/bin/sh
zone="${0%/*}/zone"
there=
[ -e "$zone" ] && read -r there < "$zone"
for last; do :; done
name="${last#*=}"
case "$last" in
    --list-interfaces) echo "$there" ;;
    --add-interface=*) echo "$there $name" > "$zone" ;;
    --remove-interface=*)
        left=
        for one in $there; do [ "$one" = "$name" ] || left="$left $one"; done
        echo "$left" > "$zone" ;;
    *) exit 1 ;;
esac
"#;

impl Ground {
    /// With the image `mini`.
    pub(crate) fn new(runtime: Runtime, libvirtd: Option<Libvirtd>) -> Self {
        let ground = Self::bare(runtime, libvirtd);
        copy_tree(&template().data(), &ground.host.data());
        ground
    }

    /// As before an agent's first start.
    pub(crate) fn bare(runtime: Runtime, libvirtd: Option<Libvirtd>) -> Self {
        let host = match runtime {
            // Looking for QEMU costs each start more than all the rest.
            Runtime::Sim => Host::bare().without_vmm(),
            Runtime::Qemu | Runtime::Firecracker | Runtime::Libvirt => Host::bare(),
            Runtime::Krun => Host::bare().with_programs(named(KRUN).parent().unwrap()),
        };
        let deadline = "start_deadline = '10m'\n";
        let config = match runtime {
            Runtime::Sim | Runtime::Qemu => None,
            Runtime::Firecracker => {
                Some(format!("firecracker = '{}'\n{deadline}", named(FIRECRACKER).display()))
            }
            Runtime::Krun => Some(deadline.to_owned()),
            Runtime::Libvirt => libvirtd.as_ref().map(Libvirtd::config),
        };
        if let Some(config) = config {
            std::fs::write(host.config(), config).unwrap();
        }
        Self { host, runtime, netns: None, templates: false, libvirtd, firewalld: None }
    }

    /// Starts an agent and waits until it serves.
    pub(crate) fn start(&self) {
        let mut agent = self.command().start();
        let up = wait::within(wait::PATIENCE, || {
            (agent.has_ended() || self.serves()).then(|| self.serves())
        });
        if up != Some(true) {
            agent.signal(Signal::KILL);
            panic!("the agent does not serve: {}", tail(&agent.wait(wait::PATIENCE)));
        }
        self.host.take_agent(agent);
    }

    /// Starts an agent that dies when `at` is reached.
    pub(crate) fn start_armed(&self, at: &str) -> Running {
        let agent = self.command().env(VARIABLE, at);
        match self.templates {
            true => agent
                .env("INN_TEMPLATES_ENABLED", "true")
                .env("INN_TEMPLATES_POOL_MEMORY", "1GiB")
                .start(),
            false => agent.start(),
        }
    }

    /// Gives its agents a network of their own, and bridges in it.
    pub(crate) fn with_bridges(mut self) -> Self {
        let netns = Netns::make().expect("root has network namespaces");
        self.host = self.host.with_bridges(&netns);
        self.netns = Some(netns);
        self
    }

    /// Has its agents keep their bridges in firewalld's zone.
    pub(crate) fn with_zone(mut self) -> Self {
        let dir = tempfile::Builder::new().prefix("inn-zone-").tempdir().unwrap();
        let program = dir.path().join("firewall-cmd");
        std::fs::write(&program, FIREWALL_CMD).unwrap();
        std::fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
        std::fs::write(self.host.config(), "network.foreign = \"firewalld\"\n").unwrap();
        self.host = self.host.with_programs(dir.path());
        self.firewalld = Some(dir);
        self
    }

    /// What is in that zone, where there is one.
    pub(crate) fn zone(&self) -> Option<BTreeSet<String>> {
        let file = self.firewalld.as_ref()?.path().join("zone");
        let text = std::fs::read_to_string(file).unwrap_or_default();
        Some(text.split_whitespace().map(str::to_owned).collect())
    }

    pub(crate) fn bridges(&self) -> BTreeSet<String> {
        let list = self.get("/api/networks").expect("the agent answers").ok().json();
        let items = list["items"].as_array().cloned().unwrap_or_default();
        items.iter().map(|network| network["bridge"].as_str().unwrap().to_owned()).collect()
    }

    pub(crate) fn with_templates(self) -> Self {
        Self { templates: true, ..self }
    }

    /// A network of their own, and the VMM's in it.
    pub(crate) fn with_user_network(mut self) -> Self {
        let netns = Netns::make().expect("root has network namespaces");
        self.host = self.host.with_user_network(&netns);
        self.netns = Some(netns);
        self
    }

    fn command(&self) -> inn_tests::Inn {
        self.host.agent_command().env("INN_SIM_ENABLED", "true")
    }

    /// False once it has died instead.
    pub(crate) fn until_serves(&self, agent: &mut Running) -> bool {
        let up = wait::within(REACHED, || {
            if agent.has_ended() { Some(false) } else { self.serves().then_some(true) }
        });
        up.unwrap_or(false)
    }

    /// Waits for the agent to have killed itself at that point, and nowhere
    /// else and by nobody else.
    pub(crate) fn until_dead(&self, mut agent: Running, point: Point) {
        let ended = wait::within(REACHED, || agent.has_ended().then_some(()));
        if ended.is_none() {
            agent.signal(Signal::KILL);
            let output = agent.wait(wait::PATIENCE);
            panic!("the point {point} is never reached: {}", tail(&output));
        }
        let output = agent.wait(wait::PATIENCE);
        let at_point = output.stderr.contains(&epitaph(point));
        assert!(output.signal() == Some(9) && at_point, "another end: {}", tail(&output));
    }

    pub(crate) fn serves(&self) -> bool {
        self.get("/api/vms").is_some_and(|answer| answer.is_success())
    }

    /// `None`: the agent has gone before its answer.
    pub(crate) fn get(&self, path: &str) -> Option<Answer> {
        api::get(&self.host.socket(), path).ok()
    }

    /// The same request has the same key, as of a client that asks again.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &Value) -> Option<Answer> {
        let mut hasher = std::hash::DefaultHasher::new();
        std::hash::Hash::hash(&(method, path, body.to_string()), &mut hasher);
        let key = std::hash::Hasher::finish(&hasher);
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let key = format!("Idempotency-Key: {key:016x}\r\n");
        api::request_with(&self.host.socket(), method, path, &key, &body).ok()
    }

    pub(crate) fn send(&self, method: &str, path: &str, body: &[u8]) -> Option<Answer> {
        api::request(&self.host.socket(), method, path, body).ok()
    }

    pub(crate) fn create_body(&self, name: &str, more: &Value) -> Value {
        let mut body = json!({
            "name": name, "image": "mini", "runtime": self.runtime.name(), "start": true,
            "network": if self.netns.is_some() { "allow_all" } else { "none" }, "command": ["sleep", "1000000"],
            "memoryBytes": 128 << 20, "diskBytes": 64 << 20,
        });
        if self.runtime.has_kvm_guests() {
            body["kernel"] = kernel().clone();
        }
        for (key, value) in more.as_object().into_iter().flatten() {
            body[key] = value.clone();
        }
        body
    }

    /// Makes a VM; answered once it is up.
    pub(crate) fn create(&self, name: &str, more: &Value) -> Option<Answer> {
        // It may take longer to be up than an answer is waited for.
        let wait = if self.runtime.has_kvm_guests() { "30s" } else { "120s" };
        self.ask("POST", &format!("/api/vms?wait={wait}"), &self.create_body(name, more))
    }

    /// All VMs. Panics without an agent.
    pub(crate) fn vms(&self) -> Vec<Value> {
        let list = self.get("/api/vms").expect("the agent answers").ok().json();
        list["items"].as_array().unwrap_or_else(|| panic!("no items: {list}")).clone()
    }

    pub(crate) fn vm(&self, name: &str) -> Option<Value> {
        self.vms().into_iter().find(|vm| vm["name"] == name)
    }

    pub(crate) fn images(&self) -> Vec<String> {
        let list = self.get("/api/images").expect("the agent answers").ok().json();
        let items = list["items"].as_array().cloned().unwrap_or_default();
        items.iter().map(|image| image["name"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Imports another image of the fixtures, whose layers are `mini`'s.
    pub(crate) fn import(&self, name: &str) -> Option<Value> {
        let path = Fixtures::get().layout();
        let body = json!({ "path": path, "name": name, "reference": "configured" });
        self.operation("/api/images/import", &body)
    }

    /// Pulls an image of two layers, which nothing else has, from a registry of
    /// the test's own.
    pub(crate) fn pull(&self, name: &str) -> Option<Value> {
        let body = json!({ "reference": registry().reference(), "plainHttp": true, "name": name });
        self.operation("/api/images/pull", &body)
    }

    /// What a dead agent had downloaded was used by the next one, and is gone.
    pub(crate) fn assert_no_partial_downloads(&self) {
        let left = leftovers::entries_of(&self.host.data().join("images/partial"));
        assert!(left.is_empty(), "partial downloads are left: {left:?}");
    }

    /// Begins one, and waits for its end.
    fn operation(&self, path: &str, body: &Value) -> Option<Value> {
        let operation = self.ask("POST", path, body)?.ok().json();
        let id = operation["id"].as_str().expect("an operation has an id").to_owned();
        loop {
            let path = format!("/api/operations/{id}?wait=10s");
            let operation = self.get(&path)?.ok().json();
            if operation["state"] != "running" {
                return Some(operation);
            }
        }
    }

    /// Has an image look as if nobody had used it for long.
    pub(crate) fn age_image(&self, name: &str) {
        let cache = self.host.data().join("images");
        for entry in std::fs::read_dir(cache.join("records")).unwrap() {
            let path = entry.unwrap().path();
            let mut record: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            if record["name"].as_str().unwrap().trim_end_matches(":latest") != name {
                continue;
            }
            record["created_unix"] = json!(0);
            std::fs::write(&path, record.to_string()).unwrap();
            let manifest = record["manifest"].as_str().unwrap().trim_start_matches("sha256:");
            let disk = std::fs::File::options()
                .write(true)
                .open(cache.join("disks").join(format!("{manifest}.img")))
                .unwrap();
            disk.set_modified(std::time::UNIX_EPOCH).unwrap();
        }
    }

    /// `inn run --rm` of something long, in a VM of this name.
    pub(crate) fn run_leased(&self, name: &str) -> Running {
        let args = ["run", "--rm", "--name", name, "--network", "none", "--runtime"];
        let what = [self.runtime.name(), "--memory", "128MiB", "mini", "--", "sleep", "1000000"];
        self.host.inn(args).args(what).start()
    }

    /// Ends the agent, and gives the end of its log for a failure's message.
    pub(crate) fn last_words(&self) -> String {
        if !self.host.has_agent() {
            return "no agent runs".to_owned();
        }
        tail(&self.host.kill_agent())
    }
}

fn tail(output: &Output) -> String {
    let text = output.to_string();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

fn named(variable: &str) -> PathBuf {
    std::env::var_os(variable).expect("it was looked for").into()
}

/// Of a VM under the host's own KVM: what is named, unpacked once.
fn kernel() -> &'static Value {
    static KERNEL: OnceLock<(TempDir, Value)> = OnceLock::new();
    let (_, kernel) = KERNEL.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let packed = &named(GUEST_KERNEL);
        let args = std::fs::read_to_string(packed.with_file_name("bootargs")).unwrap_or_default();
        let path = kernels::unpacked(packed, dir.path());
        (dir, json!({ "path": path, "args": args.trim() }))
    });
    kernel
}

static TEMPLATE: OnceLock<Host> = OnceLock::new();

fn registry() -> &'static Registry {
    static REGISTRY: OnceLock<Registry> = OnceLock::new();
    REGISTRY.get_or_init(|| {
        // More than one read of a layer each.
        let layer = |name: &str| {
            let mut tar = tar::Builder::new(Vec::new());
            let content = vec![b'x'; 1 << 20];
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, content.as_slice()).expect("a vector takes it");
            tar.into_inner().expect("a vector takes it")
        };
        Registry::serve(&[layer("lower"), layer("upper")], &["sleep", "1000000"])
    })
}

/// The image, the files that machines boot from and an empty disk, made once.
fn template() -> &'static Host {
    TEMPLATE.get_or_init(|| {
        let host = Host::bare();
        host.start_agent();
        host.import("mini");
        let (runtime, netns) = (Runtime::Qemu, None);
        let (libvirtd, firewalld) = (None, None);
        let ground = Ground { host, runtime, netns, templates: false, libvirtd, firewalld };
        // Boots once, so that all caches are filled.
        ground.create("first", &Value::Null).expect("the agent answers").ok();
        let gone = ground.ask("DELETE", "/api/vms/first?force=true&wait=60s", &Value::Null);
        gone.expect("the agent answers").ok();
        ground.host.stop_agent().expect_code(0);
        // It says whose VMs run from there: of a copy nobody's.
        std::fs::remove_dir_all(ground.host.data().join("images/agents")).unwrap();
        ground.host
    })
}

/// Removes what all cases are copied from.
pub(crate) fn finish() {
    // Its drop would find it without an agent, and its files in order.
    if let Some(host) = TEMPLATE.get() {
        std::fs::remove_dir_all(host.path()).unwrap();
    }
}

/// Images never change, so they are linked; all else is copied.
fn copy_tree(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (source, target): (PathBuf, PathBuf) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            if !target.exists() {
                std::fs::create_dir(&target).unwrap();
                let mode = std::fs::metadata(&source).unwrap().permissions();
                std::fs::set_permissions(&target, mode).unwrap();
            }
            copy_tree(&source, &target);
        } else if kind.is_symlink() {
            // The kernels, which every host has.
        } else if source.components().any(|part| part.as_os_str() == "images") {
            std::fs::hard_link(&source, &target).unwrap();
        } else {
            std::fs::copy(&source, &target).unwrap();
        }
    }
}
