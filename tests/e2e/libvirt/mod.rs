//! A VM that is a domain of a libvirtd's.

mod arm64;
mod cloud;
mod container;
mod networks;
mod session;

pub(crate) use arm64::a_disk_of_another_architecture_is_a_vm_without_an_agent;
pub(crate) use cloud::a_cloud_image_is_set_up_on_a_network_of_libvirt_s;
pub(crate) use container::an_agent_in_a_container_leaves_its_vm_to_the_next;
pub(crate) use networks::a_vm_is_on_networks_of_others;
pub(crate) use session::an_ordinary_users_session_serves_its_agent;

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, TcpStream};

use inn_tests::libvirtd::Libvirtd;
use inn_tests::netns::Netns;
use inn_tests::{Host, wait};

pub(crate) fn a_vm_under_libvirt_outlives_its_libvirtd_and_its_agent() {
    let skip = |why: &str| eprintln!("SKIPPED libvirt: {why}");
    let netns = match Netns::make() {
        Ok(netns) => netns,
        Err(error) => return skip(&format!("no network namespace: {error}")),
    };
    let libvirtd = match Libvirtd::start() {
        Ok(libvirtd) => libvirtd,
        Err(why) => return skip(&why),
    };
    let host = Host::bare().with_bridges(&netns);
    fs::write(host.config(), libvirtd.config()).unwrap();
    host.start_agent();
    host.import("mini");
    host.inn(["vm", "create", "--image", "mini", "--name", "v", "--runtime", "libvirt"]).ok();

    let exec = |script: &str| host.inn(["vm", "exec", "v", "--", "sh", "-c", script]).ok();
    assert_eq!(exec("echo from the guest; test -e /sys/class/net/eth0"), "from the guest\n");
    let before = host.show("v");
    assert_eq!((&before["runtime"], &before["phase"]), (&"libvirt".into(), &"running".into()));
    let why = host.inn(["vm", "why", "v"]).ok();
    assert!(why.contains("libvirt: it was asked for"), "{why}");
    let domain = format!("inn-{}", before["id"].as_str().unwrap());
    assert_eq!(libvirtd.domains(), domain);

    // What is somebody else's is shown, and nothing else is done with it.
    let foreign = host.home().join("foreign.xml");
    let xml = "<domain type='qemu'><name>others</name><memory unit='MiB'>64</memory>\
               <os><type arch='x86_64' machine='q35'>hvm</type></os></domain>";
    fs::write(&foreign, xml).unwrap();
    libvirtd.virsh(&["define", foreign.to_str().unwrap()]).unwrap();
    assert_eq!(host.node()["foreignDomains"], serde_json::json!(["others"]));
    libvirtd.virsh(&["undefine", "others"]).unwrap();

    // Its card is a tap on the node's bridge, though libvirtd is elsewhere.
    let ip: Ipv4Addr = host.inn(["vm", "ip", "v"]).ok().lines().next().unwrap().parse().unwrap();
    host.inn(["vm", "exec", "-d", "v", "--", "sh", "-c", "echo by the card | nc -l -p 7000"]).ok();
    let heard = wait::until("its port answers", || {
        let mut heard = String::new();
        let stream = netns.run(|| TcpStream::connect((ip, 7000)));
        stream.ok()?.read_to_string(&mut heard).ok()?;
        Some(heard)
    });
    assert_eq!(heard, "by the card\n");

    // What it cannot do is said by its name.
    host.inn(["vm", "snapshot", "v", "--name", "s"]).refused(1, &["libvirt"]);

    libvirtd.restart();
    assert_eq!(exec("echo no libvirtd was asked"), "no libvirtd was asked\n");
    host.kill_agent();
    libvirtd.restart();
    host.start_agent();
    wait::until("the VM is found again", || {
        let vm = host.show("v");
        (vm["phase"] == "running" && vm["guest"]["link"] == "ready").then_some(())
    });
    let after = host.show("v");
    assert_eq!(before["pid"], after["pid"]);
    assert_eq!(before["guest"]["bootId"], after["guest"]["bootId"]);
    assert_eq!(exec("echo still here"), "still here\n");

    host.inn(["vm", "stop", "v"]).ok();
    assert_eq!(libvirtd.domains(), "");
    // A domain that somebody else ends is told as that.
    host.inn(["vm", "start", "v"]).ok();
    libvirtd.virsh(&["destroy", &domain]).unwrap();
    wait::until("its end is told", || {
        host.inn(["vm", "why", "v"]).ok().contains("somebody else ended its domain").then_some(())
    });
    host.finish();
    assert_eq!(libvirtd.domains(), "");
}
