//! Holds the order of the crates: arrows point down only, and the pure crates
//! stay pure.
//!
//! Three checks. A crate of ours depends only on crates of a lower layer, and
//! where [`LAYERS`] gives it a list, only on those. A pure crate depends on no
//! crate that is not in [`PURE_MAY_USE`]. No source file of a pure crate names
//! a file, a socket, a process, a thread or a clock of the standard library.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use serde::Deserialize;

use crate::workspace::{cargo, root, rust_files};

/// `(crate, layer, the only crates of ours it may use)`. A crate may use those
/// of lower layers; the list narrows that where the design says so.
const LAYERS: &[(&str, u8, Option<&[&str]>)] = &[
    ("inn-units", 0, None),
    ("inn-fail-point", 0, None),
    ("inn-guest-proto", 1, None),
    ("inn-cloud-init", 1, Some(&["inn-units"])),
    ("inn-netlink", 0, None),
    ("inn-trace", 0, None),
    // Knows spans, and nothing of VMs.
    ("inn-otlp", 1, Some(&["inn-trace"])),
    ("inn-domain", 1, None),
    ("inn-meter", 1, Some(&["inn-units"])),
    ("inn-api", 1, None),
    ("inn-host", 1, None),
    // The store's tests put it below SQLite.
    ("inn-store-faults", 1, Some(&[])),
    // The binary inside VMs and the client build without the rest.
    ("inn-guest", 2, Some(&["inn-units", "inn-guest-proto", "inn-netlink"])),
    ("inn-client", 2, Some(&["inn-units", "inn-api"])),
    // What a host is, in the API's own types; the CLI looks without an agent.
    ("inn-facts", 2, Some(&["inn-units", "inn-api", "inn-host"])),
    // How fast a host's disk is; knows no VM.
    ("inn-measure", 2, Some(&["inn-units"])),
    // Knows the wire, and nothing of disks.
    ("inn-registry", 2, Some(&["inn-units", "inn-host"])),
    // The host's network; knows no VMM and no store.
    ("inn-net", 2, Some(&["inn-units", "inn-domain", "inn-host", "inn-netlink", "inn-fail-point"])),
    ("inn-vmm", 2, Some(&["inn-units", "inn-host"])),
    ("inn-image", 2, Some(&["inn-units", "inn-host", "inn-fail-point"])),
    ("inn-guest-session", 2, Some(&["inn-units", "inn-guest-proto"])),
    ("inn-store", 2, Some(&["inn-units", "inn-domain", "inn-fail-point", "inn-store-faults"])),
    ("inn-vmm-firecracker", 3, None),
    ("inn-vmm-krun", 3, None),
    ("inn-vmm-qemu", 3, None),
    ("inn-vmm-sim", 3, None),
    // What libvirt starts is a QEMU, whose kernels are told the same.
    ("inn-vmm-libvirt", 4, None),
    ("inn-node", 5, None),
    ("inn", 6, None),
    // Chores and black-box tests stand outside; nothing may use them.
    ("xtask", 7, None),
    ("inn-bench", 7, None),
    ("inn-tests", 7, None),
];

const PURE: [&str; 5] =
    ["inn-units", "inn-domain", "inn-guest-proto", "inn-cloud-init", "inn-meter"];

/// Crates from outside that do no I/O and read no clock.
const PURE_MAY_USE: [&str; 12] = [
    "base64",
    "bytes",
    "insta",
    "ipnet",
    "proptest",
    "prost",
    "saphyr-parser",
    "serde",
    "serde_json",
    "sha2",
    "thiserror",
    "twox-hash",
];

const IMPURE_PATHS: [&str; 9] = [
    "std::fs",
    "std::net",
    "std::os",
    "std::process",
    "std::thread",
    "std::env::",
    "Instant",
    "SystemTime",
    "tokio",
];

pub(crate) fn check() -> anyhow::Result<()> {
    let metadata: Metadata =
        serde_json::from_slice(&cargo(&["metadata", "--format-version", "1", "--no-deps"])?)
            .context("cargo metadata printed something else")?;
    let mut problems = arrows(&metadata.packages);
    problems.extend(impure_dependencies(&metadata.packages));
    for package in metadata.packages.iter().filter(|p| PURE.contains(&p.name.as_str())) {
        let src = package.manifest_path.parent().context("a manifest without a folder")?;
        for file in rust_files(&src.join("src"))? {
            let text = std::fs::read_to_string(&file)
                .with_context(|| format!("cannot read {}", file.display()))?;
            let shown = file.strip_prefix(root()).unwrap_or(&file).display().to_string();
            if !shown.ends_with("tests.rs") && !shown.contains("/tests/") {
                problems.extend(impure_lines(&shown, &text));
            }
        }
    }
    if problems.is_empty() {
        return Ok(());
    }
    bail!("{}", problems.join("\n"));
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: std::path::PathBuf,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
}

