//! QEMU's command line, as a pure function of what is asked for.
//!
//! Each option's reason stands beside it. Left at QEMU's defaults on purpose:
//! microvm's RTC and option ROMs (without both it boots half as fast) and the
//! ACPI tables (through which Debian's kernel finds virtio-mmio at all).

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use inn_vmm::{
    Accel, Boot, ChannelKind, Disk, DiskSource, Lifetime, MachineConfig, Nic, NicBackend,
};
use serde_json::json;

use crate::{MachineType, kernel_args};

/// The name of the guest agent's virtio-serial port.
const AGENT_PORT: &str = "innkeeper.agent.0";

/// MiB of translated code that TCG may keep. QEMU's default grows to 1 GiB
/// per VM; booting with this much took within 5 % of the time.
const TRANSLATION_CACHE_MIB: u32 = 64;

/// The descriptors that QEMU inherits.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wiring {
    /// A machine: listening sockets, its channel, the pipe that it traces into,
    /// its network card's tap and what it begins from, where it has them.
    Machine {
        qmp: RawFd,
        channel: Channel,
        console: RawFd,
        trace: RawFd,
        tap: Option<RawFd>,
        from: Option<From>,
    },
    /// A probe: nothing but a console, already connected.
    Probe { console: RawFd },
}

/// What a machine begins from that was saved.
#[derive(Debug, Clone, Copy)]
pub(crate) struct From {
    /// Sealed, and mapped privately. Without one the state has the memory.
    pub(crate) memory: Option<RawFd>,
    /// At its beginning.
    pub(crate) state: RawFd,
    /// It has devices alone, as a machine that began from a saved one writes them.
    pub(crate) devices_only: bool,
}

/// How QEMU gets at the guest agent's channel.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Channel {
    /// A listening socket behind a virtio-serial port.
    Serial(RawFd),
    /// A connection to the machine's bridge, by the vhost-user protocol: the
    /// guest's RAM is shared with it, a memfd as it is.
    Vsock(RawFd),
}

/// What a kernel is told that is to be reached by vsock.
const VSOCK_CHANNEL: &str = "inn.channel=vsock";

/// Of the board of a machine that firmware boots, and of no other.
const FIRMWARE: &str = ",graphics=off";

/// A number of QEMU's choice in each process, which it writes into the memory of what
/// it goes on from, too, and tells the guest of (docs/specs/vmgenid.rst).
const GENERATION_ID: &str = "vmgenid,guid=auto";

/// Whether a QEMU that runs with such a command line has it.
pub(crate) fn has_generation_id(cmdline: &[u8]) -> bool {
    cmdline.split(|byte| *byte == 0).any(|arg| arg == GENERATION_ID.as_bytes())
}

/// Whether firmware boots a QEMU that runs with such a command line, as
/// /proc/PID/cmdline has it.
pub(crate) fn has_firmware(cmdline: &[u8]) -> bool {
    let mut args = cmdline.split(|byte| *byte == 0).skip_while(|arg| *arg != b"-machine").skip(1);
    args.next().is_some_and(|board| board.windows(FIRMWARE.len()).any(|w| w == FIRMWARE.as_bytes()))
}

/// A path that QEMU can't be told.
#[derive(Debug, thiserror::Error)]
#[error("the disk's path is not UTF-8: {}", .0.display())]
pub(crate) struct BadPath(std::path::PathBuf);

/// What QEMU calls a disk. At most 31 bytes, as it wants it, since a serial
/// has at most 20.
pub(crate) fn node_name(serial: &str) -> String {
    format!("disk-{serial}")
}

/// What QEMU calls the machine, and tells back on its socket.
pub(crate) fn machine_name(id: inn_units::VmId) -> String {
    format!("inn-{id}")
}

