//! Port maps, beside what iptables takes for as many rules; in network
//! namespaces of their own.

use std::net::Ipv4Addr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use inn_api::PortMapCreate;
use inn_domain::network::{
    Attachment, Declared, DeclaredMap, DeclaredNetwork, Instance, Listen, MapTarget, NetworkKind,
    NetworkSpec, Policy, PortMap, PortRange, Transport, Uplink,
};
use inn_host::netns::Netns;
use inn_net::nft::Kernel;
use inn_net::table::Desired;
use inn_units::{NetworkId, PortMapId, VmId};

use crate::Bench;
use crate::agent::Agent;
use crate::program::{command, timed};
use crate::report::{Figure, Row};
use crate::sample::Samples;

const MAPS: u16 = 1_000;
pub(crate) const MANY: u16 = 10_000;

pub(crate) const VM: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 2);
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn measure(bench: &mut Bench) -> anyhow::Result<()> {
    let rounds = bench.options.rounds;
    let [all, restored, called] = many_at_once(rounds)?;
    let times = called.median() / all.median();
    let called_text = format!(
        "iptables-restore {:.1} ms; 1,000 calls {:.0} ms, {times:.0} times as long",
        restored.median(),
        called.median()
    );
    bench.report.push(Row {
        what: "1,000 port maps at once, from what is declared to the kernel",
        met: all.median() < 100.0 && times >= 20.0,
        ours: Figure::spread(all),
        raw: Some(Figure::other(called_text, called.len())),
        target: "under 100 ms, 20 times as fast as 1,000 calls of iptables",
    });
    let [one, called] = one_more(rounds)?;
    bench.report.push(Row {
        what: "one port map more where 10,000 are, from what is declared to the kernel",
        met: one.median() < 5.0,
        ours: Figure::spread(one),
        raw: Some(Figure::spread(called)),
        target: "under 5 ms",
    });
    asked_for(bench)?;
    let card = crate::cards::one_more(rounds, if bench.options.quick { 100 } else { 1_000 })?;
    bench.report.push(Row {
        what: "tap, links and rules of one VM more beside 1,000",
        met: card.median() < 15.0,
        ours: Figure::spread(card),
        raw: None,
        target: "under 15 ms of a start",
    });
    Ok(())
}

/// By us, by iptables-restore, and by as many calls.
fn many_at_once(rounds: usize) -> anyhow::Result<[Samples; 3]> {
    let mut samples = <[Samples; 3]>::default();
    let (none, all) = (Arc::new(declared(0)), Arc::new(declared(MAPS)));
    // Seconds each: a few say enough.
    for round in 0..rounds.min(5) {
        let ours = Namespace::new()?;
        let mut tables = Followed::open(&ours)?;
        tables.follow(&none)?;
        samples[0].push(tables.follow(&all)?);

        let theirs = Namespace::new()?;
        let begin = Instant::now();
        restore(&theirs, MAPS)?;
        samples[1].push(begin.elapsed());
        if round > 2 {
            continue;
        }
        let theirs = Namespace::new()?;
        let begin = Instant::now();
        for at in 0..MAPS {
            theirs.call(&format!("iptables -t nat {}", rule(at)))?;
        }
        samples[2].push(begin.elapsed());
    }
    Ok(samples)
}

fn one_more(rounds: usize) -> anyhow::Result<[Samples; 2]> {
    let (ours, theirs) = (Namespace::new()?, Namespace::new()?);
    let mut tables = Followed::open(&ours)?;
    let (before, after) = (Arc::new(declared(MANY)), Arc::new(declared(MANY + 1)));
    tables.follow(&before)?;
    restore(&theirs, MANY)?;
    let mut samples = <[Samples; 2]>::default();
    for _ in 0..rounds {
        samples[0].push(tables.follow(&after)?);
        anyhow::ensure!(tables.steps == 1, "one map took {} steps", tables.steps);
        tables.follow(&before)?;
        let begin = Instant::now();
        theirs.call(&format!("iptables -t nat {}", rule(MANY)))?;
        samples[1].push(begin.elapsed());
        theirs.call(&format!("iptables -t nat -D{}", &rule(MANY)[2..]))?;
    }
    Ok(samples)
}

