//! Networks and port maps with the kernel itself, in network namespaces of the
//! tests' own: in one the agent, in the others who asks and who is asked.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use inn_host::netns::Netns;
use inn_vmm_sim::Behaviour;
use serde_json::{Value, json};

use super::PATIENCE;
use super::agent::{TestAgent, request};

/// One attempt to get an answer.
const ATTEMPT: Duration = Duration::from_millis(500);

pub(super) const BRIDGE: (&str, &str) = ("network.mode", "bridge");

/// Runs a test in a namespace of its own, or says why not.
pub(super) fn in_namespace<F: Future<Output = ()>>(
    name: &'static str,
    test: impl FnOnce() -> F + Send + 'static,
) {
    let netns = match Netns::make() {
        Ok(netns) => netns,
        Err(why) => return println!("SKIPPED {name}: no network namespace: {why}"),
    };
    netns.run(move || {
        ip("link set lo up");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(test());
        runtime.shutdown_background();
    });
}

/// In the calling thread's namespace.
#[expect(clippy::disallowed_methods, reason = "a program of others, in a test")]
pub(super) fn program(words: &str) -> String {
    let mut words = words.split_whitespace();
    let name = words.next().unwrap();
    let output = Command::new(name).args(words.clone()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} {:?}: {error}", words.collect::<Vec<_>>());
    String::from_utf8(output.stdout).unwrap()
}

pub(super) fn ip(words: &str) {
    program(&format!("ip {words}"));
}

/// By its instance.
pub(super) fn own_table() -> String {
    let tables = program("nft list tables inet");
    let name = tables.split_whitespace().find(|word| word.starts_with("innkeeper"));
    name.unwrap_or("innkeeper").to_owned()
}

/// Another namespace, and the cable to it: `near` on this side.
fn neighbour(near: &str, subnets: [(&str, &str); 2], through: bool) -> Netns {
    use std::os::fd::{AsFd, AsRawFd};

    let there = Netns::make().unwrap();
    let (pid, fd) = (std::process::id(), there.as_fd().as_raw_fd());
    let far = format!("{near}-far");
    ip(&format!("link add {near} type veth peer name {far}"));
    ip(&format!("link set {far} netns /proc/{pid}/fd/{fd}"));
    ip(&format!("link set {near} up"));
    for (here, _) in subnets {
        ip(&format!(
            "addr add {here} dev {near} {}",
            if here.contains(':') { "nodad" } else { "" }
        ));
    }
    let subnets = subnets.map(|(here, there)| (here.to_owned(), there.to_owned()));
    there.run(move || {
        ip("link set lo up");
        ip(&format!("link set {far} up"));
        for (here, there) in subnets {
            let v6 = there.contains(':');
            ip(&format!("addr add {there} dev {far} {}", if v6 { "nodad" } else { "" }));
            let gateway = here.split('/').next().unwrap();
            if through {
                ip(&format!("{} route add default via {gateway}", if v6 { "-6" } else { "-4" }));
            }
        }
    });
    there
}

/// Switches a setting of the calling thread's namespace on, if there is one.
fn setting(file: &str) -> bool {
    std::fs::write(format!("/proc/sys/{file}"), "1").is_ok()
}

/// Who asks: outside, behind the host's addresses 192.0.2.1 and 2001:db8::1.
fn outside() -> Netns {
    let subnets = [("192.0.2.1/24", "192.0.2.9/24"), ("2001:db8::1/64", "2001:db8::9/64")];
    let there = neighbour("up0", subnets, false);
    // The uplink, by which the host forwards.
    ip("-4 route add default via 192.0.2.9");
    ip("-6 route add default via 2001:db8::9");
    there
}

