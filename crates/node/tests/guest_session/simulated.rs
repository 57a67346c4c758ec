//! The simulated guest is a guest like any other to a session.

use std::collections::BTreeSet;
use std::time::Duration;

use inn_node::guest::{
    ExecEvent, ExecSpec, ExecStatus, GuestError, GuestResume, GuestSession, GuestSetup, Left,
    NetworkSetup, RefusedKind, RestartPolicy, Supervision,
};
use inn_units::{Bytes, Vcpus, VmId};
use inn_vmm::{Accel, Boot, ChannelKind, Console, Lifetime, Machine, MachineConfig, Runtime};
use inn_vmm_sim::{Behaviour, SimMachine, SimRuntime};
use tempfile::TempDir;

use crate::guest::{collect, id, patiently};

async fn launch(runtime: &SimRuntime, dir: &TempDir, number: u8) -> (SimMachine, GuestSession) {
    let dir = dir.path().join(number.to_string());
    let config = MachineConfig {
        id: VmId::from_bytes([number; VmId::BYTES]),
        vcpus: Vcpus::ONE,
        memory: Bytes::mib(128),
        accel: Accel::Tcg,
        boot: Boot::Firmware,
        channel: ChannelKind::Serial,
        from: None,
        disks: Vec::new(),
        nic: None,
        screen: false,
        generation_id: false,
        reboots_within: true,
        console: Console { log: dir.join("console.log"), log_limit: Bytes::mib(1) },
        run_dir: dir.join("run"),
        lifetime: Lifetime::Leased,
        isolation: inn_vmm::Isolation::default(),
    };
    std::fs::create_dir_all(&config.run_dir).unwrap();
    let machine = runtime.launch(&config).await.unwrap().machine;
    let stream = machine.connect_channel().await.unwrap();
    let session = patiently(GuestSession::establish(stream)).await.unwrap();
    (machine, session)
}

#[tokio::test]
async fn a_hundred_machines_are_busy_each_in_its_own_way() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), SimRuntime::new(|_| Behaviour::default()));
    let (mut machines, mut cpu, mut names) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    for number in 0..100 {
        let (machine, session) = launch(&runtime, &dir, number).await;
        let reading = patiently(session.telemetry()).await.unwrap();
        assert!(reading.memory_available < reading.memory_total && !reading.mounts.is_empty());
        assert!(!reading.interfaces.is_empty() && reading.pressure.is_some());
        cpu.insert(reading.cpu_permille);
        names.insert(reading.hostname);
        machines.push((machine, session));
    }
    assert!(cpu.len() > 20 && names.len() == 100, "{cpu:?} {names:?}");
}

#[tokio::test]
async fn an_order_to_become_itself_goes_with_the_opening() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), SimRuntime::new(|_| Behaviour::default()));
    let (machine, before) = launch(&runtime, &dir, 1).await;
    before.close().await;
    let resume = GuestResume {
        entropy: vec![7; 64],
        mac: None,
        setup: GuestSetup { hostname: "another".into(), ..GuestSetup::default() },
        hooks: Duration::ZERO,
    };
    let stream = machine.connect_channel().await.unwrap();
    let opened = patiently(GuestSession::establish_resuming(stream, Left::Anyhow, resume)).await;
    let (session, resuming) = opened.unwrap();
    let report = patiently(resuming.report()).await.unwrap();
    assert_eq!(report.failure(), None, "{report:?}");
    assert!(!report.steps.is_empty());
    // Streams that follow have numbers of their own.
    let told = patiently(session.telemetry()).await.unwrap();
    assert_eq!(told.hostname, "another");
    assert!(patiently(session.list_execs()).await.unwrap().is_empty());
}

#[tokio::test]
async fn it_supervises_and_can_be_changed() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), SimRuntime::new(|_| Behaviour::default()));
    let (_machine, session) = launch(&runtime, &dir, 1).await;
    session.set_hostname("renamed").await.unwrap();
    session.set_clock(std::time::UNIX_EPOCH + Duration::from_secs(1000)).await.unwrap();
    let frozen = session.freeze(Duration::from_secs(60), vec![]).await.unwrap();
    assert_eq!(frozen.mounts, ["/"]);
    let mut watch = session.watch_telemetry(Duration::from_millis(100)).await.unwrap();
    let reading = patiently(watch.next()).await.unwrap().unwrap();
    assert_eq!((reading.hostname.as_str(), reading.frozen), ("renamed", true));
    assert!((1000..1100).contains(&reading.clock.as_secs()));
    assert!(!session.thaw().await.unwrap().expired);
    let reading = patiently(watch.next()).await.unwrap().unwrap();
    assert!(!reading.frozen);
    match session.apply_network(NetworkSetup::default(), Duration::from_secs(1)).await {
        Err(GuestError::Refused { kind: RefusedKind::Unsupported, what, .. }) => {
            assert!(what.contains("simulated"), "{what}");
        }
        other => panic!("{other:?}"),
    }

    let supervision = Supervision {
        policy: RestartPolicy::Always,
        min_delay: Duration::from_millis(10),
        max_delay: Duration::from_millis(10),
    };
    let spec = ExecSpec {
        command_line: Some("echo again".to_owned()),
        supervision: Some(supervision),
        retain: Some(1000),
        ..ExecSpec::new(id(1), vec![])
    };
    let mut exec = session.exec(spec).await.unwrap();
    loop {
        if let Some(ExecEvent::RunStarted { restarts: 3, .. }) =
            patiently(exec.next()).await.unwrap()
        {
            break;
        }
    }
    session.signal(id(1), 15).await.unwrap();
    let (said, end) = collect(&mut exec).await.unwrap();
    assert_eq!(end.status, ExecStatus::Code(0));
    assert!(String::from_utf8(said.stdout).unwrap().starts_with("again\n"));
    let listed = session.list_execs().await.unwrap().remove(0);
    assert!(listed.restarts >= 3 && listed.ended.is_some() && listed.started.is_some());
    assert_eq!(listed.argv, ["echo again"]);
}