/// Our tables in a namespace, as an agent keeps them.
pub(crate) struct Followed {
    kernel: Kernel,
    desired: Desired,
    /// Of the last change.
    pub(crate) steps: usize,
}

impl Followed {
    pub(crate) fn open(namespace: &Namespace) -> anyhow::Result<Self> {
        let kernel = namespace.run(|| Kernel::open(Instance::default()))?;
        Ok(Self { kernel, desired: Desired::default(), steps: 0 })
    }

    /// How long it took.
    pub(crate) fn follow(&mut self, declared: &Arc<Declared>) -> anyhow::Result<Duration> {
        let begin = Instant::now();
        self.desired.follow(declared);
        let done = self.kernel.follow(self.desired.wanted())?;
        let took = begin.elapsed();
        self.steps = done.steps.len();
        Ok(took)
    }
}

/// The same by an agent's API, with all that it does besides: a look at who
/// listens, a row in its database, and an answer. The agent has a namespace of
/// its own.
fn asked_for(bench: &mut Bench) -> anyhow::Result<()> {
    let namespace = Namespace::new()?;
    let agent = namespace.run(|| Agent::start(bench, "ports", "[network]\nmode = \"bridge\"\n"))?;
    let ask = |ports: std::ops::Range<u16>| -> anyhow::Result<Duration> {
        let map = |at: u16| PortMapCreate {
            protocol: inn_api::Transport::Tcp,
            host_port: port(at),
            host_port_end: None,
            host_address: None,
            interface: None,
            vm: None,
            target_address: Some(VM.into()),
            target_port: Some(80),
            masquerade: false,
        };
        let maps = ports.map(map).collect();
        let begin = Instant::now();
        agent.runtime().block_on(agent.client().create_ports(maps))?;
        Ok(begin.elapsed())
    };
    let mut many = Samples::default();
    for thousand in 0..MANY / MAPS {
        many.push(ask(thousand * MAPS..(thousand + 1) * MAPS)?);
    }
    let mut one = Samples::default();
    for at in 0..u16::try_from(bench.options.rounds)? {
        one.push(ask(MANY + at..MANY + at + 1)?);
    }
    bench.report.push(Row {
        what: "1,000 port maps by one call of the API, ten times over",
        met: many.median() < 100.0,
        ours: Figure::spread(many),
        raw: None,
        target: "under 100 ms",
    });
    bench.report.push(Row {
        what: "one port map more by the API where 10,000 are",
        met: true,
        ours: Figure::spread(one),
        raw: None,
        target: "",
    });
    mended(bench, &agent, &namespace)
}

/// How long nobody's port leads anywhere after somebody else has emptied
/// nf_tables.
fn mended(bench: &mut Bench, agent: &Agent, namespace: &Namespace) -> anyhow::Result<()> {
    let tables = agent.runtime().block_on(agent.client().network_plan())?.script;
    let words = tables.lines().find(|line| line.starts_with("table inet "));
    let table = words.and_then(|line| line.split_whitespace().nth(2)).context("no table")?;
    let count = || -> anyhow::Result<usize> {
        let mut kernel = namespace.run(|| Kernel::open(instance(table)))?;
        let inet = kernel.read()?.tables.values().flat_map(|table| table.sets.get("any-tcp4"));
        Ok(inet.map(|set| set.elements.len()).sum())
    };
    let all = count()?;
    let mut samples = Samples::default();
    for _ in 0..bench.options.rounds.min(5) {
        namespace.call("nft flush ruleset")?;
        let begin = Instant::now();
        while count()? < all {
            anyhow::ensure!(begin.elapsed() < PATIENCE, "the tables are not mended");
            crate::agent::pause(Duration::from_millis(5));
        }
        samples.push(begin.elapsed());
    }
    bench.report.push(Row {
        what: "10,000 port maps back after `nft flush ruleset`, which nobody tells the agent of",
        met: samples.quantile(1.0) < 1_000.0,
        ours: Figure::spread(samples),
        raw: None,
        target: "within 1 s",
    });
    Ok(())
}

