//! `cargo xtask fuzz`: the targets of `fuzz/`, guided by coverage, on the
//! stable compiler.
//!
//! `cargo fuzz` wants a nightly one for its sanitizers; the coverage counters
//! that libFuzzer steers by are an LLVM pass that any rustc takes by name
//! (clang.llvm.org/docs/SanitizerCoverage.html). What an address sanitizer
//! would find, `forbid(unsafe_code)` rules out in the crates under test.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::workspace;

#[derive(Debug, Args)]
pub(crate) struct FuzzArgs {
    /// Executions of each target.
    #[arg(long, default_value_t = 1_000_000)]
    runs: u64,
    /// End a target after so many seconds, even if it has run less.
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// Inputs of up to so many bytes.
    #[arg(long, default_value_t = 4096)]
    max_len: u32,
    /// Only these; all where none is named.
    targets: Vec<String>,
}

/// LLVM's options: counters per edge, their places, and comparisons, from
/// which libFuzzer learns constants such as the marker.
const COVERAGE: &str = "-Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

pub(crate) fn run(args: &FuzzArgs) -> Result<()> {
    let root = workspace::root();
    let all = targets(&root)?;
    let chosen = if args.targets.is_empty() { all.clone() } else { args.targets.clone() };
    for name in &chosen {
        ensure!(all.contains(name), "there is no target {name}: there are {}", all.join(", "));
    }
    let built = build(&root)?;
    let corpora = workspace::target_dir()?.join("fuzz-corpus");
    let mut rows = Vec::new();
    let mut broken = Vec::new();
    for name in &chosen {
        let corpus = corpora.join(name);
        std::fs::create_dir_all(&corpus).with_context(|| corpus.display().to_string())?;
        match run_one(&built.join(name), &corpus, name, args)? {
            Ran::Well(row) => rows.push(row),
            Ran::Broke(output) => {
                eprintln!("{output}");
                broken.push(name.clone());
            }
        }
    }
    println!("| Target | executions | per second | edges covered | seconds |");
    println!("|---|---|---|---|---|");
    for row in &rows {
        println!("{row}");
    }
    if !broken.is_empty() {
        bail!("broke: {}; the inputs lie in {}", broken.join(", "), corpora.display());
    }
    Ok(())
}

/// The names in `fuzz/Cargo.toml`.
fn targets(root: &Path) -> Result<Vec<String>> {
    let path = root.join("fuzz/targets");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&path).with_context(|| path.display().to_string())? {
        let file = entry?.path();
        if let Some(name) = file.file_stem().and_then(|stem| stem.to_str()) {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn build(root: &Path) -> Result<PathBuf> {
    let into = workspace::target_dir()?.join("fuzz-build");
    // With a target, the flags are for what is fuzzed and not for build scripts.
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let status = cargo()
        .args(["build", "--release", "--locked", "--quiet", "--target", &triple])
        .arg("--manifest-path")
        .arg(root.join("fuzz/Cargo.toml"))
        .arg("--target-dir")
        .arg(&into)
        .env("RUSTFLAGS", COVERAGE.split_whitespace().collect::<Vec<_>>().join(" "))
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .status()
        .context("cargo does not start")?;
    ensure!(status.success(), "the fuzz targets do not build");
    Ok(into.join(triple).join("release"))
}

enum Ran {
    Well(String),
    Broke(String),
}

#[expect(clippy::disallowed_methods, reason = "xtask is no part of the agent")]
fn run_one(program: &Path, corpus: &Path, name: &str, args: &FuzzArgs) -> Result<Ran> {
    let crashes = corpus.with_file_name(format!("crash-{name}-"));
    let from = Instant::now();
    let output = Command::new(program)
        .arg(format!("-runs={}", args.runs))
        .arg(format!("-max_total_time={}", args.seconds))
        .arg(format!("-max_len={}", args.max_len))
        // An input that takes so long is a finding, too.
        .arg("-timeout=20")
        .arg("-rss_limit_mb=1024")
        .arg("-print_final_stats=1")
        .arg(format!("-artifact_prefix={}", crashes.display()))
        .arg(corpus)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{} does not start", program.display()))?;
    let took = from.elapsed();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        let tail: Vec<&str> = text.lines().rev().take(40).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        return Ok(Ran::Broke(format!("{name}:\n{}", tail.join("\n"))));
    }
    let executions = number_after(&text, "stat::number_of_executed_units:");
    let edges = number_after(&text, " cov: ");
    // Without counters libFuzzer guesses, and says so only in passing.
    ensure!(edges > 0, "{name} was built without coverage counters");
    Ok(Ran::Well(row(name, executions, edges, took)))
}

fn row(name: &str, executions: u64, edges: u64, took: Duration) -> String {
    let seconds = took.as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = executions as f64 / seconds.max(0.001);
    format!("| {name} | {executions} | {rate:.0} | {edges} | {seconds:.1} |")
}

/// The last number that stands behind `label`.
fn number_after(text: &str, label: &str) -> u64 {
    text.rmatch_indices(label)
        .find_map(|(at, _)| {
            let rest = text[at + label.len()..].trim_start();
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            rest[..end].parse().ok()
        })
        .unwrap_or(0)
}

#[expect(clippy::disallowed_methods, reason = "xtask is no part of the agent")]
fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

#[cfg(test)]
mod tests {
    use super::number_after;

    #[test]
    fn libfuzzer_s_numbers_are_read() {
        let text = "#2\tINITED cov: 12 ft: 13\n#9\tNEW    cov: 340 ft: 9\n\
                    stat::number_of_executed_units: 1000000\n";
        assert_eq!(number_after(text, " cov: "), 340);
        assert_eq!(number_after(text, "stat::number_of_executed_units:"), 1_000_000);
        assert_eq!(number_after("", " cov: "), 0);
    }
}