/// Who is asked: 10.50.0.2 and fd50::2, with HTTP and an echo over UDP.
fn server() -> Netns {
    let there =
        neighbour("srv0", [("10.50.0.1/24", "10.50.0.2/24"), ("fd50::1/64", "fd50::2/64")], true);
    // It is on none of our bridges: what it answers the host's owner lets through.
    setting("net/ipv4/conf/srv0/forwarding");
    if !setting("net/ipv6/conf/srv0/force_forwarding") {
        setting("net/ipv6/conf/all/forwarding");
    }
    there.run(|| {
        for address in ["10.50.0.2:80", "[fd50::2]:80"] {
            let listener = TcpListener::bind(address).unwrap();
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let mut stream = stream.unwrap();
                    let mut head = [0; 1024];
                    // A client that goes is gone.
                    let _ = stream.read(&mut head);
                    let from =
                        stream.peer_addr().map(|from| from.ip().to_string()).unwrap_or_default();
                    let head = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhello ";
                    let _ = stream.write_all(format!("{head}{from}").as_bytes());
                }
            });
        }
        for address in ["10.50.0.2:53", "[fd50::2]:53"] {
            let socket = UdpSocket::bind(address).unwrap();
            std::thread::spawn(move || {
                let mut buffer = [0; 512];
                while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(&buffer[..length], from);
                }
            });
        }
    });
    there
}

/// What it says over HTTP, if it answers.
fn http(from: &Netns, to: SocketAddr) -> Option<String> {
    from.run(move || {
        let mut stream = TcpStream::connect_timeout(&to, ATTEMPT).ok()?;
        stream.set_read_timeout(Some(ATTEMPT)).ok()?;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").ok()?;
        let mut said = String::new();
        stream.read_to_string(&mut said).ok()?;
        said.starts_with("HTTP/1.1 200").then(|| said.rsplit("\r\n").next().unwrap().to_owned())
    })
}

fn udp(from: &Netns, to: SocketAddr) -> bool {
    from.run(move || {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).unwrap();
        socket.set_read_timeout(Some(ATTEMPT)).unwrap();
        let mut answer = [0; 16];
        socket.send_to(b"over udp", to).is_ok()
            && socket.recv(&mut answer).is_ok_and(|length| &answer[..length] == b"over udp")
    })
}

/// How long it takes until it is so.
fn until(what: &str, mut so: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        std::thread::yield_now();
    }
    start.elapsed()
}

fn host(text: &str, port: u16) -> SocketAddr {
    SocketAddr::new(text.parse::<IpAddr>().unwrap(), port)
}

/// Those of the four maps that nobody answers at.
fn silent(outside: &Netns) -> Vec<String> {
    let mut silent = Vec::new();
    for address in ["192.0.2.1", "2001:db8::1"] {
        if http(outside, host(address, 8080)).is_none() {
            silent.push(format!("{address} 8080/tcp"));
        }
        if !udp(outside, host(address, 5353)) {
            silent.push(format!("{address} 5353/udp"));
        }
    }
    silent
}

fn all_answer(outside: &Netns) -> bool {
    silent(outside).is_empty()
}

