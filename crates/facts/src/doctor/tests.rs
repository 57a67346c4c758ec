use inn_api::{
    CgroupFacts, CpuFacts, Distribution, Family, Gpu, KernelFacts, KernelPart, KernelPartState,
    KvmFacts, MemoryFacts, Passthrough, Tool, Virtualisation,
};

use super::*;

fn runtime(name: &str, standing: Result<String, String>) -> RuntimeSight {
    RuntimeSight { name: name.into(), is_chosen: true, standing }
}

/// Of a host on which all is well, for an agent that is root.
fn well() -> (HostFacts, Sight) {
    let parts = ["tun", "bridge", "nf_tables", "wireguard", "vhost_vsock"];
    let tools = ["qemu-img", "mkfs.ext4", "buildah", "vhost-device-vsock"];
    let facts = HostFacts {
        cpu: CpuFacts { architecture: "x86_64".into(), ..CpuFacts::default() },
        virtualisation: Virtualisation { extension: Some("vmx".into()), ..Default::default() },
        kvm: KvmFacts { present: true, probed: Some(true), reason: "booted in 240 ms".into() },
        memory: MemoryFacts { available_bytes: 8 << 30, ..MemoryFacts::default() },
        kernel: KernelFacts { loads_modules: true, ..KernelFacts::default() },
        distribution: Distribution { family: Family::Debian, ..Distribution::default() },
        cgroups: CgroupFacts {
            layout: "v2".into(),
            controllers: ["cpu", "io", "memory", "pids"].map(str::to_owned).into(),
        },
        kernel_parts: parts
            .map(|name| KernelPart { name: name.into(), state: KernelPartState::Here })
            .into(),
        tools: tools
            .map(|name| Tool { name: name.into(), path: Some(format!("/usr/bin/{name}")) })
            .into(),
        ..HostFacts::default()
    };
    let sight = Sight {
        is_root: true,
        user: "root".into(),
        by_agent: true,
        runtimes: vec![runtime("qemu", Ok("QEMU 9.2".into()))],
        kernel: Some(Ok("6.12".into())),
        data_dir: Some(DirectorySight {
            path: "/var/lib/innkeeper".into(),
            mode: Some(0o700),
            writable: true,
            available: Some(inn_units::Bytes::gib(100)),
        }),
        port: Some(PortSight { address: "127.0.0.1:5100".into(), taken: false }),
        firewalls: Some(Vec::new()),
        has_group: true,
    };
    (facts, sight)
}

fn findings(change: impl FnOnce(&mut HostFacts, &mut Sight)) -> (bool, Vec<Finding>) {
    let (mut facts, mut sight) = well();
    change(&mut facts, &mut sight);
    let told = examine(Timestamp::UNIX_EPOCH, &facts, &sight);
    (told.healthy, told.findings)
}

/// The one that is not well, of one thing that is not.
fn only(change: impl FnOnce(&mut HostFacts, &mut Sight)) -> (bool, Finding) {
    let (healthy, all) = findings(change);
    let mut unwell: Vec<Finding> =
        all.into_iter().filter(|finding| finding.state != FindingState::Ok).collect();
    assert_eq!(unwell.len(), 1, "{unwell:#?}");
    (healthy, unwell.remove(0))
}

fn set_part(facts: &mut HostFacts, name: &str, state: KernelPartState) {
    facts.kernel_parts.iter_mut().find(|part| part.name == name).unwrap().state = state;
}

#[test]
fn where_all_is_well_nothing_is_to_be_done() {
    let (healthy, all) = findings(|_, _| {});
    assert!(healthy);
    for finding in all {
        assert_eq!(finding.state, FindingState::Ok, "{finding:?}");
        let told = [finding.command, finding.instruction, finding.consequence];
        assert_eq!(told, [None, None, None], "{}", finding.check);
    }
}

#[test]
fn whatever_is_not_well_says_what_follows() {
    let (facts, _) = well();
    let (_, all) = findings(|facts, sight| {
        (*facts, *sight) = (HostFacts::default(), Sight::default());
        sight.data_dir = Some(DirectorySight {
            path: "/x".into(),
            mode: None,
            writable: false,
            available: Some(inn_units::Bytes(1)),
        });
    });
    let mut names: Vec<&str> = all.iter().map(|finding| finding.check.as_str()).collect();
    for finding in &all {
        let is_ok = finding.state == FindingState::Ok;
        assert_eq!(finding.consequence.is_none(), is_ok, "{finding:?}");
    }
    names.sort_unstable();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count, "each has a name of its own");
    assert_ne!(facts, HostFacts::default());
}

