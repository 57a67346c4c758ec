use std::collections::BTreeMap;
use std::time::Duration;

use inn_domain::{
    BootPhase, BootTimeline, ChannelChoice, DiskFormat, DiskPin, Down, DownReason, EndKind, Guest,
    ImagePin, IoRates, KernelChoice, MachineView, Motion, Network, Observed, PhasePart,
    PhaseResult, Power, ResourceLimits, RestartPolicy, RunDefaults, RuntimeChoice, StopKind,
    VmSource, VmSpec, WorkloadChoice,
};
use inn_units::{Architecture, Bytes, Digest, Vcpus};

use super::*;
use crate::{
    BackoffRecord, BootRecord, BootRecords, CloudInitRecord, CloudInitState, EndRecord,
    FailureRecord, MachineRecord, ReceiptRecord, WorkloadRecord,
};

pub(crate) fn record(n: u8) -> VmRecord {
    let stop = StopKind::Graceful { grace: Duration::from_secs(30) };
    VmRecord {
        id: VmId::from_bytes([n; 5]),
        spec: VmSpec {
            name: format!("vm-{n}").parse().unwrap(),
            source: VmSource::Image(ImagePin {
                name: "base".into(),
                digest: Digest::from_sha256([n; 32]),
                root_disk: "/images/base.img".into(),
                run: RunDefaults {
                    entrypoint: vec!["/entry".into()],
                    cmd: vec!["serve".into()],
                    env: vec!["A=b".into()],
                    working_dir: Some("/srv".into()),
                    user: Some("web".into()),
                },
            }),
            language: Some("python".into()),
            vcpus: Vcpus::ONE,
            memory: Bytes::mib(256),
            disk: Bytes::gib(2),
            network: Network::None,
            addresses: inn_domain::network::AddressWish {
                ipv4: Some([10, 213, 0, n].into()),
                ipv6: None,
            },
            policy: inn_domain::network::Policy::default(),
            env: BTreeMap::from([("K".to_owned(), "V".to_owned())]),
            command: Some(vec!["sleep".into(), "1".into()]),
            workload: WorkloadChoice::Image,
            labels: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
            runtime: RuntimeChoice::Sim,
            channel: ChannelChoice::Vsock,
            restart: RestartPolicy::OnFailure,
            kernel: Some(KernelChoice { path: Some("/boot/x".into()), args: Some("quiet".into()) }),
            cloud_init: None,
            limits: ResourceLimits { cpu_percent: Some(50), ..ResourceLimits::default() },
            persist: true,
            lease: false,
            stable_addresses: inn_domain::StableAddresses::On,
            from: Some(inn_domain::Origin {
                snapshot: inn_units::SnapshotId::from_bytes([n; 8]),
                name: "golden".to_owned(),
            }),
        },
        desired: Desired::first(true, stop),
        grown_disk: None,
        changed_limits: None,
        changed_policy: None,
        created_at: Timestamp::from_second(1_700_000_000 + i64::from(n)).unwrap(),
        ttl: (n % 2 == 1).then_some(TtlRecord {
            ends_at: Timestamp::from_second(1_800_000_000).unwrap(),
            granted: Duration::from_secs(600),
            action: inn_domain::TtlAction::Stop,
        }),
    }
}

