use std::collections::BTreeMap;
use std::time::Duration;

use inn_units::{Architecture, Digest};

use super::*;
use crate::{
    ChannelChoice, DiskFormat, DiskPin, ImagePin, KernelChoice, Network, RunDefaults, VmSource,
};

pub(crate) fn spec() -> VmSpec {
    VmSpec {
        name: "web-1".parse().unwrap(),
        source: VmSource::Image(ImagePin {
            name: "base".into(),
            digest: Digest::from_sha256([7; 32]),
            root_disk: "/images/base.img".into(),
            run: RunDefaults {
                entrypoint: vec!["/entry".into()],
                cmd: vec!["serve".into()],
                env: vec!["PATH=/bin".into(), "A=image".into()],
                ..RunDefaults::default()
            },
        }),
        language: None,
        vcpus: Vcpus::ONE,
        memory: Bytes::mib(256),
        disk: Bytes::gib(2),
        network: Network::AllowAll,
        addresses: crate::network::AddressWish::default(),
        policy: crate::network::Policy::default(),
        env: BTreeMap::new(),
        command: None,
        workload: WorkloadChoice::Image,
        labels: BTreeMap::new(),
        runtime: RuntimeChoice::Auto,
        channel: ChannelChoice::Auto,
        restart: RestartPolicy::No,
        kernel: None,
        cloud_init: None,
        limits: crate::ResourceLimits::default(),
        persist: false,
        lease: false,
        stable_addresses: crate::StableAddresses::Auto,
        from: None,
    }
}

fn limits() -> Limits {
    Limits {
        min_memory: Bytes::mib(64),
        max_memory: Bytes::gib(8),
        max_vcpus: Vcpus::new(4).unwrap(),
        max_disk: Bytes::gib(100),
        sim: false,
    }
}

fn refused(change: impl FnOnce(&mut VmSpec)) -> String {
    let mut spec = spec();
    change(&mut spec);
    admit_create(&spec, &limits(), false).unwrap_err().to_string()
}

#[test]
fn each_refusal_names_the_thing_and_the_way_out() {
    admit_create(&spec(), &limits(), false).unwrap();
    let of = |text: String, words: &[&str]| {
        for word in words {
            assert!(text.contains(word), "{text}: {word}");
        }
    };
    of(refused(|s| s.memory = Bytes::mib(32)), &["32MiB", "64MiB"]);
    of(refused(|s| s.memory = Bytes::gib(9)), &["9GiB", "8GiB"]);
    of(refused(|s| s.vcpus = Vcpus::new(5).unwrap()), &["5", "4"]);
    of(refused(|s| s.disk = Bytes::mib(1)), &["1MiB", "16MiB"]);
    of(refused(|s| s.disk = Bytes::gib(200)), &["200GiB", "100GiB"]);
    of(refused(|s| s.runtime = RuntimeChoice::Sim), &["sim.enabled"]);
    of(
        refused(|s| {
            s.lease = true;
            s.restart = RestartPolicy::Always;
        }),
        &["lease"],
    );
    of(
        refused(|s| {
            s.workload = WorkloadChoice::None;
            s.command = Some(vec!["true".into()]);
        }),
        &["workload"],
    );
    of(refused(|s| drop(s.env.insert("A=B".into(), String::new()))), &["A=B"]);
    of(refused(|s| s.command = Some(vec!["a\0b".into()])), &["zero byte"]);
    of(
        refused(|s| s.kernel = Some(KernelChoice { path: Some("vmlinux".into()), args: None })),
        &["vmlinux", "absolute"],
    );
    let taken = admit_create(&spec(), &limits(), true).unwrap_err().to_string();
    of(taken, &["web-1", "in use"]);
}

#[test]
fn a_running_vm_is_started_without_a_new_generation() {
    let stop = StopKind::Graceful { grace: Duration::from_secs(1) };
    let desired = Desired::first(true, stop);
    assert_eq!(decide(&desired, &Observed::default(), Request::Start), Ok(Change::Nothing));
}