#[test]
fn ports_lead_where_they_are_to_whatever_happens() {
    in_namespace("ports_lead_where_they_are_to_whatever_happens", || async {
        let (outside, _server) = (outside(), server());
        let mut agent = TestAgent::with(&[BRIDGE], Behaviour::default()).await;
        assert!(http(&outside, host("192.0.2.1", 8080)).is_none());
        let to = |port: u16, address: &str, target: u16, protocol: &str| {
            json!({ "hostPort": port, "targetAddress": address, "targetPort": target,
                    "protocol": protocol, "hostAddress": if address.contains(':') { "2001:db8::1" } else { "192.0.2.1" } })
        };
        let maps = json!({ "ports": [
            to(8080, "10.50.0.2", 80, "tcp"),
            to(8080, "fd50::2", 80, "tcp"),
            to(5353, "10.50.0.2", 53, "udp"),
            to(5353, "fd50::2", 53, "udp"),
        ] });
        let made = agent.client.post("/api/ports", &maps).await;
        assert_eq!(made.status, 201, "{}", made.json());
        // The kernel looks for no neighbour in another's name before it has made
        // sure of its own link-local address (net/ipv6/ndisc.c, ndisc_solicit).
        until("all four answer", || all_answer(&outside));
        // The target sees who asks, unless it is to see the host.
        assert_eq!(http(&outside, host("192.0.2.1", 8080)).unwrap(), "hello 192.0.2.9");
        let masked = json!({ "hostPort": 8081, "targetAddress": "10.50.0.2", "targetPort": 80,
                             "masquerade": true });
        agent.client.post("/api/ports", &masked).await.ok();
        assert_eq!(http(&outside, host("192.0.2.1", 8081)).unwrap(), "hello 10.50.0.1");

        // Somebody's reload of the firewall is noticed, and undone.
        program("nft flush ruleset");
        let took = until("mended after a flush", || all_answer(&outside));
        println!("mended {} ms after the flush", took.as_millis());
        program("nft flush ruleset");
        let restored = agent.client.post("/api/ports/restore", &json!({})).await.ok();
        assert_eq!(restored["ports"], 5);
        assert!(all_answer(&outside));
        let nothing = agent.client.post("/api/ports/restore", &json!({})).await.ok();
        assert_eq!(nothing["mended"], json!([]), "{nothing}");

        // Between two lives of the agent they hold, and in the next one.
        agent.die().await;
        assert!(all_answer(&outside));
        program("nft flush ruleset");
        assert!(!all_answer(&outside));
        let agent = agent.live_on().await;
        assert!(all_answer(&outside), "restored before anything is served");

        let listed = agent.client.get("/api/ports").await.ok();
        let items = listed["items"].as_array().unwrap();
        assert_eq!(items.len(), 5);
        for map in items {
            agent.client.delete(&format!("/api/ports/{}", map["id"].as_str().unwrap())).await.ok();
        }
        assert!(http(&outside, host("192.0.2.1", 8080)).is_none());
        assert!(http(&outside, host("2001:db8::1", 8080)).is_none());
    });
}

#[test]
fn a_port_that_is_somebodys_is_refused_with_whose() {
    in_namespace("a_port_that_is_somebodys_is_refused_with_whose", || async {
        let flags = [BRIDGE, ("ports.reserved", "22,6000-6010/udp"), ("api_listen", "127.0.0.1:0")];
        let agent = TestAgent::with(&flags, Behaviour::default()).await;
        agent.create("web", json!({ "ports": [{ "hostPort": 8080, "targetPort": 80 }] })).await;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let listening = listener.local_addr().unwrap().port();
        let api = agent.tcp().port();
        let to_web = |port: u16| json!({ "hostPort": port, "vm": "web" });
        for (map, words) in [
            (to_web(8080), "mapped to the VM web already".to_owned()),
            (to_web(22), "ports.reserved".to_owned()),
            (to_web(api), "the agent's API".to_owned()),
            (to_web(listening), format!("(pid {}) listens on", std::process::id())),
        ] {
            let (status, code, detail) = agent.client.post("/api/ports", &map).await.problem();
            assert_eq!((status, code.as_str()), (409, "in-use"), "{map}: {detail}");
            assert!(detail.contains(&words), "{map}: {detail}");
        }
        for (map, words) in [
            (json!({ "hostPort": 1 }), "leads nowhere"),
            (json!({ "hostPort": 0, "vm": "web" }), "port 0"),
            (json!({ "hostPort": 1, "vm": "web", "targetAddress": "10.0.0.1" }), "give it one"),
            (json!({ "hostPort": 1, "targetAddress": "127.0.0.1" }), "this host itself"),
        ] {
            let (status, _, detail) = agent.client.post("/api/ports", &map).await.problem();
            assert!(status == 400 && detail.contains(words), "{map}: {status} {detail}");
        }
        let both = json!({ "ports": [to_web(9000), to_web(22)] });
        assert_eq!(agent.client.post("/api/ports", &both).await.problem().0, 409);
        let listed = agent.client.get("/api/ports").await.ok();
        assert_eq!(listed["items"].as_array().unwrap().len(), 1, "all or none: {listed}");
        assert_eq!(
            agent
                .client
                .post("/api/ports", &json!({ "hostPort": 1, "vm": "no" }))
                .await
                .problem()
                .0,
            404
        );
        let ids = &listed["items"][0];
        assert_eq!((&ids["vm"], &ids["name"]), (&json!("web"), &json!("8080/tcp")));

        // The ports of a VM that is replaced are the next one's, and go with it.
        let again = json!({ "replace": true, "ports": [{ "hostPort": 8080, "targetPort": 81 }] });
        let vm = agent.create("web", again).await;
        assert_eq!(vm["ports"][0]["targetPort"], 81, "{vm}");
        assert_eq!(agent.client.get("/api/ports").await.ok()["items"].as_array().unwrap().len(), 1);
        agent.client.delete("/api/vms/web?force=true&wait=60s").await.ok();
        assert_eq!(agent.client.get("/api/ports").await.ok()["items"], json!([]));
    });
}

