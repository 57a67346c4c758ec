//! What every source file holds to: a length that can be read in one sitting,
//! names that say what a thing is, and in the guest agent an operating system
//! that stays in its own module.

use std::path::Path;

use anyhow::{Context, bail};

use crate::workspace::{root, rust_files};

const MAX_LINES: usize = 800;

/// Words that fit any type and so name none.
const EMPTY_WORDS: [&str; 4] = ["Manager", "Util", "Helper", "Service"];

/// Where the guest agent may know its operating system, and what nobody else
/// in it names: a port to another system is an addition there, and no hunt.
const GUEST: &str = "crates/guest/src";
const GUEST_OS: &str = "crates/guest/src/os";
const OF_AN_OS: [&str; 7] = [
    "rustix::",
    "libc::",
    "std::os::",
    "cfg(target_os",
    "cfg(unix",
    "cfg(windows",
    "cfg(not(windows",
];

pub(crate) fn check() -> anyhow::Result<()> {
    let root = root();
    let mut problems = Vec::new();
    for file in rust_files(&root)? {
        let text = std::fs::read_to_string(&file)
            .with_context(|| format!("cannot read {}", file.display()))?;
        problems.extend(problems_of(file.strip_prefix(&root).unwrap_or(&file), &text));
    }
    if problems.is_empty() {
        return Ok(());
    }
    bail!("{}", problems.join("\n"));
}

fn problems_of(file: &Path, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let lines = text.lines().count();
    if lines > MAX_LINES && !text.lines().next().is_some_and(|first| first.contains("@generated")) {
        problems.push(format!("{}: {lines} lines, split it (limit {MAX_LINES})", file.display()));
    }
    for (number, line) in text.lines().enumerate() {
        if let Some(name) = declared_type(line)
            && let Some(word) = EMPTY_WORDS.iter().find(|w| name.contains(*w))
        {
            let at = number + 1;
            problems.push(format!("{}:{at}: {name}: {word} says nothing", file.display()));
        }
        if file.starts_with(GUEST)
            && !file.starts_with(GUEST_OS)
            && let Some(word) = OF_AN_OS.iter().find(|word| line.contains(*word))
        {
            let at = number + 1;
            problems.push(format!("{}:{at}: {word} belongs into {GUEST_OS}", file.display()));
        }
    }
    problems
}

/// The name that a line declares a type by, if it does.
fn declared_type(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace().skip_while(|w| w.starts_with("pub"));
    if !matches!(words.next()?, "struct" | "enum" | "trait" | "type") {
        return None;
    }
    words.next()?.split(|c: char| !c.is_alphanumeric() && c != '_').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_files_are_found_unless_generated() {
        let long = "x\n".repeat(MAX_LINES + 1);
        assert_eq!(problems_of(Path::new("a.rs"), &long).len(), 1);
        assert!(problems_of(Path::new("a.rs"), &"x\n".repeat(MAX_LINES)).is_empty());
        assert!(problems_of(Path::new("a.rs"), &format!("// @generated\n{long}")).is_empty());
    }

    #[test]
    fn the_guest_s_system_stays_in_its_module() {
        let line = "use rustix::fs::stat;\n";
        let of = |path| problems_of(Path::new(path), line).len();
        assert_eq!(of("crates/guest/src/files/meta.rs"), 1);
        assert_eq!(of("crates/guest/src/os/linux/file.rs"), 0);
        assert_eq!(of("crates/host/src/lock.rs"), 0);
    }

    #[test]
    fn empty_names_are_found_where_they_are_declared() {
        let found = problems_of(Path::new("a.rs"), "pub(crate) struct VmManager<T> {\n");
        assert_eq!(found, ["a.rs:1: VmManager: Manager says nothing"]);
        assert!(problems_of(Path::new("a.rs"), "let x = NetworkManager::new();\n").is_empty());
        assert!(problems_of(Path::new("a.rs"), "pub struct Vm {\n").is_empty());
    }
}
