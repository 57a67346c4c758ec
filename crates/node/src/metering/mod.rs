//! What VMs use, in a ledger that shows every change of it.
//!
//! ```text
//!   VMs' tasks ──begins, moves, ends──▶ Meter ◀──counters, weights── a pass each minute
//!                        │                │
//!                   journal-N             └──▶ checkpoint.json ──▶ a block, in 000001.jsonl
//! ```
//!
//! What is told goes to a journal before it counts, and a pass puts the meter
//! into a checkpoint that names the journal after it: an agent that is killed
//! loses none of it. The lines that a pass writes are in its checkpoint too, so
//! that each of them gets into the ledger once.
//!
//! Of a host that loses its power, up to a minute before is lost.

mod files;
mod pass;
mod ranges;
mod read;
mod sample;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use inn_meter::{Account, Counters, Input, Life, Meter, Moment, Signer, State, What};
use inn_net::sent::Farewells;
use inn_units::VmId;
use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::Notify;

pub(crate) use self::pass::watch_usage;
use self::ranges::Ranges;
pub use self::read::{Checked, LedgerError, verify};
pub(crate) use self::sample::cpu_of;
use crate::node_key::NodeKey;

#[derive(Debug)]
pub(crate) struct Metering {
    directory: PathBuf,
    inner: Mutex<Inner>,
    /// Held while files of the ledger are written or read.
    files: Mutex<Ranges>,
    /// A machine is there that has not been weighed.
    new_machine: Notify,
    farewells: Mutex<Option<Arc<Farewells>>>,
    /// Held by whoever reads the ledger for a request: it may be long, and
    /// others who wait for it hold no thread.
    pub(crate) reading: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug)]
struct Inner {
    meter: Meter,
    /// `None` once it could not be made.
    journal: Option<File>,
    /// The journal's.
    number: u64,
    /// The ledger's last file.
    file: u64,
    /// Lines that are not known to be in the ledger, and of which file.
    unsent: Vec<(u64, String)>,
    weighed: HashSet<Life>,
}

/// Bytes of the host's memory and disk.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Weight {
    pub(crate) resident: u64,
    pub(crate) occupied: u64,
}

/// By both clocks.
fn now() -> Moment {
    let steady = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(steady.tv_sec).unwrap_or_default();
    let micros = u64::try_from(steady.tv_nsec).unwrap_or_default() / 1000;
    Moment {
        wall: Timestamp::now().as_millisecond(),
        steady: seconds.saturating_mul(1_000_000).saturating_add(micros),
    }
}

impl Metering {
    /// Again for one that is known already: its account may have changed.
    pub(crate) fn begins(&self, vm: VmId, account: Account) {
        let mut inner = self.lock();
        let what = match inner.meter.account(vm) {
            Some(known) if *known == account => return,
            Some(_) => What::Changes(account),
            None => What::Begins(account),
        };
        inner.tell(vm, what);
    }

    pub(crate) fn ends(&self, vm: VmId) {
        let mut inner = self.lock();
        if inner.meter.account(vm).is_some() {
            inner.tell(vm, What::Ends);
        }
    }

    /// `used` is what its machine has used for others than this VM.
    pub(crate) fn moves(
        &self,
        vm: VmId,
        state: State,
        life: Option<Life>,
        used: impl FnOnce() -> Counters,
    ) {
        let farewells = self.farewells.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(farewells) = farewells.filter(|_| life.is_some()) {
            // Those of the machine before, while they count as its.
            self.hear(&farewells);
        }
        let mut inner = self.lock();
        let Some((known, known_life)) = inner.meter.state(vm) else { return };
        if known == state && (life.is_none() || life == known_life) {
            return;
        }
        let fresh = life.filter(|_| life != known_life);
        inner.tell(vm, What::Moves { state, life });
        if let Some(life) = fresh {
            let counters = used();
            if counters != Counters::default() {
                inner.tell(vm, What::Had { life, counters });
            }
            drop(inner);
            self.new_machine.notify_one();
        }
    }

    /// See [`What::Lost`]; nothing for one that has no machine anyway.
    pub(crate) fn lost(&self, vm: VmId) {
        let mut inner = self.lock();
        if inner.meter.state(vm).is_some_and(|(state, _)| state != State::Stopped) {
            inner.tell(vm, What::Lost);
        }
    }

    pub(crate) fn counts(&self, vm: VmId, counters: Counters) {
        let mut inner = self.lock();
        if let Some((_, Some(life))) = inner.meter.state(vm) {
            inner.tell(vm, What::Counts { life, counters });
        }
    }

    /// As of the last look.
    pub(crate) fn weight(&self, vm: VmId) -> Weight {
        let (resident, occupied) = self.lock().meter.weight(vm).unwrap_or_default();
        Weight { resident, occupied }
    }

    /// The last block's number.
    pub(crate) fn head(&self) -> u64 {
        self.lock().meter.head().block
    }

    /// How many blocks the ledger's disk has not taken yet.
    pub(crate) fn unsent(&self) -> usize {
        self.lock().unsent.len()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Each input is applied whole, by code that does not panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn tell(&mut self, vm: VmId, what: What) {
        let input = Input { at: now(), vm, what };
        self.write_down(&input);
        self.meter.input(&input);
    }

    /// To the page cache: that outlives this process, and what dies with the
    /// host anyway is worth no sync.
    fn write_down(&mut self, input: &Input) {
        let Some(journal) = &mut self.journal else { return };
        let written =
            serde_json::to_vec(input).map_err(std::io::Error::from).and_then(|mut line| {
                line.push(b'\n');
                journal.write_all(&line)
            });
        if let Err(error) = written {
            tracing::warn!(%error, "the usage journal cannot be written: a crash within a minute would lose what VMs use now");
            self.journal = None;
        }
    }
}

impl Signer for NodeKey {
    fn key(&self) -> String {
        self.public_hex()
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        Self::sign(self, message)
    }
}

/// Whether a signature is the node's own, as [`inn_meter::Audit`] asks.
fn is_genuine(trusted: &str, key: &str, message: &[u8], signature: &[u8]) -> Result<(), String> {
    use ring::signature::{ED25519, UnparsedPublicKey};
    if key != trusted {
        return Err("it is signed by another key than this node's".to_owned());
    }
    let bytes: Option<Vec<u8>> = (0..key.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(key.get(at..at + 2)?, 16).ok())
        .collect();
    let public = UnparsedPublicKey::new(&ED25519, bytes.unwrap_or_default());
    public.verify(message, signature).map_err(|_| "its signature does not fit".to_owned())
}