#[test]
fn a_network_has_its_bridge_its_vms_and_their_addresses() {
    in_namespace("a_network_has_its_bridge_its_vms_and_their_addresses", || async {
        let agent = TestAgent::with(&[BRIDGE], Behaviour::default()).await;
        let client = &agent.client;
        let own = client.get("/api/networks/default").await.ok();
        assert!(own["ipv4"].is_string() && own["ipv6"].is_string(), "{own}");
        let lab = json!({ "name": "lab", "ipv4": "10.77.0.0/29", "kind": "isolated" });
        let made = client.post("/api/networks", &lab).await;
        assert_eq!(made.status, 201, "{}", made.json());
        let lab = made.json();
        assert_eq!(lab["gateways"], json!(["10.77.0.1"]));
        let bridge = lab["bridge"].as_str().unwrap().to_owned();
        assert!(program(&format!("ip -4 addr show {bridge}")).contains("10.77.0.1/29"));
        for (network, status, words) in [
            (json!({ "name": "lab" }), 409, "already"),
            (json!({ "name": "b", "ipv4": "10.77.0.0/24" }), 409, "the network lab"),
            (json!({ "name": "b", "ipv4": "10.77.0.1" }), 400, "10.99.0.0/24"),
            (json!({ "name": "none" }), 400, "else"),
            (json!({ "name": "b", "uplink": "eth9" }), 400, "eth9"),
        ] {
            let answer = client.post("/api/networks", &network).await.problem();
            assert!(answer.0 == status && answer.2.contains(words), "{network}: {answer:?}");
        }

        let vm = agent.create("web", json!({ "network": "lab" })).await;
        assert_eq!((&vm["network"], &vm["addresses"]), (&json!("lab"), &json!(["10.77.0.2"])));
        let told = client.get("/api/vms/web/ip").await.ok();
        assert_eq!(
            (&told["ipv4"], &told["name"]),
            (&json!("10.77.0.2"), &json!("web.lab.inn.internal"))
        );
        let none = agent.create("quiet", json!({ "network": "none" })).await;
        assert_eq!(none.get("addresses"), None);
        assert_eq!(client.get("/api/vms/quiet/ip").await.problem().0, 409);
        let nowhere = client.post("/api/vms", &request("x", json!({ "network": "nowhere" }))).await;
        assert!(nowhere.problem().2.contains("inn network create nowhere"));
        let (status, _, detail) = client.delete("/api/networks/lab").await.problem();
        assert!(status == 409 && detail.contains("the VM web is on it"), "{status} {detail}");

        // The address stays the VM's, over restarts of it and of the agent.
        client.post("/api/vms/web/restart?wait=60s", &json!({})).await.ok();
        let agent = agent.live_on().await;
        assert_eq!(agent.vm("web").await["addresses"], json!(["10.77.0.2"]));
        // And is another's last of all.
        agent.client.delete("/api/vms/web?force=true&wait=60s").await.ok();
        let vm = agent.create("next", json!({ "network": "lab" })).await;
        assert_eq!(vm["addresses"], json!(["10.77.0.3"]));
        agent.client.delete("/api/vms/next?force=true&wait=60s").await.ok();
        agent.client.delete("/api/networks/lab").await.ok();
        assert!(!program("ip -br link").contains(&bridge));
        assert_eq!(agent.client.get("/api/networks/lab").await.problem().0, 404);
        let (status, _, detail) = agent.client.delete("/api/networks/default").await.problem();
        assert!(status == 400 && detail.contains("cannot be deleted"), "{status} {detail}");
        let plan = agent.client.get("/api/node/network-plan").await.ok();
        assert!(plan["script"].as_str().unwrap().contains("table inet innkeeper"), "{plan}");
    });
}

