//! The machine's name: the kernel's, /etc/hostname's and /etc/hosts'.

use std::fs;
use std::path::Path;

use super::etc;
use crate::refusal::{OrRefuse, Refusal};

/// At once and for the next boot.
pub(crate) fn set(name: &str) -> Result<(), Refusal> {
    check(name)?;
    rustix::system::sethostname(name.as_bytes())
        .or_refuse(|| format!("take the hostname {name}"))?;
    write(Path::new("/etc"), name)
}

/// It becomes a line of /etc/hosts; the kernel itself takes anything up to 64
/// bytes (sethostname(2)).
pub(super) fn check(name: &str) -> Result<(), Refusal> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    if name.is_empty() || name.len() > 64 || !name.chars().all(allowed) {
        return Err(Refusal::invalid("take a hostname that is none"));
    }
    Ok(())
}

fn write(dir: &Path, name: &str) -> Result<(), Refusal> {
    let file = dir.join("hostname");
    etc::replace(&file, &format!("{name}\n"), 0o644)
        .or_refuse(|| format!("write {}", file.display()))?;
    let file = dir.join("hosts");
    let before = fs::read_to_string(&file).unwrap_or_default();
    etc::replace(&file, &hosts(&before, name), 0o644)
        .or_refuse(|| format!("write {}", file.display()))
}

/// What /etc/hosts becomes: the line of 127.0.1.1, which is the name's own
/// (hosts(5) as Debian uses it), is replaced, all else stays. A file that
/// knows the name stays as it is.
pub(super) fn hosts(before: &str, name: &str) -> String {
    if before.trim().is_empty() {
        return format!(
            "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\t{name}\n"
        );
    }
    if knows(before, name) {
        return before.to_owned();
    }
    let mut after: String = before
        .lines()
        .filter(|line| line.split_ascii_whitespace().next() != Some("127.0.1.1"))
        .flat_map(|line| [line, "\n"])
        .collect();
    after.push_str(&format!("127.0.1.1\t{name}\n"));
    after
}

fn knows(hosts: &str, name: &str) -> bool {
    let lines = hosts.lines().map(|line| line.split('#').next().unwrap_or_default());
    lines.flat_map(|line| line.split_ascii_whitespace().skip(1)).any(|word| word == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_keep_what_is_not_ours() {
        let before = "127.0.0.1 localhost\n127.0.1.1\told # installer\n10.0.0.1 db\n";
        let after = "127.0.0.1 localhost\n10.0.0.1 db\n127.0.1.1\tnew\n";
        assert_eq!(hosts(before, "new"), after);
        assert_eq!(hosts(after, "new"), after);
        assert!(hosts("", "new").ends_with("127.0.1.1\tnew\n"));
        assert!(hosts("# new\n", "new").ends_with("127.0.1.1\tnew\n"));
    }

    #[test]
    fn both_files_are_written() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("hosts"), "127.0.0.1 localhost\n").unwrap();
        write(dir.path(), "web-1").unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("hostname")).unwrap(), "web-1\n");
        let hosts = fs::read_to_string(dir.path().join("hosts")).unwrap();
        assert_eq!(hosts, "127.0.0.1 localhost\n127.0.1.1\tweb-1\n");
    }

    #[test]
    fn hostnames_are_checked() {
        assert!(check("web-1.example").is_ok());
        assert!(check("").is_err());
        assert!(check("a b").is_err());
        assert!(check(&"x".repeat(65)).is_err());
    }
}