pub(crate) fn args(
    machine: MachineType,
    config: &MachineConfig,
    wiring: Wiring,
    tsc_khz: Option<u32>,
) -> Result<Vec<OsString>, BadPath> {
    let mut args = Args { list: Vec::new(), bus: bus(machine) };
    args.pair("-name", machine_name(config.id));
    for flag in ["-nodefaults", "-no-user-config"] {
        args.flag(flag);
    }
    args.pair("-display", "none");
    // A child of QEMU's could escape its seccomp filter, and none is needed.
    args.pair(
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    );
    // Every end leaves a paused QEMU that can still be asked about it. A probe
    // has nobody who would ask. What firmware has booted, it boots again, unless
    // its vsock's bridge would not outlive that (see bridge).
    let reboot = match (&config.boot, config.channel) {
        (Boot::Firmware, ChannelKind::Serial) if config.reboots_within => "reset",
        (Boot::Kernel(_) | Boot::Firmware, _) => "shutdown",
    };
    args.pair(
        "-action",
        match wiring {
            Wiring::Machine { .. } => format!("reboot={reboot},shutdown=pause,panic=pause"),
            Wiring::Probe { .. } => format!("reboot={reboot},panic=shutdown"),
        },
    );
    args.board(machine, config);
    args.memory(config, wiring);
    if !matches!(wiring, Wiring::Machine { from: Some(_), .. }) {
        // What begins from a saved one has its kernel in its memory.
        args.boot(machine, config, tsc_khz);
    }
    args.console(config, wiring);
    args.pair("-object", "rng-builtin,id=entropy");
    args.device("virtio-rng", "rng=entropy");
    if let Wiring::Machine { qmp, channel, trace, .. } = wiring {
        args.pair("-chardev", format!("socket,id=qmp,fd={qmp},server=on,wait=off"));
        args.pair("-mon", "chardev=qmp,mode=control");
        args.channel(channel);
        // The end of the machine in a file, where it outlives the agent: see
        // end.rs. Never on stderr: with QEMU 7.2 under TCG the guest of a
        // machine that traced its start there never ran.
        args.pair("-D", format!("/proc/self/fd/{trace}"));
        args.pair("-trace", "enable=runstate_set");
        args.pair("-trace", "enable=qemu_system_shutdown_request");
    }
    if config.screen && matches!(wiring, Wiring::Machine { .. }) {
        args.screen();
    }
    if config.generation_id {
        args.pair("-device", GENERATION_ID);
    }
    for (index, disk) in config.disks.iter().enumerate() {
        // Firmware boots the first, and looks nowhere else.
        let first = (index == 0 && config.boot == Boot::Firmware).then_some(",bootindex=1");
        args.disk(disk, first.unwrap_or_default(), config.lifetime)?;
    }
    if let Some(nic) = &config.nic {
        args.nic(machine, nic, wiring);
    }
    Ok(args.list)
}

struct Args {
    list: Vec<OsString>,
    bus: &'static str,
}

/// The suffix of virtio device names, and what every PCI one wants: the
/// modern interface only, since the legacy one costs an I/O BAR each.
fn bus(machine: MachineType) -> &'static str {
    match machine {
        MachineType::Microvm => "device",
        MachineType::Q35 => "pci,disable-legacy=on",
    }
}

pub(crate) fn board(machine: MachineType) -> &'static str {
    match machine {
        MachineType::Microvm => "microvm",
        // What a VM without firmware needs none of; saves a tenth of the
        // boot.
        MachineType::Q35 => "q35,smm=off,vmport=off,hpet=off,sata=off,usb=off",
    }
}

pub(crate) fn cpu(accel: Accel) -> &'static str {
    match accel {
        Accel::Kvm => "host",
        // Without "enhanced rep movsb", which TCG emulates a byte at a
        // time: kernel and libc then copy by words. Measured with QEMU
        // 7.2: reading a cached file 3 times as fast, clearing memory
        // 12 times, the boot a tenth shorter.
        Accel::Tcg => "max,-erms",
    }
}

impl Args {
    fn flag(&mut self, flag: &str) {
        self.list.push(flag.into());
    }

    fn pair(&mut self, option: &str, value: impl Into<OsString>) {
        self.list.push(option.into());
        self.list.push(value.into());
    }

    fn device(&mut self, device: &str, properties: &str) {
        self.pair("-device", format!("{device}-{},{properties}", self.bus));
    }

    fn board(&mut self, machine: MachineType, config: &MachineConfig) {
        let board = board(machine);
        // Without graphics SeaBIOS talks, and listens, on the serial port, and
        // so does a boot loader that uses it.
        let firmware = match config.boot {
            Boot::Kernel(_) => "",
            Boot::Firmware => FIRMWARE,
        };
        self.pair("-machine", format!("{board}{firmware},memory-backend=ram,dump-guest-core=off"));
        match config.accel {
            Accel::Kvm => {
                self.pair("-accel", "kvm");
            }
            Accel::Tcg => {
                self.pair("-accel", format!("tcg,tb-size={TRANSLATION_CACHE_MIB}"));
            }
        }
        self.pair("-cpu", cpu(config.accel));
        self.pair("-smp", config.vcpus.get().to_string());
    }

    /// Never on a disk: the guest's RAM may hold secrets.
    fn memory(&mut self, config: &MachineConfig, wiring: Wiring) {
        let mib = config.memory.whole_mib();
        self.pair("-m", format!("{mib}M"));
        let from = match wiring {
            Wiring::Machine { from, .. } => from,
            Wiring::Probe { .. } => None,
        };
        self.pair(
            "-object",
            match from.and_then(|from| from.memory) {
                None => format!("memory-backend-memfd,id=ram,size={mib}M,share=on"),
                // Opened again by name, which a memfd has there alone.
                Some(fd) => format!(
                    "memory-backend-file,id=ram,size={mib}M,share=off,mem-path=/proc/self/fd/{fd}"
                ),
            },
        );
        if from.is_some() {
            // It is told over QMP, where it says whether that went well.
            self.pair("-incoming", "defer");
        }
        if from.is_some_and(|from| from.devices_only) {
            // Such a state says that it runs, and nothing of the board it is of.
            self.flag("-S");
            self.pair("-global", "migration.send-configuration=off");
        }
    }

