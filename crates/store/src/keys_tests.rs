use inn_units::Digest;

use super::tests::record as vm_record;
use super::*;
use crate::keys::{KEPT, KeyAnswer, KeyRecord, KnownKey, OF_ONE, PRUNED};

fn key(n: u32, at: i64) -> KeyRecord {
    KeyRecord {
        caller: "uid 0".into(),
        route: "POST /api/vms".into(),
        key: format!("key-{n}"),
        digest: Digest::from_sha256([1; 32]),
        at: Timestamp::from_second(at).unwrap(),
    }
}

fn answer(text: &str) -> KeyAnswer {
    KeyAnswer {
        status: 201,
        headers: vec![("location".into(), "/api/vms/x".into())],
        body: text.into(),
    }
}

#[tokio::test]
async fn a_key_is_there_with_its_vm_or_neither_is() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mark = |n| Some(KeyMark { record: key(n, 1_000), answer: None });
    store.insert_vm_for(vm_record(1), Durability::Host, mark(1)).await.unwrap();
    let again = VmRecord { id: VmId::from_bytes([9; 5]), ..vm_record(1) };
    let taken = store.insert_vm_for(again, Durability::Host, mark(2)).await;
    assert!(matches!(taken, Err(StoreError::NameTaken)), "{taken:?}");
    assert_eq!(store.known_key(key(2, 1_000)).await.unwrap(), None);
    store.close();

    let store = Store::open(dir.path()).unwrap();
    let known = store.known_key(key(1, 1_000)).await.unwrap().unwrap();
    let accepted = KnownKey { digest: key(1, 0).digest, vm: Some(vm_record(1).id), answer: None };
    assert_eq!(known, accepted);
    let given = KeyMark { record: key(1, 1_001), answer: Some(answer("made")) };
    store.keep_answer(given).await.unwrap();
    let known = store.known_key(key(1, 1_002)).await.unwrap().unwrap();
    assert_eq!(known, KnownKey { answer: Some(answer("made")), ..accepted });

    // Another's, or another route's, is another key.
    let other = KeyRecord { caller: "uid 1".into(), ..key(1, 1_002) };
    assert_eq!(store.known_key(other).await.unwrap(), None);
    let other = KeyRecord { route: "POST /api/images/import".into(), ..key(1, 1_002) };
    assert_eq!(store.known_key(other).await.unwrap(), None);

    let desired = vm_record(1).desired;
    let gone = KeyMark { record: key(3, 1_003), answer: Some(answer("gone")) };
    store.set_desired_for(vm_record(1).id, desired, Durability::Agent, Some(gone)).await.unwrap();
    assert!(store.known_key(key(3, 1_003)).await.unwrap().unwrap().answer.is_some());
}

#[tokio::test]
async fn keys_end_with_their_day_and_the_oldest_are_pushed_out() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let day = i64::try_from(KEPT.as_secs()).unwrap();
    let keep = async |record: KeyRecord| {
        store.keep_answer(KeyMark { record, answer: Some(answer("x")) }).await.unwrap();
    };
    let other = KeyRecord { caller: "uid 1".into(), ..key(0, 0) };
    keep(other.clone()).await;
    assert!(
        store
            .known_key(KeyRecord { at: key(0, day - 1).at, ..other.clone() })
            .await
            .unwrap()
            .is_some()
    );
    assert_eq!(store.known_key(KeyRecord { at: key(0, day).at, ..other }).await.unwrap(), None);
    let most = u32::try_from(OF_ONE + 2 * PRUNED).unwrap();
    for n in 0..most {
        keep(key(n, day + i64::from(n))).await;
    }
    let now = day + i64::from(most);
    assert_eq!(store.known_key(key(0, now)).await.unwrap(), None);
    assert!(store.known_key(key(most - 1, now)).await.unwrap().is_some());
    let left: i64 = store
        .call("count", Durability::Agent, |c| {
            c.query_row("SELECT count(*) FROM request_keys", [], |row| row.get(0))
        })
        .await
        .unwrap();
    assert!(left <= OF_ONE + PRUNED, "{left}");
}

use crate::records::VmRecord;
