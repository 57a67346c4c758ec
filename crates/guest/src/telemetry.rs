//! What the machine tells of itself, once or again and again.

use std::rc::Rc;
use std::time::Duration;

use inn_guest_proto::MAX_DATA;
use inn_guest_proto::wire::{self, Channel, FailureKind, WatchTelemetry, end::Outcome};
use tokio::task::spawn_local;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::agent::Agent;
use crate::apart::apart;
use crate::os::telemetry::{Meter, SHORTEST};
use crate::refusal::Refusal;
use crate::stream::Stream;

/// A look at the CPU that is older than this says nothing of now.
const STALE: Duration = Duration::from_secs(30);

/// Answers with one reading.
pub(crate) fn get(agent: &Rc<Agent>, stream: Stream) {
    let agent = Rc::clone(agent);
    drop(spawn_local(async move {
        let mut meter = agent.meter.borrow().clone();
        if meter.age().is_none_or(|age| age > STALE) {
            meter.look();
            // Both arms may be cancelled: the look is done, the wait is one.
            tokio::select! {
                () = sleep(SHORTEST) => {}
                () = stream.gone() => return,
            }
        }
        match read(&agent, meter).await {
            Ok((meter, reading)) => {
                *agent.meter.borrow_mut() = meter;
                stream.end(Outcome::Telemetry(reading));
            }
            Err(refusal) => stream.end(refusal),
        }
    }));
}

/// Sends a reading at once and one each interval, until the host cancels.
pub(crate) fn watch(agent: &Rc<Agent>, stream: Stream, request: &WatchTelemetry) {
    let every = Duration::from_millis(request.interval_ms.into()).max(SHORTEST);
    let agent = Rc::clone(agent);
    drop(spawn_local(async move {
        // Of its own: another watch looks at other times.
        let mut meter = agent.meter.borrow().clone();
        let mut ticks = interval(every);
        // A machine that stood still owes nobody the readings it missed.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Both arms may be cancelled: neither takes anything with it.
            tokio::select! {
                _ = ticks.tick() => {}
                () = stream.gone() => return,
            }
            let reading = match read(&agent, meter).await {
                Ok((same, reading)) => {
                    meter = same;
                    reading.to_bytes()
                }
                Err(refusal) => return stream.end(refusal),
            };
            if reading.len() > MAX_DATA {
                return stream.end(Refusal::new(
                    FailureKind::Exhausted,
                    "tell all of a machine with so many mounts and interfaces",
                ));
            }
            if stream.send(Channel::Main, reading, 0).await.is_err() {
                return;
            }
        }
    }));
}

/// On a thread: a file system that hangs must not stop all else.
async fn read(agent: &Agent, mut meter: Meter) -> Result<(Meter, wire::Telemetry), Refusal> {
    let (meter, mut reading) = apart("telemetry", move || {
        let reading = meter.read();
        (meter, reading)
    })
    .await?;
    reading.frozen = agent.freezer.is_frozen();
    Ok((meter, reading))
}
