use std::path::PathBuf;

use inn_units::{Bytes, Vcpus, VmId};
use inn_vmm::{Boot, ChannelKind, Console, KernelBoot, Tap};

use super::*;

const WIRING: Wiring = wiring(Channel::Serial(12), None);
const VSOCK: Wiring = wiring(Channel::Vsock(12), None);

const fn wiring(channel: Channel, tap: Option<RawFd>) -> Wiring {
    Wiring::Machine { qmp: 11, channel, console: 13, trace: 14, tap, from: None }
}

fn kernel() -> KernelBoot {
    KernelBoot {
        kernel: "/k/vmlinux".into(),
        initramfs: Some("/k/initramfs".into()),
        cmdline: "quiet".to_owned(),
    }
}

fn config() -> MachineConfig {
    MachineConfig {
        id: VmId::from_bytes([1, 2, 3, 4, 5]),
        vcpus: Vcpus::new(2).unwrap(),
        memory: Bytes::mib(128),
        accel: Accel::Tcg,
        boot: Boot::Kernel(kernel()),
        from: None,
        disks: vec![
            Disk {
                source: DiskSource::Raw("/images/a,b.img".into()),
                read_only: true,
                serial: "inn-root".to_owned(),
            },
            Disk {
                source: DiskSource::Raw("/vms/1/rw.img".into()),
                read_only: false,
                serial: "inn-rw".to_owned(),
            },
        ],
        nic: Some(Nic { mac: [0x52, 0x54, 0, 1, 2, 0xfe], backend: NicBackend::User }),
        screen: false,
        generation_id: false,
        reboots_within: true,
        console: Console { log: "/vms/1/con,sole.log".into(), log_limit: Bytes::mib(1) },
        channel: ChannelKind::Serial,
        run_dir: "/run/1".into(),
        lifetime: Lifetime::Detached,
        isolation: inn_vmm::Isolation::default(),
    }
}

/// One option a line; the kernel's arguments are cmdline.rs's to test.
fn lines(machine: MachineType, config: &MachineConfig, wiring: Wiring) -> String {
    let args = args(machine, config, wiring, None).unwrap();
    let ours = kernel_args(machine, config.accel, None);
    let mut text = String::new();
    for arg in args {
        let arg = arg.to_string_lossy().replace(&ours, "KERNEL-ARGS");
        text.push_str(if arg.starts_with('-') { "\n" } else { " " });
        text.push_str(&arg);
    }
    text.trim().to_owned()
}

/// The lines that differ from those of a machine that boots.
fn begins(from: From) -> Vec<String> {
    let Wiring::Machine { qmp, channel, console, trace, tap, .. } = WIRING else { unreachable!() };
    let wiring = Wiring::Machine { qmp, channel, console, trace, tap, from: Some(from) };
    let boots = lines(MachineType::Microvm, &config(), WIRING);
    let begins = lines(MachineType::Microvm, &config(), wiring);
    let new = |line: &&str| !boots.lines().any(|old| old == *line);
    assert!(!begins.contains("-kernel") && !begins.contains("-initrd"), "{begins}");
    begins.lines().filter(new).map(str::to_owned).collect()
}

#[test]
fn what_was_saved_is_mapped_privately() {
    assert_eq!(
        begins(From { memory: Some(20), state: 21, devices_only: false }),
        [
            "-object memory-backend-file,id=ram,size=128M,share=off,mem-path=/proc/self/fd/20",
            "-incoming defer",
        ]
    );
    let with_memory = From { memory: None, state: 21, devices_only: false };
    assert_eq!(begins(with_memory), ["-incoming defer"]);
    let of_a_clone = begins(From { memory: Some(20), state: 21, devices_only: true });
    assert_eq!(
        of_a_clone[1..],
        ["-incoming defer", "-S", "-global migration.send-configuration=off"]
    );
}

#[test]
fn a_card_with_nothing_behind_it() {
    let nic = Nic { mac: [2, 0, 0, 0, 0, 1], backend: NicBackend::Nothing };
    let config = MachineConfig { nic: Some(nic), ..config() };
    let lines = lines(MachineType::Microvm, &config, WIRING);
    assert!(lines.contains("\n-netdev hubport,id=net,hubid=0\n"), "{lines}");
}

#[test]
fn microvm_under_tcg() {
    insta::assert_snapshot!(lines(MachineType::Microvm, &config(), WIRING));
}

#[test]
fn q35_under_kvm_without_disks_or_network() {
    let config = MachineConfig {
        accel: Accel::Kvm,
        disks: Vec::new(),
        nic: None,
        screen: false,
        generation_id: false,
        reboots_within: true,
        boot: Boot::Kernel(KernelBoot { initramfs: None, ..kernel() }),
        ..config()
    };
    insta::assert_snapshot!(lines(MachineType::Q35, &config, WIRING));
}

#[test]
fn q35_devices() {
    let text = lines(MachineType::Q35, &config(), WIRING);
    let devices: Vec<&str> = text.lines().filter(|l| l.starts_with("-device")).collect();
    insta::assert_snapshot!(devices.join("\n"));
}

