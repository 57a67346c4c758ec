use std::collections::HashMap;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use inn_fail_point::{Point, fail_point};
use inn_host::process::host_boot_id;
use inn_units::{Architecture, Bytes, VmId};
use inn_vmm::{
    Accel, AdoptError, Capabilities, CardLimits, ChannelKind, Fingerprint, Launch, LaunchError,
    Lifetime, MachineConfig, MachineEnd, MachineIdentity, Runtime,
};

use crate::Behaviour;
use crate::machine::{Core, SimMachine};
use crate::state::State;

const NAME: &str = "sim";

/// No process has it, so no signal can go astray.
const NO_PID: u32 = 0;

/// virtio spec 1.2, 5.2.6.1: as the real runtimes.
const LONGEST_SERIAL: usize = 20;

/// Launches simulated machines. Clones share them.
#[derive(Clone)]
pub struct SimRuntime {
    capabilities: Arc<Capabilities>,
    machines: Arc<Mutex<HashMap<VmId, Arc<Core>>>>,
    behaviour: Arc<dyn Fn(VmId) -> Behaviour + Send + Sync>,
    launches: Arc<Launches>,
}

/// How many launches go on, and the most that ever did.
#[derive(Debug, Default)]
struct Launches {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Launches {
    /// One more, until what this returns is dropped.
    fn begin(&self) -> impl Drop + use<'_> {
        struct OneLess<'a>(&'a AtomicUsize);
        impl Drop for OneLess<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::SeqCst);
            }
        }
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        OneLess(&self.now)
    }
}

impl fmt::Debug for SimRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimRuntime").field("machines", &self.machines().len()).finish()
    }
}

impl Default for SimRuntime {
    fn default() -> Self {
        Self::new(|_| Behaviour::default())
    }
}

impl SimRuntime {
    /// `behaviour` is asked at each launch, and at each adoption of a machine
    /// of an earlier life.
    pub fn new(behaviour: impl Fn(VmId) -> Behaviour + Send + Sync + 'static) -> Self {
        let capabilities = Capabilities {
            name: NAME,
            architecture: Architecture::OURS,
            accels: vec![Accel::Tcg],
            max_vcpus: 255,
            min_memory: Bytes::mib(16),
            max_disks: 5,
            screens: false,
            generation_ids: false,
            user_network: true,
            port_forwards: true,
            taps: true,
            card_limits: true,
            foreign_networks: false,
            channels: vec![ChannelKind::Serial, ChannelKind::Vsock],
            firmware: true,
            resize_disks: true,
            power_button: true,
            snapshots: true,
            // As the real ones.
            snapshot_channels: vec![ChannelKind::Serial],
            interactive_console: true,
        };
        Self {
            capabilities: Arc::new(capabilities),
            machines: Arc::default(),
            behaviour: Arc::new(behaviour),
            launches: Arc::default(),
        }
    }

    /// The most launches that went on at the same time.
    pub fn most_launches_at_once(&self) -> usize {
        self.launches.most.load(Ordering::SeqCst)
    }

    /// What a machine's card is held to, where that is known.
    pub fn card_limits(&self, vm: VmId) -> Option<CardLimits> {
        self.machines().get(&vm)?.card_limits()
    }

    fn machines(&self) -> MutexGuard<'_, HashMap<VmId, Arc<Core>>> {
        // Insertions and removals are whole.
        self.machines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, core: Arc<Core>) -> SimMachine {
        let mut machines = self.machines();
        // Now and then: to look at all of them for each would be a square.
        if machines.len().is_power_of_two() {
            machines.retain(|_, core| !core.has_ended());
        }
        machines.insert(core.state.id, Arc::clone(&core));
        SimMachine::new(core)
    }

    fn refuse_excess(&self, config: &MachineConfig) -> Result<(), LaunchError> {
        let can = &self.capabilities;
        let refuse = |asked: String, limit: String| {
            Err(LaunchError::Refused { runtime: NAME, asked, limit })
        };
        if config.memory < can.min_memory {
            let limit = format!("{} at least", can.min_memory);
            return refuse(format!("{} of memory", config.memory), limit);
        }
        if config.disks.len() > can.max_disks {
            let limit = format!("{} at most", can.max_disks);
            return refuse(format!("{} disks", config.disks.len()), limit);
        }
        match config.disks.iter().find(|disk| !is_serial(&disk.serial)) {
            Some(disk) => {
                let limit = format!("1 to {LONGEST_SERIAL} letters, digits, - and _");
                refuse(format!("the disk serial {:?}", disk.serial), limit)
            }
            None => Ok(()),
        }
    }
}

