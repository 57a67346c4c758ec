//! VMs and their ports beside a real Docker, its containers and theirs.

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use inn_tests::docker::Docker;
use inn_tests::netns::Netns;
use inn_tests::{Fixtures, wait};

use crate::bridges::ground;

const IPTABLES: &str = "/usr/sbin/iptables-nft";

/// One attempt to get an answer; an emulated guest takes its time.
const ATTEMPT: Duration = Duration::from_secs(2);

/// Serves its host's name on port 80.
const SERVER: &str = "nc -ll -p 80 -e /bin/hostname";

/// Over Docker's restart and the agent's death, each keeps its ports; and what
/// stands in the VMs' way is said, and opened where the owner wants that.
pub(crate) fn neither_breaks_the_other() {
    let test = "docker::neither_breaks_the_other";
    let Some((host, here, outside)) = ground(test, "") else { return };
    let mut docker = match Docker::start(&here) {
        Ok(docker) => docker,
        Err(why) => {
            println!("SKIPPED {test}: {why}");
            host.stop_agent();
            return host.finish();
        }
    };
    let chain = || here.program(IPTABLES, &["-S", "DOCKER-USER"]).unwrap();
    let untouched = chain();
    let loaded = docker.ask(&["load", "-i", Fixtures::get().docker_archive().to_str().unwrap()]);
    let image = loaded.rsplit(": ").next().unwrap().trim().to_owned();
    let container = ["run", "-d", "--name", "boxed", "--hostname", "boxed", "-p", "9090:80"];
    docker.ask(&[&container[..], &["--entrypoint", "/bin/sh", &image, "-c", SERVER]].concat());
    host.inn(["vm", "create", "--image", "mini", "--name", "web", "-p", "8080:80"]).ok();
    host.inn(["vm", "exec", "-d", "web", "--", "sh", "-c", SERVER]).ok();
    until_said(&outside, 9090, "boxed", "beside an agent");

    // Docker has all dropped that it does not forward itself.
    assert_eq!(said(&outside, 8080), None);
    let why = wait::until("Docker's rule is named", || {
        let why = host.inn(["vm", "why", "web"]).ok();
        why.contains("DOCKER-USER").then_some(why)
    });
    assert!(why.contains("iptables -I DOCKER-USER"), "{why}");
    assert_eq!(chain(), untouched, "nobody asked for more");
    host.stop_agent();
    std::fs::write(host.config(), "network.foreign = \"docker-user\"\n").unwrap();
    host.start_agent();
    let both = |when: &str| {
        until_said(&outside, 8080, "web", when);
        until_said(&outside, 9090, "boxed", when);
    };
    both("once the agent may tell Docker");
    // Its port is its own, and whose it is is said.
    host.inn(["port", "add", "9090:80", "--vm", "web"]).refused(1, &["9090", "docker-proxy"]);

    docker.end();
    until_said(&outside, 8080, "web", "without a dockerd");
    docker.begin().unwrap();
    docker.ask(&["start", "boxed"]);
    both("after its restart");
    host.kill_agent();
    both("without an agent");
    docker.ask(&["restart", "--time", "0", "boxed"]);
    both("with a container anew while there is none");
    host.start_agent();
    both("under the next agent");

    // Without leave nothing of ours stays among its rules.
    host.stop_agent();
    std::fs::write(host.config(), "").unwrap();
    host.start_agent();
    wait::until("its chain is as before", || (chain() == untouched).then_some(()));
    host.inn(["vm", "delete", "web", "--force"]).ok();
    until_said(&outside, 9090, "boxed", "after the last VM");
    drop(docker);
    host.stop_agent();
    host.finish();
}

/// What a server on this port of the host's says at once.
fn said(from: &Netns, port: u16) -> Option<String> {
    from.run(move || {
        let to = SocketAddr::from(([192, 0, 2, 1], port));
        let mut stream = TcpStream::connect_timeout(&to, ATTEMPT).ok()?;
        stream.set_read_timeout(Some(ATTEMPT)).ok()?;
        let mut said = String::new();
        stream.read_to_string(&mut said).ok()?;
        Some(said.trim().to_owned())
    })
}

fn until_said(from: &Netns, port: u16, name: &str, when: &str) {
    let what = format!("{name} answers on port {port} {when}");
    wait::until(&what, || (said(from, port)? == name).then_some(()));
}
