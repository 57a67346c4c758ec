//! A VM under Firecracker that goes on from its snapshot, beside the same files
//! loaded by hand, by turns: to the guest agent's first answer, and to the end of a
//! first command.
//!
//! By hand is Firecracker and its API alone: started, `PUT /snapshot/load` with
//! `resume_vm`, `CONNECT 5161`, the guest agent's hello, and a command by that
//! session. Nothing makes such a machine another one than its parent.
//!
//! And before it what a start takes, see `instance_start`.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use inn_api::Kernel;
use inn_guest_session::{GuestSession, Left};
use inn_units::ExecId;
use serde_json::json;

use crate::Bench;
use crate::agent::{Agent, pause};
use crate::exec::exec_true_on;
use crate::instance_start;
use crate::program::{command, output, timed};
use crate::report::{Figure, Row};
use crate::sample::Samples;

/// Of its socket and of the guest's listener.
const GLANCE: Duration = Duration::from_micros(500);

/// For Firecracker, whose host may be busy, and for its guest's answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// The guest agent's port.
const PORT: u32 = 5161;

/// What its machine has besides the image's.
const DISKS: [&str; 2] = ["disk_inn_mroot", "disk_inn_mrw"];

/// A snapshot's files, and what it takes to load them.
struct Saved {
    firecracker: PathBuf,
    /// The state, the memory, and the VM's own disk as they were.
    dir: PathBuf,
    /// The image's.
    root: PathBuf,
}

/// Since the process was started, but for the load itself.
struct ByHand {
    load: Duration,
    loaded: Duration,
    answered: Duration,
    ran: Duration,
}

pub(crate) fn measure(bench: &mut Bench) -> anyhow::Result<()> {
    let options = &bench.options;
    let needed = "give --firecracker, and --guest-kernel, a vmlinux with all built in";
    let program = options.firecracker.clone().context(needed)?;
    let kernel = options.guest_kernel.clone().context(needed)?;
    let (kernel, args) = (kernel.display().to_string(), options.guest_kernel_args.clone());
    // Without a jailer beside it: by hand there is none either.
    let firecracker = bench.work.path().join("firecracker");
    fs::copy(&program, &firecracker).with_context(|| program.display().to_string())?;
    let booted = Kernel { path: Some(kernel.clone()), args: Some(args.clone()) };
    instance_start::measure(bench, &firecracker, &booted)?;
    let config = format!("firecracker = \"{}\"\nstart_deadline = \"10m\"\n", firecracker.display());
    let agent = Agent::start(bench, "load", &config)?;
    agent.import(bench.base(), "base")?;
    let create = ["vm", "create", "--image", "base", "--name", "parent", "--network", "none"];
    let under = ["--runtime", "firecracker", "--memory", "128MiB", "--kernel", &kernel];
    timed(agent.inn(&create).args(under).args(["--kernel-args", &args]))?;
    let run = |name: &str| timed(&mut agent.inn(&["vm", "exec", name, "--", "true"]));
    for _ in 0..3 {
        run("parent")?;
    }
    // What its guest still has to write it writes before, and not in each clone.
    timed(&mut agent.inn(&["vm", "exec", "parent", "--", "sh", "-c", "sync; sleep 3"]))?;
    let mut running = Samples::default();
    for _ in 0..bench.options.rounds {
        running.push(run("parent")?);
    }
    timed(&mut agent.inn(&["vm", "snapshot", "parent", "--name", "saved"]))?;
    let mut snapshots = fs::read_dir(agent.data().join("snapshots"))?;
    let saved = Saved {
        firecracker,
        dir: snapshots.next().context("there is no snapshot")??.path(),
        root: fs::read_link(agent.find_socket(DISKS[0])?)?,
    };
    timed(&mut agent.inn(&["vm", "stop", "parent", "--force"]))?;
    let hand = bench.work.path().join("hand");
    let mut theirs: [Samples; 4] = Default::default();
    let mut ours: [Samples; 3] = Default::default();
    for round in 0..=bench.options.rounds {
        let by_hand = by_hand(&agent, &saved, &hand)?;
        let (name, begun) = (format!("clone-{round}"), Instant::now());
        timed(&mut agent.inn(&["snapshot", "restore", "saved", "--name", &name]))?;
        let restored = begun.elapsed();
        let first = run(&name)?;
        let all = begun.elapsed();
        if round == bench.options.rounds {
            eprintln!("{}", output(&mut agent.inn(&["vm", "why", &name]))?);
        }
        timed(&mut agent.inn(&["vm", "delete", &name, "--force"]))?;
        if round > 0 {
            let ByHand { load, loaded, answered, ran } = by_hand;
            theirs.iter_mut().zip([load, loaded, answered, ran]).for_each(|(s, took)| s.push(took));
            ours.iter_mut().zip([restored, first, all]).for_each(|(s, took)| s.push(took));
        }
    }
    report(bench, theirs, ours, running);
    Ok(())
}

