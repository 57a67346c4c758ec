use std::path::PathBuf;
use std::time::Duration;

use inn_vmm::MachineEnd;

/// What a simulated machine does, well or badly. The default does all well
/// and at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Behaviour {
    /// How long the launch takes.
    pub launch_takes: Duration,
    /// The launch fails with this reason.
    pub launch_fails: Option<String>,
    /// From launch to the guest's first answer; `None`: it never answers.
    pub answers_after: Option<Duration>,
    /// The guest agent is a service in a full VM, and not PID 1.
    pub resident: bool,
    /// The guest greets and then answers no request.
    pub deaf: bool,
    /// The guest is a real inn-guest, which listens at this socket.
    pub agent_at: Option<PathBuf>,
    /// The guest's files are those of this directory, of at most 64 KiB each;
    /// they can be read.
    pub files_at: Option<PathBuf>,
    /// The machine ends by itself, so long after its launch.
    pub ends_after: Option<(Duration, MachineEnd)>,
    /// A shutdown is acknowledged and does not happen.
    pub ignores_shutdown: bool,
    /// The guest ends when its power button is pressed.
    pub minds_power_button: bool,
    /// The machine cannot be adopted, though it lives.
    pub unresponsive: bool,
    /// How long a kill takes.
    pub kill_takes: Duration,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            launch_takes: Duration::ZERO,
            launch_fails: None,
            answers_after: Some(Duration::ZERO),
            resident: false,
            deaf: false,
            agent_at: None,
            files_at: None,
            ends_after: None,
            ignores_shutdown: false,
            minds_power_button: false,
            unresponsive: false,
            kill_takes: Duration::ZERO,
        }
    }
}
