//! What an agent, or whoever would start one, sees beside the host's facts: for
//! `inn doctor`.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use inn_api::{Examination, HostFacts, KvmFacts};
use inn_facts::Root;
use inn_facts::doctor::{DirectorySight, FirewallSight, PortSight, Sight, examine};
use inn_image::kernel::KernelStore;
use inn_net::foreign::Blocker;
use inn_units::Bytes;
use inn_vmm_sim::SimRuntime;
use jiff::Timestamp;
use rustix::fs::{Access, access, statvfs};

use crate::config::{ApiListen, Config};
use crate::error::Chain;
use crate::http::GROUP;
use crate::node::Node;
use crate::paths::Paths;
use crate::runtime::Runtimes;

/// Looks where no agent runs. Makes nothing, and boots nothing.
pub async fn examine_alone(config: &Config) -> Examination {
    let runtimes = Runtimes::new(SimRuntime::default(), &config.fixed);
    let host = inn_facts::collect(&Root::host());
    let port = match config.fixed.api_listen {
        ApiListen::Off => None,
        ApiListen::At { address, .. } => {
            let taken = matches!(TcpListener::bind(address),
                Err(error) if error.kind() == ErrorKind::AddrInUse);
            Some(PortSight { address: address.to_string(), taken: taken && address.port() != 0 })
        }
    };
    let fixed = &config.fixed;
    let kernel = KernelStore::image_here(fixed.kernel_path.as_deref(), &fixed.paths.kernels());
    let kernel = kernel.map_err(|error| Chain(&error).to_string());
    let sight = Sight {
        kernel: Some(kernel.map(|path| path.display().to_string())),
        port,
        ..common(&config.fixed.paths, &runtimes).await
    };
    examine(Timestamp::now(), &host, &sight)
}

pub(crate) async fn examine_node(node: &Node) -> Examination {
    let host = host(node).await;
    let known = node.kernels.default().await;
    let sight = Sight {
        by_agent: true,
        kernel: Some(
            known.map(|path| path.display().to_string()).map_err(|error| Chain(&error).to_string()),
        ),
        port: node
            .listens_at
            .get()
            .map(|address| PortSight { address: address.to_string(), taken: false }),
        firewalls: node.networks.foreign().map(|all| all.iter().map(firewall).collect()),
        ..common(&node.config.paths, &node.runtimes).await
    };
    examine(Timestamp::now(), &host, &sight)
}

/// The host's facts, with what the node has found out by a boot.
pub(crate) async fn host(node: &Node) -> HostFacts {
    let read = tokio::task::spawn_blocking(|| inn_facts::collect(&Root::host()));
    let mut host = read.await.unwrap_or_else(|error| {
        tracing::warn!(%error, "the host's facts were not read");
        HostFacts::default()
    });
    if let Some(verdict) = node.kvm.best().await {
        host.kvm = KvmFacts { probed: Some(verdict.usable), reason: verdict.reason, ..host.kvm };
    }
    host
}

async fn common(paths: &Paths, runtimes: &Runtimes) -> Sight {
    let uid = rustix::process::geteuid();
    Sight {
        is_root: uid.is_root(),
        user: name_of(uid.as_raw()).unwrap_or_default(),
        runtimes: runtimes.standings().await,
        data_dir: Some(directory(&paths.data_dir)),
        has_group: lines_of("/etc/group").iter().any(|line| first_field(line) == GROUP),
        ..Sight::default()
    }
}

fn firewall(blocker: &Blocker) -> FirewallSight {
    let calls = blocker.calls();
    let otherwise = blocker.otherwise();
    let instruction = match calls.is_empty() {
        true => otherwise,
        false => otherwise.map(|otherwise| format!("or {otherwise}")),
    };
    let command = (!calls.is_empty()).then(|| calls.join(" && "));
    FirewallSight { found: blocker.found(), command, instruction }
}

fn directory(path: &Path) -> DirectorySight {
    let mode = std::fs::metadata(path).ok().map(|found| found.permissions().mode() & 0o777);
    // What it would be made in, where it is not there.
    let nearest = path.ancestors().find(|dir| dir.exists()).unwrap_or(path);
    let available = statvfs(nearest).ok();
    DirectorySight {
        path: path.display().to_string(),
        mode,
        writable: access(nearest, Access::WRITE_OK | Access::EXEC_OK).is_ok(),
        available: available.map(|fs| Bytes(fs.f_bavail.saturating_mul(fs.f_frsize))),
    }
}

fn name_of(uid: u32) -> Option<String> {
    let uid = uid.to_string();
    let lines = lines_of("/etc/passwd");
    let line = lines.iter().find(|line| line.split(':').nth(2) == Some(&uid))?;
    Some(first_field(line).to_owned())
}

fn lines_of(path: &str) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn first_field(line: &str) -> &str {
    line.split(':').next().unwrap_or_default()
}