#[test]
fn impatience_turns_a_graceful_stop_into_a_hard_one() {
    let stop = StopKind::Graceful { grace: Duration::from_secs(1) };
    let desired = Desired::first(false, stop);
    let observed = Observed::default();
    assert_eq!(decide(&desired, &observed, Request::Stop(stop)), Ok(Change::Nothing));
    let Ok(Change::To(hard)) = decide(&desired, &observed, Request::Stop(StopKind::Force)) else {
        panic!("a change");
    };
    assert_eq!(hard.stop, StopKind::Force);
}

#[test]
fn nothing_brings_back_what_is_being_deleted() {
    let removal = Removal::default();
    let desired = Desired { power: Power::Deleted, ..Desired::first(true, StopKind::Force) };
    let observed = Observed::default();
    for request in
        [Request::Start, Request::Stop(StopKind::Force), Request::Restart(StopKind::Force)]
    {
        assert_eq!(decide(&desired, &observed, request), Err(ChangeDeniedReason::BeingDeleted));
    }
    let delete = Request::Delete(StopKind::Force, removal);
    assert_eq!(decide(&desired, &observed, delete), Ok(Change::Nothing));
}

#[test]
fn a_command_replaces_cmd_and_leaves_the_entrypoint() {
    let mut spec = spec();
    assert_eq!(spec.workload_argv(), ["/entry", "serve"]);
    spec.command = Some(vec!["other".into()]);
    assert_eq!(spec.workload_argv(), ["/entry", "other"]);
    spec.workload = WorkloadChoice::None;
    assert!(spec.workload_argv().is_empty());
    assert_eq!(spec.argv_of(Some(&["x".to_owned()])), ["/entry", "x"]);
}

#[test]
fn the_last_value_of_a_variable_counts() {
    let mut spec = spec();
    spec.env.insert("A".into(), "vm".into());
    assert_eq!(
        spec.environment(&["B=exec".into(), "A=exec=1".into()]),
        ["PATH=/bin", "A=exec=1", "B=exec"]
    );
}

fn full() -> VmSpec {
    let disk = DiskPin {
        url: "file:///srv/debian.qcow2".into(),
        path: "/srv/debian.qcow2".into(),
        format: DiskFormat::Qcow2,
        digest: None,
        cached: false,
        size: Bytes::gib(2),
        architecture: None,
    };
    VmSpec { source: VmSource::Disk(disk), workload: WorkloadChoice::None, ..spec() }
}

#[test]
fn a_disk_image_needs_room_and_brings_its_own_kernel() {
    admit_create(&full(), &limits(), false).unwrap();
    assert!(full().workload_argv().is_empty());
    let small = VmSpec { disk: Bytes::gib(1), ..full() };
    let why = admit_create(&small, &limits(), false).unwrap_err().to_string();
    assert!(why.contains("1GiB") && why.contains("2GiB"), "{why}");
    let kernel = Some(KernelChoice { path: None, args: Some("quiet".into()) });
    let why = admit_create(&VmSpec { kernel, ..full() }, &limits(), false).unwrap_err();
    assert_eq!(why, CreateDeniedReason::KernelOfDisk);
    let command = Some(vec!["top".to_owned()]);
    let workload = WorkloadChoice::Image;
    let with_command = VmSpec { command, workload, persist: true, ..full() };
    admit_create(&with_command, &limits(), false).unwrap();
    assert_eq!(with_command.workload_argv(), ["top"]);
}

