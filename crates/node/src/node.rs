//! The agent's parts and its life.
//!
//! ```text
//!   directories ▶ lock ▶ store ▶ orphans reaped ▶ VMs adopted ▶ API served ▶ … signal
//!                                                                              │
//!        exit ◀ tasks have left their VMs running ◀ leased VMs deleted ◀───────┘
//! ```
//! or, in place of the exit, the program of an upgrade: see [`crate::upgrade`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use inn_domain::network::NetworkWay;
use inn_domain::{
    Limits, MIN_MEMORY, Moment, Removal, Request, RuntimeChoice, RuntimeSelection, StopKind, VmSpec,
};
use inn_fail_point::{Point, fail_point};
use inn_host::LockFile;
use inn_host::cgroup::Cgroups;
use inn_host::init_system::{InitSystem, PassedListeners, Said, passed_listeners};
use inn_host::process::successor;
use inn_image::ImageStore;
use inn_image::disk_image::DiskImages;
use inn_store::Store;
use inn_trace::Tracer;
use inn_units::{Bytes, TIB, Vcpus};
use inn_vmm_sim::SimRuntime;
use jiff::Timestamp;
use tokio::sync::{Mutex, Notify};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::Tokens;
use crate::boot::{DEFAULT_KERNEL, Kernels, KvmVerdicts};
use crate::config::{AccelChoice, Config, Fixed, SharedConfig, starts_for};
use crate::disk_images::DiskFetches;
use crate::drain::Drain;
use crate::error::{AgentError, Chain};
use crate::events::{Event, EventKind, EventLog};
use crate::gauge::Gauge;
use crate::guest_disk::GuestDisk;
use crate::images::Images;
use crate::logging::LogGuard;
use crate::metering::Metering;
use crate::metrics::Metrics;
use crate::network::Networks;
use crate::node_key::NodeKey;
use crate::operations::Operations;
use crate::reload::follow_log;
use crate::runtime::Runtimes;
use crate::signals::{Asked, Signals};
use crate::snapshots::Snapshots;
use crate::templates::Templates;
use crate::turns::Turns;
use crate::upgrade::{Decision, Successor, Upgrade};
use crate::vm::Vms;
use crate::vmm_users::VmmUsers;
use crate::watchdog::show_life;
use crate::{hold, http, reconcile, traces};

/// For leased VMs to be deleted and tasks to leave theirs at the agent's end.
const FAREWELL: Duration = Duration::from_secs(10);

/// What the binary brings along.
#[derive(Debug, Clone, Copy)]
pub struct Parts {
    /// `inn-guest`, a static ELF executable.
    pub guest_binary: &'static [u8],
}

/// Everything that VMs and the API share.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: String,
    pub(crate) key: NodeKey,
    pub(crate) config: Arc<SharedConfig>,
    pub(crate) limits: Limits,
    pub(crate) store: Store,
    pub(crate) images: Images,
    pub(crate) disk_images: DiskFetches,
    pub(crate) kernels: Kernels,
    pub(crate) guest_disk: GuestDisk,
    pub(crate) runtimes: Runtimes,
    pub(crate) kvm: KvmVerdicts,
    pub(crate) gauge: Gauge,
    /// Held by a benchmark that is under way.
    pub(crate) benchmarking: Arc<Mutex<()>>,
    pub(crate) cgroups: Cgroups,
    pub(crate) vmm_users: VmmUsers,
    pub(crate) vms: Vms,
    pub(crate) networks: Networks,
    pub(crate) snapshots: Snapshots,
    pub(crate) templates: Templates,
    pub(crate) metering: Metering,
    pub(crate) metrics: Metrics,
    pub(crate) tracer: Tracer,
    pub(crate) operations: Operations,
    pub(crate) events: Arc<EventLog>,
    pub(crate) tokens: Tokens,
    pub(crate) drain: Drain,
    /// Somebody's time to live is another one.
    pub(crate) ttl_changed: Notify,
    /// Some VM rests otherwise than before when nobody uses it.
    pub(crate) idle_changed: Notify,
    /// Held while the image cache is gone through.
    pub(crate) collecting: Mutex<()>,
    /// Held by a pass for orphans.
    pub(crate) reaping: Mutex<()>,
    /// Of machines.
    pub(crate) starts: Arc<Turns>,
    /// Of disk images.
    pub(crate) copies: Arc<Turns>,
    /// Where the API listens over TCP, once it does.
    pub(crate) listens_at: OnceLock<SocketAddr>,
    /// Whoever has started us as a service, if somebody has.
    pub(crate) init_system: OnceLock<Arc<InitSystem>>,
    /// Held while the configuration is read again.
    pub(crate) reloading: Mutex<()>,
    /// Whether every VM of an earlier life has been adopted or given up.
    pub(crate) adopted: AtomicBool,
    /// See [`crate::hold`].
    held: AtomicBool,
    /// Told once: every task leaves.
    pub(crate) closing: CancellationToken,
    pub(crate) tasks: TaskTracker,
    /// See [`crate::upgrade`].
    pub(crate) upgrade: Upgrade,
    started: Instant,
    pub(crate) started_at: Timestamp,
    _lock: LockFile,
}

