use std::collections::BTreeSet;
use std::future::Future;
use std::path::Path;
use std::time::Duration;

use inn_units::{Architecture, Bytes, VmId};
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;

use crate::{
    Accel, CardLimits, ChannelKind, Fingerprint, Forward, Forwarded, MachineConfig, Saved,
    SavedAhead,
};

/// What a runtime can do, as data: admission refuses early what it can't.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// `qemu`, `sim`.
    pub name: &'static str,
    /// What its guests' CPUs are, and so whether they have our agent
    /// ([`Architecture::has_our_agent`]).
    pub architecture: Architecture,
    pub accels: Vec<Accel>,
    pub max_vcpus: u8,
    pub min_memory: Bytes,
    pub max_disks: usize,
    pub user_network: bool,
    /// Whether ports of the host's can lead into a machine on that network.
    pub port_forwards: bool,
    /// Whether a network card can be a tap that is handed over by descriptor.
    pub taps: bool,
    /// Whether the VMM can hold such a card to [`CardLimits`] by itself.
    pub card_limits: bool,
    /// Whether one can be on a network that is not the node's.
    pub foreign_networks: bool,
    /// The best one first.
    pub channels: Vec<ChannelKind>,
    /// Whether it boots a disk by firmware.
    pub firmware: bool,
    /// Whether a running machine can be told that a disk has grown.
    pub resize_disks: bool,
    /// Whether a machine has a power button that can be pressed from outside.
    pub power_button: bool,
    /// Whether a machine booted by firmware can have a screen, seen by VNC.
    pub screens: bool,
    /// Whether one can have a [`MachineConfig::generation_id`].
    pub generation_ids: bool,
    /// Whether machines can be saved, and begin from what was saved: those with
    /// one of `snapshot_channels`.
    pub snapshots: bool,
    /// One that is reached otherwise has a part of its state outside its VMM,
    /// which refuses to save it.
    pub snapshot_channels: Vec<ChannelKind>,
    /// Whether somebody can type on the console, not only read it.
    pub interactive_console: bool,
}

/// A launched machine and how long the launch took, step by step.
#[derive(Debug)]
pub struct Launch<M> {
    pub machine: M,
    pub steps: Vec<(&'static str, Duration)>,
}

pub trait Runtime: Send + Sync + 'static {
    type Machine: Machine;

    fn capabilities(&self) -> &Capabilities;

    /// What such a machine would be on this host: kept beside what is saved of
    /// one, and compared with before another begins from that.
    fn fingerprint(&self, config: &MachineConfig) -> impl Future<Output = Fingerprint> + Send;

    /// Starts the VMM. Returns once its control socket answers.
    fn launch(
        &self,
        config: &MachineConfig,
    ) -> impl Future<Output = Result<Launch<Self::Machine>, LaunchError>> + Send;

    /// Finds a machine of an earlier life. Refuses any process that is not
    /// provably the one that `identity` describes.
    fn adopt(
        &self,
        id: VmId,
        identity: &MachineIdentity,
        run_dir: &Path,
    ) -> impl Future<Output = Result<Self::Machine, AdoptError>> + Send;

    /// Ends by force whatever is left of a VM, and removes the runtime's
    /// sockets from `run_dir`: the process of `identity`, and also one that an
    /// agent started and died before it could record it. Succeeds when nothing
    /// is left. For what cannot be adopted, and for deletion.
    fn reap(
        &self,
        id: VmId,
        identity: Option<&MachineIdentity>,
        run_dir: &Path,
    ) -> impl Future<Output = std::io::Result<()>> + Send;
}

