use std::time::Duration;

use super::*;

async fn log(dir: &std::path::Path) -> Arc<EventLog> {
    EventLog::open(Store::open(dir).unwrap(), 1_000).await.unwrap()
}

fn event(n: usize) -> Event {
    Event::new(EventKind::VmPhase, format!("event {n}")).with("n", n)
}

#[tokio::test]
async fn what_is_told_is_written_before_it_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let log = log(dir.path()).await;
    let closing = tokio_util::sync::CancellationToken::new();
    let task = tokio::spawn(Arc::clone(&log).write(closing.clone()));
    let mut written = log.written();
    log.tell(event(1));
    let patience = Duration::from_secs(60);
    let seq = tokio::time::timeout(patience, written.wait_for(|seq| seq.0 > 0)).await;
    assert_eq!(*seq.unwrap().unwrap(), EventSeq(1));
    let page = log.page(EventQuery::default(), 10).await.unwrap();
    assert_eq!(page.events[0].1.message, "event 1");
    assert_eq!(page.events[0].1.detail, "{\"n\":1}");

    closing.cancel();
    task.await.unwrap();
    log.tell(event(2));
    log.close().await;
    assert_eq!(log.page(EventQuery::default(), 10).await.unwrap().events.len(), 2);
}

#[tokio::test]
async fn what_finds_no_room_is_counted_and_told() {
    let dir = tempfile::tempdir().unwrap();
    let log = EventLog::open(Store::open(dir.path()).unwrap(), 20_000).await.unwrap();
    for n in 0..QUEUED + 7 {
        log.tell(event(n));
    }
    log.close().await;
    let page = log.page(EventQuery::default(), 20_000).await.unwrap();
    assert_eq!(page.events.len(), QUEUED + 1);
    let (_, last) = page.events.last().unwrap();
    assert_eq!((last.kind.as_str(), last.detail.as_str()), ("events-dropped", "{\"count\":7}"));
}

#[tokio::test]
async fn a_long_sentence_is_cut() {
    let long = Event::new(EventKind::VmFailed, "ä".repeat(1_000));
    let record = long.into_record(Timestamp::UNIX_EPOCH);
    assert_eq!(record.message.chars().count(), MESSAGE_CHARS + 1);
}

#[test]
fn a_gap_is_what_was_missed_or_never_was() {
    let window =
        |first: u64, last| EventWindow { first: Some(EventSeq(first)), last: EventSeq(last) };
    for (after, window, gap) in [
        (0, window(1, 9), false),
        (0, window(2, 9), true),
        (4, window(5, 9), false),
        (4, window(6, 9), true),
        (9, window(1, 9), false),
        (10, window(1, 9), true),
        (0, EventWindow::default(), false),
        (3, EventWindow { first: None, last: EventSeq(9) }, true),
    ] {
        assert_eq!(is_gap(EventSeq(after), window), gap, "{after} {window:?}");
    }
}
