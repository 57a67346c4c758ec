//! What a saved machine was made by and of, and whether that is here too.
//!
//! ```text
//!   Runtime::fingerprint(config) ──at the save──▶ kept beside what was saved
//!   Runtime::fingerprint(config) ──at a start───▶ saved.misfits(&here) ──▶ none: it may go on
//! ```
//!
//! A VMM that loads a state which isn't meant for it fails late at best, and at
//! worst doesn't: a guest whose CPU has lost a feature dies of it minutes later.
//! So both are compared first, and what differs is named.

use std::collections::BTreeSet;
use std::fmt;

use inn_units::{Bytes, Vcpus};
use serde::{Deserialize, Serialize};

use crate::{Accel, ChannelKind, MachineConfig, NicBackend};

/// By how much two rates of a counter may differ, in a million: what a time
/// protocol corrects at most (adjtimex(2)), and far more than measuring is
/// wrong by.
const RATE_TOLERANCE_PPM: u64 = 500;

/// Of [`MachineConfig::generation_id`], among the devices.
const GENERATION_ID: &str = "a generation id";

/// Stored beside what was saved. What a runtime can't tell is empty, there and
/// here alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fingerprint {
    /// [`crate::Capabilities::name`].
    pub runtime: String,
    /// The VMM's own, such as `7.2.22`. Any other is another format.
    pub version: String,
    /// The host's, as Rust has it: `x86_64`.
    pub arch: String,
    pub page_size: Bytes,
    pub accel: Accel,
    /// The board, by the VMM's name for it.
    pub machine: String,
    /// The CPU's model, by the VMM's name for it.
    pub cpu: String,
    /// The host CPU's features, where the guest sees them.
    pub cpu_features: BTreeSet<String>,
    /// The rate of the counter by which the guest tells time, in kHz, where that
    /// is the host's own.
    pub counter_khz: Option<u32>,
    pub vcpus: Vcpus,
    pub memory: Bytes,
    /// A digest of the kernel that was booted, in the words of who saves:
    /// runtimes know files, not what they are.
    pub kernel: Option<String>,
    /// All but the network card, in the order in which the guest sees them.
    pub devices: Vec<String>,
    pub card: Option<Card>,
}

/// What is behind a network card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Card {
    Nothing,
    User,
    Tap,
}

/// One difference, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit {
    /// Of what, such as `memory`.
    pub of: &'static str,
    pub saved: String,
    pub here: String,
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { of, saved, here } = self;
        write!(f, "it was saved with {of} {saved}, and here is {here}")
    }
}

impl Fingerprint {
    /// Of this host and such a machine, by what the configuration alone says;
    /// the runtime knows the rest.
    pub fn of(runtime: &str, config: &MachineConfig) -> Self {
        Self {
            runtime: runtime.to_owned(),
            version: String::new(),
            arch: std::env::consts::ARCH.to_owned(),
            page_size: Bytes(rustix::param::page_size() as u64),
            accel: config.accel,
            machine: String::new(),
            cpu: String::new(),
            cpu_features: BTreeSet::new(),
            counter_khz: None,
            vcpus: config.vcpus,
            memory: config.memory,
            kernel: None,
            devices: devices(config),
            card: config.nic.as_ref().map(|nic| Card::of(&nic.backend)),
        }
    }

    #[must_use]
    pub fn with_kernel(self, digest: impl Into<String>) -> Self {
        Self { kernel: Some(digest.into()), ..self }
    }

    /// Whether it was made with a [`MachineConfig::generation_id`]: what goes on from
    /// it has to have one too, or none.
    pub fn has_generation_id(&self) -> bool {
        self.devices.iter().any(|device| device == GENERATION_ID)
    }

