use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::super::handle::VmShared;
use crate::error::Chain;
use crate::guest::{GuestError, GuestSession, TelemetryWatch};

/// After so many intervals without a reading telemetry has stopped.
const MISSED: u32 = 3;

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
        every: Duration,
    ) -> Self {
        let (sender, stopped) = watch::channel(None);
        let recording = Recording { session, vm, every, stopped: sender, last: Instant::now() };
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

struct Recording {
    session: GuestSession,
    vm: Arc<VmShared>,
    every: Duration,
    stopped: watch::Sender<Option<Instant>>,
    /// When the last reading came.
    last: Instant,
}

impl Recording {
    /// Until the session is over.
    async fn run(mut self) {
        let too_long = self.every.saturating_mul(MISSED);
        while !self.session.is_closed() {
            let told = match timeout(too_long, self.session.watch_telemetry(self.every)).await {
                Ok(Ok(watch)) => self.record(watch).await,
                Ok(Err(error)) => Err(error),
                Err(_) => Ok(()),
            };
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

    async fn record(&mut self, mut watch: TelemetryWatch) -> Result<(), GuestError> {
        let too_long = self.every.saturating_mul(MISSED);
        loop {
            // Both are cancel safe; a reading that comes late is taken then.
            let Ok(told) = timeout(too_long, watch.next()).await else {
                self.missed();
                continue;
            };
            let Some(telemetry) = told? else { return Ok(()) };
            self.last = Instant::now();
            self.vm.telemetry.push(Timestamp::now(), telemetry);
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
