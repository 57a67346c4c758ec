use std::time::Duration;

use inn_guest_proto::capability;
use inn_guest_proto::wire::{self, end, request};
use tokio::time::{Instant, sleep_until};

use super::{GuestSession, unexpected};
use crate::link::{StreamEvent, StreamReader};
use crate::{GuestError, Telemetry, convert};

/// Readings of a guest that come as the guest takes them. Dropping it ends
/// the watch.
#[derive(Debug)]
pub struct TelemetryWatch {
    reader: StreamReader,
    every: Duration,
    /// What has come and is not consumed yet: before `not_before` it is not.
    arrived: Option<StreamEvent>,
    not_before: Instant,
}

impl TelemetryWatch {
    /// The next reading; `None` once the guest has ended the watch. Cancel
    /// safe. A guest that sends faster than twice as often as it was asked to
    /// is held up by its credit.
    pub async fn next(&mut self) -> Result<Option<Telemetry>, GuestError> {
        if self.reader.ended && self.arrived.is_none() {
            return Ok(None);
        }
        // No timer for a guest that keeps to what was asked: with a thousand of
        // them it would be half of what wakes an idle agent.
        if self.arrived.is_none() {
            self.arrived = Some(self.reader.arrived().await?);
        }
        let is_reading = matches!(self.arrived, Some(StreamEvent::Data(_)));
        if is_reading && Instant::now() < self.not_before {
            sleep_until(self.not_before).await;
        }
        let Some(event) = self.arrived.take() else { return Ok(None) };
        match event {
            StreamEvent::Data(data) => {
                self.reader.consumed(&data);
                self.not_before = Instant::now() + self.every / 2;
                let reading =
                    wire::Telemetry::from_bytes(data.bytes).map_err(convert::undecodable)?;
                Ok(Some(convert::telemetry(reading)))
            }
            StreamEvent::End(end) => match convert::outcome(end)? {
                end::Outcome::Done(_) => Ok(None),
                other => Err(unexpected(&other)),
            },
            StreamEvent::Reply(_) | StreamEvent::Failed(_) => {
                Err(convert::misdirected("a reply to a watch"))
            }
        }
    }
}

impl GuestSession {
    /// One reading, taken now.
    pub async fn telemetry(&self) -> Result<Telemetry, GuestError> {
        self.needs(capability::TELEMETRY, "report on its machine")?;
        match self.ask(request::Kind::GetTelemetry(wire::GetTelemetry {})).await? {
            end::Outcome::Telemetry(told) => Ok(convert::telemetry(told)),
            other => Err(unexpected(&other)),
        }
    }

    /// A reading at once, and then one `every` so often.
    pub async fn watch_telemetry(&self, every: Duration) -> Result<TelemetryWatch, GuestError> {
        self.needs(capability::TELEMETRY, "report on its machine")?;
        let request = wire::WatchTelemetry { interval_ms: convert::millis(every).max(1) };
        let (reader, _) = self.open(request::Kind::WatchTelemetry(request)).await?;
        Ok(TelemetryWatch { reader, every, arrived: None, not_before: Instant::now() })
    }
}