    /// What keeps a machine that was saved as `self` from going on as `here`.
    /// Nothing where it can. What is checked first explains what follows.
    pub fn misfits(&self, here: &Self) -> Vec<Misfit> {
        let mut found = Misfits::default();
        found.unless_same("the runtime", &self.runtime, &here.runtime);
        found.unless_same("the VMM's version", &self.version, &here.version);
        found.unless_same("the architecture", &self.arch, &here.arch);
        found.unless_same("the page size", &self.page_size, &here.page_size);
        found.unless_same("the acceleration", &self.accel, &here.accel);
        found.unless_same("the machine type", &self.machine, &here.machine);
        found.unless_same("the CPU model", &self.cpu, &here.cpu);
        let lost: Vec<_> = self.cpu_features.difference(&here.cpu_features).cloned().collect();
        if !lost.is_empty() {
            found.add("the CPU features", lost.join(", "), "a CPU without them".to_owned());
        }
        if !rates_agree(self.counter_khz, here.counter_khz) {
            let text = |khz: Option<u32>| match khz {
                Some(khz) => format!("{khz} kHz"),
                None => "one whose rate is not constant".to_owned(),
            };
            found.add("a time counter of", text(self.counter_khz), text(here.counter_khz));
        }
        found.unless_same("the vCPU count", &self.vcpus, &here.vcpus);
        found.unless_same("the memory size", &self.memory, &here.memory);
        if self.kernel != here.kernel {
            let text = |kernel: &Option<String>| kernel.clone().unwrap_or("none".to_owned());
            found.add("the kernel", text(&self.kernel), text(&here.kernel));
        }
        let none = || "no such device".to_owned();
        for at in 0..self.devices.len().max(here.devices.len()) {
            let (saved, here) = (self.devices.get(at), here.devices.get(at));
            if saved != here {
                let text = |device: Option<&String>| device.cloned().unwrap_or_else(none);
                found.add("the device", text(saved), text(here));
            }
        }
        if !cards_agree(self.card, here.card) {
            let text = |card: Option<Card>| card.map_or_else(none, |card| card.to_string());
            found.add("a network card on", text(self.card), text(here.card));
        }
        found.0
    }
}

#[derive(Default)]
struct Misfits(Vec<Misfit>);

impl Misfits {
    fn add(&mut self, of: &'static str, saved: String, here: String) {
        self.0.push(Misfit { of, saved, here });
    }

    fn unless_same<T: PartialEq + fmt::Display>(&mut self, of: &'static str, saved: &T, here: &T) {
        if saved != here {
            self.add(of, saved.to_string(), here.to_string());
        }
    }
}

fn rates_agree(saved: Option<u32>, here: Option<u32>) -> bool {
    match (saved, here) {
        (Some(saved), Some(here)) => {
            let apart = u64::from(saved.abs_diff(here)) * 1_000_000;
            apart <= u64::from(saved) * RATE_TOLERANCE_PPM
        }
        (saved, here) => saved == here,
    }
}

/// A card with nothing behind it promised its guest nothing, and has no state of
/// its own. A tap takes work off its guest that others can't, and a VMM's own
/// network is a part of what is saved.
fn cards_agree(saved: Option<Card>, here: Option<Card>) -> bool {
    match (saved, here) {
        (Some(Card::Nothing), Some(_)) => true,
        (saved, here) => saved == here,
    }
}

impl Card {
    fn of(backend: &NicBackend) -> Self {
        match backend {
            NicBackend::Nothing => Self::Nothing,
            NicBackend::User => Self::User,
            // Who has a way to such saves nothing.
            NicBackend::Tap(_) | NicBackend::Foreign(_) => Self::Tap,
        }
    }
}

impl fmt::Display for Card {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "nothing",
            Self::User => "the VMM's own network",
            Self::Tap => "a tap",
        })
    }
}

fn devices(config: &MachineConfig) -> Vec<String> {
    let channel = match config.channel {
        ChannelKind::Serial => "a serial channel",
        ChannelKind::Vsock => "a vsock",
    };
    let mut devices = vec![channel.to_owned()];
    devices.extend(config.screen.then(|| "a screen".to_owned()));
    devices.extend(config.generation_id.then(|| GENERATION_ID.to_owned()));
    devices.extend(config.disks.iter().map(|disk| {
        let kind = if disk.read_only { "a read-only disk" } else { "a disk" };
        format!("{kind} {}", disk.serial)
    }));
    devices
}

#[cfg(test)]
#[path = "fingerprint_tests.rs"]
mod tests;