/// One running machine. Dropping it leaves the machine running.
pub trait Machine: Send + Sync + 'static {
    fn identity(&self) -> &MachineIdentity;

    /// A fresh byte stream to the guest agent's channel; at most one at a time.
    /// On a vsock it stands once the guest has accepted it: a guest that still
    /// boots refuses it, and the caller tries again.
    fn connect_channel(&self) -> impl Future<Output = std::io::Result<UnixStream>> + Send;

    /// A fresh byte stream to the serial console, input and live output.
    fn connect_console(&self) -> impl Future<Output = std::io::Result<UnixStream>> + Send;

    /// Sets the password for its screen, in place of any before: at most 8
    /// bytes count (RFC 6143, 7.2.2). Without one nobody gets in.
    fn set_vnc_password(&self, password: &str) -> impl Future<Output = std::io::Result<()>> + Send;

    /// A fresh stream to its screen, at the RFB protocol's beginning: whoever
    /// speaks on it has to know the password. Fails where it has no screen.
    fn connect_vnc(&self) -> impl Future<Output = std::io::Result<UnixStream>> + Send;

    /// Tells the running guest that the disk of this serial has another size
    /// now. Its file has it already: this never shrinks and never writes.
    fn resize_disk(
        &self,
        serial: &str,
        size: Bytes,
    ) -> impl Future<Output = std::io::Result<()>> + Send;

    /// Presses the power button (ACPI): what an operating system without our
    /// agent makes of it is its own affair. Returns at once.
    fn press_power_button(&self) -> impl Future<Output = std::io::Result<()>> + Send;

    /// Makes these the host's ports that lead into it by its user-mode network,
    /// and no others; those that are there already are not touched. They last
    /// as long as the machine. Succeeds also where some cannot be had; fails
    /// where the runtime has no port forwards.
    fn set_forwards(
        &self,
        forwards: &BTreeSet<Forward>,
    ) -> impl Future<Output = std::io::Result<Forwarded>> + Send;

    /// Whether somebody wants something of its guest by a forward, while that
    /// stands still: a connection that it has not answered, or data that it has
    /// not taken. Datagrams are not seen.
    fn is_knocked_at(&self) -> impl Future<Output = std::io::Result<bool>> + Send;

    /// Holds its card, which is a tap, to these limits from now on, and to no
    /// others. Fails where the runtime has none.
    fn limit_card(&self, _limits: &CardLimits) -> impl Future<Output = std::io::Result<()>> + Send {
        let text = format!("{} holds no card to limits", self.identity().runtime);
        std::future::ready(Err(std::io::Error::new(std::io::ErrorKind::Unsupported, text)))
    }

    /// Stops its CPUs: the guest stands still, and what it has written is in
    /// its disks' files. Succeeds if it stands still already; so it does until
    /// somebody resumes it, also beyond the agent's life.
    fn pause(&self) -> impl Future<Output = std::io::Result<()>> + Send;

    /// Lets a paused guest go on. Succeeds if it runs.
    fn resume(&self) -> impl Future<Output = std::io::Result<()>> + Send;

    /// Writes down memory and devices of a paused machine, which stays paused.
    /// Disks are its owner's affair: they hold still as long as it does. Once
    /// for each pause. Fails where the runtime has no snapshots, and by
    /// [`std::io::ErrorKind::Unsupported`] with a channel that is none of
    /// [`Capabilities::snapshot_channels`].
    fn save(&self) -> impl Future<Output = std::io::Result<Saved>> + Send {
        self.save_after(None)
    }

    /// The same, where something was saved ahead.
    fn save_after(
        &self,
        ahead: Option<SavedAhead>,
    ) -> impl Future<Output = std::io::Result<Saved>> + Send;

    /// Saves of a machine that still runs what will spare it standing still; it
    /// goes to [`Machine::save_after`], or nowhere. `None` where there is no such
    /// thing.
    fn save_ahead(&self) -> impl Future<Output = std::io::Result<Option<SavedAhead>>> + Send;

    /// Whether it was made with a [`MachineConfig::generation_id`]: an earlier
    /// agent may have made it.
    fn has_generation_id(&self) -> std::io::Result<bool> {
        Ok(false)
    }

    /// Resolves when the machine has ended, also after adoption. Cancel safe.
    fn wait(&self) -> impl Future<Output = MachineEnd> + Send;

    /// Ends the VMM process and waits for it to be gone. Succeeds when it is
    /// gone already. Bounded: escalates to SIGKILL by itself.
    fn kill(&self) -> impl Future<Output = std::io::Result<()>> + Send;
}

/// Stored so that the next life of the agent can find the machine: the pid
/// alone is never trusted, since pids are reused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineIdentity {
    pub runtime: String,
    pub pid: u32,
    /// Field 22 of /proc/PID/stat: clock ticks since the host booted.
    pub start_ticks: u64,
    /// /proc/sys/kernel/random/boot_id of the host.
    pub host_boot_id: String,
}

/// How a machine ended, as far as it can be known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MachineEnd {
    /// The guest powered off.
    PoweredOff,
    /// The guest asked for a reset (every reset ends the machine).
    Reset,
    /// The guest's kernel panicked.
    Panicked,
    /// We ended it.
    Killed,
    /// The VMM died by itself: what is known of it (exit status, log tail).
    Died(String),
}

#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    #[error("{program} is not installed; {hint}")]
    MissingProgram { program: String, hint: String },
    #[error("the machine asks for {asked}, and {runtime} can give {limit}")]
    Refused { runtime: &'static str, asked: String, limit: String },
    /// The VMM exited or never answered; `log` is its last words.
    #[error("{program} did not start: {reason}")]
    Failed { program: String, reason: String, log: Vec<String> },
    #[error("{step} failed")]
    Io { step: String, source: std::io::Error },
}

#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// The process is gone, or its pid belongs to another process now.
    #[error("its process {pid} is gone")]
    Gone { pid: u32 },
    /// The process lives and does not answer on its socket.
    #[error("process {pid} lives and does not answer: {reason}")]
    Unresponsive { pid: u32, reason: String },
}
