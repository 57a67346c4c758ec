//! How an option comes onto the kernel's command line, by what boots the host.

use inn_api::{Family, HostFacts};

use super::remedy::Remedy;

/// GRUB's own file on whatever has it (Debian, SUSE, Arch).
const GRUB: &str = "/etc/default/grub";

/// Where Raspberry Pi OS mounts what its firmware reads.
const FIRMWARE: &str = "/boot/firmware";

pub(super) fn kernel_option(facts: &HostFacts, option: &str) -> Remedy {
    if facts.virtualisation.container.is_some() {
        return Remedy::person(format!(
            "on this container's host add {option} to the kernel's command line, and reboot it"
        ));
    }
    let grub =
        |makes: &str| format!("sed -i 's/^GRUB_CMDLINE_LINUX=\"/&{option} /' {GRUB} && {makes}");
    let is_pi = !facts.cpu.architecture.starts_with("x86")
        && facts.file_systems.iter().any(|one| one.mounted_at == FIRMWARE);
    let command = match facts.distribution.family {
        Family::Debian if is_pi => format!("sed -i '1s/$/ {option}/' {FIRMWARE}/cmdline.txt"),
        Family::Debian => grub("update-grub"),
        Family::Fedora => format!("grubby --update-kernel=ALL --args={option}"),
        Family::Suse => grub("grub2-mkconfig -o /boot/grub2/grub.cfg"),
        Family::Arch => grub("grub-mkconfig -o /boot/grub/grub.cfg"),
        Family::Alpine => format!(
            "sed -i 's/^default_kernel_opts=\"/&{option} /' /etc/update-extlinux.conf && update-extlinux"
        ),
        Family::Other => {
            return Remedy::person(format!(
                "add {option} to the kernel's command line in the boot loader's configuration, and reboot"
            ));
        }
    };
    Remedy::command(command).then("reboot")
}
