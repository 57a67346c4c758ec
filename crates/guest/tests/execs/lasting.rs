//! Execs whose hosts vanish and come again.

use std::time::Duration;

use inn_guest_proto::wire::{
    Control, Exec, FailureKind, ForgetExec, InputTaken, Lasting, TtySize, control, end::Outcome,
    exec_end::Status, reply, request::Kind,
};

use super::host::{Guest, Seen, Session, id, line};

/// Longer than any test.
const GRACE: Duration = Duration::from_secs(600);

fn lasting(number: u8, script: &str) -> Exec {
    let grace_ms = u32::try_from(GRACE.as_millis()).unwrap();
    Exec { lasting: Some(Lasting { grace_ms }), stdin: true, ..line(number, script) }
}

fn taken(session: &mut Session, stream: u32, offset: u64) {
    let action = Some(control::Action::OutputTaken(offset));
    session.host().control(stream, Control { action }).unwrap();
    session.flush();
}

/// Attaches, as soon as the guest has noticed that the host before is gone.
fn attach(session: &mut Session, number: u8, offset: usize) -> (u32, InputTaken) {
    let stream = session.attach(number, offset as u64);
    let seen = session.wait(stream, |seen| seen.reply.is_some());
    (stream, input_taken(seen))
}

/// To its end, saying each time what has come.
fn take_all(session: &mut Session, stream: u32, offset: usize) {
    let mut told = 0;
    loop {
        let seen = session.step(stream);
        let here = seen.stdout.len();
        if seen.end.is_some() {
            return;
        }
        if here > told {
            told = here;
            taken(session, stream, (offset + here) as u64);
        }
    }
}

fn input_taken(seen: &Seen) -> InputTaken {
    match seen.reply.as_ref().and_then(|reply| reply.kind.as_ref()) {
        Some(reply::Kind::ExecStarted(started)) => started.input_taken.unwrap(),
        other => panic!("{other:?}"),
    }
}

fn numbers(count: u32) -> String {
    (1..=count).map(|number| format!("{number}\n")).collect()
}

#[test]
fn output_that_nobody_has_taken_is_there_for_the_next_host() {
    let guest = Guest::start();
    let mut session = guest.connect();
    // More than the guest holds: it waits in the meantime.
    let stream = session.exec(lasting(1, "seq 1 200000; exit 5"));
    let first = session.wait(stream, |seen| seen.stdout.len() > 10_000).stdout.clone();
    drop(session);

    let mut session = guest.connect();
    // What was passed on when the host died, and some that was not.
    let known = first[..first.len() / 2].to_owned();
    let (stream, _) = attach(&mut session, 1, known.len());
    take_all(&mut session, stream, known.len());
    let seen = session.finish(stream);
    assert_eq!(seen.status(), Status::Code(5));
    assert!(known + &seen.stdout == numbers(200_000), "lost or doubled");
    // Its end is told again, until it is forgotten.
    drop(session);
    let mut session = guest.connect();
    let all = numbers(200_000).len();
    let (stream, _) = attach(&mut session, 1, all);
    assert_eq!(session.finish(stream).status(), Status::Code(5));
    let forget = || Kind::ForgetExec(ForgetExec { id: id(1) });
    assert!(matches!(session.ask(forget()), Outcome::Done(_)));
    assert!(session.list().is_empty());
}

#[test]
fn a_process_waits_while_nothing_is_taken() {
    let guest = Guest::start();
    let mut session = guest.connect();
    let mark = guest.path("done");
    let script = format!("head -c 2000000 /dev/zero | tr '\\0' x; : >{mark}");
    let stream = session.exec(lasting(1, &script));
    // All that the guest holds is at hand, and then nothing more.
    session.wait(stream, |seen| seen.stdout.len() > 500_000);
    assert!(!std::path::Path::new(&mark).exists());
    drop(session);
    let mut session = guest.connect();
    let (stream, _) = attach(&mut session, 1, 0);
    take_all(&mut session, stream, 0);
    assert_eq!(session.finish(stream).stdout.len(), 2_000_000);
}

