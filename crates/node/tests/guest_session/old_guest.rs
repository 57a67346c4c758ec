//! A guest agent of the protocol before, as it lives on in VMs that were booted
//! with it, which names nothing that it can do beyond 1.0; and what a node does
//! not ask of it.

use std::time::{Duration, SystemTime};

use inn_guest_proto::VERSION;
use inn_guest_proto::wire::{self, Done, Hello, Version, end, request};
use inn_node::guest::{
    DiskMount, ExecSpec, FileAttributes, FileVersion, GuestError, GuestSession, NetworkSetup,
    Password, ReadSpec, RefusedKind, RestartPolicy, Supervision, UploadId, WriteSpec,
};

use crate::guest::{id, patiently};
use crate::scripted::Scripted;

fn old() -> Hello {
    Hello {
        version: Some(Version { major: 1, minor: VERSION.minor - 1 }),
        agent: "inn-guest 0.1.0".to_owned(),
        boot_id: "boot".to_owned(),
        is_init: true,
        ..Hello::default()
    }
}

/// Every request that came with 1.1, each with the error it led to.
async fn refused(session: &GuestSession) -> Vec<GuestError> {
    let upload = UploadId([1; 8]);
    let mut errors = Vec::new();
    macro_rules! try_each {
        ($($call:expr),+ $(,)?) => {$(
            errors.push($call.await.map(drop).expect_err(stringify!($call)));
        )+};
    }
    let line = ExecSpec { command_line: Some("true".to_owned()), ..ExecSpec::new(id(1), vec![]) };
    let supervision = Supervision {
        policy: RestartPolicy::Always,
        min_delay: Duration::from_secs(1),
        max_delay: Duration::from_secs(9),
    };
    let supervised = ExecSpec {
        supervision: Some(supervision),
        ..ExecSpec::new(id(1), vec!["true".to_owned()])
    };
    let expected = FileVersion { inode: 1, size: 1, modified: (1, 1) };
    try_each![
        session.exec(line),
        session.exec(supervised),
        session.telemetry(),
        session.watch_telemetry(Duration::from_secs(1)),
        session.read_file("/a", ReadSpec { sparse: true, ..ReadSpec::default() }),
        session.read_file("/a", ReadSpec { expect: Some(expected), ..ReadSpec::default() }),
        session.write_file("/a", WriteSpec { sparse: true, ..WriteSpec::default() }),
        session.write_file("/a", WriteSpec { upload: Some(upload), ..WriteSpec::default() }),
        session.write_file("/a", WriteSpec { modified: Some((1, 1)), ..WriteSpec::default() }),
        session.upload_state("/a", upload),
        session.drop_upload("/a", upload),
        session.rename("/a", "/b", true),
        session.symlink("/a", "/b", true),
        session.set_attributes("/a", FileAttributes::default()),
        session.watch_files("/a", true),
        session.set_password("root", Password::Clear("x".to_owned())),
        session.set_hostname("x"),
        session.set_clock(SystemTime::now()),
        session.apply_network(NetworkSetup::default(), Duration::from_secs(1)),
        session.confirm_network(),
        session.freeze(Duration::from_secs(1), vec![]),
        session.thaw(),
        session.ssh_keys("root"),
        session.set_ssh_keys("root", vec![], false),
        session.grow_disk("/"),
        session.mount_disk(DiskMount::default()),
        session.unmount("/a"),
    ];
    errors
}

#[tokio::test]
async fn what_an_old_guest_lacks_is_refused_without_asking_it() {
    let (session, mut guest) = Scripted::open_as(old()).await;
    assert_eq!(session.protocol(), (VERSION.major, VERSION.minor - 1));
    for error in patiently(refused(&session)).await {
        let GuestError::Refused { kind, .. } = &error else { panic!("{error:?}") };
        assert_eq!(*kind, RefusedKind::Unsupported);
        let text = error.to_string();
        assert!(text.ends_with("its agent, inn-guest 0.1.0, is too old for it"), "{text}");
    }
    // None of it was sent: this is the first request.
    let asking = tokio::spawn(async move { session.list_execs().await });
    let kind = guest.answer(end::Outcome::ExecList(wire::ExecList::default())).await;
    assert!(matches!(kind, request::Kind::ListExecs(_)), "{kind:?}");
    assert!(patiently(asking).await.unwrap().unwrap().is_empty());
}

/// What 1.0 can do it is asked in the words of 1.0.
#[tokio::test]
async fn an_old_guest_is_asked_in_its_own_words() {
    let (session, mut guest) = Scripted::open_as(old()).await;
    let asked = session.clone();
    let attaching = tokio::spawn(async move { asked.attach(id(1), 7).await });
    let (stream, kind) = guest.request().await;
    let request::Kind::Attach(attach) = kind else { panic!("{kind:?}") };
    assert_eq!((attach.offset, attach.notes), (7, false));
    guest.end(stream, end::Outcome::Done(Done {})).await;
    patiently(attaching).await.unwrap().unwrap();

    let spec = WriteSpec { length: Some(5), mode: Some(0o600), ..WriteSpec::default() };
    let writer = patiently(session.write_file("/a", spec)).await.unwrap();
    let (_, kind) = guest.request().await;
    let expected =
        wire::WriteFile { path: "/a".to_owned(), mode: Some(0o600), ..Default::default() };
    assert_eq!(kind, request::Kind::WriteFile(expected));
    drop(writer);
}

#[tokio::test]
async fn an_old_guest_is_not_asked_to_keep_an_exec() {
    let (session, mut guest) = Scripted::open_as(old()).await;
    let lasting = Some(Duration::from_secs(60));
    let spec = ExecSpec { lasting, ..ExecSpec::new(id(2), vec!["true".to_owned()]) };
    let exec = patiently(session.exec(spec)).await.unwrap();
    let (_, kind) = guest.request().await;
    let request::Kind::Exec(asked) = kind else { panic!("{kind:?}") };
    assert_eq!(asked.lasting, None);
    drop(exec);
}