fn report(bench: &mut Bench, theirs: [Samples; 4], ours: [Samples; 3], running: Samples) {
    let [load, loaded, answered, ran] = theirs;
    let [restored, first, all] = ours;
    let alone = |what, samples| {
        let (ours, raw) = (Figure::spread(samples), None);
        Row { what, ours, raw, target: "", met: true }
    };
    let beside = |what, ours: &Samples, raw: Samples, target, limit: f64| {
        let times = ours.median() / raw.median();
        let mut figure = Figure::spread(ours.clone());
        figure.text.push_str(&format!(" ({times:.2} ×)"));
        Row { what, ours: figure, raw: Some(Figure::spread(raw)), target, met: times <= limit }
    };
    let rows = [
        alone("by hand: the load alone", load),
        alone("by hand: from the process to the load's answer", loaded),
        alone("an exec in the VM that was saved, before that", running),
        alone("the first exec after a restore, the whole process", first),
        beside(
            "`inn snapshot restore`, until the guest has confirmed that it is a new VM, beside a \
             load by hand to its agent's first answer",
            &restored,
            answered.clone(),
            "",
            f64::INFINITY,
        ),
        beside(
            "the two together, beside a load by hand and a first answer",
            &all,
            answered,
            "at most 1.3 ×",
            1.3,
        ),
        beside("the same, beside a load by hand and a first exec", &all, ran, "", f64::INFINITY),
    ];
    for row in rows {
        bench.report.push(row);
    }
}

/// Ends with this.
struct Vmm(Child);

impl Drop for Vmm {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn by_hand(agent: &Agent, saved: &Saved, dir: &Path) -> anyhow::Result<ByHand> {
    fs::create_dir(dir)?;
    symlink(".", dir.join("run"))?;
    symlink(&saved.root, dir.join(DISKS[0]))?;
    fs::copy(saved.dir.join("disk"), dir.join(DISKS[1]))?;
    let begun = Instant::now();
    let mut vmm = command(&saved.firecracker);
    vmm.args(["--api-sock", "api.sock"]).current_dir(dir);
    let vmm = Vmm(vmm.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
    let mut api = until(begun, "Firecracker's API", || UnixStream::connect(dir.join("api.sock")))?;
    let before = Instant::now();
    load(&mut api, saved)?;
    let (load, loaded) = (before.elapsed(), begun.elapsed());
    let session = until(begun, "the guest agent", || {
        agent.runtime().block_on(greeted(&dir.join("vsock.sock")))
    })?;
    let answered = begun.elapsed();
    let id = ExecId::from_bytes(*b"by hand.");
    agent.runtime().block_on(exec_true_on(&session, id, false))?;
    let ran = begun.elapsed();
    drop(vmm);
    fs::remove_dir_all(dir)?;
    Ok(ByHand { load, loaded, answered, ran })
}

fn until<T, E: std::fmt::Display>(
    begun: Instant,
    what: &str,
    mut attempt: impl FnMut() -> Result<T, E>,
) -> anyhow::Result<T> {
    loop {
        match attempt() {
            Ok(there) => return Ok(there),
            Err(error) => {
                ensure!(begun.elapsed() < PATIENCE, "{what} does not answer: {error}");
                pause(GLANCE);
            }
        }
    }
}

fn load(api: &mut UnixStream, saved: &Saved) -> anyhow::Result<()> {
    let memory = json!({ "backend_type": "File", "backend_path": saved.dir.join("memory") });
    let body = json!({
        "snapshot_path": saved.dir.join("state"), "mem_backend": memory, "resume_vm": true,
    });
    let body = body.to_string();
    let head = "PUT /snapshot/load HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json";
    write!(api, "{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
    let mut answer = [0; 4096];
    let length = api.read(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer[..length]);
    ensure!(answer.contains(" 204 "), "the load: {answer}");
    Ok(())
}

/// docs/vsock.md in Firecracker, "Host-Initiated Connections".
async fn greeted(path: &Path) -> anyhow::Result<GuestSession> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::UnixStream::connect(path).await?;
    stream.write_all(format!("CONNECT {PORT}\n").as_bytes()).await?;
    let mut byte = [0];
    while byte != *b"\n" {
        stream.read_exact(&mut byte).await?;
    }
    Ok(GuestSession::establish_as(Left::Unused, stream).await?)
}
