//! The guest of a machine that goes on from a saved one becomes itself: nothing
//! is served before it has confirmed that, and what it has confirmed is kept.
//!
//! It is ordered to with the opening of its channel: where each answer of it takes
//! its time, as under a KVM that is emulated, that is one answer less to wait for
//! (ADR 0061). The order says what the VM's spec says of its guest; one that turns
//! out to be another is asked anew.
//!
//! ```text
//!   session new ▶ entropy ▶ clock ▶ hostname ▶ machine-id ▶ network ▶ mounts ▶ secrets ▶ hooks ▶ receipt
//!        └───────────┴── one of them fails: the VM is not handed out
//! ```

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use inn_vmm::Machine;
use jiff::Timestamp;
use tokio::net::UnixStream;
use tokio::time::Instant;

use super::super::attach::mac;
use super::super::failure::{Failure, StepError};
use super::super::receipt::{Receipt, ReceiptStep};
use super::super::task::VmTask;
use crate::guest::{
    GuestAddressing, GuestError, GuestNetwork, GuestResume, GuestSession, GuestSetup, Left,
    Resuming,
};

/// What the owner's programs may take all together.
const HOOKS: Duration = Duration::from_secs(10);

/// By how much its clock may lag without its being told the time again. A guest
/// that comes to run late, one of many on a busy host, sets it to a time that has
/// passed. Half of what a clone's clock may differ by, as its being looked at
/// takes time as well.
const CLOCK_LAG: Duration = Duration::from_millis(50);

/// How often it is told the time again until it was told fast enough.
const CLOCK_TRIES: usize = 8;

/// Where Linux shows the driver: of ACPI's bus since 5.18, of the platform's since
/// 6.10 (drivers/virt/vmgenid.c).
const GENERATION_ID_DRIVERS: [&str; 2] =
    ["/sys/bus/acpi/drivers/vmgenid", "/sys/bus/platform/drivers/vmgenid"];

/// They are files of its owner's, and programs hold them.
const SSH_HOST_KEYS: &str = "they are those of what it begins from, until cloud-init makes its \
    own at its next boot, or a program in /etc/innkeeper/resume.d does";

/// Twice what a reseed takes in (crng_init in drivers/char/random.c).
const ENTROPY: usize = 64;

/// What its guest is told, for one attempt: fresh entropy, and the time.
pub(super) struct ResumeOrder {
    resume: GuestResume,
    /// It is for a guest that is PID 1.
    to_init: bool,
    begun: Instant,
}

/// One that was told, and has yet to say what came of it.
#[derive(Debug)]
pub(in super::super) struct Ordered {
    resuming: Resuming,
    to_init: bool,
    begun: Instant,
}

impl ResumeOrder {
    pub(super) async fn give(
        self,
        stream: UnixStream,
        left: Left,
    ) -> Result<(GuestSession, Option<Ordered>), GuestError> {
        let Self { resume, to_init, begun } = self;
        let opened = GuestSession::establish_resuming(stream, left, resume).await;
        let (session, resuming) = opened?;
        Ok((session, Some(Ordered { resuming, to_init, begun })))
    }
}

impl VmTask {
    /// None where there is no randomness, which whoever asks again finds out, too.
    pub(super) fn order_to_resume(&self, emulated: bool) -> Option<ResumeOrder> {
        let to_init = !self.shared.spec.is_full();
        let begun = Instant::now();
        let resume = self.what_it_becomes(to_init, emulated).ok()?;
        Some(ResumeOrder { resume, to_init, begun })
    }

    fn what_it_becomes(&self, is_init: bool, emulated: bool) -> Result<GuestResume, StepError> {
        let mut entropy = vec![0; ENTROPY];
        getrandom::fill(&mut entropy).map_err(|error| {
            let why = format!("there is no randomness for its guest: {error}");
            Failure::new(why, "it is tried again at the next start")
        })?;
        let (mac, setup) = match is_init {
            true => (self.shared.has_card().then(|| mac(self.shared.id)), self.setup(emulated)),
            false => self.setup_of_service(emulated),
        };
        let hooks = if self.is_draft { Duration::ZERO } else { HOOKS };
        Ok(GuestResume { entropy, mac, setup, hooks })
    }

