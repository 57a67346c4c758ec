//! Builds for release and measures: see the crate in bench/.

use anyhow::Context;

use crate::workspace::{cargo, run_program, target_dir};

/// `args` are inn-bench's own: `--help` shows them.
pub(crate) fn run(args: &[String]) -> anyhow::Result<()> {
    if args.iter().any(|arg| arg == "--help" || arg == "-h") {
        let help = cargo(&["run", "--quiet", "--package", "inn-bench", "--", "--help"])?;
        print!("{}", String::from_utf8_lossy(&help));
        return Ok(());
    }
    // The whole workspace, since a single package would be built with other
    // features and so from the beginning.
    cargo(&["build", "--release", "--workspace"])?;
    let target = target_dir()?.join("release");
    let inn = target.join("inn");
    let mut all = vec!["--inn", inn.to_str().context("the target directory's name is no UTF-8")?];
    all.extend(args.iter().map(String::as_str));
    let table = run_program(&target.join("inn-bench"), &all)?;
    print!("{}", String::from_utf8_lossy(&table));
    Ok(())
}
