//! With clients of others, in network namespaces of the tests' own.

use std::time::Instant;

use inn_domain::network::{Action, Direction, Far, Policy, PolicyRule, RateLimits};

use super::*;
use crate::testing::client;

#[path = "ground.rs"]
mod ground;

use ground::{Ground, PATIENCE, Tables, environment, ip};

fn as_it_is(_: &mut Declared) {}

#[test]
fn udhcpc_gets_its_lease() {
    let test = "udhcpc_gets_its_lease";
    let Some(ground) = Ground::lay(test, &["busybox"], Tables::Ours, as_it_is) else { return };
    let (script, told) = ground.script();
    let args = ["udhcpc", "-i", "eth0", "-f", "-q", "-t", "20", "-T", "1", "-O", "mtu", "-s"];
    let mut args: Vec<String> = args.map(str::to_owned).to_vec();
    args.push(script.display().to_string());
    let mut udhcpc = ground.start("busybox", &args);
    let lease = environment(&told, &mut udhcpc);
    assert!(udhcpc.wait().unwrap().success());
    for (key, value) in [
        ("ip", "10.213.0.2"),
        ("subnet", "255.255.255.0"),
        ("router", "10.213.0.1"),
        ("dns", "10.213.0.1"),
        ("hostname", "one"),
        ("domain", "web.inn.internal"),
        ("mtu", "1400"),
        ("lease", "86400"),
        ("serverid", "10.213.0.1"),
    ] {
        assert_eq!(lease.get(key).map(String::as_str), Some(value), "{key} in {lease:?}");
    }
}

#[test]
fn iscs_client_gets_its_lease_and_is_confirmed_in_it() {
    let test = "iscs_client_gets_its_lease_and_is_confirmed_in_it";
    let Some(ground) = Ground::lay(test, &["dhclient"], Tables::Ours, as_it_is) else { return };
    let (script, told) = ground.script();
    for reason in ["BOUND", "REBOOT"] {
        let mut dhclient = ground.start("dhclient", &dhclient(&ground, "-4", &script));
        let lease = environment(&told, &mut dhclient);
        let _ = dhclient.kill();
        let _ = dhclient.wait();
        std::fs::remove_file(&told).unwrap();
        for (key, value) in [
            ("reason", reason),
            ("new_ip_address", "10.213.0.2"),
            ("new_routers", "10.213.0.1"),
            ("new_domain_name", "web.inn.internal"),
            ("new_interface_mtu", "1400"),
            ("new_dhcp_server_identifier", "10.213.0.1"),
        ] {
            assert_eq!(lease.get(key).map(String::as_str), Some(value), "{reason}: {lease:?}");
        }
    }
}

#[test]
fn iscs_client_gets_its_ipv6_address() {
    let test = "iscs_client_gets_its_ipv6_address";
    let Some(ground) = Ground::lay(test, &["dhclient"], Tables::Ours, as_it_is) else { return };
    let (script, told) = ground.script();
    let mut dhclient = ground.start("dhclient", &dhclient(&ground, "-6", &script));
    let lease = environment(&told, &mut dhclient);
    let _ = dhclient.kill();
    let _ = dhclient.wait();
    let address = client(2, "one").ipv6.unwrap().to_string();
    assert_eq!(lease.get("new_ip6_address"), Some(&address), "{lease:?}");
    assert_eq!(lease["new_dhcp6_name_servers"], "fd00:1:2:3::1");
    assert_eq!(lease["new_dhcp6_domain_search"].trim_end_matches('.'), "web.inn.internal");
}

