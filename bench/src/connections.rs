//! New connections through a port map, beside those through one rule of
//! iptables in its place, all else of the host being the same: its VM may not be
//! another one, and has a policy. And beside two hosts that have less of that:
//! one rule of iptables, and nobody judges anything; one map of nf_tables, and
//! known connections are let through. In network namespaces of their own.

use std::io::{self, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::Bench;
use crate::ports::{Followed, MANY, Namespace, VM, declared, port, rule};
use crate::report::{Figure, Row};
use crate::sample::Samples;

/// Of one measurement, one after another.
const CONNECTIONS: u32 = 500;
/// Measurements of each way in a round: short ones by turns, so that what else
/// the host does befalls all alike.
const TURNS: usize = 4;

const CLIENT: &str = "192.0.2.100/24";
const HOST: &str = "192.0.2.1";
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn measure(bench: &mut Bench) -> anyhow::Result<()> {
    let [map, rule, bare, least] = connections(bench.options.rounds)?;
    let raw = Figure::spread_finely(rule.clone());
    let [beside_bare, least] = [&map, &least].map(|way| way.median() / bare.median());
    let text = format!(
        "{}; where nothing is judged, a rule of iptables: ours {beside_bare:.2} times as long, \
         the least with a policy {least:.2} times",
        raw.text
    );
    let times = map.median() / rule.median();
    let ours = Figure::spread_finely(map);
    bench.report.push(Row {
        what: "a new connection through one of 10,000 port maps, and through one iptables rule \
               in their place",
        // What one measurement differs from the next by.
        met: times <= 1.05,
        ours: Figure { text: format!("{}, {times:.2} times as long", ours.text), ..ours },
        raw: Some(Figure { text, ..raw }),
        target: "no longer than through one iptables rule",
    });
    Ok(())
}

/// From a client by way of the host to a VM, one after another.
fn connections(rounds: usize) -> anyhow::Result<[Samples; 4]> {
    let ways = [Way::new()?, Way::new()?, Way::new()?, Way::new()?];
    let [ours, theirs, bare, least] = &ways;
    Followed::open(&ours.host)?.follow(&Arc::new(declared(MANY)))?;
    Followed::open(&theirs.host)?.follow(&Arc::new(declared(0)))?;
    for way in [theirs, bare] {
        way.host.call(&format!("iptables -t nat {}", rule(0)))?;
    }
    for line in [
        "add table ip least".to_owned(),
        "add map ip least m { type inet_service : ipv4_addr . inet_service; }".to_owned(),
        format!("add element ip least m {{ {} : {VM} . 80 }}", port(0)),
        "add chain ip least c { type nat hook prerouting priority dstnat; }".to_owned(),
        "add rule ip least c dnat to tcp dport map @m".to_owned(),
        "add chain ip least f { type filter hook forward priority filter; }".to_owned(),
        "add rule ip least f ct state established,related accept".to_owned(),
    ] {
        least.host.call(&format!("nft {line}"))?;
    }
    let mut samples = <[Samples; 4]>::default();
    for _ in 0..rounds * TURNS {
        for (way, samples) in ways.iter().zip(&mut samples) {
            samples.push(way.connect()?);
        }
    }
    Ok(samples)
}

/// A client, a host, and a VM with a server behind it.
struct Way {
    client: Namespace,
    host: Namespace,
    _vm: Namespace,
}

impl Way {
    fn new() -> anyhow::Result<Self> {
        let (client, host, vm) = (Namespace::new()?, Namespace::new()?, Namespace::new()?);
        let declared = declared(0);
        let (bridge, tap) = (declared.networks[0].bridge(), declared.attachments[0].tap());
        host.cable("up0", &client)?;
        host.cable(tap.as_str(), &vm)?;
        host.call(&format!("ip link add {bridge} type bridge"))?;
        host.call(&format!("ip link set {tap} master {bridge}"))?;
        host.call(&format!("ip link set {bridge} up"))?;
        host.call(&format!("ip address add {HOST}/24 dev up0"))?;
        host.call(&format!("ip address add 10.77.1.1/24 dev {bridge}"))?;
        host.run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1"))?;
        client.call(&format!("ip address add {CLIENT} dev far0"))?;
        vm.call("ip link set far0 address 52:54:00:00:00:01")?;
        vm.call(&format!("ip address add {VM}/24 dev far0"))?;
        vm.call("ip route add default via 10.77.1.1")?;
        let listener = vm.run(|| TcpListener::bind((VM, 80)))?;
        // It ends with the process.
        thread::spawn(move || -> io::Result<()> {
            on_one_cpu()?;
            listener.incoming().for_each(drop);
            Ok(())
        });
        Ok(Self { client, host, _vm: vm })
    }

    /// How long one took, of so many.
    fn connect(&self) -> anyhow::Result<Duration> {
        let to: SocketAddr = format!("{HOST}:{}", port(0)).parse()?;
        self.client.run(|| -> io::Result<Duration> {
            on_one_cpu()?;
            let begin = Instant::now();
            for _ in 0..CONNECTIONS {
                let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
                // Its end: the server closes first, so its ports rest there.
                stream.read_to_end(&mut Vec::new())?;
            }
            Ok(begin.elapsed() / CONNECTIONS)
        })
    }
}

/// All of them on the same: to wake another CPU takes as long as all rules
/// together, and who is woken where is the scheduler's to choose.
fn on_one_cpu() -> io::Result<()> {
    let all = sched_getaffinity(None)?;
    let mut one = CpuSet::new();
    if let Some(cpu) = (0..CpuSet::MAX_CPU).rfind(|cpu| all.is_set(*cpu)) {
        one.set(cpu);
    }
    Ok(sched_setaffinity(None, &one)?)
}
