//! VMs on bridges of a host of their own: in one network namespace the agent,
//! in another who asks from outside.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use inn_tests::netns::Netns;
use inn_tests::{Host, wait};

/// One attempt to get an answer; an emulated guest takes its time.
const ATTEMPT: Duration = Duration::from_secs(2);

const OURS: &str = "192.0.2.1";
const OURS6: &str = "2001:db8::1";

/// A VM answers over HTTP and UDP, from its start to its end and over all that
/// happens to the agent and to its host's firewall.
pub(crate) fn ports_lead_to_vms_whatever_happens() {
    let docker = "network.foreign = \"docker-user\"\n";
    let Some((host, here, outside)) = ground("ports_lead_to_vms_whatever_happens", docker) else {
        return;
    };
    host.import("base");
    let vm =
        ["vm", "create", "--image", "base", "--name", "web", "-p", "8080:80", "-p", "5353:53/udp"];
    host.inn(vm).ok();
    let address = host.inn(["vm", "ip", "web"]).ok();
    serve(&host);
    let inside = exec(&host, "web", "cat /proc/net/fib_trie /etc/resolv.conf");
    assert!(inside.contains(address.trim()), "{address} is not in {inside}");
    until_answers(&outside, "at first");
    nobody_elses_name(&host, &here, &outside, address.trim());
    beside_docker(&here, &outside);

    host.kill_agent();
    assert!(answers(&outside), "without an agent");
    host.start_agent();
    until_answers(&outside, "under the next agent");
    here.program("/usr/sbin/nft", &["flush", "ruleset"]).unwrap();
    until_answers(&outside, "after a flush of the ruleset");

    let address = at_other_addresses(&host, &outside, &address);
    host.inn(["vm", "restart", "web", "--force"]).ok();
    assert_eq!(host.inn(["vm", "ip", "web"]).ok(), address, "its address is its own");
    serve(&host);
    until_answers(&outside, "after the VM's restart");
    let again = ["vm", "create", "--replace", "--image", "base", "--name", "web"];
    let wish = format!("{}.78", address.trim().rsplit_once('.').unwrap().0);
    let more = ["-p", "8080:80", "-p", "5353:53/udp", "--ip", &wish];
    host.inn(again.into_iter().chain(more)).ok();
    serve(&host);
    assert_eq!(host.inn(["vm", "ip", "web"]).ok().trim(), wish, "the one that it was made with");
    until_answers(&outside, "at its other address");
    host.inn(["port", "delete", "8080/tcp"]).ok();
    assert!(http(&outside, OURS).is_none());
    host.inn(["vm", "delete", "web", "--force"]).ok();
    let taps = here.program("/sbin/ip", &["-br", "link"]).unwrap();
    assert!(!taps.contains("inn-t"), "{taps}");
    host.stop_agent();
    host.finish();
}

/// The maps follow a VM that runs to its other addresses, with what serves in
/// it, under this agent and the next one. The last one's IPv4.
fn at_other_addresses(host: &Host, outside: &Netns, before: &str) -> String {
    let net = before.trim().rsplit_once('.').unwrap().0;
    let other = format!("{net}.77");
    let said = host.inn(["vm", "ip", "web", "--set", &other, "--set", "auto6"]).ok();
    assert_eq!(said.trim(), other);
    until_answers(outside, "at another address, while it runs");
    let inside = exec(host, "web", "cat /proc/net/fib_trie");
    let has = |address: &str| inside.contains(&format!("-- {address}\n"));
    assert!(has(&other) && !has(before.trim()), "{inside}");
    let gateway = format!("{net}.1");
    host.inn(["vm", "ip", "web", "--set", &gateway]).refused(1, &["the gateway"]);
    host.kill_agent();
    host.start_agent();
    let last = host.inn(["vm", "ip", "web", "--set", "auto"]).ok();
    assert!(last.trim() != other && last != before, "one that nobody had: {last}");
    until_answers(outside, "at the address that the node has chosen");
    last
}

