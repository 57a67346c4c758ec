//! The agent's own place: its directory, its port, who may use its socket.

use inn_api::{Finding, Fix, HostFacts};
use inn_units::Bytes;

use super::remedy::Remedy;
use super::{Sight, degraded, missing, ok};

/// Below this not even a small image can be unpacked.
const LEAST_DISK: Bytes = Bytes::gib(1);
/// Below this a handful of images fill it.
const LITTLE_DISK: Bytes = Bytes::gib(10);

/// The agent's data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectorySight {
    pub path: String,
    /// Its mode's last nine bits; `None` where it is not there.
    pub mode: Option<u32>,
    pub writable: bool,
    /// Of the file system that it is, or would be, on.
    pub available: Option<Bytes>,
}

/// Where the API would listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSight {
    pub address: String,
    /// Somebody who is no agent of ours listens there.
    pub taken: bool,
}

pub(super) fn check(_facts: &HostFacts, sight: &Sight, findings: &mut Vec<Finding>) {
    if let Some(dir) = &sight.data_dir {
        findings.push(Finding { needed: true, ..directory(dir, sight) });
        findings.extend(disk(dir).map(|finding| Finding { needed: true, ..finding }));
    }
    findings.extend(sight.port.as_ref().map(port));
    if sight.is_root {
        findings.push(group(sight));
    }
}

fn directory(dir: &DirectorySight, sight: &Sight) -> Finding {
    let path = &dir.path;
    let Some(mode) = dir.mode else {
        let fix = Some(Fix::MakeDirectory { path: path.clone() });
        let found = format!("{path} is not there");
        let finding = match dir.writable {
            // The first agent's start does the same.
            true => ok("data-directory", format!("{path} is made by the first agent")),
            false => missing("data-directory", found, "no agent can start"),
        };
        return match dir.writable {
            true => Finding { fix, ..finding },
            false => Remedy::command(format!("sudo install -d -m 0700 -o {} {path}", whose(sight)))
                .of(finding),
        };
    };
    if !dir.writable {
        let found = format!("{path} cannot be written to");
        let finding = missing("data-directory", found, "no agent of this user can start");
        let command = match sight.is_root {
            // It lacks no right: what it cannot write to is mounted so.
            true => format!("mount -o remount,rw \"$(findmnt -no TARGET -T {path})\""),
            false => format!("sudo chown -R {} {path}", whose(sight)),
        };
        return Remedy::command(command).of(finding);
    }
    if mode & 0o007 != 0 {
        let found = format!("{path} is open to everybody (mode {mode:04o})");
        let finding = degraded("data-directory", found, "others can read VMs' disks and logs");
        let fix = Some(Fix::CloseDirectory { path: path.clone() });
        let remedy = Remedy::command(format!("chmod o-rwx {path}"));
        return Finding { fix, ..remedy.of(finding) };
    }
    ok("data-directory", format!("{path}, mode {mode:04o}"))
}

/// The user that the agent is, for a shell.
pub(super) fn whose(sight: &Sight) -> &str {
    if sight.user.is_empty() { "$USER" } else { &sight.user }
}

fn disk(dir: &DirectorySight) -> Option<Finding> {
    let available = dir.available?;
    let found = format!("{available} are available at {}", dir.path);
    Some(if available < LEAST_DISK {
        let more = "or give the data directory a larger disk: INN_DATA_DIR names another place";
        Remedy::command("inn image gc").then(more).of(missing("disk", found, "no image or VM fits"))
    } else if available < LITTLE_DISK {
        // Images and VMs do fit: whoever runs few of them needs no more.
        ok("disk", format!("{found}, which few images fill"))
    } else {
        ok("disk", found)
    })
}

fn port(port: &PortSight) -> Finding {
    let PortSight { address, taken } = port;
    if !taken {
        return ok("api-port", format!("{address} is the agent's, or free"));
    }
    let found = format!("{address} is taken by another program");
    let consequence =
        "the API is on its unix socket alone, and an agent that is to have the port fails";
    let number = address.rsplit(':').next().unwrap_or_default();
    Remedy::command(format!("ss -ltnp 'sport = :{number}'"))
        .then("end the program that it names, or give the agent another port by INN_API_LISTEN")
        .of(degraded("api-port", found, consequence))
}

fn group(sight: &Sight) -> Finding {
    if sight.has_group {
        return ok("group", "members of the group innkeeper may use the socket");
    }
    let finding =
        degraded("group", "there is no group innkeeper", "root alone may use the agent's socket");
    let fix = Some(Fix::MakeGroup { name: "innkeeper".to_owned() });
    Finding { fix, ..Remedy::command("groupadd --system innkeeper").of(finding) }
}
