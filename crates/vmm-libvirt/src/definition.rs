//! A machine's domain, as a pure function of what is asked for.
//!
//! ```text
//!   bus 0 (pcie-root)   2  the port that leads to bus 1
//!                       3  virtio-serial: the guest agent's port
//!                       4  entropy
//!                       5  the screen    6  its pointer    7  on aarch64, its keyboard
//!                       8  vda           9  vdb …           in the order of the disks
//!   bus 1                  a card on a tap, put in before the guest runs
//! ```
//!
//! What libvirt's format has no words for is told to QEMU itself before the
//! guest runs (see [`crate::monitor`]): where the console goes, and a tap by
//! its descriptor. Left at libvirt's defaults on purpose: QEMU's sandbox, its
//! own view of `/dev`, and what the host's libvirt is configured to confine
//! domains by.
//!
//! On aarch64 (QEMU's board `virt`) the console is the board's own serial port,
//! which firmware and kernels write to by themselves. QEMU moves that of no such
//! port, so there it is among the arguments that the definition adds to QEMU's.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use inn_units::{Architecture, ForeignNetwork, VmId};
use inn_vmm::{Accel, Boot, DiskSource, Lifetime, MachineConfig, Nic, NicBackend};
use inn_vmm_qemu::{MachineType, kernel_args};

use crate::Settings;
use crate::files::Files;

/// The namespace of what is ours in a definition.
pub(crate) const NAMESPACE: &str = "urn:innkeeper:libvirt:1";

/// libvirt's own, of what it hands on to QEMU as it is (docs/drvqemu.rst).
const QEMU: &str = "http://libvirt.org/schemas/domain/qemu/1.0";

/// The name of the guest agent's virtio-serial port.
const AGENT_PORT: &str = "innkeeper.agent.0";

/// MiB of translated code that TCG may keep, as under QEMU by itself.
const TRANSLATION_CACHE_MIB: u32 = 64;

/// The first slot of a disk on bus 0, and how many there are: the last ones are
/// the board's own.
const FIRST_DISK: usize = 8;
pub(crate) const MOST_DISKS: usize = 20;

/// What QEMU calls a console that it has by its arguments.
const CONSOLE: &str = "inn-console";

/// The bus whose only device is told to QEMU.
pub(crate) const CARD_BUS: &str = "pci.1";

