//! The guest of a machine that goes on from a saved one becomes itself: nothing
//! is served before it has confirmed that, and what it has confirmed is kept.
//!
//! ```text
//!   session new ▶ entropy ▶ clock ▶ hostname ▶ machine-id ▶ network ▶ mounts ▶ secrets ▶ hooks ▶ receipt
//!        └───────────┴── one of them fails: the VM is not handed out
//! ```

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use tokio::time::Instant;

use super::super::attach::mac;
use super::super::failure::{Failure, StepError};
use super::super::receipt::{Receipt, ReceiptStep};
use super::super::task::VmTask;
use crate::guest::{GuestResume, GuestSession, GuestSetup};

/// What the owner's programs may take all together.
const HOOKS: Duration = Duration::from_secs(10);

/// By how much its clock may lag at the most. A guest that comes to run late, one
/// of many on a busy host, sets it to a time that has passed.
const CLOCK_LAG: Duration = Duration::from_millis(20);

/// How often it is told the time again until it was told fast enough.
const CLOCK_TRIES: usize = 8;

/// Twice what a reseed takes in (crng_init in drivers/char/random.c).
const ENTROPY: usize = 64;

impl VmTask {
    pub(super) async fn identify(&mut self, session: &GuestSession) -> Result<(), StepError> {
        let Some(origin) = self.origin_told() else {
            let why = "the agent that let it go on has ended before its guest became itself";
            return Err(Failure::new(why, "start the VM again").into());
        };
        let mut entropy = vec![0; ENTROPY];
        getrandom::fill(&mut entropy).map_err(|error| {
            let why = format!("there is no randomness for its guest: {error}");
            Failure::new(why, "it is tried again at the next start")
        })?;
        let mut boot_session = [0; 16];
        // Checked just before.
        let _ = getrandom::fill(&mut boot_session);
        let boot_session = crate::node_key::hex(&boot_session);
        // Only what is PID 1 has its identity from the node.
        let (mac, setup) = match session.hello().is_init {
            true => (self.shared.has_card().then(|| mac(self.shared.id)), self.setup()),
            false => (None, GuestSetup { clock: Some(SystemTime::now()), ..GuestSetup::default() }),
        };
        let greeted = self.shared.view.borrow().boot.unwrap_or_default();
        let hooks = if self.is_draft { Duration::ZERO } else { HOOKS };
        let resume = GuestResume { entropy, mac, setup, hooks };
        let asked = Instant::now();
        let report = self.while_booting(session.resume(resume)).await?;
        let took = asked.elapsed();
        if let Some((kind, what)) = report.failure() {
            let step = super::super::receipt::step_name(kind);
            return Err(Failure::new(
                format!("its guest did not become itself: at {step}, the guest cannot {what}"),
                "it was not handed out; put that right in what it begins from, then start it again",
            )
            .with_console()
            .into());
        }
        let mut lag = report.clock_lag(took);
        for _ in 0..CLOCK_TRIES {
            if lag <= CLOCK_LAG {
                break;
            }
            let told = Instant::now();
            self.while_booting(session.set_clock(SystemTime::now())).await?;
            lag = told.elapsed();
        }
        let mut steps = vec![ReceiptStep::done("channel", greeted)];
        steps.extend(report.steps.iter().map(ReceiptStep::of));
        steps.push(ReceiptStep::skipped("connections", "its machine is new to this host's agent"));
        if let Some(next) = &self.next_kernel {
            let why = format!("it runs on with the one that it began with, and boots {next} next");
            steps.push(ReceiptStep::skipped("kernel", &why));
        }
        let receipt = Receipt {
            vm: self.shared.spec.name.to_string(),
            vm_id: self.shared.id,
            origin: origin.name,
            snapshot: origin.snapshot,
            node: self.node.id.clone(),
            boot_id: session.hello().boot_id.clone(),
            boot_session,
            confirmed_at: Timestamp::now(),
            took_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            clock_lag_us: u64::try_from(lag.as_micros()).unwrap_or(u64::MAX),
            steps,
        };
        let record = receipt.signed(&self.node.key);
        self.shared.modify(|view| view.receipt = Some(Arc::new(record)));
        Ok(())
    }
}
