use std::time::Duration;

use bytes::Bytes;
use inn_node::guest::{
    ExecEvent, ExecSpec, ExecStatus, GuestError, RefusedKind, ShutdownKind, TtySize,
};

use crate::guest::{PATIENCE, TestGuest, collect, id, patiently, run, shell};

#[tokio::test]
async fn output_code_and_environment() {
    let guest = TestGuest::start();
    let session = guest.session().await;
    let mut spec = shell(1, "echo out; echo err >&2; echo $WHO $HOME; pwd; exit 7");
    spec.env = vec!["WHO=me".into(), "PATH=/usr/bin:/bin".into(), "HOME=/h".into()];
    spec.cwd = Some("/usr".into());
    let (said, end) = run(&session, spec).await.unwrap();
    assert_eq!(String::from_utf8(said.stdout).unwrap(), "out\nme /h\n/usr\n");
    assert_eq!(String::from_utf8(said.stderr).unwrap(), "err\n");
    assert_eq!(end.status, ExecStatus::Code(7));
    assert_eq!(end.output, 19);
    assert!(!end.timed_out && end.truncated == 0);
    assert!(patiently(session.list_execs()).await.unwrap().is_empty(), "what ended is forgotten");
}

#[tokio::test]
async fn path_and_home_have_defaults() {
    let guest = TestGuest::start();
    let session = guest.session().await;
    let (said, _) =
        run(&session, shell(1, "echo $PATH; [ -n \"$HOME\" ] && echo home")).await.unwrap();
    let stdout = String::from_utf8(said.stdout).unwrap();
    assert!(stdout.starts_with("/usr/local/sbin:") && stdout.ends_with("home\n"), "{stdout}");
}

#[tokio::test]
async fn what_cannot_start_says_why() {
    let guest = TestGuest::start();
    let session = guest.session().await;
    let refused = async |spec: ExecSpec| match run(&session, spec).await {
        Err(GuestError::Refused { what, kind, .. }) => (what, kind),
        other => panic!("{other:?}"),
    };
    let missing = ExecSpec::new(id(1), vec!["no-such-program".into()]);
    assert_eq!(refused(missing).await, ("run no-such-program".into(), RefusedKind::NotFound));
    let directory = ExecSpec::new(id(2), vec!["/etc".into()]);
    assert_eq!(refused(directory).await, ("run /etc".into(), RefusedKind::Denied));
    let mut nowhere = shell(3, "true");
    nowhere.cwd = Some("/no/such/dir".into());
    let what = "enter the working directory /no/such/dir";
    // Not what a shell says of a program that is not there.
    assert_eq!(refused(nowhere).await, (what.into(), RefusedKind::Invalid));
    let mut nobody = shell(4, "true");
    nobody.user = Some("no-such-user".into());
    assert_eq!(refused(nobody).await.1, RefusedKind::Invalid);
    assert_eq!(refused(ExecSpec::new(id(5), Vec::new())).await.1, RefusedKind::Invalid);
}

#[tokio::test]
async fn a_request_too_large_for_a_frame_is_refused_here() {
    let guest = TestGuest::start();
    let session = guest.session().await;
    let spec = ExecSpec::new(id(1), vec!["true".into(), "x".repeat(200_000)]);
    match run(&session, spec).await {
        Err(GuestError::TooLarge { size, limit, .. }) => assert!(size > limit),
        other => panic!("{other:?}"),
    }
    assert!(run(&session, shell(2, "true")).await.is_ok(), "the session goes on");
}

#[tokio::test]
async fn a_missing_workdir_is_made_on_request() {
    let guest = TestGuest::start();
    let session = guest.session().await;
    let mut spec = shell(1, "pwd");
    spec.cwd = Some(guest.path("made/for/it"));
    spec.make_cwd = true;
    let (said, _) = run(&session, spec).await.unwrap();
    assert_eq!(String::from_utf8(said.stdout).unwrap().trim(), guest.path("made/for/it"));
}

