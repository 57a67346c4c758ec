//! Files that `inn` prints itself: generated, checked in, and compared in CI,
//! so that a change of the API or of the configuration is seen in review.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::workspace::{cargo, root, run_program};

/// A file, and the arguments that print it.
type Printed = (&'static str, &'static [&'static str]);

const API: [Printed; 1] = [("docs/openapi.json", &["openapi"])];
const CONFIG: [Printed; 2] = [
    ("packaging/agent.example.toml", &["agent", "--print-config-example"]),
    ("docs/configuration.md", &["agent", "--print-config-documentation"]),
];

/// The built `inn` prints them, so that xtask itself builds in seconds. Built
/// as CI builds it, with the features of the whole workspace.
const BUILD: [&str; 5] = ["build", "--quiet", "--workspace", "--bin", "inn"];

pub(crate) fn api(check: bool) -> anyhow::Result<()> {
    write_or_compare(&API, check, "openapi")
}

pub(crate) fn config(check: bool) -> anyhow::Result<()> {
    write_or_compare(&CONFIG, check, "config")
}

fn write_or_compare(files: &[Printed], check: bool, task: &str) -> anyhow::Result<()> {
    cargo(&BUILD)?;
    let inn = built()?;
    for (file, args) in files {
        let printed = run_program(&inn, args)?;
        let path = root().join(file);
        if !check {
            std::fs::write(&path, printed).with_context(|| format!("cannot write {file}"))?;
            continue;
        }
        let kept = std::fs::read(&path).with_context(|| format!("cannot read {file}"))?;
        if kept != printed {
            bail!("{file} is not what the code says: run `cargo xtask {task}` and commit it");
        }
    }
    Ok(())
}

fn built() -> anyhow::Result<PathBuf> {
    let metadata = cargo(&["metadata", "--format-version", "1", "--no-deps"])?;
    let metadata: serde_json::Value = serde_json::from_slice(&metadata)?;
    let target = metadata["target_directory"].as_str().context("no target directory")?;
    Ok(Path::new(target).join("debug/inn"))
}