#[test]
fn a_vms_address_changes_while_it_runs_and_all_follows() {
    in_namespace("a_vms_address_changes_while_it_runs_and_all_follows", || async {
        let agent = TestAgent::with(&[BRIDGE], Behaviour::default()).await;
        let lab = json!({ "name": "lab", "ipv4": "10.77.0.0/29", "ipv6": "fd77::/64" });
        assert_eq!(agent.client.post("/api/networks", &lab).await.status, 201);
        let ports = json!([{ "hostPort": 8080, "targetPort": 80 }]);
        agent.create("web", json!({ "network": "lab", "ports": ports })).await;
        agent.create("two", json!({ "network": "lab" })).await;
        let own6 = agent.client.get("/api/vms/web/ip").await.ok()["ipv6"].clone();
        let ask = async |agent: &TestAgent, change: Value| {
            agent.client.patch("/api/vms/web/ip", &change).await
        };
        // As the guest has them, the kernel's neighbours and the maps.
        let is_at = async |agent: &TestAgent, ipv4: &str, other: &str| {
            let now = agent.client.get("/api/vms/web/ip").await.ok();
            assert_eq!(now["ipv4"], json!(ipv4), "{now}");
            let stats = agent.client.get("/api/vms/web/stats?fresh=true").await.ok();
            let told = &stats["now"]["interfaces"][0]["addresses"];
            let ipv6 = format!("{}/64", now["ipv6"].as_str().unwrap());
            assert_eq!(told, &json!([format!("{ipv4}/29"), ipv6]), "{stats}");
            let neighbours = program("ip neigh show nud permanent");
            let has = |address: &str| neighbours.contains(&format!("{address} "));
            assert!(has(ipv4) && !has(other), "{neighbours}");
            let rules = program("nft list ruleset");
            assert!(rules.contains(&format!("{ipv4} . 80")), "{rules}");
            assert!(!rules.contains(&format!("{other} ")), "{other} is there still: {rules}");
        };
        let moved = ask(&agent, json!({ "ipv4": "10.77.0.5" })).await.ok();
        let name = "web.lab.inn.internal";
        assert_eq!(
            moved,
            json!({ "ipv4": "10.77.0.5", "ipv6": own6, "name": name, "source": "lease" })
        );
        is_at(&agent, "10.77.0.5", "10.77.0.2").await;
        ask(&agent, json!({ "ipv4": "10.77.0.5", "ipv6": "fd77::5" })).await.ok();
        is_at(&agent, "10.77.0.5", "10.77.0.2").await;
        assert_eq!(agent.vm("web").await["addresses"], json!(["10.77.0.5", "fd77::5"]));

        for (change, status, words) in [
            (json!({ "ipv4": "10.77.0.3" }), 409, "the VM two's"),
            (json!({ "ipv4": "10.77.0.1" }), 400, "the gateway"),
            (json!({ "ipv4": "10.78.0.4" }), 400, "not in 10.77.0.0/29"),
            (json!({}), 400, "ipv4, ipv6 or both"),
        ] {
            let (code, _, detail) = ask(&agent, change.clone()).await.problem();
            assert!(code == status && detail.contains(words), "{change}: {code} {detail}");
        }

        // Over a restart, and in the agent's next life.
        agent.client.post("/api/vms/web/restart?wait=60s", &json!({})).await.ok();
        is_at(&agent, "10.77.0.5", "10.77.0.2").await;
        let agent = agent.live_on().await;
        assert_eq!(agent.vm("web").await["addresses"], json!(["10.77.0.5", "fd77::5"]));
        // Another one, which nobody had; what it had is the next one's last of all.
        let auto = ask(&agent, json!({ "ipv4": null, "ipv6": null })).await.ok();
        assert_eq!((&auto["ipv4"], &auto["ipv6"]), (&json!("10.77.0.6"), &own6), "{auto}");
        is_at(&agent, "10.77.0.6", "10.77.0.5").await;
        let next = agent.create("next", json!({ "network": "lab" })).await;
        assert_eq!(next["addresses"][0], "10.77.0.4", "the one that nobody had");

        // One that stands still is told once it goes on.
        agent.client.post("/api/vms/web/pause?wait=60s", &json!({})).await.ok();
        let paused = ask(&agent, json!({ "ipv4": "10.77.0.5" })).await.ok();
        assert!(paused["pending"].as_str().unwrap().contains("paused"), "{paused}");
        agent.client.post("/api/vms/web/resume?wait=60s", &json!({})).await.ok();
        is_at(&agent, "10.77.0.5", "10.77.0.6").await;
        // One that is down begins with it.
        agent.client.post("/api/vms/web/stop?wait=60s", &json!({})).await.ok();
        let down = ask(&agent, json!({ "ipv4": "10.77.0.2" })).await.ok();
        assert_eq!(down.get("pending"), None, "{down}");
        agent.client.post("/api/vms/web/start?wait=60s", &json!({})).await.ok();
        is_at(&agent, "10.77.0.2", "10.77.0.5").await;

        agent.create("alone", json!({ "network": "none" })).await;
        let alone = agent.client.patch("/api/vms/alone/ip", &json!({ "ipv4": null })).await;
        assert!(alone.problem().2.contains("no bridge"));
    });
}

