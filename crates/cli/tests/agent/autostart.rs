use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{accept, sockopt::socket_acceptconn};
use rustix::process::{
    Pid, PidfdFlags, PidfdGetfdFlags, Signal, kill_process, pidfd_getfd, pidfd_open,
    test_kill_process,
};

use crate::host::{Host, Said};

#[test]
fn the_first_command_starts_an_agent_that_stays() {
    let host = Host::new();
    assert!(host.ok(&["vm", "list"]).starts_with("ID "));
    let agent = host.agent().unwrap();
    test_kill_process(agent).unwrap();
    assert_eq!(rustix::process::getsid(Some(agent)), Ok(agent), "a session of its own");
    host.ok(&["vm", "list"]);
    assert_eq!(host.agent(), Some(agent));
}

#[test]
fn many_at_once_meet_at_one_agent() {
    let host = Host::new();
    let started: Vec<_> = (0..8).map(|_| host.start(&["vm", "list"])).collect();
    for child in started {
        let said = Said::from(child.wait_with_output().unwrap());
        assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""), "{said:?}");
    }
    let agent = host.agent().unwrap();
    host.ok(&["vm", "list"]);
    assert_eq!(host.agent(), Some(agent));
}

#[test]
fn an_agent_is_not_started_where_that_is_forbidden() {
    let host = Host::new();
    let by_flag = host.output(&["vm", "list", "--no-autostart"]);
    let by_variable =
        Said::from(host.inn(&["vm", "list"]).env("INN_AUTOSTART", "0").output().unwrap());
    for said in [by_flag, by_variable] {
        assert_eq!(said.code, Some(1));
        assert!(said.stderr.contains("start one with `inn agent`"), "{said:?}");
    }
    assert_eq!(host.agent(), None);
}

#[test]
fn an_agent_that_cannot_start_says_why_in_one_line() {
    let host = Host::new();
    std::fs::create_dir(host.data()).unwrap();
    // Something else is where the agent's socket is to be.
    std::fs::write(host.path().join("run"), "not a directory").unwrap();
    let said = host.output(&["vm", "list"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert_eq!(said.stderr.lines().count(), 1, "{said:?}");
    assert!(said.stderr.starts_with("inn: "), "{said:?}");
    assert!(said.stderr.contains(&*host.path().join("run").to_string_lossy()), "{said:?}");
}

#[test]
fn a_dead_agent_s_socket_is_no_obstacle() {
    let host = Host::new();
    host.ok(&["vm", "list"]);
    let first = host.agent().unwrap();
    kill_and_wait(first);
    host.ok(&["vm", "list"]);
    assert_ne!(host.agent(), Some(first));
}

/// As a child has them that an agent started and that is not yet another
/// program: it keeps the socket open beyond the agent's end.
#[test]
fn a_socket_that_outlives_its_agent_is_waited_out() {
    let host = Host::new();
    host.ok(&["vm", "list"]);
    let first = host.agent().unwrap();
    let socket = socket_of(first);
    kill_and_wait(first);
    let command = host.start(&["vm", "list"]);
    // It has found the socket, which nobody serves.
    wait_for_input(&socket);
    let connection = accept(&socket).unwrap();
    drop((connection, socket));
    let said = Said::from(command.wait_with_output().unwrap());
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_ne!(host.agent(), Some(first));
}

/// The socket on which a process listens.
fn socket_of(pid: Pid) -> OwnedFd {
    let process = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    let fds = std::fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero())).unwrap();
    fds.filter_map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().ok())
        .filter_map(|fd| pidfd_getfd(&process, fd, PidfdGetfdFlags::empty()).ok())
        .find(|fd| socket_acceptconn(fd) == Ok(true))
        .unwrap()
}

/// Until then its socket still takes connections, to reset them.
fn kill_and_wait(pid: Pid) {
    let process = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    wait_for_input(&process);
}

/// A process's end, a socket's connection.
fn wait_for_input(fd: &OwnedFd) {
    let limit = Timespec { tv_sec: 60, tv_nsec: 0 };
    assert_eq!(poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&limit)), Ok(1));
}