#[derive(Debug, thiserror::Error)]
pub(crate) enum BadDefinition {
    #[error("the path is not UTF-8: {}", .0.display())]
    Path(PathBuf),
    #[error("{0} has a character that no XML can have")]
    Character(&'static str),
}

/// What libvirt calls the machine.
pub(crate) fn domain_name(id: VmId) -> String {
    format!("inn-{id}")
}

/// Whom the domain's QEMU is to be, where it can be said.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// A screen's first password, which nobody knows.
pub(crate) fn definition(
    config: &MachineConfig,
    settings: &Settings,
    owner: Option<Owner>,
    password: Option<&str>,
) -> Result<String, BadDefinition> {
    let files = Files::new(&config.run_dir);
    let seen = |path: &Path| {
        let seen = settings.as_hypervisor_sees(path);
        let text = seen.to_str().ok_or_else(|| BadDefinition::Path(seen.clone()))?;
        escape("a path", text)
    };
    let mut xml = Xml(String::new());
    let kind = match config.accel {
        Accel::Kvm => "kvm",
        Accel::Tcg => "qemu",
    };
    let guests = settings.architecture;
    xml.line(&match guests {
        Architecture::X86_64 => format!("<domain type='{kind}'>"),
        Architecture::Aarch64 => format!("<domain type='{kind}' xmlns:qemu='{QEMU}'>"),
    });
    xml.line(&format!("<name>{}</name>", domain_name(config.id)));
    xml.line(&format!("<uuid>{}</uuid>", uuid(config.id)));
    xml.line("<title>a VM of Innkeeper's: its agent looks after it</title>");
    let run_dir = text_of(&config.run_dir)?;
    xml.line(&format!(
        "<metadata><inn:machine xmlns:inn='{NAMESPACE}' vm='{}' runDir='{run_dir}'/></metadata>",
        config.id
    ));
    xml.line(&format!("<memory unit='MiB' dumpCore='off'>{}</memory>", config.memory.whole_mib()));
    xml.line(&format!("<vcpu>{}</vcpu>", config.vcpus));
    xml.boot(config, guests, &seen)?;
    xml.board(config, guests);
    if let Some(Owner { uid, gid }) = owner {
        // It opens files that are its owner's, who is the agent's user.
        xml.line(&format!(
            "<seclabel type='static' model='dac' relabel='no'><label>+{uid}:+{gid}</label></seclabel>"
        ));
    }
    xml.line("<devices>");
    xml.line("<controller type='usb' model='none'/>");
    xml.line("<controller type='pci' index='0' model='pcie-root'/>");
    xml.line(&format!(
        "<controller type='pci' index='1' model='pcie-root-port'>{}</controller>",
        slot(2)
    ));
    xml.line(&format!(
        "<controller type='virtio-serial' index='0' ports='2'>{}</controller>",
        slot(3)
    ));
    for (index, disk) in config.disks.iter().enumerate() {
        let DiskSource::Raw(path) = &disk.source;
        xml.disk(index, disk, &seen(path)?, config);
    }
    if guests == Architecture::X86_64 {
        // Somewhere else before the guest runs.
        xml.line("<serial type='null'><target type='isa-serial' port='0'/></serial>");
    }
    xml.line(&format!(
        "<channel type='unix'><source mode='bind' path='{}'/>\
         <target type='virtio' name='{AGENT_PORT}'/>\
         <address type='virtio-serial' controller='0' bus='0' port='1'/></channel>",
        seen(&files.agent())?
    ));
    xml.line(&format!("<rng model='virtio'><backend model='builtin'/>{}</rng>", slot(4)));
    if let Some(nic) = &config.nic {
        xml.card(nic)?;
    }
    if let Some(password) = password {
        // It listens nowhere: whoever may look is handed a connection.
        let password = escape("a password", password)?;
        xml.line(&format!(
            "<graphics type='vnc' passwd='{password}'><listen type='none'/></graphics>"
        ));
        xml.screen(guests);
    }
    xml.line("<memballoon model='none'/>");
    xml.line("</devices>");
    if guests == Architecture::Aarch64 {
        xml.console(&seen(&files.console())?, &seen(&files.console_pipe())?);
    }
    xml.line("</domain>");
    Ok(xml.0)
}

/// The one who defined a domain, by the metadata that it carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Maker {
    pub(crate) vm: String,
    pub(crate) run_dir: String,
}

impl Maker {
    pub(crate) fn of(id: VmId, run_dir: &Path) -> Self {
        Self { vm: id.to_string(), run_dir: run_dir.display().to_string() }
    }

    /// From the element that libvirt hands back, its attributes in any order
    /// and quoted as it likes.
    pub(crate) fn read(element: &str) -> Option<Self> {
        Some(Self { vm: attribute(element, "vm")?, run_dir: attribute(element, "runDir")? })
    }
}

fn attribute(element: &str, name: &str) -> Option<String> {
    let (_, rest) = element.split_once(&format!(" {name}="))?;
    let quote = rest.chars().next().filter(|quote| ['\'', '"'].contains(quote))?;
    let (value, _) = rest[1..].split_once(quote)?;
    let plain = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&#39;", "'")];
    let value = plain.iter().fold(value.to_owned(), |text, (from, to)| text.replace(from, to));
    Some(value.replace("&amp;", "&"))
}

/// What libvirt calls the disk with this serial (`vda`), by the definition that
/// [`definition`] has written.
pub(crate) fn target_of(definition: &str, serial: &str) -> Option<String> {
    let line = definition
        .lines()
        .find(|line| line.starts_with("<disk") && line.contains(&format!("<serial>{serial}<")))?;
    let (_, rest) = line.split_once("<target dev='")?;
    Some(rest.split_once('\'')?.0.to_owned())
}

/// The same for each life of a VM. The first bytes say `inn`; version 8 is for
/// whoever makes their own (RFC 9562, 5.8).
fn uuid(id: VmId) -> String {
    format!("696e6e00-0000-8000-8000-00{id}")
}

