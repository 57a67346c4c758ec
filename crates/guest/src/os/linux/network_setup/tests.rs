use inn_guest_proto::wire::{Address, InterfaceSetup, Route};
use inn_netlink::route::Link;

use super::*;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

fn links() -> Vec<Link> {
    let lo = Link { index: 1, name: "lo".into(), loopback: true, ..Link::default() };
    let ens3 = Link { index: 2, name: "ens3".into(), mac: MAC.to_vec(), ..Link::default() };
    let ens4 = Link { index: 3, name: "ens4".into(), ..Link::default() };
    vec![lo, ens3, ens4]
}

fn v4(octets: [u8; 4], prefix: u32) -> Address {
    Address { ip: octets.to_vec().into(), prefix }
}

fn wanted() -> NetworkSetup {
    let gateway = Route { to: None, via: vec![10, 0, 0, 1].into(), metric: 0 };
    let beyond =
        Route { to: Some(v4([10, 9, 0, 0], 16)), via: vec![10, 0, 0, 9].into(), metric: 50 };
    let mut v6 = vec![0xFD; 16];
    v6[15] = 2;
    let first = InterfaceSetup {
        mac: MAC.to_vec().into(),
        addresses: vec![v4([10, 0, 0, 2], 24), Address { ip: v6.into(), prefix: 64 }],
        routes: vec![gateway, beyond],
        mtu: 1400,
        ..InterfaceSetup::default()
    };
    let second = InterfaceSetup { name: "ens4".into(), dhcp4: true, ..InterfaceSetup::default() };
    NetworkSetup {
        interfaces: vec![first, second],
        dns: vec![vec![10, 0, 0, 3].into(), vec![1, 1, 1, 1].into()],
        search: vec!["example.org".into()],
    }
}

fn setup() -> Setup {
    Setup::new(&wanted(), &links()).unwrap()
}

#[test]
fn netplan() {
    assert_eq!(
        netplan::render(&setup()),
        r#"# Written by Innkeeper.
network:
  version: 2
  ethernets:
    "ens3":
      dhcp4: false
      dhcp6: false
      mtu: 1400
      addresses:
        - "10.0.0.2/24"
        - "fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fd02/64"
      routes:
        - to: "0.0.0.0/0"
          via: "10.0.0.1"
        - to: "10.9.0.0/16"
          via: "10.0.0.9"
          metric: 50
      nameservers:
        addresses:
          - "10.0.0.3"
          - "1.1.1.1"
        search:
          - "example.org"
    "ens4":
      dhcp4: true
      dhcp6: false
      nameservers:
        addresses:
          - "10.0.0.3"
          - "1.1.1.1"
        search:
          - "example.org"
"#
    );
}

#[test]
fn networkd() {
    let setup = setup();
    assert_eq!(
        networkd::render(&setup.cards[0], &setup),
        "# Written by Innkeeper.
[Match]
Name=ens3

[Link]
MTUBytes=1400

[Network]
DHCP=no
Address=10.0.0.2/24
Address=fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fd02/64
DNS=10.0.0.3
DNS=1.1.1.1
Domains=example.org

[Route]
Destination=0.0.0.0/0
Gateway=10.0.0.1

[Route]
Destination=10.9.0.0/16
Gateway=10.0.0.9
Metric=50
"
    );
}

#[test]
fn ifupdown() {
    assert_eq!(
        ifupdown::render(&setup()),
        "# Written by Innkeeper.

auto ens3
iface ens3 inet static
    address 10.0.0.2/24
    gateway 10.0.0.1
    pre-up ip link set dev ens3 mtu 1400
    dns-nameservers 10.0.0.3 1.1.1.1
    dns-search example.org
iface ens3 inet6 static
    address fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fd02/64
    up ip route replace 10.9.0.0/16 via 10.0.0.9 dev ens3 metric 50

auto ens4
iface ens4 inet dhcp
    dns-nameservers 10.0.0.3 1.1.1.1
    dns-search example.org
"
    );
}

