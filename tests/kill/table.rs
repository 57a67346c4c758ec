//! docs/kill-matrix.md: written by the runner, and compared by it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::case::Verdict;
use crate::scenarios::Case;

const HEAD: &str = "\
# The kill matrix

Made by `cargo test --workspace --test kill -- [--all] --write`; not edited by hand.

For each row an agent is made to kill itself (SIGKILL) at that point of that operation, another one is started on its directories, and this is looked for:

- **lost**: a VM that was answered for and is not there, or one that nobody touched and that has another machine than before;
- **orphans**: processes, sockets, mounts, files, leases, cgroups and network interfaces that belong to no VM and no image, right after the restart, after the operation was asked for once more, and after everything was deleted;
- **before and after**: processes, files, sockets, mounts, control groups, network interfaces, elements of the packet filter (`nft list ruleset`, where that can be read: a run that cannot says so), leases, and what the node has reserved (`GET /api/node`) are listed before the first VM is made and after the last is deleted, and have to be the same;
- **comes to**: what the operation has come to after the restart, which is what is desired; then it is asked for again, as a client does that got no answer, and has to succeed.

Beside the VM that it is about, each host has one that runs all the time. The rows of `adoption` and of the agent's second start begin with ruins: a machine that an agent started and died before it recorded, a lease that nobody ended, a machine that ended (or hangs) while no agent ran, directories and half a disk of nobody's. A simulated machine (`sim`) is a file in the run directory that outlives the agent as a process would; it shows what the agent makes of its records, and the rows with `qemu`, `firecracker`, `krun` and `libvirt` what becomes of processes. The time runs from the start of the next agent until all of it is as it shall be, with a debug build, beside other tests, without KVM; `not measured` has a case that no run which wrote this table has had, so its row says what it has to come to and not what was seen.

| Operation | Point | Done | Next | With | Lost | Orphans | Comes to | Converges within |
|---|---|---|---|---|---|---|---|---|
";

/// Of a case that no run which wrote the table has had.
const UNMEASURED: &str = "not measured";

pub(crate) fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("docs/kill-matrix.md")
}

/// A row without its last column, by which the time is not compared.
fn row(case: &Case) -> String {
    let (point, after) = (case.point, case.after.words());
    format!(
        "| {} | `{point}` | {} | {} | {} | none | none | {after} |",
        case.deed.name(),
        point.done(),
        point.next(),
        case.runtime.name(),
    )
}

fn class(converged: Duration) -> &'static str {
    match converged.as_secs() {
        0 => "1 s",
        1..=2 => "3 s",
        3..=9 => "10 s",
        10..=29 => "30 s",
        _ => "2 min",
    }
}

/// What is there, by the row without its time.
fn read() -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(path()).unwrap_or_default();
    let rows = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| Op"));
    rows.filter_map(|line| {
        let end = line.trim_end_matches(" |").rfind(" | ")?;
        Some((format!("{} |", &line[..end]), line[end + 3..].trim_end_matches(" |").to_owned()))
    })
    .collect()
}

/// Writes the table: times that were measured now, and those of before for
/// cases that were not run.
pub(crate) fn write(all: &[Case], verdicts: &[(Case, Verdict)]) -> Result<(), String> {
    let known = read();
    let mut text = HEAD.to_owned();
    for case in all {
        let row = row(case);
        let measured = verdicts.iter().find(|(run, _)| run == case);
        let time = match (measured, known.get(&row)) {
            (Some((_, verdict)), _) => class(verdict.converged).to_owned(),
            (None, Some(time)) => time.clone(),
            (None, None) => UNMEASURED.to_owned(),
        };
        let _ = writeln!(text, "{row} {time} |");
    }
    std::fs::write(path(), text).map_err(|error| format!("{}: {error}", path().display()))
}

/// Every case has its row, and every row its case.
pub(crate) fn check(all: &[Case]) -> Result<(), String> {
    let known = read();
    let rows: Vec<String> = all.iter().map(row).collect();
    let missing =
        rows.iter().filter(|row| !known.contains_key(*row)).map(|row| format!("  missing: {row}"));
    let strange =
        known.keys().filter(|row| !rows.contains(row)).map(|row| format!("  too many: {row}"));
    let wrong: Vec<String> = missing.chain(strange).collect();
    if wrong.is_empty() {
        return Ok(());
    }
    let how = "cargo test --workspace --test kill -- --all --write";
    Err(format!("{} is not what the registry says; {how}\n{}", path().display(), wrong.join("\n")))
}
