//! What VMs' networks need of the kernel.

use inn_api::{Finding, HostFacts};

use super::remedy::Remedy;
use super::runtimes::part;
use super::{Sight, degraded, ok};

/// Rules of somebody else's that VMs' packets do not come by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirewallSight {
    /// What they drop, and where they stand.
    pub found: String,
    /// That has their owner let it through.
    pub command: Option<String>,
    pub instruction: Option<String>,
}

pub(super) fn check(facts: &HostFacts, sight: &Sight, findings: &mut Vec<Finding>) {
    if sight.is_root {
        let parts = [
            ("tun", "VMs cannot be on bridges: they have QEMU's user mode, or no network"),
            ("bridge", "VMs cannot be on bridges: they have QEMU's user mode, or no network"),
            ("nf_tables", "VMs on bridges have no policies, port maps or way to the outside"),
        ];
        for (name, consequence) in parts {
            findings.push(part(facts, &format!("network.{name}"), name, consequence));
        }
    } else {
        let consequence = "VMs have QEMU's user mode: outgoing connections and port maps, \
            no bridges, no policies";
        let remedy = Remedy::command("sudo inn agent").then(
            "or, where the units of packaging/systemd are installed, \
                sudo systemctl enable --now innkeeper.socket",
        );
        findings.push(remedy.of(degraded("network.root", "the agent is not root", consequence)));
    }
    match sight.firewalls.as_deref() {
        None => {}
        Some([]) => findings.push(ok("network.firewall", "nobody else's rules drop what is VMs'")),
        Some(firewalls) => findings.extend(firewalls.iter().map(firewall)),
    }
    findings.push(vsock(facts));
    let wireguard = part(
        facts,
        "network.wireguard",
        "wireguard",
        "a mesh of nodes would run WireGuard as a program, several times slower",
    );
    findings.push(wireguard);
}

fn firewall(sight: &FirewallSight) -> Finding {
    let consequence = "VMs on bridges do not reach what they may, or are not reached";
    let FirewallSight { found, command, instruction } = sight.clone();
    Finding { command, instruction, ..degraded("network.firewall", found, consequence) }
}

fn vsock(facts: &HostFacts) -> Finding {
    let consequence = "--channel vsock is not to be had under QEMU: VMs have a virtio-serial port";
    let kernel = part(facts, "network.vhost_vsock", "vhost_vsock", consequence);
    let bridge = facts.tools.iter().find(|tool| tool.name == "vhost-device-vsock");
    match bridge.and_then(|tool| tool.path.as_ref()) {
        // QEMU's vsock goes by this program, whatever the kernel has.
        Some(path) => ok("network.vsock", format!("QEMU's goes by {path}")),
        None => {
            let found = format!("vhost-device-vsock is not installed, and {}", kernel.found);
            Remedy::command("cargo install vhost-device-vsock --version 0.3.0 --locked")
                .of(degraded("network.vsock", found, consequence))
        }
    }
}