#[test]
fn input_is_neither_lost_nor_doubled() {
    let guest = Guest::start();
    let mut session = guest.connect();
    let gate = guest.path("gate");
    let script =
        format!("head -c 4; while ! [ -e {gate} ]; do sleep 0.01; done; cat; echo; echo $?");
    let stream = session.exec(lasting(1, &script));
    session.type_in(stream, "one ");
    session.wait(stream, |seen| seen.stdout == "one ");
    session.wait(stream, |seen| seen.taken.is_some_and(|taken| taken.bytes == 4));
    // More than a pipe holds: a part is left on its way.
    let much: &'static str = Box::leak("y".repeat(100_000).into_boxed_str());
    for piece in [&much[..50_000], &much[50_000..]] {
        session.type_in(stream, piece);
    }
    session.wait(stream, |seen| seen.taken.is_some_and(|taken| taken.bytes > 40_000));
    drop(session);

    let mut session = guest.connect();
    let (stream, input) = attach(&mut session, 1, 4);
    let had = usize::try_from(input.bytes).unwrap() - 4;
    assert!((40_000..100_000).contains(&had) && !input.ended, "{input:?}");
    std::fs::write(&gate, "").unwrap();
    for piece in much.as_bytes()[had..].chunks(30_000) {
        session.type_in(stream, std::str::from_utf8(piece).unwrap());
    }
    session.host().send_eof(stream, Default::default()).unwrap();
    session.wait(stream, |seen| seen.taken.is_some_and(|taken| taken.ended));
    drop(session);

    let mut session = guest.connect();
    let (stream, input) = attach(&mut session, 1, 4);
    assert_eq!(input, InputTaken { bytes: 100_004, ended: true });
    take_all(&mut session, stream, 4);
    assert!(session.finish(stream).stdout == format!("{much}\n0\n"));
}

#[test]
fn the_end_of_a_terminal_s_input_is_typed_once() {
    let guest = Guest::start();
    let mut session = guest.connect();
    let tty = Some(TtySize { rows: 24, cols: 80 });
    let exec = lasting(1, "stty -echo; echo up; cat; echo between; read more; echo $more");
    let stream = session.exec(Exec { tty, ..exec });
    session.wait(stream, |seen| seen.stdout.contains("up"));
    session.type_in(stream, "a\n");
    session.host().send_eof(stream, Default::default()).unwrap();
    session.wait(stream, |seen| seen.stdout.ends_with("between\r\n"));
    session.wait(stream, |seen| seen.taken == Some(InputTaken { bytes: 2, ended: true }));
    drop(session);
    let mut session = guest.connect();
    let (stream, input) = attach(&mut session, 1, 0);
    assert_eq!(input, InputTaken { bytes: 2, ended: true });
    session.type_in(stream, "more\n");
    let seen = session.finish(stream);
    assert!(seen.stdout.ends_with("a\r\nbetween\r\nmore\r\n"), "{seen:?}");
}

#[test]
fn it_is_its_client_s_and_ends_with_it() {
    let guest = Guest::start();
    let mut session = guest.connect();
    let stream = session.exec(lasting(1, "echo up; sleep 1000"));
    session.wait(stream, |seen| seen.stdout == "up\n");
    let second = session.attach(1, 0);
    assert_eq!(session.finish(second).failure().kind(), FailureKind::AlreadyExists);
    taken(&mut session, stream, 3);
    session.host().cancel(stream);
    while !session.list().is_empty() {}
    let late = session.attach(1, 3);
    assert_eq!(session.finish(late).failure().kind(), FailureKind::NotFound);

    // Nobody takes it up in time.
    let short = Lasting { grace_ms: 50 };
    let pid = guest.path("pid");
    let script = format!("echo $$ >{pid}; echo up; sleep 1000");
    let stream = session.exec(Exec { lasting: Some(short), ..lasting(2, &script) });
    session.wait(stream, |seen| seen.stdout == "up\n");
    drop(session);
    let pid = std::fs::read_to_string(pid).unwrap();
    while super::runs(pid.trim()) {
        std::thread::yield_now();
    }
    let mut session = guest.connect();
    while !session.list().is_empty() {}
}

#[test]
fn an_offset_that_is_gone_is_refused() {
    let guest = Guest::start();
    let mut session = guest.connect();
    let stream = session.exec(lasting(1, "echo up; read line; echo $line"));
    session.wait(stream, |seen| seen.stdout == "up\n");
    taken(&mut session, stream, 2);
    while session.list()[0].output_start < 2 {}
    drop(session);
    let mut session = guest.connect();
    for offset in [1, 4] {
        let refused = session.attach(1, offset);
        assert_eq!(session.finish(refused).failure().kind(), FailureKind::Invalid);
    }
    let (stream, _) = attach(&mut session, 1, 2);
    session.type_in(stream, "more\n");
    assert_eq!(session.finish(stream).stdout, "\nmore\n");
}
