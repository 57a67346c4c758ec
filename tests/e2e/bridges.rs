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
    let Some((host, here, outside)) = ground("ports_lead_to_vms_whatever_happens") else { return };
    host.import("base");
    let vm =
        ["vm", "create", "--image", "base", "--name", "web", "-p", "8080:80", "-p", "5353:53/udp"];
    host.inn(vm).ok();
    let address = host.inn(["vm", "ip", "web"]).ok();
    serve(&host);
    let inside = exec(&host, "web", "cat /proc/net/fib_trie /etc/resolv.conf");
    assert!(inside.contains(address.trim()), "{address} is not in {inside}");
    until_answers(&outside, "at first");

    host.kill_agent();
    assert!(answers(&outside), "without an agent");
    host.start_agent();
    until_answers(&outside, "under the next agent");
    here.program("/usr/sbin/nft", &["flush", "ruleset"]).unwrap();
    until_answers(&outside, "after a flush of the ruleset");

    host.inn(["vm", "restart", "web", "--force"]).ok();
    assert_eq!(host.inn(["vm", "ip", "web"]).ok(), address, "its address is its own");
    serve(&host);
    until_answers(&outside, "after the VM's restart");
    host.inn(["port", "delete", "8080/tcp"]).ok();
    assert!(http(&outside, OURS).is_none());
    host.inn(["vm", "delete", "web", "--force"]).ok();
    let taps = here.program("/sbin/ip", &["-br", "link"]).unwrap();
    assert!(!taps.contains("inn-t"), "{taps}");
    host.stop_agent();
    host.finish();
}

/// What a VM must not reach it tries to, and its names it resolves.
pub(crate) fn a_vm_reaches_what_it_may_and_no_more() {
    let Some((host, here, outside)) = ground("a_vm_reaches_what_it_may_and_no_more") else {
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

/// The host's namespace, with an agent in it that has the image mini, and the
/// world's behind a cable.
fn ground(test: &str) -> Option<(Host, Netns, Netns)> {
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
    host.start_agent();
    host.import("mini");
    Some((host, here, outside))
}

fn exec(host: &Host, vm: &str, script: &str) -> String {
    host.inn(["vm", "exec", vm, "--", "sh", "-c", script]).ok()
}

/// HTTP on port 80 and an echo on port 53 over UDP, in the VM web.
pub(crate) fn serve(host: &Host) {
    const SERVERS: &str = r"
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