#[test]
fn a_vm_is_made_with_the_address_that_was_asked_for() {
    in_namespace("a_vm_is_made_with_the_address_that_was_asked_for", || async {
        let agent = TestAgent::with(&[BRIDGE], Behaviour::default()).await;
        let lab = json!({ "name": "lab", "ipv4": "10.77.0.0/29", "ipv6": "fd77::/64" });
        assert_eq!(agent.client.post("/api/networks", &lab).await.status, 201);
        let four = json!({ "name": "four", "ipv4": "10.78.0.0/29", "ipv6": null });
        assert_eq!(agent.client.post("/api/networks", &four).await.status, 201);
        let wish = json!({ "network": "lab", "ipv4": "10.77.0.5", "ipv6": "fd77::5" });
        let web = agent.create("web", wish.clone()).await;
        assert_eq!(web["addresses"], json!(["10.77.0.5", "fd77::5"]));
        let stats = agent.client.get("/api/vms/web/stats?fresh=true").await.ok();
        let told = &stats["now"]["interfaces"][0]["addresses"];
        assert_eq!(told, &json!(["10.77.0.5/29", "fd77::5/64"]), "{stats}");

        let image = agent.create("two", json!({ "network": "lab" })).await["image"]["name"].clone();
        for (network, more, status, words) in [
            ("lab", json!({ "ipv4": "10.77.0.5" }), 409, "the VM web's"),
            ("lab", json!({ "ipv6": "fd77::5" }), 409, "the VM web's"),
            ("lab", json!({ "ipv4": "10.77.0.1" }), 400, "the gateway"),
            ("lab", json!({ "ipv4": "10.79.0.4" }), 400, "not in 10.77.0.0/29"),
            ("lab", json!({ "ipv4": "fd77::5" }), 400, "ipv4"),
            ("four", json!({ "ipv6": "fd77::9" }), 400, "four has no IPv6"),
            ("none", json!({ "ipv4": "10.77.0.6" }), 400, "without a network has no address"),
            ("libvirt:lab", json!({ "ipv4": "10.77.0.6" }), 400, "no part in libvirt:lab"),
        ] {
            let mut body = json!({ "name": "three", "image": image, "network": network });
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let (code, _, detail) = agent.client.post("/api/vms", &body).await.problem();
            assert!(code == status && detail.contains(words), "{body}: {code} {detail}");
        }
        assert_eq!(agent.client.get("/api/vms/three").await.status, 404);

        // Who takes another's place may have that one's address, and nobody else's.
        let replace = async |wish: Value| {
            let mut body = json!({ "name": "web", "image": image, "runtime": "sim" });
            body["replace"] = true.into();
            body["start"] = true.into();
            body.as_object_mut().unwrap().extend(wish.as_object().unwrap().clone());
            agent.client.post("/api/vms?wait=60s", &body).await
        };
        let taken = agent.vm("two").await["addresses"][0].clone();
        let (code, _, detail) = replace(json!({ "network": "lab", "ipv4": taken })).await.problem();
        assert!(code == 409 && detail.contains("the VM two's"), "{code} {detail}");
        assert_eq!(agent.vm("web").await["id"], web["id"], "it stays");
        let next = replace(wish).await.ok();
        assert_ne!(next["id"], web["id"]);
        assert_eq!(agent.vm("web").await["addresses"], json!(["10.77.0.5", "fd77::5"]));

        // What it was given later holds, over a restart and another life.
        agent.client.patch("/api/vms/web/ip", &json!({ "ipv4": "10.77.0.3" })).await.ok();
        agent.client.post("/api/vms/web/restart?wait=60s", &json!({})).await.ok();
        let agent = agent.live_on().await;
        assert_eq!(agent.vm("web").await["addresses"], json!(["10.77.0.3", "fd77::5"]));
    });
}

