//! Port maps of VMs on QEMU's own network: an agent without bridges, in a
//! network namespace of its own.

use std::net::SocketAddr;

use inn_tests::netns::Netns;
use inn_tests::{Host, wait};

use crate::bridges::{echoes, serve, serves};

/// By HTTP and UDP, from its start to its end and over all that happens to the
/// agent and to the maps.
pub(crate) fn without_bridges_ports_lead_to_vms() {
    let here = match Netns::make() {
        Ok(here) => here,
        Err(why) => {
            return println!(
                "SKIPPED without_bridges_ports_lead_to_vms: no network namespace: {why}"
            );
        }
    };
    let host = Host::bare().with_user_network(&here);
    host.start_agent();
    host.import("base");
    let ports = ["-p", "8080:80", "-p", "127.0.0.1:5353:53/udp"];
    let create = ["vm", "create", "--image", "base", "--name", "web"];
    host.inn(create.into_iter().chain(ports)).ok();
    serve(&host);
    let http = |port: u16| serves(&here, SocketAddr::from(([127, 0, 0, 1], port))).is_some();
    let udp = |port: u16| echoes(&here, SocketAddr::from(([127, 0, 0, 1], port))).is_some();
    let until = |when: &str, so: &dyn Fn() -> bool| {
        wait::until(&format!("it answers {when}"), || so().then_some(()));
    };
    until("at first", &|| http(8080) && udp(5353));

    // While it runs, and a range.
    host.inn(["port", "add", "--vm", "web", "8081-8083:79"]).ok();
    until("by a range", &|| http(8082));
    host.inn(["port", "add", "--vm", "web", "6000:53/udp"]).ok();
    until("by another port", &|| udp(6000));
    host.inn(["port", "delete", "8081-8083/tcp"]).ok();
    assert!(!http(8082), "a map that was deleted");

    host.kill_agent();
    assert!(http(8080) && udp(6000), "without an agent");
    host.start_agent();
    until("under the next agent", &|| http(8080) && udp(5353) && udp(6000));
    let restored = host.inn(["port", "restore", "-o", "json"]).ok();
    assert!(restored.contains("\"mended\": []"), "QEMU has kept them: {restored}");
    host.inn(["vm", "restart", "web", "--force"]).ok();
    serve(&host);
    until("after its restart", &|| http(8080) && udp(5353) && udp(6000));

    let denied = host.inn(["port", "add", "--vm", "web", "80:80"]).output();
    assert_eq!(denied.code, Some(1));
    assert!(denied.stderr.contains("ip_unprivileged_port_start"), "{}", denied.stderr);
    host.inn(["vm", "delete", "web", "--force"]).ok();
    assert!(!http(8080) && host.inn(["port", "list", "-o", "json"]).ok().trim() == "[]");
    host.stop_agent();
    host.finish();
}
