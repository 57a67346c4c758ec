use super::*;

const MEMORY: Bytes = Bytes::mib(64);

#[test]
fn what_a_vmm_writes_has_a_limit_and_ends_where_it_ended() {
    let (state, theirs) = state_of_at_most(MEMORY).unwrap();
    (&theirs).write_all(b"all of it").unwrap();
    let most = theirs.metadata().unwrap().len();
    theirs.write_all_at(b"x", most).unwrap_err();
    theirs.set_len(most + 1).unwrap_err();
    assert_eq!(finish_state(state).unwrap().metadata().unwrap().len(), 9);
    theirs.write_all_at(b"x", 0).unwrap_err();
}

#[test]
fn of_devices_no_more_is_taken_than_there_can_be() {
    let (state, theirs) = state_to_truncate().unwrap();
    theirs.set_len(0).unwrap();
    (&theirs).write_all(b"QEVM\0\0\0\x03\x04devices\0").unwrap();
    let taken = state_of_devices(&state).unwrap();
    assert!(is_of_devices(&taken).unwrap());
    let mut bytes = Vec::new();
    reopened(&taken).unwrap().read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, b"QEVM\0\0\0\x03\x04devices\0\x06\0\0\0\0");
    // It is another file.
    theirs.write_all_at(b"x", 0).unwrap();
    taken.write_all_at(b"x", 0).unwrap_err();
    theirs.set_len(MOST_STATE.get() + 1).unwrap();
    let error = state_of_devices(&state).unwrap_err();
    assert!(error.to_string().contains("64MiB of devices"), "{error}");
    // One that a migration wrote.
    theirs.write_all_at(b"QEVM\0\0\0\x03\x07", 0).unwrap();
    assert!(!is_of_devices(&state).unwrap());
}
