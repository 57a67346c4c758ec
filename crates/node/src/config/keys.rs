use super::access::{at_least, hosts, scope};
use super::admission::{count, factor, size_or_auto};
use super::network::{foreign, mode, reserved};
use super::registries::{accept, file, files, mirrors, plain_http};
use super::runtimes::{architecture, bridges, libvirt_uri, prefix, runtimes, subnet};
use super::values::{
    absolute, choice, collector, listen, log_filter, node_name, number, optional_size,
    optional_time, parsed, put, switch, time,
};
use super::{AccelChoice, Config, Draft, Fixed, Live, LogFormat};
use crate::paths::Places;
use crate::vmm_users::own_uids;

use self::Preset::{Found, Is, Unset};

/// One key of the configuration.
#[derive(Debug)]
pub struct Key {
    pub name: &'static str,
    pub kind: Kind,
    pub default: Preset,
    /// Sentences, for whoever sets it.
    pub about: &'static str,
    set: Set,
}

/// What a value looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    Path,
    /// `30s`, `5m`; a whole number is seconds.
    Duration,
    /// `256MiB`; a whole number is bytes.
    Size,
    Number,
    Switch,
}

#[derive(Debug)]
pub enum Preset {
    /// Read as if somebody had written it.
    Is(&'static str),
    /// Depends on who and where the agent is: root's, and this one's.
    Found(&'static str, fn(&Config) -> String),
    /// Nothing; the example file shows this.
    Unset(&'static str),
}

/// Reads a value into the part that it belongs to, which says whether a reload
/// can change it.
enum Set {
    Place(fn(&mut Places, &str) -> Result<(), String>),
    Fixed(fn(&mut Fixed, &str) -> Result<(), String>),
    Live(fn(&mut Live, &str) -> Result<(), String>),
}

/// Every key, in the order of the example file.
pub static KEYS: &[Key] = &[
    Key {
        name: "data_dir",
        kind: Kind::Path,
        default: Found("/var/lib/innkeeper", |c| c.fixed.paths.data_dir.display().to_string()),
        about: "Where VMs, images and state are kept.",
        set: Set::Place(|c, text| put(&mut c.data_dir, absolute(text).map(Some))),
    },
    Key {
        name: "runtime_dir",
        kind: Kind::Path,
        default: Found("/run/innkeeper", |c| c.fixed.paths.runtime_dir.display().to_string()),
        about: "Where sockets are.",
        set: Set::Place(|c, text| put(&mut c.runtime_dir, absolute(text).map(Some))),
    },
    Key {
        name: "image_cache_dir",
        kind: Kind::Path,
        default: Found("/var/lib/innkeeper/images", |c| {
            c.fixed.paths.image_cache_dir.display().to_string()
        }),
        about: "Where images are kept; in data_dir unless given.",
        set: Set::Place(|c, text| put(&mut c.image_cache_dir, absolute(text).map(Some))),
    },
    Key {
        name: "node_id",
        kind: Kind::Text,
        default: Unset("node-1"),
        about: "This node's name, a DNS label; made up at the first start and kept unless given.",
        set: Set::Fixed(|c, text| put(&mut c.node_id, node_name(text).map(Some))),
    },
    Key {
        name: "log",
        kind: Kind::Text,
        default: Is("info"),
        about: "What is logged: error, warn, info, debug or trace, or a filter such as \
                inn_node=debug.",
        set: Set::Live(|c, text| put(&mut c.log, log_filter(text))),
    },
    Key {
        name: "log_format",
        kind: Kind::Text,
        default: Unset("json"),
        about: "text or json; text on a terminal and json elsewhere unless given.",
        set: Set::Fixed(|c, text| {
            let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
            put(&mut c.log_format, choice(text, &formats).map(Some))
        }),
    },
    Key {
        name: "log_file",
        kind: Kind::Path,
        default: Unset("/var/log/innkeeper.log"),
        about: "Where log lines go in place of stderr.",
        set: Set::Fixed(|c, text| put(&mut c.log_file, absolute(text).map(Some))),
    },
    Key {
        name: "log_size",
        kind: Kind::Size,
        default: Is("64MiB"),
        about: "How large log_file may become. Then it is moved to its name with .1, in the \
                place of the one before.",
        set: Set::Fixed(|c, text| put(&mut c.log_size, parsed(text))),
    },
    Key {
        name: "traces.endpoint",
        kind: Kind::Text,
        default: Unset("http://127.0.0.1:4318"),
        about: "A collector that takes OpenTelemetry's traces by OTLP over HTTP, of an inn that \
                is built with the feature otlp. OTEL_EXPORTER_OTLP_ENDPOINT counts unless given.",
        set: Set::Fixed(|c, text| put(&mut c.traces_endpoint, collector(text).map(Some))),
    },
    Key {
        name: "api_listen",
        kind: Kind::Text,
        default: Found("127.0.0.1:5100", |c| c.fixed.api_listen.to_string()),
        about: "The API over TCP: host:port, where port 0 takes a free one, or none. Without it \
                the API is at 127.0.0.1:5100, or on the unix socket only where another agent has \
                that.",
        set: Set::Fixed(|c, text| put(&mut c.api_listen, listen(text))),
    },
    Key {
        name: "api.hosts",
        kind: Kind::Text,
        default: Is("none"),
        about: "Names of this host that requests over TCP may be for, besides localhost and its \
                addresses, with commas between, or none.",
        set: Set::Live(|c, text| put(&mut c.access.hosts, hosts(text))),
    },
    Key {
        name: "api.rate",
        kind: Kind::Number,
        default: Is("1000"),
        about: "Requests a second of one token or user; three seconds' worth may come at once. Root \
                and the agent's own user on the unix socket are not counted.",
        set: Set::Live(|c, text| put(&mut c.access.rate, at_least(1, text))),
    },
    Key {
        name: "api.strangers_rate",
        kind: Kind::Number,
        default: Is("20"),
        about: "Requests a second without good credentials from one address.",
        set: Set::Live(|c, text| put(&mut c.access.strangers_rate, at_least(1, text))),
    },
    Key {
        name: "api.connections",
        kind: Kind::Number,
        default: Is("1024"),
        about: "Connections at a time, without those of root and of the agent's own user on the \
                unix socket.",
        set: Set::Live(|c, text| put(&mut c.access.connections, at_least(1, text))),
    },
    Key {
        name: "api.connections_per_peer",
        kind: Kind::Number,
        default: Is("512"),
        about: "Connections at a time of one address or user.",
        set: Set::Live(|c, text| put(&mut c.access.connections_per_peer, at_least(1, text))),
    },
    Key {
        name: "api.header_timeout",
        kind: Kind::Duration,
        default: Is("30s"),
        about: "How long a request's head may take, and how long a connection may idle. What bounds \
                connections holds for those that are opened after a reload.",
        set: Set::Live(|c, text| put(&mut c.access.header_timeout, time(text))),
    },
    Key {
        name: "api.header_size",
        kind: Kind::Number,
        default: Is("98304"),
        about: "Bytes that a request's head may have; an exec has its command line there.",
        set: Set::Live(|c, text| put(&mut c.access.header_size, at_least(8 << 10, text))),
    },
    Key {
        name: "api.headers",
        kind: Kind::Number,
        default: Is("100"),
        about: "Headers that a request may have.",
        set: Set::Live(|c, text| put(&mut c.access.headers, at_least(16, text))),
    },
    Key {
        name: "api.body_timeout",
        kind: Kind::Duration,
        default: Is("60s"),
        about: "How long a JSON body may take, and how long an upload may be waited for that does \
                not go on.",
        set: Set::Live(|c, text| put(&mut c.access.body_timeout, time(text))),
    },
    Key {
        name: "tls.cert",
        kind: Kind::Path,
        default: Unset("/etc/innkeeper/tls.pem"),
        about: "The certificate that the API over TCP is served with, and its chain, as PEM; then \
                it takes nothing but TLS. Read again when it changes and at a reload.",
        set: Set::Fixed(|c, text| put(&mut c.tls.cert, absolute(text).map(Some))),
    },
    Key {
        name: "tls.key",
        kind: Kind::Path,
        default: Unset("/etc/innkeeper/tls.key"),
        about: "Its private key, as PEM.",
        set: Set::Fixed(|c, text| put(&mut c.tls.key, absolute(text).map(Some))),
    },
    Key {
        name: "tls.client_ca",
        kind: Kind::Path,
        default: Unset("/etc/innkeeper/clients.pem"),
        about: "Who signs clients' certificates, as PEM; then no client connects without one.",
        set: Set::Fixed(|c, text| put(&mut c.tls.client_ca, absolute(text).map(Some))),
    },
    Key {
        name: "tls.client_scope",
        kind: Kind::Text,
        default: Is("none"),
        about: "What such a certificate is good for without a token: read, operate, admin, or none.",
        set: Set::Fixed(|c, text| put(&mut c.tls.client_scope, scope(text))),
    },
    Key {
        name: "start_deadline",
        kind: Kind::Duration,
        default: Is("60s"),
        about: "How long a guest may take to answer after its machine has started.",
        set: Set::Live(|c, text| put(&mut c.start_deadline, time(text))),
    },
    Key {
        name: "cloud_init_deadline",
        kind: Kind::Duration,
        default: Is("10m"),
        about: "How long cloud-init in a VM that it sets up may take, its boot included.",
        set: Set::Live(|c, text| put(&mut c.cloud_init_deadline, time(text))),
    },
    Key {
        name: "stop_timeout",
        kind: Kind::Duration,
        default: Is("30s"),
        about: "How long a guest may take to shut down before its machine is ended.",
        set: Set::Live(|c, text| put(&mut c.stop_timeout, time(text))),
    },
    Key {
        name: "accel",
        kind: Kind::Text,
        default: Is("auto"),
        about: "auto (KVM where a probe boot has shown that it works), kvm or tcg.",
        set: Set::Fixed(|c, text| {
            let accels =
                [("auto", AccelChoice::Auto), ("kvm", AccelChoice::Kvm), ("tcg", AccelChoice::Tcg)];
            put(&mut c.accel, choice(text, &accels))
        }),
    },
    Key {
        name: "runtimes.order",
        kind: Kind::Text,
        default: Is("qemu, firecracker, krun, libvirt"),
        about: "Which runtimes VMs may have that ask for none, the preferred first: qemu, \
                firecracker, krun and libvirt. One that a VM asks for (--runtime) need not be \
                among them.",
        set: Set::Fixed(|c, text| put(&mut c.runtimes_order, runtimes(text))),
    },
    Key {
        name: "runtimes.libvirt.uri",
        kind: Kind::Text,
        default: Is("qemu:///system"),
        about: "The libvirtd of this host that VMs of the runtime libvirt are domains of: \
                qemu:///system, qemu:///session or qemu+unix:///system?socket=PATH.",
        set: Set::Fixed(|c, text| put(&mut c.libvirt.uri, libvirt_uri(text))),
    },
    Key {
        name: "runtimes.libvirt.prefix",
        kind: Kind::Text,
        default: Is("none"),
        about: "Where the agent's files are for libvirt, if that is elsewhere: DIRECTORY=DIRECTORY, \
                as the agent and as libvirt has it, or none. For an agent in a container.",
        set: Set::Fixed(|c, text| put(&mut c.libvirt.prefix, prefix(text))),
    },
    Key {
        name: "runtimes.libvirt.architecture",
        kind: Kind::Text,
        default: Is("x86_64"),
        about: "What the CPUs of libvirt's guests are: x86_64 or aarch64. Of another architecture \
                than the agent's own it boots disk images alone, emulated and without a guest \
                agent.",
        set: Set::Fixed(|c, text| put(&mut c.libvirt.architecture, architecture(text))),
    },
    Key {
        name: "runtimes.libvirt.bridge",
        kind: Kind::Text,
        default: Is("none"),
        about: "Bridges of the host's that VMs of the runtime libvirt may be put on (--network \
                bridge:NAME), separated by commas, or none. Innkeeper has no part in what goes on \
                there.",
        set: Set::Fixed(|c, text| put(&mut c.libvirt.bridges, bridges(text))),
    },
    Key {
        name: "runtimes.libvirt.subnet",
        kind: Kind::Text,
        default: Is("any"),
        about: "Where the addresses lie that VMs have on such a bridge, such as 192.168.1.0/24: of \
                those that the host's neighbours or a guest tell of, these are the VM's.",
        set: Set::Fixed(|c, text| put(&mut c.libvirt.subnet, subnet(text))),
    },
    Key {
        name: "runtimes.libvirt.libraries",
        kind: Kind::Path,
        default: Unset("/opt/libvirt/lib"),
        about: "The directory with libvirt.so.0 and libvirt-qemu.so.0, if the system's linker does \
                not find them.",
        set: Set::Fixed(|c, text| put(&mut c.libvirt.library_dir, absolute(text).map(Some))),
    },
    Key {
        name: "kvm.probe_deadline",
        kind: Kind::Duration,
        default: Is("5s"),
        about: "How long the probe boot under KVM may take.",
        set: Set::Fixed(|c, text| put(&mut c.kvm_probe_deadline, time(text))),
    },
    Key {
        name: "network.mode",
        kind: Kind::Text,
        default: Is("auto"),
        about: "How VMs get to the network: bridge (bridges, taps and rules of this host's, as \
                root), user (the VMM's own network: no named networks and no policies), none, or \
                auto (bridge where that can be had, else user).",
        set: Set::Fixed(|c, text| put(&mut c.network_mode, mode(text))),
    },
    Key {
        name: "network.foreign",
        kind: Kind::Text,
        default: Is("none"),
        about: "Whether the agent has another's firewall let VMs' packets through: docker-user \
                (rules of its own in Docker's chain DOCKER-USER, one each way for each bridge), \
                firewalld (its bridges in firewalld's zone trusted, by firewall-cmd), or none (what is in the way is named, and left alone).",
        set: Set::Fixed(|c, text| put(&mut c.network_foreign, foreign(text))),
    },
    Key {
        name: "ports.reserved",
        kind: Kind::Text,
        default: Is("none"),
        about: "Ports of this host that are mapped to nothing, as in 22/tcp, 53 or 6000-6010/udp \
                with commas between, or none. The API's own is never mapped.",
        set: Set::Live(|c, text| put(&mut c.reserved_ports, reserved(text))),
    },
    Key {
        name: "firecracker",
        kind: Kind::Path,
        default: Unset("/usr/local/bin/firecracker"),
        about: "The program Firecracker; without it the one in PATH. A static one whose jailer \
                lies beside it runs in a root directory of its own.",
        set: Set::Fixed(|c, text| put(&mut c.firecracker, absolute(text).map(Some))),
    },
    Key {
        name: "kernel.path",
        kind: Kind::Path,
        default: Unset("/srv/kernels/debian"),
        about: "The kernel that VMs boot unless they bring one. Without it the newest in \
                data_dir/kernels, else the host's own from /boot.",
        set: Set::Fixed(|c, text| put(&mut c.kernel_path, absolute(text).map(Some))),
    },
    Key {
        name: "vmm.uids",
        kind: Kind::Text,
        default: Found("1879048192-1879113727", |c| own_uids(&c.fixed).to_string()),
        about: "The users that VMMs run as under an agent that is root, as FIRST-LAST: one for \
                each VM, and one that writes logs. Nobody else on the host may have them, other \
                agents included. A machine that runs keeps its user until its next start.",
        set: Set::Fixed(|c, text| put(&mut c.vmm_uids, parsed(text).map(Some))),
    },
    Key {
        name: "logs.limit",
        kind: Kind::Size,
        default: Is("8MiB"),
        about: "How much is kept of each log of a VM, and once more of what was before it. What \
                its machine prints follows a change at the machine's next start.",
        set: Set::Live(|c, text| put(&mut c.log_limit, parsed(text))),
    },
    Key {
        name: "telemetry.interval",
        kind: Kind::Duration,
        default: Is("10s"),
        about: "How often a guest tells how its machine is doing.",
        set: Set::Live(|c, text| put(&mut c.telemetry.interval, time(text))),
    },
    Key {
        name: "telemetry.keep",
        kind: Kind::Duration,
        default: Is("30m"),
        about: "How long that is kept.",
        set: Set::Live(|c, text| put(&mut c.telemetry.keep, time(text))),
    },
    Key {
        name: "events.keep",
        kind: Kind::Number,
        default: Is("20000"),
        about: "How many events are kept, at least: the oldest go first.",
        set: Set::Fixed(|c, text| put(&mut c.events_keep, number(text))),
    },
    Key {
        name: "exec.max_timeout",
        kind: Kind::Duration,
        default: Is("none"),
        about: "How long any exec may run, whatever timeout it asks for, or none. An image's own \
                command is no exec.",
        set: Set::Live(|c, text| put(&mut c.exec_max_timeout, optional_time(text))),
    },
    Key {
        name: "admission.memory_overcommit",
        kind: Kind::Number,
        default: Is("1"),
        about: "How many times the node's memory, less the host's own, may be reserved by VMs.",
        set: Set::Live(|c, text| put(&mut c.admission.memory_overcommit, factor(text))),
    },
    Key {
        name: "admission.cpu_overcommit",
        kind: Kind::Number,
        default: Is("16"),
        about: "How many vCPUs may be reserved for each of the host's CPUs.",
        set: Set::Live(|c, text| put(&mut c.admission.cpu_overcommit, factor(text))),
    },
    Key {
        name: "admission.disk_overcommit",
        kind: Kind::Number,
        default: Is("4"),
        about: "How many times the disk that data_dir is on may be reserved. Disks of VMs are \
                sparse.",
        set: Set::Live(|c, text| put(&mut c.admission.disk_overcommit, factor(text))),
    },
    Key {
        name: "admission.host_memory",
        kind: Kind::Size,
        default: Is("auto"),
        about: "Memory that is the host's own, or auto: a sixteenth, and 256MiB at least.",
        set: Set::Live(|c, text| put(&mut c.admission.host_memory, size_or_auto(text))),
    },
    Key {
        name: "admission.max_vms",
        kind: Kind::Number,
        default: Is("10000"),
        about: "How many VMs there may be.",
        set: Set::Live(|c, text| put(&mut c.admission.max_vms, number(text))),
    },
    Key {
        name: "limits.concurrent_starts",
        kind: Kind::Number,
        default: Unset("4"),
        about: "How many machines start at the same time; two for each CPU, and 4 at least, \
                unless given.",
        set: Set::Fixed(|c, text| put(&mut c.concurrent_starts, count(text).map(Some))),
    },
    Key {
        name: "limits.concurrent_copies",
        kind: Kind::Number,
        default: Is("2"),
        about: "How many disk images are copied at the same time.",
        set: Set::Fixed(|c, text| put(&mut c.concurrent_copies, count(text))),
    },
    Key {
        name: "reap.interval",
        kind: Kind::Duration,
        default: Is("5m"),
        about: "How often what VMs have left behind is looked for and removed.",
        set: Set::Live(|c, text| put(&mut c.reap_interval, time(text))),
    },
    Key {
        name: "images.cache_limit",
        kind: Kind::Size,
        default: Is("none"),
        about: "How much images and what is made from them may take of the disk, or none. What is \
                unused goes then, the least recently used first.",
        set: Set::Live(|c, text| put(&mut c.images.cache_limit, optional_size(text))),
    },
    Key {
        name: "images.max_age",
        kind: Kind::Duration,
        default: Is("none"),
        about: "How long an image may be unused before it is removed, or none.",
        set: Set::Live(|c, text| put(&mut c.images.max_age, optional_time(text))),
    },
    Key {
        name: "templates.enabled",
        kind: Kind::Switch,
        default: Is("true"),
        about: "Whether VMs of images begin from templates, which are made in the background when \
                the first of its kind starts, in place of a boot.",
        set: Set::Live(|c, text| put(&mut c.templates.enabled, switch(text))),
    },
    Key {
        name: "templates.pool_memory",
        kind: Kind::Size,
        default: Is("auto"),
        about: "Memory for clones of templates that wait, up and standing still, for VMs to come; \
                or auto: a sixteenth of the host's, and none where it has less than 4 CPUs or 8GiB.",
        set: Set::Live(|c, text| put(&mut c.templates.pool_memory, size_or_auto(text))),
    },
    Key {
        name: "templates.pool_clones",
        kind: Kind::Number,
        default: Is("8"),
        about: "How many clones of one template wait at the most.",
        set: Set::Live(|c, text| put(&mut c.templates.pool_clones, count(text))),
    },
    Key {
        name: "sim.reserves",
        kind: Kind::Switch,
        default: Is("false"),
        about: "Whether simulated machines reserve and wait as real ones do.",
        set: Set::Fixed(|c, text| put(&mut c.sim_reserves, switch(text))),
    },
    Key {
        name: "sim.enabled",
        kind: Kind::Switch,
        default: Is("false"),
        about: "Whether simulated machines are allowed, for tests of the agent itself.",
        set: Set::Fixed(|c, text| put(&mut c.sim_enabled, switch(text))),
    },
    Key {
        name: "defaults.vcpus",
        kind: Kind::Number,
        default: Is("1"),
        about: "vCPUs of a VM that asks for none.",
        set: Set::Live(|c, text| put(&mut c.defaults.vcpus, parsed(text))),
    },
    Key {
        name: "defaults.memory",
        kind: Kind::Size,
        default: Is("256MiB"),
        about: "Memory of a VM that asks for none.",
        set: Set::Live(|c, text| put(&mut c.defaults.memory, parsed(text))),
    },
    Key {
        name: "defaults.disk",
        kind: Kind::Size,
        default: Is("2GiB"),
        about: "Size of the writable disk of a VM that asks for none.",
        set: Set::Live(|c, text| put(&mut c.defaults.disk, parsed(text))),
    },
    Key {
        name: "registries.mirrors",
        kind: Kind::Text,
        default: Is("none"),
        about: "Hosts to ask before a registry itself, as REGISTRY=HOST[:PORT][/PREFIX] with \
                commas between, in that order, or none. Credentials for a mirror are its own.",
        set: Set::Live(|c, text| put(&mut c.registries.mirrors, mirrors(text))),
    },
    Key {
        name: "registries.plain_http",
        kind: Kind::Text,
        default: Is("none"),
        about: "Hosts that are spoken to without TLS, as HOST or HOST:PORT with commas between, or \
                none. Loopback is no exception.",
        set: Set::Live(|c, text| put(&mut c.registries.plain_http, plain_http(text))),
    },
    Key {
        name: "registries.ca_file",
        kind: Kind::Path,
        default: Is("none"),
        about: "Certificates of authorities, in PEM, that registries and downloads are trusted by \
                besides the system's; or none.",
        set: Set::Live(|c, text| put(&mut c.registries.ca_file, file(text))),
    },
    Key {
        name: "registries.auth_file",
        kind: Kind::Path,
        default: Is("none"),
        about: "A file of credentials in the form of docker's config.json. Where it is none: \
                REGISTRY_AUTH_FILE, else podman's auth.json and docker's config.json of the \
                agent's user.",
        set: Set::Live(|c, text| put(&mut c.registries.auth_file, file(text))),
    },
    Key {
        name: "registries.accept",
        kind: Kind::Text,
        default: Is("none"),
        about: "The only registries, or parts of them (docker.io/library), that images may be \
                pulled from, with commas between; from any where it is none.",
        set: Set::Live(|c, text| put(&mut c.registries.accept, accept(text))),
    },
    Key {
        name: "registries.digests_only",
        kind: Kind::Switch,
        default: Is("false"),
        about: "Whether images are pulled by digest alone, and a tag is not enough.",
        set: Set::Live(|c, text| put(&mut c.registries.digests_only, switch(text))),
    },
    Key {
        name: "registries.signed_by",
        kind: Kind::Text,
        default: Is("none"),
        about: "Files of public keys, as `cosign generate-key-pair` makes them, with commas \
                between: only images that one of them has signed are pulled. Any where it is \
                none.",
        set: Set::Live(|c, text| put(&mut c.registries.signed_by, files(text))),
    },
    Key {
        name: "languages.python",
        kind: Kind::Text,
        default: Is("python"),
        about: "The image of --language python.",
        set: Set::Live(|c, text| language(c, "python", text)),
    },
    Key {
        name: "languages.javascript",
        kind: Kind::Text,
        default: Is("node"),
        about: "The image of --language javascript.",
        set: Set::Live(|c, text| language(c, "javascript", text)),
    },
    Key {
        name: "languages.node",
        kind: Kind::Text,
        default: Is("node"),
        about: "The image of --language node.",
        set: Set::Live(|c, text| language(c, "node", text)),
    },
    Key {
        name: "languages.ruby",
        kind: Kind::Text,
        default: Is("ruby"),
        about: "The image of --language ruby.",
        set: Set::Live(|c, text| language(c, "ruby", text)),
    },
    Key {
        name: "languages.golang",
        kind: Kind::Text,
        default: Is("golang"),
        about: "The image of --language golang.",
        set: Set::Live(|c, text| language(c, "golang", text)),
    },
];

fn language(live: &mut Live, language: &str, image: &str) -> Result<(), String> {
    live.languages.insert(language.to_owned(), image.to_owned());
    Ok(())
}

impl Key {
    /// What counts where it is not set; root's, where that depends.
    pub fn default_text(&self) -> Option<&'static str> {
        match self.default {
            Is(text) | Found(text, _) => Some(text),
            Unset(_) => None,
        }
    }

    /// Whether a reload changes it; else a restart does.
    pub fn is_live(&self) -> bool {
        matches!(self.set, Set::Live(_))
    }

    /// Its variable in the environment.
    pub fn variable(&self) -> String {
        // `kernel.path` is INN_KERNEL_PATH.
        format!("INN_{}", self.name.to_ascii_uppercase().replace('.', "_"))
    }

    pub(super) fn apply(&self, draft: &mut Draft, text: &str) -> Result<(), String> {
        match self.set {
            Set::Place(set) => set(&mut draft.places, text),
            Set::Fixed(set) => set(&mut draft.fixed, text),
            Set::Live(set) => set(&mut draft.live, text),
        }
    }

    /// A value as TOML.
    pub fn toml(&self, value: &str) -> String {
        match self.kind {
            Kind::Number | Kind::Switch => value.to_owned(),
            _ => format!("{value:?}"),
        }
    }
}

impl Preset {
    /// What is read where nothing is set.
    pub(super) fn text(&self) -> Option<&'static str> {
        match self {
            Is(text) => Some(text),
            Found(..) | Unset(_) => None,
        }
    }

    /// What holds where nothing is set.
    pub(super) fn value(&self, config: &Config) -> Option<String> {
        match self {
            Is(text) => Some((*text).to_owned()),
            Found(_, now) => Some(now(config)),
            Unset(_) => None,
        }
    }
}

impl std::fmt::Debug for Set {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Place(_) | Self::Fixed(_) => "Fixed",
            Self::Live(_) => "Live",
        })
    }
}
