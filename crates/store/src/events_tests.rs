use super::*;

fn event(n: u8, kind: &str) -> EventRecord {
    EventRecord {
        at: Timestamp::from_microsecond(1_700_000_000_000_000 + i64::from(n)).unwrap(),
        kind: kind.to_owned(),
        vm_id: Some(VmId::from_bytes([n % 3; 5])),
        vm_name: Some(format!("vm-{}", n % 3)),
        actor: Some("uid 0".to_owned()),
        message: format!("event {n}"),
        detail: "{\"a\":1}".to_owned(),
    }
}

fn seqs(page: &EventPage) -> Vec<u64> {
    page.events.iter().map(|(seq, _)| seq.0).collect()
}

async fn filled(dir: &std::path::Path) -> Store {
    let store = Store::open(dir).unwrap();
    assert_eq!(store.begin_events("a boot".into()).await.unwrap(), EventWindow::default());
    let batch: Vec<_> =
        (1..=9).map(|n| event(n, if n % 2 == 0 { "even" } else { "odd" })).collect();
    assert_eq!(store.append_events(Arc::new(batch), 100).await.unwrap(), EventSeq(9));
    store
}

#[tokio::test]
async fn events_come_back_in_order_and_filtered() {
    let dir = tempfile::tempdir().unwrap();
    drop(filled(dir.path()).await);
    let store = Store::open(dir.path()).unwrap();
    let all = store.events(EventQuery::default(), 100).await.unwrap();
    assert_eq!(seqs(&all), (1..=9).collect::<Vec<_>>());
    assert_eq!(all.events[3].1, event(4, "even"));
    assert_eq!((all.scanned_to, all.window.first), (EventSeq(9), Some(EventSeq(1))));

    let ask = |query: EventQuery, limit| store.events(query, limit);
    let of = |vm: &str| EventQuery { vm: Some(vm.to_owned()), ..EventQuery::default() };
    assert_eq!(seqs(&ask(of("vm-1"), 100).await.unwrap()), [1, 4, 7]);
    let id = VmId::from_bytes([2; 5]);
    assert_eq!(seqs(&ask(of(&id.to_string()), 100).await.unwrap()), [2, 5, 8]);
    let page = ask(EventQuery { kinds: vec!["even".into()], ..of("vm-2") }, 1).await.unwrap();
    assert_eq!((seqs(&page), page.scanned_to), (vec![2], EventSeq(2)));
    let rest = EventQuery { after: page.scanned_to, kinds: vec!["even".into()], ..of("vm-2") };
    let page = ask(rest.clone(), 9).await.unwrap();
    assert_eq!((seqs(&page), page.scanned_to), (vec![8], EventSeq(9)));
    let only = EventQuery { only_vms: Some(vec![id]), ..EventQuery::default() };
    assert_eq!(seqs(&ask(only, 9).await.unwrap()), [2, 5, 8]);
    let nobody = EventQuery { only_vms: Some(Vec::new()), ..EventQuery::default() };
    assert_eq!(seqs(&ask(nobody, 9).await.unwrap()), [0; 0]);
    let since = EventQuery { since: Some(event(8, "").at), ..EventQuery::default() };
    assert_eq!(seqs(&ask(since, 9).await.unwrap()), [8, 9]);

    assert_eq!(store.events_tail(of("vm-1"), 2).await.unwrap(), EventSeq(3));
    assert_eq!(store.events_tail(of("vm-1"), 20).await.unwrap(), EventSeq(0));
    assert_eq!(store.events_tail(of("vm-1"), 0).await.unwrap(), EventSeq(9));
}

#[tokio::test]
async fn the_oldest_go_and_numbers_stay() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path()).await;
    for _ in 0..20 {
        let batch = (0..100).map(|n| event(n, "more")).collect();
        store.append_events(Arc::new(batch), 50).await.unwrap();
    }
    let page = store.events(EventQuery::default(), 5_000).await.unwrap();
    assert_eq!(page.window.last, EventSeq(2_009));
    let kept = page.events.len();
    assert!((50..50 + 512 + 100).contains(&kept), "{kept}");
    assert_eq!(page.window.first.unwrap().0, 2_010 - kept as u64);
}

#[tokio::test]
async fn after_a_boot_of_the_host_no_number_comes_twice() {
    let dir = tempfile::tempdir().unwrap();
    drop(filled(dir.path()).await);
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.begin_events("a boot".into()).await.unwrap().last, EventSeq(9));
    let window = store.begin_events("another boot".into()).await.unwrap();
    assert_eq!((window.first, window.last), (Some(EventSeq(1)), EventSeq(100_009)));
    let last = store.append_events(Arc::new(vec![event(1, "new")]), 100).await.unwrap();
    assert_eq!(last, EventSeq(100_010));
}
