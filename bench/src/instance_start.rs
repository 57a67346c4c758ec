//! From the request that makes a VM under Firecracker to Firecracker's `InstanceStart`:
//! all of it is ours. Its guest never has to boot for it, so that a round is short.
//!
//! Three agents after one another: without a jailer and without a card, with a card
//! on a bridge of its own network namespace, and with the jailer besides. What the
//! agent knows of a boot says when it began, and of what its launch consisted.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use inn_api::{Boot, BootPart, Kernel, Network, Phase, Runtime, VmCreate};
use inn_client::{Client, VmRemoval};
use inn_units::{Bytes, Vcpus};
use jiff::Timestamp;

use crate::Bench;
use crate::agent::Agent;
use crate::ports::Namespace;
use crate::report::{Figure, Row};
use crate::sample::Samples;

/// The launch's part that is Firecracker's own: `InstanceStart` itself.
const THEIRS: &str = "start";

/// For a launch on a host that is busy.
const PATIENCE: Duration = Duration::from_secs(60);
const GLANCE: Duration = Duration::from_millis(10);

/// A start decides of what it boots, and a program is read for the first time.
const WARM_UP: usize = 2;

const TARGET_MS: f64 = 25.0;

const PLAIN: &str = "from the request that makes a VM to `InstanceStart`: plain, without a card";
const CARD: &str = "the same with a card on a bridge";
const JAILED: &str = "the same by the jailer, with a card on a bridge";

/// `alone` is a Firecracker without a jailer beside it.
pub(crate) fn measure(bench: &mut Bench, alone: &Path, kernel: &Kernel) -> anyhow::Result<()> {
    let given = bench.options.firecracker.clone().context("no --firecracker")?;
    let has_jailer = given.with_file_name("jailer").is_file();
    let jailed = has_jailer.then_some((JAILED, given.as_path(), Network::AllowAll));
    let plain = [(PLAIN, alone, Network::None), (CARD, alone, Network::AllowAll)];
    for (what, program, network) in plain.into_iter().chain(jailed) {
        let namespace = Namespace::new()?;
        let config = format!(
            "firecracker = \"{}\"\n[network]\nmode = \"bridge\"\n[templates]\nenabled = false\n",
            program.display()
        );
        let agent = namespace.run(|| Agent::start(bench, "start", &config))?;
        agent.import(bench.base(), "base")?;
        let (mut ours, mut theirs) = (Samples::default(), Samples::default());
        for round in 0..bench.options.rounds + WARM_UP {
            let create = asked(kernel, network.clone());
            let start = agent.runtime().block_on(one(agent.client(), &create))?;
            if round >= WARM_UP {
                ours.push(start.before);
                theirs.push(start.itself);
            }
            if round + 1 == bench.options.rounds + WARM_UP {
                eprintln!("{}", start.told);
            }
        }
        let met = ours.median() < TARGET_MS;
        let mut figure = Figure::spread(ours);
        figure.text.push_str(&format!("; itself {:.1} ms", theirs.median()));
        bench.report.push(Row { what, ours: figure, raw: None, target: "under 25 ms", met });
    }
    if !has_jailer {
        eprintln!("SKIPPED: there is no jailer beside {}", given.display());
    }
    Ok(())
}

fn asked(kernel: &Kernel, network: Network) -> VmCreate {
    VmCreate {
        image: Some("base".into()),
        runtime: Runtime::Firecracker,
        network,
        vcpus: Some(Vcpus::ONE),
        memory_bytes: Some(Bytes::mib(128)),
        kernel: Some(kernel.clone()),
        start: true,
        ..VmCreate::default()
    }
}

struct Start {
    before: Duration,
    itself: Duration,
    /// Part by part.
    told: String,
}

async fn one(client: &Client, create: &VmCreate) -> anyhow::Result<Start> {
    let asked = Timestamp::now();
    let name = client.create_vm(create).await?.name.to_string();
    let begin = Instant::now();
    let boot = loop {
        let why = client.why_vm(&name).await?;
        ensure!(why.phase != Phase::Failed, "{:?}", why.causes);
        if let Some(boot) = why.boot.filter(|boot| !parts(boot).is_empty()) {
            break boot;
        }
        ensure!(begin.elapsed() < PATIENCE, "it is not launched: {}", why.summary);
        tokio::time::sleep(GLANCE).await;
    };
    let force = VmRemoval { force: true, ..VmRemoval::default() };
    client.delete_vm(&name, force, PATIENCE).await?;
    start(&boot, Duration::try_from(boot.at.duration_since(asked)).unwrap_or_default())
}

/// `accepted` passed before the boot began.
fn start(boot: &Boot, accepted: Duration) -> anyhow::Result<Start> {
    let launch = boot.phases.iter().find(|phase| phase.name == "launch").context("no launch")?;
    let at = parts(boot).iter().position(|part| part.name == THEIRS).context("no InstanceStart")?;
    let (before, rest) = parts(boot).split_at(at);
    let parts: f64 = before.iter().map(|part| part.took_ms).sum();
    let milliseconds = |ms: f64| Duration::from_secs_f64(ms / 1e3);
    let each = before.iter().map(|part| format!("{} {:.1}", part.name, part.took_ms));
    let each: Vec<String> = each.collect();
    let told = format!(
        "    asked for until its boot began {:.1} ms, until its launch {:.1}, of which: {}",
        accepted.as_secs_f64() * 1e3,
        launch.start_ms,
        each.join(", ")
    );
    let before = accepted + milliseconds(launch.start_ms + parts);
    Ok(Start { before, itself: milliseconds(rest.first().map_or(0.0, |part| part.took_ms)), told })
}

fn parts(boot: &Boot) -> &[BootPart] {
    boot.phases.iter().find(|phase| phase.name == "launch").map_or(&[], |launch| &launch.parts)
}
