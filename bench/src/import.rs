use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use rustix::fs::{Advice, fadvise};

use crate::Bench;
use crate::agent::Agent;
use crate::base::Base;
use crate::program::{command, timed};
use crate::report::{Figure, Row};
use crate::sample::Samples;

/// Each takes seconds and writes half a gigabyte.
const MOST_ROUNDS: usize = 5;

/// An OCI layout to a disk that can be booted, none of it known before.
pub(crate) fn measure(bench: &mut Bench) -> anyhow::Result<()> {
    let agent = Agent::start(bench, "import", "")?;
    let mut ours = Samples::default();
    let mut theirs = Samples::default();
    for _ in 0..bench.options.rounds.min(MOST_ROUNDS) {
        forget(&bench.base().layout)?;
        ours.push(agent.import(bench.base(), "measured")?);
        timed(&mut agent.inn(&["image", "delete", "measured"]))?;
        forget(&bench.base().layout)?;
        theirs.push(by_hand(bench.base(), &bench.work.path().join("by-hand"))?);
    }
    let met = ours.median() < theirs.median();
    bench.report.push(Row {
        what: "an OCI image to a bootable disk, against `skopeo copy`, `umoci unpack` and `mkfs.ext4 -d`",
        ours: Figure::median(ours),
        raw: Some(Figure::median(theirs)),
        target: "faster",
        met,
    });
    Ok(())
}

fn by_hand(base: &Base, dir: &Path) -> anyhow::Result<Duration> {
    fs::create_dir_all(dir)?;
    let tag = Base::TAG;
    let from = format!("oci:{}:{tag}", base.layout.display());
    let copy = dir.join("copy");
    let to = format!("oci:{}:{tag}", copy.display());
    let bundle = dir.join("bundle");
    let disk = dir.join("disk.ext4");
    let mut took = timed(command("skopeo").args(["copy", "--quiet", &from, &to]))?;
    let image = format!("{}:{tag}", copy.display());
    took += timed(command("umoci").args(["unpack", "--image", &image]).arg(&bundle))?;
    File::create(&disk)?.set_len(1 << 30)?;
    took +=
        timed(command("mkfs.ext4").args(["-q", "-F", "-d"]).arg(bundle.join("rootfs")).arg(&disk))?;
    fs::remove_dir_all(dir)?;
    Ok(took)
}

/// Drops the image's files from the page cache, so that both begin with the
/// same cold ones, and nothing else of the host's is touched.
fn forget(dir: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            forget(&path)?;
            continue;
        }
        let file = File::open(&path)?;
        // Only clean pages can be dropped.
        file.sync_all()?;
        fadvise(&file, 0, None, Advice::DontNeed)
            .with_context(|| format!("fadvise on {}", path.display()))?;
    }
    Ok(())
}
