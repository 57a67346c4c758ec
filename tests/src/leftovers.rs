//! What must not be there when a host is gone, looked for where the kernel
//! keeps it.

use std::path::{Path, PathBuf};

/// A process as /proc shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub pid: u32,
    pub cmdline: String,
}

/// Every process whose command line or environment names `dir`, but us.
pub fn processes_of(dir: &Path) -> Vec<Process> {
    let needle = dir.as_os_str().as_encoded_bytes();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        if pid == std::process::id() {
            continue;
        }
        // Either may vanish while we look: then the process has ended.
        let cmdline = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let environ = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        let names = |bytes: &[u8]| bytes.windows(needle.len()).any(|w| w == needle);
        if names(&cmdline) || names(&environ) {
            let cmdline = String::from_utf8_lossy(&cmdline).replace('\0', " ");
            found.push(Process { pid, cmdline });
        }
    }
    found
}

/// QEMU processes of this host.
pub fn machines_of(dir: &Path) -> Vec<Process> {
    let mut all = processes_of(dir);
    all.retain(|p| p.cmdline.split(' ').next().is_some_and(|argv0| argv0.contains("qemu-system")));
    all
}

/// Mount points below `dir`, and loop devices whose file is there.
pub fn mounts_of(dir: &Path) -> Vec<String> {
    let dir = dir.to_string_lossy();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut found: Vec<String> =
        mounts.lines().filter(|l| l.contains(&*dir)).map(str::to_owned).collect();
    for entry in std::fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        let backing = entry.path().join("loop/backing_file");
        if let Ok(file) = std::fs::read_to_string(backing)
            && file.contains(&*dir)
        {
            found.push(format!("{}: {file}", entry.file_name().to_string_lossy()));
        }
    }
    found
}

/// Sockets bound below `dir`.
pub fn sockets_of(dir: &Path) -> Vec<String> {
    let dir = dir.to_string_lossy();
    let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
    let paths = sockets.lines().filter_map(|l| l.split_whitespace().nth(7));
    paths.filter(|p| p.contains(&*dir)).map(str::to_owned).collect()
}

/// Everything below `dir`, relative to it, directories themselves left out.
pub fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![dir.to_owned()];
    while let Some(next) = pending.pop() {
        let Ok(entries) = std::fs::read_dir(&next) else { continue };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                pending.push(entry.path());
            } else {
                found.push(entry.path().strip_prefix(dir).unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

/// Entries of `dir`; none when it is not there.
pub fn entries_of(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
}
