use inn_units::{Bytes, Vcpus};
use inn_vmm::{ChannelKind, Console, Disk, Isolation, KernelBoot, Nic};

use super::*;

fn config() -> MachineConfig {
    let disk = |path: &str, read_only, serial: &str| Disk {
        source: DiskSource::Raw(path.into()),
        read_only,
        serial: serial.to_owned(),
    };
    MachineConfig {
        id: VmId::from_bytes([0xab; 5]),
        vcpus: Vcpus::ONE,
        memory: Bytes::mib(128),
        accel: Accel::Tcg,
        boot: Boot::Kernel(KernelBoot {
            kernel: "/k/vmlinuz".into(),
            initramfs: Some("/k/init.cpio".into()),
            cmdline: "inn.x=\"a & b\" y='<'".to_owned(),
        }),
        from: None,
        disks: vec![disk("/d/R&D's \"<root>\"", true, "inn-root"), disk("/d/rw", false, "inn-rw")],
        nic: None,
        screen: false,
        generation_id: false,
        reboots_within: true,
        console: Console { log: "/l/console.log".into(), log_limit: Bytes::mib(1) },
        channel: ChannelKind::Serial,
        run_dir: "/run/R&D".into(),
        lifetime: Lifetime::Detached,
        isolation: Isolation::default(),
    }
}

fn written(config: &MachineConfig) -> String {
    let owner = Some(Owner { uid: 0, gid: 7 });
    let password = config.screen.then_some("00112233");
    definition(config, &Settings::default(), owner, password).unwrap()
}

#[test]
fn a_kernel_with_two_disks() {
    insta::assert_snapshot!(written(&config()));
}

#[test]
fn a_disk_by_firmware_with_a_screen_and_a_card() {
    let nic = Some(Nic { mac: [2, 0, 0, 0, 0, 1], backend: NicBackend::User });
    let lifetime = Lifetime::Leased;
    let config = MachineConfig { boot: Boot::Firmware, screen: true, nic, lifetime, ..config() };
    insta::assert_snapshot!(written(&config));
}

#[test]
fn a_disk_of_another_architecture() {
    let settings = Settings { architecture: Architecture::Aarch64, ..Settings::default() };
    let nic = Some(Nic { mac: [2, 0, 0, 0, 0, 1], backend: NicBackend::User });
    let run_dir = "/run/R&D, 1".into();
    let config = MachineConfig { boot: Boot::Firmware, screen: true, nic, run_dir, ..config() };
    let owner = Some(Owner { uid: 0, gid: 7 });
    insta::assert_snapshot!(definition(&config, &settings, owner, Some("00112233")).unwrap());
}

#[test]
fn a_card_is_on_the_network_that_is_named() {
    let on = |network: &str| {
        let backend = NicBackend::Foreign(network.parse().unwrap());
        let nic = Some(Nic { mac: [2, 0, 0, 0, 0, 1], backend });
        let xml = written(&MachineConfig { nic, ..config() });
        xml.lines().find(|line| line.starts_with("<interface")).unwrap().to_owned()
    };
    let begins = |network, wanted: &str| {
        let card = on(network);
        assert!(card.starts_with(&format!("{wanted}<mac address='02:00:00:00:00:01'/>")), "{card}");
    };
    begins("libvirt:a'b", "<interface type='network'><source network='a&apos;b'/>");
    begins("bridge:br0", "<interface type='bridge'><source bridge='br0'/>");
}

#[test]
fn nothing_that_is_told_ends_its_place() {
    let xml = written(&config());
    assert!(xml.contains("file='/d/R&amp;D&apos;s &quot;&lt;root&gt;&quot;'"), "{xml}");
    assert!(xml.contains("inn.x=&quot;a &amp; b&quot; y=&apos;&lt;&apos;</cmdline>"), "{xml}");
    let mut bad = config();
    bad.run_dir = "/run/\u{1}".into();
    let error = definition(&bad, &Settings::default(), None, None).unwrap_err();
    assert!(matches!(error, BadDefinition::Character(_)), "{error}");
    let tabs = escape("x", "a\tb\nc").unwrap();
    assert_eq!(tabs, "a&#9;b&#10;c");
}

#[test]
fn kvm_is_only_where_it_was_asked_for() {
    assert!(written(&config()).starts_with("<domain type='qemu'>"));
    let xml = written(&MachineConfig { accel: Accel::Kvm, ..config() });
    assert!(xml.starts_with("<domain type='kvm'>") && xml.contains("host-passthrough"), "{xml}");
}

#[test]
fn who_defined_it_is_read_back_however_it_is_quoted() {
    let maker = Maker::of(config().id, &config().run_dir);
    let as_written = written(&config());
    let element = as_written.lines().find(|line| line.starts_with("<metadata>")).unwrap();
    assert_eq!(Maker::read(element).as_ref(), Some(&maker));
    let id = config().id;
    let other = format!("<machine xmlns=\"{NAMESPACE}\" runDir=\"/run/R&amp;D\" vm=\"{id}\"/>");
    assert_eq!(Maker::read(&other), Some(maker));
    for bad in ["", "<machine/>", "<machine vm=/>", "<machine vm='a' runDir=\"b'/>"] {
        assert_eq!(Maker::read(bad), None, "{bad}");
    }
}

#[test]
fn a_disk_is_found_by_its_serial() {
    let xml = written(&config());
    assert_eq!(target_of(&xml, "inn-root").as_deref(), Some("vda"));
    assert_eq!(target_of(&xml, "inn-rw").as_deref(), Some("vdb"));
    assert_eq!(target_of(&xml, "inn"), None);
}

#[test]
fn the_hypervisor_is_told_its_own_paths() {
    let prefix = Some(("/d".into(), "/srv/disks".into()));
    let settings = Settings { prefix, ..Settings::default() };
    let xml = definition(&config(), &settings, None, None).unwrap();
    assert!(xml.contains("<source file='/srv/disks/rw'/>") && !xml.contains("seclabel"), "{xml}");
}