#[test]
fn a_vsock_takes_the_place_of_the_port_and_the_kernel_is_told() {
    let config = MachineConfig { channel: ChannelKind::Vsock, ..config() };
    for (machine, device) in [
        (MachineType::Microvm, "-device vhost-user-vsock-device,chardev=vsock\n"),
        (MachineType::Q35, "-device vhost-user-vsock-pci,disable-legacy=on,chardev=vsock\n"),
    ] {
        let text = lines(machine, &config, VSOCK);
        assert!(text.contains(device), "{text}");
        assert!(text.contains("-chardev socket,id=vsock,fd=12\n"), "{text}");
        assert!(text.contains("-append KERNEL-ARGS inn.channel=vsock quiet\n"), "{text}");
        // The other end of a vhost-user device maps the guest's RAM.
        assert!(text.contains("memory-backend-memfd,id=ram,size=128M,share=on"), "{text}");
        assert!(!text.contains("serial-") && !text.contains("innkeeper.agent.0"), "{text}");
    }
}

#[test]
fn q35_boots_its_first_disk_by_firmware() {
    let config = MachineConfig { boot: Boot::Firmware, ..config() };
    insta::assert_snapshot!(lines(MachineType::Q35, &config, WIRING));
}

#[test]
fn a_probe_has_a_console_and_nothing_to_ask() {
    let config = MachineConfig { disks: Vec::new(), nic: None, ..config() };
    let text = lines(MachineType::Microvm, &config, Wiring::Probe { console: 9 });
    assert!(text.contains("-chardev socket,id=console,fd=9\n"), "{text}");
    for absent in ["-mon", "virtio-serial", "logfile", "pause"] {
        assert!(!text.contains(absent), "{absent} in {text}");
    }
}

#[test]
fn a_tap_is_told_by_its_descriptor_and_the_guest_its_mtu() {
    let tap = Tap::new(std::fs::File::open("/dev/null").unwrap().into(), 1400);
    let nic = Nic { mac: [2, 0, 0, 0, 0, 1], backend: NicBackend::Tap(tap) };
    let config = MachineConfig { nic: Some(nic), ..config() };
    for (machine, device) in [
        (
            MachineType::Microvm,
            "-device virtio-net-device,netdev=net,mac=02:00:00:00:00:01,host_mtu=1400",
        ),
        (
            MachineType::Q35,
            "-device virtio-net-pci,disable-legacy=on,netdev=net,mac=02:00:00:00:00:01,host_mtu=1400,romfile=",
        ),
    ] {
        let text = lines(machine, &config, wiring(Channel::Serial(12), Some(15)));
        assert!(text.contains("-netdev tap,id=net,fd=15\n"), "{text}");
        assert!(text.contains(device), "{text}");
        assert!(!text.contains("-netdev user"), "{text}");
    }
}

#[test]
fn only_a_leased_machine_skips_flushes_and_only_on_its_own_disk() {
    let flushes = |lifetime| {
        let config = MachineConfig { lifetime, ..config() };
        let text = lines(MachineType::Microvm, &config, WIRING);
        text.matches("\"no-flush\":true").count()
    };
    assert_eq!(flushes(Lifetime::Detached), 0);
    assert_eq!(flushes(Lifetime::Leased), 1);
}

#[test]
fn a_path_that_is_no_text_is_refused_by_name() {
    let mut config = config();
    config.disks[0].source =
        DiskSource::Raw(PathBuf::from(OsString::from_vec(b"/images/\xff.img".to_vec())));
    let error = args(MachineType::Microvm, &config, WIRING, None).unwrap_err();
    assert!(error.to_string().contains("/images/"), "{error}");
}

#[test]
fn a_machine_of_firmware_is_known_by_its_command_line() {
    let line = |machine, boot| {
        let config = MachineConfig { boot, ..config() };
        let args = args(machine, &config, WIRING, None).unwrap();
        args.iter().flat_map(|arg| [arg.as_encoded_bytes(), b"\0"].concat()).collect::<Vec<u8>>()
    };
    assert!(has_firmware(&line(MachineType::Q35, Boot::Firmware)));
    for machine in [MachineType::Q35, MachineType::Microvm] {
        assert!(!has_firmware(&line(machine, config().boot)));
    }
    assert!(!has_firmware(b"qemu\0-name\0,graphics=off\0-machine\0microvm\0"));
    assert!(!has_firmware(b""));
}

#[test]
fn a_machine_with_a_generation_id_is_known_by_its_command_line() {
    let line = |generation_id| {
        let config = MachineConfig { boot: Boot::Firmware, generation_id, ..config() };
        let args = args(MachineType::Q35, &config, WIRING, None).unwrap();
        args.iter().flat_map(|arg| [arg.as_encoded_bytes(), b"\0"].concat()).collect::<Vec<u8>>()
    };
    assert!(has_generation_id(&line(true)));
    assert!(!has_generation_id(&line(false)));
}

#[test]
fn a_guest_reboots_within_its_machine_if_it_is_to() {
    for (reboots_within, action) in [(true, "reboot=reset"), (false, "reboot=shutdown")] {
        let config = MachineConfig { boot: Boot::Firmware, reboots_within, ..config() };
        let text = lines(MachineType::Q35, &config, WIRING);
        assert!(text.contains(action), "{text}");
    }
}
