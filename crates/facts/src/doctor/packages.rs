//! Which package brings a thing, by distribution.

use inn_api::Family;

use super::remedy::Remedy;

/// In the order of [`COMMANDS`]: apt, dnf, zypper, apk, pacman; empty where it
/// has none.
type Packages = (&'static str, [&'static str; 5]);

const COMMANDS: [&str; 5] =
    ["apt-get install", "dnf install", "zypper install", "apk add", "pacman -S"];

const PACKAGES: [Packages; 8] = [
    (
        "qemu-system-x86_64",
        ["qemu-system-x86", "qemu-kvm", "qemu-x86", "qemu-system-x86_64", "qemu-system-x86"],
    ),
    ("qemu-img", ["qemu-utils", "qemu-img", "qemu-tools", "qemu-img", "qemu-img"]),
    ("mkfs.ext4", ["e2fsprogs", "e2fsprogs", "e2fsprogs", "e2fsprogs", "e2fsprogs"]),
    ("buildah", ["buildah", "buildah", "buildah", "buildah", "buildah"]),
    (
        "libvirtd",
        [
            "libvirt-daemon-system",
            "libvirt-daemon-kvm",
            "libvirt-daemon-qemu",
            "libvirt-daemon",
            "libvirt",
        ],
    ),
    ("kernel", ["linux-image-cloud-amd64", "kernel-core", "kernel-default", "linux-virt", "linux"]),
    ("time", ["systemd-timesyncd", "chrony", "chrony", "chrony", "chrony"]),
    ("modprobe", ["kmod", "kmod", "kmod", "kmod", "kmod"]),
];

/// What installs it.
pub(super) fn install(family: Family, what: &str) -> Remedy {
    let column = match family {
        Family::Debian => 0,
        Family::Fedora => 1,
        Family::Suse => 2,
        Family::Alpine => 3,
        Family::Arch => 4,
        Family::Other => 5,
    };
    let packages = PACKAGES.iter().find(|(name, _)| *name == what).map(|(_, packages)| packages);
    match (packages.and_then(|all| all.get(column)), COMMANDS.get(column)) {
        (Some(package), Some(command)) => Remedy::command(format!("{command} {package}")),
        // By Debian's name, which whoever looks for another finds it by.
        _ => {
            let debian = packages.map_or(what, |all| all[0]);
            Remedy::person(format!(
                "install what Debian calls {debian} by this distribution's package manager"
            ))
        }
    }
}
