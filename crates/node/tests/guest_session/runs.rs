//! Shell lines, and programs that the guest starts again.

use std::time::Duration;

use inn_node::guest::{
    ExecEnd, ExecEvent, ExecSpec, ExecStatus, GuestSession, RestartPolicy, Supervision,
};

use crate::guest::{TestGuest, id, patiently, run};

fn line(number: u8, line: &str) -> ExecSpec {
    ExecSpec { command_line: Some(line.to_owned()), ..ExecSpec::new(id(number), vec![]) }
}

fn supervised(number: u8, script: &str, policy: RestartPolicy) -> ExecSpec {
    let supervision = Supervision {
        policy,
        min_delay: Duration::from_millis(20),
        max_delay: Duration::from_millis(100),
    };
    ExecSpec { supervision: Some(supervision), retain: Some(4096), ..line(number, script) }
}

#[tokio::test]
async fn a_line_is_the_shells() {
    let guest = TestGuest::start();
    let session = guest.session().await;
    let (said, end) =
        run(&session, line(1, r#"X="a  b"; echo "$X" | tr a-z A-Z; exit 3"#)).await.unwrap();
    assert_eq!((said.stdout.as_slice(), end.status), (&b"A  B\n"[..], ExecStatus::Code(3)));
    let both = ExecSpec { argv: vec!["true".into()], ..line(2, "true") };
    assert!(run(&session, both).await.is_err());
}

#[derive(Debug, Default)]
struct Told {
    stdout: String,
    started: Vec<u32>,
    ended: Vec<(ExecStatus, u32)>,
    end: Option<ExecEnd>,
}

#[tokio::test]
async fn what_failed_runs_again_until_it_succeeds() {
    let guest = TestGuest::start();
    let session = guest.session().await;
    let script = format!("echo run; echo x >>{0}; [ $(wc -l <{0}) -ge 4 ]", guest.path("runs"));
    let spec = supervised(1, &script, RestartPolicy::OnFailure);
    let mut exec = patiently(session.exec(spec)).await.unwrap();
    let mut told = Told::default();
    while let Some(event) = patiently(exec.next()).await.unwrap() {
        match event {
            ExecEvent::Started { pid, .. } => assert!(pid > 1),
            ExecEvent::Stdout(output) => told.stdout += std::str::from_utf8(&output.bytes).unwrap(),
            ExecEvent::InputTaken(taken) => panic!("{taken:?}"),
            ExecEvent::Stderr(output) => panic!("{output:?}"),
            ExecEvent::RunEnded { end, restarts, next_in } => {
                assert!((20..=100).contains(&next_in.as_millis()), "{next_in:?}");
                told.ended.push((end.status, restarts));
            }
            ExecEvent::RunStarted { restarts, .. } => told.started.push(restarts),
            ExecEvent::Exited(end) => told.end = Some(end),
        }
    }
    let failed = ExecStatus::Code(1);
    assert_eq!(told.ended, [(failed, 0), (failed, 1), (failed, 2)]);
    assert_eq!(told.started, [1, 2, 3]);
    assert_eq!(told.stdout, "run\n".repeat(4));
    let end = told.end.unwrap();
    assert_eq!((end.status, end.output), (ExecStatus::Code(0), 16));
}

#[tokio::test]
async fn a_hosts_sigterm_is_the_end_of_it() {
    let guest = TestGuest::start();
    let session = guest.session().await;
    let spec = supervised(1, "echo up; exec sleep 1000", RestartPolicy::Always);
    let mut exec = patiently(session.exec(spec)).await.unwrap();
    // A signal that is none of the host's: the run ends and another follows.
    let mut first = None;
    loop {
        match patiently(exec.next()).await.unwrap().expect("it goes on") {
            ExecEvent::Started { pid, .. } => first = Some(pid),
            ExecEvent::Stdout(_) => break,
            _ => {}
        }
    }
    let pid = i32::try_from(first.unwrap()).unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    loop {
        if let ExecEvent::RunStarted { pid: second, restarts } =
            patiently(exec.next()).await.unwrap().expect("it goes on")
        {
            assert_eq!(restarts, 1);
            assert_ne!(Some(second), first);
            break;
        }
    }
    session.signal(id(1), 15).await.unwrap();
    loop {
        match patiently(exec.next()).await.unwrap().expect("it ends") {
            ExecEvent::Exited(end) => {
                assert_eq!(end.status, ExecStatus::Signal(15));
                break;
            }
            ExecEvent::RunStarted { .. } => panic!("started again"),
            _ => {}
        }
    }
}

async fn listed(session: &GuestSession) -> inn_node::guest::ExecSummary {
    let mut execs = patiently(session.list_execs()).await.unwrap();
    assert_eq!(execs.len(), 1, "{execs:?}");
    execs.remove(0)
}

#[tokio::test]
async fn a_supervised_exec_is_found_again_after_its_session_was_lost() {
    let guest = TestGuest::start();
    let session = guest.session().await;
    let before = std::time::SystemTime::now() - Duration::from_secs(5);
    let spec = ExecSpec {
        user: Some("root".to_owned()),
        stdin: true,
        ..supervised(1, "echo $$; read line; exit 4", RestartPolicy::Always)
    };
    let mut exec = patiently(session.exec(spec)).await.unwrap();
    loop {
        if let ExecEvent::Stdout(_) = patiently(exec.next()).await.unwrap().expect("it runs") {
            break;
        }
    }
    let now = listed(&session).await;
    assert!(now.started.unwrap() > before && now.retained && now.stdin_open && !now.tty);
    assert_eq!((now.user.as_str(), now.restarts, now.ended), ("root", 0, None));
    session.close().await;
    patiently(exec.next()).await.map(drop).unwrap_or_default();
    drop(exec);

    let session = guest.session().await;
    let mut exec = patiently(session.attach(id(1), 0)).await.unwrap();
    let mut stdin = exec.take_stdin().unwrap();
    patiently(stdin.write("go\n".into())).await.unwrap();
    loop {
        if let ExecEvent::RunStarted { restarts, .. } =
            patiently(exec.next()).await.unwrap().expect("it goes on")
        {
            assert_eq!(restarts, 1);
            break;
        }
    }
    let now = listed(&session).await;
    assert_eq!((now.restarts, now.last_run.unwrap().status), (1, ExecStatus::Code(4)));
    session.signal(id(1), 9).await.unwrap();
    while patiently(exec.next()).await.unwrap().is_some() {}
    let now = listed(&session).await;
    assert_eq!(now.ended.unwrap().status, ExecStatus::Signal(9));
    session.forget(id(1)).await.unwrap();
    assert!(patiently(session.list_execs()).await.unwrap().is_empty());
}
