//! Pulls from a registry on loopback to a disk that can be booted, against what
//! others make of the same images.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use crate::Bench;
use crate::agent::Agent;
use crate::images::{Images, LARGE, NEXT, SMALL};
use crate::memory::mib;
use crate::program::{command, timed};
use crate::registry::Registry;
use crate::report::{Figure, Row};
use crate::sample::Samples;

/// Each takes seconds and writes gigabytes.
const MOST_ROUNDS: usize = 5;
const MOST_KIB: u64 = 150 * 1024;

/// The same image by everybody, one after another.
#[derive(Default)]
struct Contest {
    ours: Samples,
    skopeo: Samples,
    buildah: Samples,
}

pub(crate) fn measure(bench: &mut Bench) -> anyhow::Result<()> {
    let images = Images::prepare(bench.base())?;
    let registry = Registry::start(&bench.work.path().join("registry"))?;
    for tag in [SMALL, LARGE, NEXT] {
        let from = images.reference(tag);
        let to = format!("docker://{}", registry.reference(tag));
        timed(command("skopeo").args(["copy", "--quiet", "--dest-tls-verify=false", &from, &to]))?;
    }
    let buildah = timed(command("buildah").arg("--version")).is_ok();
    if !buildah {
        eprintln!("buildah is not installed: compared with skopeo and umoci alone");
    }
    let agent = Agent::start(bench, "pull", "")?;
    let rounds = bench.options.rounds.min(MOST_ROUNDS);
    let place = Place { work: bench.work.path(), buildah };
    let (mut small, mut large, mut next) =
        (Contest::default(), Contest::default(), Samples::default());
    for _ in 0..rounds {
        small.ours.push(ours(&agent, &registry, SMALL)?);
        delete(&agent, SMALL)?;
        place.theirs(&registry, SMALL, &mut small)?;
        large.ours.push(ours(&agent, &registry, LARGE)?);
        // All but one of its layers are here now.
        next.push(ours(&agent, &registry, NEXT)?);
        delete(&agent, LARGE)?;
        delete(&agent, NEXT)?;
        place.theirs(&registry, LARGE, &mut large)?;
    }
    let peak = peak_kib(agent.pid())?;
    let first = large.ours.median();
    for (what, contest) in [
        (
            "a pull of an image of one layer to a bootable disk, against the faster of `skopeo copy` with `umoci unpack`, and `buildah pull`",
            small,
        ),
        ("a pull of one of many layers, against the same", large),
    ] {
        let (name, theirs) = contest.fastest();
        let ratio = theirs.median() / contest.ours.median();
        let mut ours = Figure::median(contest.ours);
        ours.text.push_str(&format!(", {ratio:.1} times faster"));
        let mut theirs = Figure::median(theirs);
        theirs.text.push_str(&format!(" ({name})"));
        let met = ratio >= 2.0;
        bench.report.push(Row { what, ours, raw: Some(theirs), target: "2 times faster", met });
    }
    let ratio = first / next.median();
    let mut second = Figure::median(next);
    second.text.push_str(&format!(", {ratio:.1} times faster than the first"));
    bench.report.push(Row {
        what: "a pull of a second one that shares all but one layer with the first",
        ours: second,
        raw: None,
        target: "5 times faster than the first",
        met: ratio >= 5.0,
    });
    bench.report.push(Row {
        what: "most resident memory of the agent during all these pulls",
        ours: Figure::other(format!("{} MiB", mib(peak)), 1),
        raw: None,
        target: "at most 150 MiB",
        met: peak <= MOST_KIB,
    });
    Ok(())
}

impl Contest {
    fn fastest(&self) -> (&'static str, Samples) {
        if self.buildah.len() > 0 && self.buildah.median() < self.skopeo.median() {
            ("buildah", self.buildah.clone())
        } else {
            ("skopeo and umoci", self.skopeo.clone())
        }
    }
}

fn ours(agent: &Agent, registry: &Registry, tag: &str) -> anyhow::Result<Duration> {
    let reference = registry.reference(tag);
    timed(&mut agent.inn(&["image", "pull", "--quiet", "--plain-http", "--name", tag, &reference]))
}

fn delete(agent: &Agent, tag: &str) -> anyhow::Result<()> {
    timed(&mut agent.inn(&["image", "delete", tag])).map(drop)
}

struct Place<'a> {
    work: &'a Path,
    buildah: bool,
}

impl Place<'_> {
    fn theirs(&self, registry: &Registry, tag: &str, into: &mut Contest) -> anyhow::Result<()> {
        let from = format!("docker://{}", registry.reference(tag));
        let dir = self.fresh("skopeo")?;
        let layout = format!("{}:{tag}", dir.join("layout").display());
        let to = format!("oci:{layout}");
        let mut took = timed(command("skopeo").args([
            "copy",
            "--quiet",
            "--src-tls-verify=false",
            &from,
            &to,
        ]))?;
        took +=
            timed(command("umoci").args(["unpack", "--image", &layout]).arg(dir.join("bundle")))?;
        into.skopeo.push(took);
        fs::remove_dir_all(&dir)?;
        if self.buildah {
            let dir = self.fresh("buildah")?;
            let (root, run) = (dir.join("root"), dir.join("run"));
            let mut buildah = command("buildah");
            buildah.arg("--root").arg(&root).arg("--runroot").arg(&run);
            buildah.args(["--storage-driver", "overlay", "pull", "--quiet", "--tls-verify=false"]);
            into.buildah.push(timed(buildah.arg(&from))?);
            fs::remove_dir_all(&dir)?;
        }
        Ok(())
    }

    fn fresh(&self, name: &str) -> anyhow::Result<PathBuf> {
        let dir = self.work.join(name);
        fs::create_dir_all(&dir)?;
        Ok(dir)
    }
}

/// VmHWM: the most that was ever resident (proc_pid_status(5)).
fn peak_kib(pid: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the agent is gone")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