fn is_serial(serial: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=LONGEST_SERIAL).contains(&serial.len()) && serial.bytes().all(plain)
}

impl Runtime for SimRuntime {
    type Machine = SimMachine;

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn fingerprint(&self, config: &MachineConfig) -> Fingerprint {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Fingerprint { version, ..Fingerprint::of(NAME, config) }
    }

    async fn launch(&self, config: &MachineConfig) -> Result<Launch<SimMachine>, LaunchError> {
        self.refuse_excess(config)?;
        let start = Instant::now();
        let behaviour = (self.behaviour)(config.id);
        let _under_way = self.launches.begin();
        tokio::time::sleep(behaviour.launch_takes).await;
        if let Some(reason) = behaviour.launch_fails {
            let program = "the simulation".to_owned();
            return Err(LaunchError::Failed { program, reason, log: Vec::new() });
        }
        let step = |step: &str| {
            let step = format!("{step} of VM {}", config.id);
            move |source| LaunchError::Io { step, source }
        };
        let boot_id = host_boot_id().map_err(step("reading the host's boot id for the start"))?;
        let state = State { id: config.id, number: fresh_number(), configured: false };
        let identity = MachineIdentity {
            runtime: NAME.to_owned(),
            pid: NO_PID,
            start_ticks: state.number,
            host_boot_id: boot_id.to_owned(),
        };
        log_boot(config).map_err(step("writing the console's log"))?;
        // What is leased dies with this process: nothing tells of it.
        if config.lifetime == Lifetime::Detached {
            fs::create_dir_all(&config.run_dir).map_err(step("making the run directory"))?;
            state.write(&config.run_dir).map_err(step("writing the state"))?;
        }
        let run_dir = config.run_dir.clone();
        let core = Core::new(identity, state, run_dir, config.lifetime, behaviour)
            .with_disks(&config.disks)
            .beginning_from(config.from.as_ref())
            .map_err(step("reading what was saved"))?
            .with_card(config.nic.as_ref());
        let machine = self.keep(Arc::new(core));
        fail_point(Point::SimWritten);
        Ok(Launch { machine, steps: vec![("simulate", start.elapsed())] })
    }

    async fn adopt(
        &self,
        id: VmId,
        identity: &MachineIdentity,
        run_dir: &Path,
    ) -> Result<SimMachine, AdoptError> {
        let gone = || AdoptError::Gone { pid: identity.pid };
        let is_ours = identity.runtime == NAME
            && identity.pid == NO_PID
            && host_boot_id().is_ok_and(|boot| boot == identity.host_boot_id);
        if !is_ours {
            return Err(gone());
        }
        let known = self.machines().get(&id).cloned();
        let core = match known.filter(|core| !core.has_ended()) {
            Some(core) => core,
            None => {
                let state = State::read(run_dir).filter(|state| state.id == id).ok_or_else(gone)?;
                let (run_dir, behaviour) = (run_dir.to_owned(), (self.behaviour)(id));
                let identity = MachineIdentity { start_ticks: state.number, ..identity.clone() };
                Arc::new(Core::new(identity, state, run_dir, Lifetime::Detached, behaviour))
            }
        };
        if core.identity != *identity {
            return Err(gone());
        }
        if core.behaviour.unresponsive {
            let reason = "it is simulated to be so".to_owned();
            return Err(AdoptError::Unresponsive { pid: identity.pid, reason });
        }
        Ok(self.keep(core))
    }

    async fn reap(
        &self,
        id: VmId,
        _identity: Option<&MachineIdentity>,
        run_dir: &Path,
    ) -> io::Result<()> {
        let known = self.machines().remove(&id);
        if let Some(core) = known {
            core.finish(MachineEnd::Killed);
        }
        State::remove(run_dir)
    }
}

/// Differs from every other of this boot of the host: the time, made unique
/// within this process.
fn fresh_number() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
    let next = |last: u64| now.max(last.saturating_add(1));
    LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(next(last)))
        .map_or(now, next)
}

fn log_boot(config: &MachineConfig) -> io::Result<()> {
    let mut log = OpenOptions::new().create(true).append(true).open(&config.console.log)?;
    writeln!(log, "a simulated guest, {} of memory", config.memory)
}