pub(crate) fn seen() -> ObservedRecord {
    let at = Timestamp::from_second(1_700_000_100).unwrap();
    ObservedRecord {
        observed: Observed {
            disks: true,
            machine: Some(MachineView {
                run: Generation(2),
                guest: Guest::Up,
                full: true,
                set_up: true,
                motion: Motion::Behind,
                unconfirmed: false,
            }),
            down: Some(Down { generation: Generation(1), reason: DownReason::Crashed }),
            up_run: Some(Generation(2)),
            ..Observed::default()
        },
        phase: Some(VmPhase::Running),
        backoff: Some(BackoffRecord { failures: 3, not_before: Some(at) }),
        observed_generation: Generation(2),
        machine: Some(MachineRecord {
            runtime: "qemu".into(),
            pid: 42,
            start_ticks: 4_242,
            host_boot_id: "boot".into(),
            kvm: true,
            kernel: None,
            foreign_architecture: None,
        }),
        cloud_init: Some(CloudInitRecord {
            state: CloudInitState::Failed,
            stage: Some("modules-final".into()),
            errors: vec!["it did not".into()],
            output: vec!["a line".into()],
        }),
        failure: Some(FailureRecord {
            step: "launch".into(),
            cause: "because".into(),
            causes: vec!["because".into()],
            next: "try".into(),
            command: Some("inn vm start web".into()),
            console: vec!["last".into()],
            at,
        }),
        workload: Some(WorkloadRecord {
            command: vec!["sleep".into()],
            running: false,
            exit_code: Some(3),
            reason: Some("ended".into()),
            log_base: -17,
            restarts: 2,
        }),
        started_at: Some(at),
        boot: Some(Duration::from_millis(870)),
        last_end: Some(EndRecord {
            how: EndKind::Forced,
            reason: Some("asked to".into()),
            took: Some(Duration::from_millis(12)),
            at,
        }),
        receipt: Some(ReceiptRecord {
            statement: "{}".into(),
            signature: "ab".into(),
            key: "cd".into(),
        }),
        boots: BootRecords {
            last: Some(boot(at, PhaseResult::Done)),
            failed: Some(boot(at, PhaseResult::Failed)),
        },
    }
}

fn boot(at: Timestamp, result: PhaseResult) -> BootRecord {
    let mut timeline = BootTimeline { run: Generation(2), phases: Vec::new() };
    timeline.open(BootPhase::Launch, Duration::ZERO);
    let part =
        |name: &'static str, us| PhasePart { name: name.into(), took: Duration::from_micros(us) };
    timeline.consists_of([part("spawn", 1_250), part("qmp", 17_000)]);
    timeline.close(result, Duration::from_micros(19_301));
    timeline.open(BootPhase::Handshake, Duration::from_micros(19_310));
    BootRecord { at, console_from: 77, emulated: true, timeline }
}

#[tokio::test]
async fn everything_comes_back_after_a_reopen() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (mut first, second) = (record(1), record(2));
    store.insert_vm(first.clone(), Durability::Host).await.unwrap();
    store.insert_vm(second.clone(), Durability::Agent).await.unwrap();
    store.set_observed(first.id, seen()).await.unwrap();
    store.set_observed(first.id, seen()).await.unwrap();
    first.desired.power = Power::Stopped;
    first.desired.stop = StopKind::Force;
    first.desired.generation = Generation(7);
    store.set_desired(first.id, first.desired.clone(), Durability::Host).await.unwrap();
    let io = IoRates { read: Some(Bytes::mib(1)), write_ops: Some(9), ..IoRates::default() };
    let limits = ResourceLimits { memory: Some(Bytes::gib(1)), io, ..ResourceLimits::default() };
    first.changed_limits = Some(limits);
    store.set_limits(first.id, limits, Durability::Host).await.unwrap();
    first.grown_disk = Some(Bytes::gib(5));
    store.set_grown_disk(first.id, Bytes::gib(5), Durability::Host).await.unwrap();
    let key = ProbeKey {
        kernel: Digest::from_sha256([9; 32]),
        vmm: "qemu 7.2".into(),
        host_boot: "one".into(),
    };
    let verdict =
        ProbeRecord { usable: false, reason: "did not boot".into(), took: Duration::from_secs(5) };
    store.set_probe(key.clone(), verdict.clone()).await.unwrap();
    store.add_token(crate::tokens::token(3)).await.unwrap();
    store.set_node_value("id", "n".into()).await.unwrap();

    // Nothing was closed: this is what kill -9 leaves, too.
    let store = Store::open(dir.path()).unwrap();
    let all = store.vms().await.unwrap();
    let expected = ObservedRecord { phase: None, ..seen() };
    assert_eq!(all, [(first.clone(), expected), (second, ObservedRecord::default())]);
    assert_eq!(store.probe(key.clone()).await.unwrap(), Some(verdict.clone()));
    assert_eq!(store.tokens().await.unwrap(), [crate::tokens::token(3)]);
    assert_eq!(store.node_value("id").await.unwrap().as_deref(), Some("n"));
    assert_eq!(store.node_value("none").await.unwrap(), None);

    let later = ProbeKey { host_boot: "two".into(), ..key.clone() };
    assert_eq!(store.probe(later.clone()).await.unwrap(), None);
    assert_eq!(store.best_probe(key.host_boot.clone()).await.unwrap(), Some(verdict.clone()));
    assert_eq!(store.best_probe(later.host_boot.clone()).await.unwrap(), None);
    store.set_probe(later, verdict).await.unwrap();
    assert_eq!(store.probe(key).await.unwrap(), None, "of a host that is no more");
}

