use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use inn_domain::RuntimeChoice;
use inn_units::VmId;
use inn_vmm::Runtime;

use crate::error::Chain;
use crate::node::Node;
use crate::paths::Paths;

/// Ends the machines of VMs that are in no record: those whose sockets lie in
/// this agent's runtime directory, and no other agent's.
pub(super) async fn reap_machines(node: &Node, known: &HashSet<VmId>) {
    let runs = node.config.paths.runs();
    let orphans: Vec<VmId> = match fs::read_dir(&runs) {
        Ok(entries) => entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|id| !known.contains(id))
            .collect(),
        Err(error) => return tracing::warn!(dir = %runs.display(), %error, "cannot be read"),
    };
    if orphans.is_empty() {
        return;
    }
    let runtime = match node.runtimes.choose(RuntimeChoice::Auto).await {
        Ok(runtime) => runtime,
        Err(error) => return tracing::warn!(error = %Chain(&error), "no machine can be reaped"),
    };
    for id in orphans {
        tracing::warn!(vm = %id, "reaps a machine that is nobody's");
        let run_dir = node.config.paths.of_vm(id).run_dir;
        if let Err(error) = runtime.reap(id, None, &run_dir).await {
            tracing::error!(vm = %id, %error, "it may live on");
        }
    }
}

/// Removes the files of VMs that are in no record, and disks at /persist that
/// were never completed. Persist disks themselves outlive their VMs.
pub(super) fn reap_files(paths: &Paths, known: &HashSet<VmId>) {
    for dir in [paths.vms(), paths.runs()] {
        reap(&dir, |name| match name.parse::<VmId>() {
            Ok(id) => !known.contains(&id),
            // Not of our making.
            Err(_) => false,
        });
    }
    reap(&paths.persist(), |name| name.starts_with('.') && name.ends_with(".new"));
}

/// Removes what imports that died have taken in and no image has come of. In
/// the background: nobody waits for it.
pub(super) fn sweep_images(node: &Arc<Node>) {
    let sweeping = Arc::clone(node);
    node.tasks.spawn(async move {
        if let Err(error) = sweeping.images.sweep(sweeping.vms.images_in_use()).await {
            tracing::warn!(error = %Chain(&error), "the image cache is not swept");
        }
    });
}

fn reap(dir: &Path, is_orphan: impl Fn(&str) -> bool) {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) => {
            tracing::warn!(dir = %dir.display(), %error, "cannot be looked through");
            return;
        }
    };
    for entry in entries.flatten() {
        if !entry.file_name().to_str().is_some_and(&is_orphan) {
            continue;
        }
        let path = entry.path();
        tracing::info!(path = %path.display(), "reaps what is nobody's");
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let removed: io::Result<()> =
            if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        if let Err(error) = removed {
            tracing::warn!(path = %path.display(), %error, "cannot be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paths::Places;

    #[test]
    fn files_without_a_record_go_and_strange_ones_stay() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places {
            data_dir: Some(dir.path().join("data")),
            runtime_dir: Some(dir.path().join("run")),
            ..Places::default()
        };
        let paths = Paths::find(places, &|_| None).unwrap();
        super::super::make_directories(&paths).unwrap();
        let (known, orphan) = ("0101010101", "0202020202");
        for name in [known, orphan, "not-an-id"] {
            fs::create_dir_all(paths.vms().join(name).join("logs")).unwrap();
            fs::create_dir_all(paths.runs().join(name)).unwrap();
        }
        for name in ["web.img", ".0303030303.new"] {
            fs::write(paths.persist().join(name), "x").unwrap();
        }
        let records = HashSet::from([known.parse().unwrap()]);
        reap_files(&paths, &records);
        for (dir, name, stays) in [
            (paths.vms(), known, true),
            (paths.vms(), orphan, false),
            (paths.vms(), "not-an-id", true),
            (paths.runs(), orphan, false),
            (paths.persist(), "web.img", true),
            (paths.persist(), ".0303030303.new", false),
        ] {
            assert_eq!(dir.join(name).exists(), stays, "{name}");
        }
    }
}
