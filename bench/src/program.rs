use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// The benchmarks stand outside the product, whose wrapper for programs is
/// part of what is measured.
#[expect(clippy::disallowed_methods, reason = "measures programs from outside of inn")]
pub(crate) fn command(program: impl AsRef<Path>) -> Command {
    let mut command = Command::new(program.as_ref());
    command.stdin(Stdio::null());
    command
}

/// Runs it to its end, silently unless it fails, and says how long it took.
pub(crate) fn timed(command: &mut Command) -> anyhow::Result<Duration> {
    let begin = Instant::now();
    let output = command.output().with_context(|| format!("{command:?} did not start"))?;
    let took = begin.elapsed();
    if !output.status.success() {
        bail!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(took)
}

/// Its standard output.
pub(crate) fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("{command:?} did not start"))?;
    if !output.status.success() {
        bail!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// One of the single-file programs of bench/guest as a static binary.
pub(crate) fn build_guest_program(name: &str, work: &Path) -> anyhow::Result<PathBuf> {
    let source =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("guest").join(name).with_extension("rs");
    let built = work.join(name);
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let flags = ["opt-level=s", "panic=abort", "strip=symbols", "target-feature=+crt-static"];
    let mut command = command(Path::new(&rustc));
    command.args(["--edition", "2024", "-o"]).arg(&built);
    for flag in flags {
        command.args(["-C", flag]);
    }
    timed(command.arg(&source))?;
    Ok(built)
}
