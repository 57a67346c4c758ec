//! Processes that do what they should not, and hosts that come and go: what a
//! session over a socket sees of both.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

mod host;
mod lasting;

use host::{Guest, id, line};
use inn_guest_proto::wire::{
    Control, Exec, FailureKind, ForgetExec, RestartPolicy, SignalExec, Supervision, TtySize,
    control, end::Outcome, exec_end::Status, exec_note, request::Kind,
};

fn always(number: u8, script: &str) -> Exec {
    let supervision =
        Supervision { policy: RestartPolicy::Always.into(), min_delay_ms: 10, max_delay_ms: 20 };
    Exec {
        supervision: Some(supervision),
        retain_bytes: Some(64 * 1024),
        notes: true,
        ..line(number, script)
    }
}

fn retained(number: u8, script: &str) -> Exec {
    Exec { retain_bytes: Some(4096), stdin: true, ..line(number, script) }
}

fn runs(pid: &str) -> bool {
    // What is dead and waits for its parent does not run.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}

#[test]
fn a_timeout_ends_whoever_left_the_group_too() {
    let guest = Guest::start();
    let mut session = guest.connect();
    // One in a session of its own that ignores SIGTERM, with its parent there;
    // one whose parent is gone, in the old session but a group of its own.
    let script = "setsid sh -c 'trap \"\" TERM; echo $$; sleep 1000 & wait; wait' &
        (set -m; sleep 1001 & echo $!)
        wait";
    let stream = session.exec(Exec { timeout_ms: 1_000, ..line(1, script) });
    let seen = session.finish(stream);
    assert!(seen.exec_end().timed_out);
    let pids: Vec<&str> = seen.stdout.lines().collect();
    assert_eq!(pids.len(), 2, "{seen:?}");
    for pid in pids {
        // SIGKILL was sent; it takes effect when the kernel gets to it.
        let start = std::time::Instant::now();
        while runs(pid) {
            assert!(start.elapsed().as_secs() < 60, "{pid} is left");
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_closed_stdout_is_not_the_end() {
    let guest = Guest::start();
    let mut session = guest.connect();
    let script = format!("exec >&- 2>&-; sleep 0.3; : >{}; exit 5", guest.path("done"));
    let stream = session.exec(line(1, &script));
    assert_eq!(session.finish(stream).status(), Status::Code(5));
    assert!(std::path::Path::new(&guest.path("done")).exists());
}

#[test]
fn a_hundred_at_once() {
    let guest = Guest::start();
    let mut session = guest.connect();
    let streams: Vec<u32> = (0..100)
        .map(|number| session.exec(line(number, &format!("echo {number}; exit {number}"))))
        .collect();
    for (number, stream) in streams.into_iter().enumerate() {
        let seen = session.finish(stream);
        assert_eq!(seen.stdout, format!("{number}\n"));
        assert_eq!(seen.status(), Status::Code(i32::try_from(number).unwrap()));
    }
    assert!(session.list().is_empty());
}

#[test]
fn who_is_unknown_is_told_apart_from_what_is_not_there() {
    let guest = Guest::start();
    let mut session = guest.connect();
    let mut kind = |exec: Exec| {
        let stream = session.exec(exec);
        let seen = session.finish(stream);
        (seen.failure().kind(), seen.failure().what.clone())
    };
    let program = |name: &str| Exec { argv: vec![name.to_owned()], ..line(1, "") };
    let (missing, what) = kind(program("no-such-program"));
    assert_eq!((missing, what.as_str()), (FailureKind::NotFound, "run no-such-program"));
    let (user, what) = kind(Exec { user: "nobody-here".to_owned(), ..program("true") });
    assert_eq!(user, FailureKind::Invalid);
    assert!(what.contains("find the user nobody-here"), "{what}");
    let (group, _) = kind(Exec { user: "0:no-such-group".to_owned(), ..program("true") });
    assert_eq!(group, FailureKind::Invalid);
    let (cwd, what) = kind(Exec { cwd: "/no/such".to_owned(), ..program("true") });
    assert_eq!(
        (cwd, what.as_str()),
        (FailureKind::Invalid, "enter the working directory /no/such")
    );
}

#[test]
fn stdin_belongs_to_whoever_attached_last() {
    let guest = Guest::start();
    let mut session = guest.connect();
    let first = session.exec(retained(1, "while read line; do echo got $line; done; exit 3"));
    session.type_in(first, "one\n");
    session.wait(first, |seen| seen.stdout == "got one\n");
    let second = session.attach(1, 0);
    session.wait(second, |seen| seen.stdout == "got one\n");
    session.type_in(first, "lost\n");
    session.type_in(second, "two\n");
    session.wait(first, |seen| seen.stdout == "got one\ngot two\n");
    let third = session.attach(1, 8);
    session.wait(third, |seen| seen.stdout == "got two\n");
    // The end that a former holder sends is none.
    let eof = inn_guest_proto::wire::Eof::default;
    session.host().send_eof(second, eof()).unwrap();
    session.type_in(third, "three\n");
    session.wait(third, |seen| seen.stdout.ends_with("got three\n"));
    session.host().send_eof(third, eof()).unwrap();
    for stream in [first, second, third] {
        assert_eq!(session.finish(stream).status(), Status::Code(3));
    }
}

#[test]
fn a_supervised_exec_ends_when_its_time_is_up_or_it_is_forgotten() {
    let guest = Guest::start();
    let mut session = guest.connect();
    let stream = session.exec(Exec { timeout_ms: 500, ..always(1, "echo run") });
    let seen = session.finish(stream);
    assert!(seen.exec_end().timed_out);
    assert!(seen.stdout.lines().count() > 1, "{seen:?}");
    let ended =
        seen.notes.iter().filter(|note| matches!(note.kind, Some(exec_note::Kind::RunEnded(_))));
    assert!(ended.count() > 1);

    let stream = session.exec(always(2, "trap '' TERM; echo up; sleep 1000 & wait; wait; wait"));
    session.wait(stream, |seen| seen.stdout == "up\n");
    let forget = || Kind::ForgetExec(ForgetExec { id: id(2) });
    assert!(matches!(session.ask(forget()), Outcome::Done(_)));
    assert_eq!(session.finish(stream).status(), Status::Signal(9));
    let known: Vec<_> = session.list().into_iter().map(|exec| exec.id).collect();
    assert_eq!(known, [id(1)]);
    assert!(matches!(session.ask(forget()), Outcome::Failure(_)));
}

#[test]
fn a_program_that_has_gone_counts_as_a_run_that_failed() {
    let guest = Guest::start();
    let mut session = guest.connect();
    let program = guest.path("program");
    std::fs::write(&program, "#!/bin/sh\nrm \"$0\"\necho last\n").unwrap();
    let mode = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
    std::fs::set_permissions(&program, mode).unwrap();
    let exec = Exec { argv: vec![program.clone()], ..always(1, "") };
    let stream = session.exec(exec);
    session.wait(stream, |seen| seen.notes.len() >= 4);
    let signal = Kind::SignalExec(SignalExec { id: id(1), signal: 15 });
    assert!(matches!(session.ask(signal), Outcome::Done(_)));
    let seen = session.finish(stream);
    assert_eq!((seen.status(), seen.stdout.as_str()), (Status::Code(127), "last\n"));
}

#[test]
fn a_terminal_is_resized_and_any_signal_arrives() {
    let guest = Guest::start();
    let mut session = guest.connect();
    let size = TtySize { rows: 24, cols: 80 };
    let script = "trap 'stty size' WINCH; stty size; while :; do sleep 0.05; done";
    let stream = session.exec(Exec { tty: Some(size), ..line(1, script) });
    session.wait(stream, |seen| seen.stdout.contains("24 80"));
    let resize = control::Action::Resize(TtySize { rows: 50, cols: 132 });
    session.host().control(stream, Control { action: Some(resize) }).unwrap();
    session.wait(stream, |seen| seen.stdout.contains("50 132"));
    // SIGRTMAX.
    let signal = control::Action::Signal(64);
    session.host().control(stream, Control { action: Some(signal) }).unwrap();
    assert_eq!(session.finish(stream).status(), Status::Signal(64));
}

#[test]
fn what_all_retain_together_is_bounded() {
    let guest = Guest::start();
    let mut session = guest.connect();
    let mut refused = None;
    for number in 0..40 {
        let exec = Exec { retain_bytes: Some(u32::MAX), ..line(number, "sleep 1000") };
        let stream = session.exec(exec);
        session.wait(stream, |seen| seen.reply.is_some() || seen.end.is_some());
        if number == 32 {
            refused = Some(session.finish(stream).failure().kind());
            break;
        }
    }
    assert_eq!(refused, Some(FailureKind::Exhausted));
    for number in 0..32 {
        let signal = Kind::SignalExec(SignalExec { id: id(number), signal: 9 });
        assert!(matches!(session.ask(signal), Outcome::Done(_)));
    }
}
