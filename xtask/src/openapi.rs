//! docs/openapi.json: generated from the agent's routes, checked in, and
//! compared in CI, so that a change of the API is seen in review.

use std::path::Path;

use anyhow::{Context, bail};

use crate::workspace::{cargo, root, run_program};

const FILE: &str = "docs/openapi.json";

/// The built `inn` prints it, so that xtask itself builds in seconds. Built as
/// CI builds it, with the features of the whole workspace.
const BUILD: [&str; 5] = ["build", "--quiet", "--workspace", "--bin", "inn"];

pub(crate) fn run(check: bool) -> anyhow::Result<()> {
    cargo(&BUILD)?;
    let printed = print()?;
    let path = root().join(FILE);
    if !check {
        return std::fs::write(&path, printed).with_context(|| format!("cannot write {FILE}"));
    }
    let kept = std::fs::read(&path).with_context(|| format!("cannot read {FILE}"))?;
    if kept != printed {
        bail!("{FILE} is not what the routes say: run `cargo xtask openapi` and commit it");
    }
    Ok(())
}

fn print() -> anyhow::Result<Vec<u8>> {
    let metadata = cargo(&["metadata", "--format-version", "1", "--no-deps"])?;
    let metadata: serde_json::Value = serde_json::from_slice(&metadata)?;
    let target = metadata["target_directory"].as_str().context("no target directory")?;
    run_program(&Path::new(target).join("debug/inn"), &["openapi"])
}