/// What a VM must not reach it tries to, and its names it resolves.
pub(crate) fn a_vm_reaches_what_it_may_and_no_more() {
    let Some((host, here, outside)) = ground("a_vm_reaches_what_it_may_and_no_more", "") else {
        return;
    };
    for name in ["one", "two"] {
        host.inn(["vm", "create", "--image", "mini", "--name", name]).ok();
    }
    let address = |name: &str| host.inn(["vm", "ip", name]).ok().trim().to_owned();
    let two = address("two");
    exec(&host, "two", "nc -ll -p 80 -e /bin/hostname >/dev/null 2>&1 & true");
    let network = host.inn(["network", "show", "default", "-o", "json"]).json();
    let gateway = network[0]["gateways"][0].as_str().unwrap().to_owned();
    // Something of the host's that listens everywhere.
    let service = here.run(|| TcpListener::bind("0.0.0.0:0").unwrap());
    let port = service.local_addr().unwrap().port();
    let world = outside.run(|| TcpListener::bind("0.0.0.0:80").unwrap());
    std::thread::spawn(move || {
        for stream in world.incoming() {
            drop(stream.unwrap().write_all(b"the world\n"));
        }
    });
    let reach = |script: &str| exec(&host, "one", &format!("{script} 2>&1; true"));

    // Its sibling by name, and the world.
    let named = reach("nslookup two.default.inn.internal");
    assert!(named.contains(&two), "{two} is not in {named}");
    assert!(reach("nc -w 5 192.0.2.9 80 </dev/null").contains("the world"));
    // Neither its sibling, nor the host, nor a cloud's metadata.
    for (to, port) in [(&*two, 80), (&gateway, port), (OURS, port), ("169.254.169.254", 80)] {
        let said = reach(&format!("nc -w 2 {to} {port} </dev/null; echo ended $?"));
        assert!(!said.contains("ended 0"), "{to}:{port}: {said}");
    }
    let other = two.replace(".3", ".77");
    let spoofed = reach(&format!(
        "ip addr add {other}/32 dev eth0
         ip route replace default via {gateway} src {other}
         nc -w 2 192.0.2.9 80 </dev/null; echo ended $?
         ip addr del {other}/32 dev eth0; ip route replace default via {gateway}"
    ));
    assert!(!spoofed.contains("ended 0"), "another's address: {spoofed}");

    by_link_local_addresses(&host, &here, &network[0], port);

    // DNS over TCP is a port like any other.
    let resolver = outside.run(|| TcpListener::bind("0.0.0.0:53").unwrap());
    std::thread::spawn(move || {
        for stream in resolver.incoming() {
            drop(stream.unwrap().write_all(b"the world\n"));
        }
    });
    for (protocol, answers) in [("udp", false), ("tcp", true)] {
        let file = host.home().join("policy.json");
        let rules = format!(
            r#"{{ "mode": "rules", "rules": [{{ "protocol": "{protocol}", "ports": ["53"] }}] }}"#
        );
        std::fs::write(&file, rules).unwrap();
        host.inn(["vm", "policy", "one", "--file"]).args([file.as_os_str()]).ok();
        let said = reach("nc -w 3 192.0.2.9 53 </dev/null");
        assert_eq!(said.contains("the world"), answers, "by {protocol} only: {said}");
    }

    // With no policy at all not even the world, at once.
    host.inn(["vm", "policy", "one", "none"]).ok();
    let said = reach("nc -w 2 192.0.2.9 80 </dev/null; echo ended $?");
    assert!(!said.contains("ended 0"), "{said}");
    let shown = host.inn(["vm", "policy", "one"]).ok();
    assert!(shown.contains("denied"), "what was denied is counted: {shown}");
    host.inn(["vm", "policy", "one", "allow_all"]).ok();
    assert!(reach("nc -w 5 192.0.2.9 80 </dev/null").contains("the world"));
    host.inn(["vm", "delete", "--all", "--force"]).ok();
    host.stop_agent();
    host.finish();
}