#[tokio::test]
async fn stdin_flows_and_ends() {
    let guest = TestGuest::start();
    let session = guest.session().await;
    let mut spec = shell(1, "wc -c; echo done");
    spec.stdin = true;
    let mut exec = session.exec(spec).await.unwrap();
    let mut stdin = exec.take_stdin().unwrap();
    // Many times the window: it only ends if credit comes back.
    let writing = tokio::spawn(async move {
        for _ in 0..100 {
            stdin.write(Bytes::from(vec![b'x'; 50_000])).await.unwrap();
        }
        stdin.close().await.unwrap();
    });
    let (said, end) = collect(&mut exec).await.unwrap();
    patiently(writing).await.unwrap();
    assert_eq!(String::from_utf8(said.stdout).unwrap(), "5000000\ndone\n");
    assert_eq!(end.status, ExecStatus::Code(0));
}

#[tokio::test]
async fn stdin_that_nobody_reads_does_not_hold_the_end() {
    let guest = TestGuest::start();
    let session = guest.session().await;
    let mut spec = shell(1, "exec 0<&-; echo closed; read x </dev/null; exit 3");
    spec.stdin = true;
    let mut exec = session.exec(spec).await.unwrap();
    let mut stdin = exec.take_stdin().unwrap();
    let writing = tokio::spawn(async move {
        // Fails once the process has ended, and blocks for ever never.
        while stdin.write(Bytes::from(vec![b'x'; 50_000])).await.is_ok() {}
    });
    let (_, end) = collect(&mut exec).await.unwrap();
    assert_eq!(end.status, ExecStatus::Code(3));
    patiently(writing).await.unwrap();
}

#[tokio::test]
async fn a_signal_ends_it_and_is_told() {
    let guest = TestGuest::start();
    let session = guest.session().await;
    let mut exec = session.exec(shell(1, "echo up; sleep 1000")).await.unwrap();
    let control = exec.control();
    loop {
        if let Some(ExecEvent::Stdout(_)) = patiently(exec.next()).await.unwrap() {
            break;
        }
    }
    control.signal(15).await.unwrap();
    let (_, end) = collect(&mut exec).await.unwrap();
    assert_eq!(end.status, ExecStatus::Signal(15));
    assert_eq!(end.exit_code(), 143);
}

