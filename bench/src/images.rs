//! The images that are pulled: one of a single layer, and two of many that
//! differ in the last. Made once and kept, since packing them takes minutes.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::base::Base;
use crate::program::{command, timed};

pub(crate) const SMALL: &str = "small";
pub(crate) const LARGE: &str = "large";
/// As [`LARGE`], but for its last layer.
pub(crate) const NEXT: &str = "next";

/// Layers on top of the base, and how large each is unpacked: with a base of
/// some 200 MB about 700 MB in all.
const LAYERS: u64 = 20;
const LAYER_BYTES: u64 = 25 << 20;
/// Changes with what is made here.
const FORM: &str = "1";

pub(crate) struct Images {
    layout: PathBuf,
}

impl Images {
    pub(crate) fn prepare(base: &Base) -> anyhow::Result<Self> {
        let size = fs::metadata(&base.tar)?.len();
        let layout = PathBuf::from(format!("target/bench-images/{FORM}-{size}"));
        if !layout.join("whole").exists() {
            eprintln!("making the images that are pulled, once");
            if layout.exists() {
                fs::remove_dir_all(&layout)?;
            }
            fs::create_dir_all(layout.parent().context("it has a parent")?)?;
            make(base, &layout)?;
            File::create(layout.join("whole"))?;
        }
        Ok(Self { layout: layout.canonicalize()? })
    }

    pub(crate) fn reference(&self, tag: &str) -> String {
        format!("oci:{}:{tag}", self.layout.display())
    }
}

fn make(base: &Base, layout: &Path) -> anyhow::Result<()> {
    let image = |tag: &str| format!("{}:{tag}", layout.display());
    timed(command("umoci").arg("init").arg("--layout").arg(layout))?;
    timed(command("umoci").args(["new", "--image", &image(SMALL)]))?;
    add(&image(SMALL), SMALL, &base.tar)?;
    let source = File::open(&base.tar)?;
    let work = tempfile::tempdir()?;
    let tar = work.path().join("layer.tar");
    let mut below = SMALL.to_owned();
    for number in 1..=LAYERS {
        write_layer(&tar, &source, number)?;
        if number < LAYERS {
            add(&image(&below), "below", &tar)?;
            "below".clone_into(&mut below);
            continue;
        }
        add(&image(&below), LARGE, &tar)?;
        write_layer(&tar, &source, number + 1)?;
        add(&image(&below), NEXT, &tar)?;
    }
    Ok(())
}

fn add(image: &str, tag: &str, tar: &Path) -> anyhow::Result<()> {
    let mut umoci = command("umoci");
    umoci.args(["raw", "add-layer", "--image", image, "--tag", tag]).arg(tar);
    timed(&mut umoci).map(drop)
}

/// Files as programs bring them: of sizes between 1 KiB and 1 MiB, most of them
/// small, their content pieces of the base's, which compress as those do; and
/// a package list that each layer replaces.
fn write_layer(path: &Path, source: &File, number: u64) -> anyhow::Result<()> {
    let mut dice = Dice(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let length = source.metadata()?.len();
    let mut tar = tar::Builder::new(std::io::BufWriter::new(File::create(path)?));
    let file = |tar: &mut tar::Builder<_>, name: &str, size: u64, dice: &mut Dice| {
        let mut content = vec![0; usize::try_from(size)?];
        for piece in content.chunks_mut(16 << 10) {
            source.read_exact_at(piece, dice.below(length - (16 << 10)))?;
        }
        let mut header = tar::Header::new_ustar();
        header.set_size(size);
        header.set_mode(0o644);
        header.set_mtime(1_700_000_000);
        anyhow::Ok(tar.append_data(&mut header, name, content.as_slice())?)
    };
    let mut left = LAYER_BYTES;
    file(&mut tar, "var/lib/dpkg/status", 500_000, &mut dice)?;
    for count in 0u32.. {
        let size = (1u64 << (10 + dice.below(11))) + dice.below(1 << 10);
        if size > left {
            break;
        }
        left -= size;
        let name = format!("opt/layer-{number}/lib/part-{}/file-{count}", count % 17);
        file(&mut tar, &name, size, &mut dice)?;
    }
    tar.into_inner()?.flush()?;
    Ok(())
}

/// xorshift64: the same files each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}
