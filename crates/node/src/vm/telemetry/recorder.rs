use std::future::pending;
use std::pin::pin;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::super::handle::VmShared;
use crate::config::Live;
use crate::error::Chain;
use crate::guest::{GuestError, GuestSession, TelemetryWatch};

/// After so many intervals without a reading telemetry has stopped.
const MISSED: u32 = 3;

/// All VMs' readings are asked for, and then come, in so many turns an
/// interval: one wakeup of the agent serves all of a turn, where each reading
/// by itself would have one. A guest that keeps its own time drifts out of its
/// turn in days.
const TURNS: u32 = 20;

/// When the first turn of all was.
static FIRST_TURN: LazyLock<Instant> = LazyLock::new(Instant::now);

fn until_turn(every: Duration, since_first: Duration) -> Duration {
    let turn = (every / TURNS).as_nanos().max(1);
    let late = since_first.as_nanos() % turn;
    Duration::from_nanos(u64::try_from(turn - late).unwrap_or_default())
}

/// When the first reading is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum First {
    AtOnce,
    /// An interval later. An emulated guest that went on from a saved one has all
    /// that a reading takes to be translated yet, which costs it as much as a
    /// command does, and many of them come up at once.
    Later,
}

/// Records one session's telemetry. Dropping it ends that.
#[derive(Debug)]
pub(in super::super) struct Recorder {
    /// Since when nothing has come, once that is too long.
    stopped: watch::Receiver<Option<Instant>>,
    task: JoinHandle<()>,
}

impl Recorder {
    pub(in super::super) fn start(
        session: GuestSession,
        vm: Arc<VmShared>,
        config: watch::Receiver<Arc<Live>>,
        first: First,
    ) -> Self {
        let (sender, stopped) = watch::channel(None);
        let last = Instant::now();
        let recording = Recording { session, vm, config, stopped: sender, last, first };
        Self { stopped, task: tokio::spawn(recording.run()) }
    }

    pub(in super::super) fn stopped_since(&self) -> Option<Instant> {
        *self.stopped.borrow()
    }

    /// Resolves when telemetry stops or comes again. Cancel safe.
    pub(in super::super) async fn changed(&mut self) {
        if self.stopped.changed().await.is_err() {
            // The session is over, which says more.
            pending().await
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Why nothing more comes of one request for telemetry.
enum Ended {
    /// The guest or its session has ended it.
    Over,
    /// It is to come more often, or less.
    Interval,
}

struct Recording {
    session: GuestSession,
    vm: Arc<VmShared>,
    config: watch::Receiver<Arc<Live>>,
    stopped: watch::Sender<Option<Instant>>,
    /// When the last reading came.
    last: Instant,
    first: First,
}

impl Recording {
    /// Until the session is over.
    async fn run(mut self) {
        while !self.session.is_closed() {
            let every = self.config.borrow_and_update().telemetry.interval;
            let too_long = every.saturating_mul(MISSED);
            let rest = match std::mem::replace(&mut self.first, First::AtOnce) {
                First::AtOnce => Duration::ZERO,
                First::Later => every,
            };
            sleep(rest + until_turn(every, FIRST_TURN.elapsed() + rest)).await;
            let told = match timeout(too_long, self.session.watch_telemetry(every)).await {
                Ok(Ok(watch)) => self.record(watch, every).await,
                Ok(Err(error)) => Err(error),
                Err(_) => Ok(Ended::Over),
            };
            if matches!(told, Ok(Ended::Interval)) {
                continue;
            }
            if let Err(error) = told {
                tracing::debug!(
                    vm = %self.vm.spec.name, error = %Chain(&error), "telemetry has ended"
                );
            }
            if self.session.is_closed() {
                // Which says more, and is told elsewhere.
                return;
            }
            // Whatever ended it, it is asked for again, and not at once.
            self.missed();
            sleep(too_long).await;
        }
    }

    async fn record(
        &mut self,
        mut watch: TelemetryWatch,
        every: Duration,
    ) -> Result<Ended, GuestError> {
        let too_long = every.saturating_mul(MISSED);
        self.last = Instant::now();
        // Set again only when it fires, not at each reading.
        let mut check = pin!(sleep(too_long));
        loop {
            let told = tokio::select! {
                // Cancel safe; a reading that comes late is taken then.
                told = watch.next() => told?,
                // Cancel safe. Its sender lives as long as the agent.
                Ok(()) = self.config.changed() => {
                    if self.config.borrow_and_update().telemetry.interval != every {
                        return Ok(Ended::Interval);
                    }
                    continue;
                }
                // Only a look at how long it has been.
                () = &mut check => {
                    let silent = self.last.elapsed();
                    if silent >= too_long {
                        self.missed();
                    }
                    let rest = too_long.saturating_sub(silent);
                    let next = if rest.is_zero() { too_long } else { rest };
                    check.as_mut().reset(Instant::now() + next);
                    continue;
                }
            };
            let Some(telemetry) = told else { return Ok(Ended::Over) };
            self.last = Instant::now();
            let keep = self.config.borrow().telemetry.keep;
            self.vm.telemetry.push(Timestamp::now(), telemetry, keep);
            self.stopped.send_if_modified(|stopped| stopped.take().is_some());
        }
    }

    fn missed(&self) {
        self.stopped.send_if_modified(|stopped| {
            let news = stopped.is_none();
            if news {
                *stopped = Some(self.last);
            }
            news
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_comes_within_one_turn_is_asked_at_its_end() {
        let millis = Duration::from_millis;
        let until = |at| until_turn(Duration::from_secs(5), millis(at));
        assert_eq!(until(0), millis(250));
        for at in [1, 100, 249] {
            assert_eq!(millis(at) + until(at), millis(250), "{at}");
        }
        assert_eq!(millis(1_234_567) + until(1_234_567), millis(1_234_750));
        // Never longer than a turn, also of an interval of nothing.
        assert!(until_turn(Duration::ZERO, millis(7)) <= millis(1));
    }
}