#[test]
fn a_policy_is_kept_changed_and_put_in_force() {
    in_namespace("a_policy_is_kept_changed_and_put_in_force", || async {
        let agent = TestAgent::with(&[BRIDGE], Behaviour::default()).await;
        let rules = json!({ "mode": "rules", "rules": [
            { "protocol": "tcp", "ports": ["443"], "domain": "example.org" },
            { "action": "deny", "cidr": "10.0.0.0/8" },
        ], "rates": { "egressBps": 1 << 20 } });
        let vm = agent.create("web", json!({ "policy": rules })).await;
        assert_eq!(vm["policy"]["rules"][1]["cidr"], "10.0.0.0/8", "{vm}");
        let id = vm["id"].as_str().unwrap();
        assert!(program("nft list ruleset").contains(&format!("out-{id}")));
        let state = agent.client.put("/api/vms/web/policy", &json!({ "mode": "none" })).await.ok();
        assert_eq!(state, json!({ "mode": "none" }));
        for (policy, words) in [
            (json!({ "mode": "none", "rules": [{}] }), "mode rules"),
            (json!({ "mode": "rules", "rules": [{ "ports": ["80"] }] }), "tcp or udp"),
            (json!({ "mode": "rules", "rules": [{ "cidr": "here" }] }), "rule 1"),
        ] {
            let (status, _, detail) =
                agent.client.put("/api/vms/web/policy", &policy).await.problem();
            assert!(status == 400 && detail.contains(words), "{policy}: {status} {detail}");
        }
        let agent = agent.live_on().await;
        assert_eq!(agent.vm("web").await["policy"]["mode"], "none");
        let quiet = agent
            .client
            .post(
                "/api/vms",
                &request("q", json!({ "network": "none", "policy": { "mode": "none" } })),
            )
            .await;
        assert!(quiet.problem().2.contains("without a network"));
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_had_without_bridges_is_said_by_name() {
    let agent = TestAgent::start().await;
    let client = &agent.client;
    for (path, body, words) in [
        ("/api/networks", json!({ "name": "lab" }), "a network cannot be had"),
        ("/api/ports", json!({ "hostPort": 1, "targetAddress": "10.0.0.1" }), "a port map to an"),
        ("/api/vms", request("a", json!({ "network": "lab" })), "a named network cannot"),
        ("/api/vms", request("a", json!({ "policy": { "mode": "none" } })), "a policy cannot"),
        (
            "/api/vms",
            request("a", json!({ "ports": [{ "hostPort": 1, "interface": "lo" }] })),
            "for one interface",
        ),
    ] {
        let (status, _, detail) = client.post(path, &body).await.problem();
        assert!(status == 400 && detail.contains(words), "{path} {body}: {status} {detail}");
        assert!(detail.contains("network.mode"), "{detail}");
    }
    assert_eq!(client.get("/api/networks").await.ok()["items"], json!([]));
    let restored: Value = client.post("/api/ports/restore", &json!({})).await.ok();
    assert_eq!(restored["ports"], 0);
}
