//! docs/openapi.json: generated from the agent's routes, checked in, and
//! compared in CI, so that a change of the API is seen in review.

use anyhow::{Context, bail};

use crate::workspace::{cargo, root};

const FILE: &str = "docs/openapi.json";

/// The node prints it, so that xtask itself builds in seconds.
const PRINT: [&str; 6] = ["run", "--quiet", "--package", "inn-node", "--example", "openapi"];

pub(crate) fn run(check: bool) -> anyhow::Result<()> {
    let printed = cargo(&PRINT)?;
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
