use inn_api::Tool;
use inn_host::process::{Program, find_program};

use crate::Root;

/// Looked at beside the programs that Innkeeper calls.
const OTHERS: [&str; 6] = ["firecracker", "jailer", "libvirtd", "nft", "wg", "nvidia-smi"];

/// Where a tree has programs.
const DIRS: [&str; 4] = ["/usr/local/bin", "/usr/local/sbin", "/usr/bin", "/usr/sbin"];

pub(super) fn tools(root: &Root) -> Vec<Tool> {
    let ours = Program::ALL.iter().map(|program| program.name());
    ours.chain(OTHERS).map(|name| Tool { name: name.to_owned(), path: find(root, name) }).collect()
}

fn find(root: &Root, name: &str) -> Option<String> {
    if root.is_live() {
        return find_program(name).map(|path| path.display().to_string());
    }
    DIRS.iter().map(|dir| format!("{dir}/{name}")).find(|path| root.exists(path))
}