/// Of a table's name.
fn instance(table: &str) -> Instance {
    Instance(table.strip_prefix("innkeeper-").map(str::to_owned))
}

/// The host's port `10000 + at`.
pub(crate) fn port(at: u16) -> u16 {
    10_000 + at
}

pub(crate) fn rule(at: u16) -> String {
    let port = port(at);
    format!("-A PREROUTING -p tcp --dport {port} -j DNAT --to-destination {VM}:80")
}

fn restore(namespace: &Namespace, count: u16) -> anyhow::Result<()> {
    let rules: Vec<String> = (0..count).map(rule).collect();
    let text = format!("*nat\n{}\nCOMMIT\n", rules.join("\n"));
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), text)?;
    let path = file.path().to_owned();
    namespace.run(move || timed(command("iptables-restore").stdin(Stdio::null()).arg(path)))?;
    Ok(())
}

pub(crate) fn declared(maps: u16) -> Declared {
    let id = NetworkId::from_bytes([0xB0; 5]);
    let vm = VmId::from_bytes([0xB1; 5]);
    let network = DeclaredNetwork {
        id,
        spec: NetworkSpec {
            name: "bench".parse().expect("a name"),
            kind: NetworkKind::Nat,
            ipv4: "10.77.1.0/24".parse().ok(),
            ipv6: None,
            uplink: Uplink::DefaultRoute,
            mtu: None,
            peers: false,
            host: false,
            metadata: false,
        },
        uplink4: "up0".parse().ok(),
        uplink6: None,
        mtu: 1500,
    };
    let attachment = Attachment {
        vm,
        name: "bench".parse().expect("a name"),
        network: id,
        mac: [0x52, 0x54, 0, 0, 0, 1],
        ipv4: Some(VM),
        ipv6: None,
        policy: Policy::AllowAll,
    };
    let map = |at: u16| {
        let [high, low] = at.to_be_bytes();
        DeclaredMap {
            map: PortMap {
                id: PortMapId::from_bytes([high, low, 0, 0, 0, 0, 0, 0]),
                transport: Transport::Tcp,
                listen: Listen::Any,
                ports: PortRange::single(port(at)),
                target: MapTarget::Vm(vm),
                target_port: 80,
                masquerade: false,
            },
            targets: vec![VM.into()],
        }
    };
    Declared {
        networks: vec![network],
        attachments: vec![attachment],
        maps: (0..maps).map(map).collect(),
        ..Declared::default()
    }
}

/// A network of its own.
pub(crate) struct Namespace(Netns);

impl Namespace {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let namespace = Self(Netns::make().context("no network namespace")?);
        namespace.call("ip link set lo up")?;
        Ok(namespace)
    }

    pub(crate) fn run<T: Send, E: Send + Into<anyhow::Error>>(
        &self,
        work: impl FnOnce() -> Result<T, E> + Send,
    ) -> anyhow::Result<T> {
        self.0.run(work).map_err(Into::into)
    }

    pub(crate) fn call(&self, line: &str) -> anyhow::Result<Duration> {
        self.run(|| {
            let mut words = line.split_whitespace();
            timed(command(words.next().unwrap_or_default()).args(words))
        })
    }

    pub(crate) fn cable(&self, here: &str, other: &Self) -> anyhow::Result<()> {
        self.call(&format!("ip link add {here} type veth peer name far0"))?;
        self.call(&format!("ip link set far0 netns {}", other.0.path()))?;
        self.call(&format!("ip link set {here} up"))?;
        other.call("ip link set far0 up")?;
        Ok(())
    }
}