/// Runs the agent until SIGTERM or SIGINT, or until another program is to take
/// this process over. VMs outlive it. SIGHUP reads the configuration again.
pub async fn run(
    config: Config,
    parts: Parts,
    log: &LogGuard,
) -> Result<Option<Successor>, AgentError> {
    let mut signals = Signals::listen()?;
    let init = Arc::new(init_system());
    let passed = passed();
    if passed.unix.iter().any(|(name, _)| !name.is_empty()) {
        fail_point(Point::UpgradeTaken);
    }
    let inherited = successor::inherited();
    let node = Node::open(config, parts, SimRuntime::default()).await?;
    let _ = node.init_system.set(Arc::clone(&init));
    traces::export(&node)?;
    for child in inherited {
        // Nobody else waits for it.
        node.tasks.spawn(node.closing.clone().run_until_cancelled_owned(child.reap()));
    }
    hold::restore(&node).await?;
    reconcile::restore(&node).await?;
    let mut api = http::serve(&node, passed).await?;
    fail_point(Point::AgentServes);
    prepare_first_start(&node);
    tracing::info!(
        node = node.id,
        socket = %node.config.paths.api_socket().display(),
        vms = node.vms.len(),
        "serving"
    );
    let vms = node.vms.len();
    node.events.tell(
        Event::new(EventKind::AgentStarted, format!("the agent serves, with {}", in_words(vms)))
            .with("version", env!("CARGO_PKG_VERSION"))
            .with("vms", vms),
    );
    node.tasks.spawn(
        node.closing
            .clone()
            .run_until_cancelled_owned(follow_log(log.filter(), node.config.subscribe())),
    );
    let alive = show_life(Arc::clone(&node), Arc::clone(&init), api.socket().to_owned());
    node.tasks.spawn(node.closing.clone().run_until_cancelled_owned(alive));
    node.tell_init(&[Said::Ready, Said::Status(&node.status())]);
    let successor = loop {
        let asked = tokio::select! {
            // Cancel safe: a signal that came stays to be seen.
            asked = signals.next() => asked,
            // Cancel safe: a decision stands.
            decision = node.upgrade.decided() => break Some(decision),
        };
        if asked == Asked::End {
            break None;
        }
        // What is wrong is logged, and told as an event.
        let _ = api.reload(&node).await;
    };
    let successor = match successor {
        Some(Decision { program, version }) => {
            // Ready is said by the one that follows.
            node.tell_init(&[Said::Reloading, Said::Status("upgrading; VMs run on")]);
            tracing::info!(program = %program.display(), version, "upgrading; VMs run on");
            let told = format!("the agent goes on as version {version}; VMs run on");
            node.events.tell(
                Event::new(EventKind::AgentUpgrading, told)
                    .with("program", program.display().to_string())
                    .with("from", env!("CARGO_PKG_VERSION"))
                    .with("to", version),
            );
            Some(Successor { program, sockets: api.hand_over().await })
        }
        None => {
            node.tell_init(&[Said::Stopping, Said::Status("ending; VMs run on")]);
            tracing::info!("ending; VMs run on");
            node.events.tell(Event::new(EventKind::AgentEnding, "the agent ends; VMs run on"));
            api.stop();
            None
        }
    };
    fail_point(Point::EndSocketRemoved);
    node.close().await;
    fail_point(Point::EndLeft);
    api.close().await;
    Ok(successor)
}

fn init_system() -> InitSystem {
    InitSystem::find().unwrap_or_else(|error| {
        tracing::warn!(%error, "the init system cannot be told how the agent is");
        InitSystem::default()
    })
}

/// The API's sockets, where the init system or the agent before keeps them open.
fn passed() -> PassedListeners {
    let passed = passed_listeners().unwrap_or_else(|error| {
        tracing::warn!(%error, "the sockets that were passed are of no use");
        PassedListeners::default()
    });
    let count = passed.unix.len();
    if count > 1 {
        tracing::warn!(count, "of the unix sockets that were passed the first is used");
    }
    passed
}

fn in_words(vms: usize) -> String {
    if vms == 1 { "1 VM".to_owned() } else { format!("{vms} VMs") }
}