    fn boot(&mut self, machine: MachineType, config: &MachineConfig, tsc_khz: Option<u32>) {
        let Boot::Kernel(boot) = &config.boot else { return };
        self.pair("-kernel", boot.kernel.as_os_str());
        if let Some(initramfs) = &boot.initramfs {
            self.pair("-initrd", initramfs.as_os_str());
        }
        let mut line = kernel_args(machine, config.accel, tsc_khz);
        if config.channel == ChannelKind::Vsock {
            line = format!("{line} {VSOCK_CHANNEL}");
        }
        self.pair("-append", format!("{line} {}", boot.cmdline).trim().to_owned());
    }

    fn channel(&mut self, channel: Channel) {
        match channel {
            Channel::Serial(agent) => {
                self.pair("-chardev", format!("socket,id=agent,fd={agent},server=on,wait=off"));
                self.device("virtio-serial", "id=ports,max_ports=2");
                let port = format!("virtserialport,bus=ports.0,chardev=agent,name={AGENT_PORT}");
                self.pair("-device", port);
            }
            Channel::Vsock(bridge) => {
                self.pair("-chardev", format!("socket,id=vsock,fd={bridge}"));
                self.device("vhost-user-vsock", "chardev=vsock");
            }
        }
    }

    fn console(&mut self, config: &MachineConfig, wiring: Wiring) {
        let mut chardev = OsString::from("socket,id=console,fd=");
        match wiring {
            // The log is complete whether or not somebody is attached.
            // It is a pipe's end, which can't be truncated.
            Wiring::Machine { console, .. } => {
                chardev.push(format!("{console},server=on,wait=off,logappend=on,logfile="));
                chardev.push(escape(&config.console.log));
            }
            Wiring::Probe { console } => chardev.push(console.to_string()),
        }
        self.pair("-chardev", chardev);
        self.pair("-serial", "chardev:console");
    }

    /// A VGA card and a pointer beside the board's own keyboard, and nobody who
    /// looks yet: QEMU listens nowhere, and is handed connections by QMP (see `Qmp::add_vnc`).
    /// Each has to know a password, which is set there, too.
    fn screen(&mut self) {
        self.pair("-device", "VGA,vgamem_mb=16");
        self.pair("-device", format!("virtio-tablet-{}", self.bus));
        self.pair("-vnc", "none,password=on");
    }

    /// `more` are further properties of the device.
    fn disk(&mut self, disk: &Disk, more: &str, lifetime: Lifetime) -> Result<(), BadPath> {
        let DiskSource::Raw(path) = &disk.source;
        let path = path.to_str().ok_or_else(|| BadPath(path.clone()))?;
        // A leased machine's own disk dies with it: what the guest flushes
        // need not reach the host's platter.
        let no_flush = lifetime == Lifetime::Leased && !disk.read_only;
        let node = json!({
            "node-name": node_name(&disk.serial),
            // Named, never probed: see `DiskSource`.
            "driver": "raw",
            "read-only": disk.read_only,
            "discard": "unmap",
            "file": {
                "driver": "file",
                "filename": path,
                "read-only": disk.read_only,
                "auto-read-only": false,
                "discard": "unmap",
                // Many read one image at once, none beside a writer: QEMU's
                // own locks on the file (docs/interop/live-block-operations).
                "locking": "auto",
                // The page cache is what the VMs of one image share.
                "aio": "threads",
            },
            "cache": { "direct": false, "no-flush": no_flush },
        });
        self.pair("-blockdev", node.to_string());
        let Disk { serial, .. } = disk;
        let drive = node_name(serial);
        self.device("virtio-blk", &format!("drive={drive},serial={serial}{more}"));
        Ok(())
    }

    fn nic(&mut self, machine: MachineType, nic: &Nic, wiring: Wiring) {
        let mtu = match (&nic.backend, wiring) {
            // Whether its frames have a header, QEMU asks the kernel.
            (NicBackend::Tap(tap), Wiring::Machine { tap: Some(fd), .. }) => {
                self.pair("-netdev", format!("tap,id=net,fd={fd}"));
                format!(",host_mtu={}", tap.mtu)
            }
            // A hub's port, with nobody else at the hub.
            (NicBackend::Nothing, _) => {
                self.pair("-netdev", "hubport,id=net,hubid=0");
                String::new()
            }
            // A probe has no tap to lose, and talks to nobody. Others' networks
            // are refused before.
            (NicBackend::User | NicBackend::Tap(_) | NicBackend::Foreign(_), _) => {
                self.pair("-netdev", "user,id=net");
                String::new()
            }
        };
        let mac = nic.mac.map(|byte| format!("{byte:02x}")).join(":");
        // No boot ROM: nothing boots from the network.
        let rom = match machine {
            MachineType::Microvm => "",
            MachineType::Q35 => ",romfile=",
        };
        self.device("virtio-net", &format!("netdev=net,mac={mac}{mtu}{rom}"));
    }
}

/// In QEMU's key=value options a comma is doubled.
fn escape(path: &Path) -> OsString {
    let mut escaped = Vec::new();
    for &byte in path.as_os_str().as_bytes() {
        escaped.push(byte);
        if byte == b',' {
            escaped.push(byte);
        }
    }
    OsString::from_vec(escaped)
}

#[cfg(test)]
#[path = "args_tests.rs"]
mod tests;
