use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::program::{command, output, timed};

/// The image that is booted and imported, made by programs of others.
pub(crate) struct Base {
    /// A tar of its root file system.
    pub(crate) tar: PathBuf,
    /// An OCI layout with one gzip layer, its reference [`Base::TAG`].
    pub(crate) layout: PathBuf,
}

impl Base {
    pub(crate) const TAG: &str = "base";

    pub(crate) fn prepare(tar: Option<&Path>, work: &Path) -> anyhow::Result<Self> {
        let tar = match tar {
            Some(tar) => {
                tar.canonicalize().with_context(|| format!("{} is not there", tar.display()))?
            }
            None => bootstrap(work)?,
        };
        let layout = work.join("layout");
        let image = format!("{}:{}", layout.display(), Self::TAG);
        timed(command("umoci").arg("init").arg("--layout").arg(&layout))?;
        timed(command("umoci").args(["new", "--image", &image]))?;
        timed(command("umoci").args(["raw", "add-layer", "--image", &image]).arg(&tar))?;
        timed(command("umoci").args(["config", "--image", &image, "--config.cmd", "/bin/sh"]))?;
        timed(command("umoci").arg("gc").arg("--layout").arg(&layout))?;
        Ok(Self { tar, layout })
    }

    /// Its files as a directory, as raw QEMU's disk is made from.
    pub(crate) fn unpack_to(&self, dir: &Path) -> anyhow::Result<()> {
        fs::create_dir_all(dir)?;
        timed(command("tar").arg("-xpf").arg(&self.tar).arg("-C").arg(dir)).map(drop)
    }
}

fn bootstrap(work: &Path) -> anyhow::Result<PathBuf> {
    eprintln!("making a root file system with mmdebstrap (give --base-tar to skip it)");
    let release = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    let suite = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .context("/etc/os-release names no release: give --base-tar")?;
    let tar = work.join("base.tar");
    let mut mmdebstrap = command("mmdebstrap");
    mmdebstrap
        .args(["--quiet", "--variant=minbase", "--include=python3-minimal,bash,coreutils", suite])
        .arg(&tar);
    output(&mut mmdebstrap)?;
    Ok(tar)
}