struct Xml(String);

impl Xml {
    fn line(&mut self, line: &str) {
        let _ = writeln!(self.0, "{line}");
    }

    fn boot(
        &mut self,
        config: &MachineConfig,
        guests: Architecture,
        seen: &dyn Fn(&Path) -> Result<String, BadDefinition>,
    ) -> Result<(), BadDefinition> {
        if guests == Architecture::Aarch64 {
            // libvirt chooses it, and makes it a file of variables, which goes
            // with the definition.
            self.line("<os firmware='efi'>");
            self.line("<type arch='aarch64' machine='virt'>hvm</type>");
            self.line("<firmware><feature enabled='no' name='secure-boot'/></firmware>");
            self.line("</os>");
            return Ok(());
        }
        self.line("<os>");
        self.line("<type arch='x86_64' machine='q35'>hvm</type>");
        match &config.boot {
            Boot::Kernel(boot) => {
                self.line(&format!("<kernel>{}</kernel>", seen(&boot.kernel)?));
                if let Some(initramfs) = &boot.initramfs {
                    self.line(&format!("<initrd>{}</initrd>", seen(initramfs)?));
                }
                // q35 calibrates its counter against a timer that it has.
                let ours = kernel_args(MachineType::Q35, config.accel, None);
                let line = format!("{ours} {}", boot.cmdline);
                let line = escape("the kernel's command line", line.trim())?;
                self.line(&format!("<cmdline>{line}</cmdline>"));
            }
            // SeaBIOS talks, and listens, on the serial port.
            Boot::Firmware => self.line("<bios useserial='yes'/>"),
        }
        self.line("</os>");
        Ok(())
    }

    fn board(&mut self, config: &MachineConfig, guests: Architecture) {
        self.line(match guests {
            Architecture::X86_64 => "<features><acpi/><smm state='off'/><vmport state='off'/>",
            // An older one serves eight CPUs.
            Architecture::Aarch64 => "<features><acpi/><gic version='3'/>",
        });
        if config.accel == Accel::Tcg {
            self.line(&format!(
                "<tcg><tb-cache unit='MiB'>{TRANSLATION_CACHE_MIB}</tb-cache></tcg>"
            ));
        }
        self.line("</features>");
        self.line(match (config.accel, guests) {
            (Accel::Kvm, _) => "<cpu mode='host-passthrough' check='none'/>",
            // Without "enhanced rep movsb": see crates/vmm-qemu, args.rs.
            (Accel::Tcg, Architecture::X86_64) => {
                "<cpu mode='maximum'><feature policy='disable' name='erms'/></cpu>"
            }
            (Accel::Tcg, Architecture::Aarch64) => "<cpu mode='maximum'/>",
        });
        self.line(match guests {
            Architecture::X86_64 => "<clock offset='utc'><timer name='hpet' present='no'/></clock>",
            Architecture::Aarch64 => "<clock offset='utc'/>",
        });
        self.line("<on_poweroff>destroy</on_poweroff>");
        self.line(match config.boot {
            Boot::Kernel(_) => "<on_reboot>destroy</on_reboot>",
            // What firmware has booted, it boots again.
            Boot::Firmware => "<on_reboot>restart</on_reboot>",
        });
        self.line("<on_crash>destroy</on_crash>");
    }

    fn screen(&mut self, guests: Architecture) {
        // The board `virt` has no keyboard, and its firmware knows no VGA.
        let (model, keyboard) = match guests {
            Architecture::X86_64 => ("type='vga' vram='16384'", false),
            Architecture::Aarch64 => ("type='virtio'", true),
        };
        self.line(&format!("<video><model {model}/>{}</video>", slot(5)));
        self.line(&format!("<input type='tablet' bus='virtio'>{}</input>", slot(6)));
        if keyboard {
            self.line(&format!("<input type='keyboard' bus='virtio'>{}</input>", slot(7)));
        }
    }

