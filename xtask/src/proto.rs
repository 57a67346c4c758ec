//! crates/guest-proto/src/wire: generated from its proto/ files, checked in,
//! and compared in CI. No build of the workspace needs a protobuf compiler.

use std::path::Path;

use anyhow::{Context, bail};

use crate::workspace::{root, run_program};

const PROTO: &str = "crates/guest-proto/proto";
const FILES: [&str; 1] = ["guest.proto"];
const OUT: &str = "crates/guest-proto/src/wire";
/// Named by prost-build after the package.
const GENERATED: &str = "innkeeper.guest.v1.rs";

pub(crate) fn run(check: bool) -> anyhow::Result<()> {
    let out = root().join(OUT);
    let fresh = generate(&root().join(PROTO), &out)?;
    let path = out.join(GENERATED);
    if !check {
        return std::fs::write(&path, fresh).with_context(|| format!("cannot write {OUT}"));
    }
    let kept = std::fs::read(&path).with_context(|| format!("cannot read {OUT}/{GENERATED}"))?;
    if kept != fresh {
        bail!("{OUT} is not what {PROTO} says: run `cargo xtask proto` and commit it");
    }
    Ok(())
}

/// prost-build only writes files, so the text goes by way of one beside its
/// destination, which git ignores and which is gone again afterwards.
fn generate(proto: &Path, out: &Path) -> anyhow::Result<Vec<u8>> {
    let descriptors =
        protox::compile(FILES, [proto]).with_context(|| format!("cannot read {PROTO}"))?;
    let scratch = out.join(format!(".generating-{}", std::process::id()));
    std::fs::create_dir_all(&scratch)
        .with_context(|| format!("cannot make {}", scratch.display()))?;
    let generated = prost_build::Config::new()
        .out_dir(&scratch)
        .bytes(["."])
        .compile_fds(descriptors)
        .context("cannot generate the messages")
        .and_then(|()| {
            let made = scratch.join(GENERATED);
            // As `cargo fmt` would have it, by the settings of the directories above.
            let path = made.to_str().context("the workspace's path is no UTF-8")?;
            run_program(Path::new("rustfmt"), &["--edition", "2024", path])?;
            std::fs::read(&made).with_context(|| format!("prost-build made no {GENERATED}"))
        });
    std::fs::remove_dir_all(&scratch)
        .with_context(|| format!("cannot remove {}", scratch.display()))?;
    generated
}