    pub(super) async fn identify(&mut self, session: &GuestSession) -> Result<(), StepError> {
        let Some(origin) = self.origin_told() else {
            let why = "the agent that let it go on has ended before its guest became itself";
            return Err(Failure::new(why, "start the VM again").into());
        };
        let greeted = self.shared.view.borrow().boot.unwrap_or_default();
        let is_init = session.hello().is_init;
        let emulated = self.shared.view.borrow().is_emulated();
        // What runs in it is asked meanwhile, and looked at after.
        let asks = self.may_have_workload(session);
        let execs = async {
            match asks {
                true => session.list_execs().await.map(Some),
                false => Ok(None),
            }
        };
        let ordered = self.ordered.take().filter(|ordered| ordered.to_init == is_init);
        let told = match ordered {
            Some(Ordered { resuming, begun, .. }) => {
                let report = async { Ok((resuming.report().await?, begun.elapsed())) };
                self.while_booting(async { tokio::try_join!(report, execs) }).await?
            }
            None => {
                let resume = self.what_it_becomes(is_init, emulated)?;
                let asked = Instant::now();
                let report = async { Ok((session.resume(resume).await?, asked.elapsed())) };
                self.while_booting(async { tokio::try_join!(report, execs) }).await?
            }
        };
        let ((report, took), execs) = told;
        self.execs = execs;
        let mut boot_session = [0; 16];
        // There was randomness for its guest, too.
        let _ = getrandom::fill(&mut boot_session);
        let boot_session = crate::node_key::hex(&boot_session);
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
        let (mut before, asked) = (None, Instant::now());
        for _ in 0..CLOCK_TRIES {
            if !is_to_be_told_again(lag, before, emulated) {
                break;
            }
            before = Some(lag);
            let told = Instant::now();
            self.while_booting(session.set_clock(SystemTime::now())).await?;
            lag = told.elapsed();
        }
        let again = asked.elapsed();
        tracing::debug!(vm = %self.shared.spec.name, ?took, ?lag, ?again, "it has become itself");
        let mut steps = vec![ReceiptStep::done("channel", greeted)];
        steps.extend(report.steps.iter().map(ReceiptStep::of));
        steps.push(ReceiptStep::skipped("connections", "its machine is new to this host's agent"));
        if self.shared.spec.is_full() {
            steps.push(self.generation_id(session).await?);
            if !self.observed.is_woken() {
                steps.push(ReceiptStep::skipped("ssh-host-keys", SSH_HOST_KEYS));
            }
        }
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

    /// Of a guest whose own system gave it its identity: what wakes has that still,
    /// and a clone gets another. Where its network is its VMM's own nobody else is on
    /// that, and its DHCP server knows the saved machine alone until the next boot.
    fn setup_of_service(&self, emulated: bool) -> (Option<[u8; 6]>, GuestSetup) {
        let clock = Some(SystemTime::now());
        if self.observed.is_woken() {
            return (None, GuestSetup { clock, ..GuestSetup::default() });
        }
        let on_ours = self.node.networks.of(&self.shared.spec.network).is_some();
        // Whom it asks for names its system has by DHCP, or from its owner.
        let network = match self.guest_network().filter(|_| on_ours) {
            Some(GuestAddressing::Static(network)) => {
                Some(GuestAddressing::Static(GuestNetwork { dns: Vec::new(), ..network }))
            }
            other => other,
        };
        let setup = GuestSetup { network, mounts: Vec::new(), clock, ..self.setup(emulated) };
        (on_ours.then(|| mac(self.shared.id)), setup)
    }

    /// Whether its kernel was told by its machine, too, that its random numbers are
    /// another's.
    async fn generation_id(&self, session: &GuestSession) -> Result<ReceiptStep, StepError> {
        let skipped = |why| Ok(ReceiptStep::skipped("generation-id", why));
        if !self.machine()?.has_generation_id().unwrap_or(false) {
            return skipped("its machine was made without one");
        }
        let asked = Instant::now();
        for driver in GENERATION_ID_DRIVERS {
            match self.while_booting(session.stat(driver, true)).await {
                Ok(_) => return Ok(ReceiptStep::done("generation-id", asked.elapsed())),
                // It is not there, or cannot be looked at.
                Err(StepError::Failed(_)) => {}
                Err(other) => return Err(other),
            }
        }
        skipped("its kernel does not know it (CONFIG_VMGENID)")
    }
}

/// Whether a clock that lags so much, and `before` it was told last so much, is
/// told the time once more. Where an answer takes as long as the one before, it is
/// the way to the guest that takes it, and the next one would find it as long: a
/// host that emulates its guests' kernels under KVM, where the VM would wait for
/// nothing. A guest whose CPU is `emulated` is one of many threads that wait for a
/// CPU, now longer and now shorter.
fn is_to_be_told_again(lag: Duration, before: Option<Duration>, emulated: bool) -> bool {
    lag > CLOCK_LAG && (emulated || before.is_none_or(|before| lag < before * 3 / 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_told_again_while_that_makes_it_better() {
        let told = |emulated, lags: &[u64]| {
            let lags: Vec<_> = lags.iter().map(|ms| Duration::from_millis(*ms)).collect();
            let before = [None].into_iter().chain(lags.iter().copied().map(Some));
            lags.iter()
                .zip(before)
                .take_while(|(lag, before)| is_to_be_told_again(**lag, *before, emulated))
                .count()
        };
        assert_eq!(told(false, &[50]), 0, "it is fast enough");
        assert_eq!(told(false, &[400, 20]), 1, "its guest came to run late once");
        assert_eq!(told(false, &[400, 350, 340, 330]), 1, "the way to it takes so long");
        assert_eq!(told(true, &[400, 350, 340, 40]), 3, "it has come to run late each time");
        assert_eq!(told(false, &[400, 200, 100, 40]), 3);
    }
}
