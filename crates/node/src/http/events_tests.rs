use std::sync::Arc;

use inn_store::Store;

use super::*;
use crate::events::Event;

async fn log_of(count: usize, dir: &std::path::Path) -> Arc<EventLog> {
    let log = EventLog::open(Store::open(dir).unwrap(), 20_000).await.unwrap();
    for n in 0..count {
        log.tell(Event::new(EventKind::VmPhase, format!("event {n}")));
    }
    log.close().await;
    log
}

/// Time passes by itself here while all wait.
#[tokio::test(start_paused = true)]
async fn a_reader_that_reads_nothing_is_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let log = log_of(BUFFERED + 500, dir.path()).await;
    let (to, mut from) = mpsc::channel(BUFFERED);
    let closing = CancellationToken::new();
    let feed = Feed { query: EventQuery::default(), known: false, to, closing };
    feed.run(&log).await;
    let mut got = 0;
    while from.recv().await.is_some() {
        got += 1;
    }
    assert_eq!(got, BUFFERED, "what was in the buffer can still be read");
}

#[tokio::test]
async fn a_feed_ends_with_its_reader_and_with_the_agent() {
    let dir = tempfile::tempdir().unwrap();
    let log = log_of(3, dir.path()).await;
    for reader_leaves in [true, false] {
        let (to, mut from) = mpsc::channel(BUFFERED);
        let closing = CancellationToken::new();
        let query = EventQuery::default();
        let feed = Feed { query, known: false, to, closing: closing.clone() };
        let fed = tokio::spawn({
            let log = Arc::clone(&log);
            async move { feed.run(&log).await }
        });
        for _ in 0..3 {
            assert!(from.recv().await.unwrap().is_ok());
        }
        if reader_leaves {
            drop(from);
        } else {
            closing.cancel();
        }
        fed.await.unwrap();
    }
}