/// Neither a sibling nor the host, who both listen there.
fn by_link_local_addresses(host: &Host, here: &Netns, network: &serde_json::Value, port: u16) {
    let of = |text: &str| {
        let found = text.split_whitespace().find(|word| word.starts_with("fe80:"));
        let found = found.unwrap_or_else(|| panic!("no link-local address: {text}"));
        found.split('/').next().unwrap().to_owned()
    };
    let two = of(&exec(host, "two", "ip -6 addr show dev eth0"));
    let bridge = network["bridge"].as_str().unwrap();
    let gateway = of(&here.program("/sbin/ip", &["-6", "addr", "show", "dev", bridge]).unwrap());
    let own = exec(host, "two", &format!("nc -w 5 {two}%eth0 80 </dev/null; echo ended $?"));
    assert!(own.contains("two"), "it listens there: {own}");
    let _listens = here.run(|| TcpListener::bind(("::", port)));
    for (to, port) in [(two, 80), (gateway, port)] {
        let script = format!("nc -w 2 {to}%eth0 {port} </dev/null 2>&1; echo ended $?");
        let said = exec(host, "one", &script);
        assert!(!said.contains("ended 0"), "{to}: {said}");
    }
}

/// Frames that the guest's kernel would not send: another's address claimed by
/// ARP, another's MAC, and a packet from another's address.
fn nobody_elses_name(host: &Host, here: &Netns, outside: &Netns, address: &str) {
    const FRAMES: &str = r"
import socket, struct, sys
own, other, world = (socket.inet_aton(a) for a in sys.argv[1:4])
mac = bytes.fromhex(open('/sys/class/net/eth0/address').read().strip().replace(':', ''))
far = bytes.fromhex('020000000099')
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(('eth0', 0))
def arp(mac, ip):
    return b'\xff' * 6 + mac + struct.pack('!HHHBBH', 0x806, 1, 0x800, 6, 4, 2) + mac + ip + b'\xff' * 6 + ip
def checksum(data):
    total = sum(struct.unpack('!%dH' % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
udp = struct.pack('!HHHH', 7, 9999, 8 + 7, 0) + b'spoofed'
head = struct.pack('!BBHHHBBH', 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0) + other + world
head = head[:10] + struct.pack('!H', checksum(head)) + head[12:]
for frame in [arp(mac, other), arp(far, own), b'\xff' * 6 + mac + b'\x08\x00' + head + udp]:
    for _ in range(3):
        s.send(frame)
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'honest', (sys.argv[3], 9999))
";
    let ears = outside.run(|| UdpSocket::bind("0.0.0.0:9999").unwrap());
    ears.set_read_timeout(Some(wait::PATIENCE)).unwrap();
    let other = format!("{}.99", address.rsplit_once('.').unwrap().0);
    let script = ["vm", "exec", "web", "--", "python3", "-c", FRAMES, address, &other, "192.0.2.9"];
    host.inn(script).ok();
    let mut heard = [0; 16];
    let length = ears.recv(&mut heard).unwrap();
    assert_eq!(&heard[..length], b"honest", "what came in another's name was kept");
    wait::until("all of it is counted", || {
        let policy = host.inn(["vm", "policy", "web", "-o", "json"]).ok();
        ["another's address by ARP", "another's MAC", "another's IPv4 address"]
            .iter()
            .all(|what| policy.contains(what))
            .then_some(())
    });
    let known = here.program("/sbin/ip", &["neigh", "show"]).unwrap();
    assert!(!known.contains(&other), "the host has believed it: {known}");
}

/// Docker's FORWARD drops what its own chains do not accept; the agent is told
/// to have its DOCKER-USER let VMs through.
fn beside_docker(here: &Netns, outside: &Netns) {
    const IPTABLES: &str = "/usr/sbin/iptables-nft";
    const IP6TABLES: &str = "/usr/sbin/ip6tables-nft";
    if !std::path::Path::new(IPTABLES).exists() {
        return println!("SKIPPED what Docker makes, beside ports: no {IPTABLES}");
    }
    for program in [IPTABLES, IP6TABLES] {
        for arguments in [
            "-N DOCKER-USER",
            "-N DOCKER-FORWARD",
            "-A FORWARD -j DOCKER-USER",
            "-A FORWARD -j DOCKER-FORWARD",
            "-A DOCKER-FORWARD -i docker0 -j ACCEPT",
            "-P FORWARD DROP",
        ] {
            here.program(program, &arguments.split_whitespace().collect::<Vec<_>>()).unwrap();
        }
    }
    until_answers(outside, "beside Docker's rules");
    for program in [IPTABLES, IP6TABLES] {
        let rules = here.program(program, &["-S"]).unwrap();
        assert!(rules.contains("-P FORWARD DROP") && rules.contains("-i inn-b"), "{rules}");
    }
}

/// The host's namespace, with an agent in it that has the image mini, and the
/// world's behind a cable.
pub(crate) fn ground(test: &str, config: &str) -> Option<(Host, Netns, Netns)> {
    let (here, outside) = match (Netns::make(), Netns::make()) {
        (Ok(here), Ok(outside)) => (here, outside),
        (Err(why), _) | (_, Err(why)) => {
            println!("SKIPPED {test}: no network namespace: {why}");
            return None;
        }
    };
    let ip = |netns: &Netns, words: &str| {
        netns.program("/sbin/ip", &words.split_whitespace().collect::<Vec<_>>()).unwrap();
    };
    ip(&here, &format!("link add up0 type veth peer name far0 netns {}", outside.path()));
    for (netns, card, addresses) in [
        (&here, "up0", ["192.0.2.1/24", "2001:db8::1/64"]),
        (&outside, "far0", ["192.0.2.9/24", "2001:db8::9/64"]),
    ] {
        ip(netns, &format!("link set {card} up"));
        ip(netns, &format!("addr add {} dev {card}", addresses[0]));
        ip(netns, &format!("addr add {} dev {card} nodad", addresses[1]));
    }
    ip(&here, "-4 route add default via 192.0.2.9");
    ip(&here, "-6 route add default via 2001:db8::9");
    let host = Host::bare().with_bridges(&here);
    std::fs::write(host.config(), config).unwrap();
    host.start_agent();
    host.import("mini");
    Some((host, here, outside))
}

fn exec(host: &Host, vm: &str, script: &str) -> String {
    host.inn(["vm", "exec", vm, "--", "sh", "-c", script]).ok()
}

/// HTTP on port 80 and an echo on port 53 over UDP.
pub(crate) const SERVERS: &str = r"
import socket, threading
def bound(kind, port):
    s = socket.socket(socket.AF_INET6, kind)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    s.bind(('::', port))
    return s
def http(s):
    s.listen()
    while True:
        c, _ = s.accept()
        c.recv(1000)
        c.sendall(b'HTTP/1.0 200 OK\r\n\r\nhello')
        c.close()
def echo(s):
    while True:
        data, who = s.recvfrom(1000)
        s.sendto(data, who)
threading.Thread(target=echo, args=[bound(socket.SOCK_DGRAM, 53)]).start()
http(bound(socket.SOCK_STREAM, 80))
";

/// In the VM web.
pub(crate) fn serve(host: &Host) {
    host.inn(["vm", "exec", "-d", "web", "--", "python3", "-c", SERVERS]).ok();
}

fn http(from: &Netns, address: &str) -> Option<()> {
    serves(from, SocketAddr::new(address.parse::<IpAddr>().unwrap(), 8080))
}

fn udp(from: &Netns, address: &str) -> Option<()> {
    echoes(from, SocketAddr::new(address.parse::<IpAddr>().unwrap(), 5353))
}

/// What [`serve`] serves by HTTP, once.
pub(crate) fn serves(from: &Netns, to: SocketAddr) -> Option<()> {
    from.run(move || {
        let mut stream = TcpStream::connect_timeout(&to, ATTEMPT).ok()?;
        stream.set_read_timeout(Some(ATTEMPT)).ok()?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
        let mut said = String::new();
        stream.read_to_string(&mut said).ok()?;
        said.contains("hello").then_some(())
    })
}

/// And by UDP.
pub(crate) fn echoes(from: &Netns, to: SocketAddr) -> Option<()> {
    from.run(move || {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).unwrap();
        socket.set_read_timeout(Some(ATTEMPT)).unwrap();
        let mut answer = [0; 16];
        socket.send_to(b"over udp", to).ok()?;
        let length = socket.recv(&mut answer).ok()?;
        (&answer[..length] == b"over udp").then_some(())
    })
}

fn answers(from: &Netns) -> bool {
    [OURS, OURS6].iter().all(|to| http(from, to).is_some() && udp(from, to).is_some())
}

fn until_answers(from: &Netns, when: &str) {
    wait::until(&format!("it answers {when}"), || answers(from).then_some(()));
}