#[tokio::test]
async fn what_a_disk_and_its_machine_s_cpus_are_for_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let foreign = Some(Architecture::Aarch64);
    let disk = DiskPin {
        url: "file:///srv/far.img".into(),
        path: "/srv/far.img".into(),
        format: DiskFormat::Raw,
        digest: None,
        cached: false,
        size: Bytes::gib(2),
        architecture: foreign,
    };
    let mut vm = record(1);
    vm.spec.source = VmSource::Disk(disk);
    let mut observed = seen();
    let machine = observed.machine.take().unwrap();
    observed.machine = Some(MachineRecord { foreign_architecture: foreign, ..machine });
    store.insert_vm(vm.clone(), Durability::Host).await.unwrap();
    store.set_observed(vm.id, observed.clone()).await.unwrap();
    drop(store);
    let store = Store::open(dir.path()).unwrap();
    let all = store.vms().await.unwrap();
    assert_eq!(all[0].0, vm);
    assert_eq!(all[0].1.machine, observed.machine);
}

#[tokio::test]
async fn a_name_is_one_vms_until_that_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let first = record(1);
    let twin = VmRecord { id: VmId::from_bytes([9; 5]), ..record(1) };
    store.insert_vm(first.clone(), Durability::Host).await.unwrap();
    let taken = store.insert_vm(twin.clone(), Durability::Host).await;
    assert!(matches!(taken, Err(StoreError::NameTaken)), "{taken:?}");
    store.set_observed(first.id, seen()).await.unwrap();
    store.forget_vm(first.id, Durability::Host).await.unwrap();
    store.set_observed(first.id, seen()).await.unwrap();
    store.insert_vm(twin.clone(), Durability::Host).await.unwrap();
    assert_eq!(store.vms().await.unwrap(), [(twin, ObservedRecord::default())]);
}

#[tokio::test]
async fn a_damaged_database_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    std::fs::write(&path, "no database at all, but long enough to be looked at").unwrap();
    let error = Store::open(dir.path()).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
    assert!(error.to_string().contains("state.db is damaged"), "{error}");

    std::fs::remove_file(&path).unwrap();
    let store = Store::open(dir.path()).unwrap();
    for n in 0..100 {
        store.insert_vm(record(n), Durability::Agent).await.unwrap();
    }
    // Everything into the file itself, then its middle is lost.
    store
        .call("checkpoint", Durability::Agent, |c| {
            c.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        })
        .await
        .unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let (from, to) = (bytes.len() / 4, bytes.len() * 3 / 4);
    bytes[from..to].fill(0xff);
    std::fs::write(&path, bytes).unwrap();
    let error = Store::open(dir.path()).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
}

#[tokio::test]
async fn rows_of_another_making_are_named_not_guessed() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    store.insert_vm(record(1), Durability::Agent).await.unwrap();
    store
        .call("break it", Durability::Agent, |c| c.execute("UPDATE vms SET spec = '{}'", []))
        .await
        .unwrap();
    let error = store.vms().await.unwrap_err().to_string();
    assert!(error.contains("0101010101"), "{error}");
}

#[test]
fn the_migrations_are_sound() {
    crate::connection::check_migrations();
}