#[test]
fn a_gateway_without_an_address_is_a_route() {
    let mut wanted = wanted();
    wanted.interfaces.truncate(1);
    wanted.interfaces[0].addresses.remove(0);
    let text = ifupdown::render(&Setup::new(&wanted, &links()).unwrap());
    assert!(!text.contains("gateway"), "{text}");
    assert!(text.contains("up ip route replace 0.0.0.0/0 via 10.0.0.1 dev ens3\n"), "{text}");
}

#[test]
fn stanzas_of_the_same_interface_go() {
    let etc = tempfile::tempdir().unwrap();
    let main = etc.path().join("interfaces");
    let before = "source-directory interfaces.d\nauto lo ens3\niface lo inet loopback\n\
                  # the first card\nallow-hotplug ens4\niface ens3 inet dhcp\n  mtu 9000\n\
                  iface ens9 inet manual\n  mtu 1\n";
    fs::write(&main, before).unwrap();
    let folder = etc.path().join("interfaces.d");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("50-cloud-init"), "auto ens4\niface ens4 inet dhcp\n").unwrap();
    fs::write(folder.join("other"), "auto wg0\n").unwrap();
    let files = ifupdown::without_cards(&main, &setup()).unwrap();
    let after = "source-directory interfaces.d\nauto lo\niface lo inet loopback\n\
                 # the first card\niface ens9 inet manual\n  mtu 1\n";
    let wanted = [
        (main.clone(), after.to_owned(), 0o644),
        (folder.join("50-cloud-init"), String::new(), 0o644),
    ];
    assert_eq!(files, wanted);
    fs::write(&main, "auto lo\n").unwrap();
    let files = ifupdown::without_cards(&main, &setup()).unwrap();
    assert_eq!(files[0].1, "auto lo\nsource /etc/network/interfaces.d/*\n");
}

#[test]
fn setups_are_checked() {
    let refused = |change: &dyn Fn(&mut NetworkSetup)| {
        let mut wanted = wanted();
        change(&mut wanted);
        Setup::new(&wanted, &links()).unwrap_err().to_string()
    };
    let mac = refused(&|w| w.interfaces[0].mac = vec![9; 6].into());
    assert_eq!(mac, "find the network interface 09:09:09:09:09:09");
    assert!(refused(&|w| w.interfaces[1].name = "lo".into()).contains("lo"));
    assert!(refused(&|w| w.interfaces[1].name = "ens3".into()).contains("twice"));
    assert!(refused(&|w| w.interfaces.clear()).contains("interfaces"));
    assert!(refused(&|w| w.interfaces[0].mtu = 20).contains("MTU"));
    assert!(refused(&|w| w.interfaces[0].addresses[0].prefix = 33).contains("/33"));
    assert!(refused(&|w| w.dns[0] = vec![1].into()).contains("4 nor 16"));
    assert!(refused(&|w| w.search[0] = "a\nb".into()).contains("domain"));
    assert!(
        refused(
            &|w| w.interfaces[0].routes[0].to = Some(Address { ip: vec![0; 16].into(), prefix: 0 })
        )
        .contains("family")
    );
}

#[test]
fn whoever_is_there_does_it() {
    let root = tempfile::tempdir().unwrap();
    let all = |_: &str| true;
    assert_eq!(By::choose(root.path(), all), By::Netplan);
    assert_eq!(By::choose(root.path(), |name| name != "netplan"), By::Addresses);
    fs::create_dir_all(root.path().join("etc/network")).unwrap();
    fs::write(root.path().join("etc/network/interfaces"), "").unwrap();
    assert_eq!(By::choose(root.path(), |name| name != "netplan"), By::Ifupdown);
    fs::create_dir_all(root.path().join("run/systemd/netif")).unwrap();
    assert_eq!(By::choose(root.path(), |name| name != "netplan"), By::Networkd);
    assert_eq!(By::choose(root.path(), |name| name == "ifup"), By::Ifupdown);
}