#[tokio::test]
async fn a_timeout_ends_the_whole_group() {
    let guest = TestGuest::start();
    let session = guest.session().await;
    // The group's second process ignores SIGTERM and holds stdout open.
    let script = "(trap '' TERM; sleep 1000) & echo $$; wait";
    let mut spec = shell(1, script);
    spec.timeout = Some(Duration::from_millis(300));
    let (said, end) = run(&session, spec).await.unwrap();
    assert!(end.timed_out);
    assert_eq!(end.status, ExecStatus::Signal(15));
    let group: i32 = String::from_utf8(said.stdout).unwrap().trim().parse().unwrap();
    patiently(async {
        let group = rustix::process::Pid::from_raw(group).unwrap();
        while rustix::process::test_kill_process_group(group).is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn one_that_ignores_sigterm_is_killed() {
    let guest = TestGuest::start();
    let session = guest.session().await;
    let mut spec = shell(1, "trap '' TERM; while :; do sleep 1; done");
    spec.timeout = Some(Duration::from_millis(100));
    let (_, end) = run(&session, spec).await.unwrap();
    assert!(end.timed_out);
    assert_eq!(end.status, ExecStatus::Signal(9));
}

#[tokio::test]
async fn what_is_left_behind_does_not_hold_the_end() {
    let guest = TestGuest::start();
    let session = guest.session().await;
    let (said, end) = run(&session, shell(1, "sleep 1000 & echo $!")).await.unwrap();
    assert_eq!(end.status, ExecStatus::Code(0));
    assert!(end.took < PATIENCE);
    let left: i32 = String::from_utf8(said.stdout).unwrap().trim().parse().unwrap();
    let left = rustix::process::Pid::from_raw(left).unwrap();
    rustix::process::kill_process(left, rustix::process::Signal::KILL).unwrap();
}

#[tokio::test]
async fn a_terminal_has_a_size_and_echoes() {
    let guest = TestGuest::start();
    let session = guest.session().await;
    let mut spec =
        shell(1, "stty size; read line; stty size; test -t 0 && test -t 2 && echo tty $line $TERM");
    spec.tty = Some(TtySize { rows: 30, cols: 100 });
    let mut exec = session.exec(spec).await.unwrap();
    let mut stdin = exec.take_stdin().unwrap();
    let control = exec.control();
    let mut seen = String::new();
    while !seen.contains("30 100") {
        if let Some(ExecEvent::Stdout(output)) = patiently(exec.next()).await.unwrap() {
            seen.push_str(std::str::from_utf8(&output.bytes).unwrap());
        }
    }
    control.resize(TtySize { rows: 50, cols: 132 }).await.unwrap();
    stdin.write(Bytes::from_static(b"hello\n")).await.unwrap();
    let (said, end) = collect(&mut exec).await.unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(said.contains("50 132") && said.contains("tty hello xterm"), "{said}");
    assert_eq!(end.status, ExecStatus::Code(0));
}

#[tokio::test]
async fn another_user_has_its_groups_and_its_stdout() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can become somebody else");
        return;
    }
    let guest = TestGuest::start();
    let session = guest.session().await;
    let mut spec = shell(1, "id -u; id -g; id -G; echo again > /dev/stdout; umask");
    spec.user = Some("12345:54321".into());
    let (said, end) = run(&session, spec).await.unwrap();
    assert_eq!(String::from_utf8(said.stdout).unwrap(), "12345\n54321\n54321\nagain\n0022\n");
    assert_eq!(end.status, ExecStatus::Code(0));
}

#[tokio::test]
async fn output_has_a_limit() {
    let guest = TestGuest::start();
    let session = guest.session().await;
    let mut spec = shell(1, "head -c 1000000 /dev/zero");
    spec.output_limit = Some(1234);
    let (said, end) = run(&session, spec).await.unwrap();
    assert_eq!(said.stdout.len(), 1234);
    assert_eq!((end.output, end.truncated), (1234, 1_000_000 - 1234));
}

#[tokio::test]
async fn a_flood_does_not_starve_others() {
    let guest = TestGuest::start();
    let session = guest.session().await;
    let mut flood = session.exec(shell(1, "exec cat /dev/zero")).await.unwrap();
    let mut unread = session.exec(shell(2, "exec cat /dev/zero")).await.unwrap();
    // Both have started, and nobody reads the second.
    assert!(matches!(patiently(unread.next()).await, Ok(Some(ExecEvent::Started { .. }))));
    let drain = tokio::spawn(async move {
        let mut total = 0;
        while total < 64 * 1024 * 1024 {
            if let Some(ExecEvent::Stdout(output)) = patiently(flood.next()).await.unwrap() {
                total += output.bytes.len();
            }
        }
    });
    for number in 10..20 {
        let (said, _) = run(&session, shell(number, "echo hi")).await.unwrap();
        assert_eq!(said.stdout, b"hi\n");
    }
    patiently(drain).await.unwrap();
    assert!(guest.resident_kib() < 32 * 1024, "{} KiB", guest.resident_kib());
    drop(unread);
    // A dropped exec's process is ended.
    patiently(async {
        while !session.list_execs().await.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_retained_exec_outlives_its_session() {
    let guest = TestGuest::start();
    let first = guest.session().await;
    let gate = guest.path("gate");
    let script =
        format!("mkfifo {gate}; echo one; echo two >&2; read x < {gate}; echo three; exit 5");
    let mut spec = shell(1, &script);
    spec.retain = Some(65536);
    let mut exec = first.exec(spec).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 8 {
        match patiently(exec.next()).await.unwrap() {
            Some(ExecEvent::Stdout(out) | ExecEvent::Stderr(out)) => {
                seen.extend_from_slice(&out.bytes)
            }
            other => assert!(matches!(other, Some(ExecEvent::Started { .. })), "{other:?}"),
        }
    }
    first.close().await;
    drop((exec, first));

    let second = guest.session().await;
    let known = patiently(second.list_execs()).await.unwrap();
    assert_eq!(known.len(), 1);
    assert!(known[0].retained && known[0].ended.is_none());
    assert_eq!((known[0].id, known[0].output_start, known[0].output_end), (id(1), 0, 8));
    let mut again = second.attach(id(1), 4).await.unwrap();
    let (said, _) =
        tokio::join!(collect(&mut again), run(&second, shell(2, &format!("echo go > {gate}"))));
    let (said, end) = said.unwrap();
    assert_eq!(said.first_offset, Some(4));
    assert_eq!(said.stdout.len() + said.stderr.len(), 10);
    assert_eq!(end.status, ExecStatus::Code(5));

    // Ended, it can still be read, by any number, until it is forgotten.
    let mut late = second.attach(id(1), 0).await.unwrap();
    let (said, end) = collect(&mut late).await.unwrap();
    assert_eq!(said.stdout, b"one\nthree\n");
    assert_eq!(said.stderr, b"two\n");
    assert_eq!(end.output, 14);
    second.forget(id(1)).await.unwrap();
    let mut gone = second.attach(id(1), 0).await.unwrap();
    match patiently(gone.next()).await {
        Err(GuestError::Refused { kind: RefusedKind::NotFound, .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_retained_exec_keeps_the_last_bytes() {
    let guest = TestGuest::start();
    let session = guest.session().await;
    let mut spec = shell(1, "head -c 300000 /dev/zero; printf end");
    spec.retain = Some(20_000);
    let mut exec = session.exec(spec).await.unwrap();
    let mut end = None;
    while let Some(event) = patiently(exec.next()).await.unwrap() {
        if let ExecEvent::Exited(it) = event {
            end = Some(it);
        }
    }
    assert_eq!(end.unwrap().output, 300_003, "nobody made it wait");
    let mut late = session.attach(id(1), 0).await.unwrap();
    let (said, _) = collect(&mut late).await.unwrap();
    assert!(said.stdout.len() <= 20_000 && said.stdout.ends_with(b"end"));
    assert_eq!(said.first_offset, Some(300_003 - said.stdout.len() as u64));
}

#[tokio::test]
async fn an_exec_ends_with_its_session() {
    let guest = TestGuest::start();
    let first = guest.session().await;
    let mut exec = first.exec(shell(1, "echo $$; sleep 1000")).await.unwrap();
    let pid: i32 = loop {
        if let Some(ExecEvent::Stdout(output)) = patiently(exec.next()).await.unwrap() {
            break std::str::from_utf8(&output.bytes).unwrap().trim().parse().unwrap();
        }
    };
    first.close().await;
    assert!(patiently(exec.next()).await.is_err());
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    patiently(async {
        while rustix::process::test_kill_process(pid).is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn an_id_in_use_is_refused() {
    let guest = TestGuest::start();
    let session = guest.session().await;
    let mut first = session.exec(shell(1, "cat /dev/zero")).await.unwrap();
    assert!(matches!(patiently(first.next()).await, Ok(Some(ExecEvent::Started { .. }))));
    match run(&session, shell(1, "true")).await {
        Err(GuestError::Refused { kind: RefusedKind::AlreadyExists, .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn shutdown_is_answered_and_closes_the_session() {
    let mut guest = TestGuest::start();
    let session = guest.session().await;
    assert!(!session.hello().is_init);
    for _ in 0..3 {
        patiently(session.ping()).await.unwrap();
    }
    patiently(session.shutdown(ShutdownKind::PowerOff, Duration::from_secs(1))).await.unwrap();
    let reason = patiently(session.closed()).await;
    assert_eq!(reason.code(), "guest-closed");
    guest.ended().await;
}
