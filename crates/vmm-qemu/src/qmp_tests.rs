use proptest::prelude::*;
use tokio::io::{AsyncBufReadExt, BufReader, DuplexStream, duplex};

use super::*;

const PATIENCE: Duration = Duration::from_secs(60);
const GREETING: &str = r#"{"QMP": {"version": {}, "capabilities": ["oob"]}}"#;

/// Plays QEMU: greets, then answers each line by what `answer` makes of it.
fn peer(mut answer: impl FnMut(u64, &str) -> String + Send + 'static) -> DuplexStream {
    let (ours, theirs) = duplex(1 << 16);
    tokio::spawn(async move {
        let (read, mut write) = tokio::io::split(theirs);
        let mut lines = BufReader::new(read).lines();
        // Ends when the client hangs up.
        let _ = write.write_all(format!("{GREETING}\n").as_bytes()).await;
        while let Ok(Some(line)) = lines.next_line().await {
            let request: Value = serde_json::from_str(&line).unwrap();
            let id = request["id"].as_u64().unwrap();
            let reply = answer(id, request["execute"].as_str().unwrap());
            if write.write_all(reply.as_bytes()).await.is_err() {
                return;
            }
        }
    });
    ours
}

fn empty(id: u64) -> String {
    format!("{{\"return\": {{}}, \"id\": {id}}}\r\n")
}

#[tokio::test]
async fn answers_and_events_come_apart() {
    let stream = peer(|id, command| match command {
        "query-status" => format!(
            "{}\n{}\n{{\"return\": {{\"status\": \"running\", \"running\": true}}, \"id\": {id}}}\n",
            r#"{"event": "RTC_CHANGE", "data": {"offset": 1}}"#,
            r#"{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}"#,
        ),
        "query-name" => format!("{{\"return\": {{\"name\": \"inn-1\"}}, \"id\": {id}}}\n"),
        _ => empty(id),
    });
    let mut qmp = Qmp::handshake(stream, PATIENCE).await.unwrap();
    assert_eq!(qmp.query_status(PATIENCE).await.unwrap(), "running");
    assert_eq!(qmp.query_name(PATIENCE).await.unwrap().as_deref(), Some("inn-1"));
    let event = qmp.next_event().await.unwrap();
    assert_eq!(event, Event::Shutdown { reason: "guest-reset".to_owned() });
}

#[tokio::test]
async fn a_refusal_carries_its_reason() {
    let stream = peer(|id, command| match command {
        "quit" => {
            format!("{{\"error\": {{\"class\": \"X\", \"desc\": \"not now\"}}, \"id\": {id}}}\n")
        }
        _ => empty(id),
    });
    let mut qmp = Qmp::handshake(stream, PATIENCE).await.unwrap();
    assert_eq!(qmp.quit(PATIENCE).await.unwrap_err().to_string(), "it refused quit: not now");
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_meets_the_deadline() {
    let (ours, _theirs) = duplex(64);
    let error = Qmp::handshake(ours, Duration::from_secs(5)).await.unwrap_err();
    assert!(matches!(error, QmpError::Deadline { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_chatty_peer_that_never_answers_meets_it_too() {
    let stream = peer(|id, command| match command {
        "query-name" => "{\"event\": \"SHUTDOWN\"}\n{\"return\": {}, \"id\": 99}\n".repeat(200),
        _ => empty(id),
    });
    let mut qmp = Qmp::handshake(stream, PATIENCE).await.unwrap();
    let error = qmp.query_name(PATIENCE).await.unwrap_err();
    assert!(matches!(error, QmpError::Deadline { command: "query-name", .. }), "{error}");
    assert_eq!(qmp.events.len(), KEPT_EVENTS);
}

#[tokio::test]
async fn an_endless_line_is_cut_off() {
    let (ours, mut theirs) = duplex(1 << 16);
    tokio::spawn(async move { while theirs.write_all(&[b' '; 4096]).await.is_ok() {} });
    let error = Qmp::handshake(ours, PATIENCE).await.unwrap_err();
    assert!(matches!(error, QmpError::Garbled(_)), "{error}");
}

#[tokio::test]
async fn a_peer_that_hangs_up_is_closed() {
    let (ours, theirs) = duplex(64);
    drop(theirs);
    assert!(matches!(Qmp::handshake(ours, PATIENCE).await, Err(QmpError::Closed)));
}

proptest! {
    /// Whatever comes, it ends in an error or a value: no panic, no hang.
    #[test]
    fn noise_is_survived(noise in proptest::collection::vec(any::<u8>(), 0..512)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let (ours, mut theirs) = duplex(4096);
            theirs.write_all(format!("{GREETING}\n{}", empty(1)).as_bytes()).await.unwrap();
            theirs.write_all(&noise).await.unwrap();
            drop(theirs);
            if let Ok(mut qmp) = Qmp::handshake(ours, PATIENCE).await {
                while qmp.next_event().await.is_ok() {}
            }
        });
    }
}

#[tokio::test]
async fn a_disk_is_resized_by_its_node_and_never_made_smaller() {
    let nodes = r#"[{"node-name": "disk-a", "image": {"virtual-size": 4096}},
        {"image": {"virtual-size": 1}}, {"node-name": "disk-b", "image": {"virtual-size": 8192}}]"#
        .replace('\n', " ");
    let stream = peer(move |id, command| match command {
        "query-named-block-nodes" => format!("{{\"return\": {nodes}, \"id\": {id}}}\n"),
        _ => empty(id),
    });
    let mut qmp = Qmp::handshake(stream, PATIENCE).await.unwrap();
    assert_eq!(qmp.disk_size("disk-b", PATIENCE).await.unwrap(), Bytes(8192));
    qmp.grow_disk("disk-b", Bytes(8192), PATIENCE).await.unwrap();
    qmp.grow_disk("disk-b", Bytes(16384), PATIENCE).await.unwrap();
    let error = qmp.grow_disk("disk-b", Bytes(4096), PATIENCE).await.unwrap_err();
    assert!(matches!(error, QmpError::Refused { .. }), "{error}");
    let error = qmp.grow_disk("disk-c", Bytes(4096), PATIENCE).await.unwrap_err();
    assert!(error.to_string().contains("there is no disk-c"), "{error}");
}