#[test]
fn without_a_runtime_nothing_runs_and_the_package_is_the_distribution_s() {
    for (family, command) in [
        (Family::Debian, Some("apt-get install qemu-system-x86")),
        (Family::Fedora, Some("dnf install qemu-kvm")),
        (Family::Alpine, Some("apk add qemu-system-x86_64")),
        (Family::Arch, Some("pacman -S qemu-system-x86")),
        (Family::Other, None::<&str>),
    ] {
        let (healthy, all) = findings(|facts, sight| {
            facts.distribution.family = family;
            sight.runtimes = vec![runtime("qemu", Err("it is not installed".into()))];
        });
        assert!(!healthy);
        for check in ["runtime", "runtime.qemu"] {
            let finding = all.iter().find(|finding| finding.check == check).unwrap();
            assert_eq!(finding.command.as_deref(), command, "{finding:?}");
            assert_eq!(finding.instruction.is_none(), command.is_some(), "{finding:?}");
        }
    }
    // One that does is enough.
    let (healthy, finding) =
        only(|_, sight| sight.runtimes.push(runtime("krun", Err("inn-krun is not here".into()))));
    assert!(healthy && finding.found == "inn-krun is not here", "{finding:?}");
}

#[test]
fn a_kernel_for_vms_is_fetched_where_that_can_be() {
    for (family, command) in
        [(Family::Debian, "inn image kernel fetch"), (Family::Fedora, "dnf install kernel-core")]
    {
        let (_, finding) = only(|facts, sight| {
            facts.distribution.family = family;
            sight.kernel = Some(Err("there is none".into()));
        });
        assert_eq!((&*finding.check, finding.command.as_deref()), ("kernel", Some(command)));
    }
}

#[test]
fn kvm_is_believed_when_a_guest_has_booted() {
    let (healthy, finding) = only(|facts, _| {
        facts.kvm.probed = Some(false);
        facts.kvm.reason = "did not boot within 10s".into();
    });
    assert!(healthy, "machines are emulated then");
    assert_eq!((finding.check.as_str(), finding.state), ("kvm", FindingState::Degraded));
    assert!(finding.consequence.unwrap().contains("emulated"));

    let (_, finding) = only(|facts, sight| {
        let reason = "/dev/kvm cannot be opened: Permission denied (os error 13)".into();
        facts.kvm = KvmFacts { present: true, probed: None, reason };
        sight.user = "ann".into();
    });
    assert_eq!(finding.command.as_deref(), Some("usermod -aG kvm ann"));

    let none = |facts: &mut HostFacts| facts.kvm = KvmFacts::default();
    let (_, finding) = only(|facts, _| none(facts));
    assert_eq!(finding.fix, Some(Fix::LoadModule { module: "kvm_intel".into() }));
    let (_, finding) = only(|facts, _| {
        none(facts);
        facts.virtualisation.extension = None;
    });
    assert_eq!((finding.state, finding.fix), (FindingState::Missing, None));
    assert!(finding.instruction.unwrap().contains("firmware"));
    let (_, finding) = only(|facts, _| {
        none(facts);
        facts.virtualisation = Virtualisation { in_vm: true, ..Virtualisation::default() };
    });
    assert!(finding.instruction.unwrap().contains("nested=1"));
}

#[test]
fn a_module_is_loaded_where_there_is_one_and_not_asked_for_elsewhere() {
    let (healthy, finding) =
        only(|facts, _| set_part(facts, "nf_tables", KernelPartState::Loadable));
    assert!(healthy);
    assert_eq!(finding.command.as_deref(), Some("modprobe nf_tables"));
    assert_eq!(finding.fix, Some(Fix::LoadModule { module: "nf_tables".into() }));

    let (_, finding) = only(|facts, _| set_part(facts, "wireguard", KernelPartState::Missing));
    assert_eq!((finding.state, finding.command), (FindingState::Missing, None));
    assert!(finding.instruction.unwrap().contains("CONFIG_WIREGUARD"));

    // Without root there are no bridges, whatever the kernel has.
    let (_, finding) = only(|facts, sight| {
        sight.is_root = false;
        set_part(facts, "bridge", KernelPartState::Missing);
    });
    assert_eq!(finding.check, "network.root");
}

