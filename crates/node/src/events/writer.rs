use std::sync::Arc;
use std::time::Duration;

use inn_fail_point::{Point, fail_point};
use inn_store::EventRecord;
use jiff::Timestamp;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{Event, EventKind, EventLog};
use crate::error::Chain;

/// How long events gather. A batch costs as much as ten events do.
const GATHER: Duration = Duration::from_millis(10);

/// The most of one transaction: others wait for the store meanwhile, some 5 ms.
const BATCH: usize = 512;

/// Between two attempts while the store fails.
const RETRY: Duration = Duration::from_secs(1);

impl EventLog {
    /// Writes what is told, until the agent's end.
    pub(crate) async fn write(self: Arc<Self>, closing: CancellationToken) {
        let mut complained = false;
        loop {
            tokio::select! {
                // What is in the queue stays there.
                () = self.gathered.notified() => {}
                // The same; `close` writes the rest.
                () = closing.cancelled() => return,
            }
            sleep(GATHER).await;
            while let Err(error) = self.write_batches().await {
                if !complained {
                    tracing::error!(error = %Chain(&error), "events wait until they can be kept");
                    complained = true;
                }
                tokio::select! {
                    // Only a pause.
                    () = sleep(RETRY) => {}
                    // The queue is lost where `close` fails, too.
                    () = closing.cancelled() => return,
                }
            }
            complained = false;
        }
    }

    /// After everybody has told what there was to tell.
    pub(crate) async fn close(&self) {
        if let Err(error) = self.write_batches().await {
            let lost = self.queue().waiting.len();
            tracing::error!(lost, error = %Chain(&error), "the last events are not kept");
        }
    }

    /// All that waits. Only one may be at work: the task, or `close` after it.
    async fn write_batches(&self) -> Result<(), inn_store::StoreError> {
        while let Some(batch) = self.next_batch() {
            let batch = Arc::new(batch);
            match self.store.append_events(Arc::clone(&batch), self.keep).await {
                Ok(last) => {
                    fail_point(Point::EventsKept);
                    self.written.send_replace(last);
                }
                Err(error) => {
                    self.take_back(batch);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn next_batch(&self) -> Option<Vec<EventRecord>> {
        let mut queue = self.queue();
        let ready = queue.waiting.len().min(BATCH);
        let mut batch: Vec<EventRecord> = queue.waiting.drain(..ready).collect();
        if queue.waiting.is_empty() {
            // A burst is no reason to keep its room for ever.
            queue.waiting.shrink_to(BATCH);
            let dropped = std::mem::take(&mut queue.dropped);
            drop(queue);
            if dropped > 0 {
                batch.push(dropped_record(dropped));
            }
        }
        (!batch.is_empty()).then_some(batch)
    }

    fn take_back(&self, batch: Arc<Vec<EventRecord>>) {
        let batch = Arc::unwrap_or_clone(batch);
        let mut queue = self.queue();
        for record in batch.into_iter().rev() {
            queue.waiting.push_front(record);
        }
    }
}

fn dropped_record(dropped: u64) -> EventRecord {
    tracing::warn!(dropped, "events were dropped");
    Event::new(
        EventKind::EventsDropped,
        format!("{dropped} events before this one could not be kept and are lost"),
    )
    .with("count", dropped)
    .into_record(Timestamp::now())
}