/// [`run`] in a runtime of its own: few threads, since an idle agent shall be
/// small and all heavy work is done by others.
pub fn run_blocking(
    config: Config,
    parts: Parts,
    log: &LogGuard,
) -> Result<Option<Successor>, AgentError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(32)
        .thread_keep_alive(Duration::from_secs(2))
        .enable_all()
        .build()
        .map_err(|source| AgentError::Start { step: "start the async runtime", source })?;
    let done = runtime.block_on(run(config, parts, log));
    // A blocking call that hangs must not hold up the exit.
    runtime.shutdown_timeout(Duration::from_secs(1));
    done
}

impl Node {
    /// Nothing where no init system has started us.
    pub(crate) fn tell_init(&self, said: &[Said<'_>]) {
        let Some(init) = self.init_system.get() else { return };
        if let Err(error) = init.say(said) {
            tracing::warn!(%error, "the init system is not told how the agent is");
        }
    }

    /// One line on what the agent does.
    pub(crate) fn status(&self) -> String {
        let waiting = self.config.waiting_for_restart();
        let waits = match waiting.is_empty() {
            true => String::new(),
            false => format!("; after a restart also with new {}", waiting.join(", ")),
        };
        format!("serving {}{waits}", in_words(self.vms.len()))
    }

    pub(crate) async fn open(
        config: Config,
        parts: Parts,
        sim: SimRuntime,
    ) -> Result<Arc<Self>, AgentError> {
        let fixed = &config.fixed;
        let paths = &fixed.paths;
        reconcile::make_directories(paths)?;
        let lock = LockFile::acquire(&paths.lock())?;
        fail_point(Point::AgentLocked);
        let store = Store::open(&paths.data_dir)?;
        fail_point(Point::AgentStateOpened);
        let id = node_id(fixed, &store).await?;
        fail_point(Point::AgentNamed);
        // It syncs files, which takes as long as the rest.
        let (directory, of) = (paths.usage(), id.clone());
        let metering = tokio::task::spawn_blocking(move || Metering::open(directory, &of));
        let images = ImageStore::open(&paths.image_cache_dir).map_err(AgentError::Images)?;
        images.register(&paths.data_dir).map_err(AgentError::Images)?;
        let disk_images = DiskImages::open(&paths.image_cache_dir)
            .map(DiskFetches::new)
            .map_err(AgentError::DiskImages)?;
        let kernels = Kernels::open(fixed, parts.guest_binary).map_err(AgentError::Kernels)?;
        kernels.choose(store.node_value(DEFAULT_KERNEL).await?);
        let tokens = Tokens::open(&store, &paths.token()).await?;
        let events = EventLog::open(store.clone(), fixed.events_keep).await?;
        let key = NodeKey::open(&paths.node_key())
            .map_err(AgentError::io("read the node's key", paths.node_key()))?;
        let snapshots = Snapshots::open(&store, paths.snapshots()).await?;
        let directory = paths.templates();
        let templates = tokio::task::spawn_blocking(move || Templates::open(directory));
        let templates = templates.await.map_err(|error| AgentError::Start {
            step: "read the templates",
            source: std::io::Error::other(error),
        })?;
        let metering = metering.await.map_err(|error| AgentError::Start {
            step: "open the ledger of usage",
            source: std::io::Error::other(error),
        })??;
        let node = Arc::new(Self {
            metering,
            metrics: Metrics::default(),
            tracer: Tracer::default(),
            id,
            key,
            snapshots,
            templates,
            limits: limits(fixed),
            drain: Drain::open(&store).await?,
            ttl_changed: Notify::new(),
            idle_changed: Notify::new(),
            collecting: Mutex::default(),
            reaping: Mutex::default(),
            starts: Turns::new("start", starts_for(fixed.concurrent_starts)),
            copies: Turns::new("copy", fixed.concurrent_copies),
            images: Images::new(images),
            disk_images,
            kernels,
            guest_disk: GuestDisk::new(paths.guest_disk(), parts.guest_binary),
            runtimes: Runtimes::new(sim, fixed),
            kvm: KvmVerdicts::new(store.clone(), fixed),
            gauge: Gauge::default(),
            benchmarking: Arc::default(),
            cgroups: Cgroups::find(&paths.cgroup()),
            vmm_users: VmmUsers::find(fixed),
            vms: Vms::default(),
            networks: Networks::open(
                &store,
                fixed.network_mode,
                fixed.network_foreign,
                paths.instance(),
            )
            .await?,
            operations: Operations::default(),
            events,
            tokens,
            listens_at: OnceLock::new(),
            init_system: OnceLock::new(),
            reloading: Mutex::default(),
            adopted: AtomicBool::new(false),
            held: AtomicBool::new(false),
            closing: CancellationToken::new(),
            tasks: TaskTracker::new(),
            upgrade: Upgrade::default(),
            started: Instant::now(),
            started_at: Timestamp::now(),
            store,
            config: Arc::new(SharedConfig::new(config)),
            _lock: lock,
        });
        node.tasks.spawn(Arc::clone(&node.events).write(node.closing.clone()));
        Ok(node)
    }

    /// Of VMs, and of snapshots that VMs may be made from.
    pub(crate) fn images_in_use(&self) -> Vec<inn_units::Digest> {
        let mut all = self.vms.images_in_use();
        all.extend(self.snapshots.images_in_use());
        all
    }

    /// No VM runs from now on, new ones neither.
    pub(crate) fn hold(&self) {
        self.held.store(true, Ordering::SeqCst);
        self.templates.poke();
    }

    /// Whether there was a hold.
    pub(crate) fn release(&self) -> bool {
        let held = self.held.swap(false, Ordering::SeqCst);
        self.templates.poke();
        held
    }

    pub(crate) fn holds(&self) -> bool {
        self.held.load(Ordering::SeqCst)
    }

    pub(crate) fn now(&self) -> Moment {
        Moment(self.started.elapsed())
    }

    pub(crate) fn moment(&self, instant: Instant) -> Moment {
        Moment(instant.saturating_duration_since(self.started))
    }

    pub(crate) fn instant(&self, moment: Moment) -> Instant {
        self.started + moment.0
    }

    /// Deletes what lives only as long as the agent, and lets all else be.
    pub(crate) async fn close(&self) {
        let deadline = Instant::now() + FAREWELL;
        let leased: Vec<_> = self.vms.all().into_iter().filter(|vm| vm.spec().lease).collect();
        for vm in &leased {
            let delete = Request::Delete(StopKind::Force, Removal::default());
            if let Err(error) = vm.request(&self.store, delete).await {
                tracing::warn!(vm = %vm.spec().name, error = %Chain(&error), "not deleted");
            }
        }
        for vm in &leased {
            vm.wait_gone(deadline.saturating_duration_since(Instant::now())).await;
        }
        fail_point(Point::EndLeases);
        self.operations.cancel_all();
        self.closing.cancel();
        self.tasks.close();
        if tokio::time::timeout_at(deadline, self.tasks.wait()).await.is_err() {
            tracing::warn!(tasks = self.tasks.len(), "some tasks are given up");
        }
        self.events.close().await;
    }
}

impl Node {
    /// Which runtime such a VM would have now, and why.
    pub(crate) async fn select_runtime(&self, spec: &VmSpec) -> RuntimeSelection {
        let user_network = self.networks.mode.way == NetworkWay::User;
        self.runtimes.select(spec, user_network).await
    }
}

/// Does what the first start of a VM would wait for: finds QEMU and the
/// kernel, and probes KVM.
fn prepare_first_start(node: &Arc<Node>) {
    let node = Arc::clone(node);
    let closing = node.closing.clone();
    let tasks = node.tasks.clone();
    tasks.spawn(closing.run_until_cancelled_owned(async move {
        let qemu = match node.runtimes.qemu().await {
            Ok(qemu) => qemu,
            // Others need no preparation.
            Err(_) if node.runtimes.choose(RuntimeChoice::Auto).await.is_ok() => return,
            Err(error) => return tracing::warn!(error = %Chain(&error), "no VM can be started"),
        };
        let files = match node.kernels.boot_files(None, qemu.machine_type()).await {
            Ok(files) => files,
            Err(error) => return tracing::warn!(error = %Chain(&error), "no VM can be started"),
        };
        if node.config.accel == AccelChoice::Auto {
            let accel = node.kvm.accel(qemu, &files).await;
            tracing::debug!(?accel, kernel = files.kernel.version, "ready to start VMs");
        }
    }));
}

/// The configured one; else the host's name or `node`, and four digits, kept.
async fn node_id(config: &Fixed, store: &Store) -> Result<String, AgentError> {
    if let Some(id) = &config.node_id {
        return Ok(id.clone());
    }
    if let Some(id) = store.node_value("id").await? {
        return Ok(id);
    }
    let mut random = [0; 4];
    getrandom::fill(&mut random).map_err(|error| AgentError::Start {
        step: "name this node",
        source: std::io::Error::other(error),
    })?;
    let digits: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let id = format!("node-{digits}");
    store.set_node_value("id", id.clone()).await?;
    Ok(id)
}

fn limits(config: &Fixed) -> Limits {
    let info = rustix::system::sysinfo();
    let memory = u64::from(info.mem_unit).saturating_mul(info.totalram);
    Limits {
        min_memory: MIN_MEMORY,
        max_memory: Bytes(memory),
        max_vcpus: Vcpus::new(255).unwrap_or(Vcpus::ONE),
        // ext4 with blocks of 4 KiB has 16 TiB at most.
        max_disk: Bytes(16 * TIB - 1),
        sim: config.sim_enabled,
    }
}
