//! Cards on networks that are not the node's: libvirt's own, with its dnsmasq,
//! and a bridge of the host's, which here is the same network's.

use std::fs;

use inn_tests::Host;
use inn_tests::libvirtd::Libvirtd;

const NETWORK: &str = "<network><name>lab</name><forward mode='nat'/><bridge name='lab0'/>\
    <ip address='192.0.2.1' netmask='255.255.255.0'>\
    <dhcp><range start='192.0.2.100' end='192.0.2.200'/></dhcp></ip></network>";

/// The network `lab`, which is there and does not run yet.
pub(super) fn define_lab(libvirtd: &Libvirtd, host: &Host) {
    let file = host.home().join("lab.xml");
    fs::write(&file, NETWORK).unwrap();
    libvirtd.virsh(&["net-define", file.to_str().unwrap()]).expect("a network");
}

pub(super) fn start_lab(libvirtd: &Libvirtd) {
    libvirtd.virsh(&["net-start", "lab"]).expect("the network starts");
}

pub(crate) fn a_vm_is_on_networks_of_others() {
    let libvirtd = match Libvirtd::start() {
        Ok(libvirtd) => libvirtd,
        Err(why) => return eprintln!("SKIPPED libvirt's networks: {why}"),
    };
    let host = Host::bare();
    let ours = "bridge = 'lab0'\nsubnet = '192.0.2.0/24'\n";
    fs::write(host.config(), libvirtd.config() + ours).unwrap();
    host.start_agent();
    host.import("mini");
    let create = |name: &str, network: &str| {
        let image = ["vm", "create", "--image", "mini"];
        host.inn(image).args(["--name", name, "--network", network])
    };

    // One that is not there, or does not run, is named, with what to do.
    create("a", "libvirt:none").refused(1, &["libvirt has no network none", "net-list --all"]);
    host.inn(["vm", "delete", "a"]).ok();
    define_lab(&libvirtd, &host);
    create("v", "libvirt:lab").refused(1, &["lab is not active", "virsh net-start lab"]);
    // So is what the node has no part in.
    create("b", "bridge:eth7").refused(1, &["eth7", "runtimes.libvirt.bridge"]);
    create("b", "libvirt:lab").args(["-p", "8080:80"]).refused(1, &["port maps"]);
    create("b", "libvirt:lab").args(["--runtime", "qemu"]).refused(1, &["--runtime libvirt"]);

    start_lab(&libvirtd);
    host.inn(["vm", "start", "v"]).ok();
    let why = host.inn(["vm", "why", "v"]).ok();
    assert!(why.contains("libvirt: the first of runtimes.order"), "nobody else has a way: {why}");
    let exec = |vm: &str, script: &str| host.inn(["vm", "exec", vm, "--", "sh", "-c", script]).ok();
    let known = |vm: &str| host.inn(["vm", "ip", vm, "--timeout", "60s", "-o", "json"]).json();
    let ip = known("v");
    assert_eq!(ip["source"], "lease", "{ip}");
    let address = ip["ipv4"].as_str().unwrap();
    assert!(address.starts_with("192.0.2.1"), "{ip}");
    let card = exec("v", "ip -4 address show eth0; ip route; cat /etc/resolv.conf");
    assert!(card.contains(&format!("inet {address}/24")), "{card}");
    assert!(card.contains("default via 192.0.2.1 "), "{card}");
    assert!(card.contains("nameserver 192.0.2.1"), "{card}");
    exec("v", "ping -c 1 -w 30 192.0.2.1");
    let lease = libvirtd.virsh(&["net-dhcp-leases", "lab"]).unwrap();
    assert!(lease.contains(address) && lease.contains(" v "), "{lease}");

    // On the bridge nobody asks a DHCP server of libvirt's: its guest tells.
    create("w", "bridge:lab0").ok();
    let ip = known("w");
    assert_eq!(ip["source"], "guest", "{ip}");
    exec("w", &format!("ping -c 1 -w 30 {address}"));

    // Another life of the agent finds both.
    host.kill_agent();
    host.start_agent();
    assert_eq!(known("v")["ipv4"], address);
    host.inn(["vm", "delete", "--force", "v"]).ok();
    host.inn(["vm", "delete", "--force", "w"]).ok();
    host.finish();
    assert_eq!(libvirtd.domains(), "");
}
