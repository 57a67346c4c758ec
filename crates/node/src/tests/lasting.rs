//! Attached execs whose agent dies, or ends, while they run.

use std::time::Duration;

use bytes::Bytes;
use inn_api::exec::Status;
use inn_client::{Client, ExecRequest, LastingEvent, LastingReceiver, LastingSender};
use inn_vmm_sim::Behaviour;
use serde_json::json;

use super::PATIENCE;
use super::agent::TestAgent;
use super::real_guest::RealGuest;

struct Exec {
    to: LastingSender,
    from: LastingReceiver,
    out: Vec<u8>,
    err: Vec<u8>,
    broken: usize,
    resumed: usize,
}

impl Exec {
    async fn start(client: &Client, request: ExecRequest) -> Self {
        let (to, from) = client.lasting_exec("web", &request).await.unwrap();
        Self { to, from, out: Vec::new(), err: Vec::new(), broken: 0, resumed: 0 }
    }

    async fn step(&mut self) -> Option<Status> {
        let event = tokio::time::timeout(PATIENCE, self.from.next()).await.expect("an event");
        match event.unwrap().expect("an end comes first") {
            LastingEvent::Stdout(data) => self.out.extend_from_slice(&data),
            LastingEvent::Stderr(data) => self.err.extend_from_slice(&data),
            LastingEvent::Broken(_) => self.broken += 1,
            LastingEvent::Resumed => self.resumed += 1,
            LastingEvent::Status(status) => return Some(status),
        }
        None
    }

    async fn until(&mut self, enough: impl Fn(&Self) -> bool) {
        while !enough(self) {
            assert_eq!(self.step().await, None);
        }
    }

    async fn end(&mut self) -> Status {
        loop {
            if let Some(status) = self.step().await {
                return status;
            }
        }
    }
}

fn client(agent: &TestAgent) -> Client {
    Client::unix(agent.node.config.paths.api_socket())
}

fn shell(line: &str) -> ExecRequest {
    ExecRequest { shell: Some(line.to_owned()), ..ExecRequest::default() }
}

async fn agent_with(guest: &RealGuest) -> TestAgent {
    let agent = TestAgent::with(&[], guest.behaviour()).await;
    agent.create("web", json!({ "workload": "none" })).await;
    agent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_line_comes_once_over_the_agent_s_deaths() {
    let guest = RealGuest::start();
    let mut agent = agent_with(&guest).await;
    // More than all that buffers it on the way.
    let line = "seq 1 400000; seq 1 1000 >&2; exit 7";
    let mut exec = Exec::start(&client(&agent), shell(line)).await;
    for life in 1..=3 {
        exec.until(|exec| exec.out.len() > life * 300_000).await;
        agent.die().await;
        agent = agent.live_on().await;
        exec.until(|exec| exec.resumed == life).await;
    }
    let status = exec.end().await;
    assert_eq!((status.exit_code(), exec.broken), (Some(7), 3), "{status:?}");
    let lines = |n: u32| (1..=n).map(|n| format!("{n}\n")).collect::<String>().into_bytes();
    assert!(exec.out == lines(400_000), "lines are lost or doubled");
    assert!(exec.err == lines(1000), "lines are lost or doubled");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn input_arrives_once_over_the_agent_s_deaths() {
    let guest = RealGuest::start();
    let mut agent = agent_with(&guest).await;
    let request = ExecRequest { stdin: true, ..shell("cat; echo $?") };
    let mut exec = Exec::start(&client(&agent), request).await;
    let input: Vec<u8> = (0..200_000u32).flat_map(|n| format!("{n}\n").into_bytes()).collect();
    let (to, typed) = (exec.to.clone(), input.clone());
    let typing = tokio::spawn(async move {
        for piece in typed.chunks(10_007) {
            assert!(to.stdin(Bytes::copy_from_slice(piece)).await);
        }
        assert!(to.close_stdin().await);
    });
    for life in 1..=3 {
        exec.until(|exec| exec.out.len() > life * 300_000).await;
        agent.die().await;
        agent = agent.live_on().await;
        exec.until(|exec| exec.resumed == life).await;
    }
    assert_eq!(exec.end().await.exit_code(), Some(0));
    typing.await.unwrap();
    let expected = [input.as_slice(), b"0\n"].concat();
    assert!(exec.out == expected, "{} of {} bytes came back", exec.out.len(), expected.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_that_came_while_no_agent_was_there_is_told() {
    let guest = RealGuest::start();
    let mut agent = agent_with(&guest).await;
    let gate = guest.path("gate");
    let line = format!("echo up; while ! [ -e {gate} ]; do sleep 0.01; done; echo done; exit 3");
    let mut exec = Exec::start(&client(&agent), shell(&line)).await;
    exec.until(|exec| exec.out == b"up\n").await;
    agent.die().await;
    std::fs::write(&gate, "").unwrap();
    let agent = agent.live_on().await;
    assert_eq!(exec.end().await.exit_code(), Some(3));
    assert_eq!(exec.out, b"up\ndone\n");
    // Once it is told, the guest keeps nothing of it.
    drop(exec);
    let client = client(&agent);
    let forgotten = async { while !client.execs("web").await.unwrap().items.is_empty() {} };
    tokio::time::timeout(PATIENCE, forgotten).await.expect("it is forgotten");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_ends_it_as_ever() {
    let guest = RealGuest::start();
    let agent = agent_with(&guest).await;
    let client = client(&agent);
    let mut exec = Exec::start(&client, shell("echo up; sleep 1000")).await;
    exec.until(|exec| exec.out == b"up\n").await;
    assert!(client.execs("web").await.unwrap().items[0].running);
    drop(exec);
    let ended = async { while !client.execs("web").await.unwrap().items.is_empty() {} };
    tokio::time::timeout(PATIENCE, ended).await.expect("it ends with its client");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_guest_ends_it_with_the_agent() {
    // A simulated one, which does not have execs that last.
    let mut agent = TestAgent::with(&[], Behaviour::default()).await;
    agent.create("web", json!({})).await;
    let request = ExecRequest { command: vec!["cat".into()], stdin: true, ..Default::default() };
    let mut exec = Exec::start(&client(&agent), request).await;
    assert!(exec.to.stdin(Bytes::from_static(b"through")).await);
    exec.until(|exec| exec.out == b"through").await;
    agent.die().await;
    // Told by the agent on its way out, or seen by its connection's end.
    match tokio::time::timeout(Duration::from_secs(30), exec.from.next()).await.unwrap() {
        Err(broken) => assert!(broken.to_string().contains("broke off"), "{broken}"),
        Ok(Some(LastingEvent::Status(status))) => {
            assert_eq!(status.reason, "guest-unavailable", "{status:?}");
        }
        Ok(other) => panic!("it goes on: {other:?}"),
    }
}