#[test]
fn the_agent_s_place_is_looked_at() {
    let dir = |change: fn(&mut DirectorySight)| {
        only(move |_, sight| change(sight.data_dir.as_mut().unwrap()))
    };
    let (healthy, finding) = dir(|dir| dir.mode = Some(0o755));
    assert!(!healthy, "{finding:?}");
    assert_eq!(finding.command.as_deref(), Some("chmod o-rwx /var/lib/innkeeper"));
    let (healthy, finding) = dir(|dir| dir.writable = false);
    assert!(!healthy && finding.state == FindingState::Missing, "{finding:?}");
    let (healthy, finding) = dir(|dir| dir.available = Some(inn_units::Bytes::mib(500)));
    assert!(!healthy && finding.check == "disk", "{finding:?}");
    // An agent makes its own.
    let (healthy, all) = findings(|_, sight| sight.data_dir.as_mut().unwrap().mode = None);
    assert!(healthy, "{all:?}");

    let (healthy, finding) = only(|_, sight| sight.port.as_mut().unwrap().taken = true);
    assert!(healthy && finding.command.unwrap().contains(":5100"));
    let (_, finding) = only(|_, sight| sight.has_group = false);
    assert_eq!(finding.command.as_deref(), Some("groupadd --system innkeeper"));
}

#[test]
fn what_makes_a_host_slower_or_looser_is_told() {
    let lacks_memory = |facts: &mut HostFacts| facts.cgroups.controllers.retain(|c| c != "memory");
    let (_, finding) = only(|facts, _| lacks_memory(facts));
    assert!(finding.found.contains("without memory"), "{finding:?}");
    assert!(finding.command.unwrap().contains("cgroup_enable=memory"));
    let (_, finding) = only(|facts, _| {
        facts.cgroups = CgroupFacts { layout: "none".into(), ..Default::default() }
    });
    assert_eq!(finding.state, FindingState::Missing);
    let (_, finding) = only(|facts, _| facts.clock.synchronised = Some(false));
    assert_eq!(finding.command.as_deref(), Some("apt-get install systemd-timesyncd"));
    let (_, finding) = only(|facts, _| facts.clock.source = Some("hpet".into()));
    assert_eq!(finding.check, "time.source");
    assert!(finding.command.unwrap().contains("dmesg"));
    let (_, finding) = only(|facts, _| {
        facts.clock.source = Some("hpet".into());
        facts.clock.sources = vec!["tsc".into(), "hpet".into()];
    });
    assert!(finding.command.unwrap().starts_with("echo tsc > /sys/"));
    let (_, finding) = only(|facts, _| facts.memory.transparent_huge_pages = Some("never".into()));
    assert!(finding.command.unwrap().contains("transparent_hugepage"));
    let (_, finding) = only(|facts, _| facts.memory.available_bytes = 100 << 20);
    assert_eq!(finding.check, "memory");
}

#[test]
fn a_gpu_asks_for_its_driver_and_an_iommu() {
    let gpu = Gpu {
        pci_address: "0000:01:00.0".into(),
        pci_id: "10de:2684".into(),
        vendor: "NVIDIA Corporation".into(),
        name: "a GPU".into(),
        driver: None,
        driver_version: None,
        memory_bytes: None,
        uuid: None,
        mig: None,
        numa_node: None,
        iommu_group: None,
        passthrough: Passthrough { possible: false, reason: "it is in no IOMMU group".into() },
    };
    let (healthy, all) = findings(|facts, _| {
        facts.gpus = vec![gpu];
        facts.cpu.vendor = "GenuineIntel".into();
    });
    assert!(healthy);
    let of = |check: &str| all.iter().find(|finding| finding.check == check).unwrap();
    assert_eq!(of("gpu.nvml").state, FindingState::Degraded);
    assert!(of("gpu.passthrough").command.as_ref().unwrap().contains("intel_iommu=on"));
}

#[test]
fn an_option_of_the_kernel_goes_where_the_host_has_its_own() {
    let option = |change: &dyn Fn(&mut HostFacts)| {
        let (mut facts, _) = well();
        change(&mut facts);
        boot_options::kernel_option(&facts, "quiet").of(ok("x", "y"))
    };
    let family = |family| option(&|facts: &mut HostFacts| facts.distribution.family = family);
    for (of, words) in [
        (Family::Debian, "/etc/default/grub && update-grub"),
        (Family::Fedora, "grubby --update-kernel=ALL --args=quiet"),
        (Family::Suse, "grub2-mkconfig"),
        (Family::Arch, "grub-mkconfig"),
        (Family::Alpine, "update-extlinux"),
    ] {
        let told = family(of);
        assert!(told.command.as_ref().is_some_and(|told| told.contains(words)), "{told:?}");
        assert_eq!(told.instruction.as_deref(), Some("reboot"));
    }
    assert!(family(Family::Other).instruction.unwrap().contains("add quiet"));
    let contained = option(&|facts| facts.virtualisation.container = Some("docker".into()));
    assert!(contained.command.is_none() && contained.instruction.unwrap().contains("host"));
}