#[test]
fn what_a_runtime_cannot_do_is_refused_by_its_name() {
    let offer = RuntimeOffer {
        name: "tiny",
        architecture: Architecture::OURS,
        firmware: false,
        serial: true,
        vsock: false,
        user_network: true,
        foreign_networks: false,
    };
    admit_runtime(&spec(), offer, true).unwrap();
    let why = admit_runtime(&full(), offer, true).unwrap_err().to_string();
    assert!(why.contains("tiny") && why.contains("disk images"), "{why}");
    let vsock = VmSpec { channel: ChannelChoice::Vsock, ..spec() };
    let why = admit_runtime(&vsock, offer, true).unwrap_err().to_string();
    assert!(why.contains("tiny") && why.contains("vsock"), "{why}");
    let other = RuntimeOffer { serial: false, vsock: true, firmware: true, ..offer };
    admit_runtime(&VmSpec { channel: ChannelChoice::Auto, ..full() }, other, true).unwrap();
    admit_runtime(&vsock, other, true).unwrap();
    let serial = VmSpec { channel: ChannelChoice::Serial, ..spec() };
    assert!(admit_runtime(&serial, other, true).is_err());
    let bridged = RuntimeOffer { user_network: false, ..offer };
    let why = admit_runtime(&spec(), bridged, true).unwrap_err().to_string();
    assert!(why.contains("tiny") && why.contains("--network none"), "{why}");
    admit_runtime(&spec(), bridged, false).unwrap();
    admit_runtime(&VmSpec { network: Network::None, ..spec() }, bridged, true).unwrap();
}

#[test]
fn what_a_guest_s_cpu_cannot_run_is_refused_by_its_name() {
    let [ours, theirs] = match Architecture::OURS {
        Architecture::X86_64 => [Architecture::X86_64, Architecture::Aarch64],
        Architecture::Aarch64 => [Architecture::Aarch64, Architecture::X86_64],
    };
    let near = RuntimeOffer {
        name: "near",
        architecture: ours,
        firmware: true,
        serial: true,
        vsock: false,
        user_network: true,
        foreign_networks: false,
    };
    let far = RuntimeOffer { name: "far", architecture: theirs, ..near };
    let of = |architecture| {
        let VmSpec { source: VmSource::Disk(disk), .. } = full() else { panic!("a disk") };
        VmSpec { source: VmSource::Disk(DiskPin { architecture, ..disk }), ..full() }
    };
    let why = |spec: &VmSpec, offer| admit_runtime(spec, offer, true).unwrap_err().to_string();
    let refused = why(&spec(), far);
    assert!(refused.contains("far") && refused.contains("neither a kernel"), "{refused}");
    for offer in [near, far] {
        admit_runtime(&of(None), offer, true).unwrap();
        admit_runtime(&of(Some(offer.architecture)), offer, true).unwrap();
    }
    let refused = why(&of(Some(theirs)), near);
    let words = format!("for {theirs}, and the runtime near has guests of {ours}");
    assert!(refused.contains(&words), "{refused}");
    assert!(admit_runtime(&of(Some(ours)), far, true).is_err());
    let command = Some(vec!["top".to_owned()]);
    let refused = why(&VmSpec { command, ..of(None) }, far);
    assert!(refused.contains("no guest agent to run a command"), "{refused}");
}

#[test]
fn a_disk_grows_and_never_shrinks() {
    let stop = StopKind::Force;
    let (desired, now) = (Desired::first(true, stop), Bytes::gib(2));
    let admit = |given| admit_growth(&desired, &limits(), now, given);
    assert_eq!(admit(now), Ok(()), "asking twice is asking once");
    assert_eq!(admit(Bytes::gib(3)), Ok(()));
    assert_eq!(admit(Bytes::gib(1)), Err(GrowDeniedReason::Shrinks { now }));
    assert!(matches!(admit(Bytes::gib(200)), Err(GrowDeniedReason::TooLarge { .. })));
    let odd = Bytes(Bytes::gib(3).get() + 1);
    assert_eq!(admit(odd), Err(GrowDeniedReason::NoWholeSectors { given: odd }));
    let gone = Desired { power: Power::Deleted, ..desired.clone() };
    let denied = admit_growth(&gone, &limits(), now, Bytes::gib(3));
    assert_eq!(denied, Err(GrowDeniedReason::BeingDeleted));
}