fn arrows(packages: &[Package]) -> Vec<String> {
    let layers: BTreeMap<&str, _> =
        LAYERS.iter().map(|(name, n, only)| (*name, (*n, *only))).collect();
    let ours: Vec<&str> = packages.iter().map(|p| p.name.as_str()).collect();
    let mut problems = Vec::new();
    for package in packages {
        let name = package.name.as_str();
        let Some((layer, only)) = layers.get(name) else {
            problems.push(format!("{name} has no layer: give it one in xtask/src/layers.rs"));
            continue;
        };
        for used in package.dependencies.iter().map(|d| d.name.as_str()) {
            if !ours.contains(&used) || used == name {
                continue;
            }
            let below = layers.get(used).is_some_and(|(n, _)| n < layer);
            if !below || only.is_some_and(|only| !only.contains(&used)) {
                problems.push(format!("{name} must not depend on {used}: arrows point down only"));
            }
        }
    }
    problems
}

fn impure_dependencies(packages: &[Package]) -> Vec<String> {
    let mut problems = Vec::new();
    for package in packages.iter().filter(|p| PURE.contains(&p.name.as_str())) {
        for used in &package.dependencies {
            let ours = used.name.starts_with("inn-");
            if !ours && !PURE_MAY_USE.contains(&used.name.as_str()) {
                problems.push(format!(
                    "{} is pure and must not depend on {}; a crate without I/O and clocks goes into PURE_MAY_USE of xtask/src/layers.rs",
                    package.name, used.name
                ));
            }
        }
    }
    problems
}

/// Lines that name I/O or a clock, outside comments and inline tests.
fn impure_lines(file: &str, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let mut lines = text.lines().enumerate().peekable();
    while let Some((number, line)) = lines.next() {
        let code = line.split("//").next().unwrap_or_default();
        if code.trim() == "#[cfg(test)]"
            && lines.peek().is_some_and(|(_, next)| next.trim_end().ends_with('{'))
        {
            break;
        }
        if let Some(path) = IMPURE_PATHS.iter().find(|p| names(code, p)) {
            problems.push(format!("{file}:{}: {path} in a pure crate", number + 1));
        }
    }
    problems
}

/// Whether `code` has `path` as a whole word.
fn names(code: &str, path: &str) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(path).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + path.len()..].chars().next();
        !before.is_some_and(word) && (path.ends_with(':') || !after.is_some_and(word))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, uses: &[&str]) -> Package {
        let dependencies = uses.iter().map(|u| Dependency { name: (*u).into() }).collect();
        Package { name: name.into(), manifest_path: "Cargo.toml".into(), dependencies }
    }

    #[test]
    fn an_arrow_up_or_sideways_is_found() {
        let packages = [
            package("inn-units", &["inn-api"]),
            package("inn-api", &["inn-units", "inn-host"]),
            package("inn-host", &[]),
        ];
        let found = arrows(&packages);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("inn-units must not depend on inn-api"));
        assert!(found[1].contains("inn-api must not depend on inn-host"));
    }

    #[test]
    fn a_narrowed_crate_keeps_to_its_list() {
        let packages = [package("inn-guest", &["inn-api"]), package("inn-api", &[])];
        assert_eq!(arrows(&packages).len(), 1);
    }

    #[test]
    fn an_unknown_crate_asks_for_its_layer() {
        assert!(arrows(&[package("inn-new", &[])])[0].contains("has no layer"));
    }

    #[test]
    fn a_pure_crate_takes_no_runtime() {
        let found = impure_dependencies(&[package("inn-domain", &["serde", "tokio", "inn-units"])]);
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("must not depend on tokio"));
        assert!(impure_dependencies(&[package("inn-node", &["tokio"])]).is_empty());
    }

    #[test]
    fn io_and_clocks_in_a_pure_file_are_found() {
        let found = impure_lines("a.rs", "use std::fs;\nlet now = Instant::now();\n");
        assert_eq!(found, ["a.rs:1: std::fs in a pure crate", "a.rs:2: Instant in a pure crate"]);
    }

    #[test]
    fn comments_words_and_inline_tests_are_not() {
        let text =
            "// an Instant\nstruct InstantNoodles;\n#[cfg(test)]\nmod tests {\n use std::fs;\n}\n";
        assert!(impure_lines("a.rs", text).is_empty());
    }
}