/// As NetworkManager and others make theirs (RFC 7217): the host's neighbours
/// tell whose it is.
#[test]
fn a_client_with_a_link_local_address_of_its_own_choice_is_known() {
    let test = "a_client_with_a_link_local_address_of_its_own_choice_is_known";
    let Some(ground) = Ground::lay(test, &["dhclient"], Tables::Ours, as_it_is) else { return };
    ground.vm.run(|| {
        ip("link set eth0 down");
        ip("link set eth0 addrgenmode random");
        ip("link set eth0 up");
    });
    let link_local = crate::ipam::link_local(client(2, "one").mac).to_string();
    let own = |text: &str| text.contains("fe80::") && !text.contains(&link_local);
    ground.until("ip", "-6 addr show dev eth0", own);
    let (script, told) = ground.script();
    let mut dhclient = ground.start("dhclient", &dhclient(&ground, "-6", &script));
    let lease = environment(&told, &mut dhclient);
    let _ = dhclient.kill();
    let _ = dhclient.wait();
    let address = client(2, "one").ipv6.unwrap().to_string();
    assert_eq!(lease.get("new_ip6_address"), Some(&address), "{lease:?}");
}

/// In the foreground, with nothing of the machine's own.
fn dhclient(ground: &Ground, family: &str, script: &std::path::Path) -> Vec<String> {
    let file = |name: &str| ground.dir.path().join(name).display().to_string();
    std::fs::write(file("conf"), "request subnet-mask, routers, domain-name, interface-mtu, dhcp6.name-servers, dhcp6.domain-search;\n").unwrap();
    let script = script.display().to_string();
    let words = [family, "-d", "-v", "-sf", &script, "-cf", &file("conf")].map(str::to_owned);
    let files = ["-lf", &file("leases"), "-pf", &file("pid"), "eth0"].map(str::to_owned);
    words.into_iter().chain(files).collect()
}

#[test]
fn a_kernel_learns_its_router_and_makes_no_address_of_its_own() {
    let test = "a_kernel_learns_its_router_and_makes_no_address_of_its_own";
    let Some(ground) = Ground::lay(test, &["ip"], Tables::Ours, as_it_is) else { return };
    let route = ground.until("ip", "-6 route show default", |text| text.contains("via fe80::"));
    assert!(route.contains("proto ra"), "{route}");
    let on_link = ground.until("ip", "-6 route", |text| text.contains("fd00:1:2:3::/64"));
    assert!(on_link.contains("dev eth0"), "{on_link}");
    let addresses = ground.until("ip", "-6 addr show dev eth0", |text| text.contains("fe80::"));
    assert!(!addresses.contains("fd00:"), "it takes the one that DHCPv6 gives: {addresses}");
    let mtu = ground.until("cat", "/proc/sys/net/ipv6/conf/eth0/mtu", |text| text == "1400");
    assert_eq!(mtu, "1400");
}

#[test]
fn dig_resolves_siblings_and_the_world() {
    let test = "dig_resolves_siblings_and_the_world";
    let Some(ground) = Ground::lay(test, &["dig"], Tables::None, as_it_is) else { return };
    let six = client(2, "one").ipv6.unwrap();
    ground.vm.run(move || {
        ip("addr add 10.213.0.2/24 dev eth0");
        ip("addr add 10.213.0.77/24 dev eth0");
        ip(&format!("addr add {six}/64 dev eth0 nodad"));
    });
    let four = "@10.213.0.1";
    for how in ["@10.213.0.1", "@10.213.0.1 +tcp", "@fd00:1:2:3::1", "@fd00:1:2:3::1 +tcp"] {
        let answer = ground.dig(&format!("{how} +short two.web.inn.internal"));
        assert_eq!(answer, "10.213.0.3", "{how}");
    }
    let six = ground.dig(&format!("{four} +short two.web.inn.internal AAAA"));
    assert_eq!(six, "fd00:1:2:3:b1:2ff:fe03:403");
    let back = ground.dig(&format!("{four} +short -x 10.213.0.3"));
    assert_eq!(back, "two.web.inn.internal.");
    let none = ground.dig(&format!("{four} three.web.inn.internal"));
    assert!(none.contains("NXDOMAIN") && none.contains("SOA"), "{none}");
    // The world, once; then from memory.
    for _ in 0..2 {
        let world = ground.dig(&format!("{four} +short example.com"));
        assert_eq!(world, "93.184.216.34");
    }
    assert_eq!(*ground.asked.lock().unwrap(), ["udp example.com."]);
    let nowhere = ground.dig(&format!("{four} nowhere.example"));
    assert!(nowhere.contains("NXDOMAIN"), "{nowhere}");
    // Too long for UDP: dig asks again by TCP, and so do we.
    let big = ground.dig(&format!("{four} +short big.example TXT"));
    assert_eq!(big.matches('x').count(), 3000, "{big}");
    let asked = ground.asked.lock().unwrap().clone();
    assert!(asked.contains(&"tcp big.example.".to_owned()), "{asked:?}");
    // An address that is no VM's is no client's.
    let stranger = ground.output("dig", "+time=1 +tries=1 -b 10.213.0.77 @10.213.0.1 example.com");
    let said = String::from_utf8_lossy(&stranger.stdout).into_owned();
    assert!(!stranger.status.success() && !said.contains("ANSWER"), "{said}");
    assert!(ground.problems.borrow().is_empty(), "{:?}", *ground.problems.borrow());
}