    /// The board's serial port on a socket, with all of its output in a pipe.
    fn console(&mut self, socket: &str, pipe: &str) {
        // In QEMU's arguments a comma ends a value (docs/system/invocation).
        let [socket, pipe] = [socket, pipe].map(|path| path.replace(',', ",,"));
        let chardev = format!(
            "socket,id={CONSOLE},path={socket},server=on,wait=off,logfile={pipe},logappend=on"
        );
        let serial = format!("chardev:{CONSOLE}");
        self.line("<qemu:commandline>");
        // Addresses are signed in a way of QEMU's own, which is quicker to emulate
        // (its docs/system/arm/cpu-features.rst).
        let arguments = [
            ["-global", "max-arm-cpu.pauth-impdef=on"],
            ["-chardev", &chardev],
            ["-serial", &serial],
        ];
        for argument in arguments.iter().flatten() {
            self.line(&format!("<qemu:arg value='{argument}'/>"));
        }
        self.line("</qemu:commandline>");
    }

    /// A tap is told to QEMU.
    fn card(&mut self, nic: &Nic) -> Result<(), BadDefinition> {
        let name = |name| escape("a network's name", name);
        let (kind, source) = match &nic.backend {
            NicBackend::Tap(_) | NicBackend::Nothing => return Ok(()),
            NicBackend::User => ("user", String::new()),
            NicBackend::Foreign(ForeignNetwork::Libvirt(network)) => {
                ("network", format!("<source network='{}'/>", name(network.as_str())?))
            }
            NicBackend::Foreign(ForeignNetwork::Bridge(bridge)) => {
                ("bridge", format!("<source bridge='{}'/>", name(bridge.as_str())?))
            }
        };
        self.line(&format!(
            "<interface type='{kind}'>{source}<mac address='{}'/><model type='virtio'/>\
             <rom enabled='no'/><address type='pci' bus='0x01' slot='0x00'/></interface>",
            mac(nic.mac)
        ));
        Ok(())
    }

    /// On one line, by which [`target_of`] finds it.
    fn disk(&mut self, index: usize, disk: &inn_vmm::Disk, path: &str, config: &MachineConfig) {
        // A leased machine's own disk dies with it: what the guest flushes need
        // not reach the host's platter.
        let cache = match config.lifetime == Lifetime::Leased && !disk.read_only {
            true => "unsafe",
            false => "writeback",
        };
        let first = match index == 0 && config.boot == Boot::Firmware {
            // Firmware boots the first, and looks nowhere else.
            true => "<boot order='1'/>",
            false => "",
        };
        let read_only = if disk.read_only { "<readonly/>" } else { "" };
        // The format is named, never probed: see `DiskSource`.
        self.line(&format!(
            "<disk type='file' device='disk'>\
             <driver name='qemu' type='raw' cache='{cache}' io='threads' discard='unmap'/>\
             <source file='{path}'/><target dev='{}' bus='virtio'/>{read_only}{first}\
             <serial>{}</serial>{}</disk>",
            target(index),
            disk.serial,
            slot(FIRST_DISK + index)
        ));
    }
}

/// `vda`, `vdb`, …: fewer than there are letters.
fn target(index: usize) -> String {
    let letter = ('a'..='z').nth(index).unwrap_or('z');
    format!("vd{letter}")
}

fn slot(number: usize) -> String {
    format!("<address type='pci' bus='0x00' slot='0x{number:02x}'/>")
}

pub(crate) fn mac(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn text_of(path: &Path) -> Result<String, BadDefinition> {
    let text = path.to_str().ok_or_else(|| BadDefinition::Path(path.to_owned()))?;
    escape("a path", text)
}

/// For text between tags and in attributes of either quote.
fn escape(what: &'static str, text: &str) -> Result<String, BadDefinition> {
    let mut escaped = String::new();
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '\'' => escaped.push_str("&apos;"),
            '"' => escaped.push_str("&quot;"),
            // Attributes would have them as spaces (XML 1.0, 3.3.3).
            '\t' | '\n' | '\r' => {
                let _ = write!(escaped, "&#{};", u32::from(character));
            }
            // XML 1.0, 2.2.
            '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => {
                return Err(BadDefinition::Character(what));
            }
            _ => escaped.push(character),
        }
    }
    Ok(escaped)
}

#[cfg(test)]
#[path = "definition_tests.rs"]
mod tests;
