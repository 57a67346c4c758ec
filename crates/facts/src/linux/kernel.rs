use std::io::Read;

use flate2::read::GzDecoder;
use inn_api::{KernelFacts, KernelPart, KernelPartState};

use crate::Root;

/// A kernel's configuration has some 250 KiB.
const LONGEST_CONFIG: u64 = 4 << 20;

/// Parts that features of a node need: the module, what it is called in the
/// kernel's configuration, and a file that is there when it is.
const PARTS: [(&str, &str, Option<&str>); 10] = [
    ("kvm", "CONFIG_KVM", Some("/sys/class/misc/kvm")),
    ("tun", "CONFIG_TUN", Some("/sys/class/misc/tun")),
    ("bridge", "CONFIG_BRIDGE", None),
    ("nf_tables", "CONFIG_NF_TABLES", None),
    ("nf_conntrack", "CONFIG_NF_CONNTRACK", Some("/proc/sys/net/netfilter/nf_conntrack_max")),
    ("wireguard", "CONFIG_WIREGUARD", None),
    ("vhost_net", "CONFIG_VHOST_NET", Some("/sys/class/misc/vhost-net")),
    ("vhost_vsock", "CONFIG_VHOST_VSOCK", Some("/sys/class/misc/vhost-vsock")),
    ("vfio_pci", "CONFIG_VFIO_PCI", None),
    ("loop", "CONFIG_BLK_DEV_LOOP", Some("/sys/class/misc/loop-control")),
];

pub(super) fn kernel(root: &Root) -> KernelFacts {
    let of = |name: &str| root.text(format!("/proc/sys/kernel/{name}")).unwrap_or_default();
    KernelFacts {
        name: of("ostype"),
        release: of("osrelease"),
        version: of("version"),
        loads_modules: root.exists("/proc/modules")
            && root.flag("/proc/sys/kernel/modules_disabled") != Some(true),
    }
}

pub(super) fn parts(root: &Root, release: &str) -> Vec<KernelPart> {
    let modules = format!("/lib/modules/{release}");
    let list = |name: &str| root.text(format!("{modules}/{name}")).unwrap_or_default();
    let (builtin, on_disk) = (list("modules.builtin"), list("modules.dep"));
    let config = config(root, release);
    PARTS
        .iter()
        .map(|(name, option, mark)| {
            let is_here = root.exists(format!("/sys/module/{name}"))
                || mark.is_some_and(|mark| root.exists(mark))
                || builtin.lines().any(|line| module(line) == *name)
                || config.lines().any(|line| line.strip_prefix(option) == Some("=y"));
            let state = if is_here {
                KernelPartState::Here
            } else if on_disk.lines().any(|line| module(line) == *name) {
                KernelPartState::Loadable
            } else {
                KernelPartState::Missing
            };
            KernelPart { name: (*name).to_owned(), state }
        })
        .collect()
}

/// The module of `kernel/net/wireguard/wireguard.ko.xz: …`, as /sys names it.
fn module(line: &str) -> String {
    let path = line.split(':').next().unwrap_or_default();
    let file = path.rsplit('/').next().unwrap_or_default();
    file.split(".ko").next().unwrap_or_default().replace('-', "_")
}

fn config(root: &Root, release: &str) -> String {
    if let Some(text) = root.text(format!("/boot/config-{release}")) {
        return text;
    }
    let Some(packed) = root.bytes("/proc/config.gz") else { return String::new() };
    let mut text = String::new();
    match GzDecoder::new(packed.as_slice()).take(LONGEST_CONFIG).read_to_string(&mut text) {
        Ok(_) => text,
        Err(error) => {
            root.not_seen("/proc/config.gz", &error.to_string());
            String::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::module;

    #[test]
    fn modules_have_the_names_that_sysfs_gives_them() {
        for (line, name) in [
            ("kernel/drivers/vfio/pci/vfio-pci.ko.zst: kernel/a.ko", "vfio_pci"),
            ("kernel/net/wireguard/wireguard.ko", "wireguard"),
            ("", ""),
        ] {
            assert_eq!(module(line), name);
        }
    }
}
