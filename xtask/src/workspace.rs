use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

/// The repository's root: the folder above this crate's.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("xtask lies inside the workspace").to_owned()
}

/// Runs the cargo that runs us and gives back what it prints.
pub(crate) fn cargo(args: &[&str]) -> anyhow::Result<Vec<u8>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    run_program(Path::new(&cargo), args)
}

/// Runs a program at the root; its stderr is ours, its stdout comes back.
#[expect(
    clippy::disallowed_methods,
    reason = "xtask is no part of the agent: inn-host's wrapper is not for it"
)]
pub(crate) fn run_program(program: &Path, args: &[&str]) -> anyhow::Result<Vec<u8>> {
    let shown = || format!("{} {}", program.display(), args.join(" "));
    let output = Command::new(program)
        .args(args)
        .current_dir(root())
        .stderr(std::process::Stdio::inherit())
        .output()
        .with_context(|| format!("{} did not start", shown()))?;
    if !output.status.success() {
        bail!("{} failed: {}", shown(), output.status);
    }
    Ok(output.stdout)
}

/// Every Rust file below `dir`, in order; target directories are left out.
pub(crate) fn rust_files(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut pending = vec![dir.to_owned()];
    while let Some(dir) = pending.pop() {
        let entries =
            std::fs::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))?;
        for entry in entries {
            let entry = entry?;
            let (path, name) = (entry.path(), entry.file_name());
            if entry.file_type()?.is_dir() {
                if name != "target" && !name.to_string_lossy().starts_with('.') {
                    pending.push(path);
                }
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Where cargo builds to.
pub(crate) fn target_dir() -> anyhow::Result<PathBuf> {
    let metadata: serde_json::Value =
        serde_json::from_slice(&cargo(&["metadata", "--format-version", "1", "--no-deps"])?)
            .context("cargo metadata printed something else")?;
    let dir = metadata["target_directory"]
        .as_str()
        .context("cargo metadata names no target directory")?;
    Ok(Path::new(dir).to_owned())
}