#[test]
fn the_tables_know_of_a_name_before_its_vm_does() {
    let test = "the_tables_know_of_a_name_before_its_vm_does";
    let ruled = |declared: &mut Declared| {
        let rule = |domain: &str| PolicyRule {
            direction: Direction::Egress,
            action: Action::Allow,
            protocol: None,
            ports: Vec::new(),
            far: Far::Domain(domain.to_owned()),
        };
        let rules = vec![rule("*.example"), rule("allowed.example")];
        declared.attachments[0].policy = Policy::Rules { rules, rates: RateLimits::default() };
    };
    let Some(ground) = Ground::lay(test, &["dig"], Tables::Ours, ruled) else { return };
    ground.vm.run(|| ip("addr add 10.213.0.2/24 dev eth0"));
    let answer = ground.dig("@10.213.0.1 +short allowed.example");
    assert_eq!(answer, "93.184.216.34");
    let told = ground.told.lock().unwrap().clone();
    let address = vec!["93.184.216.34".to_owned()];
    assert_eq!(told, [(0, address.clone()), (1, address)]);
    let rebind = ground.dig("@10.213.0.1 rebind.example");
    assert!(rebind.contains("REFUSED") && !rebind.contains("10.0.0.5"), "{rebind}");
    assert_eq!(ground.told.lock().unwrap().len(), 2);
    // Without a rule that is about it, it is the VM's affair.
    ground.declared.send_modify(|declared| {
        Arc::make_mut(declared).attachments[0].policy = Policy::AllowAll;
    });
    assert_eq!(ground.dig("@10.213.0.1 +short rebind.example"), "10.0.0.5");
    ground.declared.send_modify(|declared| {
        Arc::make_mut(declared).attachments[0].policy = Policy::None;
    });
    assert!(ground.dig("@10.213.0.1 example.com").contains("REFUSED"));
}

#[test]
fn a_port_that_is_taken_is_said_and_tried_again() {
    let netns = match inn_host::netns::Netns::make() {
        Ok(netns) => netns,
        Err(why) => return println!("SKIPPED a_port_that_is_taken_is_said_and_tried_again: {why}"),
    };
    netns.run(|| {
        let mut links = Links::open().unwrap();
        let declared = crate::testing::declared();
        links.converge(&declared).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let taken = tokio::net::UdpSocket::bind("0.0.0.0:53").await.unwrap();
            let (_declared, watched) = watch::channel(Arc::new(declared));
            let (resolved, _names) = mpsc::channel(1);
            let (servers, mut problems) = Servers::new(watched, resolved);
            let running = tokio::spawn(servers.run());
            let deadline = tokio::time::Instant::from_std(Instant::now() + PATIENCE);
            let wait = tokio::time::timeout_at(deadline, problems.wait_for(|all| !all.is_empty()));
            let said = format!("{:?}", *wait.await.expect("it is said").unwrap());
            assert!(said.contains("DNS by UDP over IPv4 on inn-ba102030405: Address"), "{said}");
            drop(taken);
            let wait = tokio::time::timeout_at(deadline, problems.wait_for(|all| all.is_empty()));
            wait.await.expect("it runs").unwrap();
            running.abort();
        });
    });
}
